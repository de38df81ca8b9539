"""How often people recognise what the actors intended: literature/listeners.csv, which literature/listeners.py makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse.utils.errors import UserError
from emofuse.utils.files import read_table

if TYPE_CHECKING:
    from emofuse.config import Corpus

LISTENERS = Path("literature") / "listeners.csv"


@dataclass(frozen=True)
class Share:
    """Of so many votes on an emotion's clips, the share in [0, 1] for that emotion."""

    votes: int
    share: float


@dataclass(frozen=True)
class Listeners:
    """What people hear and see in the clips of a corpus, and in words how that was counted, or why nothing is known.

    `shares` is by modality ("audio_video", "audio", "video") and emotion.
    """

    shares: dict[str, dict[str, Share]]
    note: str


def read(corpus: Corpus, root: Path) -> Listeners:
    """The listeners of a corpus. Raises `UserError` for a missing or broken file."""
    if not (root / LISTENERS).is_file():
        raise UserError(f"{LISTENERS} is missing: run emofuse in the folder that holds params.yaml and literature/")
    rows = read_table(root / LISTENERS, ("corpus", "modality", "emotion", "votes", "share", "method", "source"))
    if corpus.kind == "demo":
        return Listeners({}, "Human listeners: none; nobody has rated the made clips.")
    if corpus.labels == "perceived":
        return Listeners({}, "Human listeners: not shown; the labels here are what they perceived.")
    shares: dict[str, dict[str, Share]] = {}
    said: dict[str, None] = {}
    for row in rows:
        if row["corpus"] == corpus.kind:
            try:
                share = Share(int(row["votes"]), float(row["share"]))
            except ValueError as error:
                raise UserError(f"{LISTENERS}, {row['modality']}, {row['emotion']}: {error}") from None
            shares.setdefault(row["modality"], {})[row["emotion"]] = share
            said[
                f"Human listeners: {row['method']} ({row['source']}); their last column is the mean of the emotions."
            ] = None
    if not shares:
        return Listeners(
            {},
            "Human listeners: not shown; what is published of this corpus we know at second hand only, and could not check.",
        )
    return Listeners(shares, " ".join(said))
