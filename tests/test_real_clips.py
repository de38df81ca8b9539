"""Real RAVDESS and CREMA-D clips from a local folder through download, index, faces and audio."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from emofuse import cli
from emofuse.features import faces


def run_stages(
    corpus: str, shared: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, source: Path, shard: int
) -> None:
    for name in ("protocols", "corpora"):
        shutil.copytree(ROOT / name, folder / name)
    text = (ROOT / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("body: resnet50", "body: mobilenet0.25"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv(f"EMOFUSE_{corpus.upper()}_SOURCE", str(source))
    monkeypatch.setenv("EMOFUSE_WEIGHTS_SOURCE", str(shared / "weights"))
    for k in range(8):
        assert cli.main(["download", corpus, str(k)]) == 0
    assert cli.main(["index", corpus]) == 0
    assert cli.main(["weights", "retinaface_mobilenet0.25"]) == 0
    assert cli.main(["faces", corpus, str(shard)]) == 0
    assert cli.main(["audio", corpus, str(shard)]) == 0


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("corpus", "source", "shard", "clips", "actor", "emotions"),
    [
        ("ravdess", "ravdess_av", 1, 7, "5", {"neutral", "happy", "sad", "fearful", "surprised"}),
        ("cremad", "cremad", 0, 4, "1001", {"angry", "happy", "neutral", "sad"}),
    ],
)
def test_clips_become_faces_and_segments(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: str, source: str, shard: int, clips: int,
    actor: str, emotions: set[str],
) -> None:  # fmt: skip
    run_stages(corpus, shared_data, tmp_path, monkeypatch, shared_data / source, shard)
    index = rows(Path("data") / corpus / "index.csv")
    assert len(index) == clips
    assert {row["status"] for row in index} == {"ok"}
    assert {row["actor"] for row in index} == {actor}
    assert {row["emotion"] for row in index} == emotions
    features = Path("data") / corpus / "features"
    for stage in ("faces", "audio"):
        assert {row["status"] for row in rows(features / stage / f"shard-{shard}.csv")} == {"ok"}
    faces = np.load(features / "faces" / f"shard-{shard}.npy", mmap_mode="r")
    assert faces.shape == (clips, 6, 16, 112, 112, 3)
    assert all(clip.any() for clip in faces)
    columns = np.load(features / "audio" / f"shard-{shard}.npy", mmap_mode="r")
    lengths = [int(row["rows"]) for row in rows(features / "audio" / f"shard-{shard}.csv")]
    assert columns.shape == (sum(lengths), 256)
    seconds = [float(row["duration"]) for row in index]
    assert np.allclose(np.array(lengths) / 100, seconds, atol=0.15)  # a column every 10 ms
    assert all(clip.astype(np.float32).std() > 1 for clip in np.split(columns, np.cumsum(lengths)[:-1]))


@pytest.mark.integration
def test_every_clip_of_javased_can_be_used(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("protocols", "corpora"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOFUSE_JAVASED_SOURCE", str(shared_data / "javased"))
    monkeypatch.setenv("EMOFUSE_WEIGHTS_SOURCE", str(shared_data / "weights"))
    stages = [f"download javased {k}" for k in (0, 1)] + ["index javased", "weights retinaface_mobilenet0.25"]
    stages += [f"{stage} javased {k}" for stage in ("faces", "audio") for k in (0, 1)] + ["splits javased pairs_5cv"]
    for stage in stages:
        assert cli.main(stage.split()) == 0
    clips = rows(Path("data/javased/splits/pairs_5cv/clips.csv"))
    assert len(clips) == 240
    assert {row["reason"] for row in clips} == {""}
    assert sum(int(row["replaced"]) for row in clips) > 0  # 61 clips start with black frames
    assert {row["gender"] for row in clips} == {""}
    actor = {row["clip"]: row["actor"] for row in clips}
    folds = rows(Path("data/javased/splits/pairs_5cv/folds.csv"))
    for fold in range(5):
        parts = {
            part: {actor[r["clip"]] for r in folds if r["fold"] == str(fold) and r["part"] == part}
            for part in ("train", "val", "test")
        }
        assert parts["test"] == {str(fold + 1), str(fold + 6)}
        assert [len(found) for found in parts.values()] == [6, 2, 2]


def test_job_uses_only_its_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake sets OMP_NUM_THREADS; DVC, which runs one job at a time, does not."""
    granted: list[int] = []

    def extract(rows: object, archive: Path, section: object, output: Path, table: Path, *others: Any) -> None:
        granted.append(others[-1])
        for file in (output, table):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    monkeypatch.setattr(faces, "extract", extract)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    for name in ("protocols", "corpora"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("actors: 24, takes: 4", "actors: 4, takes: 1"))
    monkeypatch.chdir(tmp_path)
    for command in (["download", "demo", "0"], ["download", "demo", "1"], ["index", "demo"]):
        assert cli.main(command) == 0
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    output: "threads"\n    threads: 2\n    shell: "echo $OMP_NUM_THREADS > {output}"\n'
    )
    subprocess.run([sys.executable, "-m", "snakemake", "--cores", "2", "--quiet", "all"], check=True)
    for given, expected in ((Path("threads").read_text().strip(), 2), ("", 7)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert cli.main(["faces", "demo", "0"]) == 0
        assert granted.pop() == expected


def test_audio_recordings_become_folds(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses 6 of the 24 actors, a partial corpus, to be quick."""
    for name in ("protocols", "corpora"):
        shutil.copytree(ROOT / name, tmp_path / name)
    text = (ROOT / "params.yaml").read_text()
    old = "title: RAVDESS, speech recordings\n"
    assert old in text
    text = text.replace(old, old + "    actors: [1, 2, 3, 8, 10, 11]\n")
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOFUSE_RAVDESS_AUDIO_SOURCE", str(shared_data / "ravdess_speech_16k"))
    for k in range(8):
        assert cli.main(["download", "ravdess_audio", str(k)]) == 0
    assert cli.main(["index", "ravdess_audio"]) == 0
    for k in range(8):
        assert cli.main(["audio", "ravdess_audio", str(k)]) == 0
    assert cli.main(["splits", "ravdess_audio", "luna_jimenez_2022_5cv"]) == 0
    clips = rows(Path("data/ravdess_audio/splits/luna_jimenez_2022_5cv/clips.csv"))
    folds = rows(Path("data/ravdess_audio/splits/luna_jimenez_2022_5cv/folds.csv"))
    assert len(clips) == 360
    assert {row["usable"] for row in clips} == {"true"}
    assert sorted(row["clip"] for row in folds if row["part"] == "test") == sorted(row["clip"] for row in clips)
    pair = {"03-01-03-01-02-01-07", "03-01-03-01-02-02-07"}
    assert not pair & {row["clip"] for row in clips}
