"""A table, made once and written as Markdown, CSV and LaTeX, and what its cells say.

Tables for people are in %; the CSV files hold fractions in full precision, under plain names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

NOT_RUN = "not run"
NONE = "–"


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
    widths: Sequence[float] = ()  # by column: its share of the width of a printed page
    # By row and column: what the number was computed from, <protocol>/<variant>/seed-<s> or, of one fold, that and
    # /fold-<f>; "" where no number of a run stands.
    origins: list[list[str]] = field(default_factory=list)

    def markdown(self) -> str:
        """As a Markdown page of its own: warning, title, table, notes."""
        lines = [f"**{escape_markdown(self.warning)}**", ""] if self.warning else []
        lines.append(f"## {escape_markdown(self.title)}")
        if self.rows:
            lines += ["", "| " + " | ".join(escape_markdown(cell) for cell in self.header) + " |"]
            lines.append("|" + "|".join("---:" if right else ":---" for right in self.numeric) + "|")
            lines += ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in self.rows]
        for note in self.notes:
            lines += ["", escape_markdown(note)]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The records, with every column that some record has; an absent value is an empty field."""
        columns = list(dict.fromkeys(key for record in self.records for key in record))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        return stream.getvalue()

    def latex(self) -> str:
        """As a LaTeX table for a document that loads booktabs and graphicx, and longtable for one of prose."""
        head, *rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in (self.header, *self.rows)]
        caption = escape_latex(" ".join([self.title + ".", *self.notes]))
        named = rf"\caption{{{caption}}}\label{{tab:{self.name}}}"
        if not rows:
            lines = [r"\begin{table}", named, r"\end{table}"]
        elif self.widths:
            columns = "".join(rf"p{{{share}\textwidth}}" for share in self.widths)
            top = [r"\toprule", head, r"\midrule"]
            lines = [
                r"{\footnotesize", rf"\begin{{longtable}}{{{columns}}}", named + r"\\",
                *top, r"\endfirsthead", *top, r"\endhead", *rows, r"\bottomrule", r"\end{longtable}}",
            ]  # fmt: skip
        else:
            columns = "".join("r" if right else "l" for right in self.numeric)
            lines = [
                r"\begin{table}", named, r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}}", r"\end{table}",
            ]  # fmt: skip
        return "\n".join([*([f"% {self.warning}"] if self.warning else []), *lines]) + "\n"


def escape_markdown(text: str) -> str:
    """Text that a Markdown table shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "×": r"$\times$",
    "/": r"/\allowbreak{}", "−": "$-$", "–": "--", "—": "---", "…": r"\ldots{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is. A cell that starts with [ must not look like the option of a line break."""
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return "{" + escaped[0] + "}" + escaped[1:] if escaped[:1] in ("[", "*") else escaped


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as text in %, without the sign; `–` where there is none."""
    return NONE if value is None or np.isnan(value) else f"{100 * value:.{digits}f}"


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


def ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as `1–3, 7`."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)
