"""Unusual levels of sound: values on another scale, very quiet sound, and offsets. Usual sound is not changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from emofuse.features.broken import BrokenClip

SILENCE = 1e-4  # peak of −80 dBFS; the quietest recording of RAVDESS peaks 33 dB above it
QUIET = 0.004  # peak from which on sound is usual; quieter sound would be buried in the floor of the spectrogram …
LIFTED = 0.1  # … and is raised to this peak
OFFSET = 0.005  # largest usual offset, relative to the peak; that of clips in RAVDESS and Java-SED is at most 0.0034
OVER = 2.0  # peak up to which decoders of compressed sound exceed full scale, which is clipped
# Full scales of 16, 24 and 32 bits: floating-point files sometimes contain whole numbers in these ranges.
SCALES = (2.0**15, 2.0**23, 2.0**31)
EXCEEDED = 16.0  # the largest peak of sound that is merely too loud
FLOOR = 1e-6  # of a spectrogram: added to the mel power before the logarithm
LONE = 1e-3  # mean level, relative to the peak, below which values beyond full scale are a defect and not sound


@dataclass(frozen=True)
class Level:
    """The level of a clip's sound: its mean, its mean absolute value, and its peak around the mean."""

    samples: int
    mean: float
    average: float
    lowest: float
    highest: float

    @property
    def peak(self) -> float:
        return max(self.highest - self.mean, self.mean - self.lowest)


def measure(samples: np.ndarray) -> Level:
    """The level of samples, float32 (samples,); that of no samples if some are not finite."""
    lowest, highest = (float(samples.min()), float(samples.max())) if len(samples) else (0.0, 0.0)
    if not len(samples) or not np.isfinite(highest - lowest):
        return Level(0, 0.0, 0.0, 0.0, 0.0)
    mean = float(samples.mean(dtype=np.float64))
    return Level(len(samples), mean, float(np.abs(samples).mean()), lowest, highest)


def whole(parts: Iterable[Level]) -> Level:
    """The level of sound from the levels of its parts."""
    measured = [part for part in parts if part.samples]
    if not measured:
        return Level(0, 0.0, 0.0, 0.0, 0.0)
    counts = [part.samples for part in measured]
    return Level(
        sum(counts),
        float(np.average([part.mean for part in measured], weights=counts)),
        float(np.average([part.average for part in measured], weights=counts)),
        min(part.lowest for part in measured),
        max(part.highest for part in measured),
    )


def usual(samples: np.ndarray, level: Level) -> np.ndarray:
    """Samples of a clip with that level, float32 (samples,): unchanged or, if its level is unusual, corrected.

    Returns values in [-1, 1]. Raises `BrokenClip` for values that are not finite, or whose scale is unknown.
    """
    if not np.isfinite(samples.sum()) and not np.isfinite(samples).all():  # the sum is faster
        raise BrokenClip("the sound has samples that are not finite")
    peak, scale = level.peak, 1.0
    if peak > 1 and max(level.highest, -level.lowest) > 1:
        largest = max(level.highest, -level.lowest)
        if level.average < LONE * largest or largest > SCALES[-1] * 1.5:
            raise BrokenClip(f"the sound has values far outside its scale: up to {largest:.3g}")
        # Resampling may exceed the full scale slightly.
        scale = largest if largest <= EXCEEDED else next(full for full in SCALES if largest <= full * 1.5)
    shift = level.mean if abs(level.mean) > OFFSET * peak else 0.0
    if shift:
        samples = samples - np.float32(shift)
    peak = (peak if shift else max(level.highest, -level.lowest)) / scale
    if SILENCE <= peak < QUIET:
        scale *= peak / LIFTED
    return np.clip(samples / np.float32(scale) if scale != 1 else samples, -1, 1)
