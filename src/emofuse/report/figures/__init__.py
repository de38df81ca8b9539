"""The figures of a report, from the results of a corpus."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from emofuse.report.figures.attention import attention
from emofuse.report.figures.representations import distances, embeddings
from emofuse.report.figures.scores import calibration, confusion, folds, learning_curves
from emofuse.report.load import CorpusResults

FIGURES = (confusion, calibration, learning_curves, folds, distances, embeddings, attention)
ALL: dict[str, Callable[[CorpusResults], Figure]] = {
    figure.__name__: figure for figure in FIGURES
}  # as in paths.FIGURES
