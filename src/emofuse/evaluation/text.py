"""How scores are written for people: in reports, model cards, and on the terminal."""

from __future__ import annotations

from collections.abc import Callable

from emofuse.evaluation.statistics import RESAMPLES, Estimate
from emofuse.utils.text import NONE, percent

ACTORS_UNKNOWN = "Actors unknown: that no speaker is in both training and test is not checked."
OPTIMISTIC = "development corpus, optimistic"
DEVELOPMENT = f"{OPTIMISTIC.capitalize()}: recipes were selected on these speakers, so that scores may be higher than for new speakers."
SCORES_NOTE = (
    "Mean ± standard deviation over folds and, with several seeds, ± over seeds. In brackets, the 95 % confidence interval of"
    f" the mean, from {RESAMPLES:,} bootstrap resamples of actors within their folds and of seeds; with one seed, it reflects"
    " the actors alone. WAR is accuracy, UAR the mean recall."
)


def spread(estimate: Estimate, write: Callable[[float], str] = percent) -> str:
    """Mean ± standard deviation over folds ± over seeds, and the interval on a second line; `write` formats each number.

    The first is `–` with one fold and several seeds.
    """
    sds = [NONE if estimate.sd_folds is None else write(estimate.sd_folds)]
    sds += [] if estimate.sd_seeds is None else [write(estimate.sd_seeds)]
    text = " ± ".join([write(estimate.mean), *(sds if sds != [NONE] else [])])
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text}\n[{write(estimate.low)}, {write(estimate.high)}]"
