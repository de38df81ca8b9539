from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emofuse import faces, media
from emofuse.corpora.base import write_shard
from emofuse.errors import UserError
from emofuse.params import Faces

RATE = 10.0


def encode(path: Path, levels: list[int], height: int = 64, width: int = 96) -> bytes:
    """A clip whose frames are plain grey of the given levels, with pure blue left and right of the centre square."""
    frames = np.zeros((len(levels), height, width, 3), np.uint8)
    frames[..., 2] = 255
    side = (width - height) // 2
    frames[:, :, side : width - side] = np.array(levels, np.uint8)[:, None, None, None]
    media.write_clip(path, frames, RATE, np.zeros(int(len(levels) / RATE * 16000), np.float32), 16000)
    return path.read_bytes()


def row(name: str, duration: float) -> dict[str, str]:
    return {"clip": name, "file": f"{name}.mp4", "duration": str(duration)}


def read(folder: Path) -> tuple[np.ndarray, list[dict[str, str]]]:
    with (folder / "faces.csv").open(newline="") as stream:
        return np.load(folder / "faces.npy"), list(csv.DictReader(stream))


def extract(folder: Path, clips: dict[str, tuple[bytes, float]], params: Faces, **more: object) -> None:
    archive = folder / "shard.zip"
    write_shard(archive, [(f"{name}.mp4", clips[name][0]) for name in sorted(clips)])
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
    assert table == [{"clip": "a", "row": "0", "status": "ok", "scores": "[]", "boxes": "[]", "times": "[]"}]


def test_a_bad_clip_gets_its_reason_and_zeros_and_harms_no_other(tmp_path: Path) -> None:
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


def test_an_empty_shard_is_empty(tmp_path: Path) -> None:
    extract(tmp_path, {}, CENTRE)
    crops, table = read(tmp_path)
    assert crops.shape == (0, 3, 2, 32, 32, 3)
    assert table == []


def test_a_stop_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    clip = encode(tmp_path / "a.mp4", [100] * 10)
    (tmp_path / "faces.csv").write_text("old")

    def stop(rows):  # type: ignore[no-untyped-def]
        yield rows[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, {"a": (clip, 1.0), "b": (clip, 1.0)}, CENTRE, progress=stop)
    assert (tmp_path / "faces.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "faces.csv", "shard.zip"]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"cannot write .*faces\.npy: No space left"):
        extract(tmp_path, {"a": (b"", 1.0)}, CENTRE)


def test_centre_does_without_torch() -> None:
    code = "import sys, emofuse.faces; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_retinaface_without_weights_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights"):
        faces.detector(Faces(body="mobilenet0.25"), None)
    with pytest.raises(UserError, match=r"none\.pth"):
        faces.detector(Faces(body="mobilenet0.25"), tmp_path / "none.pth")


def test_key_frames_are_the_ends_and_the_middles() -> None:
    assert faces.key_frames(3, 4) == [0, 2, 6, 10, 11]
    assert faces.key_frames(1, 1) == [0]
    assert faces.key_frames(2, 1) == [0, 1]


def box(x: float, y: float, width: float, height: float, score: float = 1.0) -> list[float]:
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2, score]


def test_the_largest_face_is_the_clips() -> None:
    def detect(frames: np.ndarray) -> list[np.ndarray]:
        return [np.array([box(10, 10, 8, 8, 0.99), box(40, 30, 20, 24, 0.9)]), np.empty((0, 5))]

    track = faces.track_face(np.zeros((2, 64, 64, 3), np.uint8), np.array([0.5, 1.5]), detect)
    assert track.found.tolist() == [True, False]
    assert track.boxes[0].tolist() == [30, 18, 50, 42]
    assert track.scores[0] == 0.9


