"""MLflow: a training is a live run, its evaluation adds the scores, and `track` uploads from the files what is missing.

An experiment is a corpus, or what MLFLOW_EXPERIMENT_NAME says; a parent run is a protocol, variant and seed; its child runs
are the folds. A rerun replaces the previous run of its fold, which is deleted as the UI deletes and can be restored there.
A run that somebody has annotated is kept and tagged `emofuse.superseded`.

The store is `mlflow.db` and `mlartifacts/` in the repository's root unless MLFLOW_TRACKING_URI names another. It is a view of
the result files: nothing depends on it. A local store contains absolute paths; after moving a repository, delete both and
run `emofuse track`.

Importing MLflow takes seconds, so it is imported in functions.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import re
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock

from emofuse import paths
from emofuse.config import leaves
from emofuse.paths import RunKey
from emofuse.provenance.job import verified
from emofuse.provenance.records import Record
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_json, read_table, sha256

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import ActiveRun
    from mlflow.entities import Run

    from emofuse.config import Params

log = logging.getLogger(__name__)

RUN = "emofuse.run"  # which run it is: str(key) for a fold, key.group for a parent
RECORD = "emofuse.record"  # hash of the evaluation's record, set when everything else has been logged
SUPERSEDED = "emofuse.superseded"
SCORES = ("war", "uar", "macro_f1")

SHORT = 5.0  # seconds; a shorter training is not worth importing MLflow for: its run is created when it is evaluated
INTERVAL = 2.0  # seconds between uploads of a running training
PATIENCE = 28.0  # seconds that a training waits for MLflow at its end, at most
TURN = 120.0  # seconds to wait for other processes that create the store, experiment or parent run

VIEW = "emofuse"  # the saved view with the scores
COLUMNS = {"selectedColumns": [f"metrics.`{name}`" for name in (*SCORES, "folds")]}
# What an experiment gets unless it has its own.
EXPERIMENT = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One run for each protocol, variant and seed, with a nested run for each fold. Scores are on the"
    " fold's test clips, those of a parent run are means over its folds. `emofuse track` uploads what is missing.",
    # The UI shows no metrics by itself. This is what its menu "Views" stores.
    f"mlflow.sharedViewState.{VIEW}": json.dumps({"name": "Scores", "createdAt": 0, "state": json.dumps(COLUMNS)}),
}


@dataclass
class TrainingRun:
    """The MLflow run of a training while it trains.

        with TrainingRun(key, parameters, tags, clips) as live:
            live.epoch({"epoch": 1, "train_loss": 1.9, "val_uar": 0.4})

    All of MLflow happens in a thread, so that only the end of the block ever waits for it. Its first failure is one warning
    and ends the tracking, not the training.
    """

    key: RunKey
    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    dataset: Path | None = None
    root: Path = Path()

    def __enter__(self) -> Self:
        self._rows: list[Mapping[str, float]] = []
        self._status = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._track, daemon=True)
        self._thread.start()
        return self

    def epoch(self, row: Mapping[str, float]) -> None:
        """Add a point to each curve, at step `row["epoch"]`."""
        self._rows.append(row)

    def resumed(self, history: Sequence[Mapping[str, float]]) -> None:
        """Add the epochs of the interrupted training that this one continues."""
        self._rows.extend(history)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._ended.set()
        self._thread.join(PATIENCE)
        with _warned(self.key):
            if self._thread.is_alive():
                raise TimeoutError(f"no answer within {PATIENCE:.0f} s")

    def _track(self) -> None:
        if self._ended.wait(SHORT):
            return
        with _warned(self.key):
            experiment = _open(self.key.corpus, self.root)
            import mlflow

            _retire(_runs(experiment, str(self.key)))
            run = _start(experiment, _parent(experiment, self.key, self.root), self.key, self.tags)
            _log_inputs(self.key, self.parameters, self.dataset)
            sent, ended = 0, False
            while not ended:
                ended = self._ended.wait(INTERVAL)
                rows = self._rows[sent:]
                _log_curves(run, rows)
                sent += len(rows)
            mlflow.end_run(self._status)


def evaluated(key: RunKey, root: Path = Path()) -> None:
    """Add the scores, figures and files of an evaluation to the fold's run, and update the means of the parent run.

    If the training has no run, it gets one from its files. Failures of MLflow are one warning.
    """
    with _warned(key):
        _upload(key, _open(key.corpus, root), root)


def track(corpus: str, params: Params, root: Path) -> None:
    """Upload each evaluated fold of a corpus that is not, or not completely, in MLflow: into an empty store, all of them.

    Complete runs, and runs whose files are not here, stay as they are. Raises `UserError` if nothing has been evaluated, a
    result file is corrupted, or MLflow fails.
    """
    here = [key for key in params.keys(corpus) if (root / key.evaluation_record).is_file()]
    if not here:
        raise UserError(f"results/{corpus}: nothing has been evaluated; run `snakemake {corpus}`")
    with _explained(root, f"once it works, run `emofuse track {corpus}` again"), _lock(root, ".track"):
        experiment = _open(corpus, root)
        uploaded = sum(_upload(key, experiment, root) for key in here)
    log.info("MLflow: %d folds of %s, %d uploaded, the others were complete", len(here), corpus, uploaded)


def serve(port: int, root: Path = Path()) -> None:
    """Become `mlflow ui` on 127.0.0.1:`port`; does not return.

    Raises `UserError` if the port is taken, or the store is a server, which has a UI of its own.
    """
    store, environment = _address(root), dict(os.environ)
    if store.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI: {_public(store)} is a server with a UI of its own: open it in a browser")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port}: {error.strerror}; choose another, as in `emofuse ui --port 5001`") from None
    with _explained(root, "once it works, run `emofuse ui` again"):
        _connect(root)
        import mlflow

        experiments = [each for each in mlflow.search_experiments() if f"mlflow.sharedViewState.{VIEW}" in each.tags]
    for each in experiments:
        # In a browser that is new to it, MLflow opens its pages on language models unless the address says otherwise.
        page = f"#/experiments/{each.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
        print(f"{each.name}: http://127.0.0.1:{port}/{page}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", (root.resolve() / "mlartifacts").as_uri()]
    # MLflow's jobs, for evaluating language models, would start several processes.
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}
    os.execve(sys.executable, command, {**settings, "MLFLOW_BACKEND_STORE_URI": store})


def download(address: str, root: Path = Path()) -> Path:
    """Download from one of MLflow's addresses (models:/…, runs:/…) to a folder that is deleted when this process ends.

    Raises `UserError` if there is nothing, or MLflow fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="emofuse-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with _explained(root, f"check {address}"):
        _connect(root)
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(address, dst_path=str(folder)))


