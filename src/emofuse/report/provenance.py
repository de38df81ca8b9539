"""Where the numbers come from: each run and fold with its files, hashes, parameters, commit and command.

Only what the files say: the fold's metrics.json states, in its fingerprint, the hashes of what it was made from; the
record beside the model says what it was trained on; the stamp of the training has its parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emofuse import fingerprints
from emofuse.files import read_json, sha256
from emofuse.report.results import CorpusResults, Run

NOT_RECORDED = "not recorded in the files"
NOT_HERE = "not here"
CHANGED = "another is on disk now"


@dataclass(frozen=True)
class File:
    """A file that a fold was made from, or that came of it, by its path from the repository's root.

    `sha256` is that of the file that was used, "" where no file says it; `remark` says how the file on disk differs.
    """

    path: str
    sha256: str
    remark: str = ""


@dataclass(frozen=True)
class FoldOrigin:
    """A fold that has results. `trained` says on what, "" where the record of the training is not here."""

    key: str
    number: int
    commit: str
    trained: str
    inputs: tuple[File, ...]
    outputs: tuple[File, ...]
    command: str


@dataclass(frozen=True)
class RunOrigin:
    """A run with at least one fold that has results."""

    key: str
    run: Run
    parameters: str  # network, loss and training, as params.yaml would have them
    assurance: str  # whether those are the parameters that it was made with
    stale: tuple[int, ...]  # the folds made with other parameters or code than the stamps on disk have
    folds: tuple[FoldOrigin, ...]

    @property
    def shared(self) -> dict[str, Any]:
        """What all folds have in common: `inputs`, `commit` and `trained`; a key is absent where they differ."""
        same = {}
        for name in ("inputs", "commit", "trained"):
            values = {getattr(fold, name) for fold in self.folds}
            if len(values) == 1:
                same[name] = values.pop()
        return same


def read(corpus: CorpusResults) -> tuple[RunOrigin, ...]:
    """The origin of every run that has results, in the order of the report. Raises `UserError` for a broken file."""
    return tuple(_run(corpus, run) for run in corpus.planned if run.folds)


def _run(corpus: CorpusResults, run: Run) -> RunOrigin:
    folds = tuple(_fold(corpus, run, fold.fold, fold.record or {}) for fold in run.folds)
    stale = tuple(fold.number for fold in folds if any(file.remark == CHANGED for file in fold.inputs))
    stamps = [file for fold in folds for file in fold.inputs if file.path.startswith("stamps/")]
    setup = run.setup.model_dump(mode="json")
    if stale:
        assurance = "Those of params.yaml now. By the stamps, parameters or code have changed since the run."
    elif all(file.sha256 and not file.remark for file in stamps):
        setup = read_json(corpus.root / "stamps" / corpus.name / f"train-{run.variant}.json")["params"]
        assurance = "Those of the run: the stamps that it was made with are those on disk."
    else:
        assurance = "Those of params.yaml now. Without the run's stamps it cannot be told here whether it had the same."
    parameters = {section: setup[section] for section in ("network", "loss", "training")}
    written: str = yaml.safe_dump(parameters, default_flow_style=None, sort_keys=False, width=100)
    return RunOrigin(run.key(), run, written.strip(), assurance, stale, folds)


def _fold(corpus: CorpusResults, run: Run, number: int, record: Mapping[str, Any]) -> FoldOrigin:
    name, place = run.key(number), corpus.name
    made = f"results/{place}/{name}"
    stated = read_json(corpus.root / made / "metrics.json")["fingerprint"]
    data, stamps = f"data/{place}/{run.protocol}", f"stamps/{place}"
    return FoldOrigin(
        key=name,
        number=number,
        commit=_commit(
            fingerprints.read(corpus.root, "train", place, run.protocol, run.variant, run.seed, number) or {}
        ),
        trained=_trained(record),
        inputs=(
            _input(corpus.root, f"{data}/clips.csv", stated.get("clips")),
            _input(corpus.root, f"{data}/folds.csv", stated.get("folds")),
            _input(corpus.root, f"{stamps}/train-{run.variant}.json", stated.get("train_stamp")),
            _input(corpus.root, f"{stamps}/evaluate-{run.variant}.json", stated.get("evaluate_stamp")),
        ),
        outputs=(
            # A model is big: its hash is the one that the evaluation took of it.
            _stated(corpus.root, f"models/{place}/{name}.safetensors", stated.get("model")),
            File(f"{made}/predictions.csv", sha256(corpus.root / made / "predictions.csv")),
            File(f"{made}/metrics.json", sha256(corpus.root / made / "metrics.json")),
        ),
        command=f"snakemake {made}/metrics.json --cores 1",
    )


def _stated(root: Path, path: str, digest: str | None) -> File:
    return File(path, digest or "", "" if (root / path).is_file() else NOT_HERE)


def _input(root: Path, path: str, digest: str | None) -> File:
    file = _stated(root, path, digest)
    if file.remark or not file.sha256 or sha256(root / path) == file.sha256:
        return file
    return File(path, file.sha256, CHANGED)


def _commit(fingerprint: Mapping[str, Any]) -> str:
    if not fingerprint.get("commit"):
        return NOT_RECORDED
    return f"{fingerprint['commit']}{', with changes that were not committed' if fingerprint.get('dirty') else ''}"


def _trained(record: Mapping[str, Any]) -> str:
    if not record:
        return ""
    threads = record.get("threads", "?")
    return f"{record.get('device', 'unknown device')}, {threads} thread(s), torch {record.get('torch', 'unknown')}"
