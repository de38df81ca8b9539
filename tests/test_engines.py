"""Snakemake and DVC share one graph, and their commands behave as documented."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import micro
import pytest
import yaml
from conftest import ROOT

from emofuse import config

STEPS = ("clips", "features", "splits", "models", "scores")


def test_the_paper_stage_of_dvc_depends_on_the_corpora_of_the_paper() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = config.load(ROOT / "params.yaml")
    assert {f"results/{corpus}/metrics.json" for corpus in params.paper} <= set(stages["paper"]["deps"])


WRONG = {
    "unknown key": ("epochs: 30", "epochz: 30", "training.epochz: no such parameter"),
    "absent fold": ("kfold_3: [0, 1, 2]", "kfold_3: [0, 1, 7]", "there is no fold 7"),
}


@pytest.mark.integration
@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_in_params_yaml_is_the_same_line_from_every_command(tmp_path: Path, mistake: str) -> None:
    micro.copy_tree(tmp_path)
    micro.commit(tmp_path)
    before, after, message = WRONG[mistake]
    text = (tmp_path / "params.yaml").read_text()
    assert before in text
    (tmp_path / "params.yaml").write_text(text.replace(before, after))
    lines = []
    for command in (("snakemake", "demo"), ("dvc", "repro", "report@demo"), ("emofuse", "index", "demo")):
        printed = micro.run(tmp_path, *command, status=None)
        assert "Traceback" not in printed
        lines += [line for line in printed.splitlines() if line.startswith("emofuse: error: ")]
    assert len(lines) == 3
    assert len(set(lines)) == 1
    assert message in lines[0]
    assert not (tmp_path / "data").exists()


@pytest.mark.integration
def test_the_whole_graph_is_planned_in_a_clean_clone(tmp_path: Path) -> None:
    micro.copy_tree(tmp_path)
    micro.commit(tmp_path)
    params = config.load(ROOT / "params.yaml")
    printed = micro.run(tmp_path, "snakemake", "-n", "--quiet", "rules")
    trainings = sum(len(folds) for corpus in params.paper for *_, folds in params.corpora[corpus].runs())
    assert re.search(rf"^train +{trainings}$", printed, flags=re.MULTILINE), printed[-2000:]
    for corpus in params.corpora:
        listed = micro.run(tmp_path, "snakemake", "--list-target-rules")
        assert {corpus, *(f"{corpus}_{step}" for step in STEPS)} <= set(listed.split())
    printed = micro.run(tmp_path, "snakemake", "-n", "demo", "--config", "epochs=3", status=2)
    assert printed.count("emofuse: error: --config epochs: params.yaml is the only configuration") == 1
    stages = micro.run(tmp_path, "dvc", "stage", "list", "--name-only").split()
    assert {
        "paper",
        *(f"{step}@{corpus}" for corpus in params.corpora for step in ("source", *STEPS, "report")),
    } == set(stages)


@pytest.mark.integration
def test_dvc_commands_behave_as_documented(dvc_run: Path, tmp_path: Path) -> None:
    folder = micro.copied(dvc_run, tmp_path)
    dag = micro.run(folder, "dvc", "dag", "--mermaid", f"report@{micro.CORPUS}")
    assert all(f"{step}@{micro.CORPUS}" in dag for step in (*STEPS, "report"))
    micro.change(folder, lambda loaded: loaded["corpora"][micro.CORPUS]["training"].update(epochs=3))
    assert re.search(r"corpora\.micro\.training\.epochs +2 +3", micro.run(folder, "dvc", "params", "diff"))
    metrics = json.loads(micro.run(folder, "dvc", "metrics", "show", "--json"))
    shown = metrics[""]["data"][f"results/{micro.CORPUS}/metrics.json"]["data"]["kfold_3"]
    assert 0 <= shown["proposed"]["war"] <= 1
    micro.run(folder, *micro.DVC)
    changed = json.loads(micro.run(folder, "dvc", "metrics", "diff", "--json", "--all"))
    assert "kfold_3.proposed.war" in changed[f"results/{micro.CORPUS}/metrics.json"]
    micro.run(folder, "dvc", "plots", "show")
    page = (folder / "dvc_plots/index.html").read_text()
    assert "learning_curves" in page
    assert micro.run(folder, "git", "status", "--porcelain").split() == ["M", "dvc.lock", "M", "params.yaml"]


@pytest.mark.slow
def test_a_dvc_experiment_changes_predictions(dvc_run: Path, tmp_path: Path) -> None:
    folder = micro.copied(dvc_run, tmp_path)
    before = (folder / micro.PREDICTIONS).read_bytes()
    rate = f"corpora.{micro.CORPUS}.training.learning_rate=0.02"
    micro.run(folder, "dvc", "exp", "run", "-S", rate, f"report@{micro.CORPUS}")
    assert (folder / micro.PREDICTIONS).read_bytes() != before
    assert "corpora.micro.training.learning_rate" in micro.run(folder, "dvc", "exp", "show", "--csv")


def test_after_one_engine_the_other_has_nothing_to_run(micro_run: Path, dvc_run: Path, tmp_path: Path) -> None:
    folder = micro.copied(micro_run, tmp_path)
    assert micro.ran(micro.run(folder, *micro.DVC)) == set()
    assert "up to date" in micro.run(folder, "dvc", "status", f"report@{micro.CORPUS}")
    assert micro.agrees(dvc_run, "snakemake")


@pytest.mark.integration
def test_a_pulled_clone_that_is_not_adopted_is_refused_and_dvc_lock_unchanged(dvc_run: Path, tmp_path: Path) -> None:
    folder = micro.clone(tmp_path, dvc_run)
    micro.run(folder, "dvc", "pull", "--allow-missing")
    micro.change(folder, lambda loaded: loaded["corpora"][micro.CORPUS].update(seeds=[2]))
    lock = (folder / "dvc.lock").read_bytes()
    for command in (micro.SNAKEMAKE, ("dvc", "repro", "--allow-missing", f"report@{micro.CORPUS}")):
        printed = micro.run(folder, *command, status=None)
        assert printed.count("emofuse: error: ") == 1
        assert "run `make pull`" in printed
    assert (folder / "dvc.lock").read_bytes() == lock


@pytest.mark.integration
def test_switching_branches_does_not_retrain(dvc_run: Path, tmp_path: Path) -> None:
    folder = micro.copied(dvc_run, tmp_path)
    micro.run(folder, "git", "checkout", "-qb", "other")
    micro.change(folder, lambda loaded: loaded["variants"]["audio_only"].update(loss={"margin": 0.3}))
    micro.run(folder, *micro.DVC)
    micro.commit(folder, "other")
    for branch in ("-", "other"):
        micro.run(folder, "git", "checkout", "-q", branch)
        micro.run(folder, "dvc", "checkout", "--allow-missing")
        micro.run(folder, "emofuse", "adopt")
        assert micro.planned(folder) == set()
        assert micro.ran(micro.run(folder, "dvc", "repro", "--allow-missing", f"report@{micro.CORPUS}")) == set()


@pytest.mark.integration
def test_a_second_run_in_the_same_folder_is_refused_for_any_target(tmp_path: Path, micro_run: Path) -> None:
    folder = micro.copied(micro_run, tmp_path)
    micro.change(folder, lambda loaded: loaded["corpora"][micro.CORPUS]["training"].update(epochs=400))
    first = micro.start(folder, *micro.SNAKEMAKE)
    deadline = time.monotonic() + 120
    while micro.running_job("train", folder) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    micro.change(folder, lambda loaded: loaded["corpora"][micro.CORPUS]["training"].update(epochs=400, patience=11))
    for command in (micro.SNAKEMAKE, ("snakemake", "--force", f"data/{micro.CORPUS}/index.csv", "--cores", "1")):
        printed = micro.run(folder, *command, status=None)
        assert "another run is using this folder" in printed or "cannot be locked" in printed
    assert "another run" in micro.run(folder, "emofuse", "index", micro.CORPUS, status=2)
    micro.run(folder, "snakemake", micro.CORPUS, "-n")
    assert first.poll() is None
    first.terminate()
    first.communicate()
    assert micro.run(folder, "emofuse", "verify", micro.CORPUS, status=None)


@pytest.mark.integration
def test_after_adopting_some_published_folds_only_the_others_are_trained(micro_run: Path, tmp_path: Path) -> None:
    origin = micro.copied(micro_run, tmp_path / "origin")
    folds = {"kfold_3": [0, 1]}
    micro.change(origin, lambda loaded: loaded["corpora"][micro.CORPUS].update(protocols=folds))
    micro.commit(origin, "two folds")
    for name in ("proposed", "audio_only"):
        model = micro.MODEL.replace("proposed", name)
        micro.run(origin, "snakemake", model, "--cores", "2")
    micro.run(origin, "emofuse", "report", micro.CORPUS)
    printed = micro.run(origin, "emofuse", "publish", micro.CORPUS, "--why", "some of the folds")
    assert "commit it" in printed
    micro.commit(origin, "published")
    assert (
        "without fold 1"
        in (origin / f"results/published/{micro.CORPUS}/results/{micro.CORPUS}/tables/main.md").read_text()
    )

    elsewhere = tmp_path / "elsewhere" / "emofuse"
    elsewhere.parent.mkdir()
    micro.run(origin, "git", "clone", "-q", str(origin), str(elsewhere))
    (elsewhere.parent / "source").symlink_to(micro.source(origin))
    published = f"results/published/{micro.CORPUS}"
    assert f"{micro.CORPUS}_splits" in micro.run(elsewhere, "emofuse", "adopt", published, status=2)
    micro.run(elsewhere, "snakemake", f"{micro.CORPUS}_splits", "--cores", "2")
    micro.run(elsewhere, "emofuse", "adopt", published)
    done = micro.ran(micro.run(elsewhere, *micro.SNAKEMAKE))
    missing = {job.replace(" 1 0", " 1 1") for job in (micro.FOLD, micro.FOLD.replace("proposed", "audio_only"))}
    trained = {f"{stage} {fold}" for stage in ("train", "evaluate") for fold in missing}
    calibrated = "calibrate " + micro.FOLD.replace(" 1 0", " 1 1")
    assert done == {*trained, calibrated, f"report {micro.CORPUS}"}
    assert "adopted" in micro.run(elsewhere, "emofuse", "verify", micro.CORPUS)
    assert "main" in micro.run(elsewhere, "emofuse", "compare", micro.CORPUS, status=2)  # two folds against one
    assert micro.ran(micro.run(elsewhere, *micro.DVC)) == set()
    trains = micro.run(elsewhere, "emofuse", "predict", "x.mp4", "--model", str(Path(micro.MODEL).parent), status=2)
    assert "snakemake" in trains or "x.mp4" in trains
