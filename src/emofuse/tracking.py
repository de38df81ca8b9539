"""MLflow as a mirror of the result files: the files are the record, the store can be rebuilt from them.

`Live` shows a long training while it runs. `track` then writes one finished run a fold from the
files on disk, whatever was or was not shown live, and running it again changes nothing. `serve`
opens the UI.

The store is `mlflow.db` (SQLite) and `mlartifacts/` in the repository's root, or the address in
MLFLOW_TRACKING_URI. MLflow writes absolute paths into its store, which a moved repository breaks;
ours says `mlflow-artifacts:/`, which the UI's own server resolves to `mlartifacts/` wherever that is.

An experiment is a corpus, a parent run a protocol, variant and seed, a child run a fold. A run is
found by its tag `emofuse.run_key`. It is up to date if it is finished and carries the tags that
would be written now; else it is deleted, from the store and not just from view where the store is
a local file, and written anew. A run that has no results on disk, or is no longer in params.yaml,
stays, because nothing else may remember it, and its tag `emofuse.state` says so.

Importing MLflow costs seconds, so it is imported where it is first needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from emofuse.errors import UserError
from emofuse.files import atomic, read_json, read_table, sha256, write_table

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Run
    from mlflow.tracking import MlflowClient

    from emofuse.params import Params

log = logging.getLogger(__name__)

DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
LOCATION = "mlflow-artifacts:/"
SCORES = ("war", "uar", "macro_f1")

# Raise it when a change of this module must reach the runs that are already in a store.
LAYOUT = "1"

RUN_KEY = "emofuse.run_key"
OWNER = "emofuse.owner"
STATE = "emofuse.state"
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

    def __str__(self) -> str:
        return f"{self.group}/fold-{self.fold}"


# --- the store


def address(root: Path | str = ".") -> str:
    """MLFLOW_TRACKING_URI, else that of the store in `root`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_database(root)}"


def open_store(root: Path | str = ".") -> MlflowClient:
    """A client of the store, which is made if `root` has none yet.

    Any number of processes may do this at once, on no file too: one of them builds the schema under
    a temporary name while the others wait, so a process killed meanwhile leaves no half store.
    Raises `UserError` where the store cannot be written or was made by another version of MLflow.
    """
    if _is_local(root):
        _make_store(root)
    _set_up()
    from mlflow.tracking import MlflowClient

    where = address(root)
    try:
        client = MlflowClient(tracking_uri=where)  # checks a database's schema
        if _is_local(root):
            _do_not_wait_for_the_disk(client._tracking_client.store.engine)
    except Exception as error:
        if not _is_foreign(error):
            raise
        raise UserError(
            f"{where} is not a store of this MLflow ({_first_line(error)}): "
            f"delete it and rebuild it by `emofuse track`, or run `mlflow db upgrade {where}`"
        ) from error
    return client


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
    if _is_local(root):
        _make_store(root)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", where, "--artifacts-destination", str(Path(root).resolve() / ARTIFACTS)]
    # The jobs are MLflow's own, for evaluating language models; they would start several processes.
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    sys.stdout.flush()
    os.execve(sys.executable, command, {**settings, **os.environ})


def _database(root: Path | str) -> Path:
    return Path(root).resolve() / DATABASE


def _is_local(root: Path | str) -> bool:
    """Whether the store is the one in `root`, so that it is ours to make and its files are ours to write."""
    scheme, found, path = address(root).partition("sqlite:///")
    return not scheme and bool(found) and (Path(root).resolve() / path).resolve() == _database(root)


def _lock(root: Path | str, name: str = "", timeout: float = 300) -> FileLock:
    """Held for moments by whoever makes the store or a parent run; with a name, something of the caller's own."""
    return FileLock(f"{_database(root)}{name}.lock", timeout=timeout)


def _exists(database: Path) -> bool:
    return database.is_file() and database.stat().st_size > 0


