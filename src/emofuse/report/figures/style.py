"""The common style of all figures, and how they are saved.

Figures are readable at column width, on light and dark backgrounds, and with colour-vision deficiency. They are drawn
without pyplot, so that they work in any thread and none is left open. Saved files contain no date and no version: the
same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from emofuse.report.load import CorpusResults, Method, Run
from emofuse.utils.files import atomic

# The page replaces these two by the colours of its own light or dark scheme.
INK = "#1f2328"
GRID = "#d5dae0"
# From Okabe and Ito's palette for colour-vision deficiency; both stand out on white and on near-black.
BLUE = "#0077bb"
ORANGE = "#d9720b"

# Tol's bright palette and the ink, distinguishable with colour-vision deficiency, as the markers are.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999", INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

WIDTH = 7.0  # inches: the full text width, two panels side by side
COLUMN = 85 / 25.4  # inches: a column of a two-column page
SMALL = 6.5  # points: the smallest font size in figures of one column

STYLE: Any = [
    "default",
    {
        "font.family": "DejaVu Sans",
        "font.size": 8,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "svg.hashsalt": "emofuse",
    },
]


def save(figure: Figure, path: Path) -> None:
    """Write `path`.png (200 dpi) and `path`.svg, on a white background, without dates or versions."""
    with style.context(STYLE):
        _lay_out(figure)
        for suffix, metadata in ((".png", {"Software": None}), (".svg", _NO_METADATA)):
            with atomic(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, format=suffix[1:], dpi=200, facecolor="white", metadata=metadata)


def _lay_out(figure: Figure) -> None:
    """Lay out the axes once, rounded: the last bits of the solver's result differ from run to run and would show in an SVG."""
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes in figure.axes:
            axes.set_position(Bbox.from_extents(*np.round(axes.get_position(original=True).extents, 6)))


_NO_METADATA: dict[str, None] = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element for the page, in the page's colours and with unique ids."""
    buffer = io.StringIO()
    with style.context(STYLE):
        _lay_out(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    inches = figure.get_figwidth()
    size = f'style="max-width: {8.6 * inches:.1f}rem; min-width: {5 * inches:.1f}rem"'
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf"\1 {size}", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    # Several drawings share the page, and matplotlib numbers ids from 1 in each.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.strip()


def title(corpus: CorpusResults, shown: Method | Run) -> str:
    """The variant, with its protocol if there are several, and with the seed of a run if there are several."""
    parts = [shown.variant]
    if len({method.protocol for method in corpus.methods}) > 1:
        parts.append(shown.protocol)
    if isinstance(shown, Run) and len({run.seed for run in corpus.planned}) > 1:
        parts.append(f"seed {shown.seed}")
    return ", ".join(parts)


def heading(figure: Figure, text: str) -> None:
    """A left-aligned heading above all panels."""
    figure.suptitle(text, fontsize=8, fontweight="bold", x=0.02, ha="left")


def empty(message: str) -> Figure:
    """A figure that only says why there is nothing to draw."""
    figure = Figure(figsize=(COLUMN, 0.8))
    figure.text(0.5, 0.5, textwrap.fill(message, 46), ha="center", va="center", fontsize=8, color=INK)
    return figure


def legend(figure: Figure, lines: Sequence[Line2D]) -> None:
    """A common legend above all panels."""
    figure.legend(handles=list(lines), loc="outside upper center", ncols=len(lines))


def matrix(axis: Axes, values: NDArray[np.float64], top: float, names: Sequence[str]) -> None:
    """Draw a square matrix with colours from 0 to `top` and the same names on both axes; NaN cells stay blank."""
    axis.pcolormesh(values, cmap=colormaps["Blues"], vmin=0, vmax=top, edgecolors="white", linewidth=0.8)
    places = np.arange(len(names)) + 0.5
    axis.set_xticks(places, list(names), rotation=45, ha="right", rotation_mode="anchor")
    axis.set_yticks(places, list(names))
    axis.invert_yaxis()
    axis.set_aspect("equal")
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
