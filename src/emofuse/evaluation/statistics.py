"""Means over seeds and folds, bootstrap intervals over actors and seeds, and paired permutation tests.

Scores are fractions in [0, 1]. The clips of one actor are not independent, and the same actors recur under each seed: both
are crossed, and each is resampled as a whole (docs/statistics.md). Results are given as two sequences with one array per
fold: the actors (A,), and their confusion matrices under each seed (A, S, classes, classes), as `actor_confusions` returns
them for one seed. Every seed has the same folds and clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
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

ACTOR_SD = 12.5  # points: the standard deviation of accuracy between actors for which margins are derived
POWER = 0.8  # the probability that two equally good methods are found equivalent within the margin

Arrays = Sequence[NDArray[Any]]  # one array per fold
Scores = dict[str, NDArray[np.float64]]  # by metric


@dataclass(frozen=True)
class Estimate:
    """A score or a difference of scores: the mean over seeds and folds, and what is known about its uncertainty.

    `sd_folds` is the standard deviation over folds, each averaged over seeds, and `sd_seeds` over seeds, each averaged over
    folds. `low` and `high` are the 95 % confidence interval of the mean, `low_90` and `high_90` the 90 % interval, and `p`
    is the p-value of a permutation test. What is not defined is None: the spread of one fold or seed, and intervals if a
    fold has only one actor.
    """

    mean: float
    sd_folds: float | None = None
    sd_seeds: float | None = None
    low: float | None = None
    high: float | None = None
    low_90: float | None = None
    high_90: float | None = None
    p: float | None = None

    def minus(self, value: float) -> Estimate:
        """The estimate minus a constant."""
        ends = (None if end is None else end - value for end in (self.low, self.high, self.low_90, self.high_90))
        return Estimate(self.mean - value, self.sd_folds, self.sd_seeds, *ends)


@dataclass(frozen=True)
class Drawn:
    """Bootstrap resamples: how often each actor and each seed is drawn in each resample."""

    actors: dict[Actor, NDArray[np.int64]]  # (resamples,)
    seeds: NDArray[np.int64]  # (resamples, S)


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


def draw(actors: Arrays, seeds: int, resamples: int = RESAMPLES, seed: int = SEED) -> Drawn | None:
    """Bootstrap resamples of the actors of each fold, for all seeds at once, and of the seeds, for all actors and folds.

    This is the rescaled bootstrap for stratified samples of Rao and Wu (JASA 83, 1988, pages 231-241): within each fold,
    n - 1 of its n actors are drawn with replacement. Drawing n would make the intervals too narrow by sqrt((n - 1) / n),
    which matters for folds of four or five actors. If folds share actors, as under a random_ protocol, all actors form one
    stratum, and an actor is drawn for all of its folds at once. In the same way, S - 1 of S seeds are drawn: two of three.
    A single seed is always drawn, so that the intervals reflect the actors alone. `seed` determines the draws of actors;
    those of seeds are always the same. None if a stratum has only one actor.
    """
    everyone = np.unique(np.concatenate(actors)) if len(actors) else np.array([])
    strata = list(actors) if len(everyone) == sum(map(len, actors)) else [everyone]
    if not strata or min(map(len, strata)) < 2:
        return None
    generator = np.random.default_rng(seed)
    drawn: dict[Actor, NDArray[np.int64]] = {}
    for stratum in strata:
        drawn |= dict(zip(stratum.tolist(), _rao_wu(generator, len(stratum), resamples).T, strict=True))
    return Drawn(drawn, _rao_wu(np.random.default_rng([SEED, 1]), seeds, resamples))


def _rao_wu(generator: np.random.Generator, n: int, resamples: int) -> NDArray[np.int64]:
    """How often each of n units is drawn in each resample (resamples, n): n - 1 draws, or one of a single unit."""
    return generator.multinomial(max(n - 1, 1), np.full(n, 1 / n), size=resamples)


def _draw(actors: Arrays, folds: Arrays, seed: int = SEED) -> Drawn | None:
    return draw(actors, folds[0].shape[1], seed=seed)


def resampled(actors: Arrays, folds: Arrays, drawn: Drawn) -> Scores:
    """The mean of each score over seeds and folds, for each resample of `draw`: (resamples, ...).

    `folds` has an array of confusion matrices (A, S, ..., classes, classes) per fold. Further axes, such as one of
    variants, share the resamples. Resamples of macro-F1 are moved to the observed score: fewer different clips make it lower,
    unlike WAR and UAR, and its interval would lie too low.
    """
    by_actors = _fold_means([scores(matrices) for matrices in _resampled_confusions(actors, folds, drawn)])
    observed = _fold_means([scores(fold.sum(0)) for fold in folds])
    by_actors["macro_f1"] += observed["macro_f1"] - by_actors["macro_f1"].mean(0)
    return {metric: _crossed(by_actors[metric], observed[metric], drawn) for metric in METRICS}


def _resampled_confusions(actors: Arrays, folds: Arrays, drawn: Drawn) -> list[NDArray[np.int64]]:
    """The confusion matrices of each fold over the actors drawn (resamples, S, ..., classes, classes)."""
    weights = (np.stack([drawn.actors[actor] for actor in present.tolist()], axis=1) for present in actors)
    return [np.tensordot(weight, fold, axes=1) for weight, fold in zip(weights, folds, strict=True)]


def _crossed(by_actors: NDArray[np.float64], observed: NDArray[np.float64], drawn: Drawn) -> NDArray[np.float64]:
    """Resampled means over seeds (resamples, ...), from the values over the actors drawn (resamples, S, ...) and all (S, ...).

    The deviations of the mean that are due to the actors drawn, with all seeds, and to the seeds drawn, with all actors,
    are added. Taking the mean over the actors and seeds drawn at once would count the interaction of actors and seeds three
    times instead of twice (Owen, Ann. Appl. Stat. 1, 2007, pages 386-411), which makes intervals of differences too wide.
    """
    by_seeds = np.einsum("rs,s...->r...", drawn.seeds / drawn.seeds.sum(1, keepdims=True), observed)
    return np.asarray(by_actors.mean(1) + by_seeds - observed.mean(0))


def _observed(folds: Arrays) -> Scores:
    """The mean of each score over seeds and folds."""
    return {metric: values.mean(0) for metric, values in _fold_means([scores(fold.sum(0)) for fold in folds]).items()}


def _fold_means(folds: Sequence[Scores]) -> Scores:
    return {metric: np.mean([fold[metric] for fold in folds], axis=0) for metric in METRICS}


def estimates(actors: Arrays, folds: Arrays) -> dict[str, Estimate]:
    """The estimate of each score of a variant, by metric."""
    by_fold = [scores(fold.sum(0)) for fold in folds]
    drawn = _draw(actors, folds)
    spread = resampled(actors, folds, drawn) if drawn else None
    found = {}
    for metric in METRICS:
        values_FS = np.stack([fold[metric] for fold in by_fold])
        mean, sd_folds = mean_sd(values_FS.mean(1).tolist())
        _, sd_seeds = mean_sd(values_FS.mean(0).tolist())
        found[metric] = Estimate(
            mean, sd_folds, sd_seeds, *(intervals(spread[metric].clip(0, 1)).tolist() if spread else ())
        )
    return found


def recalls(actors: Arrays, folds: Arrays) -> list[Estimate]:
    """The recall of each emotion and, last, their mean, from the confusion matrix pooled over folds, averaged over seeds.

    The recall of an emotion without clips is NaN. Resamples without clips of an emotion do not contribute to its interval.
    """
    observed = _recalls(sum(fold.sum(0) for fold in folds))
    drawn = _draw(actors, folds)
    if drawn is None:
        return [Estimate(float(mean)) for mean in observed.mean(0)]
    spread = _crossed(_recalls(sum(_resampled_confusions(actors, folds, drawn))), observed, drawn).clip(0, 1)
    return [
        Estimate(float(mean), None, None, *(() if np.isnan(mean) else intervals(values[~np.isnan(values)]).tolist()))
        for mean, values in zip(observed.mean(0), spread.T, strict=True)
    ]


def _recalls(confusion: ArrayLike) -> NDArray[np.float64]:
    """Recall of each emotion, and UAR, from confusion matrices (..., classes, classes): (..., classes + 1)."""
    matrices = np.asarray(confusion)
    return np.concatenate([recall(matrices), scores(matrices)["uar"][..., None]], axis=-1)


def intervals(spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ends of the 95 % interval of resampled values (resamples, ...), and those of the 90 % interval: (4, ...).

    They are rounded, so that an end that is 0 is not on one side of it by a rounding error.
    """
    return np.asarray(np.percentile(spread, [2.5, 97.5, 5, 95], axis=0).round(12))


