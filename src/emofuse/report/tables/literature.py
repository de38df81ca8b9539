"""The table of published results, with ours among them and beside each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from emofuse.report.literature import PublishedResult
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NONE, NOT_RUN, Table
from emofuse.report.tables import scores
from emofuse.report.tables.comparison import GROUPS
from emofuse.report.tables.published import NOT_COMPARABLE, difference, less, points_record, weigh

HEADER = [
    "Method", "Modality", "WAR %", "UAR %", "Comparable", "Ours less theirs", "Verdict", "Protocol", "Pre-training",
    "Figure from",
]  # fmt: skip
NUMERIC = [False, False, True, True, False, True, False, False, False, False]
DIFFERENCE = HEADER.index("Ours less theirs")
ORDER_NOTE = (
    "Comparable: the same corpus with all its clips, but for a few broken ones, the same modality, labels and emotions,"
    " no actor both trained and tested on; in order of WAR. Then the others, each with the reason why not. Pre-training"
    " is no part of this rule. Second-hand: read where others quote it; what was read where is in the CSV file."
)
VERDICT_NOTE = (
    "Ours less theirs: in points of WAR, or of UAR where no WAR is given; ours is the first run of that modality among"
    " these. In brackets, the 95 % interval of ours less their figure, which comes without one. Verdict: on par if that"
    " interval lies within ±2 points; below or above, said of ours, if it lies wholly outside of that; else inconclusive."
    " Not comparable where their figure is not, or where only part of the corpus was tested here."
)


def literature(corpus: CorpusResults) -> Table:
    """Published results: first those that may be compared with ours, ours among them, then the others with the reason."""
    variants = {corpus.leading[0].variant, *GROUPS["modality"].variants}
    ours = [run for run in corpus.runs if run.variant in variants]
    modalities = list(dict.fromkeys(run.modality for run in ours))
    beside = {run.modality: run for run in reversed(ours)}
    made = [(run, *_own_row(corpus, run)) for run in ours]
    for result in corpus.literature:
        if result.modality in beside:
            run = beside[result.modality]
            made.append((run, *_published_row(corpus, result, run)))
    made.sort(
        key=lambda one: (one[2]["incomparable"] != "", modalities.index(one[2]["modality"]), -(one[2]["war"] or 0))
    )
    remarks: dict[str, list[str]] = defaultdict(list)
    for result in corpus.literature:
        if result.note and result.modality in modalities:
            remarks[result.note].append(f"{result.method} ({result.authors} {result.year})")
    notes = [ORDER_NOTE, VERDICT_NOTE, scores.SCORES_NOTE, *_absence_notes(corpus, modalities)]
    notes += [f"{'; '.join(methods)}: {remark}." for remark, methods in remarks.items()]
    if corpus.kind == "demo":
        made, notes = [], ["Made clips: nothing is published on them."]
    return Table(
        name="literature",
        title=f"Published results, {corpus.title}",
        header=HEADER,
        numeric=NUMERIC,
        rows=[row for _, row, _ in made],
        records=[record for _, _, record in made] or [{"method": "none published"}],
        notes=notes,
        warning=corpus.warning,
        widths=(0.13, 0.06, 0.08, 0.08, 0.14, 0.08, 0.08, 0.12, 0.09, 0.14),
        origins=[_origins(*one) for one in made],
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
        NONE, NONE, run.protocol, pretraining, "this report",
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


def _published_row(corpus: CorpusResults, result: PublishedResult, run: Run) -> tuple[list[str], dict[str, Any]]:
    """A published figure with what `run`, of its modality, has beside it."""
    metric = "war" if result.war else "uar"
    value = float(getattr(result, metric))
    verdict = NOT_COMPARABLE if result.incomparable else weigh(corpus, run, metric, value)
    verdict = "on par" if verdict == "reproduced" else verdict  # it is another method than ours
    found = {} if verdict in (NOT_RUN, NOT_COMPARABLE) else less(run, metric, value)
    row = [
        f"{result.method}\n({result.authors} {result.year})", result.modality.replace("_", " + "), result.war or NONE,
        result.uar or NONE, result.incomparable or "yes",
        difference(found), verdict,
        result.protocol, result.pretraining, f"{result.source}\n({result.evidence.partition(';')[0]})",
    ]  # fmt: skip
    fractions = {key: round(float(text) / 100, 6) if (text := getattr(result, key)) else None for key in ("war", "uar")}
    record = asdict(result) | {"status": "published"} | fractions
    if found:
        record |= {"compared_with": run.variant, "compared_seed": run.seed, "compared_metric": metric}
    return row, record | points_record(found) | {"verdict": verdict}


def _origins(run: Run, row: list[str], record: dict[str, Any]) -> list[str]:
    """The numbers of our own rows, and the differences in the published ones."""
    own = record["status"] != "published"
    found = scores.origins(run, HEADER, NUMERIC, row)
    return [key if own or column == DIFFERENCE else "" for column, key in enumerate(found)]


def _absence_notes(corpus: CorpusResults, modalities: Sequence[str]) -> list[str]:
    """The modalities of ours in which nothing published qualifies, and what is published in none of ours."""
    fit = {result.modality for result in corpus.literature if not result.incomparable}
    lacking = [modality.replace("_", " + ") for modality in modalities if modality not in fit]
    others = sum(result.modality not in modalities for result in corpus.literature)
    notes = [f"No published figure that we know of is comparable in {', nor in '.join(lacking)}."] if lacking else []
    return notes + ([f"Left out: {others} figures in modalities that no run here has."] if others else [])
