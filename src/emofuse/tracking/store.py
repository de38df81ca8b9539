"""The store: where it is, what is found in it, and how a fold and its files are named there."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from emofuse.errors import UserError
from emofuse.files import atomic

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Run
    from mlflow.tracking import MlflowClient

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
LOCATION = "mlflow-artifacts:/"

# Raise it when a change of what `track` writes must reach the runs that are already in a store.
LAYOUT = "3"

RUN_KEY = "emofuse.run_key"
OWNER = "emofuse.owner"
STATE = "emofuse.state"
CURRENT = "current"
LAYOUT_OF = "emofuse.layout"
FOLDS = "emofuse.folds"
FINGERPRINT = "emofuse.fingerprint"
FILE = "emofuse.file."
PARENT = "mlflow.parentRunId"


@dataclass(frozen=True, order=True)
class RunKey:
    """Names one fold; as text, its folder under results/."""

    corpus: str
    protocol: str
    variant: str
    seed: int
    fold: int

    @property
    def group(self) -> str:
        """What the folds of one run have in common: the key of the parent run."""
        return f"{self.corpus}/{self.protocol}/{self.variant}/seed-{self.seed}"

    @property
    def run_name(self) -> str:
        """What the UI calls the fold's run."""
        return f"{self.variant} seed-{self.seed} fold-{self.fold}"

    @property
    def parent_name(self) -> str:
        """What the UI calls the parent run."""
        return f"{self.variant} {self.protocol} seed-{self.seed}"

    @property
    def files(self) -> dict[str, Path]:
        """What the report reads of a fold: artefact → path from the repository's root.

        metrics.json, without which a fold is none, is the last, so that who writes them in this order leaves no half fold.
        """
        results, model = Path("results") / str(self), Path("models") / str(self)
        return {
            "history.csv": model.with_suffix(".csv"),
            "training.json": model.with_suffix(".json"),
            **{name: results / name for name in ("predictions.csv", "embeddings.safetensors", "metrics.json")},
        }

    @property
    def shared_files(self) -> dict[str, Path]:
        """What it reads beside the folds: artefact of the parent run → path from the repository's root."""
        splits = Path("data") / self.corpus / self.protocol
        return {
            "clips.csv": splits / "clips.csv",
            "folds.csv": splits / "folds.csv",
            "search.csv": Path("results") / self.corpus / "search.csv",
        }

    def __str__(self) -> str:
        return f"{self.group}/fold-{self.fold}"


def fingerprint(folds: Iterable[tuple[str, str | None]]) -> str:
    """Of a parent run: over each fold's key and the SHA-256 of its metrics.json."""
    return hashlib.sha256("".join(f"{key} {metrics}\n" for key, metrics in folds).encode()).hexdigest()


