"""The MLflow store: made once, mirrored from the files, shown live, seen in a real browser."""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emofuse import params as parameters
from emofuse import tracking
from emofuse.errors import UserError
from emofuse.files import sha256
from emofuse.tracking import Live, RunKey, store

EMOTIONS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
EPOCHS = 4
CURVES = ["learning_rate", "train_loss", "train_cross_entropy", "train_metric", "val_loss", "val_war", "val_uar"]
FOLDS = 3
VARIANTS = ["proposed", "audio_only"]
KEY = RunKey("demo", "kfold_3", "proposed", 1, 0)


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store of the surroundings, and short waits for a server that hangs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def make_params(corpus: str = "demo", folds: int = FOLDS) -> parameters.Params:
    section = {
        "kind": "demo",
        "title": "demo",
        "demo": {},
        "faces": {"detector": "centre", "snippets": 3},
        "audio": {"segments": 3},
        "protocols": {"kfold_3": list(range(folds))},
        "variants": VARIANTS,
    }
    return parameters.Params.model_validate(
        {
            "corpora": {corpus: section},
            "paper": [],
            "variants": {"proposed": {}, "audio_only": {"network": {"modalities": ["audio"]}}},
        }
    )


def write_fold(root: Path, key: RunKey, war: float) -> None:
    """The files of an evaluated fold, as train and evaluate write them."""
    stamp = root / "stamps" / key.corpus / f"train-{key.variant}.json"
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps({"params": {"variant": key.variant}, "code": "c"}))
    model = root / "models" / str(key)
    model.parent.mkdir(parents=True, exist_ok=True)
    with model.with_suffix(".csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["epoch", *CURVES, "best"])
        for epoch in range(1, EPOCHS + 1):
            writer.writerow([epoch, *(round(war / epoch + i, 3) for i in range(len(CURVES))), str(epoch == 2).lower()])
    model.with_suffix(".json").write_text(json.dumps({"seconds": 12.5, "epochs": EPOCHS, "device": "cpu"}))
    size = len(EMOTIONS)
    write = root / "results" / str(key) / "metrics.json"
    write.parent.mkdir(parents=True, exist_ok=True)
    fingerprint = dict.fromkeys(["model", "clips", "folds", "evaluate_stamp"], "0" * 64)
    metrics = {
        "corpus": key.corpus,
        "protocol": key.protocol,
        "variant": key.variant,
        "seed": key.seed,
        "fold": key.fold,
        "emotions": EMOTIONS,
        "actors": [1, 2],
        "clips": 10 * size,
        "war": war,
        "uar": war - 0.01,
        "macro_f1": war - 0.02,
        "recall": {**dict.fromkeys(EMOTIONS, war), "calm": None},
        "confusion": [[8 if i == j else int(j < 2) for j in range(size)] for i in range(size)],
        "validation": {"war": war, "uar": war},
        "calibration": {"temperature": 1.0 + war, "clips": 20},
        "fingerprint": {**fingerprint, "train_stamp": sha256(stamp)},
    }
    write.write_text(json.dumps(metrics))


def write_results(root: Path, corpus: str = "demo") -> list[RunKey]:
    keys = [RunKey(corpus, "kfold_3", variant, 1, fold) for variant in VARIANTS for fold in range(FOLDS)]
    for number, key in enumerate(keys):
        write_fold(root, key, 0.5 + number / 20)
    return keys


def runs_of(root: Path, corpus: str = "demo", view: str = "ACTIVE_ONLY") -> list[Any]:
    """All runs of the corpus, in the order of their keys, then of their ids."""
    client = tracking.open_store(root)
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(f"emofuse/{corpus}")
    found = client.search_runs([experiment.experiment_id], run_view_type=getattr(ViewType, view))
    return sorted(found, key=lambda run: (run.data.tags[store.RUN_KEY], run.info.run_id))


def summary(root: Path) -> list[tuple[str, str, float | None]]:
    return [(run.data.tags[store.RUN_KEY], run.info.status, run.data.metrics.get("war")) for run in runs_of(root)]


def in_process(action: Callable[..., object], *arguments: object, count: int = 1) -> list[int | None]:
    """Run `action(number, *arguments)` in `count` processes at once; their exit codes, negative for a signal."""
    context = multiprocessing.get_context("fork")  # MLflow is imported already, so each starts at once
    barrier = context.Barrier(count)

    def begin(number: int) -> None:
        barrier.wait()
        action(number, *arguments)

    processes = [context.Process(target=begin, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="session")
def mlflow_imported() -> None:
    store.set_up()
    import mlflow.tracking  # noqa: F401


@pytest.fixture(scope="session")
def tracked_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose folds have been mirrored, with their figures."""
    root = tmp_path_factory.mktemp("tracked")
    write_results(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.track("demo", make_params(), root)
    return root


@pytest.fixture
def tracked(tracked_once: Path, tmp_path: Path, no_figures: None) -> Path:
    """A copy of it: a store may be copied and moved. What is written after is without figures."""
    return shutil.copytree(tracked_once, tmp_path / "repository")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes most of the time, where a test is not about it."""
    monkeypatch.setattr("emofuse.report.figures.fold_figures", lambda metrics, history: {})


# --- mirroring


def test_every_fold_becomes_a_run_with_all_that_is_known_of_it(tracked: Path) -> None:
    runs = runs_of(tracked)
    children = [run for run in runs if store.PARENT in run.data.tags]
    parents = {run.info.run_id: run for run in runs if store.PARENT not in run.data.tags}
    assert len(children) == len(VARIANTS) * FOLDS
    assert len(parents) == len(VARIANTS)
    assert {run.info.status for run in runs} == {"FINISHED"}

    run = next(run for run in children if run.data.tags[store.RUN_KEY] == str(KEY))
    metrics = json.loads((tracked / "results" / str(KEY) / "metrics.json").read_text())
    assert run.info.run_name == "proposed seed-1 fold-0"
    assert parents[run.data.tags[store.PARENT]].data.tags[store.RUN_KEY] == KEY.group
    assert {name: run.data.metrics[name] for name in ("war", "uar", "macro_f1")} == {
        name: metrics[name] for name in ("war", "uar", "macro_f1")
    }
    assert run.data.metrics["recall/happy"] == metrics["recall"]["happy"]
    assert "recall/calm" not in run.data.metrics  # no clip of it was tested
    assert run.data.metrics["calibration/temperature"] == metrics["calibration"]["temperature"]
    assert run.data.params["training.epochs"] == "30"
    assert run.data.params["network.video.backbone"] == "r3d_18"
    assert run.data.params["fold"] == "0"
    assert run.data.tags["emofuse.sha256.model"] == "0" * 64
    assert run.data.tags["emofuse.sha256.train_stamp"] == metrics["fingerprint"]["train_stamp"]
    assert run.info.end_time - run.info.start_time == 12500

    client = tracking.open_store(tracked)
    for name in CURVES:
        history = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == list(range(1, EPOCHS + 1)), name
    folder = store.artifacts(run, tracked)
    assert sorted(file.name for file in folder.iterdir()) == [
        "confusion.png", "history.csv", "learning_curve.png", "metrics.json", "training.json",
    ]  # fmt: skip


def test_a_parent_run_has_mean_and_deviation_over_its_folds(tracked: Path) -> None:
    parent = next(run for run in runs_of(tracked) if run.data.tags[store.RUN_KEY] == KEY.group)
    wars = [0.5, 0.55, 0.6]
    assert parent.data.metrics["war"] == pytest.approx(statistics.mean(wars))
    assert parent.data.metrics["war_sd"] == pytest.approx(statistics.stdev(wars))
    assert parent.data.metrics["folds"] == FOLDS
    assert "fold" not in parent.data.params


def test_tracking_twice_changes_nothing(tracked: Path) -> None:
    listed = tracked / "results" / "demo" / "tracked.csv"
    before, text = runs_of(tracked, view="ALL"), listed.read_bytes()
    tracking.track("demo", make_params(), tracked)
    after = runs_of(tracked, view="ALL")
    assert [run.to_dictionary() for run in after] == [run.to_dictionary() for run in before]
    assert listed.read_bytes() == text
    rows = list(csv.DictReader(text.decode().splitlines()))
    assert [row["run_key"] for row in rows[:2]] == [
        "demo/kfold_3/proposed/seed-1/fold-0",
        "demo/kfold_3/proposed/seed-1/fold-1",
    ]
    assert rows[0]["fingerprint"] == sha256(tracked / "results" / str(KEY) / "metrics.json")
    assert rows[0]["war"] == "0.5"


def test_a_changed_fold_replaces_its_run_and_its_parents_scores(tracked: Path) -> None:
    before = {run.data.tags[store.RUN_KEY]: run.info.run_id for run in runs_of(tracked)}
    write_fold(tracked, KEY, 0.9)
    tracking.track("demo", make_params(), tracked)
    runs = runs_of(tracked, view="ALL")  # deleted ones too: there is none
    after = {run.data.tags[store.RUN_KEY]: run for run in runs}
    assert len(runs) == len(before)
    assert {key for key in before if before[key] != after[key].info.run_id} == {str(KEY), KEY.group}
    assert after[str(KEY)].data.metrics["war"] == 0.9
    assert after[KEY.group].data.metrics["war"] == pytest.approx(statistics.mean([0.9, 0.55, 0.6]))
    for fold in range(FOLDS):
        child = after[f"{KEY.group}/fold-{fold}"]
        assert child.data.tags[store.PARENT] == after[KEY.group].info.run_id
    folders = {path.name for path in (tracked / "mlartifacts" / "demo").iterdir()}
    assert folders == {run.info.run_id for run in runs}


def test_a_lost_store_is_rebuilt_from_the_files(tracked: Path) -> None:
    expected = summary(tracked)
    clone = shutil.copytree(tracked, tracked.parent / "clone", ignore=shutil.ignore_patterns("mlflow.db*"))
    tracking.track("demo", make_params(), clone)
    assert summary(clone) == expected
    folders = list((clone / "mlartifacts" / "demo").iterdir())
    assert len(folders) == len(VARIANTS) * (FOLDS + 1), "the lost store's artefacts are still there"


def test_runs_without_files_or_place_in_params_stay_and_say_so(tracked: Path) -> None:
    gone = RunKey("demo", "kfold_3", "audio_only", 1, 0)
    kept = tracked / "kept.json"
    metrics = tracked / "results" / str(gone) / "metrics.json"
    metrics.rename(kept)
    tracking.track("demo", make_params(folds=2), tracked)
    states = {run.data.tags[store.RUN_KEY]: run.data.tags[store.STATE] for run in runs_of(tracked)}
    assert len(states) == len(VARIANTS) * (FOLDS + 1)
    assert states[str(gone)] == "no results on disk"
    assert states[f"{gone.group}/fold-2"] == "no longer in params.yaml"
    assert states[str(KEY)] == states[KEY.group] == "current"
    kept.rename(metrics)
    tracking.track("demo", make_params(), tracked)
    assert {run.data.tags[store.STATE] for run in runs_of(tracked)} == {"current"}


def test_parameters_that_a_fold_was_not_trained_with_are_not_shown_as_its_own(
    tracked: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tracked / "stamps" / "demo" / "train-proposed.json").write_text("{}")
    tracking.track("demo", make_params(), tracked)
    run = next(run for run in runs_of(tracked) if run.data.tags[store.RUN_KEY] == str(KEY))
    assert "training.epochs" not in run.data.params
    assert "train it again" in caplog.text


def test_a_clone_without_models_is_mirrored_without_curves(tmp_path: Path) -> None:
    write_results(tmp_path)
    for folder in ("models", "stamps"):
        shutil.rmtree(tmp_path / folder)
    tracking.track("demo", make_params(), tmp_path)
    run = next(run for run in runs_of(tmp_path) if run.data.tags[store.RUN_KEY] == str(KEY))
    assert run.data.metrics["war"] == 0.5
    assert {file.name for file in store.artifacts(run, tmp_path).iterdir()} == {"confusion.png", "metrics.json"}


def test_files_that_are_not_here_do_not_leave_the_store(tracked: Path) -> None:
    before = [run.to_dictionary() for run in runs_of(tracked, view="ALL")]
    for folder in ("models", "stamps"):
        shutil.rmtree(tracked / folder)
    tracking.track("demo", make_params(), tracked)
    assert [run.to_dictionary() for run in runs_of(tracked, view="ALL")] == before
    run = next(run for run in runs_of(tracked) if run.data.tags[store.RUN_KEY] == str(KEY))
    assert (store.artifacts(run, tracked) / "history.csv").is_file()


def test_runs_of_another_layout_are_written_anew(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {run.info.run_id for run in runs_of(tracked)}
    monkeypatch.setattr(store, "LAYOUT", f"{store.LAYOUT}, changed")
    tracking.track("demo", make_params(), tracked)
    after = {run.info.run_id for run in runs_of(tracked, view="ALL")}
    assert len(after) == len(before)
    assert not after & before


@pytest.mark.parametrize(
    ("file", "text"), [("results", "{}"), ("results", "[1"), ("models", "epoch,train_loss\nfirst,1\n")]
)
def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path, file: str, text: str) -> None:
    write_results(tmp_path)
    path = Path(str(KEY)) / "metrics.json" if file == "results" else Path(f"{KEY}.csv")
    (tmp_path / file / path).write_text(text)
    with pytest.raises(UserError, match=re.escape(str(path))):
        tracking.track("demo", make_params(), tmp_path)


def test_a_corpus_without_results_is_an_error_that_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="snakemake demo"):
        tracking.track("demo", make_params(), tmp_path)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_file_that_is_no_store_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    write_results(tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
    with pytest.raises(UserError, match=r"delete it and rebuild it by `emofuse track`"):
        tracking.track("demo", make_params(), tmp_path)


def test_the_store_survives_being_moved(tracked: Path) -> None:
    moved = tracked.parent / "a place with spaces, é and 100%"
    shutil.move(tracked, moved)
    run = next(run for run in runs_of(moved) if run.data.tags[store.RUN_KEY] == str(KEY))
    assert str(tracked.parent) not in run.info.artifact_uri
    assert (store.artifacts(run, moved) / "confusion.png").is_file()
    before = summary(moved)
    tracking.track("demo", make_params(), moved)
    assert summary(moved) == before


# --- many at once, and killed


def live_fold(number: int, root: Path, epochs: int) -> None:
    with Live(RunKey("demo", "kfold_8", "proposed", 1, number), {}, root, delay=0, interval=0) as live:
        for epoch in range(1, epochs + 1):
            live.epoch({"epoch": epoch, "train_loss": 1 / epoch, "val_uar": number / 10})


@pytest.mark.usefixtures("mlflow_imported", "no_figures")
@pytest.mark.parametrize("made", [False, True], ids=["no store yet", "store there"])
def test_eight_processes_at_once_lose_nothing(tmp_path: Path, made: bool) -> None:
    if made:
        store.make_store(tmp_path)
    assert in_process(live_fold, tmp_path, 5, count=8) == [0] * 8
    runs = runs_of(tmp_path)
    children = [run for run in runs if store.PARENT in run.data.tags]
    assert len(children) == 8
    assert len(runs) == 9, "one parent for all"
    assert {run.info.status for run in runs} == {"FINISHED"}
    client = tracking.open_store(tmp_path)
    for run in children:
        for name in ("train_loss", "val_uar"):
            assert [p.step for p in client.get_metric_history(run.info.run_id, name)] == [1, 2, 3, 4, 5]
    assert not list(tmp_path.glob(".mlflow.db*"))


@pytest.mark.usefixtures("mlflow_imported", "no_figures")
def test_eight_trackers_at_once_write_each_run_once(tmp_path: Path) -> None:
    write_results(tmp_path)

    def work(_: int) -> None:
        tracking.track("demo", make_params(), tmp_path)

    assert in_process(work, count=8) == [0] * 8
    assert len(runs_of(tmp_path, view="ALL")) == len(VARIANTS) * (FOLDS + 1)


@pytest.mark.usefixtures("mlflow_imported", "no_figures")
def test_a_process_killed_while_it_makes_the_store_leaves_no_half_store(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=tracking.open_store, args=(tmp_path,))
    process.start()
    while process.is_alive() and not any(half.stat().st_size for half in tmp_path.glob(".mlflow.db.*")):
        time.sleep(0.001)
    process.kill()
    process.join()
    assert list(tmp_path.glob(".mlflow.db.*")), "it was killed too late to show anything"
    assert not (tmp_path / "mlflow.db").exists()
    assert tracking.open_store(tmp_path).search_experiments()
    assert not list(tmp_path.glob(".mlflow.db.*"))


@pytest.mark.usefixtures("mlflow_imported", "no_figures")
def test_a_killed_training_then_track_leaves_one_finished_run(tmp_path: Path) -> None:
    write_results(tmp_path)

    def work(_: int) -> None:
        with Live(KEY, {}, tmp_path, delay=0, interval=0) as live:
            live.epoch({"epoch": 1, "train_loss": 1.0})
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_process(work) == [-signal.SIGKILL]
    assert [status for key, status, _ in summary(tmp_path) if key == str(KEY)] == ["RUNNING"]
    tracking.track("demo", make_params(), tmp_path)
    assert len(runs_of(tmp_path, view="ALL")) == len(VARIANTS) * (FOLDS + 1)
    assert {run.info.status for run in runs_of(tmp_path)} == {"FINISHED"}
    run = next(run for run in runs_of(tmp_path) if run.data.tags[store.RUN_KEY] == str(KEY))
    history = tracking.open_store(tmp_path).get_metric_history(run.info.run_id, "train_loss")
    assert len(history) == EPOCHS


@pytest.mark.usefixtures("mlflow_imported", "no_figures")
def test_a_tracker_killed_half_way_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path)
    send = store.send_metrics
    calls = []

    def dies(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 4:  # a parent and two folds are whole by then
            os.kill(os.getpid(), signal.SIGKILL)
        send(*arguments)

    def work(_: int) -> None:
        monkeypatch.setattr(store, "send_metrics", dies)
        tracking.track("demo", make_params(), tmp_path)

    assert in_process(work) == [-signal.SIGKILL]
    before = {run.info.run_id: run.info.status for run in runs_of(tmp_path)}
    assert sorted(before.values()) == ["FINISHED"] * 3 + ["RUNNING"]
    tracking.track("demo", make_params(), tmp_path)
    after = runs_of(tmp_path, view="ALL")
    assert len(after) == len(VARIANTS) * (FOLDS + 1)
    assert {run.info.status for run in after} == {"FINISHED"}
    kept = {run_id for run_id, status in before.items() if status == "FINISHED"}
    assert kept < {run.info.run_id for run in after}, "what was whole was written again"


# --- live


def test_a_short_training_does_not_even_import_mlflow(tmp_path: Path) -> None:
    program = (
        "import sys; from emofuse.tracking import Live, RunKey\n"
        "with Live(RunKey('demo', 'kfold_3', 'proposed', 1, 0), {}) as live:\n"
        "    live.epoch({'epoch': 1, 'train_loss': 1.0})\n"
        "sys.exit(any(name in sys.modules for name in ('mlflow', 'torch', 'pandas', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_running_training_can_be_watched_and_is_left_alone_by_track(tracked: Path) -> None:
    with Live(KEY, {"note": "mine"}, tracked, delay=0, interval=0) as live:
        live.epoch({"epoch": 1, "learning_rate": 0.1, "train_loss": 2.0, "best": True, "val_uar": 0.1})
        write_fold(tracked, RunKey("demo", "kfold_3", "proposed", 1, 1), 0.9)  # so the parent is replaced
        tracking.track("demo", make_params(), tracked)
        live.epoch({"epoch": 2, "learning_rate": 0.1, "train_loss": 1.0, "best": False, "val_uar": 0.2})
        running = [run for run in runs_of(tracked) if run.info.status == "RUNNING"]
        assert [run.data.tags["note"] for run in running] == ["mine"]
        parent = next(run for run in runs_of(tracked) if run.data.tags[store.RUN_KEY] == KEY.group)
        assert running[0].data.tags[store.PARENT] == parent.info.run_id
        history = tracking.open_store(tracked).get_metric_history(running[0].info.run_id, "train_loss")
        assert [(point.step, point.value) for point in history] == [(1, 2.0), (2, 1.0)]
        assert "best" not in running[0].data.metrics
    tracking.track("demo", make_params(), tracked)
    assert len(runs_of(tracked, view="ALL")) == len(VARIANTS) * (FOLDS + 1)


def test_a_stopped_training_shows_once_when_it_is_resumed(tmp_path: Path) -> None:
    def stopped() -> None:
        with Live(KEY, {}, tmp_path, delay=0) as live:
            live.epoch({"epoch": 1, "train_loss": 2.0})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [status for key, status, _ in summary(tmp_path) if key == str(KEY)] == ["KILLED"]
    with Live(KEY, {}, tmp_path, delay=0) as live:
        live.epoch({"epoch": 2, "train_loss": 1.0})
    assert [status for key, status, _ in summary(tmp_path) if key == str(KEY)] == ["FINISHED"]


@pytest.mark.usefixtures("mlflow_imported", "no_figures")
def test_a_training_whose_turn_does_not_come_shows_all_of_itself_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("emofuse.tracking.live.TURN", 0.1)
    store.make_store(tmp_path)
    with Live(KEY, {}, tmp_path, delay=0, interval=0) as live:
        with store.lock(tmp_path):
            live.epoch({"epoch": 1, "val_uar": 0.1})
        live.epoch({"epoch": 2, "val_uar": 0.2})
    (run,) = (run for run in runs_of(tmp_path) if run.data.tags[store.RUN_KEY] == str(KEY))
    history = store.open_store(tmp_path).get_metric_history(run.info.run_id, "val_uar")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2)]
    assert not caplog.text


@pytest.mark.parametrize("server", ["dead", "silent"])
@pytest.mark.usefixtures("mlflow_imported", "no_figures")
def test_a_server_that_fails_costs_one_warning_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: str
) -> None:
    write_results(tmp_path)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # and never answers
        port = 9 if server == "dead" else silent.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        started = time.monotonic()
        with caplog.at_level(logging.WARNING), Live(KEY, {}, tmp_path, delay=0, interval=0) as live:
            for epoch in range(1, 50):
                live.epoch({"epoch": epoch, "train_loss": 1 / epoch})
        assert time.monotonic() - started < (1.5 if server == "dead" else 4)
        assert len(caplog.records) == 1
        assert "emofuse track demo" in caplog.text
        if server == "dead":
            with pytest.raises(UserError, match=r"MLflow at http://127.0.0.1:9: .*run again"):
                tracking.track("demo", make_params(), tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.track("demo", make_params(), tmp_path)
    run = next(run for run in runs_of(tmp_path) if run.data.tags[store.RUN_KEY] == str(KEY))
    assert len(tracking.open_store(tmp_path).get_metric_history(run.info.run_id, "train_loss")) == EPOCHS


# --- a server, and the UI in a browser


@pytest.fixture(scope="module")
def ui(tracked_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`emofuse ui` on a free port over a store with the folds of `demo`: its address and folder."""
    root = shutil.copytree(tracked_once, tmp_path_factory.mktemp("ui") / "repository")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = f"from emofuse import tracking; tracking.serve({port})"
    with (root / "ui.log").open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", program], cwd=root, stdout=output, stderr=output, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1500):  # a busy machine takes minutes; a server that ended is seen at once
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (root / "ui.log").read_text()
                time.sleep(0.2)
        else:
            pytest.fail((root / "ui.log").read_text())
        yield address, root
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def test_a_server_by_address_gets_the_same_runs(
    ui: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ui[0])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    write_results(tmp_path, "second")
    with Live(RunKey("second", "kfold_3", "proposed", 1, 0), {}, tmp_path, delay=0) as live:
        live.epoch({"epoch": 1, "train_loss": 1.0})
    tracking.track("second", make_params("second"), tmp_path)
    before = [run.to_dictionary() for run in runs_of(tmp_path, "second")]
    assert len(before) == len(VARIANTS) * (FOLDS + 1)
    tracking.track("second", make_params("second"), tmp_path)
    assert [run.to_dictionary() for run in runs_of(tmp_path, "second")] == before
    child = next(run for run in runs_of(tmp_path, "second") if store.PARENT in run.data.tags)
    client = tracking.open_store(tmp_path)
    assert {item.path for item in client.list_artifacts(child.info.run_id)} >= {"metrics.json", "confusion.png"}
    assert not (tmp_path / "mlflow.db").exists()


def test_the_files_come_back_from_a_server(
    ui: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ui[0])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    params, here, clone = make_params("third"), tmp_path / "here", tmp_path / "clone"
    keys = write_results(here, "third")
    (here / "results" / str(keys[0]) / "embeddings.safetensors").write_bytes(os.urandom(1 << 20))
    tracking.track("third", params, here)
    clone.mkdir()
    tracking.restore("third", params, clone)
    for key in keys:
        for path in key.files.values():
            assert (clone / path).exists() == (here / path).exists(), path
            assert not (here / path).exists() or (clone / path).read_bytes() == (here / path).read_bytes(), path
    shutil.rmtree(clone)

    run = next(run for run in runs_of(here, "third") if run.data.tags[store.RUN_KEY] == str(keys[0]))
    copy = next(ui[1].glob(f"mlartifacts/*/{run.info.run_id}/artifacts/embeddings.safetensors"))
    for how in ("damaged", "missing"):
        copy.write_bytes(b"other") if how == "damaged" else copy.unlink()
        clone.mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"embeddings.safetensors: its copy in the store.* is {how}"):
            tracking.restore("third", params, clone)
        assert not list(clone.rglob("embeddings.safetensors"))


def test_the_runs_are_seen_in_a_real_browser(ui: tuple[str, Path], tmp_path: Path) -> None:
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        message = "no chromium: install it to see the MLflow UI tested"
        (pytest.fail if os.environ.get("EMOFUSE_REQUIRE_BROWSER") else pytest.skip)(message)
    from playwright.sync_api import expect, sync_playwright

    address, root = ui
    experiment = tracking.open_store(root).get_experiment_by_name("emofuse/demo")
    child = next(run for run in runs_of(root) if run.data.tags[store.RUN_KEY] == str(KEY))
    page_of = f"{address}/#/experiments/{experiment.experiment_id}/runs"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(page_of)
        for variant in VARIANTS:
            expect(page.get_by_text(f"{variant} kfold_3 seed-1").first).to_be_visible(timeout=180000)
        page.screenshot(path=tmp_path / "runs.png")
        page.goto(f"{page_of}/{child.info.run_id}")
        expect(page.get_by_text("proposed seed-1 fold-0").first).to_be_visible(timeout=180000)
        page.goto(f"{page_of}/{child.info.run_id}/artifacts/confusion.png")
        expect(page.get_by_text("learning_curve.png").first).to_be_visible(timeout=180000)
        page.wait_for_timeout(1500)
        page.screenshot(path=tmp_path / "figure.png")
        browser.close()
    assert (tmp_path / "runs.png").stat().st_size > 20000


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="choose another"):
            tracking.serve(taken.getsockname()[1], tmp_path)


def test_the_ui_of_a_server_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    with pytest.raises(UserError, match="open it in a browser"):
        tracking.serve(5000)
