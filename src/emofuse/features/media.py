"""Reading and writing clips: decoding with PyAV, encoding with ffmpeg through ffmpeg-python."""

from __future__ import annotations

import io
import math
import mmap
import shutil
import tempfile
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from emofuse.features import formats, levels
from emofuse.features.broken import BrokenClip as BrokenClip

# Seconds by which the stated duration may be shorter than the packets, of which the last may be padded.
ROUNDING = 0.25
# Seconds by which a file may be shorter than it states, through rounding, although it is shorter in bytes, too.
CUT_ROUNDING = 0.05
# Maximum difference in seconds between a sound track's timestamps and its samples: a tenth of a segment.
DRIFT = 0.1
# Seconds by which the times of successive frames of sound may be imprecise.
JITTER = 0.01
# Seconds on both sides of a span of sound that are resampled with it and then removed: the filter needs context.
EDGE = 0.05
# Power of the mean of channels, relative to that of the mean of independent ones, below which they cancel each other; and
# of how many samples one is looked at.
CANCELLED = 0.25
SPARSE = 7
# Seconds of sound whose level is measured at a time.
TILE = 10.0
# Seconds of video at its start and end that may be impossible to decode.
LOST = 0.5
# Sides of pixels differ by at most this factor; beyond it, or below a hundredth, the stated ratio is wrong or irrelevant.
STRETCHED = 4.0
SQUARE = 0.01
# Transfer characteristics of HDR video (PQ and HLG), which would look pale without conversion, and that of BT.709.
HDR, SDR = (16, 18), 1

# Pixel formats that can be cropped plane by plane; frames in others, which are rare, are converted as a whole.
PLANAR = ("yuv420p", "yuvj420p")


@dataclass(frozen=True)
class Streams:
    """The content of a clip. `duration`, in seconds, is from its first frame to the end of its longest stream.

    `missing` says why there is no "video" or no "audio" that can be decoded.
    """

    duration: float
    missing: Mapping[str, str]

    @property
    def video(self) -> bool:
        return "video" not in self.missing

    @property
    def audio(self) -> bool:
        return "audio" not in self.missing


