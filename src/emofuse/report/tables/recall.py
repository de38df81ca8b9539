"""The table of recall: how many clips of each emotion are recognised, by each variant and by human listeners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from emofuse.evaluation import statistics
from emofuse.evaluation.text import spread
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Column, Table, frame
from emofuse.report.tables import scores
from emofuse.utils.text import NONE, percent

MEAN = "mean (pooled UAR)"
POOLED_NOTE = (
    "Pooled: all test clips of all folds in one confusion matrix, averaged over seeds, so the last column may differ from the"
    f" mean over folds in the main table. In brackets, the 95 % confidence interval from {statistics.RESAMPLES:,} resamples of"
    " actors within their folds and of seeds."
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
    modalities = {method.modality for method in corpus.methods}
    shares = corpus.humans.shares[corpus.humans.shares["modality"].isin(modalities)]
    emotions = next(
        (method.folds[0].emotions for method in corpus.methods if method.folds), tuple(shares["emotion"].unique())
    )
    groups: dict[str, list[Method]] = defaultdict(list)
    for method in corpus.methods:
        groups[method.protocol].append(method)
    listeners = shares.assign(variant="listeners, " + shares["modality"].astype(str))
    notes = [POOLED_NOTE, *_clip_notes(corpus.methods), corpus.humans.note]
    notes += [LISTENERS_NOTE] if len(shares) else []
    notes += [PAPER_NOTE] if not corpus.paper.empty else []
    return Table(
        name="recall",
        title=f"Recall by emotion in %, {corpus.title}",
        frame=frame(
            [
                *(row for methods in groups.values() for method in methods for row in _records(method, shares)),
                *listeners[["variant", "emotion", "votes", "share"]].to_dict("records"),
            ]
        ),
        columns=[
            scores.PROTOCOL,
            Column("Recognised by", "recognised_by"),
            *(Column(emotion, emotion, numeric=True, runs="runs") for emotion in (*emotions, MEAN)),
        ],
        notes=[*notes, *scores.incomplete_note(corpus.methods)],
        warning=corpus.warning,
        display=_display(groups, shares, (*emotions, MEAN)),
    )


def _display(groups: Mapping[str, Sequence[Method]], shares: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows displayed: by protocol, each variant, then listeners and the difference from them by modality."""
    rows: list[list[Any]] = []
    for protocol, members in groups.items():
        for method in members:
            cells = [spread(found) for found in method.recalls] if method.complete else [NOT_RUN] * len(columns)
            rows.append([protocol, scores.marked(method.variant, method.status), method.keys or None, *cells])
        for modality, by_emotion in shares.groupby("modality", sort=False):
            name = f"listeners, {str(modality).replace('_', ' + ')}"
            human = by_emotion.set_index("emotion")["share"].reindex(list(columns))
            human[MEAN] = by_emotion["share"].mean()
            rows.append([protocol, name, None, *map(percent, human)])
            for method in [each for each in members if each.complete and each.modality == modality][:1]:
                differences = [ours.minus(theirs) for ours, theirs in zip(method.recalls, human, strict=True)]
                cells = [NONE if np.isnan(found.mean) else scores.gain(found) for found in differences]
                rows.append([protocol, f"{method.variant} minus {name}", method.keys, *cells])
    return pd.DataFrame(rows, columns=["protocol", "recognised_by", "runs", *columns])


def _records(method: Method, shares: pd.DataFrame) -> list[dict[str, Any]]:
    key = {"protocol": method.protocol, "variant": method.variant, **scores.extent(method)}
    if not method.complete:
        return [key]
    human = shares[shares["modality"] == method.modality].set_index("emotion")["share"].to_dict()
    rows = []
    # The recalls end with their mean.
    clips = _clips_by_emotion(method)
    for emotion, number, found in zip(method.folds[0].emotions, clips, method.recalls[:-1], strict=True):
        row = key | {"emotion": emotion, "clips": number}
        row |= {"recall_pooled": found.mean, "recall_low": found.low, "recall_high": found.high}
        if emotion in human:
            row |= {"listeners": human[emotion]}
            row |= scores.difference_record("difference", found.minus(human[emotion]), ("mean", "low", "high"))
        rows.append(row)
    return rows


def _clips_by_emotion(method: Method) -> list[int]:
    """The number of test clips of each emotion."""
    return [int(number) for number in np.sum([fold.confusion for fold in method.folds], axis=(0, 2))]


def _clip_notes(methods: Sequence[Method]) -> list[str]:
    """How many clips of each emotion were tested under each protocol; several times if variants differ."""
    counts: dict[str, dict[str, None]] = defaultdict(dict)
    for method in methods:
        if method.complete:
            tested = zip(method.folds[0].emotions, _clips_by_emotion(method), strict=True)
            counts[method.protocol][", ".join(f"{clips:,} {emotion}" for emotion, clips in tested)] = None
    return [f"Test clips, {protocol}: {'; or '.join(texts)}." for protocol, texts in counts.items()]
