"""The report's numbers, against scikit-learn, SciPy, plain loops, and simulated actors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import permutation_test
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from emofuse.evaluation import metrics, statistics


@settings(max_examples=60, deadline=None)
@given(
    labels=hnp.arrays(np.int64, st.tuples(st.just(2), st.integers(1, 40)), elements=st.integers(0, 3)),
)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_scores_are_scikit_learns(labels: np.ndarray) -> None:
    truth, predicted = labels
    confusion = statistics.actor_confusions(np.zeros_like(truth), truth, predicted, 4)[1][0]
    ours = metrics.scores(confusion)
    assert ours["war"] == pytest.approx(accuracy_score(truth, predicted))
    assert ours["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert ours["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))


def test_confusions_are_kept_apart_by_actor() -> None:
    actors = np.array([7, 3, 7, 3])
    names, confusions = statistics.actor_confusions(actors, np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2)
    assert names.tolist() == [3, 7]
    assert confusions.tolist() == [[[0, 1], [0, 1]], [[1, 0], [0, 1]]]


def test_recall_of_an_emotion_that_does_not_occur_is_not_zero() -> None:
    recall = metrics.recall(np.array([[3, 1], [0, 0]]))
    assert recall[0] == 0.75
    assert np.isnan(recall[1])


def _simulated(generator: np.random.Generator, folds: int, actors: int, clips: int, spread: float) -> list[np.ndarray]:
    """Folds of actors, each right with a probability of its own around 0.7, over two emotions."""
    made = []
    for _ in range(folds):
        chance = np.clip(generator.normal(0.7, spread, actors), 0, 1)
        right = generator.binomial(clips, chance[:, None], size=(actors, 2))
        made.append(np.stack([np.stack([right[:, 0], clips - right[:, 0]], -1),
                              np.stack([clips - right[:, 1], right[:, 1]], -1)], 1))  # fmt: skip
    return made


def _apart(folds: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The arguments of `estimates` for these folds; no actor is in two of them."""
    first = itertools.accumulate((len(fold) for fold in folds), initial=0)
    return [np.arange(start, start + len(fold)) for start, fold in zip(first, folds, strict=False)], folds


def _bootstrap(actors: list[np.ndarray], folds: list[np.ndarray], resamples: int) -> dict[str, np.ndarray]:
    drawn = statistics.draw_actors(actors, resamples)
    assert drawn is not None
    return statistics.resampled(actors, folds, drawn)


def test_bootstrap_agrees_with_a_plain_loop_over_actors() -> None:
    folds = _simulated(np.random.default_rng(1), folds=3, actors=5, clips=15, spread=0.15)
    fast = _bootstrap(*_apart(folds), resamples=20_000)
    generator = np.random.default_rng(2)
    slow = []
    for _ in range(4000):
        uars = []
        for fold in folds:
            drawn = [fold[generator.integers(len(fold))] for _ in range(len(fold) - 1)]
            truth = [row for matrix in drawn for row in (0, 1) for _ in range(matrix[row].sum())]
            predicted = [
                column for matrix in drawn for row in (0, 1) for column in (0, 1) for _ in range(matrix[row, column])
            ]
            recalls = [np.mean([p == t for t, p in zip(truth, predicted, strict=True) if t == row]) for row in (0, 1)]
            uars.append(np.mean(recalls))
        slow.append(np.mean(uars))
    assert fast["uar"].mean() == pytest.approx(np.mean(slow), abs=0.003)
    assert fast["uar"].std() == pytest.approx(np.std(slow), rel=0.06)
    assert np.percentile(fast["uar"], [2.5, 97.5]) == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.008)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        folds = _simulated(generator, folds=5, actors=5, clips=30, spread=0.1)
        found = _bootstrap(*_apart(folds), resamples=400)
        low, high = np.percentile(found["war"], [2.5, 97.5])
        covered += low <= 0.7 <= high
    # 95 % claimed; drawing n and not n - 1 actors would give about 90 %.
    assert 0.915 <= covered / 300 <= 0.975


def test_interval_is_the_same_every_time_and_around_the_mean() -> None:
    folds = _simulated(np.random.default_rng(4), folds=4, actors=6, clips=10, spread=0.1)
    first, second = statistics.estimates(*_apart(folds)), statistics.estimates(*_apart(folds))
    assert first == second
    for estimate in first.values():
        assert estimate.low is not None
        assert estimate.high is not None
        assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    by_fold = [float(np.trace(fold.sum(0)) / fold.sum()) for fold in folds]
    assert first["war"].mean == pytest.approx(np.mean(by_fold))
    assert first["war"].sd == pytest.approx(np.std(by_fold, ddof=1))


