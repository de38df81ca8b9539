"""The table of recall: how many clips of each emotion are recognised, by each variant and by human listeners."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from emofuse.evaluation import statistics
from emofuse.report.human_baseline import Share
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NONE, NOT_RUN, Table, percent
from emofuse.report.tables import scores

POOLED_NOTE = (
    "Pooled: all tested clips of all folds in one matrix, so that the last column may differ from the mean over folds in"
    f" the main table. In brackets, the 95 % interval from {statistics.RESAMPLES:,} resamples of the actors within their"
    " folds."
)
LISTENERS_NOTE = (
    "Less listeners: the first variant of each modality that was run less people who saw or heard the same, in points;"
    " the interval is the variant's, the listeners' share being taken as it is."
)
ABSENCE_NOTE = "The paper's own recall of each emotion was not available to us."


def recall(corpus: CorpusResults) -> Table:
    """The recall of each emotion by variant, pooled over folds, beside that of human listeners in the same modalities."""
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in corpus.runs:
        groups[run.protocol, run.seed].append(run)
    present = dict.fromkeys(run.modality for run in corpus.runs)
    heard = {modality: shares for modality, shares in corpus.listeners.shares.items() if modality in present}
    known = [run.folds[0].emotions for run in corpus.runs if run.folds] + [tuple(shares) for shares in heard.values()]
    emotions = known[0] if known else ()
    header = ["Protocol", "Seed", "Recognised by", *emotions, "mean (pooled UAR)"]
    numeric = [False, True, False, *([True] * (len(emotions) + 1))]
    rows: list[list[str]] = []
    origins: list[list[str]] = []
    records: list[dict[str, Any]] = []
    for (protocol, seed), runs in groups.items():
        first = {run.modality: run for run in reversed(runs) if run.folds}
        for run in runs:
            cells = list(map(scores.spread, run.recalls)) if run.folds else [NOT_RUN] * (len(emotions) + 1)
            row = [protocol, str(seed), run.variant, *cells]
            rows.append(row)
            origins.append(scores.origins(run, header, numeric, row))
            records += _records(run, heard.get(run.modality, {}))
        for modality, shares in heard.items():
            name = f"listeners, {modality.replace('_', ' + ')}"
            theirs = _shares(shares, emotions)
            rows.append([protocol, str(seed), name, *map(percent, theirs)])
            origins.append([""] * len(header))
            if modality in first:
                run = first[modality]
                differences = map(_less, run.recalls, theirs)
                row = [protocol, str(seed), f"{run.variant} less {name}", *map(_points, differences)]
                rows.append(row)
                origins.append(scores.origins(run, header, numeric, row))
    records += [
        {"variant": f"listeners, {modality}", "emotion": emotion, "votes": share.votes, "share": share.share}
        for modality, shares in heard.items()
        for emotion, share in shares.items()
    ]
    notes = [POOLED_NOTE, *_clip_notes(corpus.runs), corpus.listeners.note]
    return Table(
        name="recall",
        title=f"Recall of each emotion in %, {corpus.title}",
        header=header,
        numeric=numeric,
        rows=rows,
        records=records,
        notes=[*notes, *([LISTENERS_NOTE] if heard else []), *([ABSENCE_NOTE] if corpus.published else [])],
        warning=corpus.warning,
        origins=origins,
    )


def _shares(shares: dict[str, Share], emotions: Sequence[str]) -> list[float]:
    """What listeners recognise of each emotion and, last, on average."""
    by_emotion = [shares[emotion].share if emotion in shares else np.nan for emotion in emotions]
    return [*by_emotion, float(np.mean([share.share for share in shares.values()]))]


def _less(ours: statistics.Estimate, theirs: float) -> statistics.Estimate:
    """An estimate less a fixed share."""
    if ours.low is None or ours.high is None:
        return statistics.Estimate(ours.mean - theirs, None, None, None)
    return statistics.Estimate(ours.mean - theirs, None, ours.low - theirs, ours.high - theirs)


def _points(difference: statistics.Estimate) -> str:
    return NONE if np.isnan(difference.mean) else scores.gain(difference)


def _records(run: Run, shares: dict[str, Share]) -> list[dict[str, Any]]:
    key = {"protocol": run.protocol, "seed": run.seed, "variant": run.variant}
    if not run.folds:
        return [key | {"status": NOT_RUN}]
    records = []
    for emotion, clips, found in zip(
        run.folds[0].emotions, run.confusion, run.recalls, strict=False
    ):  # without the mean
        record = key | {"status": "incomplete" if run.missing else "run", "emotion": emotion, "clips": int(clips.sum())}
        record |= {"recall_pooled": found.mean, "recall_low": found.low, "recall_high": found.high}
        if emotion in shares:
            less = _less(found, shares[emotion].share)
            record |= {"listeners": shares[emotion].share}
            record |= {"difference": less.mean, "difference_low": less.low, "difference_high": less.high}
        records.append(record)
    return records


def _clip_notes(runs: Sequence[Run]) -> list[str]:
    """How many clips of each emotion were tested; by variant where those differ."""
    counts: dict[str, dict[tuple[tuple[str, int], ...], None]] = defaultdict(dict)
    for run in runs:
        if run.folds:
            tested = zip(run.folds[0].emotions, map(int, run.confusion.sum(1)), strict=True)
            counts[run.protocol][tuple(tested)] = None
    return [
        f"Clips tested, {protocol}: "
        + "; or ".join(", ".join(f"{clips:,} {emotion}" for emotion, clips in each) for each in found)
        + "."
        for protocol, found in counts.items()
    ]
