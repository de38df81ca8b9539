"""The command: help a person can use, one line for a mistake, exit codes that mean something."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from emofuse import cli


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
    for command in cli.COMMANDS:
        assert f"    {command} " in text
    assert "download → index → faces, audio → splits → train → evaluate" in text


@pytest.mark.parametrize("command", [*cli.COMMANDS, "schema", "ui"])
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
        (["audio", "demo", "0"], "index.csv is missing"),
        (["splits", "demo", "kfold_3"], "is missing: run the stage that writes it"),
        (["train", "demo", "kfold_3", "audio_only", "1", "0"], "is missing: run emofuse splits demo kfold_3"),
        (
            ["evaluate", "demo", "kfold_3"],
            "evaluate: name the variant, seed and fold of ours, or what others predicted by ",
        ),
        (["evaluate", "demo", "kfold_3", "proposed", "1"], "evaluate: name the variant, seed and fold of ours"),
        (["evaluate", "demo", "kfold_3", "proposed", "1", "7"], "corpora.demo.protocols.kfold_3: there is no fold 7"),
        (
            ["evaluate", "demo", "kfold_3", "proposed", "--predictions", "x.csv"],
            "evaluate: proposed names a run of ours; leave variant, seed and fold out beside --predictions",
        ),
        (
            ["evaluate", "demo", "kfold_3", "proposed", "1", "0", "--output", "x.json"],
            "evaluate: --output goes with --predictions",
        ),
        (
            ["evaluate", "demo", "kfold_9", "--predictions", "x.csv"],
            "corpora.demo.protocols: there is no protocol kfold_9",
        ),
        (["restore", "demos"], "corpora: there is no corpus 'demos'"),
        (["weights", "resnet"], "resnet"),
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
