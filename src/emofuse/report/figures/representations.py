"""The figures of what the networks of the leading variant have learned, each a column wide.

Of real clips they show numbers alone: a face or a spectrogram is cut from the clip, and is not ours to pass on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from emofuse.report import embeddings as reading
from emofuse.report.figures.style import BLUE, COLUMN, INK, ORANGE, STYLE, empty, matrix, title
from emofuse.report.load import CorpusResults

if TYPE_CHECKING:
    from emofuse.report.attention import Attended

# Tol's bright colours and the ink: the colour-blind tell them apart, and markers do so too.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SMALL = 6.5  # points; the least that a figure of this width says
SEED = 1  # of t-SNE


def distances(corpus: CorpusResults) -> Figure:
    """The distances between emotions that were learned, mean over folds, beside where they started; and as a map."""
    run = next((run for run in corpus.leading if run.folds), None)
    if run is None:
        return empty("not run")
    if run.setup.loss.metric not in ("fixed", "learnable"):
        return empty(f"{run.variant} has no distances between emotions")
    learned_FCC = reading.emotion_distances(corpus, run)
    if not len(learned_FCC):
        return empty("the models are not here, so neither are the distances between emotions")

    import torch

    from emofuse.models.losses import VALENCE_AROUSAL, EmotionDistance

    emotions = run.folds[0].emotions
    with torch.no_grad():
        start_CC = EmotionDistance(emotions, run.setup.loss.margin, run.setup.loss.start)().double().numpy()
    circumplex = np.array([VALENCE_AROUSAL[emotion] for emotion in emotions])
    learned_CC = learned_FCC.mean(0)
    with style.context(STYLE):
        figure = Figure(figsize=(COLUMN, 6.0), layout="constrained")
        above, below = figure.subplots(2, 1)
        _distances(above, learned_CC, start_CC, emotions)
        _heading(figure, f"{title(corpus, run)}, mean of {len(learned_FCC)} of {len(run.planned)} folds")
        places, share = reading.classical_map(learned_CC)
        places = reading.turned(places, circumplex)
        started = None
        if run.setup.loss.start == "valence_arousal":
            started = reading.turned(reading.classical_map(start_CC)[0], circumplex)
        _map(below, places, started, emotions)
        below.set_title(f"as a map, which holds {100 * share:.0f} % of it", loc="left")
    return figure


def _heading(figure: Figure, text: str) -> None:
    figure.suptitle(text, fontsize=8, fontweight="bold", x=0.02, ha="left")


def _distances(
    axis: Axes, learned_CC: NDArray[np.float64], start_CC: NDArray[np.float64], emotions: Sequence[str]
) -> None:
    """Learned distances below the diagonal, those of the start above it."""
    both = np.tril(learned_CC) + np.triu(start_CC)
    np.fill_diagonal(both, np.nan)
    top = float(np.nanmax(both))
    matrix(axis, both, top, emotions)
    for (row, column), value in np.ndenumerate(both):
        if row != column:
            colour = "#ffffff" if value > 0.6 * top else "#0b1a2b"
            axis.text(column + 0.5, row + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=SMALL, color=colour)
    axis.set_xlabel("d, mean = 1: below the diagonal as\nlearned, above it as it started")


def _map(axis: Axes, places: NDArray[np.float64], started: NDArray[np.float64] | None, emotions: Sequence[str]) -> None:
    lines = [Line2D([], [], color=BLUE, marker="o", markersize=4, linestyle="", label="learned")]
    if started is not None:
        for before, after in zip(started, places, strict=True):
            axis.plot(*zip(before, after, strict=True), color=INK, linewidth=0.6, zorder=1)
        axis.plot(*started.T, "o", markersize=4, markerfacecolor="none", markeredgecolor=ORANGE, zorder=2)
        lines.append(
            Line2D([], [], color=ORANGE, marker="o", markersize=4, linestyle="", markerfacecolor="none", label="start")
        )
    axis.plot(*places.T, "o", color=BLUE, markersize=4, zorder=3)
    centre = np.zeros_like(places) if started is None else started
    for (x, y), (_, before), emotion in zip(places, centre, emotions, strict=True):
        side = 1 if y >= before else -1  # away from where it started, so that neither hides the other
        axis.annotate(
            emotion, (x, y), (0, 7 * side), textcoords="offset points", ha="center", va="center", fontsize=SMALL
        )
    axis.set_aspect("equal", adjustable="box")
    axis.margins(0.18)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.grid()
    axis.set(xlabel="towards pleasant, in mean distances", ylabel="towards aroused, in mean distances")
    axis.legend(handles=lines, loc="best", fontsize=7)


def embeddings(corpus: CorpusResults) -> Figure:
    """The test clips of one fold as t-SNE lays out their embeddings, coloured by emotion and by actor."""
    if not any(run.folds for run in corpus.leading):
        return empty("not run")
    read = ((run, fold, reading.read(corpus, run, fold)) for run in corpus.leading for fold in run.folds)
    found = next(((run, fold, clips) for run, fold, clips in read if clips), None)
    if found is None:
        return empty("the embeddings are not here")
    run, fold, clips = found
    if len(clips.unit) < 5:
        return empty("too few test clips for a map")
    places = _tsne(clips.unit)
    measured = reading.measure(clips.distances(), clips.emotions, clips.actors)
    with style.context(STYLE):
        actors = [str(actor) for actor in fold.actors]
        columns = 3 if len(actors) > 8 else 2
        lines = max(-(-len(fold.emotions) // 2), -(-len(actors) // columns))
        figure = Figure(figsize=(COLUMN, 2.25 + 0.14 * lines), layout="constrained")
        _heading(figure, f"{title(corpus, run)}, fold {fold.fold}")
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
    """t-SNE (scikit-learn's) with a fixed seed; by one thread, because its sums depend on how many share them."""
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
    axis.set(xticks=[], yticks=[], xlabel="t-SNE 1, no unit", ylabel="t-SNE 2, no unit")
    axis.xaxis.label.set_fontsize(SMALL)
    axis.yaxis.label.set_fontsize(SMALL)
    axis.set_aspect("equal")
    axis.set_box_aspect(1)
    axis.spines[:].set_visible(True)
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=columns, fontsize=SMALL, markerscale=4.5 / size,
        handletextpad=0.1, columnspacing=0.6, borderaxespad=0,
    )  # fmt: skip


