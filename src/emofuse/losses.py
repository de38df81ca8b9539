"""Cross entropy and the emotional metric."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

# Valence and arousal of each emotion on Russell's circumplex, placed by hand: ours, not the paper's.
# Neutral is the origin; calm, which no wheel of the field has, is pleasant and at rest.
VALENCE_AROUSAL = {
    "neutral": (0.0, 0.0),
    "calm": (0.4, -0.6),
    "happy": (0.8, 0.5),
    "sad": (-0.7, -0.5),
    "angry": (-0.7, 0.7),
    "fearful": (-0.5, 0.8),
    "disgust": (-0.8, 0.2),
    "surprised": (0.3, 0.8),
}
CAP = 1.9  # embeddings are of length 1, so two are never more than 2 apart


class EmotionDistance(nn.Module):
    """d, the learnable distance between emotions: (C, C), symmetric, not negative, zero on the diagonal.

    The mean off the diagonal is held at 1: a margin that could shrink as a whole would, to zero, since
    that is the cheapest way to satisfy every triplet. Where margin × max d would pass `CAP`, d is drawn
    towards 1 until it does not, which keeps the mean. It starts from the valence-arousal distances.
    """

    pairs: torch.Tensor
    start: torch.Tensor

    def __init__(self, emotions: Sequence[str], margin: float) -> None:
        super().__init__()
        places = torch.tensor([VALENCE_AROUSAL[emotion] for emotion in emotions])
        start = torch.cdist(places, places)
        self.register_buffer("pairs", torch.triu_indices(len(emotions), len(emotions), 1), persistent=False)
        start = start[self.pairs[0], self.pairs[1]]
        start = start / start.mean()
        self.raw = nn.Parameter(torch.log(torch.expm1(start)))  # softplus⁻¹
        self.cap = CAP / margin
        self.emotions = len(emotions)
        self.register_buffer("start", self._bounded(start), persistent=False)

    def _bounded(self, values: torch.Tensor) -> torch.Tensor:
        values = values / values.mean()
        excess = values.max() - 1
        return 1 + (values - 1) * torch.clamp((self.cap - 1) / excess.clamp_min(1e-12), max=1)

    def values(self) -> torch.Tensor:
        """The C (C − 1) / 2 distances of the pairs above the diagonal, row by row."""
        return self._bounded(F.softplus(self.raw))

    def forward(self) -> torch.Tensor:
        """The matrix d."""
        above = torch.zeros(self.emotions, self.emotions, device=self.raw.device)
        above = above.index_put(tuple(self.pairs), self.values())
        return above + above.T

    def pull(self) -> torch.Tensor:
        """Mean squared distance of d from where it started."""
        return ((self.values() - self.start) ** 2).mean()


def emotional_metric(
    embeddings_BE: torch.Tensor, labels_B: torch.Tensor, distance_CC: torch.Tensor, margin: float
) -> torch.Tensor:
    """The triplet loss with an emotion-dependent margin: [D(a, p) − D(a, n) + m d(y_a, y_n)]₊.

    D is the Euclidean distance of L2-normalised embeddings; all triplets of the batch are formed and
    those that violate their margin averaged. The paper's abstract names "an emotional metric
    constraint"; its formula is not public, this reading is ours (DESIGN.md, section 5).
    """
    unit_BE = F.normalize(embeddings_BE.float(), dim=1)
    # The small term keeps the gradient finite where two embeddings are equal.
    distances_BB = (2 - 2 * unit_BE @ unit_BE.T).clamp_min(0).add(1e-8).sqrt()
    same = labels_B[:, None] == labels_B[None, :]
    positive = same & ~torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)
    margins_BB = margin * distance_CC[labels_B][:, labels_B]
    hinge_BPN = F.relu(distances_BB[:, :, None] - distances_BB[:, None, :] + margins_BB[:, None, :])
    valid = positive[:, :, None] & ~same[:, None, :]
    violated = (hinge_BPN > 0) & valid
    return (hinge_BPN * valid).sum() / violated.sum().clamp_min(1)


class EmotionLoss(nn.Module):
    """Cross entropy + weight × emotional metric + pull × distance of d from its start."""

    def __init__(
        self, emotions: Sequence[str], metric: str, weight: float, margin: float, pull: float, label_smoothing: float
    ) -> None:
        super().__init__()
        self.distance = EmotionDistance(emotions, margin) if metric == "learnable" else None
        self.weight, self.margin, self.pull, self.label_smoothing = weight, margin, pull, label_smoothing

    def forward(
        self, scores_BC: torch.Tensor, embeddings_BE: torch.Tensor, targets_BC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Total, cross entropy and metric loss of a batch.

        `targets_BC` are probabilities: one-hot, or mixed by mixup; the metric takes the likeliest.
        """
        cross_entropy = F.cross_entropy(scores_BC.float(), targets_BC, label_smoothing=self.label_smoothing)
        if self.distance is None:
            return cross_entropy, cross_entropy, torch.zeros_like(cross_entropy)
        metric = emotional_metric(embeddings_BE, targets_BC.argmax(1), self.distance(), self.margin)
        return cross_entropy + self.weight * metric + self.pull * self.distance.pull(), cross_entropy, metric
