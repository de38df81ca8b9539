"""The faces stage: N snippets × T square crops of each clip's frames, aligned with its audio segments.

The detector "centre" uses the centre square of every frame. "retinaface" detects the face in a few key frames, and a
square of constant size follows it through the clip. A clip is decoded once, and only the regions that are searched or
stored are converted to RGB.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from emofuse import paths
from emofuse.datasets import shards
from emofuse.features.media import BrokenClip, Frames, cut, decode_frames
from emofuse.provenance.job import job
from emofuse.utils.errors import UserError
from emofuse.utils.files import array_file, write_csv
from emofuse.utils.prefetch import prefetched
from emofuse.utils.progress import Progress

if TYPE_CHECKING:
    from emofuse.config import Faces, Params

    # uint8 (B, H, W, 3) RGB → for each picture float32 (faces, 5): left, top, right, bottom in its pixels, score
    Detect = Callable[[np.ndarray], Sequence[np.ndarray]]

log = logging.getLogger(__name__)

Row = Mapping[str, str]

KEYS = 3  # initial key frames, evenly spaced
TRIES = 3  # a frame without a detected face is searched again at twice the size, then at four times
CLOSE = 1.25  # side of a close-up, relative to the longer side of the expected face
ROUNDS = 6  # of close-ups: repeated if the face was not where expected, and between key frames that disagree
SAME = 0.7  # intersection over union of two boxes from which linear interpolation between them is trusted
SMOOTH = 0.15  # seconds, standard deviation of the Gaussian that smooths the square's path
NEAR = 1.5  # maximum distance of a face from its expected position, in longer sides of the face
RIVAL = 0.25  # area of another face, relative to the clip's, from which it counts as large
MISSING = 0.25  # fraction of a clip that may be without a face
BLANK = 4.0  # standard deviation of a crop, of 255 levels, below which it shows nothing; that of a face is over 30
DIM = 0.1  # the same, relative to the clip's median: frames that are fading in or out
BATCH = 2**27  # bytes: clips are collected for the detector until their frames take this much memory
DECODERS = 4  # more threads would decode faster than the main thread crops, and each holds a clip in memory

NO_FACE = np.full(5, np.nan)


@dataclass(frozen=True)
class Track:
    """The face of one clip in its K key frames, in order of time.

    `times` (K,) in seconds; `faces` (K, 5): left, top, right, bottom in pixels and score, NaN where no face was found;
    `rivals`: of the searched frames with a face, the fraction that show another large one.
    """

    times: np.ndarray
    faces: np.ndarray
    rivals: float = 0.0

    @property
    def found(self) -> np.ndarray:
        """Whether each key frame shows a face, bool (K,)."""
        return ~np.isnan(self.faces[:, 4])

    @property
    def side(self) -> float:
        """The longer side of the face in pixels: the median, so that an opening mouth does not change the scale."""
        faces = self.faces[self.found]
        return float(np.median((faces[:, 2:4] - faces[:, :2]).max(1)))

    def at(self, times_B: np.ndarray) -> np.ndarray:
        """The face at other times, linearly interpolated between key frames: float (B, 5)."""
        times, faces = self.times[self.found], self.faces[self.found]
        return np.stack([np.interp(times_B, times, column) for column in faces.T], 1)


NO_TRACK = Track(np.empty(0), np.empty((0, 5)))


@dataclass(frozen=True)
class Request:
    """Regions of a clip's frames in which to detect faces.

    `frames` are the B frames' numbers; `corners` int (B, 2) are left and top of the regions in pixels; `region` is the
    width and height of the regions, `size` the width and height to which they are scaled.
    """

    frames: Sequence[int]
    corners: np.ndarray
    region: tuple[int, int]
    size: tuple[int, int]


A = TypeVar("A")

# The search for the face of one clip, as a coroutine: it yields a Request, is resumed with the faces found in each
# region, float (faces, 5) in pixels of the frame, and finally returns its result. `find` runs many in lock-step, so that
# the code for one clip reads from top to bottom while the detector works on batches from many clips.
Tracker = Generator[Request, Sequence[np.ndarray], A]


def frame_times(duration: float, snippets: int, frames: int) -> np.ndarray:
    """The times of the frames of each snippet, in seconds: (N, T).

    The clip is divided into N equal slices, each slice into T equal parts, with a frame at the middle of each part.
    """
    count = snippets * frames
    return ((np.arange(count) + 0.5) * duration / count).reshape(snippets, frames)


def follow(frames: Frames, detect_size: int) -> Tracker[Track]:
    """Find the face of a clip in its key frames.

    The middle key frame is searched, with its shorter side scaled to `detect_size`; unless it shows exactly one face,
    all key frames are. Each position is then verified in a close-up, a square of `detect_size` around the expected
    face. If a close-up shows no face, the frame is searched at a larger size. If neighbouring key frames disagree,
    another is added between them.
    """
    seen = yield from _search_key_frames(frames, detect_size)
    chosen = _largest(seen)
    return (yield from _verify(frames, detect_size, chosen, _rivals(seen, chosen)))


def follow_all(frames: Frames, detect_size: int) -> Tracker[list[Track]]:
    """Find all faces of a clip that are large compared with its largest, each as in `follow`, the largest first."""
    seen = yield from _search_key_frames(frames, detect_size)
    tracks: list[Track] = []
    middle = frames.times[[len(frames.times) // 2]]
    least = RIVAL * max(_areas(faces).max(initial=0) for faces in seen.values())
    while True:
        chosen = _largest(seen)
        found = [face for face in chosen.values() if not np.isnan(face[4])]
        if not found or _areas(np.stack(found)).max() < least:
            return tracks
        seen = {number: faces[(faces != chosen[number]).any(1)] for number, faces in seen.items()}
        track = yield from _verify(frames, detect_size, chosen)
        if track.found.any():
            here = track.at(middle)[0]
            if all(overlap(here, other.at(middle)[0]) < SAME for other in tracks):  # not found before
                tracks.append(track)


def _search_key_frames(frames: Frames, detect_size: int) -> Tracker[dict[int, np.ndarray]]:
    """The faces in the middle key frame or, unless it shows exactly one, in all key frames: frame → (faces, 5)."""
    keys = _key_frames(frames)
    sizes = [detect_size * 2**number for number in range(TRIES)]
    middle = keys[len(keys) // 2]
    seen = yield from _search(frames, [middle], sizes)
    if len(seen[middle]) != 1:
        seen |= yield from _search(frames, [key for key in keys if key != middle], sizes)
    return seen


def _verify(frames: Frames, detect_size: int, chosen: Mapping[int, np.ndarray], rivals: float = 0.0) -> Tracker[Track]:
    """Verify a face that was chosen in some frames by close-ups."""
    keys = _key_frames(frames)
    track = _track(frames, chosen, rivals)
    faces: dict[int, np.ndarray] = {}
    for _ in range(ROUNDS):
        if not keys or not track.found.any():
            break
        expected = dict(zip(keys, track.at(frames.times[keys]), strict=True))
        seen = yield from _close_ups(frames, expected, round(track.side * CLOSE), detect_size)
        faces |= {key: _near(seen[key], expected[key]) for key in keys}
        track = _track(frames, faces, rivals)
        keys = [key for key in keys if overlap(faces[key], expected[key]) < SAME] + _between(faces)
    return track


def _key_frames(frames: Frames) -> list[int]:
    """The numbers of the initial key frames."""
    return list(np.unique(np.linspace(0, len(frames.pictures) - 1, KEYS).round().astype(int)).tolist())


def _search(frames: Frames, numbers: Sequence[int], sizes: Sequence[int]) -> Tracker[dict[int, np.ndarray]]:
    """The faces in whole frames: frame → (faces, 5). A frame without any is searched again at the next of the sizes."""
    whole = frames.width, frames.height
    seen = {number: np.empty((0, 5)) for number in numbers}
    for size in sizes:
        remaining = [number for number in numbers if not len(seen[number])]
        if remaining:
            shrink = min(size / min(whole), 4 * size / max(whole))
            width, height = (max(1, round(side * shrink)) for side in whole)
            replies = yield Request(remaining, np.zeros((len(remaining), 2), int), whole, (width, height))
            seen.update(zip(remaining, replies, strict=True))
    return seen


def _close_ups(
    frames: Frames, expected: Mapping[int, np.ndarray], side: int, size: int
) -> Tracker[dict[int, np.ndarray]]:
    """The faces in a square of that side around each expected face or, if there is none, anywhere in the frame."""
    numbers = list(expected)
    corners, side = _squares(np.stack([expected[number] for number in numbers]), side)
    replies = yield Request(numbers, corners, (side, side), (size, size))
    seen = dict(zip(numbers, replies, strict=True))
    return seen | (yield from _search(frames, [number for number in numbers if not len(seen[number])], [size * 2]))


def _largest(seen: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The clip's face in each searched frame: the largest of all and, from there in both directions, the largest near it."""
    numbers = sorted(seen)
    first = max(numbers, key=lambda number: _areas(seen[number]).max(initial=0))
    chosen = {}
    for direction in (numbers[numbers.index(first) :], numbers[numbers.index(first) :: -1]):
        last = seen[first][_areas(seen[first]).argmax()] if len(seen[first]) else NO_FACE
        for number in direction:
            chosen[number] = _near(seen[number], last)
            last = last if np.isnan(chosen[number][4]) else chosen[number]
    return chosen