def differences(actors: Arrays, folds: Arrays) -> dict[str, Estimate]:
    """The difference between two variants in each score, the first minus the second, by metric, with its p-value.

    `folds` has the confusion matrices of both variants, (A, S, 2, classes, classes) per fold. Both variants share the draws
    of actors and of seeds. Sharing actors makes the interval that of a paired comparison. Whether the s-th seeds of two
    variants have anything in common (initial weights, batches) is not assumed: if they have, the interval accounts for
    it, and if not, sharing draws is one way of drawing two independent samples.
    """
    observed = _observed(folds)
    drawn = _draw(actors, folds)
    spread = resampled(actors, folds, drawn) if drawn else None
    p = permutation_test(actors, folds)
    found = {}
    for metric in METRICS:
        ends = intervals(_difference(spread[metric])).tolist() if spread else ()
        difference = Estimate(float(_difference(observed[metric])), None, None, *ends)
        found[metric] = replace(difference, p=float(p[metric]))
    return found


Group = tuple[Arrays, Arrays]  # actors and confusion matrices


def gap(one: Group, other: Group) -> Estimate:
    """The difference in accuracy between two groups of actors, the first minus the second.

    Both groups are tested with the same models: their actors are resampled independently, the seeds together. There is no
    interval if a fold has only one actor of a group.
    """
    means = [float(_observed(folds)["war"]) for _, folds in (one, other)]
    draws = [_draw(*group, seed=SEED + number) for number, group in enumerate((one, other))]
    if draws[0] is None or draws[1] is None:
        return Estimate(means[0] - means[1])
    spread = [resampled(*group, drawn)["war"] for group, drawn in zip((one, other), draws, strict=True) if drawn]
    return Estimate(means[0] - means[1], None, None, *intervals(spread[0] - spread[1]).tolist())


