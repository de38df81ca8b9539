"""Scores, differences and p-values in tables: their columns, how they are written, and the notes on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from emofuse.evaluation import statistics
from emofuse.evaluation.metrics import NAMES
from emofuse.evaluation.text import spread
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Column, Row, points
from emofuse.utils.text import NONE, percent, ranges

INCOMPLETE = "incomplete"
PLAIN = ("plain_audio", "plain_video", "plain_late_average")  # the baselines that anyone could train
FIELDS = ("mean", "sd_folds", "sd_seeds", "low", "high")  # of a score, in files
DIFFERENCE = ("mean", "low", "high", "low_90", "high_90")  # of a difference


def marked(variant: str, status: str | None) -> str:
    """The name of a variant, with a mark if it is incomplete."""
    return f"{variant}\n({INCOMPLETE})" if status == INCOMPLETE else variant


def _of_planned(name: str) -> Column:
    def text(row: Row) -> str:
        found, planned = row[name], row[f"{name}_planned"]
        return str(found) if found == planned else f"{found} of {planned}"

    return Column(name.capitalize(), text, numeric=True, runs="runs")


PROTOCOL = Column("Protocol", "protocol")
SEED = Column("Seed", "seed", numeric=True)
VARIANT = Column("Variant", lambda row: marked(str(row["variant"]), row.get("status")))
SEEDS, FOLDS = _of_planned("seeds"), _of_planned("folds")


def columns() -> list[Column]:
    """A column per score: mean ± sd over folds ± sd over seeds, and the interval."""

    def column(metric: str) -> Column:
        def text(row: Row) -> str:
            return spread(estimate(row, metric)) if pd.notna(row[f"{metric}_mean"]) else NOT_RUN

        return Column(f"{NAMES[metric]} %", text, numeric=True, runs="runs")

    return [column(metric) for metric in statistics.METRICS]


def record(method: Method) -> dict[str, Any]:
    """The row of a variant: what identifies it, its status, seeds and folds, and its scores as fractions."""
    row: dict[str, Any] = {"protocol": method.protocol, "variant": method.variant, **extent(method)}
    for metric in statistics.METRICS:
        found = method.estimates.get(metric)
        row |= {f"{metric}_{key}": getattr(found, key) if found else None for key in FIELDS}
    return row | {"runs": method.keys or None}


def extent(method: Method) -> dict[str, Any]:
    """The status of a variant, and how many seeds and folds its numbers are from and are planned."""
    return {
        "status": method.status,
        "seeds": len(method.seeds),
        "seeds_planned": len(method.runs),
        "folds": len(method.folds),
        "folds_planned": len(method.runs[0].planned),
    }


def difference_record(
    name: str, found: statistics.Estimate | None, keys: Sequence[str] = DIFFERENCE
) -> dict[str, float | None]:
    """The fields of a difference, as columns `name`, `name_low` and so on; None if there is no difference."""
    return {name if key == "mean" else f"{name}_{key}": getattr(found, key) if found else None for key in keys}


def estimate(row: Row, name: str, level: str = "") -> statistics.Estimate:
    """The estimate in the columns of a row: its mean (`name_mean` or `name`), standard deviations and interval.

    The interval is that of the columns `name_low` and `name_high` with the suffix `level`.
    """
    keys = ("sd_folds", "sd_seeds", f"low{level}", f"high{level}")
    values = [row.get(f"{name}_mean", row.get(name)), *(row.get(f"{name}_{key}") for key in keys)]
    mean, *others = (None if pd.isna(value) else float(value) for value in values)
    return statistics.Estimate(float("nan") if mean is None else mean, *others)


def gain(difference: statistics.Estimate, scale: float = 100) -> str:
    """A difference in points, with its interval on the next line; `scale` converts it to points."""
    return spread(replace(difference, sd_folds=None, sd_seeds=None), lambda value: points(scale * value))


def difference_column(header: str, name: str, runs: str, scale: float = 100, level: str = "") -> Column:
    """The column of a difference in points, from the columns `name`, `name_low` and `name_high` of the frame.

    `scale` converts them to points. The interval is that with the suffix `level`: `_90`, or by default 95 %.
    """

    def text(row: Row) -> str:
        if pd.isna(row[name]):
            return NONE
        return gain(estimate(row, name, level), scale)

    return Column(header, text, numeric=True, runs=runs)


def p_value(p: float) -> str:
    """A p-value to three decimals."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def incomplete_note(methods: Iterable[Method]) -> list[str]:
    """Which seeds and folds are missing from which rows, and what their numbers are computed from."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for method in methods:
        if method.status == INCOMPLETE:
            several = len(method.runs) > 1
            missing = "; ".join(
                f"fold {ranges(folds)}{f' of seed {seed}' if several else ''}" for seed, folds in method.missing.items()
            )
            used = f"fold {ranges(fold.fold for fold in method.folds)}"
            used += f" of seed {ranges(method.seeds)}" if several else ""
            text = f"{missing}; computed from {used}"
            lacking.setdefault((method.protocol, text), []).append(method.variant)
    groups = (f"{', '.join(variants)} ({protocol}): without {text}" for (protocol, text), variants in lacking.items())
    return [f"Incomplete. {'. '.join(groups)}."] if lacking else []


def plain_note(corpus: CorpusResults) -> list[str]:
    """That a plain baseline has a higher accuracy than `proposed`, if it has, on the same clips with the same seeds."""
    better = []
    for proposed in (method for method in corpus.methods if method.variant == "proposed" and method.complete):
        ours = proposed.estimates["war"].mean
        for plain in corpus.methods:
            if plain.variant in PLAIN and plain.protocol == proposed.protocol and plain.same_tests(proposed):
                theirs = plain.estimates["war"].mean
                if theirs > ours:
                    better.append(
                        f"{plain.variant} has a WAR of {percent(theirs)} %, proposed {percent(ours)} %,"
                        f" {100 * (theirs - ours):.1f} points less ({plain.protocol})"
                    )
    return [f"A plain network is better than the proposed one: {'; '.join(better)}."] if better else []
