"""Scores, intervals and tests, compared with scikit-learn, SciPy, plain loops, and simulated actors."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

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
def test_scores_equal_scikit_learns(labels: np.ndarray) -> None:
    truth, predicted = labels
    confusion = statistics.actor_confusions(np.zeros_like(truth), truth, predicted, 4)[1][0]
    ours = metrics.scores(confusion)
    assert ours["war"] == pytest.approx(accuracy_score(truth, predicted))
    assert ours["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert ours["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))


def test_there_is_a_confusion_matrix_per_actor() -> None:
    actors = np.array([7, 3, 7, 3])
    names, confusions = statistics.actor_confusions(actors, np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 2)
    assert names.tolist() == [3, 7]
    assert confusions.tolist() == [[[0, 1], [0, 1]], [[1, 0], [0, 1]]]


def test_the_recall_of_an_absent_emotion_is_nan() -> None:
    recall = metrics.recall(np.array([[3, 1], [0, 0]]))
    assert recall[0] == 0.75
    assert np.isnan(recall[1])


def _simulated(generator: np.random.Generator, folds: int, actors: int, clips: int, spread: float) -> list[np.ndarray]:
    """Folds of actors, each with its own accuracy of around 0.7, on two emotions."""
    simulated = []
    for _ in range(folds):
        accuracy = np.clip(generator.normal(0.7, spread, actors), 0, 1)
        correct = generator.binomial(clips, accuracy[:, None], size=(actors, 2))
        simulated.append(np.stack([np.stack([correct[:, 0], clips - correct[:, 0]], -1),
                              np.stack([clips - correct[:, 1], correct[:, 1]], -1)], 1))  # fmt: skip
    return simulated


def _disjoint(folds: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The arguments of `estimates` for folds that share no actors, with one seed."""
    return _actors(folds), [fold[:, None] for fold in folds]


def _actors(folds: list[np.ndarray]) -> list[np.ndarray]:
    """The actors of folds that share none."""
    first = itertools.accumulate((len(fold) for fold in folds), initial=0)
    return [np.arange(start, start + len(fold)) for start, fold in zip(first, folds, strict=False)]


def _bootstrap(actors: list[np.ndarray], folds: list[np.ndarray], resamples: int) -> dict[str, np.ndarray]:
    drawn = statistics.draw(actors, folds[0].shape[1], resamples)
    assert drawn is not None
    return statistics.resampled(actors, folds, drawn)


def test_the_bootstrap_agrees_with_a_loop_over_actors() -> None:
    folds = _simulated(np.random.default_rng(1), folds=3, actors=5, clips=15, spread=0.15)
    fast = _bootstrap(*_disjoint(folds), resamples=20_000)
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


def test_intervals_have_nominal_coverage() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        folds = _simulated(generator, folds=5, actors=5, clips=30, spread=0.1)
        found = _bootstrap(*_disjoint(folds), resamples=400)
        low, high = np.percentile(found["war"], [2.5, 97.5])
        covered += low <= 0.7 <= high
    # Drawing n instead of n - 1 actors would give a coverage of about 90 %.
    assert 0.915 <= covered / 300 <= 0.975


def test_intervals_are_reproducible_and_contain_the_mean() -> None:
    folds = _simulated(np.random.default_rng(4), folds=4, actors=6, clips=10, spread=0.1)
    first, second = statistics.estimates(*_disjoint(folds)), statistics.estimates(*_disjoint(folds))
    assert first == second
    for estimate in first.values():
        assert estimate.low is not None
        assert estimate.high is not None
        assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    by_fold = [float(np.trace(fold.sum(0)) / fold.sum()) for fold in folds]
    assert first["war"].mean == pytest.approx(np.mean(by_fold))
    assert first["war"].sd_folds == pytest.approx(np.std(by_fold, ddof=1))


def test_the_interval_of_macro_f1_is_not_too_low_because_few_actors_are_drawn() -> None:
    """Each of two actors is given two of four emotions, so that macro-F1 is lower for either alone than for both."""
    first, second = np.zeros((2, 4, 4), dtype=int)
    first[:, 0], first[1] = 6, [0, 6, 0, 0]
    second[:, 2], second[3] = 6, [0, 0, 1, 5]
    found = statistics.estimates(*_disjoint([np.stack([first, second])] * 3))["macro_f1"]
    alone = metrics.scores(np.stack([first, second]))["macro_f1"]
    assert alone.max() < found.mean - 0.1
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.mean <= found.high


