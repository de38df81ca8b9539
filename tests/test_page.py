"""The report's pages in a real browser: what a reader sees, clicks and prints."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import micro
import pandas as pd
import pytest
from test_report import (
    COMPARISONS,
    make_params,
    quick,
    ravdess_clips,
    write_clips,
    write_csv,
    write_demo,
    write_ravdess,
)

from emofuse import paths
from emofuse.config import Params
from emofuse.paths import RunKey
from emofuse.provenance.records import Record
from emofuse.report import load, page, provenance, table, tables
from emofuse.report.figures import style

ROOT = Path(__file__).resolve().parents[1]
RUN = "kfold_3/proposed/seed-1"


class Found(HTMLParser):
    """Collects every attribute that could make a browser send a request, and every id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.links.append((tag, value or ""))
            if name == "id":
                self.ids.append(value or "")


def visible(html: str) -> str:
    """The text of a page, without script and style."""
    return re.sub(r"<(script|style)>.*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)


ODD = [
    # WAR, time, number, text
    ("89.1 ± 2.0\n[87.0, 91.2]", "1 h 05 min", "1,440", "fold 10"),
    ("not run", "–", "–", ""),
    ("9.5 ± 0.1\n[9.0, 9.9]", "59 s", "−1.2", "fold 9"),
    ("–", "2 min 00 s", "0.001", "not run"),
    ("100.0", "1 min 59 s", "< 0.001", "Fold 11"),
    ("9.5", "1 h 04 min", "+0.5", "apart"),
]


def odd_table() -> table.Table:
    """A table with all kinds of cells."""
    names = ["WAR %", "Time", "Number", "Text", ""]
    columns = [table.Column(name, name, numeric=name not in ("Text", "")) for name in names]
    return table.Table("search", "Odd", pd.DataFrame([[*row, "x"] for row in ODD], columns=names), columns)


def pages(root: Path) -> tuple[str, str, str]:
    """The pages of the demo (partly run), of a corpus without runs, and of a paper with both."""
    params = make_params(root)
    write_demo(root, variants=("proposed", "video_only"))
    shutil.rmtree(root / "results/demo/runs/kfold_3/video_only/seed-1/fold-1")
    drawings = {name: style.inline_svg(style.empty(name), name) for name in paths.FIGURES}
    corpora = [load.read(name, params, root) for name in ("demo", "ravdess")]
    by_name = {read.name: {name: make(read) for name, make in tables.ALL.items()} for read in corpora}
    demo, none = (
        page.render(
            replace(c, search=pd.DataFrame([{"config": "odd"}])), by_name[c.name] | {"search": odd_table()}, drawings
        )
        for c in corpora
    )
    return demo, none, page.paper(corpora, tables.paper(corpora), by_name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with demo/report.html, ravdess/report.html and paper.html."""
    root = tmp_path_factory.mktemp("page")
    for name, html in zip(("demo/report", "ravdess/report", "paper"), pages(root), strict=True):
        file = root / "results" / f"{name}.html"
        file.parent.mkdir(exist_ok=True)
        file.write_text(html)
    return root / "results"


NAMES = ("demo/report", "ravdess/report", "paper")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    browser = shutil.which("chromium")
    if browser is None:
        message = "no chromium: install it to see the report's pages tested"
        if os.environ.get("EMOFUSE_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def show(chromium: Any, built: Path) -> Iterator[Any]:
    """Opens a page of the report. At the end, no other URL may have been requested and no error logged."""
    contexts, requests, errors = [], [], []

    def opened(name: str = "demo/report", width: int = 1280, **options: Any) -> Any:
        contexts.append(chromium.new_context(viewport={"width": width, "height": 800}, **options))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(120_000)
        tab.route("**/*", lambda route: (requests.append(route.request.url), route.continue_()))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
        tab.goto((built / f"{name}.html").as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert not errors
    assert all(url.startswith(built.as_uri()) and url.endswith(".html") for url in requests)


@pytest.mark.parametrize("name", NAMES)
def test_page_makes_no_requests(built: Path, show: Any, name: str) -> None:
    html = (built / f"{name}.html").read_text()
    found = Found(html)
    assert len(set(found.ids)) == len(found.ids)
    assert {link[1:] for _, link in found.links if link.startswith("#")} <= set(found.ids)
    others = {link.partition("#")[0] for _, link in found.links if not link.startswith(("#", "data:"))}
    assert others == ({"demo/report.html", "ravdess/report.html"} if name == "paper" else set())
    assert "@import" not in html
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)\)", html))
    tab = show(name)
    assert tab.evaluate("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0


def test_only_the_pages_own_script_runs(built: Path, chromium: Any) -> None:
    html = (built / "demo/report.html").read_text()
    [script] = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html
    tab = chromium.new_page()
    tab.goto((built / "demo/report.html").as_uri())
    assert tab.locator("th button").count() > 20
    tab.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'}))"
    )
    assert tab.title() == "demo, made faces and voices · emofuse"
    tab.close()


def column(tab: Any, number: int) -> list[str]:
    """The cells of a column of the odd table, in their current order."""
    cells = tab.locator(f"#table-search tbody td:nth-child({number})")
    return [cell.partition("\n")[0].strip() for cell in cells.all_inner_texts()]


@pytest.mark.parametrize(
    ("number", "rising"),
    [
        (1, ["9.5 ± 0.1", "9.5", "89.1 ± 2.0", "100.0", "not run", "–"]),
        (2, ["59 s", "1 min 59 s", "2 min 00 s", "1 h 04 min", "1 h 05 min", "–"]),
        (3, ["−1.2", "< 0.001", "0.001", "+0.5", "1,440", "–"]),
        (4, ["apart", "fold 9", "fold 10", "Fold 11", "", "not run"]),
    ],
    ids=["score", "time", "number", "text"],
)
def test_tables_sort_by_value(show: Any, number: int, rising: list[str]) -> None:
    tab = show()
    original = column(tab, number)
    header = tab.locator(f"#table-search th:nth-child({number})")
    header.locator("button").click()
    assert (column(tab, number), header.get_attribute("aria-sort")) == (rising, "ascending")
    tab.keyboard.press("Enter")  # the button has the focus
    there = [cell for cell in rising if cell not in ("", "–", "not run")]
    falling = sorted(there, key=there.index, reverse=True)
    if number == 1:  # of equals the first stays first
        falling = ["100.0", "89.1 ± 2.0", "9.5 ± 0.1", "9.5"]
    assert column(tab, number) == falling + rising[len(there) :]
    assert header.get_attribute("aria-sort") == "descending"
    tab.keyboard.press("Space")
    assert (column(tab, number), header.get_attribute("aria-sort")) == (original, None)


def test_one_column_sorts_at_a_time_and_rows_stay_together(show: Any) -> None:
    tab = show()
    for number in (1, 4):
        tab.locator(f"#table-search th:nth-child({number}) button").click()
    assert tab.locator("#table-search th[aria-sort]").count() == 1
    times = dict(zip(column(tab, 1), column(tab, 2), strict=True))
    assert times == {row[0].partition("\n")[0]: row[1] for row in ODD}
    assert tab.locator("#table-search th:nth-child(5) button").count() == 0  # it has no name to press


def test_figure_can_be_enlarged_and_closed(show: Any) -> None:
    tab = show()
    canvas, drawing = tab.locator("#figure-confusion .canvas"), tab.locator("dialog svg")
    before = canvas.evaluate("canvas => [canvas.innerHTML, canvas.firstElementChild.clientWidth]")
    for press in (canvas.click, lambda: canvas.press("Enter"), lambda: canvas.press("Space")):
        press()
        assert drawing.is_visible()
        size = tab.locator("dialog").bounding_box()
        assert (size["x"], size["y"], size["width"], size["height"]) == (0, 0, 1280, 800)
        assert drawing.evaluate("drawing => drawing.clientWidth") > 1.5 * before[1]
        assert "Confusion matrices" in tab.locator("dialog").inner_text()
        assert tab.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == tab.evaluate(
            "document.querySelectorAll('[id]').length"
        )
        tab.keyboard.press("Escape")
        tab.wait_for_function("document.activeElement.matches('#figure-confusion .canvas')")
        tab.locator("#figure-confusion .canvas > svg").wait_for()  # it moves back after the focus
        assert canvas.evaluate("canvas => [canvas.innerHTML, canvas.firstElementChild.clientWidth]") == before
    canvas.press("Enter")
    tab.get_by_role("button", name="Close").click()
    assert not tab.locator("dialog").is_visible()


def test_page_is_usable_by_keyboard(show: Any) -> None:
    tab = show()
    for selector in (
        "#figure-confusion .canvas",
        "#table-main th button",
        "#table-main .origin",
        "#provenance summary",
    ):
        target = tab.locator(selector).first
        target.focus()
        assert target.evaluate("target => target === document.activeElement"), selector
    assert tab.get_by_role("button", name="Enlarge: Confusion matrices").count() == 1


@pytest.mark.parametrize("name", ["demo/report", "paper"])
def test_each_number_links_to_its_run_or_fold(show: Any, built: Path, name: str) -> None:
    tab = show(name)
    tab.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    links = tab.locator(".origin").evaluate_all(
        "links => links.map(link => [link.textContent, link.getAttribute('href')])"
    )
    assert len(links) > 20
    ids = set(Found((built / "demo/report.html").read_text()).ids)
    assert {href.partition("#")[2] for _, href in links} <= ids
    assert {href.partition("#")[0] for _, href in links} == {"demo/report.html" if name == "paper" else ""}
    for text, href in links:
        assert re.search(r"\d", text), href
    # No number of ours is without: a score of a row that was run.
    bare = (
        tab.locator(".main tr td.number, .paper tr td.number")
        .filter(has_text="±")
        .filter(has_not=tab.locator(".origin"))
    )
    assert bare.count() == 0


def test_link_opens_the_details_around_its_target(show: Any) -> None:
    tab = show()
    for selector, name in ((".tiles .origin", RUN), (f"#table-folds a[href='#{RUN}/fold-1']", f"{RUN}/fold-1")):
        target = tab.locator(f"[id='{name}']")
        tab.locator(selector).first.evaluate(
            "link => { for (const f of document.querySelectorAll('details')) f.open = false }"
        )
        assert not target.is_visible()
        tab.locator(selector).first.evaluate("link => link.click()")
        target.wait_for(state="visible")
        assert target.evaluate("target => target.getBoundingClientRect().top < innerHeight")
    assert "snakemake results/demo/runs/kfold_3/proposed/seed-1/fold-1/metrics.json --cores 1" in target.inner_text()


@pytest.mark.parametrize("name", NAMES)
def test_page_fits_a_phone(show: Any, name: str) -> None:
    tab = show(name, width=360)
    tab.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") == 360


CONTRASTS = """() => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => channels(colour).slice(0, 3)
    .map(c => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = element => {
    const colour = getComputedStyle(element).backgroundColor;
    return (channels(colour)[3] ?? 1) === 1 || !element.parentElement ? colour : behind(element.parentElement);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest('svg')) continue;
    const pair = [light(getComputedStyle(element).color), light(behind(element))].sort((a, b) => b - a);
    found.push([(pair[0] + 0.05) / (pair[1] + 0.05), element.outerHTML.slice(0, 80)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["demo/report", "paper"])
def test_text_has_sufficient_contrast_in_both_schemes(show: Any, name: str, scheme: str) -> None:
    tab = show(name, color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    found = tab.evaluate(CONTRASTS)
    assert len(found) > 300
    assert not [(ratio, where) for ratio, where in found if ratio < 4.5]
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


ROWS = "[...document.querySelectorAll('tbody tr')].filter(row => row.checkVisibility()).length"


def test_everything_is_printed(show: Any, tmp_path: Path) -> None:
    tab = show(color_scheme="dark")
    rows = tab.evaluate("document.querySelectorAll('tbody tr').length")
    assert tab.evaluate(ROWS) < rows  # the ledger is folded
    tab.emulate_media(media="print")
    assert tab.evaluate(ROWS) == rows
    assert tab.locator("[id='kfold_3/proposed/seed-1/fold-2'] pre").evaluate("pre => pre.checkVisibility()")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator("nav").is_visible()
    tab.emulate_media(media="screen")
    folded = tab.locator("details:not([open])").count()
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator("details:not([open])").count() == 0
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("details:not([open])").count() == folded
    tab.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 50_000


def test_page_is_complete_without_script(show: Any, built: Path) -> None:
    tab = show(java_script_enabled=False)
    assert tab.locator("button, dialog").count() == 0
    assert tab.locator("#table-search tbody tr").count() == len(ODD)
    assert tab.locator("#figure-confusion svg").is_visible()
    tab.locator("#provenance summary").first.click()
    assert "snakemake results/demo" in tab.locator("#provenance").inner_text()


def test_page_lists_what_was_run(built: Path) -> None:
    html = (built / "demo/report.html").read_text()
    assert "5 of 15 planned folds were run" in visible(html)
    section = html.split('<section id="runs">')[1].split("</section>")[0]
    lines = [" ".join(visible(line).split()) for line in section.split("<li>")[1:]]
    assert lines == [
        "proposed 3 of 3 folds", "audio_only not run", "video_only 2 of 3 folds, missing: 1", "concat_fusion not run",
        "cross_entropy not run",
    ]  # fmt: skip
    assert html.index('<section id="runs">') < html.index('<section id="main">')


def test_page_without_runs(built: Path) -> None:
    html = (built / "ravdess/report.html").read_text()
    assert "0 of 25 planned folds were run, so every result is “not run”" in html
    assert 'class="origin"' not in html
    assert "No fold was run" in html


def test_paper_page_has_every_table_of_every_corpus(built: Path) -> None:
    html = (built / "paper.html").read_text()
    assert html.index("Verdict: equivalent if") < html.index("<table")
    assert html.count("Verdict: equivalent if") == 1
    names = ("modality", "attention", "fusion", "loss", "compactness", "literature", "audit", "recall", "assumptions")
    order = [html.index(f'id="table-{corpus}-{name}"') for name in names for corpus in ("demo", "ravdess")]
    assert order == sorted(order)
    assert html.index('id="table-paper"') < order[0]
    assert "snakemake --cores" in html
    assert '<a href="ravdess/report.html">RAVDESS, audio-video speech</a>' in html
    assert "0 of 25 planned folds: not run" in html


@pytest.fixture
def project(tmp_path: Path) -> tuple[Params, Path]:
    return make_params(tmp_path), tmp_path


KEY = RunKey("demo", "kfold_3", "proposed", 1, 0)


def origin(params: Params, root: Path) -> provenance.RunOrigin:
    [found] = provenance.read(load.read("demo", params, root))
    return found


def write_trained(root: Path, folds: tuple[int, ...] = (0,)) -> None:
    """Write folds of the demo with their models."""
    for fold in folds:
        model = root / f"models/demo/{RUN}/fold-{fold}.safetensors"
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_bytes(b"weights")
    write_demo(root, folds=folds, variants=("proposed",))


def test_origin_of_a_fold_is_read_from_its_records(project: tuple[Params, Path]) -> None:
    params, root = project
    write_trained(root)
    found = origin(params, root)
    [fold] = found.folds
    assert (found.key, fold.key) == (RUN, f"{RUN}/fold-0")
    hashes = {file.path: file.sha256 for file in (*fold.inputs, *fold.outputs)}
    named = ["data/demo/splits/kfold_3/clips.csv", KEY.model, KEY.history, KEY.metrics, KEY.predictions]
    assert hashes == {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in named}
    assert fold.command == f"snakemake results/demo/runs/{RUN}/fold-0/metrics.json --cores 1"
    assert "fusion: cross_attention" in found.parameters
    assert found.code == "code of train"
    _, html = quick("demo", params, root)
    for text in (*hashes, *hashes.values(), found.code):
        assert text in html


def test_origin_is_known_without_the_files(project: tuple[Params, Path]) -> None:
    params, root = project
    write_trained(root)
    before = origin(params, root)
    (root / KEY.model).unlink()
    shutil.rmtree(root / "data")
    assert origin(params, root).folds == before.folds


def test_missing_records_are_stated(project: tuple[Params, Path]) -> None:
    params, root = project
    write_trained(root)
    shutil.rmtree(root / "models")
    found = origin(params, root)
    assert found.code == found.parameters == provenance.NOT_RECORDED
    assert [file.path for file in found.folds[0].outputs] == [KEY.metrics, KEY.predictions]
    assert provenance.NOT_RECORDED in quick("demo", params, root)[1]


def test_inputs_shared_by_folds_are_listed_once(project: tuple[Params, Path]) -> None:
    params, root = project
    write_trained(root, (0, 1, 2))
    clips = "data/demo/splits/kfold_3/clips.csv"
    assert [file.path for file in origin(params, root).inputs] == [clips]
    assert quick("demo", params, root)[1].count(f"<code>{clips}</code>") == 1
    trained = Record.read(root, KEY.training_record)
    assert trained is not None
    replace(trained, inputs={clips: "0" * 64}).write(root)
    found = origin(params, root)
    assert found.inputs == ()
    assert found.folds[0].inputs == (provenance.File(clips, "0" * 64),)
    assert quick("demo", params, root)[1].count(f"<code>{clips}</code>") == 3


def test_provenance_of_many_folds_stays_small(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root)
    _, html = quick("ravdess", params, root)
    section = html.split('id="provenance"')[1].split("</section>")[0]
    assert section.count("metrics.json --cores 1") == 25
    assert len(section.encode()) < 25 * 3000  # 15 variants of 5 folds: under a quarter of a megabyte


def test_notes_shared_by_tables_are_printed_once(project: tuple[Params, Path]) -> None:
    params, root = project
    write_demo(root)
    by_name, html = quick("demo", params, root)
    text = re.sub(r"<[^>]+>", "", html)
    assert text.count("two-sided permutation test") == 1
    assert text.count("Mean ± standard deviation over folds") == 1
    assert (
        sum("two-sided permutation test" in by_name[name].markdown() for name in COMPARISONS) == 3
    )  # no attention here
    # The long names break where a narrow column needs it, by tags that are tags.
    assert "concat_<wbr>fusion" in html
    assert "training.<wbr>learning_<wbr>rate" in html
    assert "&lt;wbr" not in html


def test_demo_starts_with_a_warning(project: tuple[Params, Path]) -> None:
    params, root = project
    by_name, html = quick("demo", params, root)
    assert " ".join(visible(html.split("<body>")[1]).split()).startswith("These numbers say nothing about the paper")
    for name in paths.TABLES:
        assert "nothing about the paper" in by_name[name].markdown().splitlines()[0]
    assert "nothing about the paper" not in quick("ravdess", params, root)[1]


def test_page_lists_usable_and_missing_clips_and_actors(project: tuple[Params, Path]) -> None:
    params, root = project
    clips = [clip for clip in ravdess_clips() if clip[1] in (1, 2, 3, 7)]
    write_clips(root, "ravdess", "luna_jimenez_2022_5cv", clips, broken=3)
    _, html = quick("ravdess", params, root)
    assert "237 of 240 clips are usable, from 4 actors (1–3, 7)" in html
    assert "20 of these actors are missing here: 4–6, 8–24" in html
    assert "1,200 clips of the whole corpus are missing here" in html
    assert "3 not usable: no face in 6 of 6 snippets" in html
    assert "In 1 of the usable clips, 7 crops are of the nearest frame that shows the face" in html


def test_evaluated_configurations_are_shown(project: tuple[Params, Path]) -> None:
    params, root = project
    row = {"overrides": '{"loss": {"weight": 1}}', "epochs": 12, "war": 0.71, "uar": 0.695, "seconds": 61.2}
    row |= {"protocol": "luna_jimenez_2022_5cv", "seed": 1}
    write_csv(
        root / "results/ravdess_audio/search.csv",
        [{"config": name, "fold": fold} | row for name in ("thin", "wide") for fold in (0, 1)],
    )
    by_name, html = quick("ravdess_audio", params, root)
    text = by_name["search"].markdown()
    assert "| wide |" in text
    assert "69.5" in text
    assert "{loss: {weight: 1}}" in text
    assert "Configurations compared on a development corpus" in html
    assert "actors of a corpus whose results are reported are never used" in html
    assert "2 min 02 s" in html


def test_text_is_escaped_in_cells_and_links() -> None:
    nasty = r"a_b|c&d%$#{x}~^\ <script>*_[1]"
    for cell in (page._cell(nasty), page._cell(nasty, 'run"><script>', "page")):
        assert "<script>" not in cell
    assert page._cell("1.0\n[0, 2]", "kfold_3/proposed/seed-1") == (
        '<a class="origin" href="#kfold_3/proposed/seed-1">1.0</a><small>[0, 2]</small>'
    )


def test_every_output_in_snakemakes_report_has_a_caption() -> None:
    shown = [Path(file) for file in paths.report("demo") if Path(file).suffix in (".csv", ".svg", ".html")]
    captions = {Path(*file.parts[2:]).with_suffix(".rst").as_posix() for file in shown} | {"workflow.rst", "paper.rst"}
    folder = ROOT / "workflow" / "report"
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*.rst")} == captions


def test_snakemake_report_has_tables_figures_and_page(micro_run: Path, tmp_path: Path) -> None:
    folder = micro.copied(micro_run, tmp_path)
    micro.run(folder, "snakemake", micro.CORPUS, "--report", "out.html")
    html = (folder / "out.html").read_text()
    for caption in ("workflow", "figures/confusion", "tables/assumptions"):
        first_words = " ".join((ROOT / f"workflow/report/{caption}.rst").read_text().split()[:3])
        assert first_words in html, caption
    for file in ("tables/main.csv", "figures/attention.svg", "report.html"):
        assert f"results/{micro.CORPUS}/{file}" in html
