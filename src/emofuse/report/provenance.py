"""Where the numbers come from: the files, hashes, parameters and command of each run and fold, from their records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from emofuse.paths import RunKey
from emofuse.provenance.records import Record
from emofuse.report.load import CorpusResults, Fold, Run
from emofuse.report.transfers import Transfer

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
    title: str
    planned: int  # folds
    parameters: str  # network, loss and training parameters of its first fold
    code: str
    inputs: tuple[File, ...]
    folds: tuple[FoldOrigin, ...]


def read(corpus: CorpusResults) -> tuple[RunOrigin, ...]:
    """The origin of every run that has results, in the order of the report. Raises `UserError` for a broken record."""
    own = (_run(corpus, run) for run in corpus.planned if run.folds)
    return (*own, *(_applied(transfer, group) for transfer in corpus.across for group in transfer.runs))


def _run(corpus: CorpusResults, run: Run) -> RunOrigin:
    training = next((fold.training for fold in run.folds if fold.training), None)
    folds = tuple(_fold(corpus, run, fold) for fold in run.folds)
    title = f"{run.variant}, {run.protocol}, seed {run.seed}"
    return _origin(run.key(), title, len(run.planned), training, folds)


def _applied(transfer: Transfer, group: str) -> RunOrigin:
    """The origin of what models of another corpus predict, for one of their seeds."""
    chosen = [fold for fold in transfer.folds if fold.key.group == group]
    seed = chosen[0].key.run.seed
    folds = tuple(
        FoldOrigin(
            key=f"{group}/fold-{fold.key.run.fold}",
            number=fold.key.run.fold,
            inputs=_files(fold.record.inputs if fold.record else {}),
            outputs=tuple(File(*item) for item in (fold.record.outputs.items() if fold.record else ())),
            command=f"snakemake {fold.key.metrics} --cores 1",
        )
        for fold in chosen
    )
    title = f"{transfer.variant}, trained on {transfer.source}, {transfer.protocol}, seed {seed}"
    planned = sum(key.seed == seed for key in transfer.planned)
    return _origin(group, title, planned, next((fold.record for fold in chosen if fold.record), None), folds)


def _origin(key: str, title: str, planned: int, record: Record | None, folds: tuple[FoldOrigin, ...]) -> RunOrigin:
    """The origin of a run whose folds have, except for inputs and outputs, the same record."""
    settings: Mapping[str, Any] = record.settings if record else {}
    written: str = yaml.safe_dump(dict(settings), default_flow_style=None, sort_keys=False, width=100)
    return RunOrigin(
        key=key,
        title=title,
        planned=planned,
        parameters=written.strip() if settings else NOT_RECORDED,
        code=record.code if record else NOT_RECORDED,
        inputs=folds[0].inputs if len({fold.inputs for fold in folds}) == 1 else (),
        folds=folds,
    )


def _files(hashes: Mapping[str, str]) -> tuple[File, ...]:
    """Files with their hashes, without features."""
    return tuple(File(*item) for item in hashes.items() if not any(part in item[0] for part in FEATURES))


def _fold(corpus: CorpusResults, run: Run, fold: Fold) -> FoldOrigin:
    key = RunKey(corpus.name, run.protocol, run.variant, run.seed, fold.fold)
    evaluation = Record.read(corpus.root, key.evaluation_record)
    records = [record for record in (fold.training, evaluation) if record]
    calibration = evaluation.inputs.get(key.calibration) if evaluation else None
    return FoldOrigin(
        key=run.key(fold.fold),
        number=fold.fold,
        inputs=_files(fold.training.inputs if fold.training else {}),
        outputs=(
            *(File(*item) for record in records for item in record.outputs.items()),
            *([File(key.calibration, calibration)] if calibration else []),
        ),
        command=f"snakemake {key.metrics} --cores 1",
    )
