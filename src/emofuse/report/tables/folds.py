"""The table of folds: the test actors of each, and the scores."""

from __future__ import annotations

from typing import Any

from emofuse.evaluation import statistics
from emofuse.evaluation.metrics import NAMES
from emofuse.report.load import CorpusResults, Fold, Run
from emofuse.report.table import NOT_RUN, Column, Table, count, frame
from emofuse.report.tables import scores
from emofuse.utils.text import percent, ranges


def _actors(text: str) -> str:
    """Numbers separated by spaces, or names separated by semicolons."""
    return ranges(map(int, text.split())) if text.replace(" ", "").isdecimal() else text


COLUMNS = [
    scores.PROTOCOL,
    scores.VARIANT,
    scores.SEED,
    Column("Fold", "fold", numeric=True),
    Column("Test actors", "actors", _actors, runs="runs"),
    Column("Clips", "clips", count, numeric=True, runs="runs"),
    *(
        Column(f"{NAMES[metric]} %", metric, percent, NOT_RUN, numeric=True, runs="runs")
        for metric in statistics.METRICS
    ),
    Column("Validation UAR %", "validation_uar", percent, numeric=True, runs="runs"),
    Column("Kept epoch", "kept_epoch", numeric=True, runs="runs"),
]


def folds(corpus: CorpusResults) -> Table:
    """Each planned fold of each run: test actors, scores, the kept epoch, and its validation UAR if there is one."""
    return Table(
        name="folds",
        title=f"Scores by fold, {corpus.title}",
        frame=frame(_record(run, number) for run in corpus.planned for number in run.planned),
        columns=COLUMNS,
        notes=[
            "Kept epoch: the one whose weights were tested. With training.selection: last, it is the last; with nested, the one"
            " with the highest validation UAR, on actors that are neither in the training nor in the test part of the fold."
        ],
        warning=corpus.warning,
    )


def _record(run: Run, number: int) -> dict[str, Any]:
    key = {"protocol": run.protocol, "variant": run.variant, "seed": run.seed, "fold": number}
    fold: Fold | None = next((fold for fold in run.folds if fold.fold == number), None)
    if fold is None:
        absent = ("actors", "clips", *statistics.METRICS, "validation_war", "validation_uar", "kept_epoch", "runs")
        return key | {"status": NOT_RUN} | dict.fromkeys(absent)
    return (
        key
        | {
            "status": "run",
            "actors": (" " if fold.actors.dtype.kind == "i" else "; ").join(map(str, fold.actors)),
            "clips": fold.clips,
        }
        | fold.scores
        | {f"validation_{name}": fold.validation[name] if fold.validation else None for name in ("war", "uar")}
        | {"kept_epoch": fold.training.details.get("kept_epoch") if fold.training else None, "runs": run.key(number)}
    )
