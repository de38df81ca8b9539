"""A table is one tidy frame. Markdown, LaTeX, CSV and the page are all rendered from it.

Frames and CSV files hold fractions with full precision under plain column names; displayed scores are in %.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from emofuse.utils.text import NONE

NOT_RUN = "not run"

Row = Mapping[Any, Any]  # of a frame: column name → value


@dataclass(frozen=True)
class Column:
    """A displayed column: its header, and how a cell is derived from a row of the frame.

    `text` names a column of the frame, whose values `format` writes (`missing` stands for missing ones), or is a function of a row.
    """

    header: str
    text: str | Callable[[Row], str]
    format: Callable[[Any], str] = str
    missing: str = NONE
    numeric: bool = False  # right-aligned, and sorted by value
    runs: str = ""  # the column of the frame that names the runs from which the numbers were computed
    width: float = 0.0  # share of a printed page; a table whose columns have widths is prose and wraps

    def cell(self, row: Row) -> str:
        """The text of a cell. Its first line is the value; a second line is shown smaller."""
        if callable(self.text):
            return self.text(row)
        return self.missing if pd.isna(row[self.text]) else self.format(row[self.text])


@dataclass(frozen=True)
class Table:
    """A frame with one row per row of the table, and the columns that are displayed of it.

    Columns of the frame named `runs` or `…_runs` hold the origin of the row's numbers: the keys of runs
    (<protocol>/<variant>/seed-<s>) or folds (…/fold-<f>), separated by spaces, the row's own first. The CSV file omits
    them. A table without `columns`, or without rows, is displayed as its title and notes.
    """

    name: str
    title: str
    frame: pd.DataFrame
    columns: Sequence[Column]
    notes: Sequence[str] = ()
    warning: str = ""
    display: pd.DataFrame | None = None  # where the rows displayed are not those of the CSV file

    @property
    def header(self) -> list[str]:
        """The text above each displayed column."""
        return [column.header for column in self.columns]

    @property
    def displayed(self) -> pd.DataFrame:
        """The frame whose rows are displayed."""
        return self.frame if self.display is None else self.display

    @cached_property
    def rows(self) -> list[list[str]]:
        """The cells as text, by row and column."""
        if not self.columns:
            return []
        return [[column.cell(row) for column in self.columns] for row in self.displayed.to_dict("records")]

    @property
    def prose(self) -> bool:
        """Whether the cells hold sentences, which wrap, rather than values."""
        return any(column.width for column in self.columns)

    def runs(self, row: int, column: int) -> str:
        """The runs from which the number in a cell was computed; "" if it holds none, or none of a run."""
        name = self.columns[column].runs
        if not name or not any(map(str.isdigit, self.rows[row][column])):
            return ""
        found = self.displayed[name].iat[row]
        return found if isinstance(found, str) else ""

    def row_name(self, number: int) -> str:
        """What identifies a row: its cells up to the first number that was computed from a run."""
        words = []
        for column, cell in zip(self.columns, self.rows[number], strict=True):
            if column.runs:
                break
            words.append(f"{column.header.lower()} {cell}" if column.numeric else " ".join(cell.split()))
        return ", ".join(words)

    def csv(self) -> str:
        """The frame without the origins of its numbers; missing values are empty fields."""
        origins = [name for name in self.frame if name == "runs" or str(name).endswith("_runs")]
        text: str = self.frame.drop(columns=origins).to_csv(index=False, lineterminator="\n")
        return text

    def markdown(self) -> str:
        """As a Markdown section: warning, title, table, notes."""
        lines = [f"**{escape_markdown(self.warning)}**", ""] if self.warning else []
        lines.append(f"## {escape_markdown(self.title)}")
        if self.rows:
            lines += ["", _line(self.header)]
            lines.append("|" + "|".join("---:" if column.numeric else ":---" for column in self.columns) + "|")
            lines += map(_line, self.rows)
        for note in self.notes:
            lines += ["", escape_markdown(note)]
        return "\n".join(lines) + "\n"


def frame(records: Iterable[Row]) -> pd.DataFrame:
    """A frame with a row per record and every column that some record has. Integers stay integers beside missing values."""
    rows = list(records)
    untyped = pd.DataFrame(rows)
    given = {name: [row[name] for row in rows if row.get(name) is not None] for name in untyped}
    whole = [name for name, values in given.items() if values and all(type(value) is int for value in values)]
    return untyped.astype(dict.fromkeys(whole, "Int64"))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(escape_markdown, cells)) + " |"


def escape_markdown(text: str) -> str:
    """Text that Markdown displays literally, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(text.split()))


def points(difference: float) -> str:
    """A difference in percentage points, with its sign."""
    return f"{'−' if difference < 0 else '+'}{abs(difference):.1f}"


def count(value: int) -> str:
    """A whole number with thousands separators."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """A duration in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