def test_pooled_recalls_and_their_intervals_agree_with_a_loop() -> None:
    folds = _simulated(np.random.default_rng(6), folds=3, actors=5, clips=15, spread=0.15)
    found = statistics.recalls(*_disjoint(folds))
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
    intervals = np.array([[each.low, each.high] for each in found]).T
    assert intervals == pytest.approx(ends, abs=0.012)


def test_recalls_of_emotions_that_few_or_no_actors_have() -> None:
    fold = np.array(
        [[[3, 1, 0], [0, 4, 0], [0, 0, 0]], [[2, 2, 0], [0, 0, 0], [0, 0, 0]], [[4, 0, 0], [0, 0, 0], [0, 0, 0]]]
    )
    first, second, none, mean = statistics.recalls(*_disjoint([fold]))
    assert (first.mean, second.mean, mean.mean) == pytest.approx((0.75, 1.0, 0.875))
    assert (second.low, second.high) == (1.0, 1.0)  # from the resamples with clips of it
    assert np.isnan(none.mean)
    assert (none.low, none.high) == (None, None)


def test_a_single_fold_has_no_sd_and_a_single_actor_no_interval() -> None:
    fold = _simulated(np.random.default_rng(5), folds=1, actors=4, clips=10, spread=0.1)[0]
    assert statistics.estimates(*_disjoint([fold]))["war"].sd_folds is None
    assert statistics.estimates(*_disjoint([fold]))["war"].low is not None
    assert statistics.estimates(*_disjoint([fold, fold[:1]]))["war"].low is None


def test_an_actor_in_several_folds_is_drawn_for_all_of_them_together() -> None:
    """If two folds have the same actors with the same clips, their mean varies as much as either of them."""
    fold = _simulated(np.random.default_rng(8), folds=1, actors=6, clips=20, spread=0.2)[0]
    everyone = np.arange(6)
    one = statistics.estimates([everyone], [fold[:, None]])["uar"]
    two = statistics.estimates([everyone, everyone], [fold[:, None]] * 2)["uar"]
    assert (two.low, two.high) == (one.low, one.high)
    disjoint = statistics.estimates(*_disjoint([fold, fold]))["uar"]
    assert None not in (one.low, one.high, disjoint.low, disjoint.high)
    assert disjoint.high - disjoint.low < 0.85 * (one.high - one.low)  # type: ignore[operator]


def _right(correct: np.ndarray, clips: int = 20) -> np.ndarray:
    """Confusion matrices of actors with as many correct clips of each of two emotions."""
    wrong = clips - correct
    return np.stack([np.stack([correct, wrong], -1), np.stack([wrong, correct], -1)], 1)


def _with_and_without_overlap(
    more: int,
) -> tuple[tuple[list[np.ndarray], list[np.ndarray]], tuple[list[np.ndarray], list[np.ndarray]]]:
    """Six actors of different accuracy, each with `more` of 20 clips per emotion more correct if folds share actors."""
    correct = np.array([2, 9, 14, 5, 12, 16])
    matrices = [_right(c) for c in (correct, correct + more)]
    independent = ([np.arange(3), np.arange(3, 6)], [matrices[0][:3, None], matrices[0][3:, None]])
    return independent, ([np.arange(6), np.arange(6)], [matrices[1][:, None]] * 2)


def test_the_effect_of_speaker_overlap_is_independent_of_the_actors_drawn() -> None:
    found = statistics.leak(*_with_and_without_overlap(3))
    for metric in ("war", "uar"):
        assert (found[metric].low, found[metric].mean, found[metric].high) == pytest.approx((0.15, 0.15, 0.15))


def test_speaker_overlap_has_no_interval_if_folds_do_not_cover_all_actors() -> None:
    independent, overlapping = _with_and_without_overlap(3)
    found = statistics.leak((independent[0][:1], independent[1][:1]), overlapping)["war"]
    assert found.mean > 0
    assert (found.low, found.high) == (None, None)


