"""A video as windows that are like the clips of the corpus, with every face in them; in one pass, whatever its length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from emofuse.config import Modality
from emofuse.data.index import SHORTEST
from emofuse.features import audio, faces, media
from emofuse.features.media import BrokenClip
from emofuse.inference.bundle import Bundle

LARGEST = 1280  # pixels: as large as the corpora's frames; what is larger would take gigabytes
STEP = 0.5  # of a window, from one to the next
SAME = 0.3  # overlap of boxes, in two windows at one time, from which they are of one person

Span = tuple[float, float]
Progress = Callable[[Sequence[Span]], Iterable[Span]]


@dataclass(frozen=True)
class Place:
    """A face, or a voice alone, in one window.

    `start` and `end` in seconds. `face` counts people from 1; it is None where no face was looked for, or none is there.
    `box` is where the face is in the middle of the window: left, top, right, bottom, as parts of the frame. `lacks` says
    of each modality that cannot be used here why.
    """

    start: float
    end: float
    face: int | None
    box: tuple[float, ...] | None
    lacks: dict[Modality, str]


@dataclass(frozen=True)
class Sample:
    """What the networks are asked about a place: its features, as the stages store them.

    "video" uint8 (N, T, S, S, 3), "audio" float16 (N, bands, frames); none where there is nothing to ask.
    """

    place: Place
    features: dict[Modality, np.ndarray]


def spans(duration: float, window: float, longest: float) -> list[Span]:
    """Start and end of each window, in seconds: all of what is no longer than `longest`, else windows that overlap."""
    if duration <= longest:
        return [(0.0, duration)]
    count = 1 + math.ceil(max(0.0, duration - window - 0.001) / (window * STEP))  # to the millisecond
    return [
        (round(float(start), 3), round(float(start) + window, 3)) for start in np.linspace(0, duration - window, count)
    ]


def samples(
    path: Path, bundle: Bundle, detect: faces.Detect | None, progress: Progress = lambda windows: windows
) -> Iterator[Sample]:
    """What there is to ask about each window of a video: its faces, the largest first, or its sound alone.

    A window with neither is one sample without features. Raises `BrokenClip` where the file cannot be read at all.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise BrokenClip(f"cannot be read: {error.strerror}") from None
    streams = media.probe(path)
    cut = spans(_duration(streams), bundle.window, bundle.longest)
    looks: Iterator[media.Frames | BrokenClip] = repeat(BrokenClip("no video track"))
    if bundle.faces and streams.video:
        times = [_times(start, end, bundle.faces) for start, end in cut]
        looks = _to_the_end(media.pictures(path, times, LARGEST))
    heard: Iterator[np.ndarray | BrokenClip] = repeat(BrokenClip("no sound track"))
    if bundle.audio and streams.audio:
        whole = len(cut) == 1  # as the pipeline has it: with what sounds on after the last frame
        heard = _to_the_end(media.sounds(path, [(0.0, math.inf)] if whole else cut, bundle.audio.sample_rate))
    people = _People()
    for (start, end), frames, sound in zip(progress(cut), looks, heard, strict=False):
        lacks: dict[Modality, str] = {}
        features: dict[Modality, np.ndarray] = {}
        if bundle.audio:
            try:
                features["audio"] = _segments(sound, end - start, bundle.audio)
            except BrokenClip as reason:
                lacks["audio"] = str(reason)
        seen: list[tuple[int | None, tuple[float, ...] | None, np.ndarray]] = []
        if bundle.faces:
            try:
                seen = _faces(frames, bundle.faces, detect, people)
            except BrokenClip as reason:
                lacks["video"] = str(reason)
        for face, box, crops in seen:
            yield Sample(Place(start, end, face, box, lacks), {"video": crops, **features})
        if not seen:
            yield Sample(Place(start, end, None, None, lacks), features)


def _duration(streams: media.Streams) -> float:
    """As the index has it. Raises `BrokenClip` for what is too short."""
    if streams.duration < SHORTEST:
        raise BrokenClip(f"too short: {streams.duration:.1f} seconds")
    if not (streams.video or streams.audio):
        raise BrokenClip("neither a picture nor a sound")
    return float(f"{streams.duration:.3f}")


def _times(start: float, end: float, section: faces.Faces) -> list[float]:
    return list((start + faces.frame_times(end - start, section.snippets, section.frames)).ravel().tolist())


def _to_the_end(parts: Iterator[media.A | BrokenClip]) -> Iterator[media.A | BrokenClip]:
    """A file that cannot be read on is broken in all that is left of it."""
    try:
        yield from parts
    except BrokenClip as reason:
        yield from repeat(reason)


def _segments(sound: np.ndarray | BrokenClip, duration: float, section: audio.Audio) -> np.ndarray:
    if isinstance(sound, BrokenClip):
        raise sound
    return audio.clip_segments(audio.usable(sound, duration, section), duration, section).astype(np.float16)


def _faces(
    frames: media.Frames | BrokenClip, section: faces.Faces, detect: faces.Detect | None, people: _People
) -> list[tuple[int | None, tuple[float, ...] | None, np.ndarray]]:
    """The faces of a window: whose, where and the crops. Raises `BrokenClip` where there is none that can be used."""
    if isinstance(frames, BrokenClip):
        raise frames
    if frames.damaged:
        raise BrokenClip(f"the picture is damaged: in {frames.damaged} of {len(frames.pictures)} frames")
    if detect is None:
        return [(None, None, faces.crops(frames, faces.NO_TRACK, section))]
    (tracks,) = faces.find([frames], detect, section.detect_size, faces.follow_all)
    verdicts = [faces.verdict(track, frames.times) for track in tracks]
    found = [track for track, verdict in zip(tracks, verdicts, strict=True) if verdict == "ok"]
    if not found:
        raise BrokenClip(verdicts[0] if verdicts else "no face: in 100% of the frames")
    size = np.array([frames.width, frames.height] * 2)
    middle = frames.times[[len(frames.times) // 2]]
    return [
        (person, tuple((track.at(middle)[0, :4] / size).round(4).tolist()), faces.crops(frames, track, section))
        for person, track in zip(people.names(found, float(frames.times[0])), found, strict=True)
    ]


class _People:
    """Who is who from one window to the next: by where a face was seen last, not by what it looks like."""

    def __init__(self) -> None:
        self._seen: dict[int, faces.Track] = {}

    def names(self, tracks: Sequence[faces.Track], time: float) -> list[int]:
        """The number of each of a window's faces, at the time at which the window begins."""
        when = np.array([time])
        pairs = sorted(
            (
                (faces.overlap(track.at(when)[0], last.at(when)[0]), -place, person)
                for place, track in enumerate(tracks)
                for person, last in self._seen.items()
            ),
            reverse=True,
        )
        named: dict[int, int] = {}
        for shared, place, person in pairs:
            if shared > SAME and -place not in named and person not in named.values():
                named[-place] = person
        for place, track in enumerate(tracks):
            named.setdefault(place, max([0, *self._seen, *named.values()]) + 1)
            self._seen[named[place]] = track
        return [named[place] for place in range(len(tracks))]
