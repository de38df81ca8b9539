"""The figures of a report, from its results."""

from emofuse.report.figures.representations import attention, distances, embeddings
from emofuse.report.figures.scores import calibration, confusion, fold_figures, folds, learning_curves

__all__ = [
    "attention", "calibration", "confusion", "distances", "embeddings", "fold_figures", "folds", "learning_curves",
]  # fmt: skip
