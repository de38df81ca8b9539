"""The emotional metric: its value, its gradient, and the constraint that keeps its margin alive."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emofuse.losses import CAP, EmotionDistance, EmotionLoss, emotional_metric

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


def slow_metric(embeddings: np.ndarray, labels: list[int], distance: np.ndarray, margin: float) -> float:
    """The equation, triplet by triplet."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    violated = []
    for a, p, n in itertools.product(range(len(labels)), repeat=3):
        if a != p and labels[a] == labels[p] != labels[n]:
            near, far = np.linalg.norm(unit[a] - unit[p]), np.linalg.norm(unit[a] - unit[n])
            hinge = near - far + margin * distance[labels[a], labels[n]]
            if hinge > 0:
                violated.append(hinge)
    return float(np.mean(violated)) if violated else 0.0


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.floats(0.05, 1.5))
def test_the_metric_is_its_equation(seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(9, 4))
    labels = rng.integers(0, 3, 9).tolist()
    distance = EmotionDistance(EMOTIONS[:3], margin)().detach().numpy().astype(float)
    value = emotional_metric(torch.tensor(embeddings), torch.tensor(labels), torch.tensor(distance), margin)
    assert value.item() == pytest.approx(slow_metric(embeddings, labels, distance, margin), abs=1e-3)


def test_the_gradient_is_the_numerical_one() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    distance = (torch.rand(3, 3, dtype=torch.float64) + 0.5).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    import emofuse.losses as module

    # The loss computes in float32 whatever it is given; the check needs more.
    original = torch.Tensor.float
    try:
        torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
        assert torch.autograd.gradcheck(lambda e, d: module.emotional_metric(e, labels, d, 0.4), (embeddings, distance))
    finally:
        torch.Tensor.float = original  # type: ignore[method-assign]


@settings(max_examples=30)
@given(st.lists(st.floats(-30, 30), min_size=28, max_size=28), st.floats(0.05, 1.8))
def test_the_distance_is_a_bounded_metric_of_mean_one_whatever_is_learned(raw: list[float], margin: float) -> None:
    distance = EmotionDistance(EMOTIONS, margin)
    with torch.no_grad():
        distance.raw.copy_(torch.tensor(raw))
    matrix = distance().detach()
    torch.testing.assert_close(matrix, matrix.T)
    assert (matrix >= 0).all()
    assert (matrix.diagonal() == 0).all()
    assert matrix.sum().item() / 56 == pytest.approx(1, abs=1e-3)
    assert margin * matrix.max().item() <= CAP + 1e-3


def test_it_starts_from_valence_and_arousal() -> None:
    matrix = EmotionDistance(EMOTIONS, 0.4)().detach()
    angry, fearful, calm = (EMOTIONS.index(emotion) for emotion in ("angry", "fearful", "calm"))
    assert matrix[angry, fearful] < matrix[angry, calm]


def test_without_the_constraint_the_learned_margin_collapses() -> None:
    """Gradient descent on d alone, embeddings fixed: a free margin goes to zero, ours keeps its mean."""
    torch.manual_seed(0)
    embeddings, labels = torch.randn(24, 8), torch.arange(24) % 8
    free = torch.ones(8, 8, requires_grad=True)
    ours = EmotionDistance(EMOTIONS, 0.4)
    for parameters, matrix in (([free], lambda: free.clamp_min(0)), (list(ours.parameters()), ours)):
        optimizer = torch.optim.Adam(parameters, 0.05)
        for _ in range(200):
            optimizer.zero_grad()
            emotional_metric(embeddings, labels, matrix(), 0.4).backward()
            optimizer.step()
    off_diagonal = ~torch.eye(8, dtype=torch.bool)
    assert free.clamp_min(0)[off_diagonal].mean().item() < 0.2
    assert ours()[off_diagonal].mean().item() == pytest.approx(1, abs=1e-3)


def test_the_metric_draws_an_emotion_together() -> None:
    torch.manual_seed(0)
    embeddings = torch.nn.Parameter(torch.randn(32, 8))
    labels = torch.arange(32) % 8
    loss = EmotionLoss(EMOTIONS, "learnable", 1.0, 0.4, 0.1, 0.0)
    before = emotional_metric(embeddings, labels, loss.distance(), 0.4).item()
    optimizer = torch.optim.Adam([embeddings], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        emotional_metric(embeddings, labels, loss.distance().detach(), 0.4).backward()
        optimizer.step()
    after = emotional_metric(embeddings, labels, loss.distance(), 0.4).item()
    assert after < 0.1 * before


def test_cross_entropy_alone_has_no_metric() -> None:
    scores, targets = torch.randn(4, 8), torch.eye(8)[:4]
    total, cross_entropy, metric = EmotionLoss(EMOTIONS, "none", 0.5, 0.4, 0.1, 0.0)(scores, torch.randn(4, 3), targets)
    assert total == cross_entropy
    assert metric == 0
    torch.testing.assert_close(cross_entropy, torch.nn.functional.cross_entropy(scores, torch.arange(4)))


def test_a_batch_without_triplets_is_no_trouble() -> None:
    embeddings = torch.randn(3, 4, requires_grad=True)
    loss = emotional_metric(embeddings, torch.tensor([0, 1, 2]), torch.ones(3, 3), 0.4)
    loss.backward()
    assert loss == 0
    assert torch.isfinite(embeddings.grad).all()
