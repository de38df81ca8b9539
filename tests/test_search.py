"""Comparing configurations: on development corpora only, after the last epoch only, nothing trained twice."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from test_training import change_features, make_corpus

from emofuse import config, paths
from emofuse.cli import main
from emofuse.training import checkpoint, search, train
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv

TINY = {
    "spectrogram": {"normalise": "clip"},
    "network": {"audio": {"backbone": "resnet10", "width": 8}, "dimension": 16, "heads": 4},
    "loss": {"metric": "none"},
    "training": {"warmup_epochs": 0, "emotions_per_batch": 4, "clips_per_emotion": 2, "threads": 1},
}
TABLE = Path(paths.search("demo"))


def candidate(epochs: int, learning_rate: float = 0.005) -> dict[str, object]:
    training = {**TINY["training"], "epochs": epochs, "learning_rate": learning_rate}
    return {"base": "audio_only", **TINY, "training": training}


def make_params(**section: Any) -> config.Params:
    """Those of the repository, with the demo as a development corpus."""
    params = config.load()
    changed = params.corpus("demo").model_copy(update={"development": True, **section})
    return params.model_copy(update={"corpora": {**params.corpora, "demo": changed}})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Fold 0 tests actor 1, fold 1 actor 2."""
    make_corpus(tmp_path).rename(tmp_path / "data" / "demo")
    folds = tmp_path / paths.splits("demo", "kfold_3")[1]
    lines = folds.read_text().splitlines()[1:]
    other = [line.replace("0,", "1,", 1) for line in lines]
    other = [line.replace(",val,", ",test,") if ",val," in line else line.replace(",test,", ",val,") for line in other]
    folds.write_text("\n".join(["fold,part,clip", *lines, *other]) + "\n")
    return tmp_path


def search_results(
    root: Path,
    configurations: object,
    folds: str | None = "0",
    params: config.Params | None = None,
    seed: int | None = None,
) -> list[dict[str, str]]:
    file = root / "candidates.yaml"
    file.write_text(
        configurations if isinstance(configurations, str) else yaml.safe_dump(configurations, sort_keys=False)
    )
    search.run(params or make_params(), "demo", "kfold_3", file, folds, seed, root)
    return read_csv(root / TABLE).to_dict("records")


def test_each_candidate_has_a_row_per_fold_with_the_scores_of_the_last_epoch(project: Path) -> None:
    rows = search_results(project, {"quick": candidate(1, 1e-6), "long": candidate(6)}, "0,1")
    assert [(row["config"], row["fold"], row["epochs"]) for row in rows] == [
        ("quick", "0", "1"), ("quick", "1", "1"), ("long", "0", "6"), ("long", "1", "6"),
    ]  # fmt: skip
    assert sum(float(row["uar"]) for row in rows[:2]) < sum(float(row["uar"]) for row in rows[2:])
    overrides = json.loads(rows[2]["overrides"])
    assert (overrides["base"], overrides["training"]["epochs"], overrides["network"]) == (
        "audio_only",
        6,
        TINY["network"],
    )
    other = search_results(project, {"quick": candidate(1, 1e-6)}, seed=5)
    assert [row["seed"] for row in other if row["config"] == "quick"] == ["1", "1", "5"]