def leak(independent: Group, overlapping: Group) -> dict[str, Estimate]:
    """How much speaker overlap inflates each score: folds that share actors minus speaker-independent folds.

    Both groups are of the same variant and seeds. Actors are resampled within the speaker-independent folds, and both
    groups share the resamples of actors and seeds. There are no intervals if a speaker-independent fold has only one actor,
    or if these folds do not cover all actors.
    """
    drawn = _draw(*independent)
    covered = drawn is not None and all(
        actor in drawn.actors for present in overlapping[0] for actor in present.tolist()
    )
    with_overlap, without = _observed(overlapping[1]), _observed(independent[1])
    spread = (resampled(*overlapping, drawn), resampled(*independent, drawn)) if drawn and covered else None
    return {
        metric: Estimate(
            float(with_overlap[metric] - without[metric]),
            None,
            None,
            *(intervals(spread[0][metric] - spread[1][metric]).tolist() if spread else ()),
        )
        for metric in METRICS
    }


def _difference(both: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(both[..., 0] - both[..., 1])


def permutation_test(actors: Arrays, folds: Arrays, exchanges: int = EXCHANGES, seed: int = SEED) -> Scores:
    """Paired permutation test of the difference between two variants: the two-sided p-value of each score, in (0, 1].

    Arguments as in `differences`; further axes before that of the variants, (A, S, ..., 2, classes, classes), give as many
    tests. Under the null hypothesis, the predictions of the two variants for an actor are exchangeable. They are exchanged
    for an actor in all folds and seeds together. For up to `EXACT` actors, p is the proportion of all permutations whose
    difference is at least as large as the observed one. For more actors it is (b + 1) / (n + 1), where b of n =
    `exchanges` random permutations are (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010, article 39).
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
        change = np.tensordot(exchanged_PF, (fold[..., ::-1, :, :] - fold).astype(np.float64), axes=1)
        permuted.append({metric: values.mean(1) for metric, values in scores(fold.sum(0) + change).items()})
    found = {}
    observed = _observed(folds)
    for metric, both in _fold_means(permuted).items():
        # The tolerance is for rounding: permutations add the same fractions in a different order.
        extreme = (abs(_difference(both)) >= abs(_difference(observed[metric])) - 1e-12).sum(0)
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


def verdict(difference: Estimate, margin: float) -> str:
    """The verdict on a difference, in the units of the margin, from its 90 % interval, which it must have.

    "equivalent" if the interval lies within ± `margin`: two one-sided tests at 5 % (Schuirmann, J. Pharmacokinet. Biopharm.
    15, 1987, pages 657-680). Otherwise "below" or "above" if it lies on that side of 0, and "inconclusive" if it contains 0.
    """
    assert difference.low_90 is not None
    assert difference.high_90 is not None
    if -margin <= difference.low_90 and difference.high_90 <= margin:
        return "equivalent"
    if difference.high_90 < 0:
        return "below"
    return "above" if difference.low_90 > 0 else "inconclusive"


@cache
def margin(fold_sizes: tuple[int, ...], samples: int = 2000) -> float | None:
    """The margin of equivalence, in points, that folds of so many actors can establish, rounded up to half a point.

    It uses no scores: it is simulated from the numbers of actors alone. Each sample has a normally distributed difference of
    standard deviation `ACTOR_SD` for each actor, and mean 0. The margin is the smallest within which the 90 % interval of a
    share `POWER` of the samples lies. None if a fold has only one actor.
    """
    first = np.concatenate([[0], np.cumsum(fold_sizes)]).tolist()
    actors = [np.arange(start, end) for start, end in pairwise(first)]
    drawn = draw(actors, 1)
    if drawn is None:
        return None
    values = np.random.default_rng([SEED, 2]).normal(0, ACTOR_SD, (first[-1], samples))
    weights = [np.stack([drawn.actors[actor] for actor in present.tolist()], axis=1) for present in actors]
    means = [
        weight @ values[present] / weight.sum(1, keepdims=True) for weight, present in zip(weights, actors, strict=True)
    ]
    ends = np.percentile(np.mean(means, axis=0), [5, 95], axis=0)
    return float(np.ceil(2 * np.quantile(abs(ends).max(0), POWER)) / 2)
