"""Clips in and out: decoding with PyAV, encoding with ffmpeg through ffmpeg-python."""

from __future__ import annotations

import io
import math
import mmap
import shutil
import tempfile
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

# Seconds by which a good file may differ from the length it states: rounding, and the last packet's padding.
ROUNDING = 0.25
# Much less where the file ends within a packet, which a whole one never does.
CUT_ROUNDING = 0.05
# Seconds that a sound track's own times may run away from its samples: a tenth of what a segment hears.
DRIFT = 0.1
# Seconds around a span of sound that are resampled with it, and cut off after: a filter needs neighbours.
EDGE = 0.05
# Seconds of a clip that may show its last frame: the sound often goes on a little longer.
FROZEN = 0.5

# Files that hold clips. Others that FFmpeg reads are lists of further files, or addresses of some.
CONTAINERS = "mov,matroska,webm,avi,flv,mpeg,mpegts,asf,wav,w64,aiff,au,mp3,aac,flac,ogg"

# Formats whose regions can be cut out plane by plane; others, rare, are converted whole.
PLANAR = ("yuv420p", "yuvj420p")


class BrokenClip(Exception):
    """A clip that cannot be read; the text is the plain reason, as `clips.csv` shows it: "kind" or "kind: detail"."""


@dataclass(frozen=True)
class Streams:
    """What a clip holds. `duration`, in seconds, is from its first frame to the end of its longest stream."""

    video: bool
    audio: bool
    duration: float


@contextmanager
def _opened(source: bytes | Path) -> Iterator[av.container.InputContainer]:
    if not (len(source) if isinstance(source, bytes) else source.stat().st_size):
        raise BrokenClip("empty file")
    file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{source}"
    only = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(file, "r", metadata_errors="ignore", container_options=only) as container:
            if any(track.codec_context is None for track in (*container.streams.video, *container.streams.audio)):
                raise BrokenClip("cannot be decoded: a track's codec is unknown")
            yield container
    except (av.error.FFmpegError, ValueError, IndexError) as error:  # the last where a track turns up late
        if isinstance(error, av.error.EOFError) or _is_headless(source):
            raise BrokenClip("truncated: it ends before it says what it holds") from None  # an mp4 may say so last
        raise BrokenClip(_cannot(error)) from None


def _is_headless(source: bytes | Path) -> bool:
    """Whether it is an mp4 without the part that says what it holds."""
    if isinstance(source, bytes):
        return source[4:8] == b"ftyp" and b"moov" not in source
    with source.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data[4:8] == b"ftyp" and data.find(b"moov") < 0


def _cannot(error: Exception) -> str:
    if isinstance(error, av.error.ArgumentError):  # what FFmpeg says of a container that it must not open, too
        return "cannot be decoded: it is damaged, or of a kind that holds no clip"
    return f"cannot be decoded: {getattr(error, 'strerror', None) or error}"


def _picture(container: av.container.InputContainer) -> av.VideoStream | None:
    """The track of the picture; the cover of a song is none."""
    tracks = container.streams.video
    return next((track for track in tracks if not track.disposition & Disposition.attached_pic), None)


def _seconds(ticks: int | None, stream: av.stream.Stream) -> float:
    """A time in a stream's own units, in seconds; 0 where the file does not say."""
    return float(ticks * stream.time_base) if ticks and stream.time_base else 0.0


def probe(source: bytes | Path) -> Streams:
    """Look into a clip, the bytes of a file or a file, without decoding it.

    Raises `BrokenClip` where it cannot be opened, and where it or a track ends before the length that it states.
    """
    with _opened(source) as container:
        picture = _picture(container)
        tracks = [*([picture] if picture else []), *container.streams.audio[:1]]
        ends = {track.index: 0 for track in tracks}  # in the track's own units
        cut = False
        for packet in container.demux(tracks) if tracks else ():
            time = packet.dts if packet.pts is None else packet.pts
            if time is not None:
                index = packet.stream.index
                ends[index] = max(ends[index], time + (packet.duration or 0))
            cut = cut or packet.is_corrupt
        start = _seconds(tracks[0].start_time, tracks[0]) if tracks else 0.0
        end = max((_seconds(ends[track.index], track) for track in tracks), default=0.0)
        stated = (container.duration or 0) / av.time_base
        promises = [((container.start_time or 0) / av.time_base + stated, end)]
        for track in tracks:
            if track.duration:
                says = _seconds((track.start_time or 0) + track.duration, track)
                promises.append((says, _seconds(ends[track.index], track)))
        streams = bool(picture), bool(container.streams.audio)
    for says, lasts in promises:
        if lasts < says - (CUT_ROUNDING if cut else ROUNDING):
            raise BrokenClip(f"truncated: {lasts:.1f} of {says:.1f} seconds")
    # The last packet may be padded: the stated length is the better one, unless it is far off.
    length = end - start
    return Streams(*streams, stated if length - ROUNDING <= stated <= length else length)


