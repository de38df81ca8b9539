"""Which clips make up each batch of an epoch, and how their sound is shifted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from emofuse.config import Training
    from emofuse.paths import RunKey


def epoch_batches(labels: np.ndarray, training: Training, key: RunKey, epoch: int) -> list[np.ndarray]:
    """The indices of the clips of each batch of an epoch; `labels` (clips,).

    Each epoch has its own random generator, so that a resumed training draws the same batches as an uninterrupted one.
    """
    rng = np.random.default_rng([key.seed, key.fold, epoch])
    if training.sampling == "shuffled":
        return list(shuffled_batches(len(labels), training.emotions_per_batch * training.clips_per_emotion, rng))
    return list(balanced_batches(labels, training.emotions_per_batch, training.clips_per_emotion, rng))


def epoch_shifts(clips: int, training: Training, key: RunKey, epoch: int) -> np.ndarray | None:
    """How far the sound of each clip is shifted in an epoch, in columns of its spectrogram: (clips,); None without shifts.

    A shifted clip is cut elsewhere, unlike one that is rolled: what enters is sound of the clip, or silence.
    """
    if not training.shift_time:
        return None
    rng = np.random.default_rng([key.seed, key.fold, epoch, 1])
    return rng.integers(-training.shift_time, training.shift_time + 1, clips)


def balanced_batches(
    labels: np.ndarray, emotions_per_batch: int, clips_per_emotion: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Batches of P emotions × K clips, as many as are needed to contain each clip once.

    The clips of each emotion are drawn without replacement and reshuffled when exhausted, so that a batch has K clips of
    each of its emotions, however rare.
    """
    present = np.unique(labels)
    per_batch = min(emotions_per_batch, len(present))
    decks: dict[int, list[int]] = defaultdict(list)
    for _ in range(max(1, round(len(labels) / (per_batch * clips_per_emotion)))):
        batch: list[int] = []
        for emotion in rng.permutation(present)[:per_batch]:
            while len(deck := decks[emotion]) < clips_per_emotion:
                deck.extend(rng.permutation(np.flatnonzero(labels == emotion)).tolist())
            batch += deck[:clips_per_emotion]
            del deck[:clips_per_emotion]
        yield np.array(batch)


def shuffled_batches(clips: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Each clip once, in random order, in batches of about `size`."""
    yield from np.array_split(rng.permutation(clips), max(1, round(clips / size)))
