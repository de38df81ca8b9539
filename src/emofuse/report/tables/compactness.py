"""The table of compactness: how close the embeddings of an emotion lie together, by metric loss."""

from __future__ import annotations

import numpy as np

from emofuse.evaluation import statistics
from emofuse.report import embeddings
from emofuse.report.load import CorpusResults
from emofuse.report.table import NONE, NOT_RUN, Table
from emofuse.report.tables import scores
from emofuse.report.tables.comparison import GROUPS, members

HEADER = [
    "Protocol", "Seed", "Variant", "Metric loss", "Intra-emotion", "Inter-emotion", "Intra / inter",
    "Silhouette, emotion", "Silhouette, actor", "Folds",
]  # fmt: skip
NUMERIC = [False, True, False, False, *([True] * 6)]
MEASURES_NOTE = (
    "Of the test embeddings of each fold, L2-normalised: the mean Euclidean distance (0 to 2) over all pairs of clips of one"
    " emotion (intra) and of two (inter), and the first over the second: the smaller, the more compact. Silhouette"
    " (−1 to 1): 1 where clips lie close to their own kind and far from every other, 0 where kinds lie one upon the"
    " other; that by actor says whether clips gather by who speaks."
)
INTERVAL_NOTE = (
    "Here the 95 % interval of the mean over folds is the jackknife's, which leaves out each actor of a fold in turn: of"
    " actors drawn with replacement, as in the other tables, some would make pairs with themselves."
)
ABSENCE_NOTE = (
    "By how much the paper's loss makes the embeddings more compact, as its abstract claims that it does, was not"
    " available to us: the losses are compared with each other."
)
NO_EMBEDDINGS = "embeddings not here"


def compactness(corpus: CorpusResults) -> Table:
    """How close the clips of an emotion lie together, by metric loss, and whether clips gather by emotion or by actor."""
    group = GROUPS["loss"]
    runs = members(corpus, group)
    rows, records = [], []
    for run in runs:
        read = [embeddings.read(corpus, run, fold) for fold in run.folds]
        here = [clips for clips in read if clips is not None]
        found = embeddings.compactness(here) if here else {}
        absent = NO_EMBEDDINGS if run.folds else NOT_RUN
        rows.append([
            run.protocol, str(run.seed), run.variant, group.tell(run.setup),
            *(_apart(found[measure]) if found else absent for measure in embeddings.MEASURES),
            str(len(here)) if len(here) == len(run.planned) else f"{len(here)} of {len(run.planned)}",
        ])  # fmt: skip
        records.append(
            {
                "protocol": run.protocol, "variant": run.variant, "seed": run.seed, "loss": group.tell(run.setup),
                "status": absent if not here or len(here) < len(read) else "incomplete" if run.missing else "run",
                "folds": len(here),
            }
            | {
                f"{measure}_{key}": getattr(found[measure], key) if found else None
                for measure in embeddings.MEASURES
                for key in ("mean", "sd", "low", "high")
            }
        )  # fmt: skip
    notes = [MEASURES_NOTE, INTERVAL_NOTE, *([ABSENCE_NOTE] if corpus.kind != "demo" else [])]
    if any(NO_EMBEDDINGS in row for row in rows):
        notes.append("The embeddings are not in git: dvc pull fetches them, where a remote has them.")
    return Table(
        name="compactness",
        title=f"Compactness of the embeddings, {corpus.title}",
        header=HEADER,
        numeric=NUMERIC,
        rows=rows,
        records=records or [{"variant": NOT_RUN}],
        notes=notes,
        warning=corpus.warning,
        origins=[scores.origins(run, HEADER, NUMERIC, row) for run, row in zip(runs, rows, strict=True)],
    )


def _apart(estimate: statistics.Estimate) -> str:
    """A distance or a silhouette: mean ± sd, and the interval on the next line."""
    if np.isnan(estimate.mean):
        return NONE
    mean = number(estimate.mean) + (f" ± {number(estimate.sd)}" if estimate.sd is not None else "")
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean}\n[{number(estimate.low)}, {number(estimate.high)}]"


def number(value: float) -> str:
    """A number that is no percentage."""
    return f"{value:z.3f}".replace("-", "−")