@contextmanager
def _content(source: bytes | Path) -> Iterator[bytes | mmap.mmap]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        with source.open("rb") as stream:
            # Some network file systems cannot share maps of memory.
            mapped = mmap.mmap(stream.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    except OSError as error:
        raise BrokenClip(f"cannot be read: {error.strerror}") from None
    with mapped as data:
        yield data


@contextmanager
def _opened(source: bytes | Path) -> Iterator[av.container.InputContainer]:
    if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
        raise BrokenClip("empty file")
    file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    only = {
        "format_whitelist": formats.CONTAINERS,
        "codec_whitelist": ",".join(sorted(formats.CODECS)),
        "protocol_whitelist": "file",
    }
    try:
        with av.open(file, "r", metadata_errors="ignore", container_options=only) as container:
            yield container
    except (av.error.FFmpegError, ValueError, IndexError) as error:  # IndexError if a track appears late
        if isinstance(error, av.error.EOFError) or _lacks_header(source):
            raise BrokenClip("truncated: its header is missing") from None  # the header may be at the end of an mp4
        raise BrokenClip(_cannot(error)) from None


def _lacks_header(source: bytes | Path) -> bool:
    """Whether it is an mp4 file without its header (the moov box), or any file that is shorter than it states."""
    with _content(source) as data:
        return (data[4:8] == b"ftyp" and data.find(b"moov") < 0) or formats.stated_size(data) > len(data)


def _cannot(error: Exception) -> str:
    if isinstance(error, av.error.ArgumentError):  # also for containers that are not whitelisted
        return f"cannot be decoded: it is damaged, or in none of the formats that are read ({formats.CONTAINER_NAMES})"
    return f"cannot be decoded: {getattr(error, 'strerror', None) or error}"


def _picture(container: av.container.InputContainer) -> av.VideoStream:
    """The video track: the first that can be decoded. Cover art does not count. Raises `BrokenClip` if there is none."""
    return _decodable("video", [t for t in container.streams.video if not t.disposition & Disposition.attached_pic])


def _sound(container: av.container.InputContainer) -> av.AudioStream:
    """The sound track: the first that can be decoded. Raises `BrokenClip` if there is none."""
    return _decodable("sound", container.streams.audio)


T = TypeVar("T", bound=av.stream.Stream)


def _decodable(kind: str, tracks: Sequence[T]) -> T:
    codecs = [track.codec_context.codec if track.codec_context else None for track in tracks]
    for track, codec in zip(tracks, codecs, strict=True):
        if codec and codec.name in formats.CODECS:
            return track
    if not tracks:
        raise BrokenClip(f"no {kind} track")
    names = sorted({codec.canonical_name if codec else "unknown" for codec in codecs})
    raise BrokenClip(
        f"cannot be decoded: the codec of its {kind} is {' and '.join(names)}, which is not read;"
        " convert it to H.264 and AAC, for instance with ffmpeg"
    )


def _zero(container: av.container.InputContainer) -> float | None:
    """The timestamp in seconds of time 0, that of the first frame; None in a clip without video."""
    with suppress(BrokenClip):
        picture = _picture(container)
        return _seconds(picture.start_time, picture)
    return None


def _seconds(ticks: int | None, stream: av.stream.Stream) -> float:
    """A timestamp of a stream in seconds; 0 if the file does not state it."""
    return float(ticks * stream.time_base) if ticks and stream.time_base else 0.0


def probe(source: bytes | Path) -> Streams:
    """Inspect a clip, given as bytes or as a file, without decoding it.

    The duration is that of what plays; what the container states may be wrong. Raises `BrokenClip` if the clip cannot
    be opened, or if it is truncated: if it ends before its stated duration, and is shorter in bytes, too, than the
    container's index or lengths say.
    """
    with _opened(source) as container:
        tracks: list[av.VideoStream | av.AudioStream] = []
        missing = {}
        for kind, find in (("video", _picture), ("audio", _sound)):
            try:
                tracks.append(find(container))
            except BrokenClip as reason:
                missing[kind] = str(reason)
        ends = {track.index: 0 for track in tracks}  # in units of the track's time base
        for packet in container.demux(tracks) if tracks else ():
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None and not packet.is_discard:
                index = packet.stream.index
                ends[index] = max(ends[index], time + (packet.duration or 0))
        start = _seconds(tracks[0].start_time, tracks[0]) if tracks else 0.0
        end = max((_seconds(ends[track.index], track) for track in tracks), default=0.0)
        stated = (container.duration or 0) / av.time_base
        lacking = [
            (actual, stated_end)
            for actual, stated_end in _stated_and_actual(source, container, ends, stated, end)
            if actual < stated_end - CUT_ROUNDING
        ]
        if lacking:
            actual, stated_end = max(lacking, key=lambda pair: pair[1])
            raise BrokenClip(f"truncated: {actual:.1f} of {stated_end:.1f} seconds")
    # The last packet may be padded, so the stated duration is more precise unless it is far off.
    length = end - start
    return Streams(stated if length - ROUNDING <= stated <= length else length, missing)


def _stated_and_actual(
    source: bytes | Path,
    container: av.container.InputContainer,
    ends: Mapping[int, int],
    duration: float,
    end: float,
) -> Iterator[tuple[float, float]]:
    """The ends in seconds, actual and stated, of the container and the tracks that are proven to be cut off.

    `ends` are the actual ends of the tracks, in units of their time bases, `duration` and `end` those of the container.
    """
    tracks = [container.streams[index] for index in ends]
    with _content(source) as data:
        needed, size = formats.stated_size(data), len(data)
    cut = needed > size
    if cut:
        yield end, (container.start_time or 0) / av.time_base + duration
        if container.format.name in formats.EVEN:
            yield end, end * needed / size
    for track in tracks:
        actual = _seconds(ends[track.index], track)
        if cut and track.duration:
            yield actual, _seconds((track.start_time or 0) + track.duration, track)
        if "mp4" in container.format.name:
            # The sample table, of which a fragmented file has many.
            lacking = [entry.timestamp for entry in track.index_entries if entry.pos + entry.size > size]
            if lacking:
                yield actual, _seconds(lacking[-1], track)
        if container.format.name == "flac":
            samples = formats.flac_samples(track.codec_context.extradata)
            yield actual, _seconds(samples, track)  # whose time base is one sample


def read_audio(source: bytes | Path, sample_rate: int) -> np.ndarray:
    """Decode a clip's sound to mono, synchronous with `read_frames`: time 0 is that of the first frame.

    Sound before the first frame is dropped; if the sound starts later, zeros are prepended. In a clip without video,
    time 0 is that of the first sample.

    Returns float32 (samples,) in [-1, 1] at `sample_rate` Hz. Raises `BrokenClip` for a clip without a sound track or
    with one that cannot be decoded.
    """
    return _only(sounds(source, [(0.0, math.inf)], sample_rate))


def sounds(
    source: bytes | Path, spans: Iterable[tuple[float, float]], sample_rate: int
) -> Iterator[np.ndarray | BrokenClip]:
    """Decode spans of a clip's sound in one pass: for each the samples, as from `read_audio`, or why there are none.

    `spans` are start and end in seconds, both in ascending order. Raises `BrokenClip` for a clip without a sound track.
    """
    wanted = list(spans)
    level = None
    if len(wanted) > 1:  # a span alone does not tell whether its level is unusual: it may be a pause
        edges = np.arange(wanted[0][0], wanted[-1][1] + TILE, TILE).tolist()
        parts = _sounds(source, pairwise(edges), sample_rate)
        level = levels.whole(levels.measure(part) for part in parts if isinstance(part, np.ndarray))
    for part in _sounds(source, wanted, sample_rate):
        if isinstance(part, np.ndarray):
            try:
                yield levels.usual(part, level or levels.measure(part))
            except BrokenClip as reason:
                yield reason
        else:
            yield part


def _sounds(
    source: bytes | Path, spans: Iterable[tuple[float, float]], sample_rate: int
) -> Iterator[np.ndarray | BrokenClip]:
    """The same with samples as they are in the file, possibly at an unusual level."""
    with _opened(source) as container:
        track = _sound(container)
        is_exact = track.codec_context.codec.name.startswith("pcm_f")
        waiting = deque(_Span(start, end, is_exact) for start, end in spans)
        zero = _zero(container)
        lost: tuple[float, str] | None = None  # time from which decoding fails, and the reason
        time = 0.0
        for _, frames in _decoded(container, track):
            if isinstance(frames, str):
                lost = lost or (time, frames)
                continue
            for frame in frames:
                begin = frame.time if frame.time is not None else time + (zero or 0.0)
                zero = begin if zero is None else zero
                begin -= zero
                time = begin + frame.samples / frame.sample_rate
                for span in waiting:
                    if span.start > 0 and span.start - EDGE >= time:
                        break
                    if lost and lost[0] < span.end:
                        span.spoilt = lost[1]
                    if begin < span.end + EDGE:
                        span.frames.append(frame)
                lost = None
                while waiting and begin >= waiting[0].end + EDGE:
                    yield waiting.popleft().samples(zero, sample_rate)
        for span in waiting:
            span.spoilt = span.spoilt or (lost[1] if lost else "")
            yield span.samples(zero or 0.0, sample_rate)


@dataclass
class _Span:
    """A span of a clip's sound, from `start` to `end` in seconds, during decoding.

    `is_exact` if the file has the samples themselves as floating-point numbers, which know no full scale.
    """

    start: float
    end: float
    is_exact: bool
    frames: list[av.AudioFrame] = field(default_factory=list)
    spoilt: str = ""

    def samples(self, zero: float, sample_rate: int) -> np.ndarray | BrokenClip:
        """The samples of the span; `zero` is the timestamp of time 0. See `read_audio`."""
        frames = self.frames
        if self.spoilt:
            return BrokenClip(self.spoilt)
        if not frames:
            return BrokenClip("the sound track is empty")
        first, last = frames[0], frames[-1]
        if len({(frame.format.name, frame.layout.name, frame.sample_rate) for frame in frames}) > 1:
            return BrokenClip("the sound changes its format")
        if first.format.name.startswith("s16") and first.layout.name == "mono" and first.sample_rate == sample_rate:
            # The same result as the resampler's, without its overhead.
            planes = [np.frombuffer(f.planes[0], np.int16, f.samples) for f in frames]  # type: ignore[call-overload]
            mono = np.concatenate(planes) * np.float32(2**-15)
        else:
            # One long frame, because of the resampler's overhead per call.
            samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
            samples, layout = _audible(samples, first.layout)
            whole = av.AudioFrame.from_ndarray(samples, format=first.format.name, layout=layout)
            whole.sample_rate = first.sample_rate
            resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
            mono = np.concatenate([b.to_ndarray()[0] for f in (whole, None) for b in resampler.resample(f)])
        start = first.time or 0.0
        if len(frames) > 1 and frames[1].time is not None:
            # Fragmented mp4 files have a pause after the first frame, which is only there for the decoder.
            pause = frames[1].time - start - first.samples / first.sample_rate
            start += pause if JITTER < pause < DRIFT else 0
        if last.time is not None:
            gap = last.time - start - sum(frame.samples for frame in frames[:-1]) / first.sample_rate
            if abs(gap) > DRIFT:
                return BrokenClip(
                    f"the sound track is out of sync: its timestamps and samples differ by {gap:.1f} seconds"
                )
        early = round((zero + self.start - start) * sample_rate)
        mono = mono[early:] if early >= 0 else np.pad(mono, (-early, 0))
        if self.end < math.inf:
            mono = mono[: round((self.end - self.start) * sample_rate)]
        # Decoders of compressed sound, and the resampler, exceed the full scale slightly.
        usual = not self.is_exact and max(mono.max(initial=0), -mono.min(initial=0)) <= levels.OVER
        return np.clip(mono, -1, 1) if usual else mono


def _audible(samples: np.ndarray, layout: av.AudioLayout) -> tuple[np.ndarray, str]:
    """The samples and the layout to mix: all channels or, if they cancel each other, the loudest.

    They do if a microphone with a balanced output was recorded in stereo. A player plays both, so that they are heard.
    """
    channels = layout.nb_channels
    if channels > 1:
        planes = samples.reshape(-1, channels).T if len(samples) == 1 else samples
        some = planes[:, ::SPARSE].astype(np.float64)
        some -= 128 if planes.dtype == np.uint8 else 0
        with np.errstate(invalid="ignore"):  # values that are not finite are reported later
            powers, mixed = (some**2).mean(1), (some.mean(0) ** 2).mean()
        if mixed < CANCELLED * powers.sum() / channels**2:
            return np.ascontiguousarray(planes[powers.argmax()][None]), "mono"
    return samples, layout.name


@dataclass(frozen=True)
class Frames:
    """Frames of a clip in the decoder's format, so that only the regions that are needed are converted to RGB.

    `pictures` are F frames of one size in order of time; `times` (F,) are their timestamps in seconds from the clip's
    first frame; `shown` is the number of the frame that is visible at each of the requested times.
    """

    pictures: list[av.VideoFrame]
    times: np.ndarray
    shown: np.ndarray

    @property
    def width(self) -> int:
        return self.pictures[0].width

    @property
    def height(self) -> int:
        return self.pictures[0].height

    @property
    def nbytes(self) -> int:
        return sum(plane.buffer_size for plane in self.pictures[0].planes) * len(self.pictures)


def decode_frames(source: bytes | Path, times: Sequence[float]) -> Frames:
    """Decode the frames that are visible at the given times.

    `times` are in seconds from the first frame, in ascending order; a time after the end gives the last frame, which
    a player holds. Raises `BrokenClip` for a clip without video, for one whose start or end cannot be decoded, and for
    one with errors in these frames.
    """
    return _only(pictures(source, [times]))


def pictures(
    source: bytes | Path, series: Iterable[Sequence[float]], largest: int | None = None
) -> Iterator[Frames | BrokenClip]:
    """Decode several series of frames in one pass: for each, what `decode_frames` returns, or why there is nothing.

    `series` are times in seconds, ascending in their first and in their last times. Frames with a side longer than
    `largest` pixels are scaled down to it. Raises `BrokenClip` for a clip without video.
    """
    waiting = deque(map(_Series, series))
    with _opened(source) as container:
        stream = _picture(container)
        stream.codec_context.thread_count = 1  # clips are decoded in parallel, which is more efficient
        coded = stream.codec_context.sample_aspect_ratio  # of the codec; the container may state another
        stated = None if stream.sample_aspect_ratio == coded else stream.sample_aspect_ratio
        start, moment, end = 0.0, 0.0, 0.0
        last: av.VideoFrame | None = None
        aspect = 1.0  # of the last frame's pixels
        turn: np.ndarray | None = None
        lost = ""  # why decoding has failed since the last frame
        for packet, frames in _decoded(container, stream):
            if packet.pts is not None and not packet.is_discard:
                end = max(end, _seconds(packet.pts, stream))
            if isinstance(frames, str):
                lost = lost or frames
                continue
            for frame in frames:
                if frame.time is None:
                    continue
                if last is None:
                    turn = _display_matrix(frame)
                    start = frame.time if stream.start_time is None else _seconds(stream.start_time, stream)
                    moment = frame.time - start
                    if lost or moment > LOST:
                        for wanted in waiting:
                            if wanted is waiting[0] or wanted.times[0] < moment:
                                wanted.spoilt = lost or f"cannot be decoded: the video before {moment:.1f} seconds"
                else:
                    # An AVI file may have the time of decoding in place of that of display.
                    now = max(frame.time - start, moment)
                    for wanted in waiting:
                        if wanted.times[0] >= now:
                            break
                        wanted.show(last, moment, now, lost, _Display(aspect, turn, largest))
                    moment = now
                lost, last = "", frame
                aspect = _aspect(stated or stream.codec_context.sample_aspect_ratio)
                while waiting and waiting[0].is_complete:
                    yield waiting.popleft().frames()
                if not waiting:
                    return
        for wanted in waiting:
            if last is None:
                yield BrokenClip(lost or "the video track is empty")
            elif lost or end - start > moment + LOST:
                yield BrokenClip(
                    lost or f"cannot be decoded: the video after {moment:.1f} of {end - start:.1f} seconds"
                )
            else:
                wanted.show(last, moment, math.inf, "", _Display(aspect, turn, largest))
                yield wanted.frames()


@dataclass(frozen=True)
class _Display:
    """How frames are displayed: width over height of their pixels, their display matrix, and the largest side to keep."""

    aspect: float
    matrix: np.ndarray | None
    largest: int | None


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The display matrix of upright telephones and mirrored cameras, int (9,); None if there is none.

    It is the same for a whole video. PyAV frees a frame late once its side data have been read, and decoding is a third
    slower if that is done for each.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return None if matrix is None else np.frombuffer(matrix, np.int32).copy()  # type: ignore[call-overload]


@dataclass
class _Series:
    """The frames that are visible at some times, during decoding. `damaged` counts those with concealed errors."""

    times: Sequence[float]
    pictures: list[av.VideoFrame] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    damaged: int = 0
    spoilt: str = ""

    @property
    def is_complete(self) -> bool:
        return bool(self.spoilt) or len(self.shown) == len(self.times)

    def show(self, frame: av.VideoFrame, moment: float, until: float, lost: str, display: _Display) -> None:
        """A frame is visible from `moment` until then, unless some of the frames in between were `lost`."""
        if self.is_complete:
            return
        self.spoilt = lost
        count = bisect_left(self.times, until)
        if lost or count == len(self.shown):
            return
        self.damaged += frame.is_corrupt
        self.pictures.append(_prepared(frame, display))
        self.moments.append(moment)
        self.shown.extend([len(self.pictures) - 1] * (count - len(self.shown)))

    def frames(self) -> Frames | BrokenClip:
        if self.spoilt:
            return BrokenClip(self.spoilt)
        if self.damaged:
            return BrokenClip(f"the picture is damaged: in {self.damaged} of {len(self.pictures)} frames")
        return Frames(_uniform(self.pictures), np.array(self.moments), np.array(self.shown, int))


def _aspect(ratio: Fraction | None) -> float:
    """Width over height of a pixel; 1 unless a plausible ratio is stated that differs visibly from it."""
    if ratio is None or not 1 / STRETCHED <= ratio <= STRETCHED or abs(ratio - 1) < SQUARE:
        return 1.0
    return float(ratio)


_hdr = threading.local()  # a converter per thread: its table of colours takes seconds to compute


def _prepared(frame: av.VideoFrame, display: _Display) -> av.VideoFrame:
    """A frame for further processing: as it is displayed, in planes of 8 bits, with square pixels, and not too large."""
    aspect, largest = display.aspect, display.largest
    width, height = frame.width, frame.height
    if aspect != 1:
        width, height = round(width * max(aspect, 1)), round(height / min(aspect, 1))
    side = max(width, height)
    if largest and side > largest:
        width, height = (max(2, round(length * largest / side)) for length in (width, height))
    converted = frame
    if frame.color_trc in HDR:
        _hdr.reformatter = getattr(_hdr, "reformatter", None) or VideoReformatter()
        converted = _hdr.reformatter.reformat(
            frame, width, height, "gbrp", dst_color_trc=SDR, dst_color_primaries=SDR, threads=1
        )
    elif frame.format.name not in PLANAR or (width, height) != (frame.width, frame.height):
        kind = frame.format.name if frame.format.name in PLANAR else "gbrp"
        converted = frame.reformat(width, height, format=kind, threads=1)
    return converted if display.matrix is None else _turned(converted, display.matrix)


def _turned(frame: av.VideoFrame, matrix: np.ndarray) -> av.VideoFrame:
    """A frame turned and mirrored by a display matrix, int (9,), to the nearest right angle."""
    a, b, _, c, d = matrix[:5].astype(float)
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    to_left, upwards = (c < 0, b < 0) if transposed else (a < 0, d < 0)
    if not (transposed or to_left or upwards):
        return frame
    picture = frame.to_ndarray(format="rgb24")
    picture = picture.transpose(1, 0, 2) if transposed else picture
    return _from_rgb(picture[:: -1 if upwards else 1, :: -1 if to_left else 1])


def _uniform(pictures: list[av.VideoFrame]) -> list[av.VideoFrame]:
    """Frames in one size and format. If they differ, as in video calls, all get the size of the largest.

    They keep their proportions, with black beside them.
    """
    if len({(p.width, p.height, p.format.name, p.colorspace, p.color_range) for p in pictures}) < 2:
        return pictures
    largest = max(pictures, key=lambda picture: picture.width * picture.height)
    width, height = largest.width, largest.height
    fitted = []
    for picture in pictures:
        scale = min(width / picture.width, height / picture.height)
        columns, rows = (max(1, round(length * scale)) for length in (picture.width, picture.height))
        left, top = (width - columns) // 2, (height - rows) // 2
        canvas = np.zeros((height, width, 3), np.uint8)
        canvas[top : top + rows, left : left + columns] = picture.to_ndarray(
            width=columns, height=rows, format="rgb24", threads=1
        )
        fitted.append(_from_rgb(canvas))
    return fitted


def _from_rgb(picture_HWC: np.ndarray) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture_HWC, np.uint8), format="rgb24")
    return frame.reformat(format="gbrp", threads=1)


