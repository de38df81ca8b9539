"""How scores are written for people: in reports, model cards, and on the terminal."""

from __future__ import annotations

from collections.abc import Callable

from emofuse.evaluation.statistics import RESAMPLES, Estimate
from emofuse.utils.text import percent

ACTORS_UNKNOWN = "Actors unknown: that no speaker is in both training and test is not checked."
SCORES_NOTE = (
    "Mean ± standard deviation over folds. In brackets, the 95 % confidence interval of the mean, from"
    f" {RESAMPLES:,} bootstrap resamples of the actors within their folds. WAR is accuracy, UAR the mean recall."
)


def spread(estimate: Estimate, write: Callable[[float], str] = percent) -> str:
    """Mean ± standard deviation, and the interval on a second line; `write` formats each number."""
    sd = "" if estimate.sd is None else f" ± {write(estimate.sd)}"
    if estimate.low is None or estimate.high is None:
        return write(estimate.mean) + sd
    return f"{write(estimate.mean)}{sd}\n[{write(estimate.low)}, {write(estimate.high)}]"
