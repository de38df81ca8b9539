"""The report's statistics compared with scikit-learn, SciPy, the standard library, and exact enumeration.

test_statistics.py and test_figures.py compare others with explicit loops.
"""

from __future__ import annotations

import itertools
import statistics as standard
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import bootstrap, permutation_test
from sklearn.decomposition import PCA
from sklearn.manifold import ClassicalMDS
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    recall_score,
    silhouette_score,
)
from sklearn.preprocessing import normalize

from emofuse.evaluation import metrics, statistics
from emofuse.report import embeddings

CLASSES = 4
LABELS = st.integers(1, 30).flatmap(
    lambda clips: st.lists(
        hnp.arrays(np.int64, (2, clips), elements=st.integers(0, CLASSES - 1)), min_size=1, max_size=4
    )
)

Counts = NDArray[np.int64]


def random_confusions(
    generator: np.random.Generator, actors: int, clips: int, classes: int = 3, spread: float = 0.2
) -> Counts:
    """Random confusion matrices (actors, classes, classes). Actors differ in accuracy and number of clips."""
    found = np.zeros((actors, classes, classes), dtype=np.int64)
    for actor in range(actors):
        right = np.clip(generator.normal(0.6, spread), 0, 1)
        for label in generator.integers(0, classes, clips + 3 * actor):
            hit = generator.random() < right
            found[actor, label, label if hit else generator.integers(0, classes)] += 1
    return found


def by_definition(confusion: Counts) -> dict[str, float]:
    """scikit-learn's scores for the clips counted in a confusion matrix (classes, classes)."""
    truth, predicted = np.repeat(np.argwhere(confusion >= 0), confusion.ravel(), axis=0).T
    return {
        "war": accuracy_score(truth, predicted),
        "uar": balanced_accuracy_score(truth, predicted),
        "macro_f1": f1_score(truth, predicted, average="macro"),
    }


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=40)
@given(LABELS)
def test_confusion_recall_and_scores_match_scikit_learn(pairs: list[Counts]) -> None:
    everything = np.arange(CLASSES)
    confusions = np.stack([metrics.confusion(*pair, CLASSES) for pair in pairs])
    scores, recalls = metrics.scores(confusions[:, None]), metrics.recall(confusions)
    for place, (truth, predicted) in enumerate(pairs):
        np.testing.assert_array_equal(confusions[place], confusion_matrix(truth, predicted, labels=everything))
        expected = recall_score(truth, predicted, labels=everything, average=None, zero_division=np.nan)
        np.testing.assert_allclose(recalls[place], expected)
        assert {name: values[place, 0] for name, values in scores.items()} == pytest.approx(
            by_definition(confusions[place])
        )


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10))
def test_mean_and_sd_match_the_standard_library(values: list[float]) -> None:
    mean, sd = statistics.mean_sd(values)
    assert mean == pytest.approx(standard.fmean(values))
    assert sd == pytest.approx(standard.stdev(values), abs=1e-12)


def test_interval_matches_exhaustive_enumeration() -> None:
    """Two folds of four actors: all 64 × 64 ways to draw three of each."""
    generator = np.random.default_rng(1)
    actors, folds = [np.arange(4), np.arange(4, 8)], [random_confusions(generator, 4, 12) for _ in "ab"]
    ways = [
        [by_definition(fold[list(drawn)].sum(0)) for drawn in itertools.product(range(4), repeat=3)] for fold in folds
    ]
    for metric, estimate in statistics.estimates(actors, [fold[:, None] for fold in folds]).items():
        values = np.array([(one[metric] + two[metric]) / 2 for one, two in itertools.product(*ways)])
        error = 1e-9
        if metric == "macro_f1":  # is moved to the observed score, up to the standard error of the mean of the draws
            values += estimate.mean - values.mean()
            error = values.std() / np.sqrt(statistics.RESAMPLES)
        assert estimate.low is not None
        assert estimate.high is not None
        # 2,000 of the 4,096 ways, drawn: the share beyond a limit has a standard error of 0.35 %.
        for beyond, reached in (
            (values < estimate.low - error, values <= estimate.low + error),
            (values > estimate.high + error, values >= estimate.high - error),
        ):
            assert beyond.mean() < 0.025 + 0.011, metric
            assert reached.mean() > 0.025 - 0.011, metric


