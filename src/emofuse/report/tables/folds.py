"""The table of folds: who was tested in each, and how well."""

from __future__ import annotations

from emofuse.evaluation import statistics
from emofuse.report.load import CorpusResults
from emofuse.report.table import NONE, NOT_RUN, Table, percent
from emofuse.report.tables import scores
from emofuse.utils.text import ranges

HEADER = [
    "Protocol", "Variant", "Seed", "Fold", "Test actors", "Clips", "WAR %", "UAR %", "Macro-F1 %",
    "Validation UAR %", "Kept epoch",
]  # fmt: skip
NUMERIC = [False, False, True, True, False, True, True, True, True, True, True]


def folds(corpus: CorpusResults) -> Table:
    """Each fold: who was tested, and how well."""
    rows, records, origins = [], [], []
    for run in corpus.planned:
        there = {fold.fold: fold for fold in run.folds}
        for number in run.planned:
            fold = there.get(number)
            key = {"protocol": run.protocol, "variant": run.variant, "seed": run.seed, "fold": number}
            name = [run.protocol, run.variant, str(run.seed), str(number)]
            if fold is None:
                rows.append([*name, NONE, NONE, NOT_RUN, NOT_RUN, NOT_RUN, NONE, NONE])
                origins.append([""] * len(HEADER))
                records.append(key | {"status": NOT_RUN})
                continue
            best = fold.training.details.get("best_epoch") if fold.training else None
            row = [
                *name, ranges(map(int, fold.actors)), f"{fold.clips:,}",
                *(percent(fold.scores[metric]) for metric in statistics.METRICS),
                percent(fold.validation["uar"]), NONE if best is None else str(best),
            ]  # fmt: skip
            rows.append(row)
            origins.append(scores.origins(run, HEADER, NUMERIC, row, number))
            records.append(
                key
                | {"status": "run"}
                | {"actors": " ".join(map(str, fold.actors)), "clips": fold.clips}
                | fold.scores
                | {f"validation_{name}": value for name, value in fold.validation.items()}
                | {"best_epoch": best}
            )
    return Table(
        name="folds",
        title=f"Accuracy by fold, {corpus.title}",
        header=HEADER,
        numeric=NUMERIC,
        rows=rows,
        records=records,
        notes=["Validation UAR: of the epoch that was kept, on actors that are neither trained nor tested on."],
        warning=corpus.warning,
        origins=origins,
    )
