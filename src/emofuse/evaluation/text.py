"""How scores are written for people: in reports, model cards, and on the terminal."""

from __future__ import annotations

from emofuse.evaluation.statistics import RESAMPLES, Estimate
from emofuse.utils.text import percent

SCORES_NOTE = (
    "Mean ± standard deviation over folds. In brackets, the 95 % confidence interval of the mean, from"
    f" {RESAMPLES:,} bootstrap resamples of the actors within their folds. WAR is accuracy, UAR the mean recall."
)


def spread(estimate: Estimate) -> str:
    """Mean ± standard deviation in %, and the interval on a second line."""
    mean = percent(estimate.mean) + (f" ± {percent(estimate.sd)}" if estimate.sd is not None else "")
    return mean + (f"\n[{percent(estimate.low)}, {percent(estimate.high)}]" if estimate.low is not None else "")
