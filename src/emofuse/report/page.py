"""The report of a corpus, and the paper's tables, as self-contained HTML pages that make no requests.

A single script sorts tables and enlarges figures. The pages are complete without it. Its hash is the only one that the
pages' content security policy allows to run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from emofuse import paths
from emofuse.datasets.base import sorted_actors
from emofuse.evaluation import statistics
from emofuse.evaluation.metrics import NAMES
from emofuse.report import paper as document
from emofuse.report import provenance
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Table
from emofuse.report.tables.published import (
    NO_VERDICT,
    RULE_NOTE,
    VERDICTS_NOTE,
    paper_verdict,
    paper_war,
)
from emofuse.utils.text import NONE, percent, ranges

FOLDER = Path(__file__).parent
REASONS = 12  # number of reasons for unusable clips that are listed; the rest are only counted

VERDICTS = {
    "equivalent": "good", "above": "open", "below": "bad", "inconclusive": "open",
    "not comparable": "quiet", NOT_RUN: "quiet",
}  # fmt: skip


def render(corpus: CorpusResults, tables: dict[str, Table], drawings: dict[str, str]) -> str:
    """The page of a corpus as HTML. `drawings` has the figures as <svg> elements, by name."""
    printed: set[str] = set()
    return fill(
        FOLDER / "corpus.html.j2",
        warning=corpus.warning,
        corpus=corpus,
        progress=_progress(corpus),
        tables={name: _table(table, printed) for name, table in tables.items()},
        drawings={name: Markup(svg) for name, svg in drawings.items()},
        headlines=[_headline(corpus, method) for method in corpus.leading],
        clips=[{"protocol": protocol, "lines": _clips(corpus, protocol)} for protocol in corpus.clips],
        searched=not corpus.search.empty,
        transferred=bool(corpus.across),
        origins=provenance.read(corpus),
    )


def paper(corpora: Sequence[CorpusResults], overview: Table, tables: dict[str, dict[str, Table]]) -> str:
    """The page of the paper as HTML, to be stored beside the folders of the corpora.

    `overview` is the main table over all corpora; `tables` has those of each corpus by corpus and name.
    """
    printed = {RULE_NOTE, VERDICTS_NOTE}  # the template prints them above all tables
    pages = {corpus.name: f"{corpus.name}/report.html" for corpus in corpora}
    return fill(
        FOLDER / "paper.html.j2",
        warning=overview.warning,
        title=document.TITLE,
        about=document.ABOUT,
        rule=f"{RULE_NOTE} {VERDICTS_NOTE}",
        corpora=[{"results": corpus, "page": pages[corpus.name], "progress": _progress(corpus)} for corpus in corpora],
        overview=_table(overview, printed, [pages[name] for name in overview.frame["corpus"]]),
        tables={
            name: [
                _table(by_name[name], printed, [pages[corpus]] * len(by_name[name].rows), f"{corpus}-")
                for corpus, by_name in tables.items()
            ]
            for name in dict.fromkeys(name for by_name in tables.values() for name in by_name)
        },
    )


def fill(template: Path, **content: Any) -> str:
    """A page as HTML, from a template that extends page.html.j2."""
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


def _table(table: Table, printed: set[str], pages: Sequence[str] = (), prefix: str = "") -> dict[str, Any]:
    """The arguments of the template's macro for a table. Notes in `printed` are omitted, and its own are added to it.

    `pages` has for each row the page with the provenance of its runs, if that is another page.
    """
    shown, shared = _varying(table)
    notes = [note for note in table.notes if note not in printed]
    printed.update(notes)
    return {
        "name": table.name,
        "id": f"table-{prefix}{table.name}",
        "title": table.title,
        "shared": shared,
        "header": [(table.columns[column].header, table.columns[column].numeric) for column in shown],
        "rows": [
            (
                _is_highlighted(table, row),
                [
                    (
                        _cell(
                            row[column], table.runs(number, column).partition(" ")[0], pages[number] if pages else ""
                        ),
                        table.columns[column].numeric,
                    )
                    for column in shown
                ],
            )
            for number, row in enumerate(table.rows)
        ],
        "notes": notes,
        "prose": table.prose,
    }


def _varying(table: Table) -> tuple[list[int], str]:
    """The columns to show, and a sentence on a protocol or seed that all rows share; files have every column."""
    shown, shared = [], []
    for number, name in enumerate(table.header):
        values = {row[number] for row in table.rows}
        if values == {NONE}:
            continue
        if name in ("Protocol", "Seed", "Seeds") and len(values) == 1:
            shared.append(f"{name.lower()} {values.pop()}")
        else:
            shown.append(number)
    return shown, f"All rows: {', '.join(shared)}." if shared else ""


def _is_highlighted(table: Table, row: Sequence[str]) -> bool:
    if table.name == "literature":
        return "this report" in row
    return "proposed" in [cell.partition("\n")[0] for cell in row] and table.name not in ("folds", "search")


def _cell(text: str, run: str = "", page: str = "") -> Markup:
    """A cell: a verdict is a badge, a number links to the run that it comes from, a second line is small."""
    head, _, small = text.partition("\n")
    if head in VERDICTS:
        badge = Markup('<span class="badge {}">{}</span>').format(VERDICTS[head], head)
        return badge + (Markup("<small>{}</small>").format(small) if small else Markup(""))
    # Long names may break after underscores and dots.
    shown = Markup(re.sub(r"([_.])(?=[a-z])", r"\1<wbr>", str(escape(head))))
    if run:
        shown = Markup('<a class="origin" href="{}#{}">{}</a>').format(page, run, shown)
    return shown + (Markup("<small>{}</small>").format(small) if small else Markup(""))


def _progress(corpus: CorpusResults) -> dict[str, Any]:
    """How much of the plan in params.yaml was run: counts, and each run with its missing folds, by protocol and seed."""
    runs = corpus.planned
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(f"{run.protocol}, seed {run.seed}", []).append(
            {
                "name": run.variant,
                "key": run.key() if run.folds else "",
                "folds": f"{len(run.folds)} of {len(run.planned)} folds" if run.folds else NOT_RUN,
                "missing": f"missing: {ranges(run.missing)}" if run.status == "incomplete" else "",
            }
        )
    return {
        "folds": sum(len(run.folds) for run in runs),
        "planned_folds": sum(len(run.planned) for run in runs),
        "runs": len(runs),
        "complete_runs": sum(not run.missing for run in runs),
        "groups": groups,
    }


def _headline(corpus: CorpusResults, method: Method) -> dict[str, Any]:
    """The scores of a variant, for the top of the page."""
    tiles = []
    for metric in statistics.METRICS:
        estimate = method.estimates.get(metric)
        if estimate is None:
            tiles.append(_tile(NAMES[metric], NOT_RUN))
            continue
        interval = "" if estimate.low is None else f"95 % interval {percent(estimate.low)} to {percent(estimate.high)}"
        tiles.append(_tile(NAMES[metric], percent(estimate.mean), "%", interval, method.complete[0].key()))
    value, best = paper_war(corpus, method), corpus.bayes_accuracy(method)
    if value is not None:
        verdict = paper_verdict(corpus, method)
        margin = "" if verdict in NO_VERDICT else f" (margin ±{method.margin:.1f})"
        tiles.append(_tile("The paper's accuracy", f"{value:.2f}", "%", f"verdict: {verdict}{margin}"))
    elif best is not None:
        note = f"WAR / Bayes: {method.estimates['war'].mean / best:.3f}" if method.complete else ""
        tiles.append(_tile("Bayes accuracy (upper bound)", percent(best), "%", note))
    extent = [
        f"{found}{'' if found == planned else f' of {planned}'} {name}{'' if planned == 1 else 's'}"
        for name, found, planned in (
            ("fold", len(method.folds), len(method.runs[0].planned)),
            ("seed", len(method.seeds), len(method.runs)),
        )
    ]
    done = f"mean of {' and '.join(extent)}" if method.complete else NOT_RUN
    return {"title": f"{method.variant}, {method.protocol}", "folds": done, "tiles": tiles}


def _tile(name: str, value: str, unit: str = "", note: str = "", run: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "unit": unit, "note": note, "run": run}


def _clips(corpus: CorpusResults, protocol: str) -> list[str]:
    """Which clips and actors of the corpus were used under a protocol, and which were not."""
    clips = corpus.clips[protocol]
    if clips is None:
        return [f"{paths.splits(corpus.name, protocol)[0]} is missing, so the clips are unknown."]
    lines = [
        f"{clips.usable:,} of {clips.total:,} clips are usable, from {len(clips.actors)} actors ({ranges(clips.actors)})."
    ]
    if corpus.whole:
        actors, total = corpus.whole
        absent = sorted_actors(set(actors) - set(clips.actors))
        lines.append(
            f"The whole corpus has {total:,} clips of {len(actors)} actors; "
            + (f"{len(absent)} of these actors are missing here: {ranges(absent)}." if absent else "all are present.")
        )
        if clips.total < total:
            lines.append(f"{total - clips.total:,} clips of the whole corpus are missing here.")
    crops, affected = clips.replaced
    if crops:
        lines.append(
            f"In {affected:,} of the usable clips, {crops:,} crops are of the nearest frame that shows the face, because their"
            " own shows none."
        )
    reasons = list(clips.unusable.items())
    lines += [f"{count:,} not usable: {reason or 'no reason given'}" for reason, count in reasons[:REASONS]]
    if others := reasons[REASONS:]:
        lines.append(f"{sum(count for _, count in others):,} not usable for {len(others)} other reasons.")
    return lines
