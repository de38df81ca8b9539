"""The figures of a report, from the results of a corpus."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from emofuse.report.figures.attention import attention
from emofuse.report.figures.representations import distances, embeddings
from emofuse.report.figures.scores import calibration, confusion, folds, learning_curves
from emofuse.report.load import CorpusResults

ALL: dict[str, Callable[[CorpusResults], Figure]] = {
    "confusion": confusion,
    "calibration": calibration,
    "learning_curves": learning_curves,
    "folds": folds,
    "distances": distances,
    "embeddings": embeddings,
    "attention": attention,
}  # by the names of their files, paths.FIGURES

__all__ = [
    "ALL", "attention", "calibration", "confusion", "distances", "embeddings", "folds", "learning_curves",
]  # fmt: skip