A = TypeVar("A")


def _only(parts: Iterator[A | BrokenClip]) -> A:
    """The only part; raised if it is a `BrokenClip`."""
    part = next(parts)
    parts.close()  # type: ignore[attr-defined]
    if isinstance(part, BrokenClip):
        raise part
    return part


def _decoded(container: av.container.InputContainer, stream: Any) -> Iterator[tuple[av.Packet, list[Any] | str]]:
    """Each packet of a track and its frames, or why it cannot be decoded; later packets may still be decodable."""
    for packet in container.demux(stream):
        try:
            yield packet, packet.decode()
        except av.error.FFmpegError as error:
            yield packet, _cannot(error)


def read_frames(source: bytes | Path, times: Sequence[float]) -> np.ndarray:
    """The complete frames visible at the given times, uint8 (len(times), H, W, 3) RGB; see `decode_frames`."""
    frames = decode_frames(source, times)
    return np.stack([picture.to_ndarray(format="rgb24", threads=1) for picture in frames.pictures])[frames.shown]


def cut(
    pictures: Sequence[av.VideoFrame], corners: np.ndarray, region: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Crop regions of one size from frames and scale them with antialiasing.

    `corners` int (B, 2) are left and top of each frame's region in pixels; `region` and `size` are width and height
    before and after scaling. Outside the frame, its border pixels are repeated. Returns uint8 (B, height, width, 3) RGB,
    equal to a crop of the complete frame in RGB within a few levels of 255, at the cost of converting only the region.
    """
    scaled = np.empty((len(pictures), size[1], size[0], 3), np.uint8)
    reformatter = VideoReformatter()  # keeps the scaler's tables between frames
    first = pictures[0]
    # Without scaling, libswscale omits the last columns of a width that is not a multiple of 16.
    more = -size[0] % 16 if region == size else 0
    patch = av.VideoFrame(region[0] + more, region[1], first.format.name)
    patch.colorspace, patch.color_range = first.colorspace, first.color_range
    parts = _planes(patch)
    blocks = (_block, _half_block, _half_block) if first.format.name in PLANAR else (_block,) * 3
    for picture, (left, top), rgb in zip(pictures, corners.tolist(), scaled, strict=True):
        for plane, part, block in zip(_planes(picture), parts, blocks, strict=True):
            part[:] = block(plane, left, top, *part.shape)
        done = reformatter.reformat(
            patch, size[0] + more, size[1], format="gbrp", interpolation=Interpolation.BILINEAR, threads=1
        )
        rgb[..., 1], rgb[..., 2], rgb[..., 0] = (plane[:, : size[0]] for plane in _planes(done))
    return scaled


def _block(plane_HW: np.ndarray, left: int, top: int, rows: int, columns: int) -> np.ndarray:
    """A block of a plane, with border pixels repeated outside the plane."""
    height, width = plane_HW.shape
    if 0 <= left <= width - columns and 0 <= top <= height - rows:
        return plane_HW[top : top + rows, left : left + columns]
    lines, places = np.arange(top, top + rows), np.arange(left, left + columns)
    return plane_HW[np.ix_(lines.clip(0, height - 1), places.clip(0, width - 1))]


def _half_block(plane_HW: np.ndarray, left: int, top: int, rows: int, columns: int) -> np.ndarray:
    """The same for a chroma plane at half resolution: at odd positions, the mean of two of its pixels."""
    (y, down), (x, right) = divmod(top, 2), divmod(left, 2)
    block = _block(plane_HW, x, y, rows + down, columns + right)
    here, there = block[:rows, :columns], block[down:, right:]
    return (here & there) + ((here ^ there) >> 1) if down or right else block  # the mean, computed in uint8


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """Views of a frame's memory: an array (height, width) per plane."""
    planes: tuple[Any, ...] = frame.planes  # buffers, although their type stubs do not say so
    return [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width] for p in planes]


