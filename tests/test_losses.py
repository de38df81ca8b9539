"""The metric losses: values, gradients, and the constraint that keeps a learned margin from collapsing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emofuse.models.losses import CAP, POLARITY, EmotionDistance, EmotionLoss, embedding_distances, triplet_loss

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
CREMAD = ("neutral", "happy", "sad", "angry", "fearful", "disgust")
MEMBERS = ("triplet", "polarity", "fixed", "learnable")
MINERS = ("all", "semihard", "hardest")

OFF_DIAGONAL = ~torch.eye(8, dtype=torch.bool)

# The margin by which y should be farther from a than x, by their emotions; None if they form no triplet.
Margin = Callable[[str, str, str], float | None]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors here are too small for several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(metric: str, emotions: tuple[str, ...] = EMOTIONS, **changes: object) -> EmotionLoss:
    values = {"weight": 0.5, "margin": 0.4, "miner": "all", "start": "valence_arousal", "pull": 0.1}
    return EmotionLoss(emotions, metric=metric, **{**values, "label_smoothing": 0.0, **changes})  # type: ignore[arg-type]


def metric_of(loss: EmotionLoss, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    classes = len(loss.polarity)
    return loss(torch.zeros(len(labels), classes), embeddings, torch.eye(classes)[labels])[2]


def slow_hinge(distances: np.ndarray, names: list[str], margin: Margin, miner: str) -> float:
    """A hinge term, triplet by triplet."""
    mined = []
    for a in range(len(names)):
        gaps = []
        for x, y in itertools.product(range(len(names)), repeat=2):
            wanted = margin(names[a], names[x], names[y]) if a not in (x, y) else None
            if wanted is not None and (miner != "semihard" or distances[a, x] <= distances[a, y]):
                gaps.append(distances[a, x] - distances[a, y] + wanted)
        mined += [max(gaps)] if miner == "hardest" and gaps else gaps
    violated = [gap for gap in mined if gap > 0]
    return float(np.mean(violated)) if violated else 0.0


def slow_metric(loss: EmotionLoss, embeddings: np.ndarray, names: list[str], emotions: tuple[str, ...]) -> float:
    """The equations of the losses, triplet by triplet."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    distances = np.array([[np.linalg.norm(one - other) for other in unit] for one in unit])
    positive, negative = {"calm", "happy", "surprised"}, {"sad", "angry", "fearful", "disgust"}
    d = np.ones((len(emotions), len(emotions))) if loss.distance is None else loss.distance().detach().numpy()

    def related(a: str, b: str) -> bool:
        return a != b and any({a, b} <= group for group in (positive, negative))

    def opposite(a: str, b: str) -> bool:
        return {a, b} & positive != set() and {a, b} & negative != set()

    def own_before_other(a: str, x: str, y: str) -> float | None:
        return loss.margin * float(d[emotions.index(a), emotions.index(y)]) if a == x != y else None

    def own_before_related(a: str, x: str, y: str) -> float | None:
        if a != x or y == a:
            return None
        if related(a, y):
            return loss.margin / 2
        has_related = any(related(a, name) for name in names)
        return None if opposite(a, y) and has_related else loss.margin

    def related_before_opposite(a: str, x: str, y: str) -> float | None:
        return loss.margin / 2 if related(a, x) and opposite(a, y) else None

    if loss.metric != "polarity":
        return slow_hinge(distances, names, own_before_other, loss.miner)
    return sum(slow_hinge(distances, names, term, loss.miner) for term in (own_before_related, related_before_opposite))


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("metric", MEMBERS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), margin=st.floats(0.05, 1.8), emotions=st.sampled_from([EMOTIONS, CREMAD]))
def test_every_member_is_its_equation(
    metric: str, miner: str, seed: int, margin: float, emotions: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(seed)
    loss = make(metric, emotions, margin=margin, miner=miner).double()
    if metric == "learnable":
        torch.nn.init.normal_(loss.distance.raw, generator=torch.Generator().manual_seed(seed))
    labels = rng.choice(rng.choice(len(emotions), rng.integers(1, 6), replace=False), 10)
    embeddings = rng.normal(size=(10, 3))
    value = metric_of(loss, torch.tensor(embeddings), torch.tensor(labels)).item()
    expected = slow_metric(loss, embeddings, [emotions[label] for label in labels], emotions)
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("miner", MINERS)
def test_the_triplet_loss_equals_pytorch_metric_learnings(miner: str) -> None:
    from pytorch_metric_learning import losses, miners

    mine = {
        "all": None,
        "semihard": miners.TripletMarginMiner(margin=0.4, type_of_triplets="semihard"),
        "hardest": miners.BatchHardMiner(),
    }[miner]
    for seed in range(5):
        torch.manual_seed(seed)
        embeddings, labels = torch.randn(64, 16, dtype=torch.float64), torch.randint(0, 8, (64,))
        theirs = losses.TripletMarginLoss(margin=0.4)(embeddings, labels, mine and mine(embeddings, labels))
        assert metric_of(make("triplet", miner=miner), embeddings, labels).item() == pytest.approx(
            theirs.item(), rel=1e-6
        )


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("metric", ["none", *MEMBERS])
def test_gradients_equal_numerical_ones(metric: str, miner: str) -> None:
    torch.manual_seed(0)
    loss = make(metric, miner=miner, label_smoothing=0.1).double()
    labels = torch.arange(16) % 8
    targets = 0.8 * torch.eye(8, dtype=torch.float64)[labels] + 0.025
    scores = torch.randn(16, 8, dtype=torch.float64, requires_grad=True)
    embeddings = torch.randn(16, 4, dtype=torch.float64, requires_grad=True)
    learned = {name: value.detach() for name, value in loss.named_parameters() if value.requires_grad}
    assert set(learned) == ({"distance.raw"} if metric == "learnable" else set())

    def total(scores: torch.Tensor, embeddings: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        parameters = dict(zip(learned, values, strict=True))
        return torch.func.functional_call(loss, parameters, (scores, embeddings, targets))[0]

    inputs = [torch.randn_like(value).requires_grad_() for value in learned.values()]
    assert torch.autograd.gradcheck(total, (scores, embeddings, *inputs))


def test_miners_use_the_margin_of_each_pair_of_emotions() -> None:
    """Emotion 1 is nearer to the anchors than emotion 2, but 2 is further inside its margin, so that it is the hardest."""
    angles = torch.tensor([0.0, 0.1, 0.5, 0.8])
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 2])
    margins = torch.tensor([[0.0, 0.2, 1.0], [0.2, 0.0, 0.6], [1.0, 0.6, 0.0]])
    near, one, two = (embedding_distances(embeddings)[0, i].item() for i in (1, 2, 3))
    assert near - one + 0.2 < 0 < near - two + 1.0
    for miner in MINERS:  # each anchor has both negatives, and violates only its margin to 2
        expected = near - (two + embedding_distances(embeddings)[1, 3].item()) / 2 + 1.0
        assert triplet_loss(embeddings, labels, margins, miner).item() == pytest.approx(expected, abs=1e-5)


