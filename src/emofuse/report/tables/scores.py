"""What the tables of scores share: how a score, a difference and a p-value are written, and the notes on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from emofuse.evaluation import statistics
from emofuse.evaluation.metrics import NAMES  # noqa: F401
from emofuse.evaluation.text import SCORES_NOTE, spread  # noqa: F401
from emofuse.report.load import Run
from emofuse.report.table import NONE, NOT_RUN, points
from emofuse.utils.text import ranges

GIVEN = ("Seed", "Fold", "Paper's WAR %", "Bayes accuracy %")  # columns of numbers that no run computed


def gain(difference: statistics.Difference | statistics.Estimate) -> str:
    """A difference in points, and its interval on the next line."""
    mean = points(100 * difference.mean)
    if difference.low is None or difference.high is None:
        return mean
    return f"{mean}\n[{points(100 * difference.low)}, {points(100 * difference.high)}]"


def chance(p: float | None) -> str:
    """A p-value."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def record(run: Run) -> dict[str, Any]:
    """The scores of a run as a line of a CSV file has them, as fractions."""
    status = NOT_RUN if not run.folds else "incomplete" if run.missing else "run"
    made: dict[str, Any] = {"protocol": run.protocol, "variant": run.variant, "seed": run.seed, "status": status}
    for metric in statistics.METRICS:
        estimate = run.estimates.get(metric)
        for key in ("mean", "sd", "low", "high"):
            made[f"{metric}_{key}"] = getattr(estimate, key) if estimate else None
    return made


def difference_record(
    metric: str, found: statistics.Difference | statistics.Estimate | None, keys: Sequence[str]
) -> dict[str, float | None]:
    """These fields of a difference of a score, as a line of a CSV file has it; None where there is none."""
    return {
        f"{metric}_difference{'' if key == 'mean' else f'_{key}'}": getattr(found, key) if found else None
        for key in keys
    }


def origins(
    run: Run,
    header: Sequence[str],
    numeric: Sequence[bool],
    row: Sequence[str],
    fold: int | None = None,
    others: Mapping[str, Iterable[Run]] | None = None,
) -> list[str]:
    """For each cell of a row, what its number was computed from, as `Table.origins` has it.

    `others`, by column: the runs that its numbers were computed from too.
    """
    if not run.folds:
        return [""] * len(row)
    keys = {name: [run.key(fold), *(other.key() for other in (others or {}).get(name, ()))] for name in header}
    return [
        " ".join(dict.fromkeys(keys[name])) if right and name not in GIVEN and any(map(str.isdigit, cell)) else ""
        for name, right, cell in zip(header, numeric, row, strict=True)
    ]


def incomplete_note(runs: Iterable[Run]) -> list[str]:
    """Which of the runs lack which folds."""
    lacking = [
        f"{run.variant} (seed {run.seed}, {run.protocol}) lacks fold {ranges(run.missing)}"
        for run in runs
        if run.folds and run.missing
    ]
    return [f"Incomplete, over the folds that were run: {'; '.join(lacking)}."] if lacking else []
