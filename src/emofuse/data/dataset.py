"""Features of a fold's clips, mapped from their shards or resident on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from emofuse.datasets.shards import FOLDERS
from emofuse.utils.errors import UserError


class Features:
    """The features of some clips in one modality: a sequence of mapped arrays, one a clip.

    `rows` are rows of clips.csv, `folder` is data/<corpus>. "video" gives uint8 (N, T, S, S, 3), "audio"
    float16 (N, bands, frames). Raises `UserError` for a missing shard.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, str]], modality: str) -> None:
        stage = FOLDERS[modality]
        shards = {}
        for shard in sorted({row["shard"] for row in rows}):
            path = folder / "features" / stage / f"shard-{shard}.npy"
            try:
                shards[shard] = np.load(path, mmap_mode="r")
            except FileNotFoundError:
                raise UserError(f"{path} is missing: run emofuse {stage} {folder.name} {shard}") from None
        self._clips = [shards[row["shard"]][int(row[f"{stage}_row"])] for row in rows]
        self._resident: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one clip's features."""
        return self._clips[0].shape

    @property
    def nbytes(self) -> int:
        """The size of all clips, in bytes."""
        return len(self._clips) * self._clips[0].nbytes

    def move(self, device: torch.device) -> None:
        """Keep all clips in the memory of a device from now on, of the stored type."""
        first = torch.from_numpy(np.array(self._clips[0]))
        resident = torch.empty((len(self._clips), *first.shape), dtype=first.dtype, device=device)
        for number, clip in enumerate(self._clips):
            resident[number] = torch.from_numpy(np.array(clip))
        self._resident = resident

    def batch(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        """The clips at `indices`, stacked, of the stored type; on the device that they were moved to."""
        if self._resident is not None:
            return self._resident[torch.as_tensor(indices, device=self._resident.device)]
        return torch.from_numpy(np.stack([self._clips[i] for i in indices]))


def to_input(batch: torch.Tensor, modality: str) -> torch.Tensor:
    """What the network eats of a stored batch.

    Video: uint8 (B, N, T, S, S, 3) → float32 (B, N, 3, T, S, S) in [0, 1]. Audio: float16 → float32.
    """
    return batch.permute(0, 1, 5, 2, 3, 4).float() / 255 if modality == "video" else batch.float()