def configure() -> None:
    """Set what MLflow reads from the environment, unless the user has; call it before MLflow is imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Two tries of 10 s: a server that accepts connections and never answers is given up within PATIENCE.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # warns of each retry


def _address(root: Path) -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve()}/mlflow.db"


def _database(root: Path) -> Path | None:
    """The store's SQLite file; None if the store is a server."""
    scheme, found, path = _address(root).partition("sqlite:///")
    return Path(path).resolve() if found and not scheme else None


def _lock(root: Path, name: str = "") -> FileLock:
    """Held while creating what must exist only once. Raises `filelock.Timeout`, which is an `OSError`."""
    return FileLock(f"{_database(root) or root / 'mlflow.db'}{name}.lock", timeout=TURN)


def _connect(root: Path) -> None:
    """Import MLflow and point it to the store. A SQLite file is created if it is missing.

    MLflow would create it, but processes that do so at once, or one that is killed meanwhile, leave a file that nothing can
    use. Here one process creates it under a temporary name while the others wait.
    """
    store, database, given = _address(root), _database(root), os.environ.get("MLFLOW_TRACKING_URI")
    configure()
    import mlflow

    if database and not database.is_file():
        with _lock(root):
            if not database.is_file():
                with tempfile.TemporaryDirectory(prefix=f"{database.name}.", dir=database.parent) as folder:
                    mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/new.db")
                    Path(folder, "new.db").replace(database)
    mlflow.set_tracking_uri(store)
    if not given:  # MLflow has just set it, and the next `root` would be ignored
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def _open(corpus: str, root: Path) -> str:
    """The id of a corpus's experiment, which is created if missing and restored if deleted."""
    _connect(root)
    import mlflow

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"emofuse/{corpus}"
    found = mlflow.get_experiment_by_name(name)
    if found and found.lifecycle_stage == "active" and EXPERIMENT.keys() <= found.tags.keys():
        return str(found.experiment_id)
    client, database = mlflow.MlflowClient(), _database(root)
    with _lock(root):  # MLflow fails if two processes create an experiment, or one of its tags, at once
        found = mlflow.get_experiment_by_name(name)
        if found is None:  # a server has its own place for artifacts
            return mlflow.create_experiment(
                name, (database.parent / "mlartifacts").as_uri() if database else None, EXPERIMENT
            )
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        for tag in EXPERIMENT.keys() - found.tags.keys():
            client.set_experiment_tag(found.experiment_id, tag, EXPERIMENT[tag])
    return str(found.experiment_id)


def _runs(experiment: str, name: str) -> list[Run]:
    """The current runs with the tag `emofuse.run`, the oldest first: one, unless processes were killed or raced."""
    import mlflow

    runs = mlflow.search_runs([experiment], f"tags.`{RUN}` = '{name}'", output_format="list")
    return sorted((run for run in runs if SUPERSEDED not in run.data.tags), key=lambda run: run.info.start_time)