def _near(faces: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The only face or, of several, the largest whose centre is near that of the box: (5,), NaN if there is none."""
    if len(faces) > 1:
        distance = np.abs((faces[:, :2] + faces[:, 2:4]) - (box[:2] + box[2:4])).max(1) / 2
        faces = faces[distance < NEAR * (box[2:4] - box[:2]).max()]
    return faces[_areas(faces).argmax()] if len(faces) else NO_FACE


def _rivals(seen: Mapping[int, np.ndarray], chosen: Mapping[int, np.ndarray]) -> float:
    """Of the frames with a chosen face, the fraction that show another large one."""
    large = [int((_areas(seen[n]) >= RIVAL * _areas(face[None])).sum()) for n, face in chosen.items()]
    return sum(number > 1 for number in large) / max(1, sum(number > 0 for number in large))


def _areas(faces: np.ndarray) -> np.ndarray:
    return (faces[:, 2] - faces[:, 0]) * (faces[:, 3] - faces[:, 1])


def _between(faces: Mapping[int, np.ndarray]) -> list[int]:
    """Frames halfway between neighbours that disagree: only one has a face, or their faces differ in position."""
    numbers = sorted(faces)
    halfway = []
    for before, after in pairwise(numbers):
        differ = not overlap(faces[before], faces[after]) >= SAME
        neither = np.isnan(faces[before][4]) and np.isnan(faces[after][4])
        if after - before > 1 and differ and not neither:
            halfway.append((before + after) // 2)
    return halfway


def overlap(face: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom, …); NaN if one is NaN."""
    shared = np.clip(np.minimum(face[2:4], other[2:4]) - np.maximum(face[:2], other[:2]), 0, None).prod()
    areas = (face[2:4] - face[:2]).prod() + (other[2:4] - other[:2]).prod()
    return float(shared / (areas - shared))


def _track(frames: Frames, faces: Mapping[int, np.ndarray], rivals: float) -> Track:
    numbers = sorted(faces)
    return Track(frames.times[numbers], np.stack([faces[number] for number in numbers]), rivals)


def find(
    clips: Sequence[Frames], detect: Detect, detect_size: int, track: Callable[[Frames, int], Tracker[A]]
) -> list[A]:
    """Find the faces of several clips at once; `track` is `follow` or `follow_all`.

    The trackers run in lock-step: each round gathers their requests, and those of one size go to `detect` in one batch.
    """
    trackers = [track(frames, detect_size) for frames in clips]
    results: dict[int, A] = {}
    replies: dict[int, Any] = dict.fromkeys(range(len(clips)))  # None starts a tracker
    while replies:
        requests: dict[tuple[int, int], dict[int, Request]] = {}
        for clip, reply in replies.items():
            try:
                request = trackers[clip].send(reply)
                requests.setdefault(request.size, {})[clip] = request
            except StopIteration as end:
                results[clip] = end.value
        replies = {}
        for size, batch in requests.items():
            regions = [
                cut([clips[clip].pictures[n] for n in request.frames], request.corners, request.region, size)
                for clip, request in batch.items()
            ]
            faces = iter(detect(np.concatenate(regions)))
            for clip, request in batch.items():
                scale = np.tile(np.divide(request.region, size), 2)
                replies[clip] = [_in_frame(next(faces), scale, corner) for corner in request.corners]
    return [results[clip] for clip in range(len(clips))]


def _in_frame(faces: np.ndarray, scale: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Faces in pixels of a region, converted to pixels of its frame, rounded to a tenth like those in the table."""
    boxes = (faces[:, :4] * scale + np.tile(corner, 2)).round(1)
    return np.concatenate((boxes, faces[:, 4:]), 1)


def windows(track: Track, times_B: np.ndarray, margin: float) -> tuple[np.ndarray, int]:
    """The square to crop at each time: left and top in pixels, int (B, 2), and the side.

    All have the same side: the track's plus `margin`, a fraction of it, half on each side. Their centres follow the
    track, smoothed by a Gaussian in time to remove the detector's noise and the corners of the interpolation. At least
    one key frame must show a face.
    """
    # Point reflection at both ends continues the track there, so that the ends are not pulled towards the middle.
    beyond = len(times_B) - 1
    times_P = np.pad(times_B, beyond, "reflect", reflect_type="odd")
    boxes_P5 = np.pad(track.at(times_B), ((beyond, beyond), (0, 0)), "reflect", reflect_type="odd")
    weights_BP = np.exp(-(((times_B[:, None] - times_P) / SMOOTH) ** 2) / 2)
    return _squares(weights_BP / weights_BP.sum(1, keepdims=True) @ boxes_P5, track.side * (1 + margin))


def _squares(boxes: np.ndarray, side: float) -> tuple[np.ndarray, int]:
    """Squares around the centres of boxes: corners in whole pixels, int (B, 2), and the side, an even number."""
    even = max(2, 2 * round(side / 2))
    return np.rint((boxes[:, :2] + boxes[:, 2:4] - even) / 2).astype(int), even


def verdict(track: Track, times_F: np.ndarray) -> str:
    """Why a clip with frames at these times has no usable face; "ok" if it has one."""
    if track is NO_TRACK:
        return "ok"
    missing = 1 - _found(track, times_F).mean()
    if missing > MISSING:
        return f"no face: in {missing:.0%} of the frames"
    return "two faces" if track.rivals > 0.5 else "ok"


def _found(track: Track, times_F: np.ndarray) -> np.ndarray:
    """Whether the key frame nearest to each time shows a face, bool (F,)."""
    return track.found[np.abs(times_F[:, None] - track.times).argmin(1)]


def crops(frames: Frames, track: Track, faces: Faces) -> tuple[np.ndarray, int]:
    """The N × T crops of a clip, uint8 (N, T, S, S, 3) RGB: around its face, or the centre if there is no track.

    A frame that is blank, or in which no face was found, is replaced by the nearest that shows the face; also returns
    how many of the N × T are. Raises `BrokenClip` if too many would be.
    """
    if track is NO_TRACK:
        whole = np.array([[0, 0, frames.width, frames.height]])
        corners, side = _squares(whole.repeat(len(frames.times), 0), min(frames.width, frames.height) // 2 * 2)
    else:
        corners, side = windows(track, frames.times, faces.margin)
    squares = cut(frames.pictures, corners, (side, side), (faces.size, faces.size))
    shows = ~_blank(squares)
    if track is not NO_TRACK:
        shows &= _found(track, frames.times)
    missing = 1 - shows[frames.shown].mean()
    if missing > MISSING:
        raise BrokenClip(f"{'no picture' if track is NO_TRACK else 'no face'}: in {missing:.0%} of the frames")
    usable = np.flatnonzero(shows)
    nearest = usable[np.abs(frames.times[:, None] - frames.times[usable]).argmin(1)][frames.shown]
    stored = squares[nearest].reshape(faces.snippets, faces.frames, faces.size, faces.size, 3)
    return stored, int((~shows[frames.shown]).sum())


def _blank(crops_BHWC: np.ndarray) -> np.ndarray:
    """Which crops show nothing, bool (B,): they are black or another uniform colour, or nearly so."""
    size = crops_BHWC.shape[1]
    samples = crops_BHWC[:, :: max(1, size // 28), :: max(1, size // 28)].astype(np.float32)
    contrast = samples.std((1, 2)).max(1)
    return np.asarray(contrast < max(BLANK, DIM * float(np.median(contrast))))


def detector(faces: Faces, weights: Path | None) -> Detect | None:
    """The detector of `faces.detector`: None for "centre", else RetinaFace with `weights`."""
    if faces.detector == "centre":
        return None
    if weights is None:
        raise UserError(f"faces.detector: retinaface on {faces.body} needs weights; run emofuse weights")
    from emofuse.features.retinaface import (
        Detector,  # imports torch, which takes seconds and which "centre" does not need
    )

    return Detector(faces.body, weights, faces.score)


def stage(params: Params, corpus: str, shard: int, threads: int = 1, root: Path = Path()) -> None:
    """`emofuse faces`: crop the faces of one shard's clips, to data/<corpus>/features/faces/."""
    section = params.corpus(corpus).faces
    if section is None:
        raise UserError(f"corpora.{corpus}: it has no video, so there are no faces to crop")
    shards.check(shard, corpus, params.corpus(corpus).shards)
    clips, index = paths.raw(corpus, shard), paths.index(corpus)
    model = section.weights
    output, table = paths.features(corpus, "faces", shard)
    key = {"corpus": corpus, "shard": shard}
    inputs = [clips, index, *([model] if model else [])]
    with job("faces", params, key, paths.record(output), inputs, [output, table], root), _device(model):
        rows = shards.usable(root / index, shard)
        progress = partial(Progress, what=f"faces of {corpus}, shard {shard}")
        model_file = root / model if model else None
        extract(rows, root / clips, section, root / output, root / table, model_file, progress, threads)


def _device(model: str | None) -> AbstractContextManager[object]:
    """Reserves a GPU for a detector with a model."""
    if model is None:
        return nullcontext()
    from emofuse.utils import gpu  # imports torch, which takes seconds

    return gpu.device()


def extract(
    rows: Sequence[Row],
    archive: Path,
    faces: Faces,
    output: Path,
    table: Path,
    weights: Path | None = None,
    progress: Callable[[Sequence[Row]], Iterable[Row]] = lambda rows: rows,
    threads: int = 1,
) -> None:
    """Write the faces of one shard, clip by clip.

    `rows` are the shard's usable rows of index.csv, `archive` is its zip, `weights` are RetinaFace's. With several
    `threads`, all but one decode. Writes `output`, uint8 (clips, N, T, S, S, 3) RGB, zeros for a clip without faces,
    and `table`, in the same order: clip, row, status ("ok" or why the clip has no faces), replaced (how many of the
    N × T crops are of another frame, the nearest that shows the face), and as JSON lists the scores, boxes (left, top,
    right, bottom in pixels) and times (seconds) of the key frames: null for a key frame without a face, empty if there
    was no search. Raises `UserError` for unusable weights and a full disk.
    """
    detect = detector(faces, weights)
    shape = (len(rows), faces.snippets, faces.frames, faces.size, faces.size, 3)
    lines: list[tuple[str, int, str, int, str, str, str]] = []
    decoders = min(threads - 1, DECODERS)
    decoded = prefetched(partial(_decode, archive, faces), progress(rows), decoders, results=decoders)
    results = (result for clips in _batches(decoded) for result in _results(clips, detect, faces))
    with array_file(output, np.uint8, shape) as add:
        for number, (row, (squares, status, replaced, track)) in enumerate(zip(rows, results, strict=True)):
            add(squares)
            lists = (_json(track.faces[:, 4], 4), _json(track.faces[:, :4], 1), _json(track.times, 4))
            lines.append((row["clip"], number, status, replaced, *lists))
    frame = pd.DataFrame(lines, columns=["clip", "row", "status", "replaced", "scores", "boxes", "times"])
    write_csv(table, frame)
    if replaced := sum(frame["replaced"]):
        log.warning(
            "in %d of %d clips, %d crops are of the nearest frame that shows the face, because their own shows none",
            *((frame["replaced"] > 0).sum(), len(frame), replaced),
        )


def _decode(archive: Path, faces: Faces, row: Row) -> Frames | str:
    """The frames of a clip, or the reason why there are none."""
    duration = float(row["duration"])
    if not duration > 0:
        return "its duration is zero"
    try:
        data = shards.read_member(archive, row["file"])
        return decode_frames(data, frame_times(duration, faces.snippets, faces.frames).ravel().tolist())
    except BrokenClip as error:
        return str(error)


def _batches(clips: Iterable[Frames | str]) -> Iterator[list[Frames | str]]:
    """Clips in groups for the detector: as many as fit into BATCH, but at least one."""
    batch: list[Frames | str] = []
    size = 0
    for clip in clips:
        batch.append(clip)
        size += 0 if isinstance(clip, str) else clip.nbytes
        if size >= BATCH:
            yield batch
            batch.clear()  # the consumer keeps no reference either, so memory is freed before more clips are decoded
            size = 0
    yield batch


def _results(
    clips: Sequence[Frames | str], detect: Detect | None, faces: Faces
) -> Iterator[tuple[np.ndarray | None, str, int, Track]]:
    """The crops, status, number of replaced crops, and track of each clip; no crops unless the status is "ok"."""
    readable = [clip for clip in clips if isinstance(clip, Frames)]
    tracks = iter(find(readable, detect, faces.detect_size, follow) if detect else [NO_TRACK] * len(readable))
    for clip in clips:
        if isinstance(clip, str):
            yield None, clip, 0, NO_TRACK
            continue
        track = next(tracks)
        status = verdict(track, clip.times)
        try:
            squares, replaced = crops(clip, track, faces) if status == "ok" else (None, 0)
        except BrokenClip as reason:
            squares, status, replaced = None, str(reason), 0
        yield squares, status, replaced, track


def _json(values: np.ndarray, digits: int) -> str:
    """An array as a JSON list, rounded; NaN, be it a number or a row, becomes null."""
    rounded = [None if np.isnan(value).any() else value for value in values.round(digits)]
    return json.dumps([value if value is None else value.tolist() for value in rounded])
