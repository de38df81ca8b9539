"""Means over folds, bootstrap intervals over actors, and paired permutation tests. Scores are fractions in [0, 1].

The unit of resampling is the actor, since the clips of one actor are not independent. Runs are given as two sequences with
one array per fold: the actors (A,), and their confusion matrices (A, classes, classes), as `actor_confusions` returns them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emofuse.datasets.base import Actor, actor_named
from emofuse.evaluation.metrics import NAMES, recall, scores

METRICS = tuple(NAMES)
RESAMPLES = 2000
EXCHANGES = 10_000  # random permutations of a permutation test,
EXACT = 14  # which enumerates all 2^actors permutations for up to this many actors
SEED = 20230501  # arbitrary but fixed, so that reports are reproducible

Arrays = Sequence[NDArray[Any]]  # one array per fold
Drawn = dict[Actor, NDArray[np.int64]]
Scores = dict[str, NDArray[np.float64]]  # by metric


@dataclass(frozen=True)
class Estimate:
    """A score of a run: its mean and standard deviation over folds, and the 95 % confidence interval of the mean.

    `sd` is None if there is one fold; `low` and `high` are None if a fold has only one actor.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The difference between a score of two variants on the same test clips: the first minus the second.

    `low` and `high` are its 95 % confidence interval, or None if a fold has only one actor; `p` is the p-value of the
    permutation test.
    """

    mean: float
    low: float | None
    high: float | None
    p: float


def actor_array(names: Iterable[str]) -> NDArray[Any]:
    """The actors (clips,) of a column of a table, as numbers or names."""
    return np.array([actor_named(name) for name in names])


def actor_confusions(
    actors: NDArray[Any], truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The sorted actors of a fold (A,) and the confusion matrix of each (A, classes, classes).

    `actors`, `truth` and `predicted` are (clips,); the latter two are class indices.
    """
    names, rows = np.unique(actors, return_inverse=True)
    confusions = np.zeros((len(names), classes, classes), dtype=np.int64)
    np.add.at(confusions, (rows, truth, predicted), 1)
    return names, confusions


def mean_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1); the latter is None for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def draw_actors(actors: Arrays, resamples: int = RESAMPLES, seed: int = SEED) -> Drawn | None:
    """Bootstrap resamples of the actors: actor → how often it is drawn in each resample (resamples,).

    This is the rescaled bootstrap for stratified samples of Rao and Wu (JASA 83, 1988, pages 231-241): within each fold,
    n − 1 of its n actors are drawn with replacement. Drawing n would make the intervals too narrow by sqrt((n − 1) / n),
    which matters for folds of four or five actors. If folds share actors, as under a random_ protocol, all actors form one
    stratum, and an actor is drawn for all of its folds at once. None if a stratum has only one actor.
    """
    everyone = np.unique(np.concatenate(actors)) if len(actors) else np.array([])
    strata = list(actors) if len(everyone) == sum(map(len, actors)) else [everyone]
    if not strata or min(map(len, strata)) < 2:
        return None
    generator = np.random.default_rng(seed)
    drawn: Drawn = {}
    for stratum in strata:
        n = len(stratum)
        draws = generator.multinomial(n - 1, np.full(n, 1 / n), size=resamples)
        drawn |= dict(zip(stratum.tolist(), draws.T, strict=True))
    return drawn


def resampled(actors: Arrays, folds: Arrays, drawn: Drawn) -> Scores:
    """The mean over folds of each score, for each resample of `draw_actors`: (resamples, ...).

    `folds` has an array of confusion matrices (A, ..., classes, classes) per fold. Further axes, such as one of variants,
    share the resamples.
    """
    return _fold_means([scores(matrices) for matrices in _resampled_confusions(actors, folds, drawn)])


def _resampled_confusions(actors: Arrays, folds: Arrays, drawn: Drawn) -> list[NDArray[np.int64]]:
    """The resampled confusion matrices of each fold (resamples, ..., classes, classes)."""
    weights = (np.stack([drawn[actor] for actor in present.tolist()], axis=1) for present in actors)
    return [np.tensordot(weight, fold, axes=1) for weight, fold in zip(weights, folds, strict=True)]


def _observed(folds: Arrays) -> Scores:
    """The mean over folds of each score."""
    return _fold_means([scores(fold.sum(0)) for fold in folds])


