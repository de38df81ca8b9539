from __future__ import annotations

import csv
import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from emofuse.config import Faces
from emofuse.datasets import shards
from emofuse.features import faces, media
from emofuse.utils.errors import UserError

RATE = 10.0


def encode(path: Path, levels: list[int], height: int = 64, width: int = 96) -> bytes:
    """A clip of finely striped grey frames with the given mean levels, pure blue on both sides of the centre square."""
    frames = np.zeros((len(levels), height, width, 3), np.uint8)
    frames[..., 2] = 255
    side = (width - height) // 2
    stripes = np.resize([-12, -12, 12, 12], height)[:, None, None]
    frames[:, :, side : width - side] = (np.array(levels)[:, None, None, None] + stripes).clip(0, 255)
    media.write_clip(path, frames, RATE, np.zeros(int(len(levels) / RATE * 16000), np.float32), 16000)
    return path.read_bytes()


def row(name: str, duration: float) -> dict[str, str]:
    return {"clip": name, "file": f"{name}.mp4", "duration": str(duration)}


def read(folder: Path) -> tuple[np.ndarray, list[dict[str, str]]]:
    with (folder / "faces.csv").open(newline="") as stream:
        return np.load(folder / "faces.npy"), list(csv.DictReader(stream))


def extract(folder: Path, clips: dict[str, tuple[bytes, float]], params: Faces, **more: object) -> None:
    archive = folder / "shard.zip"
    shards.write(archive, [(f"{name}.mp4", clips[name][0]) for name in sorted(clips)])
    rows = [row(name, duration) for name, (_, duration) in sorted(clips.items())]
    faces.extract(rows, archive, params, folder / "faces.npy", folder / "faces.csv", **more)


CENTRE = Faces(detector="centre", snippets=3, frames=2, size=32)


@given(st.floats(0.1, 60), st.integers(1, 8), st.integers(1, 20))
def test_frames_are_spread_evenly_over_every_slice(duration: float, snippets: int, frames: int) -> None:
    times = faces.frame_times(duration, snippets, frames)
    assert times.shape == (snippets, frames)
    steps = np.diff(np.concatenate(([0], times.ravel(), [duration])))
    assert np.allclose(steps[1:-1], duration / (snippets * frames))
    assert np.allclose(steps[[0, -1]], duration / (snippets * frames) / 2)
    starts = np.arange(snippets) * duration / snippets
    assert ((times > starts[:, None]) & (times < starts[:, None] + duration / snippets)).all()


def test_centre_crops_show_the_right_moments_of_the_centre_square(tmp_path: Path) -> None:
    levels = [20 * number + 30 for number in range(10)]
    extract(tmp_path, {"a": (encode(tmp_path / "a.mp4", levels), 1.0)}, CENTRE)
    crops, table = read(tmp_path)
    assert crops.shape == (1, 3, 2, 32, 32, 3)
    assert crops.dtype == np.uint8
    moments = faces.frame_times(1.0, 3, 2).ravel()
    shown = [levels[int(moment * RATE)] for moment in moments]
    middles = crops.reshape(6, 32, 32, 3)[:, 8:24, 8:24]
    assert np.abs(middles.mean((1, 2, 3)) - shown).max() < 4
    assert np.ptp(crops[0, 0, 0].astype(int).mean(0), axis=1).max() < 60  # no blue, so nothing from beside the square
    assert table == [
        {"clip": "a", "row": "0", "status": "ok", "replaced": "0", "scores": "[]", "boxes": "[]", "times": "[]"}
    ]


def test_bad_clip_has_a_reason_and_zeros_and_does_not_affect_others(tmp_path: Path) -> None:
    good = encode(tmp_path / "good.mp4", [200] * 10)
    clips = {"a": (good, 1.0), "b": (b"not a film", 1.0), "c": (b"", 1.0), "d": (good, 0.0), "e": (good, 1.0)}
    extract(tmp_path, clips, CENTRE)
    crops, table = read(tmp_path)
    assert [line["clip"] for line in table] == list("abcde")
    assert [line["row"] for line in table] == list("01234")
    assert [line["status"] == "ok" for line in table] == [True, False, False, False, True]
    assert all(len(line["status"]) > 5 and "\n" not in line["status"] for line in table[1:4])
    assert not crops[1:4].any()
    assert (crops[0] == crops[4]).all()
    assert crops[0].mean() > 150


def test_empty_shard_has_empty_features(tmp_path: Path) -> None:
    extract(tmp_path, {}, CENTRE)
    crops, table = read(tmp_path)
    assert crops.shape == (0, 3, 2, 32, 32, 3)
    assert table == []


