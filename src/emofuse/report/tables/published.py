"""Verdicts: our scores compared with published values, and variants with `proposed`, in words and applied."""

from __future__ import annotations

from typing import Any

import pandas as pd

from emofuse.evaluation import statistics
from emofuse.evaluation.statistics import ACTOR_SD, POWER, Estimate
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Column, Row
from emofuse.report.tables.scores import DIFFERENCE, difference_record
from emofuse.utils.text import NONE

NOT_COMPARABLE = "not comparable"
NO_VERDICT = (NOT_RUN, NOT_COMPARABLE, NONE)

VERDICTS_NOTE = (
    "Verdict: equivalent if the 90 % interval of the difference lies within the margin; otherwise below or above if it lies on"
    " that side of 0, and inconclusive if it contains 0. The margin was fixed before any results: it is what these numbers of"
    f" actors and folds can establish with {100 * POWER:.0f} % power if accuracy varies between actors by {ACTOR_SD} points"
    " (docs/statistics.md)."
)
RULE_NOTE = (
    "Difference: our WAR minus the paper's, in points, with the 90 % confidence interval in brackets. It reflects the"
    " uncertainty of ours only, because the paper states none. They are not compared if seeds or folds are missing, only part"
    " of the corpus was tested, or the task differs."
)


def _verdict(row: Row) -> str:
    text = row["verdict"] if isinstance(row["verdict"], str) else NONE
    return text if pd.isna(row["margin_points"]) else f"{text}\n(margin ±{row['margin_points']:.1f})"


VERDICT = Column("Verdict", _verdict)


def paper_war(corpus: CorpusResults, method: Method) -> float | None:
    """The WAR in % that the paper states for this corpus and variant, if any."""
    paper = corpus.paper
    found = paper[(paper["metric"] == "war") & (paper["variant"] == method.variant)]["value"]
    return next(iter(found.tolist()), None)


def paper_verdict(corpus: CorpusResults, method: Method) -> str:
    """The verdict on a variant by the rule of RULE_NOTE; `–` for a variant that is not in the paper."""
    if not method.complete:
        return NOT_RUN
    if corpus.paper.empty:
        return NOT_COMPARABLE
    value = paper_war(corpus, method)
    if value is None:
        return NONE
    return published_verdict(corpus, method, "war", value) if corpus.comparable else NOT_COMPARABLE


def published_verdict(corpus: CorpusResults, method: Method, metric: str, value: float) -> str:
    """The verdict on a score of a variant compared with a published value in %; the task must be the same."""
    if not method.complete:
        return NOT_RUN
    if not corpus.is_whole(method) or method.margin is None:
        return NOT_COMPARABLE
    return statistics.verdict(_in_points(method.estimates[metric]).minus(value), method.margin)


def verdict_on_variant(difference: Estimate, method: Method) -> str:
    """The verdict on a variant compared with `proposed`; `–` while the variant is incomplete."""
    if method.missing or method.margin is None:
        return NONE
    return statistics.verdict(_in_points(difference), method.margin)


def verdict_record(method: Method, verdict: str) -> dict[str, Any]:
    """A verdict with its margin, as columns."""
    return {"verdict": verdict, "margin_points": None if verdict in NO_VERDICT else method.margin}


def published_difference(method: Method, metric: str, value: float | None, verdict: str) -> dict[str, float | None]:
    """A score of a variant minus a published value in %, in points, with its intervals; None if they are not compared."""
    compared = value is not None and verdict not in NO_VERDICT
    found = _in_points(method.estimates[metric]).minus(value) if compared and value is not None else None
    return difference_record("difference_points", found, DIFFERENCE)


def _in_points(estimate: Estimate) -> Estimate:
    """The mean and intervals of an estimate in percentage points."""
    ends = (estimate.low, estimate.high, estimate.low_90, estimate.high_90)
    return Estimate(100 * estimate.mean, None, None, *(None if end is None else 100 * end for end in ends))
