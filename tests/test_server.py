"""A shared MLflow server with PostgreSQL and passwords, to which many folds write at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_results as fake
import micro
import pytest
import servers
from conftest import ROOT
from mlflow import MlflowClient
from mlflow.entities import Run

from emofuse import tracking
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_yaml

EIGHT = 8
EPOCHS = 10  # minutes for eight trainings on two cores, and long enough for live curves
FOLD = """
import logging, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import fake_results as fake
from emofuse import tracking
from emofuse.paths import RunKey
logging.basicConfig(format="%(message)s")
tracking.SHORT = tracking.INTERVAL = 0.1
tracking.PATIENCE = tracking.LOCK_TIMEOUT = 300  # a busy machine, and a server that checks passwords slowly
key = RunKey("demo", "kfold_8", "proposed", 1, int(sys.argv[2]))
with tracking.TrainingRun(key, fake.SETTINGS, {}) as live:
    for row in fake.history(0.1 * key.fold):
        time.sleep(0.2)
        live.epoch(row)
fake.train(Path(), key, 0.1 * key.fold)
fake.evaluate(Path(), key, 0.1 * key.fold)
tracking.evaluated(key)
"""

pytestmark = pytest.mark.xdist_group("server")  # of its fixture


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with servers.postgres() as database, servers.mlflow(tmp_path_factory.mktemp("server"), database) as (settings, _):
        yield settings


@pytest.fixture
def client(server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of the server; this process writes to the same server."""
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return MlflowClient(tracking_uri=server["MLFLOW_TRACKING_URI"])


def runs(client: MlflowClient, experiment: str) -> list[Run]:
    """The runs of an experiment, the parents first."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None, f"no {experiment} in {[each.name for each in client.search_experiments()]}"
    found_runs = client.search_runs([found.experiment_id], max_results=1000)
    return sorted(found_runs, key=lambda run: run.data.tags["emofuse.run"])


@pytest.mark.slow
def test_eight_folds_at_once_lose_nothing(client: MlflowClient, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FOLD, str(Path(__file__).parent)]
    folds = [
        subprocess.Popen([*command, str(fold)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for fold in range(EIGHT)
    ]
    assert [fold.communicate(timeout=600)[1] for fold in folds] == [""] * EIGHT
    assert [fold.returncode for fold in folds] == [0] * EIGHT
    parent, *found = runs(client, "emofuse/demo")
    assert {run.info.status for run in (parent, *found)} == {"FINISHED"}
    assert [run.data.metrics["war"] for run in found] == pytest.approx([fold / 10 for fold in range(EIGHT)])
    assert parent.data.metrics == pytest.approx({"war": 0.35, "uar": 0.34, "macro_f1": 0.33, "folds": EIGHT})
    for run in found:
        history = client.get_metric_history(run.info.run_id, "val_uar")
        assert [point.step for point in history] == list(range(1, fake.EPOCHS + 1))


@pytest.mark.integration
def test_two_users_with_their_own_experiments_keep_their_runs(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = fake.KEYS[0]
    for name, war in (("ada", 0.5), ("grace", 0.7)):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
        fake.train(tmp_path / name, key, war)
        fake.evaluate(tmp_path / name, key, war)
        tracking.evaluated(key, tmp_path / name)
    ada, grace = runs(client, "ada"), runs(client, "grace")
    assert [run.data.metrics["war"] for run in ada] == [0.5, 0.5]
    assert [run.data.metrics["war"] for run in grace] == [0.7, 0.7]
    before = [run.to_dictionary() for run in grace]
    tracking.track("demo", fake.params(), tmp_path / "grace")
    assert [run.to_dictionary() for run in runs(client, "grace")] == before
    assert client.list_artifacts(grace[1].info.run_id, "evaluation")


@pytest.mark.integration
def test_access_requires_the_password(client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    fake.write(tmp_path, fake.KEYS[:1])
    with pytest.raises(UserError, match=r"(?i)not authenticated") as error:
        tracking.track("demo", fake.params(), tmp_path)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.slow
def test_eight_trainings_at_once_write_while_they_run(
    client: MlflowClient, server: dict[str, str], tmp_path: Path
) -> None:
    """Real trainings that are long enough for live curves."""
    folder = micro.make(tmp_path / "emofuse")

    def eight(loaded: dict) -> None:  # type: ignore[type-arg]
        loaded["corpora"]["demo"] = section = read_yaml(ROOT / "params.yaml", "it is in git")["corpora"]["demo"]
        section["demo"]["actors"] = 16
        section["training"].update(epochs=EPOCHS)
        section.update(variants=["proposed"], protocols={"kfold_8": list(range(EIGHT))}, calibrated=[])

    micro.change(folder, eight)
    micro.run(folder, "snakemake", "demo", "--cores", "8", MLFLOW_EXPERIMENT_NAME="eight", **server)
    parent, *found = runs(client, "eight")
    assert {run.info.status for run in (parent, *found)} == {"FINISHED"}
    assert len(found) == EIGHT
    for run in found:
        assert "war" in run.data.metrics
        history = client.get_metric_history(run.info.run_id, "train_loss")
        assert [point.step for point in history] == list(range(1, EPOCHS + 1))
    logs = [path.read_text() for path in (folder / "logs/demo").rglob("*.log")]
    assert not [log for log in logs if "is not tracked" in log]
