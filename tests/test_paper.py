"""The paper's tables as Markdown and LaTeX documents, and every table as LaTeX."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import changed, make_params, quick, write_csv, write_demo, write_ravdess

from emofuse import paths, report
from emofuse.config import Params
from emofuse.report import latex, table

PACKAGES = "array,booktabs,graphicx,longtable"
TITLES = (
    "Modalities", "Attention", "Fusion", "Loss", "Compactness of the embeddings", "Published results",
    "Speaker overlap", "Recall by emotion in %", "Assumptions",
)  # fmt: skip
CORPORA = {"ravdess": "RAVDESS, audio-video speech", "cremad": "CREMA-D"}
needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Params, Path]:
    """RAVDESS is run except for two variants and a fold; CREMA-D is not run."""
    root = tmp_path_factory.mktemp("paper")
    params = make_params(root)
    write_ravdess(root, variants=("proposed", "audio_only", "concat_fusion"))
    shutil.rmtree(root / "results/ravdess/runs/luna_jimenez_2022_5cv/concat_fusion/seed-1/fold-2")
    report.build_paper(params, root)
    return params, root


@pytest.fixture(scope="module")
def unrun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A paper without any runs."""
    root = tmp_path_factory.mktemp("unrun")
    report.build_paper(make_params(root), root)
    return root


def written(root: Path, suffix: str) -> str:
    return (root / f"results/paper.{suffix}").read_text(encoding="utf-8")


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def test_paper_has_all_tables_in_order(project: tuple[Params, Path]) -> None:
    _, root = project
    expected = ["Main result, all corpora of the paper", *(f"{t}, {c}" for t in TITLES for c in CORPORA.values())]
    assert re.findall(r"^## (.*)$", unescaped(written(root, "md")), flags=re.MULTILINE) == expected
    text = written(root, "tex")
    assert re.findall(r"\\caption\[\{(.*?)\}\]", text) == [latex.escape(title) for title in expected]
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(set(labels)) == len(labels) == len(expected)
    html = written(root, "html")
    for title in CORPORA.values():
        assert title in html


def test_paper_states_what_was_not_run(project: tuple[Params, Path]) -> None:
    _, root = project
    text = unescaped(written(root, "md"))
    assert "RAVDESS, audio-video speech: 14 of 25 folds were run." in text
    assert "CREMA-D: not run." in text
    main = text[text.index("## Main result") : text.index("## Modalities")]
    rows = [line for line in main.splitlines() if line.startswith(("| RAVDESS", "| CREMA-D"))]
    assert [("not run" in row) for row in rows] == [False, False, True, False, True] + [True] * 5
    assert "concat_fusion (luna_jimenez_2022_5cv): without fold 2; computed from fold 0–1, 3–4" in main
    assert "Verdict: equivalent if the 90 % interval" in main
    assert main.count("89.25") == main.count("84.57") == 1


def test_shared_notes_are_printed_once_in_markdown_but_with_each_latex_table(project: tuple[Params, Path]) -> None:
    params, root = project
    assert unescaped(written(root, "md")).count("two-sided permutation test") == 1
    text = written(root, "tex")
    by_name, _ = quick("ravdess", params, root)
    for name in report.PAPER_TABLES:
        alone = latex.table(by_name[name]).replace(rf"\label{{tab:{name}}}", rf"\label{{tab:{name}-ravdess}}")
        assert alone in text, name
        for note in by_name[name].notes:
            assert latex.escape(note) in alone


def test_paper_without_runs_is_complete(unrun: Path) -> None:
    for suffix in ("md", "html", "tex"):
        text = written(unrun, suffix)
        assert text.count("not run") > 20
        assert "89.25" in text
        assert "84.57" in text
    assert re.search(r"^\|.*\d ± ", written(unrun, "md"), flags=re.MULTILINE) is None


def test_paper_of_synthetic_clips_starts_with_a_warning(tmp_path: Path) -> None:
    make_params(tmp_path)
    file = tmp_path / "params.yaml"
    file.write_text(file.read_text().replace("- ravdess\n- cremad\n", "- demo\n"))
    params = changed(file, {}, "demo")
    assert params.paper == ["demo"]
    write_demo(tmp_path, variants=("proposed",))
    report.build_paper(params, tmp_path)
    text = written(tmp_path, "md")
    assert text.index("say nothing about the paper") < text.index("± ")
    captions = re.findall(r"\\caption\[.*", written(tmp_path, "tex"))
    assert len(captions) == 10
    assert all(r"\textbf{These numbers say nothing about the paper" in caption for caption in captions)


