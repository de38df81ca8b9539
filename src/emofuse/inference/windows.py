"""Cut a video into windows that resemble the clips of the corpus, with every face in them, in one pass over the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from emofuse import config
from emofuse.config import Modality, Spectrogram
from emofuse.data.index import SHORTEST
from emofuse.data.spectrograms import Sound, read_segments
from emofuse.features import audio, faces, media
from emofuse.features.media import BrokenClip
from emofuse.inference.bundle import Bundle

LARGEST = 1280  # pixels, the frame size of the corpora; larger frames are scaled down, or would take gigabytes
STEP = 0.5  # hop between windows, as a fraction of a window
SAME = 0.3  # intersection over union from which boxes of two windows at one time belong to one person

Span = tuple[float, float]
Progress = Callable[[Sequence[Span]], Iterable[Span]]


@dataclass(frozen=True)
class Place:
    """A face, or sound alone, in one window.

    `start` and `end` are in seconds. `face` numbers people from 1; it is None if no face was looked for or found. `box` is
    the face in the middle of the window: left, top, right, bottom, as fractions of the frame. `missing` gives the reason for
    each modality that cannot be used.
    """

    start: float
    end: float
    face: int | None
    box: tuple[float, ...] | None
    missing: dict[Modality, str]


@dataclass(frozen=True)
class Sample:
    """The features of a place, as the stages store them.

    `faces` are uint8 (N, T, S, S, 3), `sound` is a spectrogram; None for a modality that cannot be used.
    """

    place: Place
    faces: np.ndarray | None
    sound: Sound | None

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that can be used."""
        found: dict[Modality, bool] = {"video": self.faces is not None, "audio": self.sound is not None}
        return frozenset(modality for modality in found if found[modality])

    def stored(self, modality: Modality, view: Spectrogram) -> np.ndarray:
        """The features as a network reads them that has this view of the sound; the modality must be usable.

        "video" uint8 (N, T, S, S, 3), "audio" float16 (N, bands, frames).
        """
        if modality == "video":
            assert self.faces is not None
            return self.faces
        assert self.sound is not None
        return read_segments(self.sound, view)


def spans(duration: float, window: float, longest: float) -> list[Span]:
    """Start and end of each window in seconds: one window up to `longest`, overlapping windows beyond."""
    if duration <= longest:
        return [(0.0, duration)]
    count = 1 + math.ceil(max(0.0, duration - window - 0.001) / (window * STEP))  # to the millisecond
    return [
        (round(float(start), 3), round(float(start) + window, 3)) for start in np.linspace(0, duration - window, count)
    ]


