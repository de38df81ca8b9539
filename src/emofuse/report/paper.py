"""The paper as a whole, in Markdown and LaTeX: its tables over all its corpora, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from emofuse.report import latex
from emofuse.report.load import CorpusResults
from emofuse.report.table import NOT_RUN, Table, escape_markdown

TITLE = "The paper's tables"
ABOUT = (
    "Multimodal emotion recognition using cross modal audio-video fusion with attention and deep metric learning (Mocanu,"
    " Tapu, Zaharia 2023), made again, corpus by corpus."
)


def markdown(corpora: Sequence[CorpusResults], overview: Table, tables: Mapping[str, Mapping[str, Table]]) -> str:
    """As Markdown: a note stands under the first table that it belongs to.

    `overview` is the main table over all corpora, `tables` has the others by corpus and name.
    """
    said: set[str] = set()
    parts = [f"# {TITLE}\n", *(escape_markdown(line) + "\n" for line in (ABOUT, *_ran(corpora)))]
    for table in (overview, *_in_order(tables)):
        parts.append(replace(table, notes=[note for note in table.notes if note not in said]).markdown())
        said.update(table.notes)
    return "\n".join(parts)


def tex(corpora: Sequence[CorpusResults], overview: Table, tables: Mapping[str, Mapping[str, Table]]) -> str:
    """As a LaTeX document, arguments as `markdown` takes them; each table has all its notes, so that it can be cut out."""
    return latex.document(TITLE, [ABOUT, *_ran(corpora)], [overview, *_in_order(tables)])


def _in_order(tables: Mapping[str, Mapping[str, Table]]) -> Iterator[Table]:
    """Table by table, and each corpus by corpus, under names that differ."""
    for name in dict.fromkeys(name for made in tables.values() for name in made):
        for corpus, made in tables.items():
            yield replace(made[name], name=f"{name}-{corpus}")


def _ran(corpora: Sequence[CorpusResults]) -> list[str]:
    lines = []
    for corpus in corpora:
        done = sum(len(run.folds) for run in corpus.planned)
        planned = sum(len(run.planned) for run in corpus.planned)
        lines.append(f"{corpus.title}: {f'{done} of {planned} folds were run' if done else NOT_RUN}.")
    return lines
