"""Cross entropy and the family of metric losses.

The paper's abstract names "an emotional metric constraint", whose formula is not public. The losses here are possible
interpretations, each of them a variant. They differ in the constraint on a triplet of clips. D is the Euclidean distance
between L2-normalised embeddings, computed in at least float32; it lies between 0 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from emofuse.datasets.emotions import POLARITY, VALENCE_AROUSAL

CAP = 1.9  # upper limit of a margin: embeddings have length 1, so that their distance never exceeds 2


class EmotionDistance(nn.Module):
    """The distance d between emotions: (C, C), symmetric, non-negative, zero on the diagonal.

    The mean off the diagonal is fixed at 1. Without this constraint, a learned margin would shrink to zero, which
    satisfies all triplets. If margin × max d exceeds `CAP`, d is contracted towards 1 until it does not, which preserves
    the mean. d is initialised with the distances of `VALENCE_AROUSAL`, or with ones if `start` is "flat", and stays
    constant unless it is `learned`.
    """

    pairs: torch.Tensor
    start: torch.Tensor

    def __init__(
        self, emotions: Sequence[str], margin: float, start: str = "valence_arousal", learned: bool = True
    ) -> None:
        super().__init__()
        self.emotions, self.cap = len(emotions), CAP / margin
        pairs = torch.triu_indices(len(emotions), len(emotions), 1)
        if start == "flat":
            initial = torch.ones(pairs.shape[1])
        else:
            coordinates = torch.tensor([VALENCE_AROUSAL[emotion] for emotion in emotions])
            initial = torch.cdist(coordinates, coordinates)[pairs[0], pairs[1]]
            initial = initial / initial.mean()
        self.register_buffer("pairs", pairs, persistent=False)
        self.register_buffer("start", self._bounded(initial), persistent=False)
        self.raw = nn.Parameter(torch.log(torch.expm1(initial)), requires_grad=learned)  # inverse of softplus

    def _bounded(self, values: torch.Tensor) -> torch.Tensor:
        values = values / values.mean()
        excess = values.max() - 1
        return 1 + (values - 1) * torch.clamp((self.cap - 1) / excess.clamp_min(1e-12), max=1)

    def values(self) -> torch.Tensor:
        """The C (C − 1) / 2 distances above the diagonal, row by row."""
        return self._bounded(F.softplus(self.raw))

    def forward(self) -> torch.Tensor:
        """The matrix d (C, C)."""
        above = self.raw.new_zeros(self.emotions, self.emotions)
        above = above.index_put(tuple(self.pairs), self.values())
        return above + above.T

    def pull(self) -> torch.Tensor:
        """The mean squared difference between d and its initial value."""
        return ((self.values() - self.start) ** 2).mean()


def embedding_distances(embeddings_BE: torch.Tensor) -> torch.Tensor:
    """D (B, B): the Euclidean distances between the L2-normalised embeddings (B, E)."""
    unit_BE = F.normalize(_precise(embeddings_BE), dim=1)
    return torch.cdist(unit_BE, unit_BE)


def hinge(
    distances_BB: torch.Tensor,
    nearer_BB: torch.Tensor,
    farther_BB: torch.Tensor,
    margins_BB: torch.Tensor | float,
    miner: str,
) -> torch.Tensor:
    """The mean of [D(a, x) − D(a, y) + M(a, y)]₊ over the mined triplets for which it is positive; 0 if there are none.

    For each anchor a, the clips x of `nearer` should be closer than the clips y of `farther`, by the margin M; all are
    (B, B). The miner selects `all` triplets, the `semihard` ones (D(a, x) ≤ D(a, y)), or the `hardest` one per anchor: the
    farthest x, and the y that is furthest inside its own margin, which is the nearest y if all margins are equal.
    """
    near_BX = distances_BB.masked_fill(~nearer_BB, -torch.inf)
    far_BY = (margins_BB - distances_BB).masked_fill(~farther_BB, -torch.inf)
    if miner == "hardest":
        losses = F.relu(near_BX.amax(1) + far_BY.amax(1))
    else:
        losses = F.relu(near_BX[:, :, None] + far_BY[:, None, :])
        if miner == "semihard":
            losses = losses * (distances_BB[:, :, None] <= distances_BB[:, None, :])
    return losses.sum() / (losses > 0).sum().clamp_min(1)


def triplet_loss(
    embeddings_BE: torch.Tensor, labels_B: torch.Tensor, margins_CC: torch.Tensor, miner: str = "all"
) -> torch.Tensor:
    """The triplet loss with one margin per pair of emotions: [D(a, p) − D(a, n) + M(y_a, y_n)]₊.

    `labels_B` are indices of emotions, `margins_CC` is M. With equal margins, it is the standard triplet loss (Schroff,
    Kalenichenko and Philbin, CVPR 2015, who use squared distances). With M = m d, where d is the distance between two
    emotions, it is our interpretation of the paper's emotional metric.
    """
    same_BB, positive_BB = _same(labels_B)
    margins_BB = margins_CC[labels_B[:, None], labels_B]
    return hinge(embedding_distances(embeddings_BE), positive_BB, ~same_BB, margins_BB, miner)


def polarity_loss(
    embeddings_BE: torch.Tensor, labels_B: torch.Tensor, polarity_C: torch.Tensor, margin: float, miner: str = "all"
) -> torch.Tensor:
    """The sentiment constraint: [D(a, p) − D(a, r) + α]₊ + [D(a, r) − D(a, n) + β]₊, each a mean over its triplets.

    After Yang, She, Lai and Yang, AAAI 2018. p has the emotion of the anchor a, r is related (another emotion of the same
    polarity), and n has the opposite polarity. We set α = β = margin / 2, so that n should be a full margin farther than
    p, as in the standard triplet loss, and r halfway. The first term also contains the standard [D(a, p) − D(a, n) +
    margin]₊ for triplets without such an order: between neutral, which has no polarity (0 in `polarity_C`, instead of 1 or
    −1), and all other emotions, and for anchors without a related clip in the batch (all happy clips of CREMA-D).
    """
    same_BB, positive_BB = _same(labels_B)
    polarity_B = polarity_C[labels_B]
    agreement_BB = polarity_B[:, None] * polarity_B
    related_BB = ~same_BB & (agreement_BB > 0)
    opposite_BB = (agreement_BB < 0) & related_BB.any(1, keepdim=True)
    distances_BB = embedding_distances(embeddings_BE)
    margins_BB = torch.where(related_BB, margin / 2, margin)
    same_emotion = hinge(distances_BB, positive_BB, ~same_BB & ~opposite_BB, margins_BB, miner)
    return same_emotion + hinge(distances_BB, related_BB, opposite_BB, margin / 2, miner)


def _same(labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether two clips have the same emotion, and whether they are also different clips; both (B, B)."""
    same_BB = labels_B[:, None] == labels_B
    return same_BB, same_BB ^ torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)


