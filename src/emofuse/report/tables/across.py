"""Models of other corpora, applied to the clips of this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from emofuse.evaluation.metrics import NAMES
from emofuse.evaluation.statistics import RESAMPLES
from emofuse.evaluation.text import OPTIMISTIC, spread
from emofuse.report.load import CorpusResults
from emofuse.report.table import NOT_RUN, Column, Row, Table, count, frame
from emofuse.report.tables import scores
from emofuse.report.transfers import Transfer
from emofuse.utils.text import NONE, percent, ranges

METRICS = ("war", "uar")


def _score(metric: str) -> Column:
    def text(row: Row) -> str:
        if pd.isna(row[f"{metric}_mean"]):
            return NOT_RUN
        found = scores.estimate(row, metric)
        return spread(replace(found, sd_folds=found.sd_seeds, sd_seeds=None))  # there is one set of clips, and no folds

    return Column(f"{NAMES[metric]} %", text, numeric=True, runs="runs")


def _models(row: Row) -> str:
    models, planned = row["models"], row["models_planned"]
    return str(models) if models == planned else f"{models} of {planned}"


def _if_run(name: str) -> Column:
    return Column(name.capitalize(), lambda row: count(row[name]) if row["models"] else NONE, numeric=True, runs="runs")


def _source(row: Row) -> str:
    return f"{row['trained_on']}\n({OPTIMISTIC})" if row["development"] else str(row["trained_on"])


COLUMNS = [
    Column("Trained on", _source),
    scores.PROTOCOL,
    scores.VARIANT,
    *map(_score, METRICS),
    Column("Chance %", "chance", percent, numeric=True),
    Column("Shared emotions", "shared", lambda shared: str(len(shared.split(", "))), numeric=True),
    _if_run("clips"),
    _if_run("actors"),
    Column("Models", _models, numeric=True, runs="runs"),
    Column("Seeds", "seeds", numeric=True),
]
MEANING = (
    "Networks that were trained on another corpus, applied to the clips of this one whose emotion both have. Features are made"
    " as in the corpus that a network was trained on. Probabilities, calibrated where a run has temperatures, are restricted to"
    " the shared emotions, normalised, and averaged over the models of a seed, one per fold. Chance: one of the shared emotions at random."
)
INTERVALS = (
    "Mean ± standard deviation over seeds. In brackets, the 95 % confidence interval of the mean, from"
    f" {RESAMPLES:,} bootstrap resamples that draw actors once for all seeds, and seeds; with one seed, it reflects the"
    " actors alone. WAR is accuracy, UAR the mean recall."
)


def across(corpus: CorpusResults) -> Table:
    """Scores of models of other corpora, one row per source, protocol and variant."""
    title = f"Models of other corpora, {corpus.title}"
    if not corpus.across:
        notes = ["Nothing to apply: params.yaml lists no runs of other corpora for this one (across)."]
        return Table("across", title, frame([{"trained_on": NOT_RUN}]), [], notes, corpus.warning)
    return Table(
        name="across",
        title=title,
        frame=frame(map(_record, corpus.across)),
        columns=COLUMNS,
        notes=[MEANING, INTERVALS, *_speaker_notes(corpus), *_clip_notes(corpus), *_incomplete_note(corpus.across)],
        warning=corpus.warning,
    )


def _record(transfer: Transfer) -> dict[str, Any]:
    first = transfer.folds[0] if transfer.folds else None
    row: dict[str, Any] = {
        "trained_on": transfer.source,
        "protocol": transfer.protocol,
        "variant": transfer.variant,
        "development": transfer.development,
        "status": transfer.status,
        "models": len(transfer.folds),
        "models_planned": len(transfer.planned),
        "seeds": ", ".join(map(str, transfer.seeds)) or NONE,
        "shared": ", ".join(transfer.shared),
        "clips": len(first.clips) if first else 0,
        "actors": len(set(first.actors.tolist())) if first else 0,
        "chance": 1 / len(transfer.shared),
    }
    for metric in METRICS:
        found = transfer.estimates.get(metric)
        row |= {
            f"{metric}_{key}": getattr(found, key) if found else None for key in ("mean", "sd_seeds", "low", "high")
        }
    return row | {"runs": " ".join(transfer.runs) or None}


def _speaker_notes(corpus: CorpusResults) -> list[str]:
    """Whether clips and speakers of the corpus may have been trained on."""
    notes = []
    for source, transfer in {transfer.source: transfer for transfer in corpus.across}.items():
        if transfer.relation:
            notes.append(
                f"{source}: no clip of {corpus.name} was trained on, but both corpora are {transfer.relation}: their"
                " speakers may be the same, so that these scores need not hold for new speakers."
            )
        else:
            notes.append(f"{source}: no clip and no actor of {corpus.name} was trained on.")
        if transfer.development:
            notes.append(
                f"{source} is a development corpus: the recipe of its networks was selected on its speakers, on whom they were"
                " also trained."
            )
    return notes


def _clip_notes(corpus: CorpusResults) -> list[str]:
    """Which emotions are shared, and which usable clips were left out."""
    notes = []
    for transfer in {transfer.source: transfer for transfer in corpus.across if transfer.folds}.values():
        left_out = transfer.folds[0].left_out
        listed = "; ".join(f"{number:,} ({why})" for why, number in sorted(left_out.items()))
        notes.append(
            f"{transfer.source}: shared are {', '.join(transfer.shared)}."
            + (f" Usable clips that were left out: {listed}." if left_out else " No usable clip was left out.")
        )
    return notes


def _incomplete_note(transfers: Sequence[Transfer]) -> list[str]:
    missing = [
        f"{transfer.variant} ({transfer.source}, {transfer.protocol}) lacks "
        + "; ".join(
            f"fold {ranges(key.fold for key in transfer.missing if key.seed == seed)} of seed {seed}"
            for seed in dict.fromkeys(key.seed for key in transfer.missing)
        )
        for transfer in transfers
        if transfer.status == "incomplete"
    ]
    return [f"Incomplete, computed from the models that were applied: {'; '.join(missing)}."] if missing else []
