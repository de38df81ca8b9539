"""The command: help a person can use, one line for a mistake, exit codes that mean something."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from emofuse import cli

COMMANDS = [*cli.STAGES, *cli.OTHERS, *cli.WITHOUT_PARAMS]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_names_every_stage_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"    {command} " in text
    assert "download → index → faces, audio → splits → train → evaluate" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert len(capsys.readouterr().out.splitlines()) > 3


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["index", "ravdes"], "corpora: there is no corpus 'ravdes'; params.yaml has ravdess, "),
        (["download", "demo", "9"], "corpora.demo.shards: there is no shard 9"),
        (["faces", "ravdess_audio", "0"], "corpora.ravdess_audio: it has no video"),
        (["splits", "demo", "kfold_9"], "corpora.demo.protocols: there is no protocol kfold_9"),
        (["train", "demo", "kfold_3", "nothing", "1", "0"], "corpora.demo.variants: there is no variant nothing"),
        (["train", "demo", "kfold_3", "proposed", "9", "0"], "corpora.demo.seeds: there is no seed 9"),
        (["train", "demo", "kfold_3", "proposed", "1", "7"], "corpora.demo.protocols.kfold_3: there is no fold 7"),
        (["audio", "demo", "0"], "shard-0.zip is missing: run `snakemake data/demo/raw/shard-0.zip --cores 2`"),
        (["splits", "demo", "kfold_3"], "features/faces/shard-0.csv is missing: run `snakemake "),
        (
            ["train", "demo", "kfold_3", "audio_only", "1", "0"],
            "features/audio/shard-0.npy is missing: run `snakemake ",
        ),
        (["evaluate", "demo", "kfold_3", "proposed", "1", "7"], "corpora.demo.protocols.kfold_3: there is no fold 7"),
        (["score", "demo", "kfold_9", "theirs.csv"], "corpora.demo.protocols: there is no protocol kfold_9"),
        (["track", "demos"], "corpora: there is no corpus 'demos'"),
        (["verify", "demos"], "corpora: there is no corpus 'demos'"),
        (["verify", "demo", "--step", "models"], "demo: no record of the step models; run `snakemake demo_models"),
        (["trace", "results/demo/report.html"], "results/demo/report.html has no record of a job that made it"),
        (["trace", "/etc/passwd"], "/etc/passwd: not a file of this repository"),
        (["weights", "resnet"], "weights: there are none named 'resnet'; there are resnet18, "),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert last.startswith("emofuse: error: ")
    assert line in last
    assert "Traceback" not in error


def test_params_prints_what_a_variant_resolves_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["params", "demo", "concat_fusion"]) == 0
    assert '"fusion": "concat"' in capsys.readouterr().out


def test_the_command_starts_without_torch_and_mlflow() -> None:
    code = "import sys, emofuse.cli as c; c._parser(); print([m for m in ('torch', 'mlflow', 'numpy', 'dvc') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -m emofuse.cli schema | head -1"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in ran.stderr