def _fold_means(folds: Sequence[Scores]) -> Scores:
    return {metric: np.mean([fold[metric] for fold in folds], axis=0) for metric in METRICS}


def estimates(actors: Arrays, folds: Arrays) -> dict[str, Estimate]:
    """The estimate of each score of a run, by metric."""
    by_fold = [scores(fold.sum(0)) for fold in folds]
    drawn = draw_actors(actors)
    spread = resampled(actors, folds, drawn) if drawn else None
    found = {}
    for metric in METRICS:
        mean, sd = mean_sd([float(fold[metric]) for fold in by_fold])
        low, high = _interval(spread[metric]) if spread else (None, None)
        found[metric] = Estimate(mean, sd, low, high)
    return found


def crossed(actors: NDArray[Any], confusions: NDArray[np.int64]) -> dict[str, Estimate]:
    """Each score of models with several seeds that were tested on the same clips: mean and standard deviation over seeds.

    `actors` are (A,), `confusions` (S, A, classes, classes) for S seeds. As the same actors recur under each seed, the
    interval crosses both: each resample draws actors once, for all seeds, and seeds once, for all actors. Both draws are
    Rao and Wu's, n − 1 of n with replacement (see `draw_actors`): with three seeds, two are drawn. With one seed, the
    interval reflects the actors alone, and with few it is rough. That the chance of an actor and a seed meeting is counted
    in both draws makes the interval slightly too wide (Owen, Ann. Appl. Stat. 1, 2007, pages 386-411). It is None if there
    is only one actor.
    """
    observed = scores(confusions.sum(1))
    drawn = draw_actors([actors])
    spread: Scores = {}
    if drawn is not None:
        weights_RA = np.stack([drawn[actor] for actor in actors.tolist()], axis=1)
        scores_RS = scores(np.einsum("ra,sacd->rscd", weights_RA, confusions))
        number = len(confusions)
        generator = np.random.default_rng(SEED + 1)
        draws = generator.multinomial(max(1, number - 1), np.full(number, 1 / number), size=len(weights_RA))
        spread = {metric: np.average(values, axis=1, weights=draws) for metric, values in scores_RS.items()}
    return {
        metric: Estimate(*mean_sd(values.tolist()), *(_interval(spread[metric]) if spread else (None, None)))
        for metric, values in observed.items()
    }


def recalls(actors: Arrays, folds: Arrays) -> list[Estimate]:
    """The recall of each emotion and, last, their mean, from the confusion matrix pooled over all folds; `sd` is None.

    The recall of an emotion without clips is NaN. Resamples without clips of an emotion do not contribute to its interval.
    """
    observed = _recalls(sum(fold.sum(0) for fold in folds))
    drawn = draw_actors(actors)
    if drawn is None:
        return [Estimate(float(mean), None, None, None) for mean in observed]
    spread = _recalls(sum(_resampled_confusions(actors, folds, drawn)))
    return [
        Estimate(float(mean), None, *((None, None) if np.isnan(mean) else _interval(values[~np.isnan(values)])))
        for mean, values in zip(observed, spread.T, strict=True)
    ]


def _recalls(confusion: ArrayLike) -> NDArray[np.float64]:
    """Recall of each emotion, and UAR, from confusion matrices (..., classes, classes): (..., classes + 1)."""
    matrices = np.asarray(confusion)
    return np.concatenate([recall(matrices), scores(matrices)["uar"][..., None]], axis=-1)


def _interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def differences(actors: Arrays, folds: Arrays) -> dict[str, Difference]:
    """The difference between two variants in each score, by metric.

    `folds` has the confusion matrices of both variants, (A, 2, classes, classes) per fold. The bootstrap is paired: both
    variants share the resamples.
    """
    observed = _observed(folds)
    drawn = draw_actors(actors)
    spread = resampled(actors, folds, drawn) if drawn else None
    p = permutation_test(actors, folds)
    found = {}
    for metric in METRICS:
        low, high = _interval(_difference(spread[metric])) if spread else (None, None)
        found[metric] = Difference(float(_difference(observed[metric])), low, high, p[metric])
    return found


Group = tuple[Arrays, Arrays]  # actors and confusion matrices


