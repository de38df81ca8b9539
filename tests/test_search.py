"""Comparing configurations: on validation actors only, each candidate logged, nothing trained twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from test_training import EMOTIONS, make_corpus

from emofuse import config
from emofuse.training import checkpoint, search, train
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv

TINY = {
    "network": {"audio": {"backbone": "resnet10", "width": 8}, "dimension": 16, "heads": 4},
    "loss": {"metric": "none"},
    "training": {"warmup_epochs": 0, "emotions_per_batch": 4, "clips_per_emotion": 2, "threads": 1},
}


def candidate(epochs: int, learning_rate: float = 0.005) -> dict[str, object]:
    training = {**TINY["training"], "epochs": epochs, "learning_rate": learning_rate}
    return {"base": "audio_only", **TINY, "training": training}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    make_corpus(tmp_path).rename(tmp_path / "data" / "demo")
    return tmp_path


def search_results(root: Path, configurations: object) -> list[dict[str, str]]:
    file = root / "candidates.yaml"
    file.write_text(configurations if isinstance(configurations, str) else yaml.safe_dump(configurations))
    search.run(config.load(), "demo", "kfold_3", 0, file, EMOTIONS, root, torch.device("cpu"))
    return read_csv(root / "results/demo/search.csv").to_dict("records")


def test_each_candidate_is_logged_and_the_best_is_marked(project: Path) -> None:
    rows = {row["config"]: row for row in search_results(project, {"quick": candidate(1, 1e-6), "long": candidate(6)})}
    assert {name: (row["epochs"], row["finished"], row["best"]) for name, row in rows.items()} == {
        "quick": ("1", "true", "false"),
        "long": ("6", "true", "true"),
    }
    assert float(rows["quick"]["val_uar"]) < float(rows["long"]["val_uar"]) <= 1
    overrides = json.loads(rows["long"]["overrides"])
    assert (overrides["base"], overrides["training"]["epochs"], overrides["network"]) == (
        "audio_only",
        6,
        TINY["network"],
    )


def test_no_test_clip_is_read(project: Path) -> None:
    folds = project / "data/demo/splits/kfold_3/folds.csv"
    complete = search_results(project, {"one": candidate(2)})
    folds.write_text("".join(line for line in folds.read_text().splitlines(keepends=True) if ",test," not in line))
    (project / "results/demo/search.csv").unlink()
    without = search_results(project, {"again": candidate(2)})
    assert [row["val_loss"] for row in complete] == [row["val_loss"] for row in without]


def test_a_finished_candidate_is_not_trained_again_unless_it_changed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search_results(project, {"one": candidate(1), "two": candidate(2)})
    with monkeypatch.context() as patched:
        patched.setattr(train, "train", None)  # calling it would fail
        assert search_results(project, {"one": candidate(1), "two": candidate(2)}) == first
    changed = search_results(project, {"two": candidate(3)})
    assert {row["config"]: row["epochs"] for row in changed} == {"one": "1", "two": "3"}


def interrupt(project: Path, monkeypatch: pytest.MonkeyPatch, name: str, epoch: int) -> None:
    """Train a candidate and interrupt it in that epoch."""
    update = search._Row.epoch

    def interrupting(self: search._Row, row: dict[str, float]) -> None:
        update(self, row)
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "INTERVAL", 0.0)
        patched.setattr(search._Row, "epoch", interrupting)
        with pytest.raises(KeyboardInterrupt):
            search_results(project, {name: candidate(3)})


SCORES = ("epochs", "val_war", "val_uar", "val_loss", "finished")


def test_an_interrupted_candidate_is_logged_and_resumed(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    complete = search_results(project, {"one": candidate(3)})
    (project / "results/demo/search.csv").unlink()
    interrupt(project, monkeypatch, "two", epoch=2)
    (interrupted,) = read_csv(project / "results/demo/search.csv").to_dict("records")
    assert (interrupted["epochs"], interrupted["finished"]) == ("2", "false")
    with caplog.at_level("INFO"):
        (finished,) = search_results(project, {"two": candidate(3)})
    assert "resumed after epoch 1 of 3" in caplog.text
    assert [finished[key] for key in SCORES] == [complete[0][key] for key in SCORES]
    assert not list(project.rglob("*.pt"))


def test_a_candidate_is_not_resumed_with_other_clips(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(project, monkeypatch, "one", epoch=2)
    folds = project / "data/demo/splits/kfold_3/folds.csv"
    folds.write_text("".join(line for line in folds.read_text().splitlines(keepends=True) if ",3-happy-" not in line))
    again, fresh = search_results(project, {"one": candidate(3), "two": candidate(3)})
    assert [again[key] for key in SCORES] == [fresh[key] for key in SCORES]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected configurations"),
        ("[1, 2]", "expected configurations"),
        ("a: {base: [", "not YAML"),
        ("a: 3", "a: base is missing; name the variant"),
        ("a: {training: {epochs: 3}}", "a: base is missing; name the variant"),
        ("../a: {base: proposed}", "not a valid name"),
        (f"{'a' * 300}: {{base: proposed}}", "not a valid name; use up to 100"),
        ("[" * 5000, "nested too deeply"),
        ("a: {base: propsed}", "propsed"),
        ("a: {base: proposed, training: {epoch: 3}}", "epoch"),
    ],
)
def test_a_mistake_in_the_candidates_is_one_line(project: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        search_results(project, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (project / "results").exists()
