"""Shards: runs of consecutive actors, few large files instead of thousands of small ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import paths
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_table

if TYPE_CHECKING:
    from emofuse.config import Corpus

# Modality → the stage of its features, which is the folder of their shards, too.
FOLDERS = {"video": "faces", "audio": "audio"}


def check(shard: int, corpus: str, shards: Sequence[int]) -> None:
    """Raise `UserError` for a shard that a corpus does not have."""
    if shard not in shards:
        raise UserError(f"corpora.{corpus}.shards: there is no shard {shard}; there are {', '.join(map(str, shards))}")


def features(name: str, corpus: Corpus, modalities: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """The features of some modalities of a corpus, or of all: an array and its table for each shard."""
    chosen = corpus.modalities if modalities is None else modalities
    return [paths.features(name, FOLDERS[modality], shard) for modality in chosen for shard in corpus.shards]


def usable(index: Path, shard: int) -> list[dict[str, str]]:
    """The rows of index.csv of a shard's clips that can be used."""
    return [row for row in read_table(index) if row["shard"] == str(shard) and row["status"] == "ok"]


def actors_of(actors: Sequence[int], shard: int, shards: int) -> tuple[int, ...]:
    """The actors of one of `shards` runs of consecutive actors.

    The runs cover every actor once, in order, and differ by at most one in length; with more shards than
    actors some are empty. `actors` is the corpus's own list, whoever of them is there: so a shard's
    content does not depend on that of another. ValueError for a shard that there is not.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"shard {shard} of {shards}")
    ordered = sorted(actors)
    return tuple(ordered[shard * len(ordered) // shards : (shard + 1) * len(ordered) // shards])
