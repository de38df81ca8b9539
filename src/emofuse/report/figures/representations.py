"""Figures of the representations learned by the leading variant, each one column wide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from emofuse.datasets.emotions import VALENCE_AROUSAL
from emofuse.report import embeddings as representations
from emofuse.report.figures.style import (
    BLUE,
    COLOURS,
    COLUMN,
    INK,
    MARKERS,
    ORANGE,
    SMALL,
    STYLE,
    empty,
    heading,
    matrix,
    title,
)
from emofuse.report.load import CorpusResults

SEED = 1  # of t-SNE


def distances(corpus: CorpusResults) -> Figure:
    """The learned distances between emotions, averaged over folds, with their initial values, and as a map."""
    run = next((method.first for method in corpus.leading if method.complete), None)
    if run is None:
        return empty("not run")
    if run.setup.loss.metric not in ("fixed", "learnable"):
        return empty(f"{run.variant} has no emotion distances")
    distances_FCC = representations.emotion_distances(corpus, run)
    if not len(distances_FCC):
        return empty("the models are missing, so the emotion distances are unknown")

    import torch

    from emofuse.models.losses import EmotionDistance

    emotions = run.folds[0].emotions
    with torch.no_grad():
        initial_CC = EmotionDistance(emotions, run.setup.loss.margin, run.setup.loss.start)().double().numpy()
    known = all(emotion in VALENCE_AROUSAL for emotion in emotions)
    circumplex = np.array([VALENCE_AROUSAL[emotion] for emotion in emotions]) if known else None
    learned_CC = distances_FCC.mean(0)
    with style.context(STYLE):
        figure = Figure(figsize=(COLUMN, 6.0), layout="constrained")
        above, below = figure.subplots(2, 1)
        _distances(above, learned_CC, initial_CC, emotions)
        heading(figure, f"{title(corpus, run)}, mean of {len(distances_FCC)} of {len(run.planned)} folds")
        places, share = representations.classical_map(learned_CC)
        places = places if circumplex is None else representations.aligned(places, circumplex)
        initial = None
        if run.setup.loss.start == "valence_arousal" and circumplex is not None:
            initial = representations.aligned(representations.classical_map(initial_CC)[0], circumplex)
        _map(below, places, initial, emotions)
        below.set_title(f"2-D map ({100 * share:.0f} % of the variance)", loc="left")
    return figure


def _distances(
    axis: Axes, learned_CC: NDArray[np.float64], initial_CC: NDArray[np.float64], emotions: Sequence[str]
) -> None:
    """Learned distances below the diagonal, initial ones above it."""
    both = np.tril(learned_CC) + np.triu(initial_CC)
    np.fill_diagonal(both, np.nan)
    top = float(np.nanmax(both))
    matrix(axis, both, top, emotions)
    for (row, column), value in np.ndenumerate(both):
        if row != column:
            colour = "#ffffff" if value > 0.6 * top else "#0b1a2b"
            axis.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=SMALL, color=colour)
    axis.set_xlabel("distance (mean = 1): learned below\nthe diagonal, initial above it")


def _map(axis: Axes, places: NDArray[np.float64], initial: NDArray[np.float64] | None, emotions: Sequence[str]) -> None:
    lines = [Line2D([], [], color=BLUE, marker="o", markersize=4, linestyle="", label="learned")]
    if initial is not None:
        for before, after in zip(initial, places, strict=True):
            axis.plot(*zip(before, after, strict=True), color=INK, linewidth=0.6, zorder=1)
        axis.plot(*initial.T, "o", markersize=4, markerfacecolor="none", markeredgecolor=ORANGE, zorder=2)
        lines.append(
            Line2D(
                [], [], color=ORANGE, marker="o", markersize=4, linestyle="", markerfacecolor="none", label="initial"
            )
        )
    axis.plot(*places.T, "o", color=BLUE, markersize=4, zorder=3)
    centre = np.zeros_like(places) if initial is None else initial
    for (x, y), (_, before), emotion in zip(places, centre, emotions, strict=True):
        side = 1 if y >= before else -1  # away from the initial place, so that neither hides the other
        axis.annotate(
            emotion, (x, y), (0, 7 * side), textcoords="offset points", ha="center", va="center", fontsize=SMALL
        )
    axis.set_aspect("equal", adjustable="box")
    axis.margins(0.18)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.grid()
    axis.set(
        xlabel="valence (towards pleasant), in mean distances", ylabel="arousal (towards excited), in mean distances"
    )
    axis.legend(handles=lines, loc="best", fontsize=7)


def embeddings(corpus: CorpusResults) -> Figure:
    """A t-SNE map of the embeddings of one fold's test clips, coloured by emotion and by actor."""
    if not any(method.complete for method in corpus.leading):
        return empty("not run")
    candidates = (
        (run, fold, representations.read(corpus, run, fold))
        for method in corpus.leading
        for run in method.runs
        for fold in run.folds
    )
    found = next(((run, fold, clips) for run, fold, clips in candidates if clips), None)
    if found is None:
        return empty("the embeddings are missing")
    run, fold, clips = found
    if len(clips.unit) < 5:
        return empty("too few test clips for t-SNE")
    places = _tsne(clips.unit)
    measured = representations.measure(clips.distances, clips.emotions, clips.actors)
    with style.context(STYLE):
        actors = [str(actor) for actor in fold.actors]
        columns = 3 if len(actors) > 8 else 2
        lines = max(-(-len(fold.emotions) // 2), -(-len(actors) // columns))
        figure = Figure(figsize=(COLUMN, 2.25 + 0.14 * lines), layout="constrained")
        heading(figure, f"{title(corpus, run)}, fold {fold.fold}")
        left, right = figure.subplots(1, 2)
        _coloured(left, places, clips.emotions, fold.emotions, columns=2)
        _coloured(right, places, clips.actors.astype(str), actors, columns=columns)
        for axis, kind in ((left, "emotion"), (right, "actor")):
            axis.set_title(
                f"by {kind}\nsilhouette {measured[f'silhouette_{kind}']:z.2f}".replace("-", "−"),
                loc="left", fontsize=7.5, fontweight="normal",
            )  # fmt: skip
    return figure


def _tsne(unit: NDArray[np.float64]) -> NDArray[np.float64]:
    """t-SNE (scikit-learn) with a fixed seed, on a single thread, because its sums depend on the number of threads."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        mapped = TSNE(perplexity=min(30, (len(unit) - 1) / 3), init="pca", random_state=SEED).fit_transform(unit)
    return np.asarray(mapped)


def _coloured(
    axis: Axes, places: NDArray[np.float64], labels: NDArray[np.str_], names: Sequence[str], columns: int
) -> None:
    size = 2.8 if len(places) < 500 else 1.7  # points
    for number, name in enumerate(names):
        axis.plot(
            *places[labels == name].T, label=name, linestyle="", markersize=size, markeredgewidth=0,
            color=COLOURS[number % len(COLOURS)], marker=MARKERS[(number + number // len(COLOURS)) % len(MARKERS)],
        )  # fmt: skip
    axis.set(xticks=[], yticks=[], xlabel="t-SNE 1", ylabel="t-SNE 2")
    axis.xaxis.label.set_fontsize(SMALL)
    axis.yaxis.label.set_fontsize(SMALL)
    axis.set_aspect("equal")
    axis.set_box_aspect(1)
    axis.spines[:].set_visible(True)
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=columns, fontsize=SMALL, markerscale=4.5 / size,
        handletextpad=0.1, columnspacing=0.6, borderaxespad=0,
    )  # fmt: skip
