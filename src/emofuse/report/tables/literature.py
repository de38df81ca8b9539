"""The table of published results, with ours among them and compared with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from emofuse.evaluation.metrics import NAMES
from emofuse.evaluation.text import SCORES_NOTE, spread
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Column, Row, Table, frame
from emofuse.report.tables import scores
from emofuse.report.tables.comparison import GROUPS
from emofuse.report.tables.published import (
    NOT_COMPARABLE,
    VERDICT,
    VERDICTS_NOTE,
    published_difference,
    published_verdict,
    verdict_record,
)
from emofuse.report.tables.scores import INCOMPLETE
from emofuse.utils.text import NONE

OURS = "this report"
ORDER_NOTE = (
    "Comparable results come first, in order of WAR: the same corpus with all its clips except for a few broken ones, the"
    " same modality, labels and emotions, and no actor in both training and test. The others follow, each with the reason."
    " Pre-training is not part of this rule. Second-hand: taken from a citation; the CSV file gives the details."
)
VERDICT_NOTE = (
    "Ours minus theirs: in points of WAR, or of UAR if no WAR is given; ours is the first variant of that modality that params.yaml"
    " lists. In brackets, the 90 % confidence interval, which reflects the uncertainty of ours only. They are not compared"
    " if the published result is not, if seeds or folds are missing, or if only part of the corpus was tested here."
)


def _modality(modality: str) -> str:
    return modality.replace("_", " + ")


def _method(row: Row) -> str:
    if row["authors"] == OURS:
        return f"{row['method']}\n({OURS}{', ' + INCOMPLETE if row['status'] == INCOMPLETE else ''})"
    return f"{row['method']}\n({row['authors']} {row['year']})"


def _score(metric: str, width: float) -> Column:
    def text(row: Row) -> str:
        if row["status"] == "published":
            return row[f"{metric}_as_published"] or NONE
        return NOT_RUN if pd.isna(row[metric]) else spread(scores.estimate(row, metric))

    return Column(f"{NAMES[metric]} %", text, numeric=True, runs="runs", width=width)


def _comparable(row: Row) -> str:
    return row["incomparable"] or ("ours" if row["authors"] == OURS else "yes")


def _source(row: Row) -> str:
    return OURS if row["authors"] == OURS else f"{row['source']}\n({row['evidence'].partition(';')[0]})"


COLUMNS = [
    Column("Method", _method, width=0.13),
    Column("Modality", "modality", _modality, width=0.06),
    _score("war", 0.08),
    _score("uar", 0.08),
    Column("Comparable", _comparable, width=0.14),
    replace(
        scores.difference_column("Ours minus theirs", "difference_points", "compared_runs", scale=1, level="_90"),
        width=0.08,
    ),
    replace(VERDICT, width=0.08),
    Column("Protocol", "protocol", width=0.12),
    Column("Pre-training", "pretraining", width=0.09),
    Column("Source", _source, width=0.14),
]
AS_PUBLISHED = ["war_as_published", "uar_as_published"]  # text, with the published number of digits


def literature(corpus: CorpusResults) -> Table:
    """Published results: first those that are comparable with ours, ours among them, then the others with the reason."""
    title = f"Published results, {corpus.title}"
    if corpus.literature.empty:
        none = frame([{"method": "none published"}])
        clips = "synthetic clips" if corpus.kind == "demo" else "these clips that we know of"
        return Table("literature", title, none, [], [f"Nothing is published on {clips}."], corpus.warning)
    variants = {corpus.leading[0].variant, *GROUPS["modality"].variants}
    ours = [method for method in corpus.methods if method.variant in variants]
    modalities = list(dict.fromkeys(method.modality for method in ours))
    first = {method.modality: method for method in reversed(ours)}
    published = corpus.literature[corpus.literature["modality"].isin(modalities)]
    rows = [_own_record(corpus, method) for method in ours]
    rows += [_published_record(corpus, row, first[row["modality"]]) for row in published.to_dict("records")]
    rows.sort(key=lambda row: (row["incomparable"] != "", modalities.index(row["modality"]), -(row["war"] or 0)))
    table = frame(rows)
    remarks = published[published["note"] != ""].groupby("note", sort=False)
    return Table(
        name="literature",
        title=title,
        frame=table.drop(columns=AS_PUBLISHED, errors="ignore"),
        columns=COLUMNS,
        notes=[
            *scores.plain_note(corpus),
            ORDER_NOTE,
            VERDICT_NOTE,
            VERDICTS_NOTE,
            SCORES_NOTE,
            *_absence_notes(corpus, modalities),
            *(
                f"{'; '.join(f'{row.method} ({row.authors} {row.year})' for row in rows.itertuples())}: {note}."
                for note, rows in remarks
            ),
        ],
        warning=corpus.warning,
        display=table,
    )


def _own_record(corpus: CorpusResults, method: Method) -> dict[str, Any]:
    incomparable = ""
    if method.missing and method.complete:
        incomparable = "seeds or folds are missing"
    elif method.complete and not corpus.is_whole(method):
        incomparable = f"part of the corpus: {method.clips:,} clips of {len(method.actors)} actors"
    network = method.setup.network
    weights = [] if network.factory else [getattr(network, modality).weights for modality in sorted(network.modalities)]
    numbers = scores.record(method)
    row = {
        "method": method.variant,
        "authors": OURS,
        "year": None,
        "modality": method.modality,
        "classes": len(method.folds[0].emotions) if method.folds else None,
        "protocol": method.protocol,
        "subject_independent": "yes",
        **scores.extent(method),
        "pretraining": ", ".join(name for name in weights if name != "none")
        or (f"see {network.factory}" if network.factory else "none"),
        "incomparable": incomparable,
        "runs": numbers["runs"],
    }
    for metric in ("war", "uar"):
        row[metric] = numbers[f"{metric}_mean"]
        row |= {f"{metric}_{key}": numbers[f"{metric}_{key}"] for key in scores.FIELDS[1:]}
    return row


def _published_record(corpus: CorpusResults, result: dict[Any, Any], method: Method) -> dict[str, Any]:
    """A published result, and how `method`, of the same modality, compares with it."""
    metric = "war" if result["war"] else "uar"
    value = float(result[metric])
    verdict = NOT_COMPARABLE if result["incomparable"] else published_verdict(corpus, method, metric, value)
    difference = published_difference(method, metric, value, verdict)
    compared = difference["difference_points"] is not None
    return (
        {str(name): text for name, text in result.items()}
        | {name: round(float(result[name]) / 100, 6) if result[name] else None for name in ("war", "uar")}
        | {f"{name}_as_published": result[name] for name in ("war", "uar")}
        | {
            "status": "published",
            "compared_with": method.variant if compared else None,
            "compared_metric": metric if compared else None,
            "compared_runs": method.keys if compared else None,
        }
        | difference
        | verdict_record(method, verdict)
    )


def _absence_notes(corpus: CorpusResults, modalities: Sequence[str]) -> list[str]:
    """The modalities of ours without a comparable result, and how many results are in none of our modalities."""
    results = corpus.literature
    comparable = set(results.loc[results["incomparable"] == "", "modality"])
    without = [_modality(modality) for modality in modalities if modality not in comparable]
    others = int((~results["modality"].isin(modalities)).sum())
    notes = [f"We know of no comparable published result for {', or for '.join(without)}."] if without else []
    return notes + ([f"Omitted: {others} results for modalities that no run here has."] if others else [])