def test_each_emotion_has_a_polarity() -> None:
    groups = {sign: {emotion for emotion in POLARITY if POLARITY[emotion] == sign} for sign in (-1, 0, 1)}
    assert groups == {
        1: {"calm", "happy", "surprised"},
        0: {"neutral"},
        -1: {"sad", "angry", "fearful", "disgust"},
    }


@pytest.mark.parametrize("emotions", [EMOTIONS, CREMAD])
def test_the_polarity_loss_orders_same_related_and_opposite_emotions(emotions: tuple[str, ...]) -> None:
    """In embeddings that minimise it, the opposite polarity is a margin beyond the same emotion, and related ones halfway."""
    torch.manual_seed(0)
    loss = make("polarity", emotions)
    labels = torch.arange(4 * len(emotions)) % len(emotions)
    embeddings = torch.nn.Parameter(torch.randn(len(labels), 16))
    optimizer = torch.optim.Adam([embeddings], 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        metric = metric_of(loss, embeddings, labels)
        metric.backward()
        optimizer.step()
    assert metric < 0.02
    distances = embedding_distances(embeddings.detach()).numpy()
    groups: dict[tuple[str, str], list[float]] = {}
    for a, b in itertools.permutations(range(len(labels)), 2):
        first, second = emotions[labels[a]], emotions[labels[b]]
        same_polarity = POLARITY[first] == POLARITY[second]
        kind = "own" if first == second else "related" if same_polarity else "opposite"
        if POLARITY[first] * POLARITY[second]:
            groups.setdefault((first, kind), []).append(distances[a, b])
    own, related, opposite = (
        {first: np.mean(values) for (first, found), values in groups.items() if found == kind}
        for kind in ("own", "related", "opposite")
    )
    for emotion in own:
        assert opposite[emotion] > own[emotion] + 0.35, f"{emotion}: the opposite polarity is not separated"
        if emotion in related:
            assert own[emotion] + 0.15 < related[emotion] < opposite[emotion] - 0.15
    assert ("happy" in related) == (emotions == EMOTIONS)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=28, max_size=28), st.floats(0.05, 1.8))