def gap(one: Group, other: Group) -> Estimate:
    """The difference in accuracy between two groups of actors, the first minus the second, with its 95 % interval.

    The groups are resampled independently. `sd` is None, and so is the interval if a fold has only one actor of a group.
    """
    means = [float(_observed(folds)["war"]) for _, folds in (one, other)]
    draws = [draw_actors(actors, seed=SEED + number) for number, (actors, _) in enumerate((one, other))]
    if draws[0] is None or draws[1] is None:
        return Estimate(means[0] - means[1], None, None, None)
    spread = [resampled(*group, drawn)["war"] for group, drawn in zip((one, other), draws, strict=True) if drawn]
    return Estimate(means[0] - means[1], None, *_interval(spread[0] - spread[1]))


def leak(independent: Group, overlapping: Group) -> dict[str, Estimate]:
    """How much speaker overlap inflates each score: folds that share actors minus speaker-independent folds.

    Both groups are of the same variant. Actors are resampled within the speaker-independent folds, and both groups share
    the resamples. `sd` is None; `low` and `high` are None if a speaker-independent fold has only one actor, or if these
    folds do not cover all actors.
    """
    drawn = draw_actors(independent[0])
    covered = drawn is not None and all(actor in drawn for present in overlapping[0] for actor in present.tolist())
    with_overlap, without = _observed(overlapping[1]), _observed(independent[1])
    found = {}
    for metric in METRICS:
        low, high = None, None
        if drawn is not None and covered:
            low, high = _interval(resampled(*overlapping, drawn)[metric] - resampled(*independent, drawn)[metric])
        found[metric] = Estimate(float(with_overlap[metric] - without[metric]), None, low, high)
    return found


def _difference(both: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(both[..., 0] - both[..., 1])


def permutation_test(actors: Arrays, folds: Arrays, exchanges: int = EXCHANGES, seed: int = SEED) -> dict[str, float]:
    """Paired permutation test of the difference between two variants: the two-sided p-value of each score, in (0, 1].

    Arguments as in `differences`. Under the null hypothesis, the predictions of the two variants for an actor are
    exchangeable. They are exchanged for an actor in all folds together. For up to `EXACT` actors, p is the proportion of
    all permutations whose difference is at least as large as the observed one. For more actors it is (b + 1) / (n + 1),
    where b of n = `exchanges` random permutations are (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010,
    article 39).
    """
    names = np.unique(np.concatenate(actors))
    exact = len(names) <= EXACT
    if exact:
        exchanged_PA = np.arange(2 ** len(names))[:, None] >> np.arange(len(names)) & 1
    else:
        exchanged_PA = np.random.default_rng(seed).integers(0, 2, (exchanges, len(names)))
    permuted = []
    for present, fold in zip(actors, folds, strict=True):
        exchanged_PF = exchanged_PA[:, np.searchsorted(names, present)].astype(np.float64)
        change = np.tensordot(exchanged_PF, (fold[:, ::-1] - fold).astype(np.float64), axes=1)
        permuted.append(scores(fold.sum(0) + change))
    found = {}
    observed = _observed(folds)
    for metric, both in _fold_means(permuted).items():
        # The tolerance is for rounding: permutations add the same fractions in a different order.
        extreme = int((abs(_difference(both)) >= abs(_difference(observed[metric])) - 1e-12).sum())
        found[metric] = extreme / len(exchanged_PA) if exact else (extreme + 1) / (exchanges + 1)
    return found


def holm(p: Sequence[float]) -> list[float]:
    """p-values adjusted for multiple testing by Holm's step-down method, in the order given.

    The smallest of m p-values is multiplied by m, the next by m − 1, and so on, while keeping the sequence monotonic and
    at most 1 (Holm, Scand. J. Stat. 6, 1979, pages 65-70).
    """
    adjusted = [0.0] * len(p)
    highest = 0.0
    for rank, place in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted


def verdict(low: float, high: float, published: float, tolerance: float = 2.0) -> str:
    """The verdict of a confidence interval on a published value; all arguments in percentage points.

    "reproduced" if the interval lies within ± `tolerance` of the value, "below" or "above" if it lies completely outside,
    and "inconclusive" otherwise.
    """
    if published - tolerance <= low and high <= published + tolerance:
        return "reproduced"
    if high < published - tolerance:
        return "below"
    if low > published + tolerance:
        return "above"
    return "inconclusive"
