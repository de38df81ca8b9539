"""The main table: each run beside the paper's value, with the verdict; of one corpus, and of all the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from emofuse.evaluation import statistics
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NONE, NOT_RUN, Table
from emofuse.report.tables import scores
from emofuse.report.tables.published import (
    NOT_COMPARABLE,
    RULE_NOTE,
    difference,
    judge,
    less,
    points_record,
    published,
)

HEADER = [
    "Protocol", "Variant", "Seed", "WAR %", "UAR %", "Macro-F1 %", "Paper's WAR %", "Difference", "Verdict",
    "Clips", "Actors", "Folds",
]  # fmt: skip
NUMERIC = [False, False, True, True, True, True, True, True, False, True, True, True]


def main(corpus: CorpusResults) -> Table:
    """Each protocol, variant and seed: scores beside the paper's value, with the verdict."""
    made = [_row(corpus, run) for run in corpus.runs]
    notes = [scores.SCORES_NOTE, RULE_NOTE if corpus.published else _incomparable(corpus)]
    return Table(
        name="main",
        title=f"Main result, {corpus.title}",
        header=HEADER,
        numeric=NUMERIC,
        rows=[row for row, _ in made],
        records=[record for _, record in made],
        notes=[*notes, *scores.incomplete_note(corpus.runs), *_source_notes([corpus])],
        warning=corpus.warning,
        origins=_origins(made, corpus.runs),
    )


def paper(corpora: Sequence[CorpusResults]) -> Table:
    """The main table over the paper's corpora."""
    runs = [(corpus, run) for corpus in corpora for run in corpus.runs]
    made = [_row(corpus, run) for corpus, run in runs]
    origins = _origins(made, [run for _, run in runs])
    return Table(
        name="paper",
        title="Main result, the paper's corpora",
        header=["Corpus", *HEADER],
        numeric=[False, *NUMERIC],
        rows=[[corpus.title, *row] for (corpus, _), (row, _) in zip(runs, made, strict=True)],
        records=[{"corpus": corpus.name} | record for (corpus, _), (_, record) in zip(runs, made, strict=True)],
        notes=[
            scores.SCORES_NOTE,
            RULE_NOTE,
            *scores.incomplete_note(run for _, run in runs),
            *_source_notes(corpora),
        ],
        warning=next((corpus.warning for corpus in corpora if corpus.warning), ""),
        origins=[["", *row] for row in origins],
    )


def _origins(made: Sequence[tuple[list[str], dict[str, Any]]], runs: Sequence[Run]) -> list[list[str]]:
    return [scores.origins(run, HEADER, NUMERIC, row) for run, (row, _) in zip(runs, made, strict=True)]


def _row(corpus: CorpusResults, run: Run) -> tuple[list[str], dict[str, Any]]:
    value = published(corpus, run)
    verdict = judge(corpus, run)
    folds = str(len(run.folds)) if not run.missing else f"{len(run.folds)} of {len(run.planned)}"
    found = less(run, "war", value.value) if value and verdict not in (NOT_RUN, NOT_COMPARABLE) else {}
    row = [
        run.protocol, run.variant, str(run.seed),
        *(scores.spread(run.estimates[metric]) if run.folds else NOT_RUN for metric in statistics.METRICS),
        f"{value.value:.2f}" if value else NONE,
        difference(found),
        verdict,
        *([f"{run.clips:,}", str(len(run.actors))] if run.folds else [NONE, NONE]),
        folds,
    ]  # fmt: skip
    record = scores.record(run) | {
        "paper_war_percent": value.value if value else None,
        **points_record(found),
        "verdict": verdict,
        "clips": run.clips,
        "actors": len(run.actors),
        "folds": len(run.folds),
        "folds_planned": len(run.planned),
    }
    return row, record


def _incomparable(corpus: CorpusResults) -> str:
    why = "made clips" if corpus.kind == "demo" else " and ".join(corpus.modalities) + " alone, of a corpus with both"
    if len(corpus.modalities) == 2 and corpus.kind != "demo":
        why = "not one of the paper's corpora"
    return f"Verdict: not comparable with the paper ({why})."


def _source_notes(corpora: Sequence[CorpusResults]) -> list[str]:
    """Where the paper's values come from and what is not known of them."""
    values = [(corpus, value) for corpus in corpora for value in corpus.published]
    sources: dict[tuple[str, int, str, str], None] = {
        (value.authors, value.year, value.doi, value.evidence): None for _, value in values
    }
    notes = [f"Paper: {authors} {year}, doi {doi}; {evidence}." for authors, year, doi, evidence in sources]
    return notes + [f"{corpus.title}, {value.variant}: {value.note}." for corpus, value in values if value.note]
