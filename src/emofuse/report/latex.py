r"""Tables as LaTeX, one by one or as a document.

The output of `table` can be pasted into any document that has \usepackage[T1]{fontenc} and loads the packages named in
the first line.
"""

from __future__ import annotations

import itertools
import re
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emofuse.report.table import Table

PACKAGES = r"\usepackage{array,booktabs,graphicx,longtable}"
FLOAT = 36  # maximum number of lines of a floating table; longer ones break across pages

PREAMBLE = rf"""\documentclass[a4paper]{{article}}
\usepackage[T1]{{fontenc}}
\usepackage[utf8]{{inputenc}}
\IfFileExists{{lmodern.sty}}{{\usepackage{{lmodern}}}}{{\usepackage{{mathptmx,helvet,courier}}}}
\usepackage[landscape,margin=15mm]{{geometry}}
{PACKAGES}
\usepackage{{float}}\floatplacement{{table}}{{H}}
\setlength{{\parindent}}{{0pt}}\raggedbottom"""


def document(title: str, lines: Sequence[str], tables: Sequence[Table]) -> str:
    """A complete document: title, paragraphs, list of tables, and the tables, whose names must be unique."""
    return "\n".join(
        [
            PREAMBLE, r"\begin{document}", rf"\section*{{{escape(title)}}}",
            *(rf"{escape(line)}\par" for line in lines), r"\listoftables", r"\clearpage",
            *(text for one in tables for text in (r"\clearpage" if one.prose else "", table(one))),
            r"\end{document}", "",
        ]
    )  # fmt: skip


def table(content: Table) -> str:
    """A floating table, scaled down if it is too wide; a longtable if it is prose or longer than `FLOAT` lines."""
    title = escape(content.title)
    warned = rf"{title}. \textbf{{{escape(content.warning)}}}" if content.warning else title
    caption = rf"\caption[{{{title}}}]{{{warned}}}\label{{tab:{content.name}}}"
    notes = rf"{{\footnotesize\raggedright {' '.join(map(escape, content.notes))}\par}}"
    if not content.rows:
        body = [r"\begin{table}", caption, notes, r"\end{table}"]
    elif content.prose or sum(map(_height, content.rows)) > FLOAT:
        body = _long(content, caption, notes)
    else:
        body = _float(content, caption, notes)
    return "\n".join([f"% {PACKAGES}", *body]) + "\n"


def _float(content: Table, caption: str, notes: str) -> list[str]:
    """A floating table, no wider than the page. Headers of numeric columns wrap, so that they are not much wider."""
    header = [
        "\n".join(textwrap.wrap(column.header, 10, break_long_words=False, break_on_hyphens=False))
        if column.numeric
        else column.header
        for column in content.columns
    ]
    head, *rows = [_stacked(row) for row in (header, *content.rows)]
    return [
        r"\begin{table}", r"\centering", caption, r"\smallskip",
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in content.columns)}}}",
        r"\toprule", head, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}}\par\medskip", notes, r"\end{table}",
    ]  # fmt: skip


def _long(content: Table, caption: str, notes: str) -> list[str]:
    """A longtable, whose columns share the page's width: by their `width`, or else by their longest lines."""
    widths = (
        [column.width for column in content.columns]
        if content.prose
        else list(map(_longest, zip(content.header, *content.rows, strict=True)))
    )
    columns = "".join(
        rf">{{\ragged{'left' if column.numeric else 'right'}\arraybackslash}}"
        rf"p{{\dimexpr {width / sum(widths):.5f}\textwidth-2\tabcolsep\relax}}"
        for column, width in zip(content.columns, widths, strict=True)
    )
    head, *rows = [
        " & ".join(r"\par ".join(map(escape, cell.split("\n"))) for cell in row)
        + (r" \\[1pt]" if content.prose else r" \\")
        for row in (content.header, *content.rows)
    ]
    top = [r"\toprule", head, r"\midrule"]
    return [
        r"{\setlength{\LTcapwidth}{\textwidth}\setlength{\tabcolsep}{3pt}",
        r"\footnotesize" if content.prose else r"\scriptsize",
        rf"\begin{{longtable}}{{{columns}}}", caption + r"\\", *top, r"\endfirsthead", *top, r"\endhead",
        r"\bottomrule", r"\endfoot", *rows, r"\end{longtable}}", notes, r"\bigskip",
    ]  # fmt: skip


def _longest(column: Sequence[str]) -> int:
    """The length of the longest word of a column's header, or line of its cells, with some space."""
    header, *cells = column
    return 2 + max(len(line) for line in (*header.split(), *(line for cell in cells for line in cell.split("\n"))))


def _height(row: Sequence[str]) -> int:
    return 1 + max(cell.count("\n") for cell in row)


def _stacked(row: Sequence[str]) -> str:
    """A row, as one line of the table for each line of its cells."""
    cells = [cell.split("\n") for cell in row]
    lines = [" & ".join(map(escape, line)) + r" \\" for line in itertools.zip_longest(*cells, fillvalue="")]
    return "\n".join(lines) + ("[2pt]" if len(lines) > 1 else "")


_COMMANDS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#",
    "_": r"\_\allowbreak{}", "/": r"/\allowbreak{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$",
    "×": r"$\times$", "−": "$-$", "–": r"\textendash{}", "—": r"\textemdash{}", "…": r"\ldots{}", "’": "'",
    "→": r"$\rightarrow$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "Σ": r"$\Sigma$",
}  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX typesets literally, and that may break after `_`, `/` and the dots of dotted names.

    A character that pdflatex cannot typeset is replaced by its code point. A leading [ or * is protected, because it would
    be read as an option of the preceding line break.
    """
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    escaped = "".join(_COMMANDS.get(character) or _plain(character) for character in text)
    escaped = re.sub(r"-(?=-)", "-{}", escaped)
    escaped = re.sub(r"(?<=[a-z])\.(?=[a-z])|(?<=\d{4})\.(?=\d)", r".\\allowbreak{}", escaped)
    return "{" + escaped[0] + "}" + escaped[1:] if escaped[:1] in ("[", "*") else escaped


def _plain(character: str) -> str:
    known = " " <= character <= "~" or ("¡" <= character <= "ž" and character not in "ĦħĸĿŀŉŦŧ")
    return character if known else f"[U+{ord(character):04X}]"
