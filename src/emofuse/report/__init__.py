"""The report of a corpus, and the paper's over all of its corpora: from result files to what a person reads.

The layers, each of which knows only those before it: `statistics` (numbers from numbers), `assumptions` and
`results` (plain objects from files), `embeddings` and `attention` (what is big, read when it is asked for), `tables`, in
the formats of `table` and `latex`, and `figures` and `learned`, in the one `style` (from plain objects), `page` and
`document` (from both).
The same input files give the same bytes: nothing here reads a clock.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse import paths
from emofuse.data import shards
from emofuse.paths import FIGURES, TABLES
from emofuse.provenance.job import job

PAPER_TABLES = (
    "modality", "attention", "fusion", "loss", "compactness", "literature", "audit", "recall", "assumptions",
)  # fmt: skip

if TYPE_CHECKING:
    from emofuse.config import Params
    from emofuse.report.load import CorpusResults
    from emofuse.report.table import Table


def stage(params: Params, corpus: str, root: Path = Path()) -> None:
    """`emofuse report`: write a corpus's tables, figures, page and summary to results/<corpus>/."""
    inputs = [*run_files(params, corpus, root), *paths.LITERATURE]
    # One clip of them is read, for the figure of the attention.
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
    """What a report is made from that is here: the splits, and what each fold of a corpus left."""
    files = [file for protocol in params.corpus(corpus).protocols for file in paths.splits(corpus, protocol)]
    for key in params.keys(corpus):
        if (root / key.metrics).is_file():
            files += [*key.trained, key.training_record, *key.scored, key.evaluation_record]
    files.append(paths.search(corpus))
    return [file for file in files if (root / file).is_file()]


def build(corpus_name: str, params: Params, root: Path) -> None:
    """Write the tables, figures and page of one corpus from the result files under `root`.

    What has no run behind it says "not run"; a corpus with no run at all still gets its report.
    Raises `UserError` for a result file that is broken or contradicts its neighbours.
    """
    from emofuse.report import figures, page
    from emofuse.report.figures import style
    from emofuse.utils.files import write_json, write_text

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
    write_json(root / paths.summary(corpus_name), summary(corpus))


def summary(corpus: CorpusResults) -> dict[str, Any]:
    """The scores of every run, for `dvc metrics`: {protocol: {variant: {seed: {war, uar, macro_f1, folds}}}}."""
    found: dict[str, Any] = {}
    for run in corpus.planned:
        if run.folds:
            scores = {metric: round(estimate.mean, 6) for metric, estimate in run.estimates.items()}
            of_variant = found.setdefault(run.protocol, {}).setdefault(run.variant, {})
            of_variant[f"seed-{run.seed}"] = {**scores, "folds": len(run.folds)}
    return found


def compute(corpus_name: str, params: Params, root: Path) -> tuple[CorpusResults, dict[str, Table]]:
    """The results of a corpus, and its tables by name. Raises as `build` does."""
    from emofuse.report import load as results
    from emofuse.report import tables

    corpus = results.read(corpus_name, params, root)
    return corpus, {name: getattr(tables, name)(corpus) for name in TABLES}


def build_paper(params: Params, root: Path) -> None:
    """Write the paper's tables over its corpora, in the order of params.yaml, as Markdown, page and LaTeX document.

    What has no run behind it says "not run"; raises as `build` does.
    """
    from emofuse.report import load as results
    from emofuse.report import page, tables
    from emofuse.report import paper as document
    from emofuse.utils.files import write_text

    corpora = [results.read(name, params, root) for name in params.paper]
    overview = tables.paper(corpora)
    made = {corpus.name: {name: getattr(tables, name)(corpus) for name in PAPER_TABLES} for corpus in corpora}
    write_text(root / "results" / "paper.md", document.markdown(corpora, overview, made))
    write_text(root / "results" / "paper.html", page.paper(corpora, overview, made))
    write_text(root / "results" / "paper.tex", document.tex(corpora, overview, made))
