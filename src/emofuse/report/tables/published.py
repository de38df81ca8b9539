"""Our scores compared with published values: the verdict, in words and applied."""

from __future__ import annotations

from emofuse.evaluation import statistics
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NOT_RUN
from emofuse.utils.text import NONE

NOT_COMPARABLE = "not comparable"

RULE_NOTE = (
    "Difference: our WAR minus the paper's, in points, with the 95 % confidence interval in brackets. It reflects the"
    " uncertainty of ours only, because the paper states none. Verdict: reproduced if the whole corpus was tested and the"
    " interval of our WAR lies within ±2 points of the paper's value; below or above if it lies entirely outside that"
    " range; otherwise inconclusive. Not comparable if only part of the corpus was tested, or the task differs."
)


def paper_war(corpus: CorpusResults, run: Run) -> float | None:
    """The WAR in % that the paper states for this corpus and variant, if any."""
    paper = corpus.paper
    found = paper[(paper["metric"] == "war") & (paper["variant"] == run.variant)]["value"]
    return next(iter(found.tolist()), None)


def paper_verdict(corpus: CorpusResults, run: Run) -> str:
    """The verdict on a run by the rule of RULE_NOTE; `–` for a variant that is not in the paper."""
    if not run.folds:
        return NOT_RUN
    if corpus.paper.empty:
        return NOT_COMPARABLE
    value = paper_war(corpus, run)
    if value is None:
        return NONE
    return verdict(corpus, run, "war", value) if corpus.comparable else NOT_COMPARABLE


def verdict(corpus: CorpusResults, run: Run, metric: str, value: float) -> str:
    """The verdict on a score of a run compared with a published value in %; the task must be the same."""
    if not run.folds:
        return NOT_RUN
    score = run.estimates[metric]
    if not corpus.is_whole(run) or score.low is None or score.high is None:
        return NOT_COMPARABLE
    return statistics.verdict(100 * score.low, 100 * score.high, value)


def difference_record(run: Run, metric: str, value: float | None, judgement: str) -> dict[str, float | None]:
    """A score of a run minus a published value in %, in points, with its interval; None if they are not compared."""
    names = {"mean": "difference_points", "low": "difference_points_low", "high": "difference_points_high"}
    if value is None or judgement in (NOT_RUN, NOT_COMPARABLE):
        return dict.fromkeys(names.values())
    return {name: 100 * getattr(run.estimates[metric], key) - value for key, name in names.items()}
