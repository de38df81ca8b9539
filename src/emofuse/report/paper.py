"""The paper's tables over all of its corpora, as one Markdown or LaTeX document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from emofuse.report import latex
from emofuse.report.load import CorpusResults
from emofuse.report.table import NOT_RUN, Table, escape_markdown

TITLE = "The paper's tables"
ABOUT = (
    "A reproduction, corpus by corpus, of “Multimodal emotion recognition using cross modal audio-video fusion with attention"
    " and deep metric learning” (Mocanu, Tapu, Zaharia 2023)."
)


def markdown(corpora: Sequence[CorpusResults], overview: Table, tables: Mapping[str, Mapping[str, Table]]) -> str:
    """As Markdown. A note shared by several tables is printed under the first of them only.

    `overview` is the main table over all corpora; `tables` has the others by corpus and name.
    """
    printed: set[str] = set()
    parts = [f"# {TITLE}\n", *(escape_markdown(line) + "\n" for line in (ABOUT, *_progress(corpora)))]
    for table in (overview, *_in_order(tables)):
        parts.append(replace(table, notes=[note for note in table.notes if note not in printed]).markdown())
        printed.update(table.notes)
    return "\n".join(parts)


def tex(corpora: Sequence[CorpusResults], overview: Table, tables: Mapping[str, Mapping[str, Table]]) -> str:
    """As a LaTeX document; arguments as for `markdown`. Each table has all of its notes, so that it can be used alone."""
    return latex.document(TITLE, [ABOUT, *_progress(corpora)], [overview, *_in_order(tables)])


def _in_order(tables: Mapping[str, Mapping[str, Table]]) -> Iterator[Table]:
    """Table by table, and each corpus by corpus, with unique names."""
    for name in dict.fromkeys(name for by_name in tables.values() for name in by_name):
        for corpus, by_name in tables.items():
            yield replace(by_name[name], name=f"{name}-{corpus}")


def _progress(corpora: Sequence[CorpusResults]) -> list[str]:
    lines = []
    for corpus in corpora:
        done = sum(len(run.folds) for run in corpus.planned)
        planned = sum(len(run.planned) for run in corpus.planned)
        lines.append(f"{corpus.title}: {f'{done} of {planned} folds were run' if done else NOT_RUN}.")
    return lines
