"""`emofuse verify`, `trace` and `adopt` on a finished run: stale, mixed or corrupted files are never accepted as results."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import micro
import pytest
from mlflow.tracking import MlflowClient

pytestmark = pytest.mark.integration
FAMILIES = [
    f"data/{micro.CORPUS}/raw/shard-0.zip",
    f"data/{micro.CORPUS}/index.csv",
    micro.FACES,
    f"data/{micro.CORPUS}/features/audio/shard-0.csv",
    f"data/{micro.CORPUS}/splits/kfold_3/folds.csv",
    micro.MODEL,
    micro.PREDICTIONS,
    f"results/{micro.CORPUS}/tables/main.csv",
]


@pytest.fixture
def folder(micro_run: Path, tmp_path: Path) -> Path:
    return micro.copied(micro_run, tmp_path)


def test_every_file_of_a_run_has_a_record_and_is_verified(folder: Path) -> None:
    recorded = {path for record in micro.records(folder) for path in record.outputs}
    present = {
        path.relative_to(folder).as_posix()
        for place in ("data", "models", "results")
        for path in (folder / place).rglob("*")
        if path.is_file() and not path.name.endswith("record.json")
    }
    assert present == recorded
    printed = micro.run(folder, "emofuse", "verify")
    assert all("verified" in line for line in printed.splitlines()), printed
    assert micro.run(folder, "git", "status", "--porcelain") == ""


@pytest.mark.parametrize("path", FAMILIES)
def test_a_changed_byte_is_detected_in_every_kind_of_file(folder: Path, path: str) -> None:
    content = bytearray((folder / path).read_bytes())
    content[-1] ^= 1
    (folder / path).write_bytes(content)
    printed = micro.run(folder, "emofuse", "verify", micro.CORPUS, status=2)
    assert "1 corrupted" in printed
    assert f"{path} is not what" in printed.replace("–", "-")


def test_verify_names_the_changed_parameter_and_snakemake_agrees(folder: Path) -> None:
    micro.change(folder, lambda loaded: loaded["variants"]["audio_only"].update(loss={"margin": 0.3}))
    printed = micro.run(folder, "emofuse", "verify", micro.CORPUS, status=2)
    assert "loss.margin 0.4; params.yaml has 0.3" in printed
    planned = micro.run(folder, "snakemake", micro.CORPUS, "-n")
    assert "Params have changed since last execution" in planned
    assert "'margin': 0.4" in planned
    assert "'margin': 0.3" in planned
    refusal = micro.run(folder, "emofuse", "report", micro.CORPUS, status=2)
    assert "loss.margin 0.4; params.yaml has 0.3" in refusal
    assert "run `snakemake micro --cores 8`" in refusal


def test_verify_warns_after_an_upgrade(folder: Path) -> None:
    (folder / "requirements.lock").write_text("# other versions\n")
    printed = micro.run(folder, "emofuse", "verify", micro.CORPUS)
    assert "warning" in printed
    assert "ran in another environment" in printed


def test_a_number_is_traced_back_to_the_clips(folder: Path) -> None:
    printed = micro.run(folder, "emofuse", "trace", f"results/{micro.CORPUS}/tables/main.md:proposed:WAR")
    stages = [line.partition(":")[0] for line in printed.splitlines() if not line.startswith(" ")]
    assert stages[1:] == ["evaluate", "calibrate", "train", "splits", "audio", "faces", "index", "download"]
    assert f"emofuse train {micro.FOLD}" in printed
    assert "audio_only" not in printed
    assert "stale" not in printed
    assert "none matches" in micro.run(
        folder, "emofuse", "trace", f"results/{micro.CORPUS}/tables/main.md:nobody:WAR", status=2
    )
    assert "has no record" in micro.run(folder, "emofuse", "trace", "README.md", status=2)
    published = f"results/published/{micro.CORPUS}/results/{micro.CORPUS}/tables/main.md"
    refused = micro.run(folder, "emofuse", "trace", f"{published}:proposed:WAR", status=2)
    assert f"in their own place, results/{micro.CORPUS}/tables/main.md, after `emofuse adopt" in refused
    assert "has no record" in micro.run(folder, "emofuse", "trace", "results/published/test_evaluations.csv", status=2)


def test_outputs_without_snakemake_metadata_stop_it_with_one_line(folder: Path) -> None:
    shutil.rmtree(folder / ".snakemake")
    micro.change(folder, lambda loaded: loaded["corpora"][micro.CORPUS].update(seeds=[2]))
    for command in (("snakemake", micro.CORPUS, "-n"), micro.SNAKEMAKE):
        printed = micro.run(folder, *command, status=2)
        assert printed.count("emofuse: error: ") == 1
        assert "run `emofuse adopt`" in printed
        assert "Traceback" not in printed
    micro.run(folder, "snakemake", "--unlock")


def test_adopting_registers_valid_outputs_and_reruns_the_others(folder: Path) -> None:
    shutil.rmtree(folder / ".snakemake")
    micro.change(folder, lambda loaded: loaded["variants"]["audio_only"].update(loss={"margin": 0.3}))
    printed = micro.run(folder, "emofuse", "adopt")
    assert "loss.margin" in printed
    audio_only = micro.FOLD.replace("proposed", "audio_only")
    expected = {f"train {audio_only}", f"evaluate {audio_only}", f"report {micro.CORPUS}"}
    assert micro.planned(folder) == expected
    # Later changes are noticed too: Snakemake now has metadata for every job.
    micro.change(folder, lambda loaded: loaded["variants"]["proposed"].update(loss={"margin": 0.3}))
    assert micro.planned(folder) == expected | {f"{stage} {micro.FOLD}" for stage in ("train", "calibrate", "evaluate")}


def test_results_of_uncommitted_code_are_marked(folder: Path) -> None:
    (folder / "src/emofuse/report/table.py").write_text(
        (folder / "src/emofuse/report/table.py").read_text() + "\nX = 1\n"
    )
    micro.run(folder, *micro.SNAKEMAKE)
    record = json.loads((folder / f"results/{micro.CORPUS}/record.json").read_text())
    assert record["dirty"] is True
    assert len(record["commit"]) == 40


def test_only_publishing_is_an_evaluation_of_test_clips_that_the_log_has(folder: Path, tmp_path: Path) -> None:
    log = folder / "results/published/test_evaluations.csv"
    model = f"models/{micro.RUN.rpartition('/')[0]}"
    clip = next(micro.source(folder).rglob("*.mp4"))
    candidates = tmp_path / "candidates.yaml"
    candidates.write_text("one: {base: proposed}")
    predictions = str(Path(micro.PREDICTIONS).parent / "predictions.csv")

    def everything_else() -> None:
        for stage in ("train", "calibrate", "evaluate"):
            micro.run(folder, "emofuse", stage, *micro.FOLD.split())
        micro.run(folder, "emofuse", "report", micro.CORPUS)
        micro.run(folder, "emofuse", "adopt")
        micro.run(folder, *micro.SNAKEMAKE)
        micro.run(folder, "emofuse", "verify")
        micro.run(folder, "emofuse", "track", micro.CORPUS)
        micro.run(folder, "emofuse", "predict", str(clip), "--model", model, "--output", str(tmp_path / "predicted"))
        micro.run(folder, "emofuse", "score", micro.CORPUS, "kfold_3", predictions)
        micro.run(folder, "emofuse", "search", micro.CORPUS, "kfold_3", str(candidates), status=2)

    everything_else()
    assert not log.exists()
    micro.run(folder, "emofuse", "publish", micro.CORPUS, "--why", "a test")
    published = log.read_bytes()
    assert published.count(b"\n") == 2, "the header and a row"
    micro.run(folder, "emofuse", "compare", micro.CORPUS)
    everything_else()
    micro.run(folder, "emofuse", "adopt", f"results/published/{micro.CORPUS}")
    assert log.read_bytes() == published


def test_the_curves_of_a_training_have_no_test_scores(folder: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(f"emofuse/{micro.CORPUS}")
    trained = client.search_runs([experiment.experiment_id], f"tags.`emofuse.run` = '{micro.RUN}'")
    (found,) = trained
    curves = {name for name in found.data.metrics if len(client.get_metric_history(found.info.run_id, name)) > 1}
    assert curves == {"learning_rate", "train_loss", "train_cross_entropy", "train_metric"}
    assert {"war", "uar"} <= set(found.data.metrics), "after the training"
