"""MLflow: trainings are live runs, evaluations add their scores, and `track` uploads from the files whatever is missing.

There is one experiment per corpus (or the one named by MLFLOW_EXPERIMENT_NAME), one parent run per protocol, variant and seed,
and one child run per fold. A rerun replaces the previous run of its fold, which is deleted and can be restored in the UI. A
run that somebody has annotated is kept and tagged `emofuse.superseded`. What is logged per epoch is the row that the loop in
`training.train` adds to the history.

The store is `mlflow.db` and `mlartifacts/` in the root of the repository, or what MLFLOW_TRACKING_URI names. It is a view of the
result files; no result depends on it. A local store contains absolute paths: after moving a repository, delete both and run
`emofuse track`.

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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from emofuse import paths
from emofuse.config import leaves
from emofuse.evaluation.metrics import NAMES
from emofuse.paths import RunKey
from emofuse.provenance.job import verified
from emofuse.provenance.records import Record
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, read_json, sha256
from emofuse.utils.locks import locked

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import ActiveRun
    from mlflow.entities import Run

    from emofuse.config import Params

log = logging.getLogger(__name__)

RUN = "emofuse.run"  # identifies a run: str(key) for a fold, key.group for a parent
RECORD = "emofuse.record"  # hash of the evaluation record, set after everything else has been logged
SUPERSEDED = "emofuse.superseded"
CALIBRATION = "emofuse.calibration"  # what the temperature of a fold was fitted on, or "uncalibrated"
SCORES = tuple(NAMES)

SHORT = 20.0  # seconds; the run of a shorter training is created when it is evaluated, since MLflow takes 2 s to start
INTERVAL = 2.0  # seconds between uploads of a running training
PATIENCE = 28.0  # maximum seconds that a training waits for MLflow at its end
LOCK_TIMEOUT = 120.0  # seconds to wait for other processes that create the store, experiment or parent run

VIEW = "emofuse"  # the saved view that shows the scores
COLUMNS = {"selectedColumns": [f"metrics.`{name}`" for name in (*SCORES, "folds")]}
# The tags of an experiment, unless it has its own.
EXPERIMENT = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One run for each protocol, variant and seed, with a nested run for each fold. Scores refer to the"
    " test clips of the fold, which are scored once, after the training; those of a parent run are means over its folds. Curves"
    " show training clips and, with `training.selection: nested`, validation clips (`val_…`), never test clips."
    " `emofuse track` uploads what is missing.",
    # The UI shows no metrics by default. This is what its menu "Views" stores.
    f"mlflow.sharedViewState.{VIEW}": json.dumps({"name": "Scores", "createdAt": 0, "state": json.dumps(COLUMNS)}),
}


@dataclass
class TrainingRun:
    """The MLflow run of a training while it trains.

        with TrainingRun(key, parameters, tags, clips) as live:
            live.epoch({"epoch": 1, "train_loss": 1.9})

    MLflow runs in a thread, so that only the end of the block ever waits for it. Its first failure is logged as one warning
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
        """Add the epochs before the interruption that this training resumes from."""
        self._rows.extend(history)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._ended.set()
        self._thread.join(PATIENCE)
        with _warned(self.key):
            if self._thread.is_alive():
                raise TimeoutError(f"no response within {PATIENCE:.0f} s")

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

    If the training has no run, one is created from its files. A failure of MLflow is logged as one warning.
    """
    with _warned(key):
        _upload(key, _open(key.corpus, root), root)


def track(corpus: str, params: Params, root: Path) -> None:
    """Upload each evaluated fold of a corpus that MLflow lacks, or has incompletely.

    Complete runs, and runs without local files, are left as they are. Raises `UserError` if nothing has been evaluated, a
    result file is corrupted, or MLflow fails.
    """
    evaluated = [key for key in params.keys(corpus) if (root / key.evaluation_record).is_file()]
    if not evaluated:
        raise UserError(f"results/{corpus}: nothing has been evaluated; run `snakemake {corpus}`")
    with _explained(root, f"once it works, run `emofuse track {corpus}` again"), _lock(root, ".track"):
        experiment = _open(corpus, root)
        uploaded = sum(_upload(key, experiment, root) for key in evaluated)
    log.info(
        "MLflow: %d of %d evaluated folds of %s uploaded; the others were complete", uploaded, len(evaluated), corpus
    )


def serve(port: int, root: Path = Path()) -> None:
    """Replace this process by `mlflow ui` on 127.0.0.1:`port`.

    Raises `UserError` if the port is in use, or if the store is a server, which has its own UI.
    """
    store, environment = _address(root), dict(os.environ)
    if store.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI: {_public(store)} is a server with its own UI: open it in a browser")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port}: {error.strerror}; choose another one with --port, such as `emofuse ui --port 5001`"
            ) from None
    with _explained(root, "once it works, run `emofuse ui` again"):
        _connect(root)
        import mlflow

        experiments = [each for each in mlflow.search_experiments() if f"mlflow.sharedViewState.{VIEW}" in each.tags]
    for each in experiments:
        # On first use in a browser, MLflow shows its pages for language models unless the address says otherwise.
        page = f"#/experiments/{each.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"
        print(f"{each.name}: http://127.0.0.1:{port}/{page}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", (root.resolve() / "mlartifacts").as_uri()]
    # The job runner, for evaluating language models, would start several processes.
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}
    os.execve(sys.executable, command, {**settings, "MLFLOW_BACKEND_STORE_URI": store})


def download(address: str, root: Path = Path()) -> Path:
    """Download an MLflow address (models:/…, runs:/…) to a folder that is deleted when this process ends.

    Raises `UserError` if nothing is found, or MLflow fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="emofuse-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with _explained(root, f"check {address}"):
        _connect(root)
        from mlflow.artifacts import download_artifacts

        return Path(download_artifacts(address, dst_path=str(folder)))


