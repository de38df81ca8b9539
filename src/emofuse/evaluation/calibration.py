"""Whether a network is as often right as it is sure, and the temperature that makes it so.

By Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

LIMIT = 20.0  # temperatures are held to [1 / LIMIT, LIMIT]
BINS = 15  # as Guo et al. have them
FLOOR = 5e-7  # what a probability may have been that 6 decimals show as 0


def temperature(scores_CE: torch.Tensor, labels_C: NDArray[np.int64]) -> float:
    """The T at which softmax(scores / T) has the least mean negative log likelihood.

    `scores_CE` (clips, emotions) are what a softmax makes probabilities of, `labels_C` (clips,) the places of the true
    emotions. In 1 / T the mean is convex, and its derivative is that of E_p[score] less the true emotion's score: the
    zero of that is found by bisection. Where it has none within the limits, as of clips that are all told right or are
    told worse than by chance, T is the limit.
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
    for _ in range(60):  # to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


def tempered(probabilities_CE: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities (clips, emotions) as they are at another temperature: p^(1/T), normalised.

    They are taken to have been rounded to 6 decimals: none is less than half of the last.
    """
    scores_CE = np.log(np.maximum(probabilities_CE, FLOOR)) / temperature
    powers_CE = np.exp(scores_CE - scores_CE.max(1, keepdims=True))
    return np.asarray(powers_CE / powers_CE.sum(1, keepdims=True))


@dataclass(frozen=True)
class Reliability:
    """Clips by confidence, in bins of equal width from 0 to 1, each with its upper edge: all fields are (bins,)."""

    clips: NDArray[np.int64]
    confidence: NDArray[np.float64]  # mean; NaN in a bin with no clip
    accuracy: NDArray[np.float64]  # NaN in a bin with no clip


def reliability(confidence_C: NDArray[np.float64], right_C: NDArray[np.bool_], bins: int = BINS) -> Reliability:
    """How often clips are told right by how sure the network is; `confidence_C` (clips,) is in [0, 1]."""
    places = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence_C)
    clips = np.bincount(places, minlength=bins)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.bincount(places, values, minlength=bins)
        return np.divide(sums, clips, out=np.full(bins, np.nan), where=clips > 0)

    return Reliability(clips, mean(confidence_C), mean(right_C.astype(np.float64)))


def expected_calibration_error(
    confidence_C: NDArray[np.float64], right_C: NDArray[np.bool_], bins: int = BINS
) -> float:
    """ECE, in [0, 1]: how far accuracy is from mean confidence in each bin of `reliability`, mean over clips."""
    found = reliability(confidence_C, right_C, bins)
    return float(np.nansum(found.clips * np.abs(found.accuracy - found.confidence)) / found.clips.sum())


def negative_log_likelihood(probabilities_CE: NDArray[np.float64], labels_C: NDArray[np.int64]) -> float:
    """NLL in nats, mean over clips, of the true emotions, whose places `labels_C` (clips,) are."""
    return float(-np.log(probabilities_CE[np.arange(len(labels_C)), labels_C]).mean())
