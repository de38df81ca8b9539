"""Faces: N snippets × T square crops of each clip's frames, on the clock of its audio segments.

The detector "centre" takes the centre square of every frame. "retinaface" looks for the face in a few key
frames and cuts one square, of one size, that follows the face through the clip.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from emofuse.corpora import base
from emofuse.errors import UserError
from emofuse.files import atomic, new_array
from emofuse.media import BrokenClip, read_frames

if TYPE_CHECKING:
    from emofuse.params import Faces

# frames uint8 (B, H, W, 3) RGB → for each, float32 (faces, 5): left, top, right, bottom, score
Detect = Callable[[np.ndarray], Sequence[np.ndarray]]
Rows = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Track:
    """The face of one clip: what was found in its key frames.

    `times` (K,) in seconds; `boxes` (K, 4), left, top, right, bottom in pixels, and `scores` (K,) are NaN
    where no face was found. K is 0 where nothing was looked for.
    """

    times: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """Which key frames show a face, bool (K,)."""
        return ~np.isnan(self.scores)


NO_TRACK = Track(np.empty(0), np.empty((0, 4)), np.empty(0))


def frame_times(duration: float, snippets: int, frames: int) -> np.ndarray:
    """When the frames are taken, in seconds, (N, T).

    The clip falls in N equal slices and each slice in T equal parts; a frame is taken at the middle of each.
    """
    count = snippets * frames
    return ((np.arange(count) + 0.5) * duration / count).reshape(snippets, frames)


def key_frames(snippets: int, frames: int) -> list[int]:
    """Which of the N·T frames the detector sees: the first, the last and the middle one of each snippet."""
    middles = {snippet * frames + frames // 2 for snippet in range(snippets)}
    return sorted({0, snippets * frames - 1} | middles)


def track_face(frames_BHWC: np.ndarray, times_B: np.ndarray, detect: Detect) -> Track:
    """Find the largest face in each of the frames, uint8 (B, H, W, 3) RGB, taken at `times_B` seconds."""
    boxes = np.full((len(times_B), 4), np.nan)
    scores = np.full(len(times_B), np.nan)
    for number, faces in enumerate(detect(frames_BHWC)):
        if len(faces):
            areas = (faces[:, 2] - faces[:, 0]) * (faces[:, 3] - faces[:, 1])
            largest = faces[areas.argmax()]
            boxes[number], scores[number] = largest[:4], largest[4]
    return Track(times_B, boxes, scores)


def windows(track: Track, times_B: np.ndarray, margin: float) -> np.ndarray:
    """The square to cut at each time: left, top, right, bottom in pixels, float (B, 4).

    All are of one size, so that a mouth that opens does not zoom out: the median over the key frames of the
    face's longer side, and `margin` of it more, half on each side. The centre follows the face: its places in
    the key frames, averaged with their neighbours against the detector's noise, and a straight line between.
    At least one key frame must show a face.
    """
    boxes = track.boxes[track.found]
    sizes = boxes[:, 2:] - boxes[:, :2]
    half = np.median(sizes.max(1)) * (1 + margin) / 2
    centres = np.pad((boxes[:, :2] + boxes[:, 2:]) / 2, ((1, 1), (0, 0)), mode="edge")
    centres = (centres[:-2] + 2 * centres[1:-1] + centres[2:]) / 4
    x, y = (np.interp(times_B, track.times[track.found], centres[:, axis]) for axis in (0, 1))
    return np.stack((x - half, y - half, x + half, y + half), 1)


def centre_window(height: int, width: int) -> np.ndarray:
    """The largest square in the middle of a frame: left, top, right, bottom in pixels, float (4,)."""
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return np.array([left, top, left + side, top + side])


def crop(frame_HWC: np.ndarray, window: np.ndarray, size: int) -> np.ndarray:
    """Cut a window out of a frame, uint8 (H, W, 3), and scale it, antialiased, to uint8 (size, size, 3).

    `window` is left, top, right, bottom in pixels; it need not lie on whole pixels, so that a slow drift does
    not become steps. Where it leaves the frame, the frame's border goes on.
    """
    height, width = frame_HWC.shape[:2]
    left, top = math.floor(window[0]), math.floor(window[1])
    right, bottom = math.ceil(window[2]), math.ceil(window[3])
    if left < 0 or top < 0 or right > width or bottom > height:
        rows, columns = np.arange(top, bottom).clip(0, height - 1), np.arange(left, right).clip(0, width - 1)
        region = frame_HWC[np.ix_(rows, columns)]
    else:
        region = np.ascontiguousarray(frame_HWC[top:bottom, left:right])
    box = (window[0] - left, window[1] - top, window[2] - left, window[3] - top)
    return np.asarray(Image.fromarray(region).resize((size, size), Image.Resampling.BILINEAR, box=box))


def crop_clip(
    data: bytes, duration: float, faces: Faces, detect: Detect | None
) -> tuple[np.ndarray | None, str, Track]:
    """The face crops of one clip.

    `data` is the clip's file, `duration` its length in seconds; without `detect` the crops are the frames'
    centre squares. Returns the crops, uint8 (N, T, S, S, 3) RGB, or None; "ok" or why there are none; and
    what the detector found. Raises `BrokenClip` where the file cannot be read.
    """
    if not duration > 0:
        raise BrokenClip("it lasts no time")
    times = frame_times(duration, faces.snippets, faces.frames).ravel()
    frames = read_frames(data, times.tolist())
    if detect is None:
        track = NO_TRACK
        cuts = np.tile(centre_window(*frames.shape[1:3]), (len(times), 1))
    else:
        keys = key_frames(faces.snippets, faces.frames)
        track = track_face(frames[keys], times[keys], detect)
        missing = int((~track.found).sum())
        # Between faces half a snippet apart a straight line is a fair guess; across half the clip it is not.
        if missing * 2 > len(keys):
            return None, f"no face found in {missing} of {len(keys)} key frames", track
        cuts = windows(track, times, faces.margin)
    crops = np.stack([crop(frame, cut, faces.size) for frame, cut in zip(frames, cuts, strict=True)])
    return crops.reshape(faces.snippets, faces.frames, faces.size, faces.size, 3), "ok", track


def detector(faces: Faces, weights: Path | None) -> Detect | None:
    """What `faces.detector` asks for: None for "centre", else RetinaFace with `weights`."""
    if faces.detector == "centre":
        return None
    if weights is None:
        raise UserError(f"faces.detector: retinaface on {faces.body} needs a file of weights")
    from emofuse.retinaface import Detector  # torch takes seconds to import; "centre" does without

    return Detector(faces.body, weights, faces.detect_size, faces.score)


def extract(
    rows: Rows,
    archive: Path,
    faces: Faces,
    output: Path,
    table: Path,
    weights: Path | None = None,
    progress: Callable[[Rows], Iterable[Mapping[str, str]]] = lambda rows: rows,
) -> None:
    """Write the faces of one shard, clip by clip.

    `rows` are the shard's usable rows of index.csv, `archive` its zip, `weights` RetinaFace's. Writes
    `output`, uint8 (clips, N, T, S, S, 3) RGB, zeros where a clip has no faces, and `table`, in the same
    order: clip, row, status ("ok" or why the clip has no faces), and the JSON lists scores, boxes (left, top,
    right, bottom in pixels) and times (seconds) of the key frames, null where one shows no face and empty
    where nothing was looked for.
    Raises `UserError` for unusable weights and a full disk.
    """
    detect = detector(faces, weights)
    shape = (len(rows), faces.snippets, faces.frames, faces.size, faces.size, 3)
    with atomic(table) as table_file, table_file.open("w", newline="") as stream, atomic(output) as crops_file:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["clip", "row", "status", "scores", "boxes", "times"])
        stored = new_array(crops_file, np.uint8, shape)
        for number, row in enumerate(progress(rows)):
            try:
                data = base.read_member(archive, row["file"])
                crops, status, track = crop_clip(data, float(row["duration"]), faces, detect)
            except BrokenClip as error:
                crops, status, track = None, str(error), NO_TRACK
            if crops is not None:
                stored[number] = crops
            lists = (_json(track.scores, 4), _json(track.boxes, 1), _json(track.times, 4))
            writer.writerow([row["clip"], number, status, *lists])
        stored.flush()


def _json(values: np.ndarray, digits: int) -> str:
    """An array as a JSON list, rounded; what is NaN, be it a number or a whole row, is null."""
    rounded = [None if np.isnan(value).any() else value for value in values.round(digits)]
    return json.dumps([value if value is None else value.tolist() for value in rounded])