def address(root: Path | str = ".") -> str:
    """MLFLOW_TRACKING_URI, else that of the store in `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_database(root)}"


def open_store(root: Path | str = ".") -> MlflowClient:
    """A client of the store, which is made if `root` has none yet.

    Any number of processes may do this at once, on no file too: one of them builds the schema under
    a temporary name while the others wait, so a process killed meanwhile leaves no half store.
    Raises `UserError` where the store cannot be written or was made by another version of MLflow.
    """
    if is_local(root):
        make_store(root)
    set_up()
    from mlflow.tracking import MlflowClient

    where = address(root)
    try:
        client = MlflowClient(tracking_uri=where)  # checks a database's schema
        if is_local(root):
            _do_not_wait_for_the_disk(client._tracking_client.store.engine)
    except Exception as error:
        if not _is_foreign(error):
            raise
        raise UserError(
            f"{where} is not a store of this MLflow ({first_line(error)}): run `mlflow db upgrade {where}`, "
            "or, where the result files are, delete it and rebuild it by `emofuse track`"
        ) from error
    return client


def download(address_: str, root: Path | str = ".") -> Path:
    """What lies at one of MLflow's addresses (models:/…, runs:/…), in a folder that goes when this process ends.

    Raises `UserError` where there is nothing, or MLflow cannot say.
    """
    folder = Path(tempfile.mkdtemp(prefix="emofuse-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with explained(root):
        set_up()
        from mlflow.artifacts import download_artifacts

        where = address(root)
        return Path(download_artifacts(address_, dst_path=str(folder), tracking_uri=where, registry_uri=where))


def serve(port: int, root: Path | str = ".") -> None:
    """Become `mlflow ui` on 127.0.0.1:`port` for the store; does not return.

    Raises `UserError` where the port is taken, or where the store is a server that has a UI itself.
    """
    where = address(root)
    if where.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI: {where} is a server with a UI of its own: open it in a browser")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}; choose another, as in `emofuse ui --port 5001`") from None
    if is_local(root):
        make_store(root)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", where, "--artifacts-destination", str(Path(root).resolve() / ARTIFACTS)]
    # The jobs are MLflow's own, for evaluating language models; they would start several processes.
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    sys.stdout.flush()
    os.execve(sys.executable, command, {**settings, **os.environ})


def _database(root: Path | str) -> Path:
    return Path(root).resolve() / DATABASE


def _file(root: Path | str) -> Path | None:
    """The SQLite file that the store is; None for a server."""
    scheme, found, path = address(root).partition("sqlite:///")
    return Path(root).resolve() / path if found and not scheme else None


def is_local(root: Path | str) -> bool:
    """Whether the store is the one in `root`, so that it is ours to make and its files are ours to write."""
    file = _file(root)
    return file is not None and file.resolve() == _database(root)


def is_missing(root: Path | str) -> bool:
    """Whether the store is a file that is not there; of a server, only asking it can tell."""
    file = _file(root)
    return file is not None and not _exists(file)


def artifacts(run: Run, root: Path | str) -> Path | None:
    """The folder of a run's artefacts where they lie beside the store's file; None where MLflow has to be asked.

    Raises `UserError` where the store, which may be of others, names one elsewhere: runs are deleted with theirs.
    """
    file = _file(root)
    if file is None or not run.info.artifact_uri.startswith(LOCATION):
        return None
    kept = file.parent / ARTIFACTS
    folder = kept / run.info.artifact_uri.removeprefix(LOCATION)
    if kept.resolve() not in folder.resolve().parent.parents:
        raise UserError(f"{address(root)}: the files of run {run.info.run_id} are not in {ARTIFACTS}/; do not trust it")
    return folder


def lock(root: Path | str, name: str = "", timeout: float = 300) -> FileLock:
    """Held for moments by whoever makes the store or a parent run; with a name, something of the caller's own."""
    return FileLock(f"{_database(root)}{name}.lock", timeout=timeout)


def _exists(database: Path) -> bool:
    return database.is_file() and database.stat().st_size > 0


def make_store(root: Path | str) -> None:
    database = _database(root)
    if _exists(database):
        return
    try:
        with lock(root):
            if _exists(database):
                return
            for left in database.parent.glob(f".{DATABASE}.*"):  # of a process that was killed here
                left.unlink()
            set_up()
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
            from sqlalchemy import event
            from sqlalchemy.engine import Engine

            event.listen(Engine, "connect", _without_waiting)
            try:
                with atomic(database) as temporary:
                    SqlAlchemyStore(f"sqlite:///{temporary}", LOCATION).engine.dispose()
            finally:
                event.remove(Engine, "connect", _without_waiting)
    except OSError as error:
        raise UserError(f"cannot write {database}: {error.strerror or error}; see to it, and run again") from error