def _pair(*variants: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The arguments of `differences` for the folds of two variants, which share no actors, with one seed."""
    return _actors(variants[0]), [np.stack(pair, axis=1)[:, None] for pair in zip(*variants, strict=True)]


def test_the_difference_of_two_variants_is_that_of_their_means() -> None:
    generator = np.random.default_rng(6)
    ours, theirs = (_simulated(generator, folds=3, actors=4, clips=12, spread=0.1) for _ in range(2))
    found = statistics.differences(*_pair(ours, theirs))
    first, second = statistics.estimates(*_disjoint(ours)), statistics.estimates(*_disjoint(theirs))
    for metric, difference in found.items():
        assert difference.mean == pytest.approx(first[metric].mean - second[metric].mean)
        assert difference.low is not None
        assert difference.high is not None
        assert difference.low <= difference.mean <= difference.high


def test_differences_are_resampled_in_pairs() -> None:
    """If the difference between the variants is the same for all actors, its interval has no width."""
    right = np.array([2, 9, 14, 17])
    ours, theirs = ([_right(correct) for correct in (right + more, right + more - 1)] for more in (3, 0))
    for metric in ("war", "uar"):
        difference = statistics.differences(*_pair(ours, theirs))[metric]
        assert (difference.low, difference.mean, difference.high) == pytest.approx((0.15, 0.15, 0.15))
        estimate = statistics.estimates(*_disjoint(ours))[metric]
        assert estimate.high is not None
        assert estimate.low is not None
        assert estimate.high - estimate.low > 0.3


def test_intervals_of_differences_have_nominal_coverage() -> None:
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
    """SciPy's p-value of the difference in WAR on one fold."""
    correct = [np.trace(fold, axis1=1, axis2=2) for fold in (ours, theirs)]
    return float(
        permutation_test(
            correct,
            lambda x, y, axis: (x - y).sum(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        ).pvalue
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_permutation_test_equals_scipys(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ours, theirs = (_simulated(generator, folds=1, actors=9, clips=10, spread=s)[0] for s in (0.1, 0.2))
    assert statistics.permutation_test(*_pair([ours], [theirs]))["war"] == pytest.approx(_scipy_p(ours, theirs))


def test_random_permutations_approximate_the_exact_test() -> None:
    generator = np.random.default_rng(11)
    ours, theirs = (_simulated(generator, folds=1, actors=16, clips=10, spread=0.15)[0] for _ in range(2))
    exact = _scipy_p(ours, theirs)
    assert 0.05 < exact < 0.95
    drawn = statistics.permutation_test(*_pair([ours], [theirs]))["war"]
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / statistics.EXCHANGES))
    assert statistics.permutation_test(*_pair([ours], [theirs]), seed=1)["war"] != drawn


def test_the_smallest_p_value_of_random_permutations() -> None:
    worse, better = (np.tile(np.array([[r, 9 - r], [9 - r, r]]), (24, 1, 1)) for r in (3, 7))
    assert statistics.permutation_test(*_pair([better], [worse]))["war"] == 1 / (statistics.EXCHANGES + 1)


def test_the_permutation_test_agrees_with_a_loop_over_clips() -> None:
    """Three folds, two of which share an actor; all scores, all permutations."""
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
    observed, permuted = differences(*predicted), []
    for ways in itertools.product((False, True), repeat=len(names)):
        exchange = np.array([dict(zip(names, ways, strict=True))[actor] for _, actor in clips])
        permuted.append(differences(np.where(exchange, *predicted[::-1]), np.where(exchange, *predicted)))
    both = [np.stack([matrices(fold, of) for of in predicted], axis=1)[:, None] for fold in range(3)]
    for metric, p in statistics.permutation_test(actors, both).items():
        assert p == pytest.approx(np.mean([abs(way[metric]) >= abs(observed[metric]) - 1e-9 for way in permuted]))


def test_an_actor_in_several_folds_is_exchanged_in_all_of_them_together() -> None:
    fold = np.array([[[[[9, 1], [1, 9]], [[4, 6], [6, 4]]]]])
    alone = np.array([5])
    assert statistics.permutation_test([alone, alone], [fold, fold])["war"] == 1  # with two actors, it would be 1/2
    assert statistics.permutation_test([alone, np.array([6])], [fold, fold])["war"] == 0.5


def test_p_values_are_about_uniform_under_the_null_hypothesis() -> None:
    generator = np.random.default_rng(13)
    ps = []
    for _ in range(200):
        ours, theirs = (_simulated(generator, folds=2, actors=4, clips=15, spread=0.1) for _ in range(2))
        ps.append(statistics.permutation_test(*_pair(ours, theirs))["uar"])
    assert np.mean(np.array(ps) <= 0.05) <= 0.1
    assert 0.4 <= np.mean(ps) <= 0.62


COUNTS = hnp.arrays(np.int64, st.tuples(st.integers(1, 5), *map(st.just, (2, 2, 2, 2))), elements=st.integers(0, 9))


@settings(max_examples=60, deadline=None)
@given(st.lists(COUNTS, min_size=1, max_size=3))
def test_exact_p_values_do_not_depend_on_the_order_of_variants(folds: list[np.ndarray]) -> None:
    actors = [np.arange(len(fold)) for fold in folds]
    p = statistics.permutation_test(actors, folds)
    assert all(0 < value <= 1 for value in p.values())
    swapped = statistics.permutation_test(actors, [fold[:, :, ::-1] for fold in folds])
    assert p == swapped
    same = statistics.permutation_test(actors, [fold[:, :, [0, 0]] for fold in folds])
    assert set(same.values()) == {1.0}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_random_p_values_do_not_depend_on_the_order_of_variants(seed: int) -> None:
    generator = np.random.default_rng(seed)
    actors, both = _pair(*(_simulated(generator, folds=4, actors=5, clips=8, spread=0.2) for _ in range(2)))
    p = statistics.permutation_test(actors, both)
    assert p == statistics.permutation_test(actors, [fold[:, :, ::-1] for fold in both])
    assert all(0 < value <= 1 for value in p.values())
    assert set(statistics.permutation_test(actors, [fold[:, :, [1, 1]] for fold in both]).values()) == {1.0}


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # from R's p.adjust(method = "holm")
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, 0.02, 0.5], [0.06, 0.06, 0.5]),
    ],
)
def test_holm(p: list[float], adjusted: list[float]) -> None:
    assert statistics.holm(p) == pytest.approx(adjusted)


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_stays_between_p_and_bonferroni(p: list[float]) -> None:
    adjusted = statistics.holm(p)
    assert all(one <= each <= min(1, len(p) * one) for one, each in zip(p, adjusted, strict=True))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()
    assert statistics.holm(p[::-1]) == adjusted[::-1]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-1.0, 1.5, "equivalent"),
        (-2.0, 2.0, "equivalent"),
        (-1.9, -0.5, "equivalent"),  # not 0, but within the margin
        (-9.0, -0.1, "below"),
        (0.1, 2.1, "above"),
        (-3.0, 0.0, "inconclusive"),
        (-2.1, 9.0, "inconclusive"),
    ],
)
def test_verdict(low: float, high: float, verdict: str) -> None:
    difference = statistics.Estimate((low + high) / 2, low=-99, high=99, low_90=low, high_90=high)
    assert statistics.verdict(difference, margin=2.0) == verdict


