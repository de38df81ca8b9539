"""Clips in and out: decoding with PyAV, encoding with ffmpeg through ffmpeg-python."""

from __future__ import annotations

import io
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

# Seconds by which a good file may differ from the length it states: rounding, and the last packet's padding.
ROUNDING = 0.25
# Much less where the file ends within a packet, which a whole one never does.
CUT_ROUNDING = 0.05
# Seconds that a sound track's own times may run away from its samples: a tenth of what a segment hears.
DRIFT = 0.1
# Seconds of a clip that may show its last frame: the sound often goes on a little longer.
FROZEN = 0.5

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
def _opened(data: bytes) -> Iterator[av.container.InputContainer]:
    if not data:
        raise BrokenClip("empty file")
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="ignore") as container:
            if any(track.codec_context is None for track in (*container.streams.video, *container.streams.audio)):
                raise BrokenClip("cannot be decoded: a track's codec is unknown")
            yield container
    except (av.error.FFmpegError, ValueError, IndexError) as error:  # the last where a track turns up late
        if isinstance(error, av.error.EOFError) or (data[4:8] == b"ftyp" and b"moov" not in data):
            raise BrokenClip("truncated: it ends before it says what it holds") from None  # an mp4 may say so last
        raise BrokenClip(f"cannot be decoded: {getattr(error, 'strerror', None) or error}") from None


def _seconds(ticks: int | None, stream: av.stream.Stream) -> float:
    """A time in a stream's own units, in seconds; 0 where the file does not say."""
    return float(ticks * stream.time_base) if ticks and stream.time_base else 0.0


def probe(data: bytes) -> Streams:
    """Look into a clip without decoding it.

    Raises `BrokenClip` where it cannot be opened, and where it or a track ends before the length that it states.
    """
    with _opened(data) as container:
        tracks = [*container.streams.video[:1], *container.streams.audio[:1]]
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
        streams = bool(container.streams.video), bool(container.streams.audio)
    for says, lasts in promises:
        if lasts < says - (CUT_ROUNDING if cut else ROUNDING):
            raise BrokenClip(f"truncated: {lasts:.1f} of {says:.1f} seconds")
    # The last packet may be padded: the stated length is the better one, unless it is far off.
    length = end - start
    return Streams(*streams, stated if length - ROUNDING <= stated <= length else length)


def read_audio(data: bytes, sample_rate: int) -> np.ndarray:
    """Decode a clip's sound to mono, on the clock of `read_frames`: from the moment of the first frame on.

    Where the sound starts before the picture, what is earlier is left out; where it starts after it, zeros
    come first. Sound alone starts with its first sample.

    Returns float32 samples (samples,) in [-1, 1] at `sample_rate` Hz.
    Raises `BrokenClip` for a clip without a sound track or with one that cannot be decoded.
    """
    with _opened(data) as container:
        if not container.streams.audio:
            raise BrokenClip("no sound track")
        frames = list(container.decode(container.streams.audio[0]))
        if not frames:
            raise BrokenClip("the sound track is empty")
        first, last = frames[0], frames[-1]
        if len({(frame.format.name, frame.layout.name, frame.sample_rate) for frame in frames}) > 1:
            raise BrokenClip("the sound changes its format")
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
                raise BrokenClip(
                    f"the sound track is out of step: its times and its samples differ by {gap:.1f} seconds"
                )
        early = 0
        if container.streams.video:
            picture = container.streams.video[0]
            early = round((_seconds(picture.start_time, picture) - start) * sample_rate)
    mono = mono[early:] if early >= 0 else np.pad(mono, (-early, 0))
    return np.clip(mono, -1, 1)


@dataclass(frozen=True)
class Frames:
    """Frames of a clip as the decoder left them, so that only what is looked at is ever converted to RGB.

    `pictures` are F frames of one size in order of time, `times` (F,) when they come on show, in seconds from
    the clip's first frame, and `shown` the number of the one that is on show at each of the times asked for.
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


def decode_frames(data: bytes, times: Sequence[float]) -> Frames:
    """Decode the frames on show at the given times.

    `times` are seconds from the first frame, in rising order; a time just past the end gets the last frame.
    Raises `BrokenClip` for a clip without a picture, and for one whose picture ends long before the last time.
    """
    pictures: list[av.VideoFrame] = []
    moments: list[float] = []
    shown: list[int] = []
    start, moment, last = 0.0, 0.0, None

    def keep(until: int) -> None:
        """The last frame was on show for the times up to that number."""
        if last is not None and until > len(shown):
            pictures.append(last if last.format.name in PLANAR else last.reformat(format="gbrp", threads=1))
            moments.append(moment)
            shown.extend([len(pictures) - 1] * (until - len(shown)))

    with _opened(data) as container:
        if not container.streams.video:
            raise BrokenClip("no video track")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # clips are decoded side by side, which wastes nothing
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            if last is None:
                start = frame.time
            elif (frame.width, frame.height, frame.format.name) != (last.width, last.height, last.format.name):
                raise BrokenClip("the picture changes its size or format")
            keep(bisect_left(times, frame.time - start))
            last, moment = frame, frame.time - start
            if len(shown) == len(times):
                break
        if last is None:
            raise BrokenClip("the video track is empty")
        if times and times[-1] > moment + FROZEN:
            raise BrokenClip(f"truncated: the picture ends after {moment:.1f} of {times[-1]:.1f} seconds")
        keep(len(times))
    return Frames(pictures, np.array(moments), np.array(shown, int))


def read_frames(data: bytes, times: Sequence[float]) -> np.ndarray:
    """The frames on show at the given times, whole: uint8 (len(times), H, W, 3) in RGB; see `decode_frames`."""
    frames = decode_frames(data, times)
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