def read_audio(source: bytes | Path, sample_rate: int) -> np.ndarray:
    """Decode a clip's sound to mono, on the clock of `read_frames`: from the moment of the first frame on.

    Where the sound starts before the picture, what is earlier is left out; where it starts after it, zeros
    come first. Sound alone starts with its first sample.

    Returns float32 samples (samples,) in [-1, 1] at `sample_rate` Hz.
    Raises `BrokenClip` for a clip without a sound track or with one that cannot be decoded.
    """
    return _whole(sounds(source, [(0.0, math.inf)], sample_rate))


def sounds(
    source: bytes | Path, spans: Iterable[tuple[float, float]], sample_rate: int
) -> Iterator[np.ndarray | BrokenClip]:
    """The sound of each of some spans, as `read_audio` has that of a clip, or why it has none; in one pass.

    `spans` are start and end in seconds, in rising order of both; those that begin at 0 have all that is earlier.
    Raises `BrokenClip` for a clip without a sound track.
    """
    waiting = deque(_Span(start, end) for start, end in spans)
    with _opened(source) as container:
        if not container.streams.audio:
            raise BrokenClip("no sound track")
        picture = _picture(container)
        zero = None if picture is None else _seconds(picture.start_time, picture)
        lost: tuple[float, str] | None = None  # since when nothing can be decoded, and why
        time = 0.0
        for frames in _decoded(container, container.streams.audio[0]):
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
    """Part of a clip's sound, from `start` to `end` in seconds, while it is decoded."""

    start: float
    end: float
    frames: list[av.AudioFrame] = field(default_factory=list)
    spoilt: str = ""

    def samples(self, zero: float, sample_rate: int) -> np.ndarray | BrokenClip:
        """The sound of the span, `zero` being the clip's own time at its beginning; see `read_audio`."""
        frames = self.frames
        if self.spoilt:
            return BrokenClip(self.spoilt)
        if not frames:
            return BrokenClip("the sound track is empty")
        first, last = frames[0], frames[-1]
        if len({(frame.format.name, frame.layout.name, frame.sample_rate) for frame in frames}) > 1:
            return BrokenClip("the sound changes its format")
        if first.format.name.startswith("s16") and first.layout.name == "mono" and first.sample_rate == sample_rate:
            # What the resampler does, without the time it takes to be called.
            planes = [np.frombuffer(f.planes[0], np.int16, f.samples) for f in frames]  # type: ignore[call-overload]
            mono = np.concatenate(planes) * np.float32(2**-15)
        else:
            # One long frame, for the same reason.
            samples = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
            whole = av.AudioFrame.from_ndarray(samples, format=first.format.name, layout=first.layout.name)
            whole.sample_rate = first.sample_rate
            resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
            mono = np.concatenate([b.to_ndarray()[0] for f in (whole, None) for b in resampler.resample(f)])
        start = first.time or 0.0
        if last.time is not None:
            gap = last.time - start - sum(frame.samples for frame in frames[:-1]) / first.sample_rate
            if abs(gap) > DRIFT:
                return BrokenClip(
                    f"the sound track is out of step: its times and its samples differ by {gap:.1f} seconds"
                )
        early = round((zero + self.start - start) * sample_rate)
        mono = mono[early:] if early >= 0 else np.pad(mono, (-early, 0))
        if self.end < math.inf:
            mono = mono[: round((self.end - self.start) * sample_rate)]
        return np.clip(mono, -1, 1)