def test_interruption_keeps_the_previous_files(tmp_path: Path) -> None:
    clip = encode(tmp_path / "a.mp4", [100] * 10)
    (tmp_path / "faces.csv").write_text("old")

    def stop(rows):  # type: ignore[no-untyped-def]
        yield rows[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, {"a": (clip, 1.0), "b": (clip, 1.0)}, CENTRE, progress=stop)
    assert (tmp_path / "faces.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "faces.csv", "shard.zip"]


def test_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"cannot write .*faces\.npy: No space left"):
        extract(tmp_path, {"a": (b"", 1.0)}, CENTRE)


def test_centre_does_not_import_torch() -> None:
    code = "import sys, emofuse.features.faces; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_retinaface_without_weights_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights"):
        faces.detector(Faces(body="mobilenet0.25"), None)
    with pytest.raises(UserError, match=r"none\.pth"):
        faces.detector(Faces(body="mobilenet0.25"), tmp_path / "none.pth")


def test_batches_of_clips_are_limited_by_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results do not depend on batches or on the number of decoding threads."""
    clips = {name: (encode(tmp_path / f"{name}.mp4", square_levels(n)), 1.0) for n, name in enumerate("abcdefg")}
    clips["d"] = (b"not a film", 1.0)
    monkeypatch.setattr(faces, "detector", lambda *_: bright)
    results = []
    for batch, threads in ((faces.BATCH, 1), (1, 1), (200_000, 3), (faces.BATCH, 9)):
        monkeypatch.setattr(faces, "BATCH", batch)
        extract(tmp_path, clips, Faces(snippets=3, frames=4, size=16), threads=threads)
        results.append(read(tmp_path))
    for crops, table in results:
        assert (crops == results[0][0]).all()
        assert table == results[0][1]
    assert [line["status"] == "ok" for line in results[0][1]] == [True] * 3 + [False] + [True] * 3


def films(path: Path, frames_THWC: np.ndarray) -> media.Frames:
    """All frames of a clip with these pictures, after encoding and decoding."""
    media.write_clip(path, frames_THWC, RATE, np.zeros(int(len(frames_THWC) / RATE * 16000), np.float32), 16000)
    return media.decode_frames(path.read_bytes(), ((np.arange(len(frames_THWC)) + 0.5) / RATE).tolist())


def test_visible_frames_are_decoded_once(tmp_path: Path) -> None:
    levels = [20 * number + 30 for number in range(10)]
    data = encode(tmp_path / "a.mp4", levels)
    frames = media.decode_frames(data, [0.01, 0.05, 0.35, 0.36, 0.44, 0.95, 1.3, 2.5])
    assert frames.times.tolist() == pytest.approx([0.0, 0.3, 0.4, 0.9])
    assert frames.shown.tolist() == [0, 0, 1, 1, 2, 3, 3, 3]  # the last frame is held
    middles = media.read_frames(data, [0.01, 0.35, 0.95])[:, 28:36, 44:52]
    assert np.abs(middles.mean((1, 2, 3)) - [levels[0], levels[3], levels[9]]).max() < 4


FORMATS = {
    "tv 601": ("libx264", "yuv420p", "mp4", {"colorspace": "smpte170m", "vf": "scale=out_color_matrix=bt601"}),
    "tv 709": ("libx264", "yuv420p", "mp4", {"colorspace": "bt709", "vf": "scale=out_color_matrix=bt709"}),
    "full": ("libx264", "yuv420p", "mp4", {"color_range": "pc", "vf": "scale=out_range=pc"}),
    "4:4:4": ("libx264", "yuv444p", "mp4", {}),
    "10 bit": ("libx264", "yuv420p10le", "mp4", {}),
    "rgb": ("libx264rgb", "rgb24", "mkv", {}),
    "odd": ("libx264", "yuv444p", "mp4", {"vf": "crop=93:61"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_crop_equals_that_of_the_complete_frame_in_rgb(tmp_path: Path, name: str) -> None:
    """For every range, matrix and resolution of the colours, inside and outside the frame."""
    codec, pixels, suffix, more = FORMATS[name]
    rng = np.random.default_rng(1)
    frames = np.stack(
        [
            np.asarray(Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).resize((96, 64), Image.Resampling.BICUBIC))
            for _ in range(3)
        ]
    )  # fmt: skip
    path = tmp_path / f"a.{suffix}"
    picture = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s="96x64", r=RATE)
    command = ffmpeg.output(picture, str(path), vcodec=codec, pix_fmt=pixels, qp=4, **more)
    command.run(cmd=media.ffmpeg_binary(), input=frames.tobytes(), quiet=True)
    moments = [0.05, 0.15, 0.25]
    decoded, whole = media.decode_frames(path.read_bytes(), moments), media.read_frames(path.read_bytes(), moments)
    height, width = whole.shape[1:3]
    for left, top in ((20, 10), (21, 10), (20, 11), (21, 11), (-7, 40), (width - 20, -9)):
        ours = media.cut(decoded.pictures, np.tile([left, top], (3, 1)), (40, 40), (16, 16)).astype(int)
        rows, columns = np.arange(top, top + 40).clip(0, height - 1), np.arange(left, left + 40).clip(0, width - 1)
        patches = np.ascontiguousarray(whole[:, rows][:, :, columns])
        theirs = [Image.fromarray(patch).resize((16, 16), Image.Resampling.BILINEAR) for patch in patches]
        difference = np.abs(ours - np.stack([np.asarray(picture, int) for picture in theirs]))
        assert difference.mean() < 3
        assert np.quantile(difference, 0.99) < 10


@pytest.mark.parametrize(
    "clip", ["ravdess_av/Actor_05/01-01-03-01-01-02-05.mp4", "cremad/VideoFlash/1001_DFA_HAP_XX.flv"]
)
def test_crop_of_a_real_frame_equals_that_of_the_complete_frame(shared_data: Path, clip: str) -> None:
    data, moments = (shared_data / clip).read_bytes(), [0.1, 0.9, 1.7]
    decoded, whole = media.decode_frames(data, moments), media.read_frames(data, moments)
    for left, top in ((150, 60), (151, 60), (150, 61), (151, 61)):
        ours = media.cut(decoded.pictures, np.tile([left, top], (3, 1)), (200, 200), (112, 112)).astype(int)
        patches = np.ascontiguousarray(whole[:, top : top + 200, left : left + 200])
        theirs = [Image.fromarray(patch).resize((112, 112), Image.Resampling.BILINEAR) for patch in patches]
        difference = np.abs(ours - np.stack([np.asarray(picture, int) for picture in theirs]))
        assert difference.mean() < 1.6
        assert np.quantile(difference, 0.99) < 6


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(-60, 60),
    st.integers(-60, 60),
    st.integers(1, 25),
    st.integers(1, 24),
)
@example(height=20, width=20, left=0, top=0, side=9, size=18)  # not scaled, and no multiple of 16
def test_crop_of_a_uniform_frame_is_uniform(height: int, width: int, left: int, top: int, side: int, size: int) -> None:
    frame = av.VideoFrame.from_ndarray(np.full((2 * height, 2 * width, 3), (10, 200, 90), np.uint8), format="rgb24")
    plain = frame.reformat(format="yuv420p")
    patch = media.cut([plain], np.array([[left, top]]), (2 * side, 2 * side), (size, size))
    assert patch.shape == (1, size, size, 3)
    assert np.abs(patch.astype(int) - (10, 200, 90)).max() < 5


def bright(pictures_BHWC: np.ndarray) -> list[np.ndarray]:
    """Stands in for the detector: each run of bright columns is a face."""
    found = []
    for picture in pictures_BHWC:
        light = np.pad(picture[..., 0] > 128, 1)
        starts, ends = (np.flatnonzero(np.diff(light.any(0).astype(int)) == change) for change in (1, -1))
        boxes = []
        for left, right in zip(starts, ends, strict=True):
            rows = np.flatnonzero(light[:, left + 1 : right + 1].any(1)) - 1
            boxes.append([left, rows[0], right, rows[-1] + 1, 0.95])
        found.append(np.array(boxes, np.float32).reshape(-1, 5))
    return found


def scene(*squares: tuple[float, float, int], height: int = 128, width: int = 192) -> np.ndarray:
    """A dark frame with bright squares, given by centre x, centre y and side."""
    frame = np.full((height, width, 3), 16, np.uint8)
    for x, y, side in squares:
        frame[round(y - side / 2) : round(y + side / 2), round(x - side / 2) : round(x + side / 2)] = 235
    return frame


def square_levels(number: int) -> list[int]:
    return [150 + 10 * number] * 10


def follow(path: Path, frames: list[np.ndarray]) -> tuple[media.Frames, faces.Track]:
    decoded = films(path, np.stack(frames))
    (track,) = faces.find([decoded], bright, 64, faces.follow)
    return decoded, track


def centres(decoded: media.Frames, track: faces.Track) -> np.ndarray:
    corners, side = faces.windows(track, decoded.times, 0.2)
    return corners + side / 2


def test_still_face_needs_one_search_and_three_close_ups(tmp_path: Path) -> None:
    looked: list[tuple[int, ...]] = []

    def detect(pictures: np.ndarray) -> list[np.ndarray]:
        looked.append(pictures.shape[:3])
        return bright(pictures)

    clips = [films(tmp_path / "a.mp4", np.stack([scene((x, 50, 32))] * 20)) for x in (60, 90, 130)]
    tracks = faces.find(clips, detect, 64, faces.follow)
    assert looked == [(3, 64, 96), (9, 64, 64)]  # all clips together
    for x, track in zip((60, 90, 130), tracks, strict=True):
        assert np.abs(track.faces[:, :4] - [x - 16, 34, x + 16, 66]).max() < 2
        assert track.times.tolist() == pytest.approx([0, 1.0, 1.9])


def test_square_follows_the_face_at_constant_size(tmp_path: Path) -> None:
    x, y = np.linspace(40, 150, 40), np.linspace(40, 80, 40)
    decoded, track = follow(tmp_path / "a.mp4", [scene((a, b, 32)) for a, b in zip(x, y, strict=True)])
    assert faces.verdict(track, decoded.times) == "ok"
    found = centres(decoded, track)
    assert np.abs(found - np.stack((x, y), 1)).max() < 5
    assert (np.diff(found, axis=0) >= 0).all()
    assert np.abs(np.diff(found[3:-3, 0]) - np.diff(x).mean()).max() <= 1  # whole pixels, and no more than that
    crops, replaced = faces.crops(decoded, track, Faces(snippets=4, frames=10, size=48))
    assert replaced == 0
    light = crops.reshape(40, 48, 48, 3)[..., 0] > 128
    assert np.ptp(light.sum((1, 2))) < 0.1 * light.sum((1, 2)).mean()


def test_moving_face_gets_more_key_frames(tmp_path: Path) -> None:
    x = np.concatenate((np.full(17, 40), np.linspace(40, 150, 10), np.full(13, 150)))
    decoded, track = follow(tmp_path / "a.mp4", [scene((a, 60, 32)) for a in x])
    assert len(track.times) > 4
    assert np.abs(track.faces[:, 2:4] - track.faces[:, :2] - 32).max() < 3  # whole faces, though looked for elsewhere
    assert np.abs(centres(decoded, track)[:, 0] - x).mean() < 5


def test_noise_of_the_detector_does_not_move_the_square() -> None:
    rng = np.random.default_rng(1)
    times = np.arange(96) / 30
    keys = times[::4]  # many, as where a face was lost and found
    boxes = np.array([100, 50, 130, 90]) + rng.normal(0, 2, (len(keys), 4))
    track = faces.Track(keys, np.concatenate((boxes, np.ones((len(keys), 1))), 1))
    corners, side = faces.windows(track, times, 0.25)
    assert side == pytest.approx(40 * 1.25, abs=3)
    assert np.abs(np.diff(corners, axis=0)).max() <= 1
    assert np.abs(np.diff(corners, axis=0)).mean() < 0.1
    assert np.abs(corners + side / 2 - [115, 70]).max() < 4


def test_largest_face_is_followed_throughout_the_clip(tmp_path: Path) -> None:
    """Although another face is larger towards the end."""
    frames = [scene((40, 60, 40), (150, 60, 12))] * 28 + [scene((40, 60, 26), (150, 60, 30))] * 12
    decoded, track = follow(tmp_path / "a.mp4", frames)
    assert faces.verdict(track, decoded.times) == "ok"
    assert np.abs(centres(decoded, track) - [40, 60]).max() < 3


def test_clip_with_two_large_faces_is_unusable(tmp_path: Path) -> None:
    both, one = scene((40, 60, 40), (150, 60, 34)), scene((40, 60, 40))
    for frames, reason in (
        ([both] * 40, "two faces"),
        ([one] * 10 + [both] * 30, "two faces"),
        ([one] * 30 + [both] * 10, "ok"),
    ):
        decoded, track = follow(tmp_path / "a.mp4", frames)
        assert faces.verdict(track, decoded.times) == reason


@pytest.mark.parametrize(
    ("dark", "reason"), [(0, "ok"), (6, "ok"), (18, "no face: in 4.%.*"), (40, "no face: in 100%.*")]
)
def test_face_may_be_missing_for_a_moment(tmp_path: Path, dark: int, reason: str) -> None:
    decoded, track = follow(tmp_path / "a.mp4", [scene((60, 60, 32))] * (40 - dark) + [scene()] * dark)
    assert re.fullmatch(reason, faces.verdict(track, decoded.times))
    if reason == "ok":
        assert np.abs(centres(decoded, track) - [60, 60]).max() < 2


def test_small_face_is_searched_at_a_larger_size(tmp_path: Path) -> None:
    seen: list[int] = []

    def short_sighted(pictures: np.ndarray) -> list[np.ndarray]:
        seen.append(pictures.shape[1])
        return [found[found[:, 3] - found[:, 1] >= 16] for found in bright(pictures)]

    decoded = films(tmp_path / "a.mp4", np.stack([scene((60, 60, 16))] * 20))
    (track,) = faces.find([decoded], short_sighted, 64, faces.follow)
    assert seen == [64, 128, 64]
    assert np.abs(track.faces[:, :4] - [52, 52, 68, 68]).max() < 1.5


def test_clip_without_a_face_has_a_reason_and_no_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "detector", lambda *_: bright)
    face, nobody = scene((120, 60, 32)), scene()
    stories = {"a": [face] * 10, "b": [nobody] * 10, "c": [nobody] * 7 + [face] * 3, "d": [face] * 10}
    clips = {}
    for name, frames in stories.items():
        films(tmp_path / f"{name}.mp4", np.stack(frames))
        clips[name] = ((tmp_path / f"{name}.mp4").read_bytes(), 1.0)
    extract(tmp_path, clips, Faces(snippets=3, frames=4, size=16))
    crops, table = read(tmp_path)
    assert [line["status"] for line in table] == [
        "ok",
        "no face: in 100% of the frames",
        "no face: in 70% of the frames",
        "ok",
    ]
    assert not crops[1:3].any()
    assert (crops[0] == crops[3]).all()
    assert crops[0, :, :, 4:12, 4:12].min() > 200
    assert json.loads(table[1]["boxes"]) == [None] * 3
    scores, boxes, times = (json.loads(table[2][key]) for key in ("scores", "boxes", "times"))
    assert [score is None for score in scores] == [moment < 0.65 for moment in times]
    assert np.abs(np.array(boxes[-1]) - [104, 44, 136, 76]).max() < 2


REAL = ("ravdess_av/**/01-*.mp4", "cremad/VideoFlash/*.flv")


def real_clips(shared_data: Path, pattern: str) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted(shared_data.glob(pattern))}


@pytest.mark.parametrize(
    ("pattern", "step"),
    [(REAL[0], 24), (REAL[1], 12), *(pytest.param(each, 1, marks=pytest.mark.slow) for each in REAL)],
    ids=["ravdess", "cremad", "ravdess, every frame", "cremad, every frame"],
)
def test_squares_agree_with_detection_in_every_frame_at_full_size(shared_data: Path, pattern: str, step: int) -> None:
    params = Faces(body="mobilenet0.25")
    detect = faces.detector(params, shared_data / "weights" / "mobilenet0.25_Final.pth")
    assert detect is not None
    overlaps = []
    for data in real_clips(shared_data, pattern).values():
        times = faces.frame_times(media.probe(data).duration, params.snippets, params.frames).ravel()
        decoded = media.decode_frames(data, times.tolist())
        (track,) = faces.find([decoded], detect, params.detect_size, faces.follow)
        assert faces.verdict(track, decoded.times) == "ok"
        corners, side = faces.windows(track, decoded.times, params.margin)
        for number in range(step // 2, len(decoded.pictures), step):
            (found,) = detect(decoded.pictures[number].to_ndarray(format="rgb24")[None])
            assert len(found) == 1
            box = found[0, :4]
            centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).max() * (1 + params.margin) / 2
            square = np.concatenate((centre - half, centre + half))
            overlaps.append(faces.overlap(np.concatenate((corners[number], corners[number] + side)), square))
    assert len(overlaps) >= 4
    assert np.mean(overlaps) >= 0.9
    assert min(overlaps) >= 0.75


def test_faces_of_real_clips_are_centred(shared_data: Path, tmp_path: Path) -> None:
    weights = shared_data / "weights" / "mobilenet0.25_Final.pth"
    clips = {}
    for pattern in REAL:
        for name, data in real_clips(shared_data, pattern).items():
            clips[name] = (data, media.probe(data).duration)
    assert len(clips) == 11
    params = Faces(body="mobilenet0.25", snippets=3, frames=4, size=112)
    extract(tmp_path, clips, params, weights=weights)
    crops, table = read(tmp_path)
    assert [line["status"] for line in table] == ["ok"] * 11
    again = faces.detector(params, weights)
    assert again is not None
    for line in table:
        height, width = (360, 480) if line["clip"].startswith("1001") else (720, 1280)
        assert min(json.loads(line["scores"])) > 0.9
        for left, top, right, bottom in json.loads(line["boxes"]):
            assert 0 <= left < width / 2 < right <= width
            assert 0 <= top < height / 2 < bottom <= height
            assert 1.1 < (bottom - top) / (right - left) < 1.8
            assert 0.3 < (bottom - top) / height < 0.75
        for found in again(crops[int(line["row"])].reshape(-1, 112, 112, 3)):
            assert len(found) == 1
            centre = (found[0, :2] + found[0, 2:4]) / 2
            assert np.abs(centre - 56).max() < 6
            assert found[0, :4].min() > 0
            assert found[0, :4].max() < 112


def run_ffmpeg(source: Path, target: Path, *options: str, before: tuple[str, ...] = ()) -> bytes:
    command = [media.ffmpeg_binary(), "-v", "error", "-y", *before, "-i", source, *options, target]
    subprocess.run(command, check=True)
    return target.read_bytes()


FACE = "ravdess_av/Actor_05/01-01-03-01-01-02-05.mp4"
SECTION = Faces(body="mobilenet0.25", snippets=3, frames=4, size=64)


@pytest.fixture(scope="session")
def detect(shared_data: Path) -> faces.Detect:
    found = faces.detector(SECTION, shared_data / "weights" / "mobilenet0.25_Final.pth")
    assert found is not None
    return found


@pytest.fixture(scope="session")
def talking(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a real face, 480 × 270."""
    path = tmp_path_factory.mktemp("talking") / "talking.mp4"
    run_ffmpeg(shared_data / FACE, path, "-t", "2", "-vf", "scale=480:270", "-crf", "15")
    return path