def _parent(experiment: str, key: RunKey, root: Path) -> str:
    """The id of the parent run, which is created if missing.

    The lock does not reach other machines that use the same server. If two create the parent at once, the older one stays.
    """
    import mlflow

    runs = _runs(experiment, key.group)
    if not runs:
        with _lock(root):
            if not _runs(experiment, key.group):
                with mlflow.start_run(experiment_id=experiment, run_name=_name(key.group), tags={RUN: key.group}):
                    mlflow.log_params({name: value for name, value in key.asdict().items() if name != "fold"})
            runs = _runs(experiment, key.group)
            _retire(runs[1:])
    return str(runs[0].info.run_id)


def _start(experiment: str, parent: str, key: RunKey, tags: Mapping[str, str]) -> ActiveRun:
    """Start a fold's run, which becomes this thread's active run."""
    import mlflow

    tags, name = {**tags, RUN: str(key)}, _name(str(key))
    return mlflow.start_run(experiment_id=experiment, parent_run_id=parent, run_name=name, tags=tags)


def _name(run: str) -> str:
    """What the UI calls a run, by its tag: `fold-0 proposed seed-1` under `proposed kfold_3 seed-1`."""
    _, protocol, variant, seed, *fold = run.split("/")
    return f"{fold[0]} {variant} {seed}" if fold else f"{variant} {protocol} {seed}"


def _retire(runs: Iterable[Run]) -> None:
    """Delete runs that are replaced, or keep them as superseded if somebody has annotated them."""
    import mlflow

    for run in runs:
        if not _annotated(run):
            mlflow.delete_run(run.info.run_id)
            continue
        mlflow.MlflowClient().set_tag(run.info.run_id, SUPERSEDED, "true")
        if run.info.status == "RUNNING":
            mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")


def _annotated(run: Run) -> bool:
    """Whether somebody gave a run a note, a tag or another name, or registered a model from it."""
    import mlflow

    tags = run.data.tags
    return (
        "mlflow.note.content" in tags
        or not all(tag.startswith(("mlflow.", "emofuse.")) for tag in tags)
        or run.info.run_name != _name(tags[RUN])
        or bool(mlflow.search_model_versions(filter_string=f"run_id = '{run.info.run_id}'"))
    )


def _log_inputs(key: RunKey, parameters: Mapping[str, Any], dataset: Path | None) -> None:
    """Add the parameters and the data set to the active run."""
    import mlflow
    import pandas as pd

    mlflow.log_params(dict(leaves(parameters)))
    if dataset is not None and dataset.is_file():
        clips, digest = pd.read_csv(dataset, dtype=str), sha256(dataset)[:8]
        name = f"{key.corpus}/{key.protocol} fold {key.fold}"
        logged = mlflow.data.from_pandas(clips, str(dataset), name=name, digest=digest)  # type: ignore[attr-defined]
        mlflow.log_input(logged, "training")


def _log_curves(run: Run, rows: Iterable[Mapping[str, float]]) -> None:
    """Add epochs to the curves of a run."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    now = round(time.time() * 1000)
    points = [
        Metric(name, float(value), now, int(row["epoch"]))
        for row in rows
        for name, value in row.items()
        if name != "epoch" and math.isfinite(value)
    ]
    for start in range(0, len(points), 1000):  # as many as MLflow accepts at once
        MlflowClient().log_batch(run.info.run_id, points[start : start + 1000], synchronous=True)


def _upload(key: RunKey, experiment: str, root: Path) -> bool:
    """Complete the run of an evaluated fold from its files, and update the parent's means; whether there was anything to do.

    A run of another training than that of the files is replaced.
    """
    import mlflow

    training, evaluation = Record.read(root, key.training_record), Record.read(root, key.evaluation_record)
    if evaluation is None or (
        training and any(evaluation.inputs.get(path) != training.outputs.get(path) for path in key.trained)
    ):
        return False  # trained since, but not evaluated
    history = _history(key, root) if training else []
    parent, runs = _parent(experiment, key, root), _runs(experiment, str(key))
    if training is None and any(run.info.status == "RUNNING" for run in runs):
        return False  # training at this moment
    known = [run for run in runs if run.data.tags.get(RECORD) == evaluation.hash or _trained_as(run, history)][:1]
    _retire(run for run in runs if run not in known)
    for run in known:
        if run.data.tags.get("mlflow.parentRunId") != parent:  # somebody deleted the parent
            mlflow.MlflowClient().set_tag(run.info.run_id, "mlflow.parentRunId", parent)
        if run.info.status == "FINISHED" and run.data.tags.get(RECORD) == evaluation.hash:
            _average(parent, key, root)
            return False
    with mlflow.start_run(run_id=known[0].info.run_id) if known else _start(experiment, parent, key, {}) as active:
        if not known:
            record = training or evaluation
            if record.commit:
                mlflow.set_tags({"mlflow.source.git.commit": record.commit, "emofuse.dirty": str(record.dirty).lower()})
            _log_inputs(key, {**record.settings, **key.asdict()}, root / paths.splits(key.corpus, key.protocol)[0])
            _log_curves(active, history)
        _log_scores(key, training, evaluation, root)
    _average(parent, key, root)
    return True


def _history(key: RunKey, root: Path) -> list[dict[str, float]]:
    """The epochs of a fold's training; none if the file is not here, as in published results."""
    if not (root / key.history).is_file():
        return []
    verified(root, key.history)
    rows = read_table(root / key.history)
    return [{name: float(value) for name, value in row.items() if name != "best" and value} for row in rows]


