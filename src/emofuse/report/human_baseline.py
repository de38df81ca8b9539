"""How often people recognise the emotion that an actor intended: literature/listeners.csv, made by literature/listeners.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emofuse.report.literature import read_file
from emofuse.utils.errors import UserError

if TYPE_CHECKING:
    from emofuse.config import Corpus

LISTENERS = Path("literature") / "listeners.csv"
COLUMNS = ["modality", "emotion", "votes", "share"]


@dataclass(frozen=True)
class HumanBaseline:
    """Human recognition of the clips of a corpus, and a note on how it was measured or why there is none.

    `shares` has the COLUMNS: for each modality ("audio_video", "audio", "video") and emotion, the number of votes on its
    clips and the share of them in [0, 1] that named this emotion.
    """

    shares: pd.DataFrame
    note: str


def read(corpus: Corpus, root: Path) -> HumanBaseline:
    """The human baseline of a corpus. Raises `UserError` for a missing or broken file."""
    rows = read_file(root, LISTENERS, ("corpus", *COLUMNS, "method", "source"))
    none = pd.DataFrame(columns=COLUMNS)
    if corpus.kind == "demo":
        return HumanBaseline(none, "Human listeners: none, because nobody has rated the synthetic clips.")
    if corpus.labels == "perceived":
        return HumanBaseline(
            none, "Human listeners: not shown, because the labels are themselves what listeners perceived."
        )
    if corpus.kind == "table":
        return HumanBaseline(none, "Human listeners: none that we know of for these clips.")
    rows = rows[rows["corpus"] == corpus.kind]
    if rows.empty:
        return HumanBaseline(
            none, "Human listeners: not shown. Published figures are only known second-hand and could not be verified."
        )
    try:
        shares = rows[COLUMNS].astype({"votes": np.int64, "share": np.float64})
    except ValueError as error:
        raise UserError(f"{LISTENERS}, {corpus.kind}: {error}") from None
    notes = (
        f"Human listeners: {method} ({source}). Their last column is the mean over emotions."
        for method, source in rows[["method", "source"]].drop_duplicates().itertuples(index=False)
    )
    return HumanBaseline(shares, " ".join(notes))