def _make_store(root: Path | str) -> None:
    database = _database(root)
    if _exists(database):
        return
    try:
        with _lock(root):
            if _exists(database):
                return
            for left in database.parent.glob(f".{DATABASE}.*"):  # of a process that was killed here
                left.unlink()
            _set_up()
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


def _set_up() -> None:
    """What MLflow reads when it is imported: no telemetry, no chatter. What the user set stays."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    }.items():
        os.environ.setdefault(name, value)


def _experiment(client: MlflowClient, corpus: str, root: Path | str) -> Experiment:
    """The corpus's experiment, made or brought back where need be."""
    from mlflow.exceptions import MlflowException

    name = f"emofuse/{corpus}"
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        note = f"The folds under results/{corpus}/. `emofuse track {corpus}` rebuilds this from the files."
        location = f"{LOCATION}{corpus}" if _is_local(root) else None
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


def _runs(client: MlflowClient, experiment: Experiment) -> list[Run]:
    """Every run of the experiment that is ours and not deleted."""
    from mlflow.entities import ViewType

    return [run for run in _search(client, experiment, ViewType.ACTIVE_ONLY) if RUN_KEY in run.data.tags]


def _search(client: MlflowClient, experiment: Experiment, view: int) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment.experiment_id], "", view, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _key(run: Run) -> str:
    return run.data.tags[RUN_KEY]


def _delete(client: MlflowClient, run: Run, root: Path | str) -> None:
    """Delete a run with its artefacts; a server keeps what its own `mlflow gc` has not collected."""
    if _is_local(root):
        if run.info.artifact_uri.startswith(LOCATION):
            shutil.rmtree(_artifacts(run, root).parent, ignore_errors=True)
        # `delete_run` only hides a run; this is what `mlflow gc` calls, and MLflow's version is pinned.
        client._tracking_client.store._hard_delete_run(run.info.run_id)
    else:
        client.delete_run(run.info.run_id)


def _artifacts(run: Run, root: Path | str) -> Path:
    """The folder behind a run's mlflow-artifacts address in the local store."""
    return Path(root).resolve() / ARTIFACTS / run.info.artifact_uri.removeprefix(LOCATION)


