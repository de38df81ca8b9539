"""The reports as self-contained pages, one of a corpus and one of the paper: no request, nothing beside the file.

The one script sorts tables and enlarges figures; without it a page is whole. Its hash is the only thing that the page
lets run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from emofuse import paths
from emofuse.evaluation import statistics
from emofuse.report import paper as document
from emofuse.report import provenance
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NONE, NOT_RUN, Table, percent
from emofuse.report.tables import NAMES, RULE_NOTE, judge, published
from emofuse.utils.text import ranges

FOLDER = Path(__file__).parent
REASONS = 12  # as many reasons for an unusable clip are listed; the rest are counted

VERDICTS = {
    "reproduced": "good", "on par": "good", "above": "open", "below": "bad", "inconclusive": "open",
    "not comparable": "quiet", NOT_RUN: "quiet",
}  # fmt: skip


def render(corpus: CorpusResults, tables: dict[str, Table], drawings: dict[str, str]) -> str:
    """The page of a corpus as HTML. `drawings` holds the figures as <svg> elements, by name."""
    said: set[str] = set()
    return fill(
        FOLDER / "corpus.html.j2",
        warning=corpus.warning,
        corpus=corpus,
        ran=_ran(corpus),
        tables={name: _shown(table, said) for name, table in tables.items()},
        drawings={name: Markup(svg) for name, svg in drawings.items()},
        headlines=[_headline(corpus, run) for run in corpus.leading],
        presence=[_presence(corpus, protocol) for protocol in corpus.clips],
        searched=bool(corpus.search),
        origins=provenance.read(corpus),
    )


def paper(corpora: Sequence[CorpusResults], overview: Table, tables: dict[str, dict[str, Table]]) -> str:
    """The page of the paper as HTML, beside the corpora's folders.

    `overview` is the main table over all corpora, its records naming the corpus of each row; `tables` has those of each
    corpus, by its name and theirs.
    """
    said = {RULE_NOTE}  # it stands above all tables
    pages = {corpus.name: f"{corpus.name}/report.html" for corpus in corpora}
    return fill(
        FOLDER / "paper.html.j2",
        warning=overview.warning,
        title=document.TITLE,
        about=document.ABOUT,
        rule=RULE_NOTE,
        corpora=[{"results": corpus, "page": pages[corpus.name], "ran": _ran(corpus)} for corpus in corpora],
        overview=_shown(overview, said, [pages[record["corpus"]] for record in overview.records]),
        tables={
            name: {
                corpus.name: _shown(table, said, [pages[corpus.name]] * len(table.rows), f"{corpus.name}-")
                for corpus in corpora
                if (table := tables[corpus.name].get(name)) is not None
            }
            for name in dict.fromkeys(name for made in tables.values() for name in made)
        },
    )


def fill(template: Path, **content: Any) -> str:
    """A page of ours as HTML, of a template that extends page.html.j2."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    return environment.get_template(template.name).render(
        style=Markup(style), script=Markup(script), script_hash=f"sha256-{digest}", **content
    )


@dataclass(frozen=True)
class Shown:
    """A table as the page shows it: cells as HTML, and only the notes that do not stand under a table above it."""

    name: str
    id: str
    title: str
    constant: str  # a sentence on the columns that are left out, as all rows share a value
    header: list[tuple[str, bool]]  # text, whether it is of numbers
    rows: list[tuple[bool, list[tuple[Markup, bool]]]]  # whether it is one to look at first, its cells
    notes: list[str]
    prose: bool


def _shown(table: Table, said: set[str], pages: Sequence[str] = (), prefix: str = "") -> Shown:
    """`said` are the notes above, to which this table's are added; `pages` by row, where its provenance is elsewhere."""
    columns, constant = _varying(table)
    rows = []
    for number, row in enumerate(table.rows):
        origins = table.origins[number] if table.origins else [""] * len(row)
        page = pages[number] if pages else ""
        cells = [
            (_cell(row[column], origins[column].partition(" ")[0], page), bool(table.numeric[column]))
            for column in columns
        ]
        rows.append((_leads(table, row), cells))
    notes = [note for note in table.notes if note not in said]
    said.update(notes)
    return Shown(
        name=table.name,
        id=f"table-{prefix}{table.name}",
        title=table.title,
        constant=constant,
        header=[(table.header[column], bool(table.numeric[column])) for column in columns],
        rows=rows,
        notes=notes,
        prose=bool(table.widths),
    )


