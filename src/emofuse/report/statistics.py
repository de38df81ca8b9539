"""The numbers of the tables: spread over folds, intervals over actors. Scores are fractions in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emofuse.metrics import scores

METRICS = ("war", "uar", "macro_f1")
RESAMPLES = 2000
SEED = 20230501  # any fixed number does; this one makes a report the same every time


@dataclass(frozen=True)
class Estimate:
    """One score of one run: mean over folds, standard deviation over folds, 95 % interval of the mean.

    `sd` is None for a single fold, `low` and `high` are None where a fold has a single actor.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None


def actor_confusions(
    actors: NDArray[np.int64], truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The actors of a fold, sorted (A,), and the confusion matrix of each (A, classes, classes).

    `actors`, `truth` and `predicted` are (clips,); the last two are indices of classes.
    """
    names, rows = np.unique(actors, return_inverse=True)
    confusions = np.zeros((len(names), classes, classes), dtype=np.int64)
    np.add.at(confusions, (rows, truth, predicted), 1)
    return names, confusions


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1); the latter is None for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def actor_bootstrap(
    folds: Sequence[NDArray[np.int64]], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, NDArray[np.float64]] | None:
    """The fold-mean of each score under resampling of actors, each (resamples,).

    `folds` holds one (actors, classes, classes) array of confusion matrices per fold. Folds are
    kept, as the strata that they are; within each, n - 1 of its n actors are drawn with replacement.
    n - 1 and not n, because with the four or five actors of a fold the plain bootstrap is too
    narrow by sqrt((n - 1) / n) (Rao and Wu, JASA 83, 1988, pages 231-241). In a `random` protocol an
    actor is in several folds and is drawn anew in each. None where a fold has a single actor.
    """
    if not folds or min(len(fold) for fold in folds) < 2:
        return None
    generator = np.random.default_rng(seed)
    total = dict.fromkeys(METRICS, np.zeros(resamples))
    for fold in folds:
        n = len(fold)
        draws = generator.multinomial(n - 1, np.full(n, 1 / n), size=resamples)
        resampled = scores(np.tensordot(draws, fold, axes=1))
        total = {metric: total[metric] + resampled[metric] for metric in METRICS}
    return {metric: values / len(folds) for metric, values in total.items()}


def estimates(folds: Sequence[NDArray[np.int64]]) -> dict[str, Estimate]:
    """Each score of a run from its folds' confusion matrices by actor, as `actor_bootstrap` takes them."""
    by_fold = [scores(fold.sum(0)) for fold in folds]
    resampled = actor_bootstrap(folds)
    found = {}
    for metric in METRICS:
        mean, sd = mean_sd([float(fold[metric]) for fold in by_fold])
        low, high = (None, None) if resampled is None else map(float, np.percentile(resampled[metric], [2.5, 97.5]))
        found[metric] = Estimate(mean, sd, low, high)
    return found


def verdict(low: float, high: float, published: float, tolerance: float = 2.0) -> str:
    """What an interval says about a published value, all in points: the rule that the tables print.

    "reproduced": the interval lies within ± `tolerance` of the value; "below" or "above": it lies
    wholly outside of that; "inconclusive" otherwise.
    """
    if published - tolerance <= low and high <= published + tolerance:
        return "reproduced"
    if high < published - tolerance:
        return "below"
    if low > published + tolerance:
        return "above"
    return "inconclusive"
