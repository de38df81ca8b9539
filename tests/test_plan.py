"""What is left and what it takes: counted against what runs, and nothing made up where nothing was measured."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import micro
import pytest
from conftest import ROOT

from emofuse import params, plan, provenance
from emofuse.params import Params


def plan_of(name: str, folder: Path, loaded: Params | None = None) -> plan.Plan:
    return plan.make(name, provenance.Chain(loaded or params.load(folder / "params.yaml"), folder))


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A clone in which nothing has run."""
    micro.copy_tree(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _no_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAVDESS", "RAVDESS_AUDIO", "CREMAD"):
        monkeypatch.delenv(f"EMOFUSE_{name}_SOURCE", raising=False)


def clips(made: plan.Plan, stage: str) -> int:
    return made.stages[stage].clips.total()


@pytest.mark.parametrize(
    ("corpus", "number", "files", "unsaid"),
    # 24 video archives, one of sound, every flv; and the weights of both backbones and of the face detector.
    [("ravdess", 1440, 27, 27), ("ravdess_audio", 1440, 1, 0), ("cremad", 7442, 7445, 3), ("demo", 768, 0, 0)],
)
def test_before_anything_has_run_a_corpus_is_as_it_was_published(
    empty: Path, corpus: str, number: int, files: int, unsaid: int
) -> None:
    made = plan_of(corpus, empty)
    assert made.left == sum(work.jobs for work in made.stages.values())
    assert clips(made, "index") == clips(made, "audio") == number
    assert (len(made.fetched), sum(file.size is None for file in made.fetched)) == (files, unsaid)


def test_features_take_what_their_shapes_say(empty: Path) -> None:
    made = plan_of("ravdess", empty)
    assert made.features == 1440 * (6 * 16 * 112 * 112 * 3 + 2 * 6 * 256 * 64)


def test_a_training_sees_each_clip_once_an_epoch(empty: Path) -> None:
    made = plan_of("demo", empty)  # three folds of 8 actors tested, 2 validated, 14 trained on; 32 clips each
    assert clips(made, "train") == 15 * 12 * (14 + 2) * 32
    assert clips(made, "evaluate") == 15 * (8 + 2) * 32


def test_a_folder_of_clips_is_not_fetched(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOFUSE_CREMAD_SOURCE", str(empty))
    assert {file.path for file in plan_of("cremad", empty).fetched} == {
        "r3d_18-b3b3357e.pth",
        "resnet18-f37072fd.pth",
        "retinaface_resnet50_2020-07-20-f168fae3c.zip",
    }


def test_what_is_done_is_taken_off(micro_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "emofuse"
    shutil.copytree(micro_run, folder, symlinks=True)
    assert micro.run(folder, "emofuse", "plan", "demo") == "demo: 0 of 14 jobs are left\n"
    micro.change(folder, lambda loaded: loaded["corpora"]["demo"].update(seeds=[1, 2]))
    made = plan_of("demo", folder)
    assert {stage: work.left for stage, work in made.stages.items()} == {
        **dict.fromkeys(("download", "index", "faces", "audio", "splits"), 0),
        **dict.fromkeys(("train", "evaluate"), 2),
        **dict.fromkeys(("track", "report"), 1),
    }
    printed = micro.run(folder, "emofuse", "plan", "demo")
    assert "demo: 6 of 18 jobs are left" in printed


def test_hours_are_clips_times_what_was_measured(empty: Path) -> None:
    made = plan_of("demo", empty)
    everything = sum((work.clips for work in made.stages.values()), Counter[plan.Piece]())
    fast = {piece: plan.Cost(2.0, 1000, "2026-01-02") for piece in everything}
    slow = {piece: cost for piece, cost in fast.items() if piece.stage != "train"}
    lines = list(plan.text([made], [plan.Machine("A card", "cuda", fast), plan.Machine("A core", "cpu", slow)]))
    hours = 2.0 * everything.total() / 3600
    assert f"GPU hours, job after job: {hours:,.1f} on A card (2026-01-02)" in lines
    assert any(line.startswith("CPU hours") and line.endswith("; not measured: train") for line in lines)
    assert any("train" in line and "not measured" in line for line in lines)
    assert any("39 MB of features and 15 kB of models" in line for line in lines)


def test_what_was_not_measured_says_so(empty: Path) -> None:
    lines = list(plan.text([plan_of("demo", empty)], []))
    assert sum("hours: not measured" in line for line in lines) == 2
    assert any("15 files (size not measured) of models" in line for line in lines)


def test_other_parameters_are_other_pieces() -> None:
    loaded = params.load(ROOT / "params.yaml")
    corpus = loaded.corpora["demo"]
    larger = corpus.model_copy(update={"faces": corpus.faces.model_copy(update={"size": 64})})  # type: ignore[union-attr]
    run = loaded.run("demo", "proposed")
    before, after = plan.pieces(corpus, run), plan.pieces(larger, run)
    assert {stage for stage in before if before[stage] != after[stage]} == {"faces", "train", "evaluate"}
