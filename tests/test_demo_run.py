"""The demo in a fresh clone: what a newcomer sees after one command; in `make soak` the demo itself, else the micro corpus."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import micro
import pytest
from conftest import ROOT
from micro import commit, copy_tree, environment, run

from emofuse import params

VARIANTS = ("proposed", "audio_only", "video_only", "concat_fusion", "cross_entropy")


@pytest.fixture(scope="module")
def clone(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `snakemake demo` has run on the micro corpus."""
    folder = tmp_path_factory.mktemp("demo") / "emofuse"
    shutil.copytree(micro_run, folder, symlinks=True)
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the first of the README's commands has run, on the demo as it is."""
    folder = tmp_path_factory.mktemp("whole") / "emofuse"
    copy_tree(folder)
    commit(folder)
    run(folder, "snakemake", "demo", "--cores", "2")
    return folder


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "results/demo/tables" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
def test_every_fold_of_every_variant_is_scored_on_unseen_actors(demo: Path) -> None:
    section = params.load(ROOT / "params.yaml").corpora["demo"].demo
    assert section is not None
    for variant in VARIANTS:
        tested: list[int] = []
        for fold in range(3):
            base = demo / "results/demo/kfold_3" / variant / "seed-1" / f"fold-{fold}"
            scores = json.loads((base / "metrics.json").read_text())
            tested += scores["actors"]
            assert scores["clips"] == len(list(csv.DictReader((base / "predictions.csv").open()))) > 100
        assert sorted(tested) == list(range(1, section.actors + 1))


def test_the_report_opens_with_what_its_numbers_are_worth(clone: Path) -> None:
    page = (clone / "results/demo/report.html").read_text()
    visible = re.sub(r"<(style|title|head).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    first = next(line.strip() for line in visible.splitlines() if line.strip())
    assert "nothing about the paper" in first
    assert "Bayes" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert {row["variant"] for row in table(clone, "main")} == set(micro.SIZES["variants"])


@pytest.mark.slow
def test_the_learned_numbers_stand_beside_the_bayes_accuracies(demo: Path) -> None:
    text = (demo / "results/demo/tables/modality.md").read_text()
    for percent in ("70.6", "71.9", "94.5"):
        assert percent in text


def test_a_second_run_and_dvc_do_nothing(clone: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (clone / "results/demo").rglob("*") if path.is_file()}
    assert "Nothing to be done" in run(clone, "snakemake", "demo", "--cores", "2")
    printed = run(clone, "dvc", "repro", "pipelines/demo/dvc.yaml")
    assert "Running stage" not in printed
    assert "didn't change, skipping" in printed or "up to date" in printed
    after = {path: path.stat().st_mtime_ns for path in (clone / "results/demo").rglob("*") if path.is_file()}
    assert before == after


def test_git_sees_nothing_but_the_demos_lock(clone: Path) -> None:
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert {line.split()[-1] for line in changed.stdout.splitlines()} <= {"pipelines/demo/dvc.lock"}


def test_training_again_gives_the_same_bits(clone: Path) -> None:
    key = ("demo", "kfold_3", "proposed", "1", "0")
    model = clone / "models/demo/kfold_3/proposed/seed-1/fold-0.safetensors"
    scores = clone / "results/demo/kfold_3/proposed/seed-1/fold-0/metrics.json"
    before = model.read_bytes(), scores.read_bytes()
    kept = {path: path.read_bytes() for path in model.parent.glob("fold-0.*")}
    model.unlink()
    scores.unlink()
    try:
        run(clone, "emofuse", "train", *key)
        run(clone, "emofuse", "evaluate", *key)
        assert (model.read_bytes(), scores.read_bytes()) == before
    finally:
        for path, data in kept.items():
            path.write_bytes(data)


def test_dvc_shows_the_metrics_and_the_plots(clone: Path) -> None:
    shown = run(clone, "dvc", "metrics", "show", "--md")
    assert "results/demo/kfold_3/proposed/seed-1/fold-0/metrics.json" in shown
    assert "uar" in shown


def test_the_mlflow_ui_shows_every_fold(clone: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        message = "no chromium: install it to see the MLflow UI"
        if os.environ.get("EMOFUSE_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        ["emofuse", "ui", "--port", str(port)],
        cwd=clone,
        env={**environment(), "PYTHONPATH": str(clone / "src")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(address + "/health", timeout=1).read()
                break
            except OSError:
                time.sleep(0.5)
        with sync_playwright() as play:
            chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = chromium.new_page(viewport={"width": 1400, "height": 1100})
            query = json.dumps({"max_results": 10}).encode()
            request = urllib.request.Request(
                address + "/ajax-api/2.0/mlflow/experiments/search", query, {"Content-Type": "application/json"}
            )
            experiments = json.load(urllib.request.urlopen(request))["experiments"]
            demo = next(e["experiment_id"] for e in experiments if e["name"] == "emofuse/demo")
            page.goto(f"{address}/#/experiments/{demo}/runs")
            page.get_by_text("proposed").first.wait_for(timeout=60_000)
            picture = Path(os.environ.get("EMOFUSE_PICTURES") or tmp_path) / "mlflow-demo.png"
            page.screenshot(path=picture)
            text = page.inner_text("body")
            chromium.close()
        for variant in micro.SIZES["variants"]:
            assert variant in text
        assert picture.stat().st_size > 20_000
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)


@pytest.mark.slow
def test_the_demo_is_learned_and_shuffled_labels_are_not(demo: Path) -> None:
    printed = run(demo, sys.executable, "benchmarks/demo.py")
    figures = {name: float(value) for name, value in re.findall(r"^(\w+): ([\d.]+)$", printed, re.MULTILINE)}
    assert figures["proposed_war_over_bayes"] >= 0.9
    assert figures["audio_only_war_over_bayes"] >= 0.85
    assert figures["video_only_war_over_bayes"] >= 0.85
    assert figures["proposed_war"] > max(figures["audio_only_war"], figures["video_only_war"])
    # A guess is right 12.5 % of the time, ± 1.5 % on some 500 clips.
    assert abs(figures["shuffled_labels_war"] - figures["chance_war"]) < 0.06