def _varying(table: Table) -> tuple[list[int], str]:
    """The columns to show, and a sentence for a protocol or seed that all rows share; the files keep every column."""
    columns, constant = [], []
    for column, name in enumerate(table.header):
        values = {row[column] for row in table.rows}
        if values == {NONE}:
            continue
        if name in ("Protocol", "Seed") and len(values) == 1:
            constant.append(f"{name.lower()} {values.pop()}")
        else:
            columns.append(column)
    return columns, f"All rows: {', '.join(constant)}." if constant else ""


def _leads(table: Table, row: Sequence[str]) -> bool:
    if table.name == "literature":
        return "this report" in row
    return "proposed" in row and table.name not in ("folds", "search")


def _cell(text: str, origin: str = "", page: str = "") -> Markup:
    """A table's cell: what follows its line break is small, a verdict is a badge, a number leads to its origin."""
    if text in VERDICTS:
        return Markup('<span class="badge {}">{}</span>').format(VERDICTS[text], text)
    head, _, small = text.partition("\n")
    # A long name may break after its underscores and dots.
    shown = Markup(re.sub(r"([_.])(?=[a-z])", r"\1<wbr>", str(escape(head))))
    if origin:
        shown = Markup('<a class="origin" href="{}#{}">{}</a>').format(page, origin, shown)
    return shown + (Markup("<small>{}</small>").format(small) if small else Markup(""))


def _ran(corpus: CorpusResults) -> dict[str, Any]:
    """What was run of what params.yaml plans: the counts, and each run with what it lacks, by protocol and seed."""
    runs = corpus.planned
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        key = run.key() if run.folds else ""
        groups.setdefault(f"{run.protocol}, seed {run.seed}", []).append(
            {
                "name": run.variant,
                "key": key,
                "folds": f"{len(run.folds)} of {len(run.planned)} folds" if run.folds else NOT_RUN,
                "lacking": f"lacks {ranges(run.missing)}" if run.folds and run.missing else "",
            }
        )
    return {
        "done": sum(len(run.folds) for run in runs),
        "planned": sum(len(run.planned) for run in runs),
        "runs": len(runs),
        "whole": sum(not run.missing for run in runs),
        "groups": groups,
    }


def _headline(corpus: CorpusResults, run: Run) -> dict[str, Any]:
    """The figures of a run that stand on top of the page."""
    tiles = []
    for metric in statistics.METRICS:
        estimate = run.estimates.get(metric)
        if estimate is None:
            tiles.append(_tile(NAMES[metric], NOT_RUN))
            continue
        interval = "" if estimate.low is None else f"95 % interval {percent(estimate.low)} to {percent(estimate.high)}"
        tiles.append(_tile(NAMES[metric], percent(estimate.mean), "%", interval, run.key()))
    value = published(corpus, run)
    if value:
        tiles.append(_tile("The paper's accuracy", f"{value.value:.2f}", "%", f"verdict: {judge(corpus, run)}"))
    elif (best := corpus.best(run)) is not None:
        note = f"reached: {run.estimates['war'].mean / best:.3f} of it" if run.folds else ""
        tiles.append(_tile("Best possible (Bayes)", percent(best), "%", note))
    there = len(run.folds)
    folds = f"mean of {there}{f' of {len(run.planned)}' if run.missing else ''} folds" if there else NOT_RUN
    return {"title": f"{run.variant}, {run.protocol}, seed {run.seed}", "folds": folds, "tiles": tiles}


def _tile(name: str, value: str, unit: str = "", note: str = "", origin: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "unit": unit, "note": note, "origin": origin}


def _presence(corpus: CorpusResults, protocol: str) -> dict[str, Any]:
    """What of the corpus was there under a protocol, in words."""
    clips = corpus.clips[protocol]
    if clips is None:
        return {
            "protocol": protocol,
            "lines": [f"{paths.splits(corpus.name, protocol)[0]} is not here, so no clip is known."],
        }
    lines = [
        f"{clips.usable:,} of {clips.total:,} clips are usable, of {len(clips.actors)} actors ({ranges(clips.actors)})."
    ]
    if corpus.whole:
        actors, total = corpus.whole
        absent = sorted(set(actors) - set(clips.actors))
        lines.append(
            f"The whole corpus has {total:,} clips of {len(actors)} actors; "
            + (f"{len(absent)} of them are missing here: {ranges(absent)}." if absent else "all of them are here.")
        )
        if clips.total < total:
            lines.append(f"{total - clips.total:,} clips of the whole corpus are not here.")
    reasons = list(clips.unusable.items())
    lines += [f"{count:,} not usable: {reason or 'no reason given'}" for reason, count in reasons[:REASONS]]
    if len(reasons) > REASONS:
        lines.append(
            f"{sum(count for _, count in reasons[REASONS:]):,} not usable for {len(reasons) - REASONS} other reasons."
        )
    return {"protocol": protocol, "lines": lines}
