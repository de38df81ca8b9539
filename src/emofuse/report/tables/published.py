"""What an interval says about a published value: the rule of the tables, in words and applied."""

from __future__ import annotations

from emofuse.evaluation import statistics
from emofuse.report.load import CorpusResults, Published, Run
from emofuse.report.table import NONE, NOT_RUN, points

NOT_COMPARABLE = "not comparable"

RULE_NOTE = (
    "Difference: our WAR less the paper's, in points; in brackets, the 95 % interval of ours less the paper's value, which"
    " comes without one. Verdict: reproduced if the whole corpus was tested and the interval lies within ±2 points of the paper's value;"
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


def less(run: Run, metric: str, value: float) -> dict[str, float]:
    """`mean`, `low` and `high` of a score of a run that has an interval less a published value, in points."""
    return {key: 100 * getattr(run.estimates[metric], key) - value for key in ("mean", "low", "high")}


def difference(found: dict[str, float]) -> str:
    """What `less` found, with its interval on the next line; `–` where there is nothing to compare."""
    return "{}\n[{}, {}]".format(*(points(found[key]) for key in ("mean", "low", "high"))) if found else NONE


def points_record(found: dict[str, float]) -> dict[str, float | None]:
    """What `less` found, as a line of a CSV file has it."""
    return {f"difference_points{'' if key == 'mean' else f'_{key}'}": found.get(key) for key in ("mean", "low", "high")}
