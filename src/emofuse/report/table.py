"""A table, made once and written as Markdown, CSV and LaTeX, and what its cells say.

Tables for people are in %; the CSV files hold fractions in full precision, under plain names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from emofuse.report import latex
from emofuse.utils.text import NONE, percent  # noqa: F401

NOT_RUN = "not run"


@dataclass(frozen=True)
class Table:
    """A table: cells as text, where a line break parts a figure from its small print, and records for the CSV.

    One without rows is its title and notes. One with `widths` is of prose: it wraps, and may fill pages.
    """

    name: str
    title: str
    header: Sequence[str]
    numeric: Sequence[bool]  # by column: aligned to the right
    rows: list[list[str]]
    records: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    warning: str = ""
    widths: Sequence[float] = ()  # by column: how the width of a printed page is shared
    # By row and column: what the number was computed from, <protocol>/<variant>/seed-<s> or, of one fold, that and
    # /fold-<f>; of several runs, that of the row first, with spaces between; "" where no number of a run stands.
    origins: list[list[str]] = field(default_factory=list)

    def markdown(self, level: int = 2) -> str:
        """As a page of Markdown, or a part of one: warning, title as a heading of that level, table, notes."""
        lines = [f"**{escape_markdown(self.warning)}**", ""] if self.warning else []
        lines.append(f"{'#' * level} {escape_markdown(self.title)}")
        if self.rows:
            lines += ["", "| " + " | ".join(escape_markdown(cell) for cell in self.header) + " |"]
            lines.append("|" + "|".join("---:" if right else ":---" for right in self.numeric) + "|")
            lines += ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in self.rows]
        for note in self.notes:
            lines += ["", escape_markdown(note)]
        return "\n".join(lines) + "\n"

    def row_name(self, number: int) -> str:
        """What tells a row from the others: its words, the seed and the fold, up to the first figure."""
        words = []
        for head, numeric, cell in zip(self.header, self.numeric, self.rows[number], strict=True):
            if numeric and head not in ("Seed", "Fold"):
                break
            words.append(f"{head.lower()} {cell}" if numeric else " ".join(cell.split()))
            if head == "Fold":
                break
        return ", ".join(words)

    def csv(self) -> str:
        """The records, with every column that some record has; an absent value is an empty field."""
        columns = list(dict.fromkeys(key for record in self.records for key in record))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        return stream.getvalue()

    def latex(self) -> str:
        """As a LaTeX table, to be cut out or put into a document."""
        return latex.table(self)


def escape_markdown(text: str) -> str:
    """Text that a Markdown table shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(text.split()))


def points(difference: float) -> str:
    """A difference of percentages, signed."""
    return f"{'−' if difference < 0 else '+'}{abs(difference):.1f}"


def duration(seconds: float | None) -> str:
    """A time that a person reads."""
    if seconds is None:
        return NONE
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