def configure() -> None:
    """Set defaults of MLflow's environment variables. Call this before importing MLflow."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Two attempts of 10 s, so that an unresponsive server is given up within PATIENCE.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns about each retry


def _address(root: Path) -> str:
    """The address of the store. Raises `UserError` for a folder that MLflow would take for another."""
    if address := os.environ.get("MLFLOW_TRACKING_URI"):
        return address
    if "?" in str(root.resolve()):
        raise UserError(
            f"{root.resolve()}: MLflow cannot use a path with a question mark; rename the folder, or set MLFLOW_TRACKING_URI"
        )
    return f"sqlite:///{root.resolve()}/mlflow.db"


def _database(root: Path) -> Path | None:
    """The SQLite file of the store; None if the store is a server."""
    scheme, found, path = _address(root).partition("sqlite:///")
    return Path(path).resolve() if found and not scheme else None


def _lock(root: Path, name: str = "") -> AbstractContextManager[None]:
    """A lock for creating what must exist only once. Raises `filelock.Timeout`, an `OSError`."""
    return locked(Path(f"{_database(root) or root / 'mlflow.db'}{name}.lock"), LOCK_TIMEOUT)


def _connect(root: Path) -> None:
    """Import MLflow and connect it to the store. A missing SQLite file is created.

    MLflow itself would create it, but several processes at once, or one that is killed meanwhile, leave an unusable file.
    Here one process creates it under a temporary name while the others wait.
    """
    store, database, set_by_user = _address(root), _database(root), os.environ.get("MLFLOW_TRACKING_URI")
    configure()
    import mlflow

    if database and not database.is_file():
        with _lock(root):
            if not database.is_file():
                with tempfile.TemporaryDirectory(prefix=f"{database.name}.", dir=database.parent) as folder:
                    mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/new.db")
                    Path(folder, "new.db").replace(database)
    mlflow.set_tracking_uri(store)
    if not set_by_user:  # set_tracking_uri sets the variable, which would override the next `root`
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
    with _lock(root):  # MLflow fails if two processes create an experiment, or one of its tags, simultaneously
        found = mlflow.get_experiment_by_name(name)
        if found is None:  # a server has its own artifact location
            return mlflow.create_experiment(
                name, (database.parent / "mlartifacts").as_uri() if database else None, EXPERIMENT
            )
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        for tag in EXPERIMENT.keys() - found.tags.keys():
            client.set_experiment_tag(found.experiment_id, tag, EXPERIMENT[tag])
    return str(found.experiment_id)


def _runs(experiment: str, name: str) -> list[Run]:
    """The current runs with this tag `emofuse.run`, oldest first. There is one, unless processes were killed or raced."""
    import mlflow

    runs = mlflow.search_runs([experiment], f"tags.`{RUN}` = '{name}'", output_format="list")
    return sorted((run for run in runs if SUPERSEDED not in run.data.tags), key=lambda run: run.info.start_time)


def _parent(experiment: str, key: RunKey, root: Path) -> str:
    """The id of the parent run, which is created if missing.

    The lock does not extend to other machines that use the same server. If two create the parent at once, the older is kept.
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
    """Start the run of a fold; it becomes the active run of this thread."""
    import mlflow

    tags, name = {**tags, RUN: str(key)}, _name(str(key))
    return mlflow.start_run(experiment_id=experiment, parent_run_id=parent, run_name=name, tags=tags)


def _name(run: str) -> str:
    """The name of a run in the UI, given its tag: `fold-0 proposed seed-1` under `proposed kfold_3 seed-1`."""
    _, protocol, variant, seed, *fold = run.split("/")
    return f"{fold[0]} {variant} {seed}" if fold else f"{variant} {protocol} {seed}"


