"""From the result files to the store."""

from __future__ import annotations

import json
import logging
import math
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse.errors import UserError
from emofuse.files import read_json, read_table, sha256, write_table
from emofuse.params import leaves
from emofuse.tracking import store
from emofuse.tracking.store import RunKey

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Metric, Run
    from mlflow.tracking import MlflowClient

    from emofuse.params import Params

log = logging.getLogger(__name__)

SCORES = ("war", "uar", "macro_f1")

# What of params.yaml is known to be what a fold was trained with: the tag emofuse.parameters.
STALE = "not logged: trained with other parameters or code than the stamp's"
STAMPED = "as stamped"
UNCHECKED = "of params.yaml; no stamp is here to check them by"


@dataclass(frozen=True)
class _Fold:
    """A fold's files, read, and the tags and parameters of its run."""

    key: RunKey
    metrics: dict[str, Any]  # metrics.json
    history: list[dict[str, str]]  # one row an epoch; empty where the models are not here
    record: dict[str, Any]  # of the training, with its times; empty where the models are not here
    tags: dict[str, str]
    parameters: dict[str, str]
    times: tuple[int, int]  # start and end in ms since 1970

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of metrics.json."""
        return self.tags[f"{store.FILE}metrics.json"]


def track(corpus: str, params: Params, root: Path | str = ".") -> None:
    """Mirror every fold of a corpus that is on disk into MLflow, and list them in results/<corpus>/tracked.csv.

    A fold's run gets its scores and curves, and the files that `restore` writes back. Also what rebuilds a store that was lost, cloned away from or fell behind: run twice, it does
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
    folds = [_read(key, params, root) for key in wanted if (root / key.files["metrics.json"]).is_file()]
    if not folds:
        raise UserError(f"results/{corpus}: no fold has been evaluated; run `snakemake {corpus}`")
    with store.explained(root):
        client = store.open_store(root)
        with store.lock(root, f".{corpus}"):  # two trackers of one corpus take turns
            experiment = store.open_experiment(client, corpus, root)
            written = _mirror(client, experiment, folds, root)
            _settle(client, experiment, wanted, folds, root)
    log.info("MLflow: %d folds of %s, %d of them written, the others up to date", len(folds), corpus, written)
    write_table(
        root / "results" / corpus / "tracked.csv",
        ("run_key", *SCORES, "fingerprint"),
        ((fold.key, *(fold.metrics[score] for score in SCORES), fold.fingerprint) for fold in folds),
    )


