"""Figures of the scores: confusion matrices, reliability diagrams, accuracy by fold and actor, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from emofuse.evaluation import calibration as measures
from emofuse.evaluation import metrics
from emofuse.report.figures.style import BLUE, COLUMN, INK, ORANGE, STYLE, WIDTH, empty, legend, matrix, title
from emofuse.report.load import CorpusResults, Method, Run

# Label, whether calibrated, line style.
CALIBRATIONS: tuple[tuple[str, bool, dict[str, Any]], ...] = (
    ("uncalibrated", False, {"color": ORANGE, "marker": "s", "markersize": 3.5, "linewidth": 1.4, "clip_on": False}),
    ("calibrated", True, {"color": BLUE, "marker": "o", "markersize": 3.5, "linewidth": 1.4, "clip_on": False}),
)


def confusion(corpus: CorpusResults) -> Figure:
    """The confusion matrix of each variant, pooled over seeds and folds, in % of the clips of the true emotion."""
    with style.context(STYLE):
        methods, figure, axes = _panels(corpus, columns=3, height=2.75)
        for number, (method, axis) in enumerate(zip(methods, axes, strict=True)):
            _confusion(axis, method.confusion, method.folds[0].emotions)
            if number % 3:
                axis.set_yticklabels([])
                axis.set_ylabel("")
            axis.set_title(title(corpus, method), loc="left")
    return figure


def calibration(corpus: CorpusResults) -> Figure:
    """Reliability diagrams of the leading runs, pooled over folds, above the clips per bin.

    They show the uncalibrated probabilities and, of runs with temperatures, the calibrated ones.
    """
    runs = [method.first for method in corpus.leading if method.complete]
    if not runs:
        return empty("not run")
    columns = min(len(runs), 2)
    lines = -(-len(runs) // columns)
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH if columns > 1 else COLUMN, 3.9 * lines + 0.3), layout="constrained")
        panels = figure.add_gridspec(2 * lines, columns, height_ratios=[3, 1] * lines)
        for number, run in enumerate(runs):
            line, column = divmod(number, columns)
            above = figure.add_subplot(panels[2 * line, column])
            below = figure.add_subplot(panels[2 * line + 1, column], sharex=above)
            _reliability(above, below, run)
            above.set_title(title(corpus, run), loc="left")
        legend(figure, [
            *(
                Line2D([], [], label=label, **look)
                for label, calibrated, look in CALIBRATIONS
                if not calibrated or any(run.is_calibrated for run in runs)
            ),
            Line2D([], [], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="ideal"),
        ])  # fmt: skip
    return figure


def folds(corpus: CorpusResults) -> Figure:
    """The accuracy of each test fold and of each of its actors, averaged over seeds."""
    with style.context(STYLE):
        methods, figure, axes = _panels(corpus, columns=2, height=2.0, sharey=True, legend=0.3)
        lowest = 100.0
        for method, axis in zip(methods, axes, strict=True):
            few = max(len(fold.actors) for fold in method.folds) <= 6
            for number, (actors, confusions) in enumerate(zip(*method.tested, strict=True)):
                accuracy = 100 * metrics.scores(confusions)["war"].mean(1)
                lowest = min(lowest, float(accuracy.min()))
                spots = number + np.linspace(-0.3, 0.3, len(accuracy)) if len(accuracy) > 1 else np.array([number])
                whole = 100 * metrics.scores(confusions.sum(0))["war"].mean()
                axis.hlines(whole, number - 0.36, number + 0.36, color=BLUE, linewidth=2.2, zorder=2)
                axis.plot(spots, accuracy, "o", color=ORANGE, markersize=3.2, markeredgewidth=0, zorder=3)
                for spot, value, actor in zip(spots, accuracy, actors, strict=True) if few else ():
                    # Away from the fold's bar, so that the label does not hide it.
                    side = 1 if value >= whole else -1
                    axis.annotate(
                        str(actor), (spot, value), (0, 5.5 * side), textcoords="offset points",
                        ha="center", va="center", fontsize=5,
                    )  # fmt: skip
            axis.axhline(100 * method.estimates["war"].mean, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
            axis.set_xticks(range(len(method.folds)), [str(fold.fold) for fold in method.folds])
            axis.set_xlim(-0.5, len(method.folds) - 0.5)
            axis.set(xlabel="fold", ylabel="accuracy (WAR), %")
            axis.grid(axis="y")
            axis.set_title(title(corpus, method), loc="left")
        for axis in axes:
            axis.set_ylim(10 * np.floor(max(lowest - 3, 0) / 10), 104)
        if methods:
            legend(figure, [
                Line2D([], [], color=BLUE, linewidth=2.2, label="fold"),
                Line2D([], [], color=ORANGE, marker="o", markersize=3.2, linestyle="", label="actor"),
                Line2D([], [], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="mean of folds"),
            ])  # fmt: skip
    return figure


def learning_curves(corpus: CorpusResults) -> Figure:
    """Cross entropy and, with validation actors, validation UAR by epoch: thin lines for the folds of each seed, thick lines
    for their mean. Test scores are not shown: only the kept epoch is ever tested.
    """
    with style.context(STYLE):
        read = [
            (method, [fold.history for run in method.runs for fold in run.folds if len(fold.history)])
            for method in corpus.methods
        ]
        shown = [(method, histories) for method, histories in read if histories]
        if not shown:
            return empty("not run, or trained elsewhere: no training history")
        validated = any("val_uar" in history for _, histories in shown for history in histories)
        figure = Figure(figsize=(WIDTH if validated else COLUMN, 1.55 * len(shown) + 0.5), layout="constrained")
        axes = figure.subplots(len(shown), 1 + validated, squeeze=False, sharex=True, sharey="col")
        for (method, histories), panels in zip(shown, axes, strict=True):
            _curves(panels, histories)
            panels[0].set_title(title(corpus, method), loc="left")
        for axis in axes[-1]:
            axis.set_xlabel("epoch")
        legend(figure, _curve_legend(validated))
    return figure


def _panels(
    corpus: CorpusResults, columns: int, height: float, sharey: bool = False, legend: float = 0.0
) -> tuple[list[Method], Figure, list[Axes]]:
    """The variants that have results, a figure, and one panel for each."""
    methods = [method for method in corpus.methods if method.complete]
    if not methods:
        return [], empty("not run"), []
    lines = -(-len(methods) // columns)
    width = WIDTH if len(methods) > 1 else WIDTH * 0.55
    # More space than the default between a panel's title and the axis above it.
    figure = Figure(figsize=(width, height * lines + legend), layout=ConstrainedLayoutEngine(h_pad=0.09))
    panels = figure.subplots(lines, min(columns, len(methods)), squeeze=False, sharey=sharey).ravel()
    for panel in panels[len(methods) :]:
        panel.remove()
    return methods, figure, list(panels[: len(methods)])


def _reliability(above: Axes, below: Axes, run: Run) -> None:
    """A reliability diagram, and a histogram of the clips in its bins."""
    edges = np.linspace(0, 100, measures.BINS + 1)
    above.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for _, calibrated, look in CALIBRATIONS[: 1 + run.is_calibrated]:
        found = measures.reliability(run.probabilities(calibrated).max(1), run.correct)
        there = found.clips > 0
        above.plot(100 * found.confidence[there], 100 * found.accuracy[there], **look)
        below.stairs(found.clips, edges, color=look["color"], linewidth=1.2)
    above.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy, %")
    above.tick_params(labelbottom=False)
    below.set(xlabel="confidence, %", ylabel="clips")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axis in (above, below):
        axis.grid()


def _confusion(axis: Axes, counts: NDArray[np.int64], emotions: Sequence[str]) -> None:
    total = counts.sum(1, keepdims=True)
    shares = np.where(total > 0, 100 * counts / np.maximum(total, 1), np.nan)
    matrix(axis, np.nan_to_num(shares), 100, emotions)
    for (row, column), share in np.ndenumerate(shares):
        text = "–" if np.isnan(share) else f"{share:.0f}"
        # Zeros are most of the matrix: faint, so that what is confused is what one sees.
        colour = "#ffffff" if share > 55 else "#8b949e" if text == "0" else "#0b1a2b"
        axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=6, color=colour)
    axis.set(xlabel="predicted emotion", ylabel="true emotion, % of its clips")


def _curves(panels: Sequence[Axes], histories: Sequence[pd.DataFrame]) -> None:
    """Cross entropy in the first panel, validation UAR in the second, if there is one; means end with the shortest fold.

    The validation loss is the cross entropy only, so it is shown with that part of the training loss.
    """
    curves: list[tuple[Axes, str, int, str, Any]] = [(panels[0], "train_cross_entropy", 1, ORANGE, (0, (3, 1.5)))]
    if all("val_uar" in history for history in histories):
        curves += [(panels[0], "val_loss", 1, BLUE, "-"), (panels[-1], "val_uar", 100, BLUE, "-")]
    elif len(panels) > 1:
        panels[1].text(0.5, 0.5, "no validation actors", ha="center", va="center", transform=panels[1].transAxes)
    for axis, name, scale, colour, line in curves:
        values = [scale * history[name].to_numpy() for history in histories]
        several = len(values) > 1
        for fold in values:
            axis.plot(
                range(1, len(fold) + 1), fold,
                color=colour, linestyle=line, linewidth=0.6 if several else 1.4, alpha=0.55 if several else 1,
            )  # fmt: skip
        if several:
            common = min(map(len, values))
            mean = np.mean([fold[:common] for fold in values], axis=0)
            axis.plot(range(1, common + 1), mean, color=colour, linestyle=line, linewidth=1.8)
    for axis, label in zip(panels, ("cross entropy, nats", "validation UAR, %"), strict=False):
        axis.set_ylabel(label)
        axis.grid(axis="y")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _curve_legend(validated: bool) -> list[Line2D]:
    return [
        Line2D([], [], color=ORANGE, linestyle=(0, (3, 1.5)), linewidth=1.6, label="training"),
        *([Line2D([], [], color=BLUE, linewidth=1.6, label="validation")] if validated else []),
        Line2D([], [], color=INK, linewidth=0.6, alpha=0.6, label="thin: one fold and seed"),
        Line2D([], [], color=INK, linewidth=1.8, label="thick: their mean"),
    ]