def test_pooled_recalls_and_their_intervals_agree_with_a_plain_loop() -> None:
    folds = _simulated(np.random.default_rng(6), folds=3, actors=5, clips=15, spread=0.15)
    found = statistics.recalls(*_apart(folds))
    pooled = np.concatenate(folds).sum(0)
    recalls = [pooled[0, 0] / pooled[0].sum(), pooled[1, 1] / pooled[1].sum()]
    assert [each.mean for each in found] == pytest.approx([*recalls, np.mean(recalls)])
    generator = np.random.default_rng(7)
    slow = []
    for _ in range(4000):
        drawn = sum(fold[generator.integers(len(fold), size=len(fold) - 1)].sum(0) for fold in folds)
        each = [drawn[0, 0] / drawn[0].sum(), drawn[1, 1] / drawn[1].sum()]
        slow.append([*each, np.mean(each)])
    ends = np.percentile(slow, [2.5, 97.5], axis=0)
    made = np.array([[each.low, each.high] for each in found]).T
    assert made == pytest.approx(ends, abs=0.012)


def test_the_recall_of_an_emotion_that_few_have() -> None:
    fold = np.array(
        [[[3, 1, 0], [0, 4, 0], [0, 0, 0]], [[2, 2, 0], [0, 0, 0], [0, 0, 0]], [[4, 0, 0], [0, 0, 0], [0, 0, 0]]]
    )
    first, second, none, mean = statistics.recalls(*_apart([fold]))
    assert (first.mean, second.mean, mean.mean) == pytest.approx((0.75, 1.0, 0.875))
    assert (second.low, second.high) == (1.0, 1.0)  # of the draws that have a clip of it
    assert np.isnan(none.mean)
    assert (none.low, none.high) == (None, None)


def test_one_fold_has_no_sd_and_one_actor_no_interval() -> None:
    fold = _simulated(np.random.default_rng(5), folds=1, actors=4, clips=10, spread=0.1)[0]
    assert statistics.estimates(*_apart([fold]))["war"].sd is None
    assert statistics.estimates(*_apart([fold]))["war"].low is not None
    assert statistics.estimates(*_apart([fold, fold[:1]]))["war"].low is None


def test_an_actor_in_several_folds_is_drawn_for_all_of_them_at_once() -> None:
    """Two folds have the same actors with the same clips: their mean varies as much as one of them."""
    fold = _simulated(np.random.default_rng(8), folds=1, actors=6, clips=20, spread=0.2)[0]
    everyone = np.arange(6)
    one = statistics.estimates([everyone], [fold])["uar"]
    two = statistics.estimates([everyone, everyone], [fold, fold])["uar"]
    assert (two.low, two.high) == (one.low, one.high)
    apart = statistics.estimates(*_apart([fold, fold]))["uar"]
    assert None not in (one.low, one.high, apart.low, apart.high)
    assert apart.high - apart.low < 0.85 * (one.high - one.low)  # type: ignore[operator]


def _leaky(more: int) -> tuple[tuple[list[np.ndarray], list[np.ndarray]], tuple[list[np.ndarray], list[np.ndarray]]]:
    """Six actors who differ much, each right on `more` more of 20 clips an emotion where all are in both folds."""
    right = np.array([2, 9, 14, 5, 12, 16])
    matrices = [np.stack([np.stack([r, 20 - r], -1), np.stack([20 - r, r], -1)], 1) for r in (right, right + more)]
    apart = ([np.arange(3), np.arange(3, 6)], [matrices[0][:3], matrices[0][3:]])
    return apart, ([np.arange(6), np.arange(6)], [matrices[1], matrices[1]])


def test_what_shared_actors_are_worth_is_found_whoever_is_drawn() -> None:
    found = statistics.leak(*_leaky(3))
    for metric in ("war", "uar"):
        assert (found[metric].low, found[metric].mean, found[metric].high) == pytest.approx((0.15, 0.15, 0.15))


def test_no_interval_where_the_folds_by_actor_leave_someone_out() -> None:
    apart, shared = _leaky(3)
    found = statistics.leak((apart[0][:1], apart[1][:1]), shared)["war"]
    assert found.mean > 0
    assert (found.low, found.high) == (None, None)


