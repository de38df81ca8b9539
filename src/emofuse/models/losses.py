"""Cross entropy and the family of metric losses.

The paper's abstract names "an emotional metric constraint"; its formula is not public. The members here are readings of
it, each a variant: they differ in what a triplet of clips must satisfy. D is the Euclidean
distance between L2-normalised embeddings, so it lies between 0 and 2, computed in float32 at least.
"""

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
# The sign of the valence. Positive: calm, happy and surprised (surprise as in VAANet's groups); negative: sad, angry,
# fearful and disgust. Neutral is of neither polarity: to call it either would tie it to emotions that it is no nearer to.
POLARITY = {emotion: (valence > 0) - (valence < 0) for emotion, (valence, _) in VALENCE_AROUSAL.items()}
CAP = 1.9  # embeddings are of length 1, so two are never more than 2 apart


class EmotionDistance(nn.Module):
    """d, the distance between emotions: (C, C), symmetric, not negative, zero on the diagonal.

    The mean off the diagonal is held at 1: a learned margin that could shrink as a whole would, to zero,
    since that is the cheapest way to satisfy every triplet. Where margin × max d would pass `CAP`, d is drawn
    towards 1 until it does not, which keeps the mean. It starts from the distances of `VALENCE_AROUSAL`, or
    flat, all ones, and stays there unless it is `learned`.
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
            begin = torch.ones(pairs.shape[1])
        else:
            places = torch.tensor([VALENCE_AROUSAL[emotion] for emotion in emotions])
            begin = torch.cdist(places, places)[pairs[0], pairs[1]]
            begin = begin / begin.mean()
        self.register_buffer("pairs", pairs, persistent=False)
        self.register_buffer("start", self._bounded(begin), persistent=False)
        self.raw = nn.Parameter(torch.log(torch.expm1(begin)), requires_grad=learned)  # softplus⁻¹

    def _bounded(self, values: torch.Tensor) -> torch.Tensor:
        values = values / values.mean()
        excess = values.max() - 1
        return 1 + (values - 1) * torch.clamp((self.cap - 1) / excess.clamp_min(1e-12), max=1)

    def values(self) -> torch.Tensor:
        """The C (C − 1) / 2 distances of the pairs above the diagonal, row by row."""
        return self._bounded(F.softplus(self.raw))

    def forward(self) -> torch.Tensor:
        """The matrix d."""
        above = self.raw.new_zeros(self.emotions, self.emotions)
        above = above.index_put(tuple(self.pairs), self.values())
        return above + above.T

    def pull(self) -> torch.Tensor:
        """Mean squared distance of d from where it started."""
        return ((self.values() - self.start) ** 2).mean()


def embedding_distances(embeddings_BE: torch.Tensor) -> torch.Tensor:
    """D, (B, B): the Euclidean distances between the L2-normalised embeddings."""
    unit_BE = F.normalize(_precise(embeddings_BE), dim=1)
    return torch.cdist(unit_BE, unit_BE)


def hinge(
    distances_BB: torch.Tensor,
    nearer_BB: torch.Tensor,
    farther_BB: torch.Tensor,
    margins_BB: torch.Tensor | float,
    miner: str,
) -> torch.Tensor:
    """[D(a, x) − D(a, y) + M(a, y)]₊, the mean over the mined triplets that violate it; 0 where none does.

    x is one of the clips that are to be `nearer` to the anchor a than y, one of the `farther` ones. The miner takes
    `all` triplets, the `semihard` ones, D(a, x) ≤ D(a, y), or the `hardest` of each anchor. Margins that depend on the
    emotions count in both: a triplet is semi-hard within its own margin, and the hardest y is the one that lacks most
    of its own margin; where all margins are equal that is the nearest.
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
    """The triplet loss with a margin for every two emotions: [D(a, p) − D(a, n) + M(y_a, y_n)]₊.

    With one margin it is the plain one (Schroff, Kalenichenko, Philbin, CVPR 2015, there on squared distances); with
    M = m d, d the distance between two emotions, it is our reading of the paper's emotional metric.
    """
    same_BB, positive_BB = _same(labels_B)
    margins_BB = margins_CC[labels_B[:, None], labels_B]
    return hinge(embedding_distances(embeddings_BE), positive_BB, ~same_BB, margins_BB, miner)


def polarity_loss(
    embeddings_BE: torch.Tensor, labels_B: torch.Tensor, polarity_C: torch.Tensor, margin: float, miner: str = "all"
) -> torch.Tensor:
    """The sentiment constraint: [D(a, p) − D(a, r) + α]₊ + [D(a, r) − D(a, n) + β]₊, each a mean over its triplets.

    p has the anchor's emotion, r is related (another emotion of its polarity), n of the opposite polarity; after
    Yang, She, Lai, Yang, AAAI 2018. α = β = margin / 2 (ours): so n is to be the whole margin farther than p, as in the
    plain triplet loss, and r halfway. Where there is no halfway, the plain [D(a, p) − D(a, n) + margin]₊ joins the first
    term: between neutral, which is of neither polarity (0 in `polarity_C`, beside 1 and −1), and every other emotion, and
    from an anchor without a related clip in the batch (in CREMA-D every happy one) to every other emotion.
    """
    same_BB, positive_BB = _same(labels_B)
    polarity_B = polarity_C[labels_B]
    agreement_BB = polarity_B[:, None] * polarity_B
    related_BB = ~same_BB & (agreement_BB > 0)
    opposite_BB = (agreement_BB < 0) & related_BB.any(1, keepdim=True)
    distances_BB = embedding_distances(embeddings_BE)
    margins_BB = torch.where(related_BB, margin / 2, margin)
    own = hinge(distances_BB, positive_BB, ~same_BB & ~opposite_BB, margins_BB, miner)
    return own + hinge(distances_BB, related_BB, opposite_BB, margin / 2, miner)


def _same(labels_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether two clips have one emotion, and whether they are two different clips of one emotion."""
    same_BB = labels_B[:, None] == labels_B
    return same_BB, same_BB ^ torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)


def _precise(values: torch.Tensor) -> torch.Tensor:
    """Half precision as float32; float64 stays what it is."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class EmotionLoss(nn.Module):
    """Cross entropy + weight × metric loss + pull × distance of the learnable d from its start.

    `distance` gives d where the metric has one, `fixed` or `learnable`; else it is None.
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
        self.register_buffer("polarity", torch.tensor([POLARITY[emotion] for emotion in emotions]), persistent=False)

    def forward(
        self, scores_BC: torch.Tensor, embeddings_BE: torch.Tensor, targets_BC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Total, cross entropy and metric loss of a batch.

        `targets_BC` are probabilities: one-hot, or mixed by mixup; the metric takes the likeliest.
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