@dataclass(frozen=True)
class Frames:
    """Frames of a clip as the decoder left them, so that only what is looked at is ever converted to RGB.

    `pictures` are F frames of one size in order of time, `times` (F,) when they come on show, in seconds from
    the clip's first frame, and `shown` the number of the one that is on show at each of the times asked for.
    `damaged` counts those of which the decoder made up a part.
    """

    pictures: list[av.VideoFrame]
    times: np.ndarray
    shown: np.ndarray
    damaged: int = 0

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
    """Decode the frames on show at the given times.

    `times` are seconds from the first frame, in rising order; a time just past the end gets the last frame.
    Raises `BrokenClip` for a clip without a picture, and for one whose picture ends long before the last time.
    """
    return _whole(pictures(source, [times]))


def pictures(
    source: bytes | Path, looks: Iterable[Sequence[float]], largest: int | None = None
) -> Iterator[Frames | BrokenClip]:
    """The frames on show at each of some series of times, as `decode_frames` has them, or why there are none; in one pass.

    `looks` are in rising order of their first times and of their last. Frames with a side longer than `largest` pixels
    are scaled down to it. Raises `BrokenClip` for a clip without a picture.
    """
    waiting = deque(map(_Look, looks))
    with _opened(source) as container:
        stream = _picture(container)
        if stream is None:
            raise BrokenClip("no video track")
        stream.codec_context.thread_count = 1  # clips are decoded side by side, which wastes nothing
        start, moment = 0.0, 0.0
        last: av.VideoFrame | None = None
        lost = ""  # why nothing can be decoded since the last frame
        for frames in _decoded(container, stream):
            if isinstance(frames, str):
                lost = lost or frames
                continue
            for frame in frames:
                if frame.time is None:
                    continue
                if last is None:
                    start = frame.time
                    waiting[0].spoilt = lost
                else:
                    if (frame.width, frame.height, frame.format.name) != (last.width, last.height, last.format.name):
                        lost = "the picture changes its size or format"
                    for look in waiting:
                        if look.times[0] >= frame.time - start:
                            break
                        look.show(last, moment, frame.time - start, lost, largest)
                lost = ""
                last, moment = frame, frame.time - start
                while waiting and waiting[0].is_whole:
                    yield waiting.popleft().frames()
                if not waiting:
                    return
        shown = _seconds(last.duration, stream) if last else 0.0  # long where there is one frame a second
        for look in waiting:
            if last is None:
                yield BrokenClip(lost or "the video track is empty")
            elif lost or look.times[-1] > moment + max(FROZEN, shown):
                end = f"truncated: the picture ends after {moment:.1f} of {look.times[-1]:.1f} seconds"
                yield BrokenClip(lost or end)
            else:
                look.show(last, moment, math.inf, "", largest)
                yield look.frames()


@dataclass
class _Look:
    """Frames on show at some times, while they are decoded."""

    times: Sequence[float]
    pictures: list[av.VideoFrame] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)
    shown: list[int] = field(default_factory=list)
    damaged: int = 0
    spoilt: str = ""

    @property
    def is_whole(self) -> bool:
        return bool(self.spoilt) or len(self.shown) == len(self.times)

    def show(self, frame: av.VideoFrame, moment: float, until: float, lost: str, largest: int | None) -> None:
        """A frame was on show from `moment` until then, unless something was lost meanwhile."""
        if self.is_whole:
            return
        self.spoilt = lost
        count = bisect_left(self.times, until)
        if lost or count == len(self.shown):
            return
        self.damaged += frame.is_corrupt
        self.pictures.append(_prepared(frame, largest))
        self.moments.append(moment)
        self.shown.extend([len(self.pictures) - 1] * (count - len(self.shown)))

    def frames(self) -> Frames | BrokenClip:
        if self.spoilt:
            return BrokenClip(self.spoilt)
        return Frames(self.pictures, np.array(self.moments), np.array(self.shown, int), self.damaged)


