"""The compactness table: how closely the embeddings of each emotion cluster, by metric loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from emofuse.evaluation.text import spread
from emofuse.report import embeddings
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Column, Row, Table, frame
from emofuse.report.tables import scores
from emofuse.report.tables.comparison import GROUPS, members
from emofuse.utils.text import NONE

MEASURES_NOTE = (
    "Computed from the L2-normalised embeddings of each fold's test clips. Intra- and inter-emotion: the mean Euclidean"
    " distance (0 to 2) over all pairs of clips of the same emotion, and of different emotions. Intra / inter: the smaller,"
    " the more compact the clusters. Silhouette (−1 to 1): 1 if clips lie close to their own group and far from all others, 0"
    " if groups overlap. The silhouette by actor shows whether clips cluster by speaker."
)
INTERVAL_NOTE = (
    "Mean, and standard deviations over folds and, with several seeds, over seeds. The 95 % confidence interval is from a"
    " jackknife that leaves out each actor of a fold in turn, and the variance between seeds. Actors drawn with replacement, as"
    " in the other tables, would form pairs with themselves."
)
PAPER_NOTE = (
    "The paper's abstract claims that its loss makes the embeddings more compact, but by how much was not available to us."
    " The losses are compared with each other instead."
)
NO_EMBEDDINGS = "embeddings missing"
TITLES = {
    "intra": "Intra-emotion", "inter": "Inter-emotion", "ratio": "Intra / inter",
    "silhouette_emotion": "Silhouette, emotion", "silhouette_actor": "Silhouette, actor",
}  # fmt: skip


def _measure(name: str) -> Column:
    def text(row: Row) -> str:
        if not row["folds"]:
            return NO_EMBEDDINGS if row["status"] == NO_EMBEDDINGS else NOT_RUN
        found = scores.estimate(row, name)
        return NONE if np.isnan(found.mean) else spread(found, _number)

    return Column(TITLES[name], text, numeric=True, runs="runs")


COLUMNS = [
    scores.PROTOCOL,
    scores.VARIANT,
    Column("Metric loss", "loss"),
    *map(_measure, embeddings.MEASURES),
    scores.FOLDS,
    scores.SEEDS,
]


def compactness(corpus: CorpusResults) -> Table:
    """How compact the embeddings of each emotion are, by metric loss, and whether clips cluster by emotion or by actor."""
    methods = members(corpus, GROUPS["loss"].variants)
    rows = frame([_record(corpus, method) for method in methods] or [{"variant": NOT_RUN}])
    notes = [MEASURES_NOTE, INTERVAL_NOTE, *([PAPER_NOTE] if corpus.in_paper else [])]
    if "status" in rows and (rows["status"] == NO_EMBEDDINGS).any():
        notes.append(
            "Embeddings are not in git: each row covers the folds and seeds whose embeddings were there when this table was"
            " made. If a DVC remote is configured, make pull fetches them."
        )
    return Table(
        name="compactness",
        title=f"Compactness of the embeddings, {corpus.title}",
        frame=rows,
        columns=COLUMNS if methods else [],
        notes=notes,
        warning=corpus.warning,
    )


def _record(corpus: CorpusResults, method: Method) -> dict[str, Any]:
    read = {(run.seed, fold.fold): embeddings.read(corpus, run, fold) for run in method.complete for fold in run.folds}
    there = Method(tuple(
        replace(run, folds=tuple(fold for fold in run.folds if read.get((run.seed, fold.fold)))) for run in method.runs
    ))  # fmt: skip
    clips = [[read[run.seed, fold.fold] for fold in run.folds] for run in there.complete]
    found = embeddings.compactness([[each for each in seed if each] for seed in clips]) if clips else {}
    row: dict[str, Any] = {
        "protocol": method.protocol, "variant": method.variant, "loss": method.setup.loss.metric, **scores.extent(there),
        "status": NO_EMBEDDINGS if None in read.values() else method.status,
    }  # fmt: skip
    for measure in embeddings.MEASURES:
        row |= {f"{measure}_{key}": getattr(found[measure], key) if found else None for key in scores.FIELDS}
    return row | {"runs": method.keys or None}


def _number(value: float) -> str:
    """A distance or a silhouette."""
    return f"{value:z.3f}".replace("-", "−")
