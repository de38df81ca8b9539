"""From the store back to the result files."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse.errors import UserError
from emofuse.files import atomic, sha256
from emofuse.tracking import store
from emofuse.tracking.store import RunKey

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

    from emofuse.params import Params

log = logging.getLogger(__name__)


def restore(corpus: str, params: Params, root: Path | str = ".") -> None:
    """Write back from the store what the tables of a corpus are made from, where it is missing.

    That is, of every fold of params.yaml that was on disk when `track` last ran: metrics, predictions,
    embeddings, and the history and record of its training; and the corpus's clips, folds and search.
    Models are not in the store: `dvc pull` fetches them, and the tables need none. Each file is checked
    by its hash and written whole or not at all; run again, it goes on from where it was stopped.
    Raises `UserError` where a file is here with another content, before anything is written; where the
    store is not there, does not answer, has nothing of the corpus or only half of it; and where a copy
    is missing or damaged.
    """
    root = Path(root)
    groups = [
        [RunKey(corpus, protocol, variant, seed, fold) for fold in folds]
        for protocol, variant, seed, folds in params.corpus(corpus).runs()
    ]
    where = store.address(root)
    if store.is_missing(root):
        raise UserError(
            f"{where}: there is no store; bring {store.DATABASE} and {store.ARTIFACTS}/ here,"
            " or name a server in MLFLOW_TRACKING_URI"
        )
    with store.explained(root), store.lock(root, f".{corpus}"):  # no tracker of this corpus meanwhile
        client = store.open_store(root)
        mirrored = _Mirrored(corpus, where, _runs(client, corpus))
        sources = [source for keys in groups for source in mirrored.sources(keys)]
        if not sources:
            raise mirrored.error(f"has no fold of {corpus} that params.yaml names")
        _check(sources, mirrored, root)
        written = sum(_write(client, source, root) for source in sources)
    folds, planned = sum("metrics.json" in source.files for source in sources), sum(map(len, groups))
    log.info("MLflow: %d folds of %s are in the store; %d files written, the others were here", folds, corpus, written)
    if folds < planned:
        log.warning("%d folds that params.yaml names are not in the store", planned - folds)


@dataclass(frozen=True)
class _Source:
    """A run and those of its files that it has: artefact → path from the repository's root."""

    run: Run
    files: dict[str, Path]

    @classmethod
    def of(cls, run: Run, files: dict[str, Path]) -> _Source:
        return cls(run, {name: path for name, path in files.items() if f"{store.FILE}{name}" in run.data.tags})

    def hash(self, name: str) -> str:
        """The SHA-256 that a file had when it was put into the store."""
        return self.run.data.tags[f"{store.FILE}{name}"]


@dataclass(frozen=True)
class _Mirrored:
    """What `track` has made of a corpus."""

    corpus: str
    address: str
    runs: dict[str, list[Run]]  # by key; finished or not

    def sources(self, keys: Sequence[RunKey]) -> Iterator[_Source]:
        """The parent run of these folds and, of their runs, those that it was made from: all of them, or an error."""
        parent = self._whole(keys[0].group)
        if parent is None:
            if orphans := [key for key in keys if _is_current(self._whole(str(key)))]:
                raise self.error(f"has the run {orphans[0]}, but none of {keys[0].group}")
            return
        if not _is_current(parent):
            return
        yield _Source.of(parent, keys[0].shared_files)
        names = [f"{keys[0].group}/fold-{number}" for number in parent.data.tags.get(store.FOLDS, "").split()]
        folds = {name: self._whole(name) for name in names}
        if absent := [name for name, run in folds.items() if run is None]:
            raise self.error(f"lacks the run {absent[0]}")
        metrics = [(name, run.data.tags.get(f"{store.FILE}metrics.json")) for name, run in folds.items() if run]
        if store.fingerprint(metrics) != parent.data.tags.get(store.FINGERPRINT):
            raise self.error(f"has other folds of {keys[0].group} than that run was made from")
        yield from (_Source.of(run, key.files) for key in keys if (run := folds.get(str(key))))

    def _whole(self, name: str) -> Run | None:
        """The run of that key; None where there is none. `UserError` where it is not finished or of another layout."""
        reason = ""
        for run in self.runs.get(name, []):
            layout = run.data.tags[store.LAYOUT_OF]
            if run.info.status != "FINISHED":
                reason = f"has the run {name} half written ({run.info.status})"
            elif layout != store.LAYOUT:
                reason = f"has the run {name} in layout {layout}, and this emofuse reads layout {store.LAYOUT}"
            else:
                return run
        if reason:
            raise self.error(reason)
        return None

    def error(self, what: str) -> UserError:
        """What is wrong with the store, and what mends it."""
        return UserError(f"{self.address} {what}: run `emofuse track {self.corpus}` where the result files are")


def _runs(client: MlflowClient, corpus: str) -> dict[str, list[Run]]:
    """The runs that `track` has written or begun; those of live trainings have no layout."""
    experiment = client.get_experiment_by_name(store.experiment_name(corpus))
    found: dict[str, list[Run]] = {}
    if experiment is not None and experiment.lifecycle_stage == "active":
        for run in store.runs(client, experiment):
            if store.LAYOUT_OF in run.data.tags:
                found.setdefault(store.run_key(run), []).append(run)
    return found


def _is_current(run: Run | None) -> bool:
    return run is not None and run.data.tags.get(store.STATE) == store.CURRENT


def _check(sources: Iterable[_Source], mirrored: _Mirrored, root: Path) -> None:
    """`UserError` for a file that is in two runs, or in one and here, with different contents."""
    stated: dict[Path, str] = {}
    for source in sources:
        for name, path in source.files.items():
            if stated.setdefault(path, source.hash(name)) != source.hash(name):
                raise mirrored.error(f"has {path} in two contents")
    for path, content in stated.items():
        if (root / path).exists() and sha256(root / path) != content:
            raise UserError(
                f"{path} is here with another content than in the store: move it away and run again,"
                f" or, if it is the one that counts, run `emofuse track {mirrored.corpus}`"
            )


def _write(client: MlflowClient, source: _Source, root: Path) -> int:
    """Write those files of a run that are not here; how many they are."""
    missing = {name: path for name, path in source.files.items() if not (root / path).exists()}
    if not missing:
        return 0
    with _artifacts(client, source.run, missing, root) as folder:
        for name, path in missing.items():
            if not (folder / name).is_file():
                raise _unusable(path, source, "is missing")
            with atomic(root / path) as temporary:
                shutil.copyfile(folder / name, temporary)
                if sha256(temporary) != source.hash(name):
                    raise _unusable(path, source, "is damaged")
    return len(missing)


def _unusable(path: Path, source: _Source, how: str) -> UserError:
    return UserError(
        f"{path}: its copy in the store, of the run {store.run_key(source.run)}, {how}: copy the store again, whole,"
        " or delete that run in the UI and run `emofuse track` where the result files are"
    )


@contextmanager
def _artifacts(client: MlflowClient, run: Run, names: Iterable[str], root: Path) -> Iterator[Path]:
    """A folder that has these artefacts of a run, those that there are."""
    if beside := store.artifacts(run, root):
        yield beside
        return
    there = {item.path for item in client.list_artifacts(run.info.run_id)}
    with tempfile.TemporaryDirectory() as folder:
        for name in there.intersection(names):
            client.download_artifacts(run.info.run_id, name, folder)
        yield Path(folder)