def _process(pid: int) -> str:
    """Host, process id and start time, so that an id that is used again is not mistaken; no start if it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        started = "" if fields[0] in "ZX" else fields[19]
    except OSError:
        started = ""
    return f"{socket.gethostname()}:{pid}:{started}"


def _trains(run: Run, elsewhere: bool) -> bool:
    """Whether the process of a live run still trains; `elsewhere` is what to believe of one on another host."""
    owner = run.data.tags.get(OWNER, "")
    host, _, pid = owner.rpartition(":")[0].rpartition(":")
    if run.info.status != "RUNNING" or not pid.isdigit():
        return False
    return owner == _process(int(pid)) if host == socket.gethostname() else elsewhere


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- while a fold is trained


class Live:
    """Shows a training in MLflow while it runs, and never stands in its way.

    Nothing is imported or sent before the training has lasted `delay` seconds, and then at most
    every `interval` seconds: a short training pays nothing. The first failure of MLflow is one
    warning, and the end of it; what was not sent is not lost, since `track` writes the whole
    record from the files.

        with Live(RunKey("demo", "kfold_3", "proposed", 1, 0), {}) as live:
            live.epoch({"epoch": 1, "train_loss": 1.9, "val_uar": 0.4})
    """

    def __init__(
        self, key: RunKey, tags: Mapping[str, str], root: Path | str = ".", delay: float = 30.0, interval: float = 10.0
    ) -> None:
        self._key, self._tags, self._root, self._interval = key, dict(tags), Path(root), interval
        self._due = time.monotonic() + delay
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def epoch(self, values: Mapping[str, Any]) -> None:
        """Take note of an epoch: "epoch" is its number, every other number a point of a curve."""
        if self._failed:
            return
        self._waiting.append((_milliseconds(), dict(values)))
        if time.monotonic() >= self._due:
            self._try(self._send)
            self._due = time.monotonic() + self._interval

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None and not self._failed:
            status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
            self._try(lambda: self._finish(status))

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._failed = True
            self._waiting.clear()
            log.warning(
                "MLflow: no live curves of %s from here on (%s); the training goes on, and `emofuse track %s` "
                "writes its whole record",
                self._key,
                _first_line(error),
                self._key.corpus,
            )

    def _send(self) -> None:
        if self._client is None:
            self._client = self._start()
        from mlflow.entities import Metric

        points = [
            Metric(name, float(value), when, int(values["epoch"]))
            for when, values in self._waiting
            for name, value in values.items()
            if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
        ]
        _send_metrics(self._client, self._run_id, points)
        self._waiting.clear()

    def _finish(self, status: str) -> None:
        self._send()
        if self._client is not None:
            self._client.set_terminated(self._run_id, status)

    def _start(self) -> MlflowClient:
        # A server that does not answer may hold the training up for seconds, once, and not for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        client = open_store(self._root)
        for name in ("mlflow", "urllib3"):  # of a failure they would write a page beside our one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with _lock(self._root, timeout=20):
            experiment = _experiment(client, self._key.corpus, self._root)
            runs = _runs(client, experiment)
            for run in runs:
                if _key(run) == str(self._key) and run.info.status != "FINISHED":  # of a training that was stopped
                    _delete(client, run, self._root)
            parents = [run.info.run_id for run in runs if _key(run) == self._key.group]
            parent = parents[0] if parents else self._make_parent(client, experiment)
            tags = {**self._tags, **_git(self._root), RUN_KEY: str(self._key), PARENT: parent}
            tags |= {OWNER: _process(os.getpid()), STATE: "live, before evaluation"}
            run = client.create_run(experiment.experiment_id, tags=tags, run_name=_child_name(self._key))
        self._run_id = run.info.run_id
        return client

    def _make_parent(self, client: MlflowClient, experiment: Experiment) -> str:
        """An empty parent run to hang the fold under; `track` puts one with the scores in its place."""
        run = client.create_run(
            experiment.experiment_id, tags={RUN_KEY: self._key.group}, run_name=_parent_name(self._key)
        )
        client.set_terminated(run.info.run_id)
        return run.info.run_id


def _send_metrics(client: MlflowClient, run_id: str, points: Sequence[Metric]) -> None:
    for start in range(0, len(points), 1000):  # as many as MLflow takes at once
        client.log_batch(run_id, metrics=points[start : start + 1000])


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _parent_name(key: RunKey) -> str:
    return f"{key.variant} {key.protocol} seed-{key.seed}"


def _child_name(key: RunKey) -> str:
    return f"{key.variant} seed-{key.seed} fold-{key.fold}"


# --- from the files


@dataclass(frozen=True)
class _Fold:
    """A fold's files, read, and the tags and parameters of its run."""

    key: RunKey
    metrics: dict[str, Any]  # metrics.json
    history: list[dict[str, str]]  # one row an epoch; empty where the models are not here
    record: dict[str, Any]  # of the training, with its times; empty where the models are not here
    tags: dict[str, str]
    parameters: dict[str, str]
    path: Path  # of metrics.json

    @property
    def fingerprint(self) -> str:
        return self.tags["emofuse.fingerprint"]