def test_test_clips_are_read_for_the_scores_alone(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        (before,) = search_results(project, {"one": candidate(4)})
    messages = [record.message for record in caplog.records]
    assert [number for number, message in enumerate(messages) if "UAR" in message] == [len(messages) - 1]
    losses = [record.message.split(";")[0] for record in caplog.records if "loss" in record.message]
    caplog.clear()
    change_features(project / "data" / "demo", slice(8), np.nan)  # the test actor
    with caplog.at_level("INFO"):
        (after,) = search_results(project, {"one": candidate(4)})
    assert [record.message.split(";")[0] for record in caplog.records if "loss" in record.message] == losses
    assert float(after["uar"]) == 0.25 < float(before["uar"])


def test_a_finished_row_is_not_computed_again_unless_it_changed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"one": candidate(1), "two": candidate(2)}
    first = search_results(project, both)
    with monkeypatch.context() as patched:
        patched.setattr(search, "train", None)  # calling it would fail
        assert search_results(project, both) == first
    changed = search_results(project, {"two": candidate(3)})
    assert {row["config"]: row["epochs"] for row in changed} == {"one": "1", "two": "3"}
    assert changed[0] == first[0]

    again = search_results(project, both)
    change_features(project / "data" / "demo", slice(8, 16), 1)
    by_features = search_results(project, both)
    folds = project / paths.splits("demo", "kfold_3")[1]
    folds.write_text("".join(line for line in folds.read_text().splitlines(keepends=True) if "2-happy-" not in line))
    by_splits = search_results(project, both)
    other = make_params(audio=make_params().corpus("demo").audio.model_copy(update={"hop_ms": 9.0}))  # type: ignore[union-attr]
    by_parameters = search_results(project, both, params=other)
    for before, after in ((again, by_features), (by_features, by_splits), (by_splits, by_parameters)):
        assert [row["config"] for row in after] == ["one", "two"]
        assert all(one["inputs"] != two["inputs"] for one, two in zip(before, after, strict=True))


def test_an_interrupted_candidate_is_resumed(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (complete,) = search_results(project, {"one": candidate(3)})
    (project / TABLE).unlink()
    log_epoch = train.log_epoch

    def interrupting(progress: checkpoint.Progress, epochs: int) -> None:
        log_epoch(progress, epochs)
        if len(progress.history) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "INTERVAL", 0.0)
        patched.setattr(train, "log_epoch", interrupting)
        with pytest.raises(KeyboardInterrupt):
            search_results(project, {"one": candidate(3)})
    assert not (project / TABLE).exists()
    with caplog.at_level("INFO"):
        (finished,) = search_results(project, {"one": candidate(3)})
    assert "resumed after epoch 2 of 3" in caplog.text
    assert {**finished, "seconds": ""} == {**complete, "seconds": ""}
    assert not list(project.rglob("*.pt"))


def test_several_processes_write_to_one_table(project: Path) -> None:
    row = dict.fromkeys(search.COLUMNS, "1")
    lock = project / "lock"

    def write(number: int) -> None:
        with search.locked(lock):
            search._write(project / "table.csv", {**row, "config": f"c{number:02}"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    assert sorted(read_csv(project / "table.csv")["config"]) == [f"c{number:02}" for number in range(40)]


def test_a_corpus_whose_results_are_reported_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = project / "candidates.yaml"
    file.write_text(yaml.safe_dump({"one": candidate(1)}))
    assert main(["search", "demo", "kfold_3", str(file), "--folds", "0"]) == 2
    assert capsys.readouterr().err == (
        "emofuse: error: corpora.demo is not a development corpus: a recipe that is selected on its actors would be tested on the same"
        " actors; search on a corpus with development: true, or set training.selection: nested\n"
    )
    assert not (project / "results").exists()


@pytest.mark.parametrize(
    ("protocol", "folds", "message"),
    [
        ("kfold_3", "0,9", "--folds: corpora.demo.protocols.kfold_3 has no fold 9; it has 0–2"),
        ("kfold_3", "one", "expected numbers separated by commas, such as 0,1"),
        ("kfold_3", "", "expected numbers separated by commas"),
        ("random_kfold_3", "0", "search under a protocol by actor"),
        ("kfold_5", "0", "there is no protocol 'kfold_5'"),
    ],
)
def test_folds_that_cannot_be_searched_are_one_line(project: Path, protocol: str, folds: str, message: str) -> None:
    (project / "candidates.yaml").write_text(yaml.safe_dump({"one": candidate(1)}))
    params = make_params(protocols={"kfold_3": [0, 1, 2], "random_kfold_3": [0, 1, 2]})
    with pytest.raises(UserError) as caught:
        search.run(params, "demo", protocol, project / "candidates.yaml", folds, None, project)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


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
        (
            "a: {base: proposed, trainnig: {epochs: 3}}",
            "a.trainnig: no such section; there are base, network, spectrogram, loss, training",
        ),
        ("a: {base: proposed, training: {selection: nested}}", "candidates are trained to the last epoch"),
    ],
)
def test_a_mistake_in_the_candidates_is_one_line(project: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        search_results(project, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (project / "results").exists()
