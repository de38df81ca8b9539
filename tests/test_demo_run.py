"""The demo in a fresh clone, as a newcomer runs it with one command."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import micro
import pytest
from conftest import ROOT
from micro import commit, copy_tree, run

from emofuse import config as params

# One worker runs all of them, since each worker would run the fixture.
pytestmark = pytest.mark.xdist_group("demo_run")

VARIANTS = ("proposed", "audio_only", "video_only", "concat_fusion", "cross_entropy", "plain_late_average")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the unmodified demo has been run."""
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
        test_actors: list[int] = []
        for fold in range(3):
            base = demo / "results/demo/runs/kfold_3" / variant / "seed-1" / f"fold-{fold}"
            scores = json.loads((base / "metrics.json").read_text())
            test_actors += scores["actors"]
            assert scores["clips"] == len(list(csv.DictReader((base / "predictions.csv").open()))) > 100
        assert sorted(test_actors) == list(range(1, section.actors + 1))


@pytest.mark.slow
def test_the_report_starts_with_a_caveat_about_its_numbers(demo: Path) -> None:
    page = (demo / "results/demo/report.html").read_text()
    visible = re.sub(r"<(style|title|head).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)
    first = next(line.strip() for line in visible.splitlines() if line.strip())
    assert "nothing about the paper" in first
    assert "Bayes" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert {row["variant"] for row in table(demo, "main")} == set(VARIANTS)


@pytest.mark.slow
def test_the_report_compares_results_with_the_bayes_accuracies(demo: Path) -> None:
    markdown = (demo / "results/demo/tables/modality.md").read_text()
    for percent in ("70.6", "71.9", "94.5"):
        assert percent in markdown


@pytest.mark.integration
def test_repeated_training_is_bit_identical(micro_run: Path, tmp_path: Path) -> None:
    folder = micro.copied(micro_run, tmp_path)
    files = [folder / micro.MODEL, folder / micro.PREDICTIONS]
    before = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    run(folder, "emofuse", "train", *micro.FOLD.split())
    run(folder, "emofuse", "evaluate", *micro.FOLD.split())
    assert [path.read_bytes() for path in files] == before


@pytest.mark.slow
def test_accuracy_is_near_bayes_and_at_chance_with_shuffled_labels(demo: Path) -> None:
    printed = run(demo, sys.executable, "benchmarks/demo.py")
    figures = {name: float(value) for name, value in re.findall(r"^(\w+): ([\d.]+)$", printed, re.MULTILINE)}
    assert figures["proposed_war_over_bayes"] >= 0.9
    assert figures["audio_only_war_over_bayes"] >= 0.85
    assert figures["video_only_war_over_bayes"] >= 0.85
    assert figures["proposed_war"] > max(figures["audio_only_war"], figures["video_only_war"])
    # Chance is 12.5 %, with a standard error of 1.5 points on about 500 clips.
    assert abs(figures["shuffled_labels_war"] - figures["chance_war"]) < 0.06