def _without_waiting(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def _do_not_wait_for_the_disk(engine: Any) -> None:
    """Leave writing to the system: many times quicker, and safe but for a power cut, when the files are still there."""
    from sqlalchemy import event

    if not event.contains(engine, "connect", _without_waiting):
        event.listen(engine, "connect", _without_waiting)
        engine.dispose()  # connections made before


def _is_foreign(error: Exception) -> bool:
    """Whether an exception is of MLflow or of what it stands on, rather than a mistake of ours."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("mlflow.", "sqlalchemy.", "alembic."))


def set_up() -> None:
    """What MLflow reads when it is imported: no telemetry, no chatter. What the user set stays."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    }.items():
        os.environ.setdefault(name, value)


@contextmanager
def explained(root: Path | str) -> Iterator[None]:
    """MLflow's failures as one line that a user can act on."""
    try:
        yield
    except Exception as error:
        if not _is_foreign(error):
            raise
        remedy = "once it works, run again"
        if is_local(root):
            remedy = "if it is broken, delete it where the result files are, and run `emofuse track`"
        raise UserError(f"MLflow at {address(root)}: {first_line(error)}; {remedy}") from error


def experiment_name(corpus: str) -> str:
    """A corpus's experiment: whoever shares a server gives theirs a name of their own in MLFLOW_EXPERIMENT_NAME."""
    return f"{os.environ.get('MLFLOW_EXPERIMENT_NAME') or 'emofuse'}/{corpus}"


def open_experiment(client: MlflowClient, corpus: str, root: Path | str) -> Experiment:
    """The corpus's experiment, made or brought back where need be."""
    from mlflow.exceptions import MlflowException

    name = experiment_name(corpus)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        note = f"The folds under results/{corpus}/. `emofuse track {corpus}` rebuilds this from the files."
        location = f"{LOCATION}{corpus}" if is_local(root) else None
        try:
            client.create_experiment(name, location, {"mlflow.note.content": note})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another machine was quicker, with a server
                raise
        experiment = client.get_experiment_by_name(name)
    elif experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    if experiment is None:
        raise UserError(f"MLflow lost the experiment {name} while it was made: run again")
    return experiment


def runs(client: MlflowClient, experiment: Experiment) -> list[Run]:
    """Every run of the experiment that is ours and not deleted."""
    from mlflow.entities import ViewType

    return [run for run in search_runs(client, experiment, ViewType.ACTIVE_ONLY) if RUN_KEY in run.data.tags]


def search_runs(client: MlflowClient, experiment: Experiment, view: int) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], "", view, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def run_key(run: Run) -> str:
    return run.data.tags[RUN_KEY]


def delete(client: MlflowClient, run: Run, root: Path | str) -> None:
    """Delete a run with its artefacts; a server keeps what its own `mlflow gc` has not collected."""
    if is_local(root):
        if folder := artifacts(run, root):
            shutil.rmtree(folder.parent, ignore_errors=True)
        # `delete_run` only hides a run; this is what `mlflow gc` calls, and MLflow's version is pinned.
        client._tracking_client.store._hard_delete_run(run.info.run_id)
    else:
        client.delete_run(run.info.run_id)


def send_metrics(client: MlflowClient, run_id: str, points: Sequence[Metric]) -> None:
    for start in range(0, len(points), 1000):  # as many as MLflow takes at once
        client.log_batch(run_id, metrics=points[start : start + 1000])


def git_tags(code: Mapping[str, Any]) -> dict[str, str]:
    """A commit, as `emofuse.commit` gives it, under the name that the UI shows; nothing where it is not known."""
    if "commit" not in code:
        return {}
    return {"mlflow.source.git.commit": code["commit"], "emofuse.git_dirty": str(code["dirty"]).lower()}


def process(pid: int) -> str:
    """Host, process id and start time, so that an id that is used again is not mistaken; no start if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started = "" if fields[0] in "ZX" else fields[19]
    except OSError:
        started = ""
    return f"{socket.gethostname()}:{pid}:{started}"


def trains(run: Run, elsewhere: bool) -> bool:
    """Whether the process of a live run still trains; `elsewhere` is what to believe of one on another host."""
    owner = run.data.tags.get(OWNER, "")
    host, _, pid = owner.rpartition(":")[0].rpartition(":")
    if run.info.status != "RUNNING" or not pid.isdigit():
        return False
    return owner == process(int(pid)) if host == socket.gethostname() else elsewhere


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
