"""The report's numbers, against scikit-learn, a plain loop, and simulated actors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from emofuse import metrics
from emofuse.report import statistics


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


def test_bootstrap_agrees_with_a_plain_loop_over_actors() -> None:
    folds = _simulated(np.random.default_rng(1), folds=3, actors=5, clips=15, spread=0.15)
    fast = statistics.actor_bootstrap(folds, resamples=20_000)
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
    assert fast is not None
    assert fast["uar"].mean() == pytest.approx(np.mean(slow), abs=0.003)
    assert fast["uar"].std() == pytest.approx(np.std(slow), rel=0.06)
    assert np.percentile(fast["uar"], [2.5, 97.5]) == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.008)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        folds = _simulated(generator, folds=5, actors=5, clips=30, spread=0.1)
        found = statistics.actor_bootstrap(folds, resamples=400)
        assert found is not None
        low, high = np.percentile(found["war"], [2.5, 97.5])
        covered += low <= 0.7 <= high
    # 95 % claimed; drawing n and not n - 1 actors would give about 90 %.
    assert 0.915 <= covered / 300 <= 0.975


def test_interval_is_the_same_every_time_and_around_the_mean() -> None:
    folds = _simulated(np.random.default_rng(4), folds=4, actors=6, clips=10, spread=0.1)
    first, second = statistics.estimates(folds), statistics.estimates(folds)
    assert first == second
    for estimate in first.values():
        assert estimate.low is not None
        assert estimate.high is not None
        assert 0 <= estimate.low <= estimate.mean <= estimate.high <= 1
    by_fold = [float(np.trace(fold.sum(0)) / fold.sum()) for fold in folds]
    assert first["war"].mean == pytest.approx(np.mean(by_fold))
    assert first["war"].sd == pytest.approx(np.std(by_fold, ddof=1))


def test_one_fold_has_no_sd_and_one_actor_no_interval() -> None:
    fold = _simulated(np.random.default_rng(5), folds=1, actors=4, clips=10, spread=0.1)[0]
    assert statistics.estimates([fold])["war"].sd is None
    assert statistics.estimates([fold])["war"].low is not None
    assert statistics.estimates([fold, fold[:1]])["war"].low is None


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