def cropped(data: bytes, detect: faces.Detect | None) -> tuple[np.ndarray, int]:
    times = faces.frame_times(media.probe(data).duration, SECTION.snippets, SECTION.frames)
    decoded = media.decode_frames(data, times.ravel().tolist())
    if detect is None:
        return faces.crops(decoded, faces.NO_TRACK, SECTION)
    (track,) = faces.find([decoded], detect, SECTION.detect_size, faces.follow)
    assert faces.verdict(track, decoded.times) == "ok"
    return faces.crops(decoded, track, SECTION)


H264 = ("-c:v", "libx264", "-crf", "12", "-c:a", "copy")
SHAPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "wide pixels": ("a.mp4", ("-vf", "scale=360:270,setsar=4/3", *H264)),
    "wide pixels by the container": ("a.mkv", ("-vf", "scale=240:270", "-aspect", "16:9", *H264)),
    "wide pixels by the codec": ("a.ts", ("-vf", "scale=360:270,setsar=4/3", *H264)),
    "high pixels": ("a.mov", ("-vf", "scale=480:136,setsar=1/2", *H264)),
    "webm": ("a.webm", ("-vf", "scale=360:270,setsar=4/3", "-c:v", "libvpx", "-deadline", "realtime", "-b:v", "2M")),
    "avi": ("a.avi", ("-vf", "scale=360:270,setsar=4/3", "-c:v", "mpeg4", "-q:v", "2")),
    "mpeg": ("a.mpg", ("-vf", "scale=360:270,setsar=4/3", "-c:v", "mpeg2video", "-q:v", "2")),
    "camcorder": ("a.dv", ("-t", "2", "-af", "apad", "-s", "720x576", "-r", "25", "-aspect", "16:9", "-pix_fmt", "yuv420p", "-ar", "48000", "-ac", "2")),
    "10 bit": ("a.mp4", ("-c:v", "libx264", "-pix_fmt", "yuv420p10le", "-crf", "12")),
    "alpha": ("a.mov", ("-c:v", "prores_ks", "-profile:v", "4", "-pix_fmt", "yuva444p10le")),
    "interlaced": ("a.mp4", ("-vf", "scale=480:272,interlace", "-flags", "+ilme+ildct", *H264)),
    "meaningless ratio": ("a.mkv", ("-vf", "setsar=1/100", *H264)),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_face_is_shown_as_a_player_shows_it(tmp_path: Path, talking: Path, detect: faces.Detect, kind: str) -> None:
    name, options = SHAPES[kind]
    expected, _ = cropped(talking.read_bytes(), detect)
    found, replaced = cropped(run_ffmpeg(talking, tmp_path / name, *options), detect)
    assert replaced == 0
    assert np.abs(found.astype(int) - expected).mean() < 12
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97


