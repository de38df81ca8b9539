"""Results published by others, and whether a corpus's runs can be compared with them: literature/published.csv.

It has one row per published figure: how it was obtained, where it is from and how far that was verified. Figures with
the same `group` can be compared with each other. Rows without a group, and those in rarely used groups, give the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emofuse import datasets
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv

if TYPE_CHECKING:
    from emofuse.config import Corpus

PUBLISHED = Path("literature") / "published.csv"

# Labels → the group of results on them without shared actors, over all emotions and all clips that have such a label.
GROUPS = {
    "intended": "subject-independent, intended labels",
    "perceived": "subject-independent, perceived labels",
}
ALLOWED = {
    "corpus": ("ravdess", "cremad"),
    "modality": ("audio_video", "audio", "video"),
    "subject_independent": ("yes", "no", "unknown", "disputed"),
    "labels": (*GROUPS, "unknown"),
    "group": ("", *GROUPS.values()),
}
EVIDENCE = ("the paper's abstract", "read in a repository", "second-hand")  # details may follow after a semicolon
COLUMNS = (
    "method", "authors", "year", "modality", "classes", "protocol", "subject_independent", "labels", "pretraining", "war",
    "uar", "source", "evidence", "note",
)  # fmt: skip


def read(corpus: Corpus, root: Path) -> pd.DataFrame:
    """The results published on the clips of a corpus. Raises `UserError` for a row that contradicts itself.

    The columns are COLUMNS, with `war` and `uar` as text in % as published ("" if not given), and `incomparable`: why the
    corpus's runs cannot be compared with it, or "" if they can.
    """
    rows = _rows(root)
    rows = rows[rows["corpus"] == corpus.kind]
    speech = corpus.kind != "ravdess" or corpus.vocal == ["speech"]
    group = GROUPS[corpus.labels] if speech else None
    reason = rows["reason"].where(rows["reason"] != "", "different clips or labels")
    return rows[list(COLUMNS)].assign(
        year=rows["year"].astype(np.int64),
        classes=rows["classes"].astype(np.int64),
        incomparable=reason.where(rows["group"] != group, ""),
    )


def read_file(root: Path, file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A file of literature/, as text. Raises `UserError` if it is missing or lacks one of `columns`."""
    return read_csv(root / file, columns, "emofuse in the folder that contains params.yaml and literature/")


def _rows(root: Path) -> pd.DataFrame:
    frame = read_file(root, PUBLISHED, (*ALLOWED, *COLUMNS, "reason"))
    for row in frame.to_dict("records"):
        if fault := _fault(row):
            raise UserError(f"{PUBLISHED}, {row['method']} ({row['corpus']}): {fault}")
    return frame


def _fault(row: dict[Any, str]) -> str:
    """What is wrong with a row of the file, or ""."""
    for key, allowed in ALLOWED.items():
        if row[key] not in allowed:
            return f"unknown {key} {row[key]!r}; expected one of {', '.join(filter(None, allowed))}"
    if row["evidence"].partition(";")[0] not in EVIDENCE:
        return f"evidence must start with one of: {', '.join(EVIDENCE)}"
    if not (row["year"].isdigit() and row["classes"].isdigit()):
        return "year and classes must be whole numbers"
    given = [row[key] for key in ("war", "uar") if row[key]]
    try:
        if not given or not all(0 < float(value) <= 100 for value in given):
            return "war, uar or both are required, in %"
    except ValueError:
        return f"war and uar must be numbers in %, not {' and '.join(given)}"
    if row["group"]:
        whole = int(row["classes"]) == len(datasets.get(row["corpus"]).emotions)
        if row["subject_independent"] != "yes" or row["group"] != GROUPS.get(row["labels"]) or not whole:
            return f"its other columns contradict the group {row['group']!r}"
    elif not row["reason"]:
        return "a row without a group needs a reason"
    return ""
