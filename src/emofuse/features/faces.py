"""Faces: N snippets × T square crops of each clip's frames, on the clock of its audio segments.

The detector "centre" takes the centre square of every frame. "retinaface" looks for the face in a few key frames,
and one square, of one size, follows it through the clip. A clip is decoded once, and of its frames only what is
looked at and what is stored is ever converted to RGB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from emofuse import paths
from emofuse.datasets import base, shards
from emofuse.features.media import BrokenClip, Frames, cut, decode_frames
from emofuse.provenance.job import job
from emofuse.utils.errors import UserError
from emofuse.utils.files import array_file, write_table
from emofuse.utils.prefetch import prefetched
from emofuse.utils.progress import Progress

if TYPE_CHECKING:
    from emofuse.config import Faces, Params

    # pictures uint8 (B, H, W, 3) RGB → for each, float32 (faces, 5): left, top, right, bottom in its pixels, score
    Detect = Callable[[np.ndarray], Sequence[np.ndarray]]

Row = Mapping[str, str]

KEYS = 3  # key frames to begin with, evenly spread
TRIES = 3  # a frame in which there seems to be no face is searched at twice the size, then at twice that
CLOSE = 1.25  # a close look takes in this much of the longer side of where the face should be
ROUNDS = 6  # of close looks: again where the face was not where it should be, and between key frames that disagree
SAME = 0.7  # overlap of the boxes of two key frames from which a straight line between them is trusted
SMOOTH = 0.15  # seconds, the deviation of the bell over which the square's way is averaged
NEAR = 1.5  # longer sides of a face that it may be away from where it was, or should be
RIVAL = 0.25  # from this share of the area of the clip's face on another face is large
MISSING = 0.25  # share of a clip that may be without a face
BATCH = 2**27  # bytes: clips are gathered for the detector until their frames take this much
DECODERS = 4  # more threads would decode faster than one can cut, and each holds a clip

NOBODY = np.full(5, np.nan)


@dataclass(frozen=True)
class Track:
    """The face of one clip: what was found in its K key frames, in order of time.

    `times` (K,) in seconds; `faces` (K, 5): left, top, right, bottom in pixels and score, NaN where no face was
    found; `rivals` is the share of the searched frames with a face that show another large one beside it.
    """

    times: np.ndarray
    faces: np.ndarray
    rivals: float = 0.0

    @property
    def found(self) -> np.ndarray:
        """Which key frames show a face, bool (K,)."""
        return ~np.isnan(self.faces[:, 4])

    @property
    def side(self) -> float:
        """The longer side of the face, in pixels: the median, so that a mouth that opens does not zoom out."""
        faces = self.faces[self.found]
        return float(np.median((faces[:, 2:4] - faces[:, :2]).max(1)))

    def at(self, times_B: np.ndarray) -> np.ndarray:
        """Where the face is at other times, a straight line between key frames: float (B, 5)."""
        times, faces = self.times[self.found], self.faces[self.found]
        return np.stack([np.interp(times_B, times, column) for column in faces.T], 1)


NO_TRACK = Track(np.empty(0), np.empty((0, 5)))


@dataclass(frozen=True)
class Looks:
    """Parts of a clip's frames that the detector is to see.

    `frames` are the frames' numbers, `corners` int (B, 2) left and top of the parts in pixels, `region` and `size`
    the parts' width and height and those that they are scaled to.
    """

    frames: Sequence[int]
    corners: np.ndarray
    region: tuple[int, int]
    size: tuple[int, int]


A = TypeVar("A")

# It yields looks, is sent for each the faces found there, float (faces, 5) in pixels of the frame, and returns what
# it was after. So the way of one clip is told from top to bottom while the looks of many clips go in one batch.
Tracker = Generator[Looks, Sequence[np.ndarray], A]


def frame_times(duration: float, snippets: int, frames: int) -> np.ndarray:
    """When the frames are taken, in seconds, (N, T).

    The clip falls in N equal slices and each slice in T equal parts; a frame is taken at the middle of each.
    """
    count = snippets * frames
    return ((np.arange(count) + 0.5) * duration / count).reshape(snippets, frames)


def follow(frames: Frames, detect_size: int) -> Tracker[Track]:
    """Find the face of a clip in its key frames.

    It is searched for in a whole frame whose shorter side is scaled to `detect_size` and, unless that shows one face
    and no other, in all of them; then verified by close looks, squares of `detect_size`, around where it should be.
    Where a close look shows no face the whole frame is searched, larger. Where neighbours disagree there is another
    key frame between them.
    """
    seen = yield from _look_around(frames, detect_size)
    chosen = _largest(seen)
    return (yield from _close_in(frames, detect_size, chosen, _rivals(seen, chosen)))


def follow_all(frames: Frames, detect_size: int) -> Tracker[list[Track]]:
    """Find every face of a clip that is large beside its largest, each as `follow` finds the one of a clip; that one first."""
    seen = yield from _look_around(frames, detect_size)
    tracks: list[Track] = []
    middle = frames.times[[len(frames.times) // 2]]
    least = RIVAL * max(_areas(faces).max(initial=0) for faces in seen.values())
    while True:
        chosen = _largest(seen)
        found = [face for face in chosen.values() if not np.isnan(face[4])]
        if not found or _areas(np.stack(found)).max() < least:
            return tracks
        seen = {number: faces[(faces != chosen[number]).any(1)] for number, faces in seen.items()}
        track = yield from _close_in(frames, detect_size, chosen)
        if track.found.any():
            here = track.at(middle)[0]
            if all(overlap(here, other.at(middle)[0]) < SAME for other in tracks):  # one who was lost and found again
                tracks.append(track)


def _look_around(frames: Frames, detect_size: int) -> Tracker[dict[int, np.ndarray]]:
    """The faces in the key frame in the middle or, unless it shows one and no other, in all key frames."""
    keys = _keys(frames)
    sizes = [detect_size * 2**number for number in range(TRIES)]
    middle = keys[len(keys) // 2]
    seen = yield from _search(frames, [middle], sizes)
    if len(seen[middle]) != 1:
        seen |= yield from _search(frames, [key for key in keys if key != middle], sizes)
    return seen


def _close_in(
    frames: Frames, detect_size: int, chosen: Mapping[int, np.ndarray], rivals: float = 0.0
) -> Tracker[Track]:
    """Verify a face by close looks, from where it was in some frames."""
    keys = _keys(frames)
    track = _track(frames, chosen, rivals)
    faces: dict[int, np.ndarray] = {}
    for _ in range(ROUNDS):
        if not keys or not track.found.any():
            break
        expected = dict(zip(keys, track.at(frames.times[keys]), strict=True))
        seen = yield from _verify(frames, expected, round(track.side * CLOSE), detect_size)
        faces |= {key: _near(seen[key], expected[key]) for key in keys}
        track = _track(frames, faces, rivals)
        keys = [key for key in keys if overlap(faces[key], expected[key]) < SAME] + _between(faces)
    return track


def _keys(frames: Frames) -> list[int]:
    """The numbers of the key frames to begin with."""
    return list(np.unique(np.linspace(0, len(frames.pictures) - 1, KEYS).round().astype(int)).tolist())


def _search(frames: Frames, numbers: Sequence[int], sizes: Sequence[int]) -> Tracker[dict[int, np.ndarray]]:
    """The faces in whole frames: frame → (faces, 5). A frame without one is looked at in the next of the sizes."""
    whole = frames.width, frames.height
    seen = {number: np.empty((0, 5)) for number in numbers}
    for size in sizes:
        left = [number for number in numbers if not len(seen[number])]
        if left:
            shrink = min(size / min(whole), 4 * size / max(whole))
            width, height = (max(1, round(side * shrink)) for side in whole)
            replies = yield Looks(left, np.zeros((len(left), 2), int), whole, (width, height))
            seen.update(zip(left, replies, strict=True))
    return seen


def _verify(frames: Frames, expected: Mapping[int, np.ndarray], side: int, size: int) -> Tracker[dict[int, np.ndarray]]:
    """The faces where one should be, in squares of that side around it or, if there is none, anywhere in the frame."""
    numbers = list(expected)
    corners, side = _squares(np.stack([expected[number] for number in numbers]), side)
    replies = yield Looks(numbers, corners, (side, side), (size, size))
    seen = dict(zip(numbers, replies, strict=True))
    return seen | (yield from _search(frames, [number for number in numbers if not len(seen[number])], [size * 2]))


def _largest(seen: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The clip's face in the frames that were searched: the largest of all, and from there on the largest near it."""
    numbers = sorted(seen)
    first = max(numbers, key=lambda number: _areas(seen[number]).max(initial=0))
    chosen = {}
    for way in (numbers[numbers.index(first) :], numbers[numbers.index(first) :: -1]):
        last = seen[first][_areas(seen[first]).argmax()] if len(seen[first]) else NOBODY
        for number in way:
            chosen[number] = _near(seen[number], last)
            last = last if np.isnan(chosen[number][4]) else chosen[number]
    return chosen


