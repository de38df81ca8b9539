"""Calibration: temperature scaling, reliability diagrams and calibration errors.

After Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

LIMIT = 20.0  # temperatures are limited to [1 / LIMIT, LIMIT]
BINS = 15  # as in Guo et al.
FLOOR = 5e-7  # the largest probability that is 0 when rounded to 6 decimals
SMALLEST = np.finfo(np.float64).tiny  # in place of probabilities that are too small for a float


def temperature(scores_CE: torch.Tensor, labels_C: NDArray[np.int64]) -> float:
    """The temperature T that minimises the mean negative log-likelihood of softmax(scores / T).

    `scores_CE` (clips, emotions) are logits, `labels_C` (clips,) the indices of the true emotions. The mean is convex in
    1 / T, and its derivative is the mean of E_p[score] minus the true emotion's score, whose root is found by bisection.
    If there is no root within the limits, for instance because all clips are correctly classified, or because accuracy
    is below chance, T is the limit.
    """
    centred_CE = scores_CE.double().numpy()
    centred_CE = centred_CE - centred_CE.max(1, keepdims=True)
    true_C = centred_CE[np.arange(len(labels_C)), labels_C]

    def slope(inverse: float) -> float:
        powers_CE = np.exp(inverse * centred_CE)
        return float(((powers_CE * centred_CE).sum(1) / powers_CE.sum(1) - true_C).mean())

    low, high = 1 / LIMIT, LIMIT
    if slope(high) <= 0:
        return 1 / high
    if slope(low) >= 0:
        return 1 / low
    for _ in range(60):  # to machine precision
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def tempered(probabilities_CE: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities (clips, emotions) at another temperature: p^(1/T), normalised.

    They are assumed to be rounded to 6 decimals, so that zeros are replaced by `FLOOR`.
    """
    scores_CE = np.log(np.maximum(probabilities_CE, FLOOR)) / temperature
    powers_CE = np.exp(scores_CE - scores_CE.max(1, keepdims=True))
    return np.asarray(powers_CE / powers_CE.sum(1, keepdims=True))


def restricted(
    probabilities_CE: NDArray[np.float64], emotions: Sequence[str], shared: Sequence[str]
) -> NDArray[np.float64]:
    """The probabilities (clips, shared) of some of the emotions, given that it is one of these.

    `probabilities_CE` (clips, emotions) are those of all `emotions`.
    """
    chosen_CS = np.maximum(probabilities_CE[:, [emotions.index(emotion) for emotion in shared]], SMALLEST)
    return np.asarray(chosen_CS / chosen_CS.sum(1, keepdims=True))


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: clips in equally wide bins of confidence, which include their upper edges. Fields are (bins,)."""

    clips: NDArray[np.int64]
    confidence: NDArray[np.float64]  # mean; NaN in empty bins
    accuracy: NDArray[np.float64]  # NaN in empty bins


def reliability(confidence_C: NDArray[np.float64], correct_C: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """Accuracy by confidence; `confidence_C` (clips,) in [0, 1], `correct_C` (clips,)."""
    indices = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence_C)
    clips = np.bincount(indices, minlength=bins)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(indices, values, minlength=bins)
        return np.divide(sums, clips, out=np.full(bins, np.nan), where=clips > 0)

    return Reliability(clips, mean(confidence_C), mean(correct_C.astype(np.float64)))


def expected_calibration_error(
    confidence_C: NDArray[np.float64], correct_C: NDArray[np.bool_], bins: int = BINS
) -> float:
    """ECE in [0, 1]: the difference between accuracy and mean confidence in each bin, averaged over clips."""
    diagram = reliability(confidence_C, correct_C, bins)
    return float(np.nansum(diagram.clips * np.abs(diagram.accuracy - diagram.confidence)) / diagram.clips.sum())


def negative_log_likelihood(probabilities_CE: NDArray[np.float64], labels_C: NDArray[np.int64]) -> float:
    """NLL in nats, mean over clips; `labels_C` (clips,) are the indices of the true emotions."""
    return float(-np.log(probabilities_CE[np.arange(len(labels_C)), labels_C]).mean())