def samples(
    path: Path, bundle: Bundle, detect: faces.Detect | None, progress: Progress = lambda windows: windows
) -> Iterator[Sample]:
    """The samples of each window of a video: one per face, the largest first, or one with sound alone.

    A window with neither gives one sample without features. Raises `BrokenClip` if the file cannot be read at all.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise BrokenClip(f"cannot be read: {error.strerror}") from None
    streams = media.probe(path)
    windows = spans(_duration(streams), bundle.window, bundle.longest)
    images: Iterator[media.Frames | BrokenClip] = repeat(BrokenClip(streams.missing.get("video", "")))
    if bundle.faces and streams.video:
        times = [_times(start, end, bundle.faces) for start, end in windows]
        images = _until_broken(media.pictures(path, times, LARGEST))
    sounds: Iterator[np.ndarray | BrokenClip] = repeat(BrokenClip(streams.missing.get("audio", "")))
    if bundle.audio and streams.audio:
        whole = len(windows) == 1  # as in the pipeline, with sound that continues after the last frame
        sounds = _until_broken(media.sounds(path, [(0.0, math.inf)] if whole else windows, bundle.audio.sample_rate))
    people = _People()
    for (start, end), frames, sound in zip(progress(windows), images, sounds, strict=False):
        missing: dict[Modality, str] = {}
        heard: Sound | None = None
        if bundle.audio:
            try:
                heard = _spectrogram(sound, end - start, bundle.audio)
            except BrokenClip as reason:
                missing["audio"] = str(reason)
        found: list[tuple[int | None, tuple[float, ...] | None, np.ndarray]] = []
        if bundle.faces:
            try:
                found = _faces(frames, bundle.faces, detect, people)
            except BrokenClip as reason:
                missing["video"] = str(reason)
        for face, box, crops in found:
            yield Sample(Place(start, end, face, box, missing), crops, heard)
        if not found:
            yield Sample(Place(start, end, None, None, missing), None, heard)


def _duration(streams: media.Streams) -> float:
    """The duration as in the index. Raises `BrokenClip` if it is too short or has neither picture nor sound."""
    if not (streams.video or streams.audio):
        raise BrokenClip("; ".join(streams.missing.values()))
    if streams.duration < SHORTEST:
        raise BrokenClip(f"too short: {streams.duration:.1f} seconds")
    return float(f"{streams.duration:.3f}")


def _times(start: float, end: float, section: faces.Faces) -> list[float]:
    return list((start + faces.frame_times(end - start, section.snippets, section.frames)).ravel().tolist())


def _until_broken(parts: Iterator[media.A | BrokenClip]) -> Iterator[media.A | BrokenClip]:
    """The parts of a file; once it cannot be read any further, all remaining parts are broken."""
    try:
        yield from parts
    except BrokenClip as reason:
        yield from repeat(reason)


def _spectrogram(sound: np.ndarray | BrokenClip, duration: float, section: config.Audio) -> Sound:
    if isinstance(sound, BrokenClip):
        raise sound
    samples = audio.usable(sound, duration, section)
    return Sound(audio.log_mel(samples, section).astype(np.float16), audio.span(duration, section))


def _faces(
    frames: media.Frames | BrokenClip, section: faces.Faces, detect: faces.Detect | None, people: _People
) -> list[tuple[int | None, tuple[float, ...] | None, np.ndarray]]:
    """The number, box and crops of each face in a window. Raises `BrokenClip` if no face can be used."""
    if isinstance(frames, BrokenClip):
        raise frames
    if detect is None:
        return [(None, None, faces.crops(frames, faces.NO_TRACK, section)[0])]
    (tracks,) = faces.find([frames], detect, section.detect_size, faces.follow_all)
    found: list[tuple[faces.Track, np.ndarray]] = []
    reasons = []
    for track in tracks:
        verdict = faces.verdict(track, frames.times)
        try:
            if verdict == "ok":
                found.append((track, faces.crops(frames, track, section)[0]))
        except BrokenClip as reason:
            verdict = str(reason)
        reasons.append(verdict)
    if not found:
        raise BrokenClip(reasons[0] if reasons else "no face: in 100% of the frames")
    size = np.array([frames.width, frames.height] * 2)
    middle = frames.times[[len(frames.times) // 2]]
    people_here = people.names([track for track, _ in found], float(frames.times[0]))
    return [
        (person, tuple((track.at(middle)[0, :4] / size).round(4).tolist()), crops)
        for person, (track, crops) in zip(people_here, found, strict=True)
    ]


class _People:
    """Numbers people across windows by the position of their faces, not by their looks."""

    def __init__(self) -> None:
        self._last: dict[int, faces.Track] = {}

    def names(self, tracks: Sequence[faces.Track], time: float) -> list[int]:
        """The number of each face of a window, by comparing positions at the start of the window."""
        when = np.array([time])
        pairs = sorted(
            (
                (faces.overlap(track.at(when)[0], last.at(when)[0]), -place, person)
                for place, track in enumerate(tracks)
                for person, last in self._last.items()
            ),
            reverse=True,
        )
        named: dict[int, int] = {}
        for shared, place, person in pairs:
            if shared > SAME and -place not in named and person not in named.values():
                named[-place] = person
        for place, track in enumerate(tracks):
            named.setdefault(place, max([0, *self._last, *named.values()]) + 1)
            self._last[named[place]] = track
        return [named[place] for place in range(len(tracks))]