def long_table(rows: int, widths: tuple[float, ...] = ()) -> table.Table:
    cells = pd.DataFrame([["proposed", "55.0 ± 5.3\n[49.9, 59.7]"]] * rows, columns=["variant", "war"])
    variant, war = widths or (0.0, 0.0)
    columns = [table.Column("Variant", "variant", width=variant), table.Column("WAR %", "war", numeric=True, width=war)]
    return table.Table("t", "Title", cells, columns, ["A note."])


def test_long_tables_and_prose_break_across_pages() -> None:
    short, long, prose = (latex.table(shown) for shown in (long_table(5), long_table(40), long_table(5, (0.5, 0.5))))
    assert r"\begin{table}" in short
    assert "longtable}" not in short.split("\n", 1)[1]
    for text in (long, prose):
        assert r"\begin{longtable}" in text
        assert r"\begin{table}" not in text
        assert text.count(r"\toprule") == 2  # again on each further page
        shares = [float(share) for share in re.findall(r"\\dimexpr ([\d.]+)\\textwidth", text)]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert all(text.startswith(rf"% \usepackage{{{PACKAGES}}}") for text in (short, long, prose))


def test_table_without_rows_has_title_and_notes_only() -> None:
    text = latex.table(long_table(0))
    assert "tabular" not in text
    assert "A note." in text
    assert "WAR" not in text


@given(st.text(max_size=30))
def test_special_characters_of_latex_are_escaped(text: str) -> None:
    escaped = re.sub(r"\\[A-Za-z]+\{\}|\\[{}&%$#_]|\$\\?[A-Za-z\-]+\$", "", latex.escape(text).replace("-{}", "-"))
    assert not set(escaped.removeprefix("{[}").removeprefix("{*}")) & set("{}&%$#_~^\\")
    assert all(" " <= character <= "ž" for character in escaped)  # what T1 fonts have
    assert latex.escape(text)[:1] not in ("[", "*")  # the end of the row above would take it as its own


def test_double_dashes_and_breaks_of_long_names() -> None:
    assert latex.escape("--config 1–3") == r"-{}-config 1\textendash{}3"
    assert latex.escape("training.learning_rate") == r"training.\allowbreak{}learning\_\allowbreak{}rate"
    assert latex.escape("89.25") == "89.25"
    assert latex.escape("Rădoi, 中") == "Rădoi, [U+4E2D]"


def compiled(folder: Path, text: str) -> str:
    """The log of pdflatex, which must not report errors or overfull lines."""
    (folder / "t.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    for _ in range(2):  # the list of tables and the columns of a longtable are right the second time
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    log = (folder / "t.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert re.findall(r"^(?:Overfull|LaTeX Warning|Missing character).*", log, flags=re.MULTILINE) == []
    return log


@needs_latex
def test_the_paper_compiles(project: tuple[Params, Path], tmp_path: Path) -> None:
    _, root = project
    pages = re.search(r"Output written on t\.pdf \((\d+) pages", compiled(tmp_path, written(root, "tex")))
    assert pages is not None
    assert int(pages[1]) > 5


@needs_latex
def test_paper_without_runs_compiles(unrun: Path, tmp_path: Path) -> None:
    compiled(tmp_path, written(unrun, "tex"))


@needs_latex
def test_every_table_compiles_in_another_document(project: tuple[Params, Path], tmp_path: Path) -> None:
    params, root = project
    row = {"overrides": '{"loss": {"weight": 1}}', "epochs": 12, "war": 0.71, "uar": 0.695, "seconds": 61.2}
    row |= {"config": "wide", "protocol": "luna_jimenez_2022_5cv", "seed": 1, "fold": 0}
    write_csv(root / "results/ravdess/search.csv", [row])
    by_name, _ = quick("ravdess", params, root)
    tables = "\n".join(latex.table(by_name[name]) for name in paths.TABLES)
    compiled(
        tmp_path,
        r"\documentclass[a4paper]{article}\usepackage[T1]{fontenc}\usepackage[landscape,margin=2cm]{geometry}"
        rf"\usepackage{{{PACKAGES}}}\begin{{document}}{tables}\end{{document}}",
    )


@needs_latex
def test_any_text_compiles(tmp_path: Path) -> None:
    lines = [latex.escape(" ".join(chr(code) for code in range(first, first + 16))) for first in range(0x20, 0x200, 16)]
    lines += [
        latex.escape(text) for text in ("± × − – — … ’ → ≤ ≥ ≈ Σ 中文 \x01 e\u0301", r"a_b|c&d%$#{x}~^\ <s>*_[1]")
    ]
    compiled(tmp_path, "\n\n".join([latex.PREAMBLE, r"\begin{document}", *lines, r"\end{document}"]))
