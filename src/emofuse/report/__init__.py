"""The report of a corpus, and the paper's over all of its corpora: from result files to what a person reads.

The layers, each of which knows only those before it: `statistics` (numbers from numbers), `assumptions` and
`results` (plain objects from files), `embeddings` and `attention` (what is big, read when it is asked for), `tables`, in
the formats of `table` and `latex`, and `figures` and `learned`, in the one `style` (from plain objects), `page` and
`document` (from both).
The same input files give the same bytes: nothing here reads a clock.

This module is imported by the workflow to learn what the stage writes, so it imports nothing big.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emofuse.params import Params
    from emofuse.report.results import CorpusResults
    from emofuse.report.table import Table

TABLES = (
    "main", "modality", "attention", "fusion", "loss", "compactness", "literature", "audit", "recall", "calibration",
    "folds", "search", "assumptions",
)  # fmt: skip
PAPER = ("modality", "attention", "fusion", "loss", "compactness", "literature", "audit", "recall", "assumptions")
FIGURES = ("confusion", "calibration", "learning_curves", "folds", "distances", "embeddings", "attention")


def outputs(corpus_name: str) -> list[str]:
    """Every file that `build` writes for a corpus, from the repository's root; the same whatever was run."""
    base = f"results/{corpus_name}"
    return [
        *(f"{base}/tables/{table}.{suffix}" for table in TABLES for suffix in ("md", "csv", "tex")),
        *(f"{base}/figures/{figure}.{suffix}" for figure in FIGURES for suffix in ("png", "svg")),
        f"{base}/report.html",
    ]


def paper_outputs() -> list[str]:
    """Every file that `paper` writes."""
    return [f"results/paper.{suffix}" for suffix in ("md", "html", "tex")]


def build(corpus_name: str, params: Params, root: Path) -> None:
    """Write the tables, figures and page of one corpus from the result files under `root`.

    What has no run behind it says "not run"; a corpus with no run at all still gets its report.
    Raises `UserError` for a result file that is broken, contradicts its neighbours, or was made
    from other clips or folds than those on disk.
    """
    from emofuse.files import write_text
    from emofuse.report import figures, page, style

    corpus, made = compute(corpus_name, params, root)
    base = root / "results" / corpus_name
    for name, table in made.items():
        write_text(base / "tables" / f"{name}.md", table.markdown())
        write_text(base / "tables" / f"{name}.csv", table.csv())
        write_text(base / "tables" / f"{name}.tex", table.latex())
    drawings = {}
    for name in FIGURES:
        figure = getattr(figures, name)(corpus)
        style.save(figure, base / "figures" / name)
        drawings[name] = style.inline_svg(figure, name)
    write_text(base / "report.html", page.render(corpus, made, drawings))


def compute(corpus_name: str, params: Params, root: Path) -> tuple[CorpusResults, dict[str, Table]]:
    """The results of a corpus, and its tables by name. Raises as `build` does."""
    from emofuse.report import results, tables

    corpus = results.read(corpus_name, params, root)
    return corpus, {name: getattr(tables, name)(corpus) for name in TABLES}


def paper(params: Params, root: Path) -> None:
    """Write the paper's tables over its corpora, in the order of params.yaml, as Markdown, page and LaTeX document.

    What has no run behind it says "not run"; raises as `build` does.
    """
    from emofuse.files import write_text
    from emofuse.report import document, page, results, tables

    corpora = [results.read(name, params, root) for name in params.paper]
    overview = tables.paper(corpora)
    made = {corpus.name: {name: getattr(tables, name)(corpus) for name in PAPER} for corpus in corpora}
    write_text(root / "results" / "paper.md", document.markdown(corpora, overview, made))
    write_text(root / "results" / "paper.html", page.paper(corpora, overview, made))
    write_text(root / "results" / "paper.tex", document.tex(corpora, overview, made))