def _trained_as(run: Run, history: Sequence[Mapping[str, float]]) -> bool:
    """Whether a run has the curves of this training, to the last epoch."""
    if not history:
        return run.info.status == "FINISHED" and "train_loss" not in run.data.metrics
    last = {name: value for name, value in history[-1].items() if name != "epoch" and math.isfinite(value)}
    return last.items() <= run.data.metrics.items()


def _log_scores(key: RunKey, training: Record | None, evaluation: Record, root: Path) -> None:
    """Add an evaluation to the active run: scores, confusion matrix, files, and last the record's hash."""
    import mlflow

    for path in (key.metrics, key.predictions):
        verified(root, path)
    metrics = read_json(root / key.metrics)
    scores = {name: metrics[name] for name in SCORES} | {"temperature": metrics["calibration"]["temperature"]}
    scores |= {f"recall_{emotion}": recall for emotion, recall in metrics["recall"].items() if recall is not None}
    scores |= {f"best_val_{name}": value for name, value in metrics["validation"].items()}
    if training:
        scores |= {"seconds": seconds} if (seconds := training.details.get("seconds")) else {}
        mlflow.log_artifact(str(root / training.path), "training")
    mlflow.log_metrics(scores, synchronous=True)
    mlflow.log_figure(_confusion(metrics), "confusion.png")
    for path in (key.metrics, key.predictions, evaluation.path):
        mlflow.log_artifact(str(root / path), "evaluation")
    mlflow.set_tags({RECORD: evaluation.hash}, synchronous=True)


def _confusion(metrics: Mapping[str, Any]) -> Figure:
    """The confusion matrix: clips of each emotion (row) by predicted emotion (column)."""
    import numpy as np
    from matplotlib.figure import Figure

    counts, emotions = np.array(metrics["confusion"]), metrics["emotions"]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.add_subplot(xlabel="predicted", ylabel="emotion")
    axes.set_title(f"WAR {metrics['war']:.1%}, UAR {metrics['uar']:.1%}")
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(emotions)), emotions, rotation=45, ha="right")
    axes.set_yticks(range(len(emotions)), emotions)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, count, ha="center", va="center", color="white" if shares[row, column] > 0.5 else "black")
    return figure


def _average(parent: str, key: RunKey, root: Path) -> None:
    """Set the parent's scores to the means over the folds that have been evaluated.

    Other folds may be evaluated meanwhile: whoever writes last has seen all of them.
    """
    import mlflow

    logged: Mapping[str, float] = mlflow.get_run(parent).data.metrics
    while True:
        folds = [read_json(path) for path in (root / key.results).parent.glob("fold-*/metrics.json")]
        means = {score: round(statistics.fmean(fold[score] for fold in folds), 6) for score in SCORES}
        means["folds"] = len(folds)
        if means.items() <= logged.items():
            return
        mlflow.log_metrics(means, synchronous=True, run_id=parent)
        logged = means


@contextmanager
def _warned(key: RunKey) -> Iterator[None]:
    """Turn any failure into one warning."""
    try:
        yield
    except Exception as error:
        message = "MLflow: %s is not tracked (%s); no result depends on it. Once MLflow works, run `emofuse track %s`"
        log.warning(message, key, _one_line(error), key.corpus)


@contextmanager
def _explained(root: Path, advice: str) -> Iterator[None]:
    """Turn failures of MLflow into `UserError`."""
    try:
        yield
    except Exception as error:
        origin = type(error).__module__.partition(".")[0]
        if not isinstance(error, OSError) and origin not in ("mlflow", "sqlalchemy", "alembic"):
            raise
        raise UserError(f"MLflow at {_public(_address(root))}: {_one_line(error)}; {advice}") from error


def _one_line(error: Exception) -> str:
    return (_public(str(error)).strip().splitlines() or [type(error).__name__])[0][:200]


def _public(text: str) -> str:
    """Text without the passwords in addresses."""
    return re.sub(r"//[^/@\s]*@", "//", text)
