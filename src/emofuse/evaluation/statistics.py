"""The numbers of the tables: spread over folds, intervals and tests over actors. Scores are fractions in [0, 1]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emofuse.evaluation.metrics import recall, scores

METRICS = ("war", "uar", "macro_f1")
RESAMPLES = 2000
EXCHANGES = 10_000  # drawn of all the ways to exchange two variants' predictions on each actor,
EXACT = 14  # unless there are so few actors that all 2^actors ways are gone through
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


@dataclass(frozen=True)
class Difference:
    """One score of a variant less that of another, over the same test clips.

    `low` and `high` are the 95 % interval, None where a fold has a single actor; `p` is that of the permutation test.
    """

    mean: float
    low: float | None
    high: float | None
    p: float


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


def draw_actors(
    actors: Sequence[NDArray[np.int64]], resamples: int = RESAMPLES, seed: int = SEED
) -> dict[int, NDArray[np.int64]] | None:
    """How often each actor is drawn in each resample: actor → (resamples,).

    `actors` holds the (actors,) of each fold. Folds are kept, as the strata that they are; within each, n - 1 of
    its n actors are drawn with replacement. n - 1 and not n, because with the four or five actors of a fold the
    plain bootstrap is too narrow by sqrt((n - 1) / n) (Rao and Wu, JASA 83, 1988, pages 231-241). Where folds share
    actors, as under a random_ protocol, all of them are one stratum, and an actor is drawn for all folds at once.
    None where a stratum has a single actor.
    """
    everyone = np.unique(np.concatenate(actors)) if len(actors) else np.array([])
    strata = list(actors) if len(everyone) == sum(map(len, actors)) else [everyone]
    if not strata or min(map(len, strata)) < 2:
        return None
    generator = np.random.default_rng(seed)
    drawn: dict[int, NDArray[np.int64]] = {}
    for stratum in strata:
        n = len(stratum)
        draws = generator.multinomial(n - 1, np.full(n, 1 / n), size=resamples)
        drawn |= dict(zip(stratum.tolist(), draws.T, strict=True))
    return drawn


def resampled(
    actors: Sequence[NDArray[np.int64]], folds: Sequence[NDArray[np.int64]], drawn: Mapping[int, NDArray[np.int64]]
) -> dict[str, NDArray[np.float64]]:
    """The fold-mean of each score under the draws of `draw_actors`, each (resamples, ...).

    `folds` holds one (actors, ..., classes, classes) array of confusion matrices per fold, with an axis of
    variants for instance, which then share every draw.
    """
    return _fold_means([scores(matrices) for matrices in _drawn_matrices(actors, folds, drawn)])


def _drawn_matrices(
    actors: Sequence[NDArray[np.int64]], folds: Sequence[NDArray[np.int64]], drawn: Mapping[int, NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """The confusion matrices of each fold under the draws, (resamples, ..., classes, classes)."""
    weights = (np.stack([drawn[int(actor)] for actor in present], axis=1) for present in actors)
    return [np.tensordot(weight, fold, axes=1) for weight, fold in zip(weights, folds, strict=True)]


def _observed(folds: Sequence[NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """The fold-mean of each score, every actor counted once."""
    return _fold_means([scores(fold.sum(0)) for fold in folds])


def _fold_means(folds: Sequence[dict[str, NDArray[np.float64]]]) -> dict[str, NDArray[np.float64]]:
    return {metric: np.mean([fold[metric] for fold in folds], axis=0) for metric in METRICS}


def estimates(actors: Sequence[NDArray[np.int64]], folds: Sequence[NDArray[np.int64]]) -> dict[str, Estimate]:
    """Each score of a run from its folds' actors and confusion matrices by actor, as `resampled` takes them."""
    by_fold = [scores(fold.sum(0)) for fold in folds]
    drawn = draw_actors(actors)
    spread = resampled(actors, folds, drawn) if drawn else None
    found = {}
    for metric in METRICS:
        mean, sd = mean_sd([float(fold[metric]) for fold in by_fold])
        low, high = _interval(spread[metric]) if spread else (None, None)
        found[metric] = Estimate(mean, sd, low, high)
    return found


def recalls(actors: Sequence[NDArray[np.int64]], folds: Sequence[NDArray[np.int64]]) -> list[Estimate]:
    """The recall of each emotion and, last, their mean, over all folds in one matrix; arguments as `estimates` takes them.

    `sd` is None. The mean of an emotion without a clip is NaN; a draw without a clip of an emotion says nothing of it.
    """
    observed = _recalls(sum(fold.sum(0) for fold in folds))
    drawn = draw_actors(actors)
    if drawn is None:
        return [Estimate(float(mean), None, None, None) for mean in observed]
    spread = _recalls(sum(_drawn_matrices(actors, folds, drawn)))
    return [
        Estimate(float(mean), None, *((None, None) if np.isnan(mean) else _interval(values[~np.isnan(values)])))
        for mean, values in zip(observed, spread.T, strict=True)
    ]