def test_margins_were_fixed_before_any_results() -> None:
    """A change of these numbers changes verdicts that have been published."""
    assert statistics.margin((5, 5, 5, 5, 4)) == 7.5  # RAVDESS
    assert statistics.margin((19, 18, 18, 18, 18)) == 4.0  # CREMA-D
    assert statistics.margin((2, 2, 2, 2, 2)) == 12.0  # Java-SED
    assert statistics.margin((4, 1)) is None


def test_the_margin_is_what_the_interval_can_establish() -> None:
    """Of studies with equal methods whose actors vary as assumed, 80 % find equivalence."""
    generator = np.random.default_rng(14)
    sizes, clips = (5, 5, 5, 5, 4), 10_000
    margin = statistics.margin(sizes)
    assert margin is not None
    equivalent = 0
    for _ in range(200):
        shares = [generator.normal(0, statistics.ACTOR_SD / 100, size) for size in sizes]
        ours = [_right((clips * (0.5 + share)).astype(int), clips) for share in shares]
        theirs = [_right(np.full(size, clips // 2), clips) for size in sizes]
        actors, both = _pair(ours, theirs)
        found = statistics.resampled(actors, both, statistics.draw(actors, 1, 500))["war"]  # type: ignore[arg-type]
        low, high = 100 * np.percentile(found[:, 0] - found[:, 1], [5, 95])
        equivalent += statistics.verdict(statistics.Estimate(0, low_90=low, high_90=high), margin) == "equivalent"
    assert 0.72 <= equivalent / 200 <= 0.9


def _crossed(seed: int, folds: int = 2, actors: int = 4, seeds: int = 3) -> list[np.ndarray]:
    """Random confusion matrices (A, S, 3, 3) of each fold; seeds have the same clips."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(3, 7, (folds, actors, 1, 3)).repeat(seeds, axis=2)
    shares = generator.dirichlet([2, 1, 1], (folds, actors, seeds, 3))
    return list(generator.multinomial(truth, shares))


def test_crossed_intervals_equal_those_of_a_loop() -> None:
    """Actors are drawn once for all seeds, seeds once for all actors and folds, and the deviations of both are added."""
    ours, theirs = _crossed(1), _crossed(2)
    actors = _actors(ours)
    drawn = statistics.draw(actors, 3)
    assert drawn is not None
    assert set(drawn.seeds.sum(1)) == {2}

    def mean(variant: list[np.ndarray], recall: bool, times_actor: list[np.ndarray], times_seed: np.ndarray) -> float:
        total = 0.0
        for seed in range(3):
            pooled = [
                sum(times * matrix for times, matrix in zip(weights, fold[:, seed], strict=True))
                for weights, fold in zip(times_actor, variant, strict=True)
            ]
            everything = sum(pooled)
            wars = [np.trace(matrix) / matrix.sum() for matrix in pooled]
            total += times_seed[seed] * (everything[1, 1] / everything[1].sum() if recall else np.mean(wars))
        return float(total / sum(times_seed))

    def resamples(variant: list[np.ndarray], recall: bool) -> list[float]:
        once, all_seeds = [np.ones(len(present)) for present in actors], np.ones(3)
        whole, values = mean(variant, recall, once, all_seeds), []
        for number in range(statistics.RESAMPLES):
            chosen = [np.array([drawn.actors[actor][number] for actor in present]) for present in actors]
            of_actors = mean(variant, recall, chosen, all_seeds) - whole
            values.append(whole + of_actors + mean(variant, recall, once, drawn.seeds[number]) - whole)
        return values

    ends = [2.5, 97.5, 5, 95]
    wars = [resamples(variant, recall=False) for variant in (ours, theirs)]
    found = statistics.estimates(actors, ours)["war"]
    assert [found.low, found.high, found.low_90, found.high_90] == pytest.approx(np.percentile(wars[0], ends).tolist())
    by_fold_and_seed = [[np.trace(matrix) / matrix.sum() for matrix in fold.sum(0)] for fold in ours]
    assert found.mean == pytest.approx(np.mean(by_fold_and_seed))
    assert found.sd_folds == pytest.approx(np.std(np.mean(by_fold_and_seed, axis=1), ddof=1))
    assert found.sd_seeds == pytest.approx(np.std(np.mean(by_fold_and_seed, axis=0), ddof=1))
    recalled = statistics.recalls(actors, ours)[1]
    expected = np.percentile(resamples(ours, recall=True), ends).clip(0, 1).tolist()
    assert [recalled.low, recalled.high, recalled.low_90, recalled.high_90] == pytest.approx(expected)
    both = [np.stack(pair, axis=2) for pair in zip(ours, theirs, strict=True)]
    difference = statistics.differences(actors, both)["war"]
    expected = np.percentile(np.subtract(*wars), ends).tolist()
    assert [difference.low, difference.high, difference.low_90, difference.high_90] == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_variance_of_resamples_is_that_over_actors_plus_that_over_seeds(seeds: int) -> None:
    """Both unbiased: s² / n of the actors of each fold, averaged over seeds, and s² / S of the seeds."""
    folds = _crossed(6, folds=2, actors=5, seeds=seeds)
    clips = 12
    shares = [fold[..., 0, 0] / fold[..., 0, :].sum(-1) for fold in folds]
    right = [np.round(share * clips).astype(int) for share in shares]
    same_clips = [np.stack([np.stack([r, clips - r], -1), np.zeros((*r.shape, 2), int)], -2) for r in right]
    actors = _actors(folds)
    drawn = statistics.draw(actors, seeds, 100_000)
    assert drawn is not None
    found = statistics.resampled(actors, same_clips, drawn)["war"]
    means = [r / clips for r in right]
    over_actors = sum(share.mean(1).var(ddof=1) / 5 for share in means) / 4
    over_seeds = np.mean([share.mean(0) for share in means], axis=0).var(ddof=1) / seeds
    assert found.var() == pytest.approx(over_actors + over_seeds, rel=0.03)
    assert found.mean() == pytest.approx(np.mean(means), abs=0.002)


def test_with_one_seed_or_equal_seeds_intervals_reflect_the_actors_alone() -> None:
    one = _crossed(3, folds=3, seeds=1)
    alone = statistics.estimates(_actors(one), one)["uar"]
    equal = statistics.estimates(_actors(one), [fold.repeat(3, axis=1) for fold in one])["uar"]
    assert alone.sd_seeds is None
    assert equal.sd_seeds == pytest.approx(0)
    for name in ("mean", "sd_folds", "low", "high", "low_90", "high_90"):
        assert getattr(equal, name) == pytest.approx(getattr(alone, name))


def test_seeds_that_differ_widen_the_interval() -> None:
    generator = np.random.default_rng(15)
    fold = _simulated(generator, folds=1, actors=6, clips=20, spread=0.05)[0]
    worse = _simulated(generator, folds=1, actors=6, clips=20, spread=0.05)[0] // 3 + np.array([[0, 9], [9, 0]])
    alike, apart = (
        statistics.estimates([np.arange(6)], [np.stack(seeds, axis=1)])["war"]
        for seeds in ([fold] * 3, [fold, fold, worse])
    )
    assert None not in (alike.low, alike.high, apart.low, apart.high)
    assert apart.high - apart.low > 1.5 * (alike.high - alike.low)  # type: ignore[operator]


def test_predictions_are_exchanged_for_an_actor_with_all_seeds_together() -> None:
    """All permutations in a loop: an actor's predictions are exchanged in both folds and with all three seeds."""
    both = [np.stack(pair, axis=2) for pair in zip(_crossed(4, actors=3), _crossed(5, actors=3), strict=True)]
    actors = [np.array([1, 2, 3]), np.array([3, 4, 5])]

    def difference(exchanged: tuple[bool, ...]) -> float:
        means = []
        for present, fold in zip(actors, both, strict=True):
            for seed in range(3):
                swapped = [
                    fold[place, seed][::-1] if exchanged[actor - 1] else fold[place, seed]
                    for place, actor in enumerate(present.tolist())
                ]
                first, second = sum(swapped)
                means.append(np.trace(first) / first.sum() - np.trace(second) / second.sum())
        return float(np.mean(means))

    observed = abs(difference((False,) * 5))
    ways = [abs(difference(way)) >= observed - 1e-9 for way in itertools.product((False, True), repeat=5)]
    assert statistics.permutation_test(actors, both)["war"] == pytest.approx(np.mean(ways))


CROSSED = hnp.arrays(np.int64, st.tuples(st.integers(2, 5), *map(st.just, (3, 2, 2, 2))), elements=st.integers(0, 9))


@settings(max_examples=25, deadline=None)
@given(st.lists(CROSSED, min_size=1, max_size=3))
def test_identical_variants_do_not_differ(folds: list[np.ndarray]) -> None:
    for found in statistics.differences(_actors(folds), [fold[:, :, [0, 0]] for fold in folds]).values():
        assert (found.mean, found.low, found.high, found.low_90, found.high_90, found.p) == (0, 0, 0, 0, 0, 1)


@settings(max_examples=25, deadline=None)
@given(st.lists(CROSSED, min_size=1, max_size=3), st.permutations(range(3)), st.randoms(use_true_random=False))
def test_the_order_of_seeds_and_actors_only_relabels_the_draws(
    folds: list[np.ndarray], seeds: list[int], random: random.Random
) -> None:
    """Permuted seeds and actors have the same means and p-values, and the same resamples if the draws are permuted, too."""
    actors = _actors(folds)
    orders = [random.sample(range(len(fold)), len(fold)) for fold in folds]
    moved = [fold[order][:, seeds] for fold, order in zip(folds, orders, strict=True)]
    moved_actors = [present[order] for present, order in zip(actors, orders, strict=True)]
    one, other = statistics.differences(actors, folds), statistics.differences(moved_actors, moved)
    drawn = statistics.draw(actors, 3, 50)
    assert drawn is not None
    again = replace(drawn, seeds=drawn.seeds[:, seeds])
    resampled = statistics.resampled(actors, folds, drawn), statistics.resampled(moved_actors, moved, again)
    for metric in statistics.METRICS:
        assert other[metric].mean == pytest.approx(one[metric].mean)
        assert other[metric].p == one[metric].p
        assert resampled[1][metric] == pytest.approx(resampled[0][metric])
