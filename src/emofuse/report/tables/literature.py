"""The table of published results, with ours among them and compared with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from emofuse.evaluation.metrics import NAMES
from emofuse.evaluation.text import SCORES_NOTE, spread
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NOT_RUN, Column, Row, Table, frame
from emofuse.report.tables import scores
from emofuse.report.tables.comparison import GROUPS
from emofuse.report.tables.published import NOT_COMPARABLE, difference_record, verdict
from emofuse.utils.text import NONE

OURS = "this report"
ORDER_NOTE = (
    "Comparable results come first, in order of WAR: the same corpus with all its clips except for a few broken ones, the"
    " same modality, labels and emotions, and no actor in both training and test. The others follow, each with the reason."
    " Pre-training is not part of this rule. Second-hand: taken from a citation; the CSV file gives the details."
)
VERDICT_NOTE = (
    "Ours minus theirs: in points of WAR, or of UAR if no WAR is given; ours is the first run of that modality in this table."
    " In brackets, the 95 % confidence interval, which reflects the uncertainty of ours only. Verdict: on par if the interval"
    " lies within ±2 points; below or above, referring to ours, if it lies entirely outside that range; otherwise"
    " inconclusive. Not comparable if the published result is not, or if only part of the corpus was tested here."
)


def _modality(modality: str) -> str:
    return modality.replace("_", " + ")


def _method(row: Row) -> str:
    if row["authors"] == OURS:
        return f"{row['method']}\n({OURS}, seed {row['seed']})"
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
    replace(scores.difference_column("Ours minus theirs", "difference_points", "compared_runs", scale=1), width=0.08),
    Column("Verdict", "verdict", width=0.08),
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
    ours = [run for run in corpus.runs if run.variant in variants]
    modalities = list(dict.fromkeys(run.modality for run in ours))
    first = {run.modality: run for run in reversed(ours)}
    published = corpus.literature[corpus.literature["modality"].isin(modalities)]
    rows = [_own_record(corpus, run) for run in ours]
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
            ORDER_NOTE,
            VERDICT_NOTE,
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


def _own_record(corpus: CorpusResults, run: Run) -> dict[str, Any]:
    partial = run.folds and not corpus.is_whole(run)
    network = run.setup.network
    weights = [] if network.factory else [getattr(network, modality).weights for modality in sorted(network.modalities)]
    numbers = scores.record(run)
    row = {
        "method": run.variant,
        "authors": OURS,
        "year": None,
        "modality": run.modality,
        "classes": len(run.folds[0].emotions) if run.folds else None,
        "protocol": run.protocol,
        "subject_independent": "yes",
        "seed": run.seed,
        "status": run.status,
        "pretraining": ", ".join(name for name in weights if name != "none")
        or (f"see {network.factory}" if network.factory else "none"),
        "incomparable": f"part of the corpus: {run.clips:,} clips of {len(run.actors)} actors" if partial else "",
        "runs": numbers["runs"],
    }
    for metric in ("war", "uar"):
        row[metric] = numbers[f"{metric}_mean"]
        row |= {f"{metric}_{key}": numbers[f"{metric}_{key}"] for key in ("sd", "low", "high")}
    return row


def _published_record(corpus: CorpusResults, result: dict[Any, Any], run: Run) -> dict[str, Any]:
    """A published result, and how `run`, of the same modality, compares with it."""
    metric = "war" if result["war"] else "uar"
    value = float(result[metric])
    judgement = NOT_COMPARABLE if result["incomparable"] else verdict(corpus, run, metric, value)
    difference = difference_record(run, metric, value, judgement)
    compared = difference["difference_points"] is not None
    return (
        {str(name): text for name, text in result.items()}
        | {name: round(float(result[name]) / 100, 6) if result[name] else None for name in ("war", "uar")}
        | {f"{name}_as_published": result[name] for name in ("war", "uar")}
        | {
            "status": "published",
            "compared_with": run.variant if compared else None,
            "compared_seed": run.seed if compared else None,
            "compared_metric": metric if compared else None,
            "compared_runs": run.key() if compared else None,
        }
        | difference
        # The verdict of a replication makes no sense for a different method.
        | {"verdict": "on par" if judgement == "reproduced" else judgement}
    )


def _absence_notes(corpus: CorpusResults, modalities: Sequence[str]) -> list[str]:
    """The modalities of ours without a comparable result, and how many results are in none of our modalities."""
    results = corpus.literature
    comparable = set(results.loc[results["incomparable"] == "", "modality"])
    without = [_modality(modality) for modality in modalities if modality not in comparable]
    others = int((~results["modality"].isin(modalities)).sum())
    notes = [f"We know of no comparable published result for {', or for '.join(without)}."] if without else []
    return notes + ([f"Omitted: {others} results for modalities that no run here has."] if others else [])