def track(corpus: str, params: Params, root: Path | str = ".") -> None:
    """Mirror every fold of a corpus that is on disk into MLflow, and list them in results/<corpus>/tracked.csv.

    Also what rebuilds a store that was lost, cloned away from or fell behind: run twice, it does
    nothing the second time. tracked.csv has, for each fold that params.yaml names, the run's key,
    its scores (0 to 1) and the SHA-256 of its metrics.json; it knows nothing of the store.
    Raises `UserError` where there is nothing to mirror, a result file is broken, or MLflow fails.
    """
    root = Path(root)
    wanted = [
        RunKey(corpus, protocol, variant, seed, fold)
        for protocol, variant, seed, folds in params.corpus(corpus).runs()
        for fold in folds
    ]
    folds = [_read(key, params, root) for key in wanted if _metrics_path(key, root).is_file()]
    if not folds:
        raise UserError(f"results/{corpus}: no fold has been evaluated; run `snakemake {corpus}`")
    with _explained(root):
        client = open_store(root)
        with _lock(root, f".{corpus}"):  # two trackers of one corpus take turns
            experiment = _experiment(client, corpus, root)
            written = _mirror(client, experiment, folds, root)
            _settle(client, experiment, wanted, folds, root)
    log.info("MLflow: %d folds of %s, %d of them written, the others up to date", len(folds), corpus, written)
    write_table(
        root / "results" / corpus / "tracked.csv",
        ("run_key", *SCORES, "fingerprint"),
        ((fold.key, *(fold.metrics[score] for score in SCORES), fold.fingerprint) for fold in folds),
    )


@contextmanager
def _explained(root: Path) -> Iterator[None]:
    """MLflow's failures as one line that a user can act on."""
    try:
        yield
    except Exception as error:
        if not _is_foreign(error):
            raise
        remedy = "if it is broken delete it, and run again" if _is_local(root) else "once it works, run again"
        raise UserError(f"MLflow at {address(root)}: {_first_line(error)}; {remedy}") from error


def _metrics_path(key: RunKey, root: Path) -> Path:
    return root / "results" / str(key) / "metrics.json"


