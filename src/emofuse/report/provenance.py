"""Where the numbers come from: each run and fold with its files, hashes, parameters and command, from the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from emofuse.paths import RunKey
from emofuse.provenance.records import Record
from emofuse.report.load import CorpusResults, Run

NOT_RECORDED = "not recorded"
FEATURES = ("/faces/", "/audio/")  # many files; the records of the folds have them


@dataclass(frozen=True)
class File:
    """A file that a fold was made from or that came of it, with its SHA-256."""

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
    """A run with at least one fold that has results; `inputs` are those of all its folds, () if they differ."""

    key: str
    run: Run
    parameters: str  # network, loss and training that its first fold was trained with
    code: str
    inputs: tuple[File, ...]
    folds: tuple[FoldOrigin, ...]


def read(corpus: CorpusResults) -> tuple[RunOrigin, ...]:
    """The origin of every run that has results, in the order of the report. Raises `UserError` for a broken record."""
    return tuple(_run(corpus, run) for run in corpus.planned if run.folds)


def _run(corpus: CorpusResults, run: Run) -> RunOrigin:
    trained = next((fold.training for fold in run.folds if fold.training), None)
    folds = tuple(_fold(corpus, run, fold.fold, fold.training) for fold in run.folds)
    inputs = folds[0].inputs if len({fold.inputs for fold in folds}) == 1 else ()
    settings: Mapping[str, Any] = trained.settings if trained else {}
    written: str = yaml.safe_dump(dict(settings), default_flow_style=None, sort_keys=False, width=100)
    return RunOrigin(
        run.key(),
        run,
        written.strip() if settings else NOT_RECORDED,
        trained.code if trained else NOT_RECORDED,
        inputs,
        folds,
    )


def _fold(corpus: CorpusResults, run: Run, number: int, training: Record | None) -> FoldOrigin:
    key = RunKey(corpus.name, run.protocol, run.variant, run.seed, number)
    evaluation = Record.read(corpus.root, key.evaluation_record)
    made = (*(training.outputs.items() if training else ()), *(evaluation.outputs.items() if evaluation else ()))
    read_ = training.inputs.items() if training else ()
    return FoldOrigin(
        key=run.key(number),
        number=number,
        inputs=tuple(File(*item) for item in read_ if not any(part in item[0] for part in FEATURES)),
        outputs=tuple(File(*item) for item in made),
        command=f"snakemake {key.metrics} --cores 1",
    )
