"""The report as one self-contained page: no script, no request, nothing beside the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from emofuse.report import statistics
from emofuse.report.results import CorpusResults, Run
from emofuse.report.table import NONE, NOT_RUN, Table, percent, ranges
from emofuse.report.tables import NAMES, judge, published

REASONS = 12  # as many reasons for an unusable clip are listed; the rest are counted

VERDICTS = {
    "reproduced": "good", "above": "open", "below": "bad", "inconclusive": "open",
    "not comparable": "quiet", NOT_RUN: "quiet",
}  # fmt: skip


def render(corpus: CorpusResults, tables: dict[str, Table], drawings: dict[str, str]) -> str:
    """The page as HTML. `drawings` holds the figures as <svg> elements, by name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["varying"] = _varying
    done = sum(len(run.folds) for run in corpus.runs)
    planned = sum(len(run.planned) for run in corpus.runs)
    return environment.get_template("page.html.j2").render(
        corpus=corpus,
        tables=tables,
        notes=_notes(tables),
        drawings={name: Markup(svg) for name, svg in drawings.items()},
        headlines=[_headline(corpus, run) for run in corpus.leading],
        presence=[_presence(corpus, protocol) for protocol in corpus.clips],
        done=done,
        planned=planned,
        searched=bool(corpus.search),
    )


def _notes(tables: dict[str, Table]) -> dict[str, list[str]]:
    """The notes under each table, but for those that stand under one above it."""
    said: set[str] = set()
    fresh = {}
    for name, table in tables.items():
        fresh[name] = [note for note in table.notes if note not in said]
        said.update(table.notes)
    return fresh


def _cell(text: str) -> Markup:
    """A table's cell: what follows its line break is small, a verdict is a badge."""
    if text in VERDICTS:
        return Markup('<span class="badge {}">{}</span>').format(VERDICTS[text], text)
    head, _, small = text.partition("\n")
    # A long name may break after its underscores and dots.
    shown = Markup(re.sub(r"([_.])(?=[a-z])", r"\1<wbr>", str(escape(head))))
    return shown + (Markup("<small>{}</small>").format(small) if small else Markup(""))


def _varying(table: Table) -> dict[str, Any]:
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
    return {"columns": columns, "constant": f"All rows: {', '.join(constant)}." if constant else ""}


def _headline(corpus: CorpusResults, run: Run) -> dict[str, Any]:
    """The figures of a run that stand on top of the page."""
    tiles = []
    for metric in statistics.METRICS:
        estimate = run.estimates.get(metric)
        if estimate is None:
            tiles.append({"name": NAMES[metric], "value": NOT_RUN, "unit": "", "note": ""})
            continue
        interval = "" if estimate.low is None else f"95 % interval {percent(estimate.low)} to {percent(estimate.high)}"
        tiles.append({"name": NAMES[metric], "value": percent(estimate.mean), "unit": "%", "note": interval})
    value = published(corpus, run)
    if value:
        tiles.append(
            {
                "name": "The paper's accuracy",
                "value": f"{value.value:.2f}",
                "unit": "%",
                "note": f"verdict: {judge(corpus, run)}",
            }
        )
    elif (best := corpus.best(run)) is not None:
        note = f"reached: {run.estimates['war'].mean / best:.3f} of it" if run.folds else ""
        tiles.append({"name": "Best possible (Bayes)", "value": percent(best), "unit": "%", "note": note})
    there = len(run.folds)
    folds = f"mean of {there}{f' of {len(run.planned)}' if run.missing else ''} folds" if there else NOT_RUN
    return {"title": f"{run.variant}, {run.protocol}, seed {run.seed}", "folds": folds, "tiles": tiles}


def _presence(corpus: CorpusResults, protocol: str) -> dict[str, Any]:
    """What of the corpus was there under a protocol, in words."""
    clips = corpus.clips[protocol]
    if clips is None:
        return {
            "protocol": protocol,
            "lines": [f"data/{corpus.name}/{protocol}/clips.csv is not here, so no clip is known."],
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