def _prepared(frame: av.VideoFrame, largest: int | None) -> av.VideoFrame:
    """A frame as it is worked on: upright, in planes, and no larger than `largest`."""
    side = max(frame.width, frame.height)
    if largest and side > largest:
        width, height = (max(2, round(length * largest / side)) for length in (frame.width, frame.height))
    else:
        width, height = frame.width, frame.height
    kind = frame.format.name if frame.format.name in PLANAR else "gbrp"
    made = frame if kind == frame.format.name else None
    if made is None or (width, height) != (frame.width, frame.height):
        made = frame.reformat(width, height, format=kind, threads=1)
    turns = round(frame.rotation / 90) % 4  # of a telephone that was held upright, against the clock
    if turns:
        upright = np.rot90(made.to_ndarray(format="rgb24"), turns)
        made = av.VideoFrame.from_ndarray(np.ascontiguousarray(upright, np.uint8), format="rgb24").reformat(
            format="gbrp"
        )
    return made


A = TypeVar("A")


def _whole(parts: Iterator[A | BrokenClip]) -> A:
    """The one part there is; raises what it is broken by."""
    part = next(parts)
    parts.close()  # type: ignore[attr-defined]
    if isinstance(part, BrokenClip):
        raise part
    return part


def _decoded(container: av.container.InputContainer, stream: Any) -> Iterator[list[Any] | str]:
    """The frames of each packet of a track, or why it cannot be decoded; those after it may be."""
    for packet in container.demux(stream):
        try:
            yield packet.decode()
        except av.error.FFmpegError as error:
            yield _cannot(error)


def read_frames(source: bytes | Path, times: Sequence[float]) -> np.ndarray:
    """The frames on show at the given times, whole: uint8 (len(times), H, W, 3) in RGB; see `decode_frames`."""
    frames = decode_frames(source, times)
    return np.stack([picture.to_ndarray(format="rgb24", threads=1) for picture in frames.pictures])[frames.shown]


def cut(
    pictures: Sequence[av.VideoFrame], corners: np.ndarray, region: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Cut regions of one size out of frames and scale them, antialiased.

    `corners` int (B, 2) are left and top of each picture's region in pixels; `region` and `size` are width and
    height, before and after. Where a region leaves the frame, the frame's border goes on.
    Returns uint8 (B, height, width, 3) RGB: what the whole frame in RGB would give, within a few levels of 255,
    at the cost of the region alone.
    """
    scaled = np.empty((len(pictures), size[1], size[0], 3), np.uint8)
    reformatter = VideoReformatter()  # keeps the scaler's tables from one frame to the next
    first = pictures[0]
    # Where nothing is to be scaled, libswscale leaves out the last columns of a width that is no multiple of 16.
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
    """Some rows and columns of a plane, its border going on where they leave it."""
    height, width = plane_HW.shape
    if 0 <= left <= width - columns and 0 <= top <= height - rows:
        return plane_HW[top : top + rows, left : left + columns]
    lines, places = np.arange(top, top + rows), np.arange(left, left + columns)
    return plane_HW[np.ix_(lines.clip(0, height - 1), places.clip(0, width - 1))]


def _half_block(plane_HW: np.ndarray, left: int, top: int, rows: int, columns: int) -> np.ndarray:
    """The same of a plane of colour at half the resolution, between two of its pixels where the place is odd."""
    (y, down), (x, right) = divmod(top, 2), divmod(left, 2)
    block = _block(plane_HW, x, y, rows + down, columns + right)
    here, there = block[:rows, :columns], block[down:, right:]
    return (here & there) + ((here ^ there) >> 1) if down or right else block  # their mean, without leaving uint8


def _planes(frame: av.VideoFrame) -> list[np.ndarray]:
    """A frame's own memory, an array (height, width) for each plane."""
    planes: tuple[Any, ...] = frame.planes  # buffers, of which their types say nothing
    return [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width] for p in planes]


@cache
def ffmpeg_binary() -> str:
    """The system's ffmpeg or, where there is none, the one that comes with imageio-ffmpeg."""
    if binary := shutil.which("ffmpeg"):
        return binary
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def write_clip(path: Path | str, frames_THWC: np.ndarray, rate: float, samples: np.ndarray, sample_rate: int) -> None:
    """Encode an mp4 clip, H.264 and AAC, the same bytes each time.

    `frames_THWC` uint8 RGB with even H and W, at `rate` frames a second; `samples` float (samples,) in
    [-1, 1] at `sample_rate` Hz.
    """
    import ffmpeg  # ffmpeg-python: only builds the command line

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
