"""The attention figure: how a trained network weighs the parts of one test clip.

Faces and spectrograms are cut from the clips, which most corpora do not allow to publish: see `show_faces`.
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
from matplotlib.gridspec import SubplotSpec
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from emofuse.report import embeddings
from emofuse.report.figures.style import BLUE, COLUMN, INK, ORANGE, SMALL, STYLE, empty, heading, title
from emofuse.report.load import CorpusResults

if TYPE_CHECKING:
    from emofuse.report.attention import Attended


def attention(corpus: CorpusResults) -> Figure:
    """How a trained network weighs one test clip: positions of the face, snippets, and segments of the audio."""
    run = next((method.first for method in corpus.leading if method.complete), None)
    if run is None:
        return empty("not run")
    if run.setup.network.factory:
        return empty(f"{run.variant} is a network of its own, which does not tell its attention")
    models = ((fold, embeddings.model(corpus, run, fold)) for fold in run.folds)
    fold, path = next(((fold, path) for fold, path in models if path), (None, None))
    if fold is None or path is None:
        return empty("the models are missing, so their attention is unknown")

    from emofuse.report.attention import attend

    clip = attend(corpus, run, fold, path)
    if clip is None:
        return empty("the features of a test clip are missing")
    if not clip.weights:
        return empty(f"{run.variant} has no attention over positions or time")
    with style.context(STYLE):
        return draw_attention(clip, f"{title(corpus, run)}, fold {fold.fold}\n{clip.name}", shown=corpus.show_faces)


def draw_attention(clip: Attended, heading_text: str, shown: bool) -> Figure:
    """Draw the weights of a clip, and the clip itself if it may be `shown`, in the current style.

    One panel per moment. From top to bottom: faces with the weights of positions, weights of snippets, spectrograms,
    weights of segments.
    """
    spatial = clip.weights.get("spatial")
    bars = [key for key in ("video", "audio") if {key, f"fusion_{key}"} & clip.weights.keys()]
    faces = clip.faces if shown else None
    segments = clip.segments if shown else None
    snippets = len(spatial) if spatial is not None else len(faces) if faces is not None else 0
    heights = {
        "positions": 2.6 / snippets + 0.5 if snippets else 0,
        "video": 0.95 * ("video" in bars),
        "spectrograms": 0.85 * (segments is not None),
        "audio": 0.95 * ("audio" in bars),
    }
    rows = [row for row, height in heights.items() if height]
    figure = Figure(figsize=(COLUMN, 0.5 + sum(heights.values())), layout="constrained")
    grid = figure.add_gridspec(len(rows), 1, height_ratios=[heights[row] for row in rows])
    heading(figure, heading_text)
    for number, row in enumerate(rows):
        if row in bars:
            _bars(figure.add_subplot(grid[number]), clip, row)
        elif row == "positions":
            _positions(figure, _panels(figure, grid[number], snippets), faces, spatial)
        elif segments is not None:
            _spectrograms(_panels(figure, grid[number], len(segments)), segments)
    return figure


def _panels(figure: Figure, row: SubplotSpec, number: int) -> list[Axes]:
    """Panels beside each other."""
    cells = row.subgridspec(1, number)
    return [figure.add_subplot(cells[0, moment]) for moment in range(number)]


def _positions(
    figure: Figure, panels: Sequence[Axes], faces: NDArray[np.uint8] | None, spatial: NDArray[np.float64] | None
) -> None:
    """The weights of the positions of each snippet, on top of its middle frame if there is one."""
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
        bar.set_label("weight of a position (1 = uniform)", fontsize=SMALL)
        bar.ax.tick_params(labelsize=SMALL)
        bar.locator = MaxNLocator(4)
        bar.update_ticks()
    if faces is None:
        panels[0].set_ylabel("positions", fontsize=SMALL)


def _spectrograms(panels: Sequence[Axes], segments: NDArray[np.float64]) -> None:
    for moment, panel in enumerate(panels):
        panel.imshow(
            segments[moment], cmap="Greys", aspect="auto", origin="lower", vmin=segments.min(), vmax=segments.max()
        )
        panel.tick_params(labelsize=SMALL, labelleft=moment == 0)
        panel.set_xlabel("frame", fontsize=SMALL)
    panels[0].set_ylabel("mel band", fontsize=SMALL)


def _bars(axis: Axes, clip: Attended, modality: str) -> None:
    """The weights of each moment in the temporal attention and in the fusion."""
    shown = [
        (label, colour, clip.weights[key])
        for key, label, colour in ((modality, "temporal attention", BLUE), (f"fusion_{modality}", "fusion", ORANGE))
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
    axis.set_xlabel("face snippet" if modality == "video" else "audio segment", fontsize=7)
    axis.set_ylabel("weight\n(1 = uniform)", fontsize=7)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, fontsize=SMALL, borderaxespad=0)
