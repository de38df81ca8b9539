"""MLflow: live runs, scores, reruns, failing servers, and the UI in a browser."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fake_results as fake
import nolocks
import pytest
import servers
from fake_results import EPOCHS, KEYS, SETTINGS, VARIANTS

from emofuse import paths, tracking
from emofuse.paths import RunKey
from emofuse.tracking import TrainingRun
from emofuse.utils.errors import UserError

KEY = KEYS[0]
TAGS = {"mlflow.source.git.commit": "c" * 40, "emofuse.dirty": "false"}
PARAMETERS = {**SETTINGS, **KEY.asdict()}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the user's settings, track short trainings too, and give up unresponsive servers quickly."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(tracking, "SHORT", 0)
    monkeypatch.setattr(tracking, "INTERVAL", 0.05)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without experiments, to be copied, because creating one takes seconds."""
    tracking.configure()
    from mlflow import MlflowClient

    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{store}")
    return store


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    """A repository with an empty store. Its name has characters with a special meaning in addresses."""
    folder = tmp_path / "a repository #1 über 100%"
    folder.mkdir()
    shutil.copy(empty_store, folder)
    return folder


def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root}/mlflow.db")


def runs(root: Path, experiment: str = "emofuse/demo", deleted: bool = False) -> list[Any]:
    """The active (or deleted) runs of an experiment, by tag."""
    from mlflow.entities import ViewType

    if "MLFLOW_TRACKING_URI" not in os.environ and not (root / "mlflow.db").exists():
        return []  # MLflow would create a store
    found = client(root).get_experiment_by_name(experiment)
    if found is None:
        return []
    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    listed = client(root).search_runs([found.experiment_id], run_view_type=view)
    return sorted(listed, key=lambda run: (run.data.tags["emofuse.run"], run.info.start_time))


def run_of(root: Path, key: RunKey = KEY) -> Any:
    """The only run of a fold."""
    (run,) = (run for run in runs(root) if run.data.tags["emofuse.run"] == str(key))
    return run


def curve(root: Path, run: Any, name: str = "val_uar") -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(root).get_metric_history(run.info.run_id, name)]


def until(condition: Callable[[], Any], seconds: float = 180) -> Any:
    """The value of a condition, once it is true."""
    deadline = time.monotonic() + seconds
    while True:
        with suppress(ValueError):
            if found := condition():
                return found
        assert time.monotonic() < deadline
        time.sleep(0.1)


def train(root: Path, key: RunKey = KEY, war: float = 0.6) -> None:
    """A complete training: a live run, and its files."""
    with TrainingRun(key, {**SETTINGS, **key.asdict()}, TAGS, root / paths.splits("demo", "kfold_3")[0], root) as live:
        for row in fake.history(war):
            live.epoch(row)
        fake.train(root, key, war)
        until(lambda: is_running(root, key))


def is_running(root: Path, key: RunKey) -> bool:
    return any(run.data.tags["emofuse.run"] == str(key) and run.info.status == "RUNNING" for run in runs(root))


def contents(root: Path) -> list[dict[str, Any]]:
    """The complete content of all runs."""
    return [run.to_dictionary() for run in runs(root)]


# --- a training


def test_a_training_is_live(root: Path) -> None:
    fake.train(root, KEY)
    clips = root / paths.splits("demo", "kfold_3")[0]
    with TrainingRun(KEY, PARAMETERS, TAGS, clips, root) as live:
        live.epoch({"epoch": 1, "train_loss": 2.0, "val_uar": 0.1})
        live.epoch({"epoch": 2, "train_loss": float("nan"), "val_uar": 0.2})
        run = until(lambda: "val_uar" in run_of(root).data.metrics and run_of(root))
        assert run.info.status == "RUNNING"
        assert curve(root, run) == [(1, 0.1), (2, 0.2)]
        assert curve(root, run, "train_loss") == [(1, 2.0)]
        live.epoch({"epoch": 3, "train_loss": 1.0, "val_uar": 0.3})
        until(lambda: len(curve(root, run)) == 3)
    parent, run = runs(root)
    assert run.info.status == parent.info.status == "FINISHED"
    assert (parent.info.run_name, run.info.run_name) == ("proposed kfold_3 seed-1", "fold-0 proposed seed-1")
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert TAGS.items() <= run.data.tags.items()
    assert run.data.params["network.video.width"] == "64"
    assert run.data.params["network.modalities"] == "['audio']"
    assert run.data.params["fold"] == "0"
    assert parent.data.params == {"corpus": "demo", "protocol": "kfold_3", "variant": "proposed", "seed": "1"}
    (data,) = run.inputs.dataset_inputs
    assert data.dataset.name == "demo/kfold_3 fold 0"
    assert '"num_rows": 2' in data.dataset.profile