def _precise(values: torch.Tensor) -> torch.Tensor:
    """Half precision converted to float32; float64 unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class EmotionLoss(nn.Module):
    """Cross entropy + weight × metric loss + pull × deviation of the learnable distance d from its initial value.

    `distance` is d for the metrics "fixed" and "learnable", and None for the others.
    """

    flat: torch.Tensor
    polarity: torch.Tensor

    def __init__(
        self,
        emotions: Sequence[str],
        metric: str,
        weight: float,
        margin: float,
        miner: str,
        start: str,
        pull: float,
        label_smoothing: float,
    ) -> None:
        super().__init__()
        self.metric, self.weight, self.margin, self.miner = metric, weight, margin, miner
        self.pull, self.label_smoothing = pull, label_smoothing
        self.distance: EmotionDistance | None = None
        if metric == "fixed":
            self.distance = EmotionDistance(emotions, margin, learned=False)
        elif metric == "learnable":
            self.distance = EmotionDistance(emotions, margin, start)
        self.register_buffer("flat", torch.ones(len(emotions), len(emotions)), persistent=False)
        self.register_buffer(
            "polarity", torch.tensor([POLARITY.get(emotion, 0) for emotion in emotions]), persistent=False
        )

    def forward(
        self, scores_BC: torch.Tensor, embeddings_BE: torch.Tensor, targets_BC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Total loss, cross entropy and metric loss of a batch, each a scalar.

        `targets_BC` are probabilities, one-hot or mixed by mixup. The metric loss uses the most probable emotion.
        """
        scores_BC = _precise(scores_BC)
        cross_entropy = F.cross_entropy(scores_BC, targets_BC.to(scores_BC.dtype), label_smoothing=self.label_smoothing)
        if self.metric == "none":
            return cross_entropy, cross_entropy, torch.zeros_like(cross_entropy)
        labels_B = targets_BC.argmax(1)
        if self.metric == "polarity":
            metric = polarity_loss(embeddings_BE, labels_B, self.polarity, self.margin, self.miner)
        else:
            d_CC = self.flat if self.distance is None else self.distance()
            metric = triplet_loss(embeddings_BE, labels_B, self.margin * d_CC, self.miner)
        total = cross_entropy + self.weight * metric
        if self.distance is not None:
            total = total + self.pull * self.distance.pull()
        return total, cross_entropy, metric