def attention(corpus: CorpusResults) -> Figure:
    """What a trained network weighs of one test clip: positions of the face, snippets, segments of the sound."""
    run = next((run for run in corpus.leading if run.folds), None)
    if run is None:
        return empty("not run")
    models = ((fold, reading.model(corpus, run, fold)) for fold in run.folds)
    fold, path = next(((fold, path) for fold, path in models if path), (None, None))
    if fold is None or path is None:
        return empty("the models are not here, so neither is what they attend to")

    from emofuse.report import attention as clips

    clip = clips.attend(corpus, run, fold, path)
    if clip is None:
        return empty("the features of a test clip are not here")
    if not clip.weights:
        return empty(f"{run.variant} has no attention over positions or moments")
    with style.context(STYLE):
        return attended(clip, f"{title(corpus, run)}, fold {fold.fold}\n{clip.name}", shown=corpus.kind == "demo")


def attended(clip: Attended, heading: str, shown: bool) -> Figure:
    """What a network weighs of a clip, and the clip where that may be `shown`; in the style that holds.

    One column a moment: faces and the weights of their positions, weights of snippets, sound, weights of segments.
    """
    spatial, moments = clip.weights.get("spatial"), len(next(iter(clip.weights.values())))
    bars = [key for key in ("video", "audio") if {key, f"fusion_{key}"} & clip.weights.keys()]
    faces = clip.faces if shown else None
    segments = clip.segments if shown else None
    heights = {
        "positions": 2.6 / moments + 0.5 if spatial is not None or faces is not None else 0,
        "video": 0.95 * ("video" in bars),
        "sound": 0.85 * (segments is not None),
        "audio": 0.95 * ("audio" in bars),
    }
    rows = [row for row, height in heights.items() if height]
    figure = Figure(figsize=(COLUMN, 0.5 + sum(heights.values())), layout="constrained")
    grid = figure.add_gridspec(len(rows), moments, height_ratios=[heights[row] for row in rows])
    _heading(figure, heading)
    for number, row in enumerate(rows):
        if row in bars:
            _bars(figure.add_subplot(grid[number, :]), clip, row)
        else:
            panels = [figure.add_subplot(grid[number, moment]) for moment in range(moments)]
            if row == "positions":
                _positions(figure, panels, faces, spatial)
            elif segments is not None:
                _sound(panels, segments)
    return figure


def _positions(
    figure: Figure, panels: Sequence[Axes], faces: NDArray[np.uint8] | None, spatial: NDArray[np.float64] | None
) -> None:
    """The weights of each snippet's positions, over its middle frame where that may be shown."""
    for moment, panel in enumerate(panels):
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        panel.set_title(f"snippet {moment + 1}" if len(panels) < 5 else str(moment + 1), fontsize=SMALL)
        if faces is not None:
            panel.imshow(faces[moment], extent=(0, 1, 0, 1))
        if spatial is not None:
            panel.imshow(
                spatial[moment], cmap="viridis", vmin=spatial.min(), vmax=spatial.max(),
                alpha=None if faces is None else 0.45, extent=(0, 1, 0, 1), interpolation="nearest",
            )  # fmt: skip
    if spatial is not None:
        scale = ScalarMappable(Normalize(spatial.min(), spatial.max()), "viridis")
        bar = figure.colorbar(scale, ax=list(panels), location="bottom", aspect=35, pad=0.03)
        bar.set_label("weight of a position, 1 = even", fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
    if faces is None:
        panels[0].set_ylabel("positions", fontsize=SMALL)


def _sound(panels: Sequence[Axes], segments: NDArray[np.float64]) -> None:
    for moment, panel in enumerate(panels):
        panel.imshow(
            segments[moment], cmap="Greys", aspect="auto", origin="lower", vmin=segments.min(), vmax=segments.max()
        )
        panel.tick_params(labelsize=SMALL, labelleft=moment == 0)
        panel.set_xlabel("spectrum no.", fontsize=SMALL)
    panels[0].set_ylabel("mel band no.", fontsize=SMALL)


def _bars(axis: Axes, clip: Attended, modality: str) -> None:
    """Weights by moment: of the attention over time, and of the fusion."""
    shown = [
        (label, colour, clip.weights[key])
        for key, label, colour in ((modality, "over time", BLUE), (f"fusion_{modality}", "fusion", ORANGE))
        if key in clip.weights
    ]
    for number, (label, colour, weights) in enumerate(shown):
        places = np.arange(1, len(weights) + 1) + 0.36 * (number - (len(shown) - 1) / 2)
        axis.bar(places, weights, width=0.34, color=colour, label=label)
    moments = len(shown[0][2])
    axis.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axis.set_xlim(0.5, moments + 0.5)
    axis.set_xticks(range(1, moments + 1))
    axis.yaxis.set_major_locator(MaxNLocator(3))
    axis.grid(axis="y")
    axis.tick_params(labelsize=SMALL)
    axis.set_xlabel("snippet of the face" if modality == "video" else "segment of the sound", fontsize=7)
    axis.set_ylabel("weight,\n1 = even", fontsize=7)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, fontsize=SMALL, borderaxespad=0)