def _pair(*variants: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The arguments of `differences` for two variants' folds; no actor is in two folds."""
    return _apart(variants[0])[0], [np.stack(pair, axis=1) for pair in zip(*variants, strict=True)]


def test_difference_of_two_variants_is_that_of_their_means() -> None:
    generator = np.random.default_rng(6)
    ours, theirs = (_simulated(generator, folds=3, actors=4, clips=12, spread=0.1) for _ in range(2))
    found = statistics.differences(*_pair(ours, theirs))
    first, second = statistics.estimates(*_apart(ours)), statistics.estimates(*_apart(theirs))
    for metric, difference in found.items():
        assert difference.mean == pytest.approx(first[metric].mean - second[metric].mean)
        assert difference.low is not None
        assert difference.high is not None
        assert difference.low <= difference.mean <= difference.high


def test_both_variants_are_resampled_with_the_same_actors() -> None:
    """Actors differ much, the variants by the same on each: then the difference is known exactly."""
    right = np.array([2, 9, 14, 17])
    ours, theirs = (
        [np.stack([np.stack([r, 20 - r], -1), np.stack([20 - r, r], -1)], 1) for r in (right + more, right + more - 1)]
        for more in (3, 0)
    )
    for metric in ("war", "uar"):
        difference = statistics.differences(*_pair(ours, theirs))[metric]
        assert (difference.low, difference.mean, difference.high) == pytest.approx((0.15, 0.15, 0.15))
        estimate = statistics.estimates(*_apart(ours))[metric]
        assert estimate.high is not None
        assert estimate.low is not None
        assert estimate.high - estimate.low > 0.3


def test_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        ours, theirs = (_simulated(generator, folds=5, actors=5, clips=30, spread=0.1) for _ in range(2))
        low, high = np.percentile(
            np.subtract(*np.moveaxis(_bootstrap(*_pair(ours, theirs), resamples=400)["war"], -1, 0)),
            [2.5, 97.5],
        )
        covered += low <= 0 <= high
    assert 0.9 <= covered / 200 <= 0.985


def _scipy_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """SciPy's p of the difference in WAR on one fold, from the clips that each actor has right."""
    right = [np.trace(fold, axis1=1, axis2=2) for fold in (ours, theirs)]
    return float(
        permutation_test(
            right, lambda x, y, axis: (x - y).sum(axis), permutation_type="samples", vectorized=True, n_resamples=np.inf
        ).pvalue
    )


@pytest.mark.parametrize("seed", range(4))
def test_permutation_test_is_scipys(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ours, theirs = (_simulated(generator, folds=1, actors=9, clips=10, spread=s)[0] for s in (0.1, 0.2))
    assert statistics.permutation_test(*_pair([ours], [theirs]))["war"] == pytest.approx(_scipy_p(ours, theirs))


def test_drawn_exchanges_come_near_to_all_of_them() -> None:
    generator = np.random.default_rng(11)
    ours, theirs = (_simulated(generator, folds=1, actors=16, clips=10, spread=0.15)[0] for _ in range(2))
    exact = _scipy_p(ours, theirs)
    assert 0.05 < exact < 0.95
    drawn = statistics.permutation_test(*_pair([ours], [theirs]))["war"]
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / statistics.EXCHANGES))
    assert statistics.permutation_test(*_pair([ours], [theirs]), seed=1)["war"] != drawn


def test_no_exchange_drawn_is_as_far_apart_as_what_was_seen() -> None:
    worse, better = (np.tile(np.array([[r, 9 - r], [9 - r, r]]), (24, 1, 1)) for r in (3, 7))
    assert statistics.permutation_test(*_pair([better], [worse]))["war"] == 1 / (statistics.EXCHANGES + 1)