def test_grey_face_is_found(tmp_path: Path, talking: Path, detect: faces.Detect) -> None:
    expected, _ = cropped(talking.read_bytes(), detect)
    data = run_ffmpeg(talking, tmp_path / "a.mp4", "-vf", "format=gray", "-c:v", "libx264", "-crf", "12")
    found, _ = cropped(data, detect)
    assert np.corrcoef(found.mean(-1).ravel(), expected.mean(-1).ravel())[0, 1] > 0.95


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_is_converted(tmp_path: Path, talking: Path, transfer: str) -> None:
    """Without conversion, HDR has half of the contrast."""
    light = "zscale=tin=bt709:min=bt709:pin=bt709:rin=tv:t=linear:npl=100,format=gbrpf32le"
    hdr = f"{light},zscale=t={transfer}:p=bt2020:m=bt2020nc:r=tv,format=yuv420p10le"
    tags = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
    data = run_ffmpeg(
        talking, tmp_path / "a.mp4", "-t", "0.2", "-vf", hdr, "-c:v", "libx265", "-x265-params", tags, "-an"
    )
    expected = media.read_frames(talking.read_bytes(), [0.1]).std()
    assert media.read_frames(data, [0.1]).std() == pytest.approx(expected, rel=0.4)


@pytest.mark.parametrize(
    "turn",
    [
        ("-display_rotation", "90"), ("-display_rotation", "180"), ("-display_rotation", "-90"), ("-display_hflip",),
        ("-display_vflip",), ("-display_rotation", "90", "-display_hflip"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_turned_and_mirrored_videos_are_upright(tmp_path: Path, talking: Path, turn: tuple[str, ...]) -> None:
    """As ffmpeg shows them."""
    data = run_ffmpeg(talking, tmp_path / "a.mp4", "-c", "copy", before=turn)
    run_ffmpeg(tmp_path / "a.mp4", tmp_path / "a.png", "-frames:v", "1")
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"), int)
    (found,) = media.read_frames(data, [0.0])
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 2


def test_size_change_is_scaled(shared_data: Path, tmp_path: Path, talking: Path, detect: faces.Detect) -> None:
    """As in video calls, whose picture also changes between upright and lying."""
    found, replaced = cropped((shared_data / "awkward/webrtc_resize.webm").read_bytes(), detect)
    expected, _ = cropped((shared_data / FACE).read_bytes(), detect)
    assert replaced == 0
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95
    parts = []
    for number, scale in enumerate(("scale=160:90", "scale=480:270", "crop=150:270")):
        options = (
            "-ss",
            str(0.6 * number),
            "-t",
            "0.6",
            "-vf",
            scale,
            "-c:v",
            "libx264",
            "-bf",
            "0",
            "-f",
            "h264",
            "-an",
        )
        parts.append(run_ffmpeg(talking, tmp_path / "part.h264", *options))
    (tmp_path / "joined.h264").write_bytes(b"".join(parts))
    data = run_ffmpeg(tmp_path / "joined.h264", tmp_path / "joined.ts", "-c", "copy", before=("-r", "29.97"))
    decoded = media.decode_frames(data, [0.1, 0.3, 0.9, 1.5])
    assert {(picture.width, picture.height) for picture in decoded.pictures} == {(480, 270)}
    narrow = decoded.pictures[-1].to_ndarray(format="rgb24")
    assert narrow[:, :150].max() < 3  # black beside it
    found, replaced = cropped(data, detect)
    assert found.std((1, 2, 3, 4)).min() > 20


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("still_end.mp4", None),
        ("a.mp4", ("-vf", "select='lt(t,0.9)'", "-fps_mode", "vfr")),
        ("a.mkv", ("-vf", "select='lt(t,0.9)'", "-fps_mode", "vfr")),
        ("vfr.mp4", ("-vf", "select='lt(t,0.5)+gt(t,1.4)'", "-fps_mode", "vfr")),
        ("one.mp4", ("-vf", "select='eq(n,0)'", "-fps_mode", "vfr")),
        ("one.webm", ("-vf", "select='eq(n,0)'", "-fps_mode", "vfr", "-deadline", "realtime")),
        ("slow.avi", ("-r", "1", "-c:v", "mpeg4", "-q:v", "2")),
    ],
)
def test_frames_are_held_as_long_as_the_sound_goes_on(
    shared_data: Path, tmp_path: Path, talking: Path, detect: faces.Detect, name: str, options: tuple[str, ...] | None
) -> None:
    data = (
        (shared_data / "awkward" / name).read_bytes()
        if options is None
        else run_ffmpeg(talking, tmp_path / name, *options)
    )
    found, replaced = cropped(data, detect)
    assert replaced == 0
    assert found.std((2, 3, 4)).min() > 20
    if options is None or "lt(t,0.9)'" in options[1] or name.startswith("one"):
        assert np.array_equal(found[-1, -1], found[-1, -2])


BLANK = {
    "black start": "drawbox=c=black:t=fill:enable='lt(t,0.4)'",
    "white end": "drawbox=c=white:t=fill:enable='gt(t,1.7)'",
    "blue middle": "drawbox=c=blue:t=fill:enable='between(t,0.9,1.2)'",
    "fades in": "fade=in:d=0.4:alpha=0,fade=in:st=0.3:d=0.2",
    "black with noise": "drawbox=c=black:t=fill:enable='lt(t,0.4)',noise=alls=4",
    "black with a clock": "drawbox=c=black:t=fill:enable='lt(t,0.4)',drawbox=x=8:y=8:w=80:h=16:c=white:t=fill",
}


@pytest.mark.parametrize("kind", BLANK)
@pytest.mark.parametrize("searched", [True, False], ids=["retinaface", "centre"])
def test_blank_frames_are_replaced_by_the_nearest_that_shows_the_face(
    tmp_path: Path, talking: Path, detect: faces.Detect, kind: str, searched: bool
) -> None:
    data = run_ffmpeg(talking, tmp_path / "a.mp4", "-vf", BLANK[kind], *H264)
    found, replaced = cropped(data, detect if searched else None)
    whole, none = cropped(talking.read_bytes(), detect if searched else None)
    assert none == 0
    assert 1 <= replaced <= 3
    contrast = found.std((2, 3)).max(-1)
    assert contrast.min() > 0.3 * np.median(contrast)
    if kind != "fades in":
        same = np.abs(found.astype(int) - whole).mean((2, 3, 4)) < 15
        assert same.sum() >= 9  # the others show the face at another moment


def test_title_before_a_face_is_replaced(tmp_path: Path, talking: Path, detect: faces.Detect) -> None:
    """Colour bars are not blank, but show no face."""
    bars = "[0:v]null[a];smptebars=s=480x270:d=0.4:r=29.97[b];[a][b]overlay=enable='lt(t,0.4)'"
    data = run_ffmpeg(
        talking, tmp_path / "a.mp4", "-filter_complex", bars, "-c:v", "libx264", "-crf", "12", "-c:a", "copy"
    )
    found, replaced = cropped(data, detect)
    assert replaced in (2, 3)
    assert np.array_equal(found[0, 0], found[0, 1])
    assert np.abs(found[0, 0].astype(int) - found[0, 3]).mean() < 20


@pytest.mark.parametrize("colour", ["black", "white", "gray"])
def test_clip_with_too_many_blank_frames_is_excluded_and_others_are_counted(
    shared_data: Path, tmp_path: Path, talking: Path, colour: str, caplog: pytest.LogCaptureFixture
) -> None:
    clips = {
        name: (
            run_ffmpeg(talking, tmp_path / "x.mp4", "-vf", f"drawbox=c={colour}:t=fill:enable='lt(t,{end})'", *H264),
            2.0,
        )
        for name, end in (("a", 0.3), ("b", 0.9), ("c", 9), ("d", 0))
    }
    for section, reason in (
        (Faces(detector="centre", snippets=3, frames=4, size=32), "no picture"),
        (Faces(body="mobilenet0.25", snippets=3, frames=4, size=32), "no face"),
    ):
        extract(tmp_path, clips, section, weights=shared_data / "weights" / "mobilenet0.25_Final.pth")
        crops, table = read(tmp_path)
        assert [(line["clip"], line["status"], int(line["replaced"])) for line in table] == [
            ("a", "ok", 2), ("b", table[1]["status"], 0), ("c", f"{reason}: in 100% of the frames", 0), ("d", "ok", 0),
        ]  # fmt: skip
        assert re.fullmatch(f"{reason}: in [45].% of the frames", table[1]["status"])
        assert not crops[1:3].any()
        assert crops[0].std((2, 3, 4)).min() > 20
        assert "in 1 of 4 clips, 2 crops are of the nearest frame that shows the face" in caplog.text
        caplog.clear()
