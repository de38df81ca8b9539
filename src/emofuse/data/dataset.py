"""The features of a fold's clips as batches: faces mapped from their shards, and segments of spectrograms.

Both may be resident on a GPU.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from emofuse import paths
from emofuse.data.spectrograms import Sound, Spectrograms
from emofuse.datasets.shards import FOLDERS
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv
from emofuse.utils.prefetch import prefetched

if TYPE_CHECKING:
    import pandas as pd

    from emofuse.config import Run, Spectrogram
    from emofuse.paths import RunKey

# All training actors of a fold. These are the parts "train" and "val" with every copy of their recordings, of which "train"
# lacks those that "val" has; so they do not depend on which actors "val" has.
ALL_TRAINING = "training"
PREFETCHED = 2  # batches read ahead of the one in use
RESIDENT = 0.5  # share of a GPU's free memory that features may occupy


class Faces:
    """The faces of some clips, memory-mapped: uint8 (N, T, S, S, 3) each."""

    def __init__(self, clips: Sequence[np.ndarray]) -> None:
        self._clips = clips
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
        """Copy all clips, in the stored type, to the memory of a device, from which `batch` then takes them."""
        first = torch.from_numpy(np.array(self._clips[0]))
        resident = torch.empty((len(self._clips), *first.shape), dtype=first.dtype, device=device)
        for number, clip in enumerate(self._clips):
            resident[number] = torch.from_numpy(np.array(clip))
        self._resident = resident

    def batch(self, indices: Sequence[int] | np.ndarray, shifts: np.ndarray | None = None) -> torch.Tensor:
        """The clips at `indices`, stacked, in the stored type; `shifts` are those of the sound."""
        if self._resident is not None:
            return self._resident[torch.as_tensor(indices, device=self._resident.device)]
        return torch.from_numpy(np.stack([self._clips[i] for i in indices]))


Features = Faces | Spectrograms


def read_features(folder: Path, clips: pd.DataFrame, modality: str, spectrogram: Spectrogram) -> Features:
    """The features of some clips in one modality.

    `clips` are rows of clips.csv, `folder` is data/<corpus>. Raises `UserError` for a missing shard.
    """
    stage = FOLDERS[modality]
    shards = {}
    for shard in sorted(clips["shard"].unique()):
        path = folder / "features" / stage / f"shard-{shard}.npy"
        try:
            shards[shard] = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            raise UserError(f"{path} is missing: run emofuse {stage} {folder.name} {shard}") from None
    places = [(shards[shard], int(row)) for shard, row in zip(clips["shard"], clips[f"{stage}_row"], strict=True)]
    if modality == "video":
        return Faces([array[row] for array, row in places])
    sizes = zip(clips["audio_rows"].astype(int), clips["audio_span"].astype(float), strict=True)
    sounds = [Sound(array[row : row + rows], span) for (array, row), (rows, span) in zip(places, sizes, strict=True)]
    return Spectrograms(sounds, spectrogram)


@dataclass(frozen=True)
class Batch:
    """Some clips of a part: their features as stored, by modality, and their labels (B,)."""

    stored: dict[str, torch.Tensor]
    labels: torch.Tensor

    def inputs(self) -> dict[str, torch.Tensor]:
        """The network's inputs, without augmentation."""
        return {name: to_input(batch, name) for name, batch in self.stored.items()}


@dataclass(frozen=True)
class Part:
    """The clips of one part of a fold: their rows of clips.csv, features by modality, and labels (clips,)."""

    clips: pd.DataFrame
    features: dict[str, Features]
    labels: np.ndarray

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of the network's input for one clip, by modality."""
        return {name: input_shape(features.shape, name) for name, features in self.features.items()}

    def batches(
        self, batches: Iterable[np.ndarray], device: torch.device, shifts: np.ndarray | None = None
    ) -> Iterator[Batch]:
        """The batches of the clips at the given indices, on the device, prefetched by a thread.

        `shifts` (clips,) are the shifts of each clip's sound in columns of its spectrogram.
        """

        def read(indices: np.ndarray) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
            shift = None if shifts is None else shifts[indices]
            stored = {name: features.batch(indices, shift) for name, features in self.features.items()}
            pinned = device.type == "cuda"  # so that the copy to the GPU overlaps with the network's computation
            return indices, {n: x.pin_memory() if pinned and not x.is_cuda else x for n, x in stored.items()}

        for indices, stored in prefetched(read, batches, threads=1, results=PREFETCHED):
            moved = {name: batch.to(device, non_blocking=True) for name, batch in stored.items()}
            yield Batch(moved, torch.from_numpy(self.labels[indices]).to(device))


def read_parts(
    root: Path,
    key: RunKey,
    parts: Sequence[str],
    run: Run,
    emotions: Sequence[str],
    actors: Container[str] | None = None,
) -> list[Part]:
    """The clips of some parts ("train", "val", "test" or ALL_TRAINING) of a fold, in the order of clips.csv.

    `actors` restricts them to some actors, named as in clips.csv. Raises `UserError` for missing files and for an empty
    part.
    """
    data, found = root / "data" / key.corpus, []
    for rows in part_clips(root, key, parts):
        if actors is not None:
            rows = rows[[actor in actors for actor in rows["actor"]]]
        labels = np.array([emotions.index(emotion) for emotion in rows["emotion"]])
        features: dict[str, Features] = {
            modality: read_features(data, rows, modality, run.spectrogram) for modality in run.network.modalities
        }
        found.append(Part(rows, features, labels))
    return found


def part_clips(root: Path, key: RunKey, parts: Sequence[str]) -> list[pd.DataFrame]:
    """The rows of clips.csv of some parts of a fold, in its order. Raises as `read_parts` does."""
    clips_file, folds_file = (root / file for file in paths.splits(key.corpus, key.protocol))
    stage = f"emofuse splits {key.corpus} {key.protocol}"
    clips, folds = read_csv(clips_file, stage=stage), read_csv(folds_file, stage=stage)
    folds = folds[folds["fold"] == str(key.fold)]
    found = []
    for part in parts:
        if part == ALL_TRAINING:
            tested = clips["clip"].isin(folds["clip"][folds["part"] == "test"])
            chosen = (clips["usable"] == "true") & ~clips["group"].isin(clips["group"][tested])
        else:
            chosen = clips["clip"].isin(folds["clip"][folds["part"] == part])
        if not chosen.any():
            raise UserError(f"{folds_file}: fold {key.fold} has no {part} clips; run {stage} again")
        found.append(clips[chosen])
    return found


def make_resident(parts: Iterable[Part], device: torch.device) -> None:
    """Move the features of some parts to a GPU, once for all epochs, if they fit beside the network."""
    if device.type != "cuda":
        return
    features = [features for part in parts for features in part.features.values()]
    free, _ = torch.cuda.mem_get_info(device)
    if sum(each.nbytes for each in features) <= RESIDENT * free:
        for each in features:
            each.move(device)


def input_shape(stored: tuple[int, ...], modality: str) -> tuple[int, ...]:
    """The shape of the network's input for one clip, given the shape of its stored features."""
    return tuple(stored[axis] for axis in (0, 4, 1, 2, 3)) if modality == "video" else stored


def to_input(stored: torch.Tensor, modality: str) -> torch.Tensor:
    """The network's input for a stored batch.

    Video: uint8 (B, N, T, S, S, 3) → float32 (B, N, 3, T, S, S) in [0, 1]. Audio: float16 → float32.
    """
    return stored.permute(0, 1, 5, 2, 3, 4).float() / 255 if modality == "video" else stored.float()