def _read(key: RunKey, params: Params, root: Path) -> _Fold:
    path, curve, record = (root / key.files[name] for name in ("metrics.json", "history.csv", "training.json"))
    metrics = read_json(path)
    try:
        made_of = dict(metrics["fingerprint"])
        numbers = [metrics[score] for score in SCORES] + list(metrics["validation"].values())
        numbers += [value for value in metrics["recall"].values() if value is not None]
        numbers += [metrics["calibration"]["temperature"]]
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError
        trained_by = str(made_of["train_stamp"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: not what `emofuse evaluate` writes; delete it and evaluate again") from None
    history = read_table(curve) if curve.is_file() else []
    if not all((row.get("epoch") or "").isdigit() for row in history):
        raise UserError(f"{curve}: not what `emofuse train` writes; delete it and train again")
    stamp = root / "stamps" / key.corpus / f"train-{key.variant}.json"
    stale = stamp.is_file() and sha256(stamp) != trained_by
    if stale:
        log.warning("%s was trained with other parameters or code than %s says: train it again", key, stamp)
    tags = {
        store.RUN_KEY: str(key),
        store.STATE: store.CURRENT,
        store.LAYOUT_OF: store.LAYOUT,
        "emofuse.parameters": STALE if stale else STAMPED if stamp.is_file() else UNCHECKED,
        **{f"emofuse.sha256.{name}": str(value) for name, value in made_of.items()},
        **_hashes(key.files, root),
    }
    names = {"protocol": key.protocol, "variant": key.variant, "seed": str(key.seed), "fold": str(key.fold)}
    resolved = {} if stale else _flat(params.run(key.corpus, key.variant).model_dump())
    training = read_json(record) if record.is_file() else {}
    # It was evaluated when its file was written, and trained before.
    end = int(path.stat().st_mtime * 1000)
    times = end - int(1000 * float(training.get("seconds", 0))), end
    return _Fold(key, metrics, history, training, tags, {**names, **resolved}, times)


def _hashes(files: Mapping[str, Path], root: Path) -> dict[str, str]:
    """The tags of those of a run's files that are here."""
    return {f"{store.FILE}{name}": sha256(root / path) for name, path in files.items() if (root / path).is_file()}


def _flat(tree: Mapping[str, Any]) -> dict[str, str]:
    """A tree of parameters as `section.key`: text."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in leaves(tree)}


def _mirror(client: MlflowClient, experiment: Experiment, folds: Sequence[_Fold], root: Path) -> int:
    """Bring the runs of these folds and their parents up to date; how many folds were written."""
    groups: dict[str, list[_Fold]] = {}
    for fold in folds:
        groups.setdefault(fold.key.group, []).append(fold)
    written = 0
    for group, members in groups.items():
        with store.lock(root):  # no live run may take the parent that is about to go
            runs = store.runs(client, experiment)
            parent = _parent(client, experiment, [run for run in runs if store.run_key(run) == group], members, root)
            for run in runs:
                if store.run_key(run).startswith(f"{group}/") and run.data.tags.get(store.PARENT) != parent:
                    client.set_tag(run.info.run_id, store.PARENT, parent)
        for fold in members:
            own = [
                run for run in runs if store.run_key(run) == str(fold.key) and not store.trains(run, elsewhere=False)
            ]
            if not _keep(client, own, fold.tags, root):
                _write_fold(client, experiment, fold, parent, root)
                written += 1
    return written


def _keep(client: MlflowClient, runs: Sequence[Run], tags: Mapping[str, str], root: Path) -> str | None:
    """The one of these runs that is finished and has these tags; the others are deleted."""
    told = {name: value for name, value in tags.items() if name != store.STATE and value != UNCHECKED}
    kept = None
    for run in runs:
        same = told.items() <= run.data.tags.items()
        if kept is None and same and run.info.status == "FINISHED":
            kept = run.info.run_id
            if run.data.tags.get(store.STATE) != tags[store.STATE]:
                client.set_tag(kept, store.STATE, tags[store.STATE])
        else:
            store.delete(client, run, root)
    return kept


def _parent(
    client: MlflowClient, experiment: Experiment, runs: Sequence[Run], folds: Sequence[_Fold], root: Path
) -> str:
    """The id of the parent run of these folds: mean and standard deviation (n - 1) of their scores."""
    from mlflow.entities import Metric

    first = folds[0]
    parameters = {name: value for name, value in first.parameters.items() if name != "fold"}
    tags = {
        **{name: first.tags[name] for name in (store.STATE, store.LAYOUT_OF, "emofuse.parameters")},
        store.RUN_KEY: first.key.group,
        store.FINGERPRINT: store.fingerprint((str(fold.key), fold.fingerprint) for fold in folds),
        store.FOLDS: " ".join(str(fold.key.fold) for fold in folds),
        **_hashes(first.key.shared_files, root),
    }
    if kept := _keep(client, runs, tags, root):
        return kept
    begin, end = min(fold.times[0] for fold in folds), max(fold.times[1] for fold in folds)
    points = [Metric("folds", len(folds), end, 0)]
    for score in SCORES:
        values = [float(fold.metrics[score]) for fold in folds]
        points.append(Metric(score, statistics.fmean(values), end, 0))
        if len(values) > 1:
            points.append(Metric(f"{score}_sd", statistics.stdev(values), end, 0))

    def fill(folder: Path) -> None:
        _copy(first.key.shared_files, tags, root, folder)

    return _write(client, experiment, first.key.parent_name, tags, parameters, points, (begin, end), fill, root)


def _write_fold(client: MlflowClient, experiment: Experiment, fold: _Fold, parent: str, root: Path) -> None:
    from mlflow.entities import Metric

    begin, end = fold.times
    finals = {score: fold.metrics[score] for score in SCORES}
    finals |= {f"recall/{emotion}": value for emotion, value in fold.metrics["recall"].items() if value is not None}
    finals |= {f"validation/{score}": value for score, value in fold.metrics["validation"].items()}
    finals["calibration/temperature"] = fold.metrics["calibration"]["temperature"]
    record = {name: value for name, value in fold.record.items() if name not in ("commit", "dirty")}
    finals |= {name: value for name, value in record.items() if isinstance(value, int | float)}
    texts = {f"emofuse.{name}": value for name, value in record.items() if isinstance(value, str)}
    points = [Metric(name, float(value), end, 0) for name, value in finals.items()]
    for number, row in enumerate(fold.history, start=1):
        when = begin + (end - begin) * number // len(fold.history)
        points += [
            Metric(name, value, when, int(row["epoch"])) for name, value in _numbers(row).items() if name != "epoch"
        ]
    tags = {**texts, **store.git_tags(fold.record), **fold.tags, store.PARENT: parent}

    def fill(folder: Path) -> None:
        _copy(fold.key.files, tags, root, folder)
        _draw(fold, folder)

    _write(client, experiment, fold.key.run_name, tags, fold.parameters, points, fold.times, fill, root)


def _write(
    client: MlflowClient,
    experiment: Experiment,
    name: str,
    tags: Mapping[str, str],
    parameters: Mapping[str, str],
    points: Sequence[Metric],
    times: tuple[int, int],
    fill: Callable[[Path], None],
    root: Path,
) -> str:
    """A new run, whole: it is only finished when all of it is there, so a half one is known by its status.

    `fill` puts its artefacts into a folder.
    """
    from mlflow.entities import Param

    run = client.create_run(experiment.experiment_id, start_time=times[0], tags=dict(tags), run_name=name)
    client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in parameters.items()])
    store.send_metrics(client, run.info.run_id, points)
    if beside := store.artifacts(run, root):
        beside.mkdir(parents=True)
        fill(beside)
    else:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder))
            client.log_artifacts(run.info.run_id, folder)
    client.set_terminated(run.info.run_id, "FINISHED", times[1])
    return run.info.run_id


def _copy(files: Mapping[str, Path], tags: Mapping[str, str], root: Path, folder: Path) -> None:
    """Those of a run's files that its tags name, into `folder`."""
    for name, path in files.items():
        if stated := tags.get(f"{store.FILE}{name}"):
            shutil.copyfile(root / path, folder / name)
            if sha256(folder / name) != stated:
                raise UserError(f"{path} was written anew while it was mirrored: run again")


def _draw(fold: _Fold, folder: Path) -> None:
    """The fold's figures, into `folder`."""
    from emofuse.report.figures import fold_figures

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


def _settle(
    client: MlflowClient, experiment: Experiment, wanted: Sequence[RunKey], folds: Sequence[_Fold], root: Path
) -> None:
    """What is in the store beside the mirrored runs: dead trainings go, the rest stays and says what it is."""
    mirrored = {name for fold in folds for name in (str(fold.key), fold.key.group)}
    known = {name for key in wanted for name in (str(key), key.group)}
    for run in store.runs(client, experiment):
        if store.run_key(run) in mirrored or store.trains(run, elsewhere=True):
            continue
        if run.info.status == "RUNNING":
            store.delete(client, run, root)
            continue
        state = "no results on disk" if store.run_key(run) in known else "no longer in params.yaml"
        if run.data.tags.get(store.STATE) != state:
            client.set_tag(run.info.run_id, store.STATE, state)
    if store.is_local(root) and experiment.artifact_location == f"{store.LOCATION}{wanted[0].corpus}":
        _sweep(client, experiment, root / store.ARTIFACTS / wanted[0].corpus)


def _sweep(client: MlflowClient, experiment: Experiment, folder: Path) -> None:
    """Remove the artefacts of runs that the store knows no more, such as those of a deleted mlflow.db."""
    from mlflow.entities import ViewType

    known = {run.info.run_id for run in store.search_runs(client, experiment, ViewType.ALL)}
    for left in folder.iterdir() if folder.is_dir() and not folder.is_symlink() else ():
        if left.name not in known:
            shutil.rmtree(left)