@pytest.mark.parametrize(("error", "status"), [(UserError("NaN"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_training_that_ends_early_has_that_status(root: Path, error: BaseException, status: str) -> None:
    def fail() -> None:
        with TrainingRun(KEY, PARAMETERS, TAGS, None, root) as live:
            live.epoch(fake.history()[0])
            until(lambda: is_running(root, KEY))
            raise error

    with pytest.raises(type(error)):
        fail()
    assert run_of(root).info.status == status
    assert len(curve(root, run_of(root))) == 1


def test_a_resumed_training_has_the_earlier_epochs(root: Path) -> None:
    history = fake.history(epochs=400)  # more points than MLflow accepts per call
    with TrainingRun(KEY, PARAMETERS, TAGS, None, root) as live:
        live.resumed(history[:-1])
        until(lambda: run_of(root))
        live.epoch(history[-1])
    assert curve(root, run_of(root)) == [(row["epoch"], row["val_uar"]) for row in history]


def test_a_killed_training_that_starts_again_leaves_one_run(root: Path) -> None:
    def killed() -> None:
        with TrainingRun(KEY, PARAMETERS, TAGS, None, root) as live:
            live.epoch(fake.history()[0])
            until(lambda: run_of(root).data.metrics)
            os.kill(os.getpid(), signal.SIGKILL)

    assert at_once(killed) == [-signal.SIGKILL]
    assert run_of(root).info.status == "RUNNING"
    train(root)
    assert run_of(root).info.status == "FINISHED"
    assert len(curve(root, run_of(root))) == EPOCHS


def test_a_short_training_does_not_import_mlflow(tmp_path: Path) -> None:
    program = f"""
import sys
from emofuse.tracking import RunKey, TrainingRun
with TrainingRun({KEY!r}, {{}}, {{}}) as live:
    live.epoch({{"epoch": 1, "val_uar": 0.1}})
assert "mlflow" not in sys.modules
"""
    started = time.monotonic()
    printed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert printed.stdout + printed.stderr == ""
    assert time.monotonic() - started < 4
    assert not list(tmp_path.iterdir())


# --- an evaluation


def test_an_evaluation_completes_the_run_of_its_training(root: Path) -> None:
    fake.train(root, KEY)
    train(root)
    trained = run_of(root)
    fake.evaluate(root, KEY, 0.6)
    tracking.evaluated(KEY, root)
    parent, run = runs(root)
    assert run.info.run_id == trained.info.run_id
    assert run.info.status == "FINISHED"
    expected = {"war": 0.6, "uar": 0.59, "macro_f1": 0.58, "recall_happy": 0.6, "kept_val_uar": 0.6}
    assert {**expected, "temperature": 1.5, "seconds": 12.5}.items() <= run.data.metrics.items()
    assert run.data.tags["emofuse.calibration"] == "validation actors"
    assert "recall_calm" not in run.data.metrics  # no clip has this emotion
    assert len(curve(root, run)) == EPOCHS
    files = {
        item.path
        for folder in ("", "training", "evaluation")
        for item in client(root).list_artifacts(run.info.run_id, folder)
    }
    assert files >= {"confusion.png", "training/fold-0.record.json"}
    assert files >= {f"evaluation/{name}" for name in ("metrics.json", "predictions.csv", "record.json")}
    assert parent.data.metrics == {"war": 0.6, "uar": 0.59, "macro_f1": 0.58, "folds": 1}

    for fold, war in ((1, 0.5), (2, 0.7)):
        fake.train(root, KEYS[fold], war)
        fake.evaluate(root, KEYS[fold], war)
        tracking.evaluated(KEYS[fold], root)
    assert runs(root)[0].data.metrics == pytest.approx({"war": 0.6, "uar": 0.59, "macro_f1": 0.58, "folds": 3})


def test_an_evaluation_without_a_training_run_creates_the_same_run(
    root: Path, tmp_path: Path, empty_store: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(empty_store, other)
    for folder in (root, other):
        fake.train(folder, KEY)
        if folder is root:
            train(folder)
        fake.evaluate(folder, KEY)
        tracking.evaluated(KEY, folder)
    live, created = run_of(root), run_of(other)
    assert created.data.params == live.data.params
    assert created.data.metrics == live.data.metrics
    differ = {"mlflow.parentRunId", "mlflow.source.name"}
    assert {k: v for k, v in created.data.tags.items() if k not in differ} == {
        k: v for k, v in live.data.tags.items() if k not in differ
    }
    assert created.inputs.dataset_inputs[0].dataset.digest == live.inputs.dataset_inputs[0].dataset.digest
    assert curve(other, created) == curve(root, live)


def test_scores_are_never_added_to_the_run_of_another_training(root: Path) -> None:
    fake.train(root, KEY)
    train(root, war=0.5)
    before = run_of(root)
    fake.train(root, KEY, 0.6)  # a training while the server was unreachable
    fake.evaluate(root, KEY, 0.6)
    tracking.evaluated(KEY, root)
    assert run_of(root).info.run_id != before.info.run_id
    assert curve(root, run_of(root))[-1][1] == fake.history(0.6)[-1]["val_uar"]
    assert run_of(root).data.metrics["war"] == 0.6
    assert [run.info.run_id for run in runs(root, deleted=True)] == [before.info.run_id]


def test_a_repeated_evaluation_updates_the_same_run(root: Path) -> None:
    fake.write(root, [KEY])
    tracking.evaluated(KEY, root)
    before = run_of(root).info.run_id
    fake.evaluate(root, KEY, 0.9)
    tracking.evaluated(KEY, root)
    assert run_of(root).info.run_id == before
    assert run_of(root).data.metrics["war"] == 0.9
    assert runs(root)[0].data.metrics["war"] == 0.9


# --- reruns


def test_a_rerun_replaces_its_run(root: Path) -> None:
    fake.write(root, KEYS[:2])
    for key in KEYS[:2]:
        tracking.evaluated(key, root)
    first, other = run_of(root), run_of(root, KEYS[1])
    train(root)
    assert run_of(root).info.run_id != first.info.run_id
    assert "war" not in run_of(root).data.metrics
    assert [run.info.run_id for run in runs(root, deleted=True)] == [first.info.run_id]
    assert run_of(root, KEYS[1]).to_dictionary() == other.to_dictionary()
    assert len(runs(root)) == 3


def _register(root: Path, run_id: str) -> None:
    client(root).create_registered_model("ours")
    client(root).create_model_version("ours", "mlflow-artifacts:/somewhere", run_id)


@pytest.mark.parametrize(
    "annotate",
    [
        lambda root, run_id: client(root).set_tag(run_id, "mlflow.note.content", "the good one"),
        lambda root, run_id: client(root).set_tag(run_id, "keep", "yes"),
        lambda root, run_id: client(root).update_run(run_id, name="the good one"),
        _register,
    ],
    ids=["note", "tag", "name", "registered model"],
)
def test_an_annotated_run_is_kept(root: Path, annotate: Callable[[Path, str], None]) -> None:
    fake.write(root, [KEY])
    tracking.evaluated(KEY, root)
    kept = run_of(root)
    annotate(root, kept.info.run_id)
    for war in (0.7, 0.8):  # the second replaces the first, not the annotated run
        train(root, war=war)
    fake.evaluate(root, KEY, 0.8)
    tracking.evaluated(KEY, root)
    parent, old, new = runs(root)
    assert old.info.run_id == kept.info.run_id
    assert old.data.tags["emofuse.superseded"] == "true"
    assert old.data.metrics == kept.data.metrics
    assert new.data.metrics["war"] == parent.data.metrics["war"] == 0.8
    assert len(runs(root, deleted=True)) == 1
    before = contents(root)
    tracking.track("demo", fake.params(), root)
    assert contents(root) == before


# --- many processes, one store


def at_once(*actions: Callable[[], object]) -> list[int | None]:
    """Run each action in its own process, all at once. Returns their exit codes, negative for signals."""
    context = multiprocessing.get_context("fork")  # MLflow is already imported, so that all start simultaneously
    barrier = context.Barrier(len(actions))

    def begin(action: Callable[[], object]) -> None:
        logging.basicConfig(force=True)
        barrier.wait()
        action()

    processes = [context.Process(target=begin, args=(action,)) for action in actions]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    return [process.exitcode for process in processes]


def eight(root: Path) -> list[Callable[[], object]]:
    """Functions that train and evaluate one of eight folds each."""

    def fold(key: RunKey) -> Callable[[], object]:
        def action() -> None:
            with TrainingRun(key, PARAMETERS, TAGS, None, root) as live:
                for row in fake.history(0.1 * key.fold):
                    live.epoch(row)
                until(lambda: is_running(root, key))
            fake.train(root, key, 0.1 * key.fold)
            fake.evaluate(root, key, 0.1 * key.fold)
            tracking.evaluated(key, root)

        return action

    return [fold(RunKey("demo", "kfold_8", "proposed", 1, number)) for number in range(8)]


@pytest.mark.usefixtures("empty_store")
def test_eight_simultaneous_processes_create_one_store_and_one_parent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert at_once(*eight(tmp_path)) == [0] * 8
    parent, *folds = runs(tmp_path)
    assert {run.info.status for run in (parent, *folds)} == {"FINISHED"}
    assert [run.data.metrics["war"] for run in folds] == pytest.approx([0.1 * number for number in range(8)])
    assert {run.data.tags["mlflow.parentRunId"] for run in folds} == {parent.info.run_id}
    assert [len(curve(tmp_path, run)) for run in folds] == [EPOCHS] * 8
    assert parent.data.metrics == pytest.approx({"war": 0.35, "uar": 0.34, "macro_f1": 0.33, "folds": 8})
    assert not runs(tmp_path, deleted=True)
    assert "is not tracked" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("empty_store")
def test_a_kill_during_the_creation_of_the_store_leaves_no_partial_store(tmp_path: Path) -> None:
    fake.write(tmp_path, [KEY])
    context = multiprocessing.get_context("fork")
    process = context.Process(target=tracking.evaluated, args=(KEY, tmp_path))
    process.start()
    until(lambda: [path for path in tmp_path.glob("mlflow.db.*/*.db") if path.stat().st_size])
    process.kill()
    process.join()
    assert not (tmp_path / "mlflow.db").exists()
    tracking.evaluated(KEY, tmp_path)
    assert run_of(tmp_path).data.metrics["war"] == 0.5


def test_a_lock_that_is_never_released_is_one_warning(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "LOCK_TIMEOUT", 0.2)
    with tracking._lock(root):
        with TrainingRun(KEY, PARAMETERS, TAGS, None, root) as live:
            live.epoch(fake.history()[0])
        fake.write(root, [KEY])
        tracking.evaluated(KEY, root)
        assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
        assert "lock" in caplog.text
    tracking.track("demo", fake.params(), root)
    assert run_of(root).data.metrics["war"] == 0.5


# --- track


def test_track_fills_an_empty_store_and_is_idempotent(root: Path) -> None:
    fake.write(root)
    tracking.track("demo", fake.params(), root)
    before = contents(root)
    assert len(before) == len(KEYS) + len(VARIANTS)
    assert {run.info.status for run in runs(root)} == {"FINISHED"}
    means = {run.info.run_name: run.data.metrics["war"] for run in runs(root) if "folds" in run.data.metrics}
    assert means == pytest.approx({"proposed kfold_3 seed-1": 0.55, "audio_only kfold_3 seed-1": 0.7})
    tracking.track("demo", fake.params(), root)
    for key in KEYS:
        tracking.evaluated(key, root)
    assert contents(root) == before
    assert not runs(root, deleted=True)


def test_track_completes_incomplete_runs(root: Path) -> None:
    fake.write(root, KEYS[:3])
    fake.train(root, KEYS[3])  # not evaluated
    train(root, KEYS[0], 0.5)  # evaluated while MLflow was unreachable
    tracking.evaluated(KEYS[1], root)
    before = [run_of(root, key).info.run_id for key in KEYS[:2]]
    client(root).delete_run(runs(root)[0].info.run_id)  # the parent
    experiment = client(root).get_experiment_by_name("emofuse/demo").experiment_id
    for name in (str(KEYS[2]), "demo/other/proposed/seed-1/fold-0"):  # killed; one of them has no files here
        client(root).create_run(experiment, tags={"emofuse.run": name}, run_name=tracking._name(name))
    tracking.track("demo", fake.params(), root)
    parent, *folds, other = runs(root)
    assert [run.info.run_id for run in folds[:2]] == before
    assert [run.data.metrics["war"] for run in folds] == [0.5, 0.55, 0.6]
    assert {run.data.tags["mlflow.parentRunId"] for run in folds} == {parent.info.run_id}
    assert {run.info.status for run in folds} == {"FINISHED"}
    assert other.info.status == "RUNNING"
    assert parent.data.metrics["folds"] == 3


def test_track_does_not_disturb_a_training(root: Path) -> None:
    fake.write(root, KEYS[:2])
    (root / KEY.training_record).unlink()  # as at the start of a training
    with TrainingRun(KEY, PARAMETERS, TAGS, None, root) as live:
        live.epoch(fake.history(0.9)[0])
        run = until(lambda: run_of(root).data.metrics and run_of(root))
        tracking.track("demo", fake.params(), root)
        for row in fake.history(0.9)[1:]:
            live.epoch(row)
    assert run_of(root).info.run_id == run.info.run_id
    assert run_of(root).info.status == "FINISHED"
    fake.train(root, KEY, 0.9)  # the evaluation on disk still belongs to the previous training
    tracking.track("demo", fake.params(), root)
    assert "war" not in run_of(root).data.metrics
    fake.evaluate(root, KEY, 0.9)
    tracking.track("demo", fake.params(), root)
    assert run_of(root).info.run_id == run.info.run_id
    assert run_of(root).data.metrics["war"] == 0.9


def test_published_folds_without_models_are_tracked_without_curves(root: Path) -> None:
    fake.write(root, [KEY])
    for path in KEY.trained:
        (root / path).unlink()
    tracking.track("demo", fake.params(), root)
    before = contents(root)
    assert run_of(root).data.metrics["war"] == 0.5
    assert "train_loss" not in run_of(root).data.metrics
    tracking.track("demo", fake.params(), root)
    assert contents(root) == before


def test_track_without_results_names_the_command_to_run(root: Path) -> None:
    with pytest.raises(UserError, match="nothing has been evaluated; run `snakemake demo`"):
        tracking.track("demo", fake.params(), root)


def test_corrupted_files_are_not_tracked(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake.write(root, [KEY])
    text = (root / KEY.metrics).read_text()
    (root / KEY.metrics).write_text(text.replace("0.5", "0.9"))
    with pytest.raises(UserError, match=r"metrics\.json is corrupted"):
        tracking.track("demo", fake.params(), root)
    (root / KEY.metrics).write_text(text)
    tracking.track("demo", fake.params(), root)
    assert run_of(root).data.metrics["war"] == 0.5
    assert run_of(root).info.status == "FINISHED"


def test_a_file_that_is_not_a_store_is_one_line(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    fake.write(root, [KEY])
    (root / "mlflow.db").write_text("not a database, and longer than its header would be" * 9)
    with pytest.raises(UserError, match=r"MLflow at sqlite:.*not a database.*again"):
        tracking.track("demo", fake.params(), root)
    tracking.evaluated(KEY, root)
    assert len(caplog.records) == 1


# --- experiments


def test_the_experiment_is_named_after_the_corpus_or_by_the_environment(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.write(root, [KEY])
    tracking.evaluated(KEY, root)
    found = client(root).get_experiment_by_name("emofuse/demo")
    assert found.tags["mlflow.experimentKind"] == "custom_model_development"
    assert "emofuse track" in found.tags["mlflow.note.content"]
    client(root).create_experiment("ada", (root / "mlartifacts").as_uri(), {"mlflow.note.content": "mine"})
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ada")
    tracking.evaluated(KEY, root)
    assert len(runs(root, "ada")) == 2
    assert client(root).get_experiment_by_name("ada").tags["mlflow.note.content"] == "mine"


def test_a_deleted_experiment_is_restored(root: Path) -> None:
    fake.write(root, KEYS[:2])
    tracking.evaluated(KEYS[0], root)
    before = run_of(root)
    client(root).delete_experiment(before.info.experiment_id)
    tracking.evaluated(KEYS[1], root)
    assert [run.info.lifecycle_stage for run in runs(root)] == ["active"] * 3
    assert run_of(root).info.run_id == before.info.run_id


# --- a server


@contextmanager
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield f"http://ada:secret@127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def absent() -> Iterator[str]:
    """An address without a server."""
    yield f"http://ada:secret@127.0.0.1:{servers.free_ports(1)[0]}"


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize("server", [absent, silent])
def test_an_unreachable_server_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, server: Callable[[], Any]
) -> None:
    fake.write(tmp_path, [KEY])
    with server() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        started = time.monotonic()
        with TrainingRun(KEY, PARAMETERS, TAGS, None, tmp_path) as live:
            for row in fake.history(epochs=50):
                live.epoch(row)
            trained = time.monotonic()
        assert trained - started < 1
        assert time.monotonic() - started < 10  # two attempts of two seconds, see _quick
        assert len(caplog.records) == 1
        assert "`emofuse track demo`" in caplog.text
        tracking.evaluated(KEY, tmp_path)
        assert len(caplog.records) == 2
        assert "secret" not in caplog.text
        if server is absent:
            with pytest.raises(UserError, match=r"^MLflow at http://127\.0\.0\.1.*again$") as raised:
                tracking.track("demo", fake.params(), tmp_path)
            assert "secret" not in str(raised.value)
            assert len(str(raised.value).splitlines()) == 1


@pytest.mark.usefixtures("empty_store")
def test_a_training_never_waits_longer_than_its_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "PATIENCE", 0.5)
    with silent() as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        started = time.monotonic()
        with TrainingRun(KEY, PARAMETERS, TAGS, None, tmp_path) as live:
            live.epoch(fake.history()[0])
        assert time.monotonic() - started < 2
        assert "no response" in caplog.text
    live._thread.join(20)


PROGRAM = f"""
import logging, sys, time
from emofuse import tracking
from emofuse.paths import RunKey
logging.basicConfig(level=logging.INFO, format="%(message)s")
tracking.SHORT = 0
tracking.PATIENCE = float(sys.argv[1])
key = {KEY!r}
started = time.monotonic()
with tracking.TrainingRun(key, {PARAMETERS!r}, {{}}) as live:
    live.epoch({{"epoch": 1, "val_uar": 0.5}})
print(time.monotonic() - started)
tracking.evaluated(key)
"""


def printed(root: Path, patience: float = tracking.PATIENCE, **settings: str) -> tuple[float, list[str]]:
    """Run the program in a process. Returns the duration of its training and the lines that it logged."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    command = [sys.executable, "-c", PROGRAM, str(patience)]
    done = subprocess.run(command, cwd=root, env=environment | settings, capture_output=True, text=True, check=True)
    return float(done.stdout), done.stderr.splitlines()


def test_tracking_is_silent_on_success_and_one_line_per_failure(tmp_path: Path) -> None:
    fake.write(tmp_path, [KEY])
    with absent() as address:
        seconds, lines = printed(tmp_path, MLFLOW_TRACKING_URI=address)
        assert seconds < 30
        assert len(lines) == 2, lines
        assert all(line.startswith(f"MLflow: {KEY} is not tracked (") for line in lines)
    assert printed(tmp_path, patience=300)[1] == []
    assert run_of(tmp_path).data.metrics["war"] == 0.5


@pytest.mark.slow
def test_by_default_an_unresponsive_server_costs_less_than_thirty_seconds(tmp_path: Path) -> None:
    with silent() as address:
        seconds, lines = printed(tmp_path, MLFLOW_TRACKING_URI=address)
    assert seconds < 30
    assert len(lines) == 2, lines


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A real server that this process writes to. Yields a function that kills it."""
    folder = tmp_path_factory.mktemp("server")
    with servers.mlflow(folder, f"sqlite:///{folder}/mlflow.db", password=False) as (settings, kill):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        yield kill


@pytest.mark.integration
def test_a_server_has_the_same_runs_and_its_failure_stops_no_training(
    tmp_path: Path, server: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path)
    fake.train(tmp_path, KEY)
    fake.evaluate(tmp_path, KEY)
    tracking.evaluated(KEY, tmp_path)
    parent, run = runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["war"] == parent.data.metrics["war"] == 0.6
    assert len(curve(tmp_path, run)) == EPOCHS
    assert "confusion.png" in [item.path for item in client(tmp_path).list_artifacts(run.info.run_id)]
    assert (
        tracking.download(f"runs:/{run.info.run_id}/evaluation/metrics.json", tmp_path).read_bytes()
        == (tmp_path / KEY.metrics).read_bytes()
    )
    before = contents(tmp_path)
    tracking.track("demo", fake.params(), tmp_path)
    assert contents(tmp_path) == before
    assert not (tmp_path / "mlflow.db").exists()
    assert not caplog.records

    history = fake.history(0.9)
    with TrainingRun(KEYS[1], PARAMETERS, TAGS, None, tmp_path) as live:
        live.epoch(history[0])
        until(lambda: run_of(tmp_path, KEYS[1]).data.metrics)
        server()
        started = time.monotonic()
        for row in history[1:]:
            live.epoch(row)
        until(lambda: caplog.records)
    assert time.monotonic() - started < 30
    assert len(caplog.records) == 1
    fake.train(tmp_path, KEYS[1], 0.9)
    fake.evaluate(tmp_path, KEYS[1], 0.9)
    tracking.evaluated(KEYS[1], tmp_path)
    assert len(caplog.records) == 2


# --- the UI


def start_ui(root: Path) -> tuple[subprocess.Popen[str], str]:
    """Start `emofuse ui` on a free port. Returns the process and the first line of its output."""
    (port,) = servers.free_ports(1)
    program = f"from emofuse import tracking; tracking.serve({port})"
    with (root / "ui.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout
    return process, process.stdout.readline()


@pytest.mark.integration
def test_the_ui_shows_the_scores(root: Path) -> None:
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        message = "chromium is missing; install it to test the MLflow UI"
        (pytest.fail if os.environ.get("EMOFUSE_REQUIRE_BROWSER") else pytest.skip)(message)
    from playwright.sync_api import expect, sync_playwright

    fake.write(root)
    tracking.track("demo", fake.params(), root)
    process, line = start_ui(root)
    try:
        address = re.fullmatch(r"emofuse/demo: (http://127\.0\.0\.1:\d+)/(#\S+)\n", line)
        assert address, (root / "ui.log").read_text()

        def answers() -> bool:
            assert process.poll() is None, (root / "ui.log").read_text()
            with suppress(OSError), urllib.request.urlopen(f"{address[1]}/health", timeout=1):
                return True
            return False

        until(answers)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1900, "height": 900})
            page.set_default_timeout(120_000)
            expect.set_options(timeout=120_000)
            page.goto(f"{address[1]}/{address[2]}")
            for name in ("war", "uar", "macro_f1", "folds"):
                expect(page.get_by_role("columnheader", name=name, exact=True).first).to_be_visible()
            expect(page.get_by_text("proposed kfold_3 seed-1")).to_be_visible()
            expect(page.get_by_text("fold-0 proposed seed-1")).to_have_count(0)
            page.screenshot(path=root / "runs.png")
            parent = page.get_by_role("gridcell").filter(has_text="proposed kfold_3 seed-1")
            parent.get_by_role("button").first.click()
            expect(page.get_by_text("fold-0 proposed seed-1")).to_be_visible()
            page.screenshot(path=root / "folds.png")
            run = run_of(root)
            page.goto(
                f"{address[1]}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/confusion.png"
            )
            expect(page.locator("img[src*='blob:'], img[src*='get-artifact']").first).to_be_visible()
            page.screenshot(path=root / "figure.png")
            browser.close()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="choose another one with --port"),
    ):
        tracking.serve(taken.getsockname()[1], tmp_path)


def test_a_folder_that_mlflow_cannot_use_is_one_line(tmp_path: Path) -> None:
    """It would create a database of another name beside it."""
    folder = tmp_path / "a?b"
    folder.mkdir()
    with pytest.raises(UserError, match=r"a\?b: MLflow cannot use a path with a question mark; rename the folder"):
        tracking.serve(5000, folder)
    with pytest.raises(UserError, match="cannot use a path with a question mark"):
        tracking.download("models:/a/1", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["a?b"]


def test_a_server_has_its_own_ui(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:secret@tracking.example:5000")
    with pytest.raises(UserError, match=r"http://tracking\.example:5000 is a server.*open it in a browser"):
        tracking.serve(5000)


# --- downloads


def test_artifacts_can_be_downloaded(root: Path) -> None:
    fake.write(root, [KEY])
    tracking.evaluated(KEY, root)
    found = tracking.download(f"runs:/{run_of(root).info.run_id}/evaluation", root)
    assert (found / "metrics.json").read_bytes() == (root / KEY.metrics).read_bytes()
    for address in ("models:/none/1", f"runs:/{run_of(root).info.run_id}/nothing"):
        with pytest.raises(UserError, match=f"check {address}"):
            tracking.download(address, root)


TRACK = """
import sys; from pathlib import Path
sys.path.insert(0, sys.argv[1])
import fake_results as fake
import nolocks
from emofuse import tracking
from emofuse.utils.errors import UserError
try:
    tracking.track("demo", fake.params(), Path())
except UserError as error:
    print(error)
"""


@pytest.mark.integration
@pytest.mark.timeout(120)
@pytest.mark.parametrize("with_fcntl", [False, True])
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_store_on_a_file_system_without_locks_works_or_is_one_line(
    root: Path, tmp_path: Path, number: int, with_fcntl: bool
) -> None:
    """SQLite needs the locks of fcntl."""
    fake.write(root, fake.KEYS[:1])
    (root / "mlflow.db").unlink()
    settings = {**os.environ, **nolocks.settings(tmp_path, number, with_fcntl)}
    command = [sys.executable, "-c", TRACK, str(Path(__file__).parent)]
    done = subprocess.run(command, cwd=root, env=settings, capture_output=True, text=True, check=True)
    if with_fcntl:
        (line,) = done.stdout.splitlines()
        assert re.search(
            r"MLflow at sqlite.*(database is locked|disk I/O error); once it works, run `emofuse track demo`", line
        )
    else:
        assert done.stdout == ""
        assert run_of(root, fake.KEYS[0]).info.status == "FINISHED"