def _retire(runs: Iterable[Run]) -> None:
    """Delete runs that have been replaced; those that somebody has annotated are tagged as superseded instead."""
    import mlflow

    for run in runs:
        if not _annotated(run):
            mlflow.delete_run(run.info.run_id)
            continue
        mlflow.MlflowClient().set_tag(run.info.run_id, SUPERSEDED, "true")
        if run.info.status == "RUNNING":
            mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")


def _annotated(run: Run) -> bool:
    """Whether a run has been given a note, a tag or another name, or a model has been registered from it."""
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

    mlflow.log_params(dict(leaves(parameters)))
    if dataset is not None and dataset.is_file():
        clips, digest = read_csv(dataset), sha256(dataset)[:8]
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
    for start in range(0, len(points), 1000):  # the maximum per call
        MlflowClient().log_batch(run.info.run_id, points[start : start + 1000], synchronous=True)


def _upload(key: RunKey, experiment: str, root: Path) -> bool:
    """Complete the run of an evaluated fold from its files, and update the means of its parent. Returns whether it was incomplete.

    A run of a training other than that of the files is replaced.
    """
    import mlflow

    training, evaluation = Record.read(root, key.training_record), Record.read(root, key.evaluation_record)
    if evaluation is None or (
        training and any(evaluation.inputs.get(path) != training.outputs.get(path) for path in key.trained)
    ):
        return False  # trained again, but not evaluated yet
    history = _history(key, root) if training else []
    parent, runs = _parent(experiment, key, root), _runs(experiment, str(key))
    if training is None and any(run.info.status == "RUNNING" for run in runs):
        return False  # being trained right now
    known = [run for run in runs if run.data.tags.get(RECORD) == evaluation.hash or _trained_as(run, history)][:1]
    _retire(run for run in runs if run not in known)
    for run in known:
        if run.data.tags.get("mlflow.parentRunId") != parent:  # the previous parent was deleted
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
    """The epochs of a training; none if the file is absent, as in adopted results."""
    if not (root / key.history).is_file():
        return []
    verified(root, key.history)
    rows = read_csv(root / key.history).drop(columns="kept").to_dict("records")
    return [{str(name): float(value) for name, value in row.items() if value} for row in rows]


def _trained_as(run: Run, history: Sequence[Mapping[str, float]]) -> bool:
    """Whether a run has the curves of this training, up to the last epoch."""
    if not history:
        return run.info.status == "FINISHED" and "train_loss" not in run.data.metrics
    last = {name: value for name, value in history[-1].items() if name != "epoch" and math.isfinite(value)}
    return last.items() <= run.data.metrics.items()


def _log_scores(key: RunKey, training: Record | None, evaluation: Record, root: Path) -> None:
    """Add an evaluation to the active run: scores, confusion matrix, files and, last, the hash of the record."""
    import mlflow

    for path in (key.metrics, key.predictions):
        verified(root, path)
    metrics = read_json(root / key.metrics)
    scores = {name: metrics[name] for name in SCORES}
    scores |= {f"recall_{emotion}": recall for emotion, recall in metrics["recall"].items() if recall is not None}
    scores |= {f"kept_val_{name}": value for name, value in (metrics["validation"] or {}).items()}
    if calibrated := metrics["calibration"]:
        scores["temperature"] = calibrated["temperature"]
    mlflow.set_tags({CALIBRATION: calibrated["from"] if calibrated else "uncalibrated"})
    if training:
        scores |= {"seconds": seconds} if (seconds := training.details.get("seconds")) else {}
        mlflow.log_artifact(str(root / training.path), "training")
    mlflow.log_metrics(scores, synchronous=True)
    mlflow.log_figure(_confusion(metrics), "confusion.png")
    for path in (key.metrics, key.predictions, evaluation.path):
        mlflow.log_artifact(str(root / path), "evaluation")
    mlflow.set_tags({RECORD: evaluation.hash}, synchronous=True)


def _confusion(metrics: Mapping[str, Any]) -> Figure:
    """The confusion matrix: number of clips by emotion (row) and predicted emotion (column)."""
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
    """Set the scores of the parent run to the means over the evaluated folds.

    Other folds may be evaluated meanwhile, so this repeats until the logged means are those of the files.
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
    """Log any failure as one warning."""
    try:
        yield
    except Exception as error:
        message = "MLflow: %s is not tracked (%s); results are not affected. Once MLflow works, run `emofuse track %s`"
        log.warning(message, key, _one_line(error), key.corpus)


@contextmanager
def _explained(root: Path, advice: str) -> Iterator[None]:
    """Raise failures of MLflow as `UserError`."""
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
    """Text without the passwords of addresses."""
    return re.sub(r"//[^/@\s]*@", "//", text)
