"""Where the numbers come from: the files, hashes, parameters and command of each run and fold, from their records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from emofuse.paths import RunKey
from emofuse.provenance.records import Record
from emofuse.report.load import CorpusResults, Fold, Run

NOT_RECORDED = "not recorded"
FEATURES = ("/faces/", "/audio/")  # not listed, because there are many; the records of the folds have them


@dataclass(frozen=True)
class File:
    """An input or output of a fold, with its SHA-256."""

    path: str
    sha256: str


@dataclass(frozen=True)
class FoldOrigin:
    """A fold that has results."""

    key: str
    number: int
    inputs: tuple[File, ...]
    outputs: tuple[File, ...]
    command: str


@dataclass(frozen=True)
class RunOrigin:
    """A run that has results. `inputs` are those of all its folds, or () if they differ."""

    key: str
    run: Run
    parameters: str  # network, loss and training parameters of its first fold
    code: str
    inputs: tuple[File, ...]
    folds: tuple[FoldOrigin, ...]


def read(corpus: CorpusResults) -> tuple[RunOrigin, ...]:
    """The origin of every run that has results, in the order of the report. Raises `UserError` for a broken record."""
    return tuple(_run(corpus, run) for run in corpus.planned if run.folds)


def _run(corpus: CorpusResults, run: Run) -> RunOrigin:
    training = next((fold.training for fold in run.folds if fold.training), None)
    folds = tuple(_fold(corpus, run, fold) for fold in run.folds)
    settings: Mapping[str, Any] = training.settings if training else {}
    written: str = yaml.safe_dump(dict(settings), default_flow_style=None, sort_keys=False, width=100)
    return RunOrigin(
        key=run.key(),
        run=run,
        parameters=written.strip() if settings else NOT_RECORDED,
        code=training.code if training else NOT_RECORDED,
        inputs=folds[0].inputs if len({fold.inputs for fold in folds}) == 1 else (),
        folds=folds,
    )


def _fold(corpus: CorpusResults, run: Run, fold: Fold) -> FoldOrigin:
    key = RunKey(corpus.name, run.protocol, run.variant, run.seed, fold.fold)
    records = [record for record in (fold.training, Record.read(corpus.root, key.evaluation_record)) if record]
    inputs = fold.training.inputs.items() if fold.training else ()
    return FoldOrigin(
        key=run.key(fold.fold),
        number=fold.fold,
        inputs=tuple(File(*item) for item in inputs if not any(part in item[0] for part in FEATURES)),
        outputs=tuple(File(*item) for record in records for item in record.outputs.items()),
        command=f"snakemake {key.metrics} --cores 1",
    )
