"""The recall of each emotion, beside that of human listeners."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from emofuse import metrics
from emofuse.report.results import CorpusResults, Run
from emofuse.report.table import NONE, NOT_RUN, Table, percent


def recall(corpus: CorpusResults) -> Table:
    """The recall of each emotion by variant, pooled over folds, beside that of human listeners in the same modalities."""
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in corpus.runs:
        groups[run.protocol, run.seed].append(run)
    variants = list(dict.fromkeys(run.variant for run in corpus.runs))
    heard = {
        modality: corpus.listeners.shares[modality]
        for modality in dict.fromkeys(run.modality for run in corpus.runs)
        if modality in corpus.listeners.shares
    }
    rows: list[list[str]] = []
    records: list[dict[str, Any]] = []
    for (protocol, seed), runs in groups.items():
        by_variant = {run.variant: run for run in runs if run.folds}
        known = [run.folds[0].emotions for run in by_variant.values()] + [tuple(shares) for shares in heard.values()]
        if not by_variant:
            records.append({"protocol": protocol, "seed": seed, "variant": NOT_RUN})
        if not known:
            rows.append([protocol, str(seed), NOT_RUN, NONE, *([NOT_RUN] * len(variants))])
            continue
        recalls = {variant: metrics.recall(run.confusion) for variant, run in by_variant.items()}
        pooled = {variant: float(metrics.scores(run.confusion)["uar"]) for variant, run in by_variant.items()}
        for index, emotion in enumerate(known[0]):
            counts = {int(run.confusion[index].sum()) for run in by_variant.values()}
            rows.append([
                protocol, str(seed), emotion, "/".join(f"{count:,}" for count in sorted(counts)) or NONE,
                *(percent(float(recalls[variant][index])) if variant in recalls else NOT_RUN for variant in variants),
                *(percent(shares[emotion].share) if emotion in shares else NONE for shares in heard.values()),
            ])  # fmt: skip
            records += [
                {
                    "protocol": protocol, "seed": seed, "variant": variant, "emotion": emotion,
                    "clips": int(by_variant[variant].confusion[index].sum()), "recall_pooled": float(values[index]),
                }
                for variant, values in recalls.items()
            ]  # fmt: skip
        totals = sorted({run.clips for run in by_variant.values()})
        rows.append([
            protocol, str(seed), "mean (pooled UAR)", "/".join(f"{total:,}" for total in totals) or NONE,
            *(percent(pooled[variant]) if variant in pooled else NOT_RUN for variant in variants),
            *(percent(float(np.mean([share.share for share in shares.values()]))) for shares in heard.values()),
        ])  # fmt: skip
    records += [
        {"variant": f"listeners, {modality}", "emotion": emotion, "votes": share.votes, "share": share.share}
        for modality, shares in heard.items()
        for emotion, share in shares.items()
    ]
    return Table(
        name="recall",
        title=f"Recall of each emotion in %, {corpus.title}",
        header=[
            "Protocol", "Seed", "Emotion", "Clips", *variants,
            *(f"listeners, {modality.replace('_', ' + ')}" for modality in heard),
        ],
        numeric=[False, True, False, True, *([True] * (len(variants) + len(heard)))],
        rows=rows,
        records=records,
        notes=[
            "Pooled: all tested clips of all folds in one matrix, so that the last line may differ from the mean over"
            " folds in the main table.",
            corpus.listeners.note,
        ],
        warning=corpus.warning,
    )  # fmt: skip