def _read(key: RunKey, params: Params, root: Path) -> _Fold:
    path = _metrics_path(key, root)
    metrics = read_json(path)
    try:
        made_of = dict(metrics["fingerprint"])
        numbers = [metrics[score] for score in SCORES] + list(metrics["validation"].values())
        numbers += [value for value in metrics["recall"].values() if value is not None]
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError
        trained_by = str(made_of["train_stamp"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: not what `emofuse evaluate` writes; delete it and evaluate again") from None
    model = root / "models" / str(key)
    curve, record = model.parent / f"{model.name}.csv", model.parent / f"{model.name}.json"
    history: list[dict[str, str]] = []
    if curve.is_file():
        history = read_table(curve)
    if not all((row.get("epoch") or "").isdigit() for row in history):
        raise UserError(f"{curve}: not what `emofuse train` writes; delete it and train again")
    stamp = root / "stamps" / key.corpus / f"train-{key.variant}.json"
    stale = stamp.is_file() and sha256(stamp) != trained_by
    if stale:
        log.warning("%s was trained with other parameters or code than %s says: train it again", key, stamp)
    tags = {
        RUN_KEY: str(key),
        STATE: "current",
        "emofuse.layout": LAYOUT,
        "emofuse.fingerprint": sha256(path),
        "emofuse.history": sha256(curve) if history else f"{curve.relative_to(root)} is not here",
        # What of params.yaml is known to be what this fold was trained with.
        "emofuse.parameters": (
            "not logged: trained with other parameters or code than the stamp's"
            if stale
            else "as stamped"
            if stamp.is_file()
            else "of params.yaml; no stamp is here to check them by"
        ),
        **{f"emofuse.sha256.{name}": str(value) for name, value in made_of.items()},
    }
    names = {"protocol": key.protocol, "variant": key.variant, "seed": str(key.seed), "fold": str(key.fold)}
    resolved = {} if stale else _flat(params.run(key.corpus, key.variant).model_dump())
    times = read_json(record) if record.is_file() else {}
    return _Fold(key, metrics, history, times, tags, {**names, **resolved}, path)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A tree of parameters as `section.key`: text."""
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _git(root: Path) -> dict[str, str]:
    """The commit that is checked out, under the name that the UI shows, and whether it is all; nothing without git."""
    try:
        commit, changes = (
            subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": commit.strip(), "emofuse.git_dirty": str(bool(changes.strip())).lower()}


# --- from the files to the store


def _mirror(client: MlflowClient, experiment: Experiment, folds: Sequence[_Fold], root: Path) -> int:
    """Bring the runs of these folds and their parents up to date; how many folds were written."""
    groups: dict[str, list[_Fold]] = {}
    for fold in folds:
        groups.setdefault(fold.key.group, []).append(fold)
    commit = _git(root)
    written = 0
    for group, members in groups.items():
        with _lock(root):  # no live run may take the parent that is about to go
            runs = _runs(client, experiment)
            parent = _parent(client, experiment, [run for run in runs if _key(run) == group], members, commit, root)
            for run in runs:
                if _key(run).startswith(f"{group}/") and run.data.tags.get(PARENT) != parent:
                    client.set_tag(run.info.run_id, PARENT, parent)
        for fold in members:
            own = [run for run in runs if _key(run) == str(fold.key) and not _trains(run, elsewhere=False)]
            if not _keep(client, own, fold.tags, root):
                _write_fold(client, experiment, fold, parent, commit, root)
                written += 1
    return written


def _keep(client: MlflowClient, runs: Sequence[Run], tags: Mapping[str, str], root: Path) -> str | None:
    """The one of these runs that is finished and has these tags; the others are deleted."""
    kept = None
    for run in runs:
        same = all(run.data.tags.get(name) == value for name, value in tags.items() if name != STATE)
        if kept is None and same and run.info.status == "FINISHED":
            kept = run.info.run_id
            if run.data.tags.get(STATE) != tags[STATE]:
                client.set_tag(kept, STATE, tags[STATE])
        else:
            _delete(client, run, root)
    return kept


def _parent(
    client: MlflowClient,
    experiment: Experiment,
    runs: Sequence[Run],
    folds: Sequence[_Fold],
    commit: Mapping[str, str],
    root: Path,
) -> str:
    """The id of the parent run of these folds: mean and standard deviation (n - 1) of their scores."""
    from mlflow.entities import Metric

    first = folds[0]
    parameters = {name: value for name, value in first.parameters.items() if name != "fold"}
    together = "".join(f"{fold.key} {fold.fingerprint}\n" for fold in folds)
    tags = {
        **{name: first.tags[name] for name in (STATE, "emofuse.layout", "emofuse.parameters")},
        RUN_KEY: first.key.group,
        "emofuse.fingerprint": hashlib.sha256(together.encode()).hexdigest(),
        "emofuse.folds": " ".join(str(fold.key.fold) for fold in folds),
    }
    if kept := _keep(client, runs, tags, root):
        return kept
    begin, end = min(_times(fold)[0] for fold in folds), max(_times(fold)[1] for fold in folds)
    points = [Metric("folds", len(folds), end, 0)]
    for score in SCORES:
        values = [float(fold.metrics[score]) for fold in folds]
        points.append(Metric(score, statistics.fmean(values), end, 0))
        if len(values) > 1:
            points.append(Metric(f"{score}_sd", statistics.stdev(values), end, 0))
    return _write(client, experiment, _parent_name(first.key), {**commit, **tags}, parameters, points, (begin, end))


def _write_fold(
    client: MlflowClient, experiment: Experiment, fold: _Fold, parent: str, commit: Mapping[str, str], root: Path
) -> None:
    from mlflow.entities import Metric

    begin, end = _times(fold)
    finals = {score: fold.metrics[score] for score in SCORES}
    finals |= {f"recall/{emotion}": value for emotion, value in fold.metrics["recall"].items() if value is not None}
    finals |= {f"validation/{score}": value for score, value in fold.metrics["validation"].items()}
    finals |= {name: value for name, value in fold.record.items() if isinstance(value, int | float)}
    texts = {f"emofuse.{name}": value for name, value in fold.record.items() if isinstance(value, str)}
    points = [Metric(name, float(value), end, 0) for name, value in finals.items()]
    for number, row in enumerate(fold.history, start=1):
        when = begin + (end - begin) * number // len(fold.history)
        points += [
            Metric(name, value, when, int(row["epoch"])) for name, value in _numbers(row).items() if name != "epoch"
        ]
    tags = {**texts, **commit, **fold.tags, PARENT: parent}
    with tempfile.TemporaryDirectory() as folder:
        _draw(fold, Path(folder))
        _write(
            client, experiment, _child_name(fold.key), tags, fold.parameters, points, (begin, end), Path(folder), root
        )


def _write(
    client: MlflowClient,
    experiment: Experiment,
    name: str,
    tags: Mapping[str, str],
    parameters: Mapping[str, str],
    points: Sequence[Metric],
    times: tuple[int, int],
    artifacts: Path | None = None,
    root: Path = Path(),
) -> str:
    """A new run, whole: it is only finished when all of it is there, so a half one is known by its status."""
    from mlflow.entities import Param

    run = client.create_run(experiment.experiment_id, start_time=times[0], tags=dict(tags), run_name=name)
    client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in parameters.items()])
    _send_metrics(client, run.info.run_id, points)
    if artifacts is not None and _is_local(root) and run.info.artifact_uri.startswith(LOCATION):
        shutil.copytree(artifacts, _artifacts(run, root))
    elif artifacts is not None:
        client.log_artifacts(run.info.run_id, str(artifacts))
    client.set_terminated(run.info.run_id, "FINISHED", times[1])
    return run.info.run_id


def _draw(fold: _Fold, folder: Path) -> None:
    """metrics.json and the fold's figures, into `folder`."""
    from emofuse.report.figures import fold_figures

    shutil.copyfile(fold.path, folder / "metrics.json")
    for name, figure in fold_figures(fold.metrics, fold.history).items():
        if fold.history or name != "learning_curve":
            figure.savefig(folder / f"{name}.png", dpi=100)


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    """The columns of a history's row that are numbers: a loss that a variant lacks is empty."""
    numbers = {}
    for name, text in row.items():
        try:
            value = float(text)
        except (TypeError, ValueError):
            continue
        if math.isfinite(value):
            numbers[name] = value
    return numbers


def _times(fold: _Fold) -> tuple[int, int]:
    """Start and end of the run in ms since 1970: it was evaluated when its file was written, and trained before."""
    end = int(fold.path.stat().st_mtime * 1000)
    return end - int(1000 * float(fold.record.get("seconds", 0))), end


def _settle(
    client: MlflowClient, experiment: Experiment, wanted: Sequence[RunKey], folds: Sequence[_Fold], root: Path
) -> None:
    """What is in the store beside the mirrored runs: dead trainings go, the rest stays and says what it is."""
    mirrored = {name for fold in folds for name in (str(fold.key), fold.key.group)}
    known = {name for key in wanted for name in (str(key), key.group)}
    for run in _runs(client, experiment):
        if _key(run) in mirrored or _trains(run, elsewhere=True):
            continue
        if run.info.status == "RUNNING":
            _delete(client, run, root)
            continue
        state = "no results on disk" if _key(run) in known else "no longer in params.yaml"
        if run.data.tags.get(STATE) != state:
            client.set_tag(run.info.run_id, STATE, state)
    if _is_local(root) and experiment.artifact_location == f"{LOCATION}{wanted[0].corpus}":
        _sweep(client, experiment, root / ARTIFACTS / wanted[0].corpus)


def _sweep(client: MlflowClient, experiment: Experiment, folder: Path) -> None:
    """Remove the artefacts of runs that the store knows no more, such as those of a deleted mlflow.db."""
    from mlflow.entities import ViewType

    known = {run.info.run_id for run in _search(client, experiment, ViewType.ALL)}
    for left in folder.iterdir() if folder.is_dir() else ():
        if left.name not in known:
            shutil.rmtree(left)