@cache
def ffmpeg_binary() -> str:
    """The system's ffmpeg or, if there is none, that of imageio-ffmpeg."""
    if binary := shutil.which("ffmpeg"):
        return binary
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def write_clip(path: Path | str, frames_THWC: np.ndarray, rate: float, samples: np.ndarray, sample_rate: int) -> None:
    """Encode an mp4 clip (H.264 and AAC), with the same bytes each time.

    `frames_THWC` is uint8 RGB with even H and W, at `rate` frames per second; `samples` is float (samples,) in [-1, 1]
    at `sample_rate` Hz.
    """
    import ffmpeg  # ffmpeg-python, which only builds the command line

    height, width = frames_THWC.shape[1:3]
    with tempfile.TemporaryDirectory(prefix="emofuse-") as folder:
        sound = Path(folder) / "sound.f32"
        samples.astype("<f4").tofile(sound)
        video_in = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=rate)
        audio_in = ffmpeg.input(str(sound), format="f32le", ar=sample_rate, ac=1)
        command = ffmpeg.output(
            video_in.video,
            audio_in.audio,
            str(path),
            format="mp4",
            vcodec="libx264",
            pix_fmt="yuv420p",
            preset="veryfast",
            crf=20,
            acodec="aac",
            audio_bitrate="96k",
            threads=1,
            map_metadata=-1,
            fflags="+bitexact",
            **{"flags:v": "+bitexact", "flags:a": "+bitexact"},
        )
        try:
            command.overwrite_output().run(
                cmd=ffmpeg_binary(), input=np.ascontiguousarray(frames_THWC).tobytes(), quiet=True
            )
        except ffmpeg.Error as error:
            last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"ffmpeg could not encode {path}: {' '.join(last)}") from None