def test_interval_of_many_actors_matches_scipy() -> None:
    """With 150 actors in a fold, it hardly matters that SciPy draws 150 of them, not 149."""
    confusions = random_confusions(np.random.default_rng(2), 150, 4)
    estimates = statistics.estimates([np.arange(150)], [confusions[:, None]])
    for metric, estimate in estimates.items():
        found = bootstrap(
            (np.arange(150),),
            lambda drawn, axis, metric=metric: metrics.scores(confusions[drawn].sum(-3))[metric],
            n_resamples=4000, method="percentile", rng=np.random.default_rng(3),
        )  # fmt: skip
        width = found.confidence_interval.high - found.confidence_interval.low
        expected = pytest.approx(tuple(found.confidence_interval), abs=0.06 * width)
        assert (estimate.low, estimate.high) == expected, metric


def right_of(share: NDArray[np.float64], clips: int = 20) -> Counts:
    """Confusion matrices of actors with `clips` clips each, of which `share` is correctly classified."""
    right = np.round(share * clips).astype(np.int64)
    return np.stack([np.stack([right, clips - right], -1), np.zeros((len(share), 2), dtype=np.int64)], axis=-2)


@pytest.mark.parametrize("shared", [False, True])
def test_variance_of_resampled_means_is_unbiased(shared: bool) -> None:
    """For a stratified mean: Σ s² / n over F folds of n actors, / F². If folds share actors: s² / n of the actors' means."""
    generator = np.random.default_rng(4)
    sizes = (5, 5, 5) if shared else (5, 4, 3)
    shares = [generator.integers(0, 21, n) / 20 for n in sizes]
    first = np.cumsum([0, *sizes])
    actors = [np.arange(n) + (0 if shared else start) for n, start in zip(sizes, first, strict=False)]
    drawn = statistics.draw(actors, 1, resamples=100_000)
    assert drawn is not None
    war = statistics.resampled(actors, [right_of(share)[:, None] for share in shares], drawn)["war"]
    if shared:
        variance = np.mean(shares, axis=0).var(ddof=1) / 5
    else:
        variance = sum(share.var(ddof=1) / len(share) for share in shares) / 3**2
    assert war.mean() == pytest.approx(np.mean([share.mean() for share in shares]), abs=4 * np.sqrt(variance / 1e5))
    assert war.var() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("folds", [[[1, 2, 3], [4, 5], [6, 7, 8, 9]], [[1, 2, 3, 4], [3, 4, 5], [5, 6]]])
def test_each_stratum_draws_one_actor_fewer_than_it_has(folds: list[list[int]]) -> None:
    """A fold is a stratum; if an actor is in two folds, all folds together are one."""
    drawn = statistics.draw([np.array(fold) for fold in folds], 1, resamples=50)
    assert drawn is not None
    everyone = sorted({actor for fold in folds for actor in fold})
    assert sorted(drawn.actors) == everyone
    for stratum in folds if len(everyone) == 9 else [everyone]:
        assert set(sum(drawn.actors[actor] for actor in stratum)) == {len(stratum) - 1}


