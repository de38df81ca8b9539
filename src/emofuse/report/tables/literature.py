"""The table of published results, with ours among them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from emofuse.report.literature import PublishedResult
from emofuse.report.results import CorpusResults, Run
from emofuse.report.table import NONE, NOT_RUN, Table
from emofuse.report.tables import scores
from emofuse.report.tables.comparison import GROUPS

HEADER = [
    "Method", "Modality", "WAR %", "UAR %", "Comparable", "Protocol", "Pre-training", "Figure from",
]  # fmt: skip


def literature(corpus: CorpusResults) -> Table:
    """Published results: first those that may be compared with ours, ours among them, then the others with the reason."""
    variants = {corpus.leading[0].variant, *GROUPS["modality"].variants}
    ours = [run for run in corpus.runs if run.variant in variants]
    made = [_own_row(corpus, run) for run in ours] + [_published_row(result) for result in corpus.literature]
    modalities = list(dict.fromkeys(record["modality"] for _, record in made[: len(ours)]))
    shown = [(row, record) for row, record in made if record["modality"] in modalities]
    shown.sort(
        key=lambda one: (one[1]["incomparable"] != "", modalities.index(one[1]["modality"]), -(one[1]["war"] or 0))
    )
    remarks: dict[str, list[str]] = defaultdict(list)
    for result in corpus.literature:
        if result.note and result.modality in modalities:
            remarks[result.note].append(f"{result.method} ({result.authors} {result.year})")
    notes = [ORDER_NOTE, scores.SCORES_NOTE, *_absence_notes(corpus, modalities)]
    notes += [f"{'; '.join(methods)}: {remark}." for remark, methods in remarks.items()]
    if corpus.kind == "demo":
        shown, notes = [], ["Made clips: nothing is published on them."]
    return Table(
        name="literature",
        title=f"Published results, {corpus.title}",
        header=HEADER,
        numeric=[False, False, True, True, False, False, False, False],
        rows=[row for row, _ in shown],
        records=[record for _, record in shown] or [{"method": "none published"}],
        notes=notes,
        warning=corpus.warning,
        widths=(0.14, 0.06, 0.06, 0.06, 0.11, 0.11, 0.08, 0.1),
    )


ORDER_NOTE = (
    "Comparable: the same corpus with all its clips, but for a few broken ones, the same modality, labels and emotions,"
    " no actor both trained and tested on; in order of WAR. Then the others, each with the reason why not. Pre-training is no part of this rule. Second-hand:"
    " read where others quote it; what was read where is in the CSV file."
)


def _own_row(corpus: CorpusResults, run: Run) -> tuple[list[str], dict[str, Any]]:
    why = ""
    if run.folds and not corpus.is_whole(run):
        why = f"part of the corpus: {run.clips:,} clips of {len(run.actors)} actors"
    shown = [scores.spread(run.estimates[metric]) if run.folds else NOT_RUN for metric in ("war", "uar")]
    weights = [getattr(run.setup.network, modality).weights for modality in sorted(run.setup.network.modalities)]
    pretraining = ", ".join(name for name in weights if name != "none") or "none"
    row = [
        f"{run.variant}\n(this report, seed {run.seed})", run.modality.replace("_", " + "), *shown, why or "ours",
        run.protocol, pretraining, "this report",
    ]  # fmt: skip
    numbers = scores.record(run)
    record = {
        "method": run.variant, "authors": "this report", "year": None, "modality": run.modality,
        "classes": len(run.folds[0].emotions) if run.folds else None, "protocol": run.protocol,
        "subject_independent": "yes", "seed": run.seed,
        "status": numbers["status"], "pretraining": pretraining, "incomparable": why,
    }  # fmt: skip
    for metric in ("war", "uar"):
        record |= {metric: numbers[f"{metric}_mean"]}
        record |= {f"{metric}_{key}": numbers[f"{metric}_{key}"] for key in ("sd", "low", "high")}
    return row, record


def _published_row(result: PublishedResult) -> tuple[list[str], dict[str, Any]]:
    row = [
        f"{result.method}\n({result.authors} {result.year})", result.modality.replace("_", " + "), result.war or NONE,
        result.uar or NONE, result.incomparable or "yes", result.protocol, result.pretraining,
        f"{result.source}\n({result.evidence.partition(';')[0]})",
    ]  # fmt: skip
    fractions = {key: round(float(text) / 100, 6) if (text := getattr(result, key)) else None for key in ("war", "uar")}
    return row, asdict(result) | {"status": "published"} | fractions


def _absence_notes(corpus: CorpusResults, modalities: Sequence[str]) -> list[str]:
    """The modalities of ours in which nothing published qualifies, and what is published in none of ours."""
    fit = {result.modality for result in corpus.literature if not result.incomparable}
    lacking = [modality.replace("_", " + ") for modality in modalities if modality not in fit]
    others = sum(result.modality not in modalities for result in corpus.literature)
    notes = [f"No published figure that we know of is comparable in {', nor in '.join(lacking)}."] if lacking else []
    return notes + ([f"Left out: {others} figures in modalities that no run here has."] if others else [])