def _near(faces: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The only face or, of several, the largest of those whose centre is near the box's: (5,), NaN for none."""
    if len(faces) > 1:
        away = np.abs((faces[:, :2] + faces[:, 2:4]) - (box[:2] + box[2:4])).max(1) / 2
        faces = faces[away < NEAR * (box[2:4] - box[:2]).max()]
    return faces[_areas(faces).argmax()] if len(faces) else NOBODY


def _rivals(seen: Mapping[int, np.ndarray], chosen: Mapping[int, np.ndarray]) -> float:
    """The share of the frames with a chosen face that show another large one."""
    large = [int((_areas(seen[n]) >= RIVAL * _areas(face[None])).sum()) for n, face in chosen.items()]
    return sum(number > 1 for number in large) / max(1, sum(number > 0 for number in large))


def _areas(faces: np.ndarray) -> np.ndarray:
    return (faces[:, 2] - faces[:, 0]) * (faces[:, 3] - faces[:, 1])


def _between(faces: Mapping[int, np.ndarray]) -> list[int]:
    """Frames half way between neighbours of which one has no face, or whose faces are at different places."""
    numbers = sorted(faces)
    halfway = []
    for before, after in pairwise(numbers):
        unlike = not overlap(faces[before], faces[after]) >= SAME
        neither = np.isnan(faces[before][4]) and np.isnan(faces[after][4])
        if after - before > 1 and unlike and not neither:
            halfway.append((before + after) // 2)
    return halfway


def overlap(face: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes: left, top, right, bottom and what else there may be; NaN for no box."""
    shared = np.clip(np.minimum(face[2:4], other[2:4]) - np.maximum(face[:2], other[:2]), 0, None).prod()
    areas = (face[2:4] - face[:2]).prod() + (other[2:4] - other[:2]).prod()
    return float(shared / (areas - shared))


def _track(frames: Frames, faces: Mapping[int, np.ndarray], rivals: float) -> Track:
    numbers = sorted(faces)
    return Track(frames.times[numbers], np.stack([faces[number] for number in numbers]), rivals)


def find(
    clips: Sequence[Frames], detect: Detect, detect_size: int, way: Callable[[Frames, int], Tracker[A]]
) -> list[A]:
    """Find the faces of each of several clips, by `follow` or `follow_all`; what they want looked at in the same size goes in
    one batch.
    """
    trackers = [way(frames, detect_size) for frames in clips]
    tracks: dict[int, A] = {}
    answers: dict[int, Any] = dict.fromkeys(range(len(clips)))
    while answers:
        looks: dict[tuple[int, int], dict[int, Looks]] = {}
        for clip, answer in answers.items():
            try:
                asked = trackers[clip].send(answer)
                looks.setdefault(asked.size, {})[clip] = asked
            except StopIteration as end:
                tracks[clip] = end.value
        answers = {}
        for size, wanted in looks.items():
            parts = [
                cut([clips[clip].pictures[number] for number in look.frames], look.corners, look.region, size)
                for clip, look in wanted.items()
            ]
            seen = iter(detect(np.concatenate(parts)))
            for clip, look in wanted.items():
                scale = np.tile(np.divide(look.region, size), 2)
                answers[clip] = [_moved(next(seen), scale, corner) for corner in look.corners]
    return [tracks[clip] for clip in range(len(clips))]


def _moved(faces: np.ndarray, scale: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """Faces in pixels of a look as faces in pixels of its frame, to a tenth, as the table has them."""
    boxes = (faces[:, :4] * scale + np.tile(corner, 2)).round(1)
    return np.concatenate((boxes, faces[:, 4:]), 1)


def windows(track: Track, times_B: np.ndarray, margin: float) -> tuple[np.ndarray, int]:
    """The square to cut at each time: left and top in pixels, int (B, 2), and its side.

    All are of one size, the track's and `margin` of it more, half on each side. They follow the track smoothly: its
    centre averaged over a bell of time, so that neither the detector's noise nor a corner of the track is seen.
    At least one key frame must show a face.
    """
    # Turned around its ends the track goes on there, so that they are not drawn towards the middle.
    beyond = len(times_B) - 1
    times_P = np.pad(times_B, beyond, "reflect", reflect_type="odd")
    boxes_P5 = np.pad(track.at(times_B), ((beyond, beyond), (0, 0)), "reflect", reflect_type="odd")
    bell_BP = np.exp(-(((times_B[:, None] - times_P) / SMOOTH) ** 2) / 2)
    return _squares(bell_BP / bell_BP.sum(1, keepdims=True) @ boxes_P5, track.side * (1 + margin))


def _squares(boxes: np.ndarray, side: float) -> tuple[np.ndarray, int]:
    """Squares around the centres of boxes: corners on whole pixels, int (B, 2), and the side, an even number."""
    even = max(2, 2 * round(side / 2))
    return np.rint((boxes[:, :2] + boxes[:, 2:4] - even) / 2).astype(int), even


def verdict(track: Track, times_F: np.ndarray) -> str:
    """ "ok", or why a clip whose frames are at these times has no face that can be used."""
    if track is NO_TRACK:
        return "ok"
    nearest = np.abs(times_F[:, None] - track.times).argmin(1)
    missing = 1 - track.found[nearest].mean()
    if missing > MISSING:
        return f"no face: in {missing:.0%} of the frames"
    return "two faces" if track.rivals > 0.5 else "ok"


def crops(frames: Frames, track: Track, faces: Faces) -> np.ndarray:
    """The N × T squares of a clip, uint8 (N, T, S, S, 3) RGB: around its face or, without a track, the centre."""
    if track is NO_TRACK:
        whole = np.array([[0, 0, frames.width, frames.height]])
        corners, side = _squares(whole.repeat(len(frames.times), 0), min(frames.width, frames.height) // 2 * 2)
    else:
        corners, side = windows(track, frames.times, faces.margin)
    squares = cut(frames.pictures, corners, (side, side), (faces.size, faces.size))
    return squares[frames.shown].reshape(faces.snippets, faces.frames, faces.size, faces.size, 3)


def detector(faces: Faces, weights: Path | None) -> Detect | None:
    """What `faces.detector` asks for: None for "centre", else RetinaFace with `weights`."""
    if faces.detector == "centre":
        return None
    if weights is None:
        raise UserError(f"faces.detector: retinaface on {faces.body} needs a file of weights")
    from emofuse.features.retinaface import Detector  # torch takes seconds to import; "centre" does without

    return Detector(faces.body, weights, faces.score)


def stage(params: Params, corpus: str, shard: int, threads: int = 1, root: Path = Path()) -> None:
    """`emofuse faces`: cut the faces of one shard's clips to data/<corpus>/features/faces/."""
    section = params.corpus(corpus).faces
    if section is None:
        raise UserError(f"corpora.{corpus}: it has no video, so there are no faces to cut")
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
    """A GPU for a detector that has a model, which takes the one that is leased."""
    if model is None:
        return nullcontext()
    from emofuse.utils import gpu  # torch takes seconds to import

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

    `rows` are the shard's usable rows of index.csv, `archive` its zip, `weights` RetinaFace's; with more than one of
    `threads` the others decode ahead. Writes `output`, uint8 (clips, N, T, S, S, 3) RGB, zeros where a clip has no
    faces, and `table`, in the same order: clip, row, status ("ok" or why the clip has no faces), and the JSON lists
    scores, boxes (left, top, right, bottom in pixels) and times (seconds) of the key frames, null where one shows no
    face and empty where nothing was looked for.
    Raises `UserError` for unusable weights and a full disk.
    """
    detect = detector(faces, weights)
    shape = (len(rows), faces.snippets, faces.frames, faces.size, faces.size, 3)
    told: list[tuple[str, int, str, str, str, str]] = []
    decoders = min(threads - 1, DECODERS)
    decoded = prefetched(partial(_decode, archive, faces), progress(rows), decoders, results=decoders)
    results = (result for clips in _batches(decoded) for result in _results(clips, detect, faces))
    with array_file(output, np.uint8, shape) as add:
        for number, (row, (squares, status, track)) in enumerate(zip(rows, results, strict=True)):
            add(squares)
            lists = (_json(track.faces[:, 4], 4), _json(track.faces[:, :4], 1), _json(track.times, 4))
            told.append((row["clip"], number, status, *lists))
    write_table(table, ("clip", "row", "status", "scores", "boxes", "times"), told)


def _decode(archive: Path, faces: Faces, row: Row) -> Frames | str:
    """The frames of a clip, or why there are none."""
    duration = float(row["duration"])
    if not duration > 0:
        return "it lasts no time"
    try:
        data = base.read_member(archive, row["file"])
        return decode_frames(data, frame_times(duration, faces.snippets, faces.frames).ravel().tolist())
    except BrokenClip as error:
        return str(error)


def _batches(clips: Iterable[Frames | str]) -> Iterator[list[Frames | str]]:
    """Clips in groups that the detector sees together, as many as fit in BATCH, or one."""
    batch: list[Frames | str] = []
    size = 0
    for clip in clips:
        batch.append(clip)
        size += 0 if isinstance(clip, str) else clip.nbytes
        if size >= BATCH:
            yield batch
            batch.clear()  # the one who took it has no other hold on the frames: they go before more are decoded
            size = 0
    yield batch


def _results(
    clips: Sequence[Frames | str], detect: Detect | None, faces: Faces
) -> Iterator[tuple[np.ndarray | None, str, Track]]:
    """Crops, status and track of each clip."""
    readable = [clip for clip in clips if isinstance(clip, Frames)]
    tracks = iter(find(readable, detect, faces.detect_size, follow) if detect else [NO_TRACK] * len(readable))
    for clip in clips:
        if isinstance(clip, str):
            yield None, clip, NO_TRACK
        else:
            track = next(tracks)
            status = verdict(track, clip.times)
            yield crops(clip, track, faces) if status == "ok" else None, status, track


def _json(values: np.ndarray, digits: int) -> str:
    """An array as a JSON list, rounded; what is NaN, be it a number or a whole row, is null."""
    rounded = [None if np.isnan(value).any() else value for value in values.round(digits)]
    return json.dumps([value if value is None else value.tolist() for value in rounded])
