"""What an interval says about a published value: the rule of the tables, in words and applied."""

from __future__ import annotations

from emofuse.report import statistics
from emofuse.report.results import CorpusResults, Published, Run
from emofuse.report.table import NONE, NOT_RUN

NOT_COMPARABLE = "not comparable"

RULE_NOTE = (
    "Verdict: reproduced if the whole corpus was tested and the interval lies within ±2 points of the paper's value;"
    " below or above if the interval lies wholly outside of that; else inconclusive."
    " Not comparable if only part of the corpus was tested, or another task."
)


def published(corpus: CorpusResults, run: Run) -> Published | None:
    """The paper's WAR for this row, where it has one."""
    return next((value for value in corpus.published if value.metric == "war" and value.variant == run.variant), None)


def judge(corpus: CorpusResults, run: Run) -> str:
    """The verdict on a row, by the rule that `RULE_NOTE` prints; `–` for a variant of which the paper says nothing."""
    if not run.folds:
        return NOT_RUN
    if not corpus.published:
        return NOT_COMPARABLE
    value = published(corpus, run)
    if value is None:
        return NONE
    return weigh(corpus, run, "war", value.value) if corpus.comparable else NOT_COMPARABLE


def weigh(corpus: CorpusResults, run: Run, metric: str, value: float) -> str:
    """The verdict on a run beside a published value, in %, of the same task; a run of part of the corpus has none."""
    if not run.folds:
        return NOT_RUN
    score = run.estimates[metric]
    if not corpus.is_whole(run) or score.low is None or score.high is None:
        return NOT_COMPARABLE
    return statistics.verdict(100 * score.low, 100 * score.high, value)