def _recalls(confusion: ArrayLike) -> NDArray[np.float64]:
    """The recall of each emotion and their mean (..., classes + 1) of confusion matrices (..., classes, classes)."""
    matrices = np.asarray(confusion)
    return np.concatenate([recall(matrices), scores(matrices)["uar"][..., None]], axis=-1)


def _interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def differences(actors: Sequence[NDArray[np.int64]], folds: Sequence[NDArray[np.int64]]) -> dict[str, Difference]:
    """Each score of one variant less that of another.

    `actors` holds the (actors,) of each fold, `folds` their confusion matrices by both variants,
    (actors, 2, classes, classes). Every draw of `draw_actors` is shared by both variants.
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


Group = tuple[Sequence[NDArray[np.int64]], Sequence[NDArray[np.int64]]]


def gap(one: Group, other: Group) -> Estimate:
    """The accuracy of one group of actors less that of another: the means over folds, and the 95 % interval.

    A group is the (actors,) of each fold and their confusion matrices; the actors of each are drawn for themselves.
    `sd` is None, as is the interval where a fold has a single actor of a group.
    """
    means = [float(_observed(folds)["war"]) for _, folds in (one, other)]
    draws = [draw_actors(actors, seed=SEED + number) for number, (actors, _) in enumerate((one, other))]
    if draws[0] is None or draws[1] is None:
        return Estimate(means[0] - means[1], None, None, None)
    spread = [resampled(*group, drawn)["war"] for group, drawn in zip((one, other), draws, strict=True) if drawn]
    return Estimate(means[0] - means[1], None, *_interval(spread[0] - spread[1]))


def leak(
    apart: tuple[Sequence[NDArray[np.int64]], Sequence[NDArray[np.int64]]],
    shared: tuple[Sequence[NDArray[np.int64]], Sequence[NDArray[np.int64]]],
) -> dict[str, Estimate]:
    """Each score under folds that share actors less that under folds by actor, of one variant.

    Each is the actors and the confusion matrices of its folds, as `estimates` takes them. `sd` is None. The actors are
    drawn once, within the folds by actor, and every draw counts on both sides; `low` and `high` are None where a
    fold by actor has a single one, or where those folds leave some actor out.
    """
    drawn = draw_actors(apart[0])
    known = drawn is not None and all(int(actor) in drawn for present in shared[0] for actor in present)
    with_shared, without = _observed(shared[1]), _observed(apart[1])
    found = {}
    for metric in METRICS:
        low, high = None, None
        if drawn is not None and known:
            low, high = _interval(resampled(*shared, drawn)[metric] - resampled(*apart, drawn)[metric])
        found[metric] = Estimate(float(with_shared[metric] - without[metric]), None, low, high)
    return found


def _difference(both: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(both[..., 0] - both[..., 1])


def permutation_test(
    actors: Sequence[NDArray[np.int64]],
    folds: Sequence[NDArray[np.int64]],
    exchanges: int = EXCHANGES,
    seed: int = SEED,
) -> dict[str, float]:
    """How often chance alone makes two variants differ as much as they do: two-sided p of each score, in (0, 1].

    Arguments as `differences` takes them. Where the variants are equally good, either could have made either's
    predictions on an actor: those are exchanged, of one actor in all folds together, and the difference of the
    fold-means taken again. Up to `EXACT` actors p is the share of all ways to exchange that differ at least as
    much; with more, (b + 1) / (n + 1), where b of n = `exchanges` ways drawn at random do
    (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010, article 39).
    """
    names = np.unique(np.concatenate(actors))
    exact = len(names) <= EXACT
    if exact:
        exchanged_WA = np.arange(2 ** len(names))[:, None] >> np.arange(len(names)) & 1
    else:
        exchanged_WA = np.random.default_rng(seed).integers(0, 2, (exchanges, len(names)))
    made = []
    for present, fold in zip(actors, folds, strict=True):
        exchanged_WF = exchanged_WA[:, np.searchsorted(names, present)].astype(np.float64)
        moved = np.tensordot(exchanged_WF, (fold[:, ::-1] - fold).astype(np.float64), axes=1)
        made.append(scores(fold.sum(0) + moved))
    found = {}
    observed = _observed(folds)
    for metric, both in _fold_means(made).items():
        # Sums of the same fractions in another order may differ in the last digits.
        extreme = int((abs(_difference(both)) >= abs(_difference(observed[metric])) - 1e-12).sum())
        found[metric] = extreme / len(exchanged_WA) if exact else (extreme + 1) / (exchanges + 1)
    return found


def holm(p: Sequence[float]) -> list[float]:
    """The p-values of several tests, each corrected for all of them by Holm's step-down method, in their order.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than one before it
    or greater than 1 (Holm, Scand. J. Stat. 6, 1979, pages 65-70).
    """
    corrected = [0.0] * len(p)
    highest = 0.0
    for rank, place in enumerate(np.argsort(p, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = highest
    return corrected


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
