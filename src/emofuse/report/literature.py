"""What others have published, and whether a corpus's runs may be compared with it: literature/published.csv.

It has a line a figure: how it was got, where it is from and how far that was checked. `group` names the figures that
may be compared with each other; a line in none, or in one of few, has its reason in words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse.utils.errors import UserError
from emofuse.utils.files import read_table

if TYPE_CHECKING:
    from emofuse.config import Corpus

PUBLISHED = Path("literature") / "published.csv"

# Labels → the group of those who have them, share no actor, and test every emotion and clip that has such a label.
GROUPS = {
    "intended": "subject-independent, intended labels",
    "perceived": "subject-independent, perceived labels",
}
EMOTIONS = {"ravdess": 8, "cremad": 6}
ALLOWED = {
    "corpus": tuple(EMOTIONS),
    "modality": ("audio_video", "audio", "video"),
    "subject_independent": ("yes", "no", "unknown", "disputed"),
    "labels": (*GROUPS, "unknown"),
    "group": ("", *GROUPS.values()),
}
EVIDENCE = ("the paper's abstract", "read in a repository", "second-hand")  # what may follow a semicolon says where
TEXTS = ("method", "authors", "protocol", "pretraining", "war", "uar", "source", "evidence", "reason", "note")


@dataclass(frozen=True)
class PublishedResult:
    """A line of literature/published.csv; `war` and `uar` in % as published, "" where not given.

    `incomparable` says why a corpus's runs are not to be compared with it, and is "" where they are.
    """

    method: str
    authors: str
    year: int
    modality: str
    classes: int
    protocol: str
    subject_independent: str
    labels: str
    pretraining: str
    war: str
    uar: str
    source: str
    evidence: str
    note: str
    incomparable: str


def read(corpus: Corpus, root: Path) -> tuple[PublishedResult, ...]:
    """All that is published on the clips of a corpus. Raises `UserError` for a line that contradicts itself."""
    speech = corpus.kind != "ravdess" or corpus.vocal == ["speech"]
    group = GROUPS[corpus.labels] if speech else None
    return tuple(
        PublishedResult(
            year=int(row["year"]),
            classes=int(row["classes"]),
            incomparable="" if row["group"] == group else row["reason"] or "other clips or labels than here",
            **{key: row[key] for key in (*TEXTS, "modality", "subject_independent", "labels") if key != "reason"},
        )
        for row in _rows(root)
        if row["corpus"] == corpus.kind
    )  # fmt: skip


def _rows(root: Path) -> list[dict[str, str]]:
    if not (root / PUBLISHED).is_file():
        raise UserError(f"{PUBLISHED} is missing: run emofuse in the folder that holds params.yaml and literature/")
    rows = read_table(root / PUBLISHED, (*ALLOWED, *TEXTS, "year", "classes"))
    for row in rows:
        if fault := _fault(row):
            raise UserError(f"{PUBLISHED}, {row['method']} ({row['corpus']}): {fault}")
    return rows


def _fault(row: dict[str, str]) -> str:
    for key, allowed in ALLOWED.items():
        if row[key] not in allowed:
            return f"no {key} {row[key]!r}; there are {', '.join(filter(None, allowed))}"
    if row["evidence"].partition(";")[0] not in EVIDENCE:
        return f"evidence starts with one of: {', '.join(EVIDENCE)}"
    if not (row["year"].isdigit() and row["classes"].isdigit()):
        return "year and classes are whole numbers"
    given = [row[key] for key in ("war", "uar") if row[key]]
    try:
        if not given or not all(0 < float(value) <= 100 for value in given):
            return "war, uar or both are needed, in %"
    except ValueError:
        return f"war and uar are numbers in %, not {' and '.join(given)}"
    if row["group"]:
        whole = int(row["classes"]) == EMOTIONS[row["corpus"]]
        if row["subject_independent"] != "yes" or row["group"] != GROUPS.get(row["labels"]) or not whole:
            return f"its other columns contradict the group {row['group']!r}"
    elif not row["reason"]:
        return "in no group, so that it needs a reason"
    return ""