@pytest.mark.parametrize("seed", range(3))
def test_permutation_test_matches_scipy(seed: int) -> None:
    """SciPy permutes indices of matrices, ours 0 to 7 and theirs 8 to 15."""
    generator = np.random.default_rng([5, seed])
    sizes = (3, 5)
    ours, theirs = ([random_confusions(generator, n, 8, spread=spread) for n in sizes] for spread in (0.1, 0.4))
    every = np.concatenate([*ours, *theirs])
    actors = [np.arange(3), np.arange(3, 8)]
    found = statistics.permutation_test(
        actors, [np.stack(both, axis=1)[:, None] for both in zip(ours, theirs, strict=True)]
    )

    @cache
    def scores_of(*numbers: int) -> dict[str, float]:
        return by_definition(every[list(numbers)].sum(0))

    for metric, p in found.items():

        def difference(first: Counts, second: Counts, metric: str = metric) -> float:
            means = [
                np.mean([scores_of(*side[present].astype(int).tolist())[metric] for present in actors])
                for side in (first, second)
            ]
            return float(means[0] - means[1])

        expected = permutation_test(
            (np.arange(8), np.arange(8, 16)), difference, permutation_type="samples", n_resamples=np.inf
        )
        assert p == pytest.approx(expected.pvalue), metric


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closure_of_bonferroni(p: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni rejects every set of hypotheses that contains it (Marcus et al. 1976)."""
    places = range(len(p))
    sets = [group for size in places for group in itertools.combinations(places, size + 1)]
    expected = [
        max(min(1.0, len(group) * min(p[other] for other in group)) for group in sets if place in group)
        for place in places
    ]
    assert statistics.holm(p) == pytest.approx(expected, abs=1e-300)


@settings(max_examples=40)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(3, 14), st.just(4)), elements=st.integers(-3, 3)),
    st.data(),
)
def test_compactness_matches_scipy_and_scikit_learn(raw: NDArray[np.float64], data: st.DataObject) -> None:
    raw = raw + np.array([5, 0, 0, 0])  # none is all zeros; some are equal, or differ in length alone
    labels = [np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(raw), max_size=len(raw)))) for _ in "ea"]
    emotions, actors = np.array(["angry", "happy", "sad"])[labels[0]], labels[1]
    assume(2 <= len(set(emotions)) < len(raw))
    unit = normalize(raw)
    clips = embeddings.Embedded(raw / np.linalg.norm(raw, axis=1, keepdims=True), emotions, actors)
    found = embeddings.measure(clips.distances, emotions, actors)
    distances = pdist(unit)
    np.testing.assert_allclose(clips.distances, squareform(distances), atol=1e-7)
    same = pdist(labels[0][:, None], "hamming") == 0
    assert found["intra"] == pytest.approx(distances[same].mean(), abs=1e-7)
    assert found["inter"] == pytest.approx(distances[~same].mean(), abs=1e-7)
    # Equal clips are 1e-8 apart or 0, by how the distance is reckoned, and a silhouette divides by that.
    alike = distances < 1e-6
    if not alike.any():
        for name, of in (("emotion", emotions), ("actor", actors)):
            if 2 <= len(set(of.tolist())) < len(raw):
                assert found[f"silhouette_{name}"] == pytest.approx(silhouette_score(unit, of), abs=1e-6)


@given(st.integers(4, 9), st.integers(0, 2**32))
def test_map_matches_scikit_learn(points: int, seed: int) -> None:
    places = np.random.default_rng(seed).normal(size=(points, 3)) * [3, 2, 1]
    distances = squareform(pdist(places))
    found, share = embeddings.classical_map(distances)
    axes = PCA(n_components=2)
    for expected in (
        axes.fit_transform(places),
        ClassicalMDS(n_components=2, metric="precomputed").fit_transform(distances),
    ):
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)  # an axis may point either way
        np.testing.assert_allclose(pdist(found), pdist(expected), atol=1e-6)
    assert share == pytest.approx(axes.explained_variance_ratio_.sum())


@given(st.integers(3, 9), st.integers(0, 2**32))
def test_alignment_matches_scipy(points: int, seed: int) -> None:
    some, towards = np.random.default_rng(seed).normal(size=(2, points, 2))
    centred = some - some.mean(0)
    expected = centred @ orthogonal_procrustes(centred, towards - towards.mean(0))[0]
    np.testing.assert_allclose(embeddings.aligned(some, towards), expected, atol=1e-9)
