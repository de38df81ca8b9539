"""The report of a corpus, and the paper's tables over all of its corpora.

`load` reads result files into objects; `embeddings` and `attention` read large files on demand. From those objects,
`tables` and `figures` are made, and from tables and figures `page`, `paper` and `latex` make documents. The same input
files give the same bytes: nothing depends on the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse import paths
from emofuse.datasets import shards
from emofuse.provenance.job import job

if TYPE_CHECKING:
    from emofuse.config import Params
    from emofuse.report.load import CorpusResults
    from emofuse.report.table import Table

PAPER_TABLES = (
    "modality", "attention", "fusion", "loss", "compactness", "literature", "audit", "recall", "assumptions",
)  # fmt: skip


def stage(params: Params, corpus: str, root: Path = Path()) -> None:
    """`emofuse report`: write a corpus's tables, figures, page and summary to results/<corpus>/."""
    inputs = [*run_files(params, corpus, root), *paths.LITERATURE]
    # The attention figure reads one clip of them.
    inputs += [
        file for pair in shards.features(corpus, params.corpus(corpus)) for file in pair if (root / file).is_file()
    ]
    record = paths.record_in(f"results/{corpus}")
    with job("report", params, {"corpus": corpus}, record, inputs, paths.report(corpus), root):
        build(corpus, params, root)


def paper_stage(params: Params, root: Path = Path()) -> None:
    """`emofuse paper`: write the paper's tables over its corpora to results/paper.md, paper.html and paper.tex."""
    inputs = [*(file for corpus in params.paper for file in run_files(params, corpus, root)), *paths.LITERATURE]
    with job("paper", params, {}, paths.record(paths.PAPER[0]), inputs, paths.PAPER, root):
        build_paper(params, root)


def run_files(params: Params, corpus: str, root: Path) -> list[str]:
    """The files on disk from which a report is made: splits, and the models, results and records of evaluated folds.

    Those of other corpora's models are the results alone.
    """
    files = [file for protocol in params.corpus(corpus).protocols for file in paths.splits(corpus, protocol)]
    for key in params.keys(corpus):
        if (root / key.metrics).is_file():
            files += [*key.trained, key.training_record, *key.scored, key.evaluation_record]
    for transfer in params.transfers(corpus):
        if (root / transfer.metrics).is_file():
            files += [*transfer.scored, transfer.record]
    files.append(paths.search(corpus))
    return [file for file in files if (root / file).is_file()]


def build(corpus_name: str, params: Params, root: Path) -> None:
    """Write the tables, figures and page of a corpus from the result files under `root`.

    Whatever has not been run is shown as "not run", even if that is everything.
    Raises `UserError` for a result file that is broken or contradicts another.
    """
    from emofuse.report import figures, latex, page
    from emofuse.report.figures import style
    from emofuse.utils.files import write_json, write_text

    corpus, tables = compute(corpus_name, params, root)
    base = root / "results" / corpus_name
    for name, table in tables.items():
        write_text(base / "tables" / f"{name}.md", table.markdown())
        write_text(base / "tables" / f"{name}.csv", table.csv())
        write_text(base / "tables" / f"{name}.tex", latex.table(table))
    drawings = {}
    for name, draw in figures.ALL.items():
        figure = draw(corpus)
        style.save(figure, base / "figures" / name)
        drawings[name] = style.inline_svg(figure, name)
    write_text(base / "report.html", page.render(corpus, tables, drawings))
    write_json(root / paths.summary(corpus_name), summary(corpus))


def summary(corpus: CorpusResults) -> dict[str, Any]:
    """The scores of every variant, for `dvc metrics`: {protocol: {variant: {war, uar, macro_f1, seeds, folds}}}."""
    found: dict[str, Any] = {}
    for method in (*corpus.methods, *corpus.random_methods):
        if method.complete:
            scores = {metric: round(estimate.mean, 6) for metric, estimate in method.estimates.items()}
            counts = {"seeds": len(method.seeds), "folds": len(method.folds)}
            found.setdefault(method.protocol, {})[method.variant] = scores | counts
    return found


def compute(corpus_name: str, params: Params, root: Path) -> tuple[CorpusResults, dict[str, Table]]:
    """The results of a corpus, and its tables by name. Raises as `build` does."""
    from emofuse.report import load, tables

    corpus = load.read(corpus_name, params, root)
    return corpus, {name: make(corpus) for name, make in tables.ALL.items()}


def build_paper(params: Params, root: Path) -> None:
    """Write the paper's tables over its corpora, in the order of params.yaml, as Markdown, HTML and LaTeX.

    Whatever has not been run is shown as "not run". Raises as `build` does.
    """
    from emofuse.report import load, page, paper, tables
    from emofuse.utils.files import write_text

    corpora = [load.read(name, params, root) for name in params.paper]
    overview = tables.paper(corpora)
    by_corpus = {corpus.name: {name: tables.ALL[name](corpus) for name in PAPER_TABLES} for corpus in corpora}
    write_text(root / "results" / "paper.md", paper.markdown(corpora, overview, by_corpus))
    write_text(root / "results" / "paper.html", page.paper(corpora, overview, by_corpus))
    write_text(root / "results" / "paper.tex", paper.tex(corpora, overview, by_corpus))
