"""How a network reads sound: spectrograms, trimmed, normalised, and cut into segments.

The audio stage stores the complete log-mel spectrogram of each clip, so that variants with different views of the sound
share features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from emofuse.features.levels import FLOOR

if TYPE_CHECKING:
    from emofuse.config import Spectrogram

SILENCE = np.float32(np.log(FLOOR))
# Of speech recorded at usual levels, in round numbers: the same for all clips, so that no corpus has to be measured.
FIXED_MEAN, FIXED_SCALE = np.float32(-6.0), np.float32(5.0)


@dataclass(frozen=True)
class Sound:
    """The spectrogram of a clip as it is stored, float16 (columns, bands), and the clip's duration in columns."""

    columns_TF: np.ndarray
    span: float


class Spectrograms:
    """The segments of some clips, at least one: float16 (N, bands, frames) each.

    The clips are held in memory, trimmed and normalised. Outside the clip, segments have silence or, with bands
    normalised, the mean of the band.
    """

    def __init__(self, sounds: Sequence[Sound], view: Spectrogram) -> None:
        most = sum(len(sound.columns_TF) + 1 for sound in sounds)
        columns_TF = np.empty((most, sounds[0].columns_TF.shape[1]), np.float16)
        counts, spans = [], []
        filled = 0
        for sound in sounds:
            prepared_TF, span, outside = _prepared(sound, view)
            count = len(prepared_TF)
            columns_TF[filled : filled + count] = prepared_TF
            columns_TF[filled + count] = outside  # what segments have in the place of columns outside the clip
            filled += count + 1
            counts.append(count)
            spans.append(span)
        centres_CN = (np.arange(view.segments) + 0.5) * np.array(spans)[:, None] / view.segments
        self.frames = view.frames
        self._columns = torch.from_numpy(columns_TF[:filled])
        self._counts = torch.tensor(counts)
        self._firsts = (self._counts + 1).cumsum(0) - self._counts - 1
        self._starts = torch.from_numpy(np.floor(centres_CN - view.frames / 2 + 0.5).astype(np.int64))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one clip's segments."""
        return self._starts.shape[1], self._columns.shape[1], self.frames

    @property
    def nbytes(self) -> int:
        """The size of all clips, in bytes."""
        return self._columns.nbytes

    def move(self, device: torch.device) -> None:
        """Copy all clips to the memory of a device, where `batch` then cuts them."""
        for name in ("_columns", "_counts", "_firsts", "_starts"):
            setattr(self, name, getattr(self, name).to(device))

    def batch(self, indices: Sequence[int] | np.ndarray, shifts: np.ndarray | None = None) -> torch.Tensor:
        """The segments of the clips at `indices`, float16 (B, N, bands, frames); those of each clip are cut `shifts` (B,)
        columns later.
        """
        device = self._columns.device
        chosen_B = torch.as_tensor(np.asarray(indices), device=device)
        starts_BN = self._starts[chosen_B]
        if shifts is not None:
            starts_BN = starts_BN + torch.as_tensor(shifts, device=device)[:, None]
        columns_BNT = starts_BN[:, :, None] + torch.arange(self.frames, device=device)
        counts_B11 = self._counts[chosen_B, None, None]
        inside_BNT = (columns_BNT >= 0) & (columns_BNT < counts_B11)
        places_BNT = self._firsts[chosen_B, None, None] + torch.where(inside_BNT, columns_BNT, counts_B11)
        # On a CPU, index_select is many times as fast as indexing.
        segments_BNTF = self._columns.index_select(0, places_BNT.flatten()).unflatten(0, places_BNT.shape)
        return segments_BNTF.transpose(2, 3).contiguous()


def read_segments(sound: Sound, view: Spectrogram) -> np.ndarray:
    """The segments of one clip, float16 (N, bands, frames)."""
    return Spectrograms([sound], view).batch([0])[0].numpy()


def _prepared(sound: Sound, view: Spectrogram) -> tuple[np.ndarray, float, float]:
    """The columns of a clip, trimmed and normalised, float32 (columns, bands), their span, and the value outside."""
    columns_TF, span = sound.columns_TF.astype(np.float32), sound.span
    if view.trim_db is not None:
        energy_T = np.exp(columns_TF).sum(1)
        loud = np.flatnonzero(energy_T >= energy_T.max() * 10 ** (-view.trim_db / 10))
        columns_TF = columns_TF[loud[0] : loud[-1] + 1]
        span = float(len(columns_TF))
    mean, scale = FIXED_MEAN, FIXED_SCALE
    if view.normalise != "fixed":
        axis = 0 if view.normalise == "band" else None
        mean = columns_TF.mean(axis)
        scale = np.maximum(columns_TF.std(axis), np.float32(1e-3))
    outside = 0.0 if view.normalise == "band" else float((SILENCE - mean) / scale)
    columns_TF -= mean
    columns_TF /= scale
    return columns_TF, span, outside
