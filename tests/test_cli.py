"""The command line: readable help, one line for each mistake, and meaningful exit statuses."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from emofuse import __version__, cli
from emofuse.provenance.code import STAGES

COMMANDS = [
    *STAGES, "predict", "export", "score", "search", "verify", "trace", "adopt", "publish", "compare", "source", "track",
    "ui", "params", "schema",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_lists_the_stages_in_pipeline_order_then_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    listed = re.findall(r"^  (\w+) +[A-Z].*\.$", text.partition("Commands:")[2], flags=re.MULTILINE)
    assert listed == COMMANDS
    assert "..." not in text.partition("Commands:")[2], "a summary is too long for its line"
    assert "download → index → faces, audio → splits → train → evaluate" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: emofuse {command}" in text
    for line in re.findall(r"^  \S+ <.*$", text, flags=re.MULTILINE):
        assert re.search(r">  +\S|>$", line), line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Missing command"),
        (["trian"], "No such command 'trian'. Did you mean 'train'"),
        (["index"], "Missing argument 'corpus'"),
        (["index", "demo", "demo"], "unexpected extra argument"),
        (["faces", "demo", "one"], "Invalid value for 'shard'"),
        (["verify", "--step", "all"], "Invalid value for '--step'"),
        (["publish", "demo"], "Missing option '--why'"),
        (["index", "ravdes"], "corpora: there is no corpus 'ravdes'; there are ravdess, "),
        (["download", "demo", "9"], "corpora.demo.shards: there is no shard 9"),
        (["faces", "ravdess_audio", "0"], "corpora.ravdess_audio: it has no video"),
        (["splits", "demo", "kfold_9"], "corpora.demo.protocols: there is no protocol 'kfold_9'"),
        (["train", "demo", "kfold_3", "nothing", "1", "0"], "corpora.demo.variants: there is no variant 'nothing'"),
        (["train", "demo", "kfold_3", "proposed", "9", "0"], "corpora.demo.seeds: there is no seed 9"),
        (["train", "demo", "kfold_3", "proposed", "1", "7"], "corpora.demo.protocols.kfold_3: there is no fold 7"),
        (["evaluate", "demo", "kfold_3", "proposed", "1", "7"], "corpora.demo.protocols.kfold_3: there is no fold 7"),
        (["params", "demo", "gated_attention"], "corpora.demo.variants: there is no variant 'gated_attention'"),
        (["score", "demo", "kfold_9", "theirs.csv"], "corpora.demo.protocols: there is no protocol 'kfold_9'"),
        (["audio", "demo", "0"], "shard-0.zip is missing: run `snakemake data/demo/raw/shard-0.zip --cores 2`"),
        (["splits", "demo", "kfold_3"], "features/faces/shard-0.csv is missing: run `snakemake "),
        (["train", "demo", "kfold_3", "audio_only", "1", "0"], "features/audio/shard-0.npy is missing: run `snakemake "),
        (["track", "demos"], "corpora: there is no corpus 'demos'"),
        (["verify", "demos"], "corpora: there is no corpus 'demos'"),
        (["verify", "demo", "--step", "models"], "demo: no record of the step models; run `snakemake demo_models"),
        (["trace", "results/demo/report.html"], "results/demo/report.html has no record"),
        (["trace", "/etc/passwd"], "/etc/passwd: not a file of this repository"),
        (["weights", "resnet"], "'resnet'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    (error,) = printed.err.strip().splitlines()
    assert error.startswith("emofuse: error: ")
    assert line in error
    assert printed.out == ""


def test_params_prints_what_a_variant_resolves_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["params", "demo", "concat_fusion"]) == 0
    assert '"fusion": "concat"' in capsys.readouterr().out


def test_a_closed_pipe_is_not_an_error(folder: Path) -> None:
    command = f"{sys.executable} -m emofuse.cli schema | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


INTERRUPTED = """
import os, signal, sys
from emofuse import cli, tracking
tracking.serve = lambda port: os.kill(os.getpid(), signal.SIGINT)
sys.exit(cli.main(["ui"]))
"""


def test_ctrl_c_is_one_line_and_exit_130(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=tmp_path, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stderr == "emofuse: interrupted; run the same command again to continue\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"emofuse {__version__}\n"