def test_the_distance_is_bounded_with_mean_one_for_all_parameters(raw: list[float], margin: float) -> None:
    distance = EmotionDistance(EMOTIONS, margin)
    with torch.no_grad():
        distance.raw.copy_(torch.tensor(raw))
    matrix = distance().detach()
    torch.testing.assert_close(matrix, matrix.T)
    assert (matrix >= 0).all()
    assert (matrix.diagonal() == 0).all()
    assert matrix.sum().item() / 56 == pytest.approx(1, abs=1e-3)
    assert margin * matrix.max().item() <= CAP + 1e-3


@pytest.mark.parametrize("metric", ["fixed", "learnable"])
def test_the_distance_starts_from_valence_and_arousal(metric: str) -> None:
    matrix = make(metric).distance().detach()
    angry, fearful, calm = (EMOTIONS.index(emotion) for emotion in ("angry", "fearful", "calm"))
    assert matrix[angry, fearful] < matrix[angry, calm]


def test_a_flat_start_equals_the_triplet_loss_and_can_be_learned() -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(24, 8), torch.arange(24) % 8
    flat = make("learnable", start="flat", pull=0.0)
    torch.testing.assert_close(flat.distance().detach(), 1 - torch.eye(8))
    assert metric_of(flat, embeddings, labels).item() == pytest.approx(
        metric_of(make("triplet"), embeddings, labels).item()
    )
    metric_of(flat, embeddings, labels).backward()
    assert flat.distance.raw.grad.abs().max() > 0


@pytest.mark.parametrize("start", ["valence_arousal", "flat"])
def test_the_pull_is_towards_the_initial_distance(start: str) -> None:
    loss = make("learnable", start=start, weight=0.0, pull=1.0)
    initial = loss.distance().detach()
    torch.manual_seed(0)
    torch.nn.init.normal_(loss.distance.raw)
    scores, embeddings, targets = torch.zeros(8, 8), torch.randn(8, 4), torch.eye(8)
    optimizer = torch.optim.Adam(loss.parameters(), 0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss(scores, embeddings, targets)[0].backward()
        optimizer.step()
    torch.testing.assert_close(loss.distance().detach(), initial, atol=0.01, rtol=0)


def test_a_fixed_distance_is_not_learned() -> None:
    torch.manual_seed(0)
    loss = make("fixed", start="flat", pull=5.0)
    before = loss.distance().clone()
    embeddings = torch.randn(16, 4, requires_grad=True)
    optimizer = torch.optim.AdamW([embeddings, *loss.parameters()], 0.1, weight_decay=0.1)
    total, cross_entropy, metric = loss(torch.randn(16, 8), embeddings, torch.eye(8)[torch.arange(16) % 8])
    torch.testing.assert_close(total, cross_entropy + 0.5 * metric)
    total.backward()
    optimizer.step()
    assert torch.equal(loss.distance(), before)
    assert before[0, 1] != before[0, 2], "a fixed distance is that of valence and arousal, regardless of `start`"


def test_the_distance_is_part_of_the_state() -> None:
    loss = make("learnable", start="flat")
    torch.manual_seed(0)
    torch.nn.init.normal_(loss.distance.raw)
    other = make("learnable", start="flat")
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.distance(), loss.distance())
    assert all(make(metric).distance is None for metric in ("none", "triplet", "polarity"))