def test_windows_follow_the_face_and_never_change_size() -> None:
    key_times = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
    x = 100 + 10 * key_times
    boxes = np.array([box(centre, 50, 30, 40)[:4] for centre in x])
    boxes[3, 3] += 6  # a mouth opens
    boxes[2] = np.nan  # a face is missed
    track = faces.Track(key_times, boxes, np.where(np.isnan(boxes[:, 0]), np.nan, 1.0))
    times = np.linspace(0, 4, 41)
    cuts = faces.windows(track, times, margin=0.25)
    assert np.allclose(cuts[:, 2:] - cuts[:, :2], 40 * 1.25, atol=4)
    assert np.ptp(cuts[:, 2] - cuts[:, 0]) < 1e-9
    centres = (cuts[:, 0] + cuts[:, 2]) / 2
    assert np.abs(centres - (100 + 10 * times)).max() < 5
    assert (np.diff(centres) >= 0).all()
    assert np.abs(np.diff(centres)).max() < 2


@given(
    st.integers(1, 40), st.integers(1, 40), st.floats(-30, 60), st.floats(-30, 60), st.floats(1, 50), st.integers(1, 24)
)
@settings(deadline=None)
def test_any_window_gives_a_crop_and_plain_stays_plain(
    height: int, width: int, left: float, top: float, side: float, size: int
) -> None:
    window = np.array([left, top, left + side, top + side])
    frame = np.full((height, width, 3), (10, 200, 90), np.uint8)
    cut = faces.crop(frame, window, size)
    assert cut.shape == (size, size, 3)
    assert (cut == frame[0, 0]).all()


def test_a_crop_is_the_frame_and_beyond_it_the_border_goes_on() -> None:
    frame = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    assert (faces.crop(frame, np.array([5.0, 4, 15, 14]), 10) == frame[4:14, 5:15]).all()
    beyond = faces.crop(frame, np.array([-4.0, -4, 6, 6]), 10)
    assert (beyond[4:, 4:] == frame[:6, :6]).all()
    assert (beyond[4:, :4] == frame[:6, :1]).all()
    assert (beyond[:4, 4:] == frame[:1, :6]).all()


def test_a_clip_without_a_face_says_so_and_borrows_no_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def detect(frames: np.ndarray) -> list[np.ndarray]:
        """A face in every frame that is bright in the middle."""
        seen = np.array([box(48, 32, 20, 24, 0.95)], np.float32)
        return [seen if frame[32, 48].mean() > 128 else np.empty((0, 5), np.float32) for frame in frames]

    monkeypatch.setattr(faces, "detector", lambda *_: detect)
    bright, dark = [200] * 10, [20] * 10
    mixed = dark[:7] + bright[:3]
    clips = {
        name: (encode(tmp_path / f"{name}.mp4", levels), 1.0)
        for name, levels in {"a": bright, "b": dark, "c": mixed, "d": bright}.items()
    }
    extract(tmp_path, clips, Faces(snippets=3, frames=4, size=16))
    crops, table = read(tmp_path)
    assert [line["status"] for line in table] == [
        "ok",
        "no face found in 5 of 5 key frames",
        "no face found in 3 of 5 key frames",
        "ok",
    ]
    assert not crops[1:3].any()
    assert json.loads(table[2]["scores"]) == [None, None, None, 0.95, 0.95]
    assert json.loads(table[2]["boxes"])[2:4] == [None, [38.0, 20.0, 58.0, 44.0]]
    assert np.allclose(
        json.loads(table[0]["times"]), faces.frame_times(1.0, 3, 4).ravel()[[0, 2, 6, 10, 11]], atol=1e-4
    )


def test_real_clips_get_centred_faces(shared_data: Path, tmp_path: Path) -> None:
    weights = shared_data / "weights" / "mobilenet0.25_Final.pth"
    files = [
        *sorted((shared_data / "ravdess_av").rglob("01-*.mp4")),
        *sorted((shared_data / "cremad" / "VideoFlash").glob("*.flv")),
    ]
    assert len(files) == 11
    clips = {}
    for file in files:
        data = file.read_bytes()
        clips[file.stem] = (data, media.probe(data).duration)
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
