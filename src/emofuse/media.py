"""Clips in and out: decoding with PyAV, encoding with ffmpeg through ffmpeg-python."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import av
import numpy as np


class BrokenClip(Exception):
    """A clip that cannot be read; the text is the plain reason, as `clips.csv` shows it."""


@dataclass(frozen=True)
class Streams:
    """What a clip holds. `duration` is that of its longest stream, in seconds."""

    video: bool
    audio: bool
    duration: float


@contextmanager
def _opened(data: bytes) -> Iterator[av.container.InputContainer]:
    if not data:
        raise BrokenClip("empty file")
    try:
        with av.open(io.BytesIO(data), "r") as container:
            yield container
    except (av.error.FFmpegError, ValueError) as error:
        raise BrokenClip(f"cannot be decoded: {getattr(error, 'strerror', None) or error}") from None


def probe(data: bytes) -> Streams:
    """Look into a clip without decoding it; `BrokenClip` where it cannot be opened."""
    with _opened(data) as container:
        video, audio = bool(container.streams.video), bool(container.streams.audio)
        if container.duration:
            duration = container.duration / av.time_base
        else:  # FLV files may not say: the last packet does
            ends = [float((p.pts + (p.duration or 0)) * p.time_base) for p in container.demux() if p.pts is not None]
            duration = max(ends, default=0.0)
    return Streams(video, audio, duration)


def read_audio(data: bytes, sample_rate: int) -> np.ndarray:
    """Decode a clip's sound to mono.

    Returns float32 samples (samples,) in [-1, 1] at `sample_rate` Hz.
    Raises `BrokenClip` for a clip without a sound track or with one that cannot be decoded.
    """
    with _opened(data) as container:
        if not container.streams.audio:
            raise BrokenClip("no sound track")
        resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)
        blocks = [
            block.to_ndarray()[0]
            for frame in (*container.decode(container.streams.audio[0]), None)
            for block in resampler.resample(frame)
        ]
    if not blocks:
        raise BrokenClip("the sound track is empty")
    return np.clip(np.concatenate(blocks), -1, 1)


def read_frames(data: bytes, times: Sequence[float], threads: int = 1) -> np.ndarray:
    """Decode the frames on show at the given times.

    `times` are seconds from the first frame, in rising order; a time past the end gets the last frame.
    Returns uint8 (len(times), H, W, 3) in RGB. Raises `BrokenClip` for a clip without a picture.
    """
    with _opened(data) as container:
        if not container.streams.video:
            raise BrokenClip("no video track")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        start, shown, filled = 0.0, None, 0
        pictures: np.ndarray | None = None
        for frame in container.decode(stream):
            if frame.time is None:
                continue
            if pictures is None:
                start = frame.time
                pictures = np.empty((len(times), frame.height, frame.width, 3), np.uint8)
            if frame.height != pictures.shape[1] or frame.width != pictures.shape[2]:
                raise BrokenClip("the picture changes its size")
            # A frame is on show until the next one's time.
            on_show = filled
            while on_show < len(times) and times[on_show] < frame.time - start:
                on_show += 1
            if on_show > filled and shown is not None:
                pictures[filled:on_show] = shown.to_ndarray(format="rgb24")
                filled = on_show
            shown = frame
            if filled == len(times):
                break
        if pictures is None or shown is None:
            raise BrokenClip("the video track is empty")
        if filled < len(times):
            pictures[filled:] = shown.to_ndarray(format="rgb24")
    return pictures


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