class Unconstrained(EmotionDistance):
    """The learnable distance without its constraint."""

    def _bounded(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_without_the_constraint_a_margin_learned_on_fixed_embeddings_collapses() -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(24, 8), torch.arange(24) % 8
    free, ours = Unconstrained(EMOTIONS, 0.4), EmotionDistance(EMOTIONS, 0.4)
    for distance in (free, ours):
        optimizer = torch.optim.Adam(distance.parameters(), 0.05)
        for _ in range(200):
            optimizer.zero_grad()
            triplet_loss(embeddings, labels, 0.4 * distance()).backward()
            optimizer.step()
    assert free()[OFF_DIAGONAL].mean() < 0.2
    assert ours()[OFF_DIAGONAL].mean().item() == pytest.approx(1, abs=1e-3)


def test_without_the_constraint_a_margin_learned_with_a_network_collapses() -> None:
    """With the complete loss, an unconstrained margin collapses, and the emotions are not separated."""

    def train(distance: EmotionDistance) -> tuple[float, float]:
        """The mean of d off the diagonal, and the proportion of new triplets that satisfy a margin of 0.4."""
        torch.manual_seed(0)
        centres = torch.randn(8, 10)
        loss = make("learnable", weight=1.0, pull=0.0)
        loss.distance = distance
        network = torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
        classifier = torch.nn.Linear(16, 8)
        parts = [network, classifier, loss]
        optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], 0.02)
        labels = torch.arange(32) % 8
        for _ in range(400):
            optimizer.zero_grad()
            embeddings = network(centres[labels] + 1.5 * torch.randn(32, 10))
            loss(classifier(embeddings), embeddings, torch.eye(8)[labels])[0].backward()
            optimizer.step()
        with torch.no_grad():
            distances = embedding_distances(network(centres[labels] + 1.5 * torch.randn(32, 10)))
        same = labels[:, None] == labels
        triplets = (same ^ torch.eye(32, dtype=torch.bool))[:, :, None] & ~same[:, None, :]
        satisfied = (distances[:, None, :] - distances[:, :, None] >= 0.4)[triplets].float().mean().item()
        return distance()[OFF_DIAGONAL].mean().item(), satisfied

    free, ours = Unconstrained(EMOTIONS, 0.4), EmotionDistance(EMOTIONS, 0.4)
    (free_mean, free_satisfied), (mean, satisfied) = train(free), train(ours)
    assert free_mean < 0.1
    assert mean == pytest.approx(1, abs=1e-3)
    assert satisfied > free_satisfied + 0.2


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("metric", MEMBERS)
def test_minimising_the_metric_clusters_emotions(metric: str, miner: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(32) % 8
    embeddings = torch.nn.Parameter(torch.randn(32, 8))
    loss, reference = make(metric, miner=miner), make(metric)
    before = metric_of(reference, embeddings, labels).item()
    optimizer = torch.optim.Adam([embeddings], 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        metric_of(loss, embeddings, labels).backward()
        optimizer.step()
    assert metric_of(reference, embeddings, labels) < 0.1 * before


def test_without_a_metric_the_loss_is_cross_entropy() -> None:
    scores, targets = torch.randn(4, 8), torch.eye(8)[:4]
    total, cross_entropy, metric = make("none")(scores, torch.randn(4, 3), targets)
    assert total == cross_entropy
    assert metric == 0
    torch.testing.assert_close(cross_entropy, torch.nn.functional.cross_entropy(scores, torch.arange(4)))


def test_the_total_is_the_weighted_sum() -> None:
    torch.manual_seed(0)
    loss = make("learnable", weight=0.3, pull=0.7)
    torch.nn.init.normal_(loss.distance.raw)
    total, cross_entropy, metric = loss(torch.randn(16, 8), torch.randn(16, 4), torch.eye(8)[torch.arange(16) % 8])
    torch.testing.assert_close(total, cross_entropy + 0.3 * metric + 0.7 * loss.distance.pull())
    assert metric > 0
    assert loss.distance.pull() > 0


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("metric", MEMBERS)
@pytest.mark.parametrize("labels", [[0, 1, 2], [3, 3, 3, 3], [4, 4], [4, 5], [6]], ids=str)
def test_batches_without_triplets_have_zero_loss_and_gradient(metric: str, miner: str, labels: list[int]) -> None:
    embeddings = torch.randn(len(labels), 4, requires_grad=True)
    loss = metric_of(make(metric, miner=miner), embeddings, torch.tensor(labels))
    loss.backward()
    assert loss == 0
    assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("metric", MEMBERS)
@pytest.mark.parametrize("clips", [16, 64])
def test_equal_embeddings_have_finite_gradients(metric: str, miner: str, clips: int) -> None:
    for embeddings in (torch.ones(clips, 4), torch.zeros(clips, 4), torch.randn(4).expand(clips, 4).clone()):
        embeddings.requires_grad_()
        loss = make(metric, miner=miner)
        metric_of(loss, embeddings, torch.arange(clips) % 8).backward()
        assert torch.isfinite(embeddings.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in loss.parameters() if p.requires_grad)


@pytest.mark.parametrize("metric", MEMBERS)
def test_half_precision_is_computed_in_float32(metric: str) -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(32, 64).bfloat16(), torch.arange(32) % 8
    loss = make(metric)
    total, cross_entropy, value = loss(torch.randn(32, 8).bfloat16(), embeddings, torch.eye(8)[labels])
    assert {total.dtype, cross_entropy.dtype, value.dtype} == {torch.float32}
    assert value == metric_of(loss, embeddings.float(), labels)


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("metric", MEMBERS)
def test_gradients_are_reproducible_bit_for_bit(metric: str, miner: str) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        start, labels = torch.randn(64, 512), torch.arange(64) % 8
        runs = []
        for _ in range(3):
            embeddings, loss = start.clone().requires_grad_(), make(metric, miner=miner)
            metric_of(loss, embeddings, labels).backward()
            runs.append([embeddings.grad, *(p.grad for p in loss.parameters() if p.requires_grad)])
        assert all(torch.equal(one, other) for run in runs[1:] for one, other in zip(runs[0], run, strict=True))
    finally:
        torch.use_deterministic_algorithms(before)
