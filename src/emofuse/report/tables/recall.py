"""The table of recall: how many clips of each emotion are recognised, by each variant and by human listeners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emofuse.evaluation import statistics
from emofuse.evaluation.statistics import Estimate
from emofuse.evaluation.text import spread
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NOT_RUN, Column, Table, frame
from emofuse.report.tables import scores
from emofuse.utils.text import NONE, percent

MEAN = "mean (pooled UAR)"
POOLED_NOTE = (
    "Pooled: all test clips of all folds in one confusion matrix, so the last column may differ from the mean over folds in"
    f" the main table. In brackets, the 95 % confidence interval from {statistics.RESAMPLES:,} resamples of the actors within"
    " their folds."
)
LISTENERS_NOTE = (
    "Minus listeners: the recall of the first variant of a modality that was run, minus that of people who saw or heard the"
    " same, in points. The interval reflects the uncertainty of the variant only."
)
PAPER_NOTE = "The paper's recall by emotion was not available to us."


def recall(corpus: CorpusResults) -> Table:
    """The recall of each emotion by variant, pooled over folds, compared with human listeners in the same modalities.

    The CSV file has one row per variant and emotion; the rows displayed have a column per emotion.
    """
    modalities = {run.modality for run in corpus.runs}
    shares = corpus.humans.shares[corpus.humans.shares["modality"].isin(modalities)]
    emotions = next((run.folds[0].emotions for run in corpus.runs if run.folds), tuple(shares["emotion"].unique()))
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in corpus.runs:
        groups[run.protocol, run.seed].append(run)
    listeners = shares.assign(variant="listeners, " + shares["modality"].astype(str))
    notes = [POOLED_NOTE, *_clip_notes(corpus.runs), corpus.humans.note]
    notes += [LISTENERS_NOTE] if len(shares) else []
    notes += [PAPER_NOTE] if not corpus.paper.empty else []
    return Table(
        name="recall",
        title=f"Recall by emotion in %, {corpus.title}",
        frame=frame(
            [
                *(row for runs in groups.values() for run in runs for row in _records(run, shares)),
                *listeners[["variant", "emotion", "votes", "share"]].to_dict("records"),
            ]
        ),
        columns=[
            scores.PROTOCOL,
            scores.SEED,
            Column("Recognised by", "recognised_by"),
            *(Column(emotion, emotion, numeric=True, runs="runs") for emotion in (*emotions, MEAN)),
        ],
        notes=notes,
        warning=corpus.warning,
        display=_display(groups, shares, (*emotions, MEAN)),
    )


def _display(
    groups: Mapping[tuple[str, int], Sequence[Run]], shares: pd.DataFrame, columns: Sequence[str]
) -> pd.DataFrame:
    """The rows displayed: by protocol and seed, each variant, then listeners and the difference from them by modality."""
    rows: list[list[Any]] = []
    for (protocol, seed), members in groups.items():
        for run in members:
            cells = [spread(found) for found in run.recalls] if run.folds else [NOT_RUN] * len(columns)
            rows.append([protocol, seed, run.variant, run.key() if run.folds else None, *cells])
        for modality, by_emotion in shares.groupby("modality", sort=False):
            name = f"listeners, {str(modality).replace('_', ' + ')}"
            human = by_emotion.set_index("emotion")["share"].reindex(list(columns))
            human[MEAN] = by_emotion["share"].mean()
            rows.append([protocol, seed, name, None, *map(percent, human)])
            for run in [run for run in members if run.folds and run.modality == modality][:1]:
                differences = [_minus(ours, theirs) for ours, theirs in zip(run.recalls, human, strict=True)]
                cells = [NONE if np.isnan(found.mean) else scores.gain(found) for found in differences]
                rows.append([protocol, seed, f"{run.variant} minus {name}", run.key(), *cells])
    return pd.DataFrame(rows, columns=["protocol", "seed", "recognised_by", "runs", *columns])


def _minus(ours: Estimate, theirs: float) -> Estimate:
    """An estimate minus a constant."""
    if ours.low is None or ours.high is None:
        return Estimate(ours.mean - theirs, None, None, None)
    return Estimate(ours.mean - theirs, None, ours.low - theirs, ours.high - theirs)


def _records(run: Run, shares: pd.DataFrame) -> list[dict[str, Any]]:
    key = {"protocol": run.protocol, "seed": run.seed, "variant": run.variant, "status": run.status}
    if not run.folds:
        return [key]
    human = shares[shares["modality"] == run.modality].set_index("emotion")["share"].to_dict()
    rows = []
    # The recalls end with their mean.
    for emotion, clips, found in zip(run.folds[0].emotions, run.confusion.sum(1), run.recalls[:-1], strict=True):
        row = key | {"emotion": emotion, "clips": int(clips)}
        row |= {"recall_pooled": found.mean, "recall_low": found.low, "recall_high": found.high}
        if emotion in human:
            row |= {"listeners": human[emotion]}
            row |= scores.difference_record("difference", _minus(found, human[emotion]))
        rows.append(row)
    return rows


def _clip_notes(runs: Sequence[Run]) -> list[str]:
    """How many clips of each emotion were tested under each protocol; several times if variants differ."""
    counts: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        if run.folds:
            tested = zip(run.folds[0].emotions, run.confusion.sum(1).tolist(), strict=True)
            counts[run.protocol][", ".join(f"{clips:,} {emotion}" for emotion, clips in tested)] = None
    return [f"Test clips, {protocol}: {'; or '.join(texts)}." for protocol, texts in counts.items()]
