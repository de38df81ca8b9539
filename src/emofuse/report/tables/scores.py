"""Scores, differences and p-values in tables: their columns, how they are written, and the notes on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from emofuse.evaluation import statistics
from emofuse.evaluation.metrics import NAMES
from emofuse.evaluation.text import spread
from emofuse.report.load import Run
from emofuse.report.table import NOT_RUN, Column, Row, points
from emofuse.utils.text import NONE, ranges

PROTOCOL = Column("Protocol", "protocol")
SEED = Column("Seed", "seed", numeric=True)
VARIANT = Column("Variant", "variant")


def _folds(row: Row) -> str:
    folds, planned = row["folds"], row["folds_planned"]
    return str(folds) if folds == planned else f"{folds} of {planned}"


FOLDS = Column("Folds", _folds, numeric=True, runs="runs")


def columns() -> list[Column]:
    """A column per score: mean ± sd over folds, and the interval."""

    def column(metric: str) -> Column:
        def text(row: Row) -> str:
            return spread(estimate(row, metric)) if pd.notna(row[f"{metric}_mean"]) else NOT_RUN

        return Column(f"{NAMES[metric]} %", text, numeric=True, runs="runs")

    return [column(metric) for metric in statistics.METRICS]


def record(run: Run) -> dict[str, Any]:
    """The row of a run: what identifies it, its status, and its scores as fractions."""
    row: dict[str, Any] = {"protocol": run.protocol, "variant": run.variant, "seed": run.seed, "status": run.status}
    for metric in statistics.METRICS:
        found = run.estimates.get(metric)
        for key in ("mean", "sd", "low", "high"):
            row[f"{metric}_{key}"] = getattr(found, key) if found else None
    return row | {"runs": run.key() if run.folds else None}


def difference_record(
    name: str, found: statistics.Difference | statistics.Estimate | None, keys: Sequence[str] = ("mean", "low", "high")
) -> dict[str, float | None]:
    """The fields of a difference, as columns `name`, `name_low` and so on; None if there is no difference."""
    return {name if key == "mean" else f"{name}_{key}": getattr(found, key) if found else None for key in keys}


def estimate(row: Row, name: str) -> statistics.Estimate:
    """The estimate in the columns `name_mean` or `name`, `name_sd`, `name_low` and `name_high` of a row."""
    values = [row.get(f"{name}_mean", row.get(name)), *(row.get(f"{name}_{key}") for key in ("sd", "low", "high"))]
    mean, *others = (None if pd.isna(value) else float(value) for value in values)
    return statistics.Estimate(float("nan") if mean is None else mean, *others)


def gain(difference: statistics.Difference | statistics.Estimate, scale: float = 100) -> str:
    """A difference in points, with its interval on the next line; `scale` converts it to points."""
    found = statistics.Estimate(difference.mean, None, difference.low, difference.high)
    return spread(found, lambda value: points(scale * value))


def difference_column(header: str, name: str, runs: str, scale: float = 100) -> Column:
    """The column of a difference in points; `scale` converts the frame's `name`, `name_low` and `name_high` to points."""

    def text(row: Row) -> str:
        if pd.isna(row[name]):
            return NONE
        return gain(estimate(row, name), scale)

    return Column(header, text, numeric=True, runs=runs)


def p_value(p: float) -> str:
    """A p-value to three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def incomplete_note(runs: Iterable[Run]) -> list[str]:
    """Which folds are missing from which runs."""
    missing = [
        f"{run.variant} (seed {run.seed}, {run.protocol}) lacks fold {ranges(run.missing)}"
        for run in runs
        if run.status == "incomplete"
    ]
    return [f"Incomplete, computed from the folds that were run: {'; '.join(missing)}."] if missing else []
