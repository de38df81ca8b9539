"""The main table: each run compared with the paper, for one corpus and for all corpora of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from emofuse.evaluation.text import SCORES_NOTE
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import Column, Table, count, frame
from emofuse.report.tables import scores
from emofuse.report.tables.published import (
    RULE_NOTE,
    VERDICT,
    VERDICTS_NOTE,
    paper_verdict,
    paper_war,
    published_difference,
    verdict_record,
)
from emofuse.utils.text import NONE


def _if_run(name: str) -> Column:
    return Column(
        name.capitalize(),
        lambda row: count(row[name]) if pd.notna(row["runs"]) else NONE,
        numeric=True,
        runs="runs",
    )


COLUMNS = [
    scores.PROTOCOL,
    scores.VARIANT,
    *scores.columns(),
    Column("Paper's WAR %", "paper_war_percent", "{:.2f}".format, numeric=True),
    scores.difference_column("Difference", "difference_points", "runs", scale=1, level="_90"),
    VERDICT,
    _if_run("clips"),
    _if_run("actors"),
    scores.FOLDS,
    scores.SEEDS,
]


def main(corpus: CorpusResults) -> Table:
    """Each protocol and variant: scores, the paper's value, and the verdict."""
    return Table(
        name="main",
        title=f"Main result, {corpus.title}",
        frame=frame(_record(corpus, method) for method in corpus.methods),
        columns=COLUMNS,
        notes=[
            *scores.plain_note(corpus),
            SCORES_NOTE,
            *([_incomparable_note(corpus)] if corpus.paper.empty else [RULE_NOTE, VERDICTS_NOTE]),
            *scores.incomplete_note(corpus.methods),
            *_source_notes([corpus]),
        ],
        warning=corpus.warning,
    )


def paper(corpora: Sequence[CorpusResults]) -> Table:
    """The main table for all corpora of the paper. Its column `corpus` holds their names."""
    titles = {corpus.name: corpus.title for corpus in corpora}
    return Table(
        name="paper",
        title="Main result, all corpora of the paper",
        frame=frame(
            {"corpus": corpus.name} | _record(corpus, method) for corpus in corpora for method in corpus.methods
        ),
        columns=[Column("Corpus", "corpus", titles.__getitem__), *COLUMNS],
        notes=[
            *(f"{corpus.title}: {note}" for corpus in corpora for note in scores.plain_note(corpus)),
            SCORES_NOTE,
            RULE_NOTE,
            VERDICTS_NOTE,
            *scores.incomplete_note(method for corpus in corpora for method in corpus.methods),
            *_source_notes(corpora),
        ],
        warning=next((corpus.warning for corpus in corpora if corpus.warning), ""),
    )


def _record(corpus: CorpusResults, method: Method) -> dict[str, Any]:
    value = paper_war(corpus, method)
    verdict = paper_verdict(corpus, method)
    return scores.record(method) | {
        "paper_war_percent": value,
        **published_difference(method, "war", value, verdict),
        **verdict_record(method, verdict),
        "clips": method.clips,
        "actors": len(method.actors),
    }


def _incomparable_note(corpus: CorpusResults) -> str:
    if corpus.kind == "demo":
        reason = "synthetic clips"
    elif corpus.kind == "table" or len(corpus.modalities) == 2:
        reason = "not one of the paper's corpora"
    else:
        reason = f"{corpus.modalities[0]} only, from a corpus that has both modalities"
    return f"Verdict: not comparable with the paper ({reason})."


def _source_notes(corpora: Sequence[CorpusResults]) -> list[str]:
    """Where the paper's values come from, and what is not known about them."""
    values = pd.concat([corpus.paper.assign(title=corpus.title) for corpus in corpora])
    sources = values[["authors", "year", "doi", "evidence"]].drop_duplicates()
    remarks = values[values["note"] != ""]
    return [
        *(f"Paper: {row.authors} {row.year}, doi {row.doi}; {row.evidence}." for row in sources.itertuples()),
        *(f"{row.title}, {row.variant}: {row.note}." for row in remarks.itertuples()),
    ]