def test_permutation_test_agrees_with_a_plain_loop_over_clips() -> None:
    """Three folds, of which two share an actor; every score, every way to exchange."""
    generator = np.random.default_rng(12)
    actors = [np.array([1, 4]), np.array([2, 4, 7]), np.array([3])]
    clips = [(fold, int(actor)) for fold, present in enumerate(actors) for actor in present for _ in range(8)]
    truth = generator.integers(0, 3, len(clips))
    predicted = [
        np.where(generator.random(len(clips)) < 0.6, truth, generator.integers(0, 3, len(clips))) for _ in "ab"
    ]

    def matrices(fold: int, of: np.ndarray) -> np.ndarray:
        here = np.array([place for place, (number, _) in enumerate(clips) if number == fold])
        return statistics.actor_confusions(
            np.array([clips[place][1] for place in here]), truth[here], of[here], 3
        )[1]  # fmt: skip

    def differences(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        scores = [[metrics.scores(matrices(fold, of).sum(0)) for fold in range(3)] for of in (first, second)]
        return {m: float(np.mean([a[m] - b[m] for a, b in zip(*scores, strict=True)])) for m in statistics.METRICS}

    names = sorted({actor for _, actor in clips})
    seen, made = differences(*predicted), []
    for ways in itertools.product((False, True), repeat=len(names)):
        exchange = np.array([dict(zip(names, ways, strict=True))[actor] for _, actor in clips])
        made.append(differences(np.where(exchange, *predicted[::-1]), np.where(exchange, *predicted)))
    both = [np.stack([matrices(fold, of) for of in predicted], axis=1) for fold in range(3)]
    for metric, p in statistics.permutation_test(actors, both).items():
        assert p == pytest.approx(np.mean([abs(way[metric]) >= abs(seen[metric]) - 1e-9 for way in made]))


def test_an_actor_in_several_folds_is_exchanged_in_all_of_them_together() -> None:
    fold = np.array([[[[9, 1], [1, 9]], [[4, 6], [6, 4]]]])
    alone = np.array([5])
    assert statistics.permutation_test([alone, alone], [fold, fold])["war"] == 1  # were they two: 1/2
    assert statistics.permutation_test([alone, np.array([6])], [fold, fold])["war"] == 0.5


def test_p_is_below_5_percent_in_about_5_percent_where_nothing_differs() -> None:
    generator = np.random.default_rng(13)
    ps = []
    for _ in range(200):
        ours, theirs = (_simulated(generator, folds=2, actors=4, clips=15, spread=0.1) for _ in range(2))
        ps.append(statistics.permutation_test(*_pair(ours, theirs))["uar"])
    assert np.mean(np.array(ps) <= 0.05) <= 0.1
    assert 0.4 <= np.mean(ps) <= 0.62


COUNTS = hnp.arrays(
    np.int64, st.tuples(st.integers(1, 5), st.just(2), st.just(2), st.just(2)), elements=st.integers(0, 9)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(COUNTS, min_size=1, max_size=3))
def test_p_is_a_share_that_knows_no_order(folds: list[np.ndarray]) -> None:
    actors = [np.arange(len(fold)) for fold in folds]
    p = statistics.permutation_test(actors, folds)
    assert all(0 < value <= 1 for value in p.values())
    swapped = statistics.permutation_test(actors, [fold[:, ::-1] for fold in folds])
    assert p == swapped
    same = statistics.permutation_test(actors, [fold[:, [0, 0]] for fold in folds])
    assert set(same.values()) == {1.0}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_drawn_exchanges_know_no_order_either(seed: int) -> None:
    generator = np.random.default_rng(seed)
    actors, both = _pair(*(_simulated(generator, folds=4, actors=5, clips=8, spread=0.2) for _ in range(2)))
    p = statistics.permutation_test(actors, both)
    assert p == statistics.permutation_test(actors, [fold[:, ::-1] for fold in both])
    assert all(0 < value <= 1 for value in p.values())
    assert set(statistics.permutation_test(actors, [fold[:, [1, 1]] for fold in both]).values()) == {1.0}


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # what R's p.adjust(method = "holm") gives
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, 0.02, 0.5], [0.06, 0.06, 0.5]),
    ],
)
def test_holm(p: list[float], corrected: list[float]) -> None:
    assert statistics.holm(p) == pytest.approx(corrected)


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_stays_between_p_and_bonferroni(p: list[float]) -> None:
    corrected = statistics.holm(p)
    assert all(one <= held <= min(1, len(p) * one) for one, held in zip(p, corrected, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
    assert statistics.holm(p[::-1]) == corrected[::-1]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (88.0, 90.5, "reproduced"),
        (87.25, 91.25, "reproduced"),
        (80.0, 87.2, "below"),
        (91.3, 95.0, "above"),
        (85.0, 88.0, "inconclusive"),
        (85.0, 95.0, "inconclusive"),
    ],
)
def test_verdict(low: float, high: float, verdict: str) -> None:
    assert statistics.verdict(low, high, 89.25) == verdict
