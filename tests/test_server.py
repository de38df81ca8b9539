"""A lab's MLflow: PostgreSQL behind a server that asks for a password, and many folds that write to it at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import micro
import pytest
import servers
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

FOLDS = 8
EPOCHS = 5
LIVE = """
import sys
from emofuse.tracking import Live, RunKey
fold, epochs = int(sys.argv[1]), int(sys.argv[2])
with Live(RunKey("live", "kfold_8", "proposed", 1, fold), {}, delay=0, interval=0) as live:
    for epoch in range(1, epochs + 1):
        live.epoch({"epoch": epoch, "train_loss": 1 / epoch, "val_uar": fold / 10})
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with servers.postgres() as database, servers.mlflow(tmp_path_factory.mktemp("server"), database) as settings:
        yield settings


@pytest.fixture
def client(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return MlflowClient()


def runs(client: MlflowClient, experiment: str) -> list[Run]:
    found = client.get_experiment_by_name(experiment)
    assert found is not None, f"no {experiment} in {[each.name for each in client.search_experiments()]}"
    return list(client.search_runs([found.experiment_id], max_results=1000))


def of_folds(found: list[Run]) -> list[Run]:
    return [run for run in found if "mlflow.parentRunId" in run.data.tags]


def test_eight_folds_at_once_lose_nothing(client: MlflowClient, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIVE]
    writers = [subprocess.Popen([*command, str(fold), str(EPOCHS)], cwd=tmp_path) for fold in range(FOLDS)]
    assert [writer.wait(240) for writer in writers] == [0] * FOLDS
    found = runs(client, "emofuse/live")
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(found) == FOLDS + 1
    assert sorted(run.data.metrics["val_uar"] for run in of_folds(found)) == [fold / 10 for fold in range(FOLDS)]
    for run in of_folds(found):
        for name in ("train_loss", "val_uar"):
            assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def tracked(micro_run: Path, server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose folds are on the server, under the name of ada."""
    folder = tmp_path_factory.mktemp("ada") / "emofuse"
    shutil.copytree(micro_run, folder, symlinks=True)
    micro.run(folder, "emofuse", "track", "demo", MLFLOW_EXPERIMENT_NAME="ada", **server)
    return folder


def test_a_corpus_goes_there_and_comes_back(
    tracked: Path, micro_run: Path, client: MlflowClient, server: dict[str, str], tmp_path: Path
) -> None:
    assert sorted((run.info.run_name, run.info.status) for run in runs(client, "ada/demo")) == micro.runs(micro_run)
    folder = tmp_path / "there"
    shutil.copytree(tracked, folder, symlinks=True)
    shutil.rmtree(folder / "results/demo/kfold_3")
    micro.run(folder, "emofuse", "restore", "demo", MLFLOW_EXPERIMENT_NAME="ada", **server)
    assert micro.tables(folder) == micro.tables(tracked)
    for score in (tracked / "results/demo/kfold_3").rglob("*.*"):
        assert (folder / score.relative_to(tracked)).read_bytes() == score.read_bytes()


def test_two_who_share_it_under_names_of_their_own_keep_their_runs(
    tracked: Path, client: MlflowClient, server: dict[str, str], tmp_path: Path
) -> None:
    before = scores(client, "ada/demo")
    folder = tmp_path / "grace"
    shutil.copytree(tracked, folder, symlinks=True)
    fold = folder / "results/demo/kfold_3/proposed/seed-1/fold-0/metrics.json"
    fold.write_text(json.dumps({**json.loads(fold.read_text()), "war": 0.0123}))
    # Not `emofuse track`, which would refuse a score that nobody's training has.
    program = "from emofuse import params, tracking; tracking.track('demo', params.load())"
    micro.run(folder, sys.executable, "-c", program, MLFLOW_EXPERIMENT_NAME="grace", **server)
    assert scores(client, "ada/demo") == before
    assert {name for name, war in scores(client, "grace/demo").items() if war != before[name]} == {
        "proposed seed-1 fold-0",
        "proposed kfold_3 seed-1",
    }


def scores(client: MlflowClient, experiment: str) -> dict[str | None, float]:
    """The accuracy of each run, by the run's name."""
    return {run.info.run_name: run.data.metrics["war"] for run in runs(client, experiment)}


def test_without_the_password_nothing_is_read_or_written(
    micro_run: Path, server: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "stranger"
    shutil.copytree(micro_run, folder, symlinks=True)
    settings = {"MLFLOW_TRACKING_URI": server["MLFLOW_TRACKING_URI"]}
    printed = micro.run(folder, "emofuse", "track", "demo", status=2, **settings)
    errors = [line for line in printed.splitlines() if line.startswith("emofuse: error: ")]
    assert len(errors) == 1
    assert "not authenticated" in errors[0].lower()
    assert "Traceback" not in printed


@pytest.mark.slow
def test_eight_trainings_at_once_write_while_they_run(
    client: MlflowClient, server: dict[str, str], tmp_path: Path
) -> None:
    """Real trainings, long enough for live curves, and all of them at once."""
    folder = micro.make(tmp_path / "emofuse")

    def eight(loaded: dict) -> None:  # type: ignore[type-arg]
        section = loaded["corpora"]["demo"]
        section["demo"]["actors"] = 16
        section["training"].update(epochs=200, patience=200)
        section.update(variants=["proposed"], protocols={"kfold_8": list(range(FOLDS))})

    micro.change(folder, eight)
    micro.run(folder, "snakemake", "demo", "--cores", "8", MLFLOW_EXPERIMENT_NAME="eight", **server)
    found = runs(client, "eight/demo")
    assert {run.info.status for run in found} == {"FINISHED"}
    assert len(found) == FOLDS + 1
    for run in of_folds(found):
        assert [point.step for point in client.get_metric_history(run.info.run_id, "val_uar")] == list(range(1, 201))
    logs = [path.read_text() for path in (folder / "logs/demo/train").glob("*.log")]
    assert len(logs) == FOLDS
    assert not [log for log in logs if "no live curves" in log]
    assert " stale" not in micro.run(folder, "emofuse", "verify", "demo")
