"""Shards: runs of consecutive actors, few large files instead of thousands of small ones."""

from __future__ import annotations

from collections.abc import Sequence

# Modality → the stage of its features, which is the folder of their shards, too.
FOLDERS = {"video": "faces", "audio": "audio"}


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
