"""The command line: readable help, one line for each mistake, and meaningful exit statuses."""

from __future__ import annotations

import io
import os
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
from emofuse.utils.progress import Progress

COMMANDS = [
    *STAGES, "predict", "export", "score", "search", "corpus", "verify", "trace", "adopt", "publish", "compare", "source", "track",
    "ui", "params", "schema",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    shutil.copytree(ROOT / "corpora", tmp_path / "corpora")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_help_lists_the_stages_in_pipeline_order_then_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    listed = re.findall(r"^  (\w+) +[A-Z].*\.$", text.partition("Commands:")[2], flags=re.MULTILINE)
    assert listed == COMMANDS
    assert "..." not in text.partition("Commands:")[2], "a summary is too long for its line"
    assert "download → index → faces, audio → splits → train → calibrate → evaluate" in " ".join(text.split())


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
        (["ui", "--port", "99999"], "Invalid value for '--port': Input should be less than or equal to 65535"),
        (["ui", "--port", "-1"], "Invalid value for '--port': Input should be greater than or equal to 1"),
        (["ui", "--port", "0"], "Invalid value for '--port': Input should be greater than or equal to 1"),
        (["ui", "--port", "http"], "Invalid value for '--port'"),
        (["score", "demo", "kfold_3", "\udcff.csv"], "clips.csv is missing: run `snakemake "),
        (["trace", "\udcff\x1b[2J\n"], r"\xff\x1b[2J\n"),
        (["index", "\udcff"], r"there is no corpus '\udcff'"),
        (["search", "javased_sound", "pairs_5cv", "\udcff.yaml"], r"\xff.yaml is missing"),
        (["predict", "a.mp4", "--model", "\udcff"], r"--model \xff: neither a run of models/ nor a folder"),
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


@pytest.mark.parametrize("threads", ["", "0", "²", "-1", "4,2"])
def test_without_a_number_of_threads_all_cpus_are_used(monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert cli.cpus() == os.cpu_count()


def test_a_closed_pipe_is_not_an_error(folder: Path) -> None:
    command = f"{sys.executable} -m emofuse.cli schema | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""


ENCODINGS = ({}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"},
             {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "POSIX"})  # fmt: skip


@pytest.mark.parametrize("settings", ENCODINGS, ids=str)
def test_any_encoding_of_the_terminal_will_do(folder: Path, settings: dict[str, str]) -> None:
    command = [sys.executable, "-m", "emofuse.cli"]
    for arguments, status in ((["--help"], 0), (["trace", "é\udcff→"], 2)):
        done = subprocess.run([*command, *arguments], capture_output=True, env={**os.environ, **settings}, check=False)
        assert done.returncode == status, done.stderr
        assert b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert rb"\xff" in done.stderr


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_closed_streams_are_not_an_error(folder: Path, redirect: str) -> None:
    command = f"{sys.executable} -m emofuse.cli schema {redirect}; echo status $? >&3"
    done = subprocess.run(["bash", "-c", f"exec 3>&1; {command}"], capture_output=True, text=True, check=False)
    assert "status 0" in done.stdout
    assert done.stderr == ""


def test_an_unreadable_video_does_not_stop_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """typer would refuse the whole command; predict says it of this file."""
    (folder / "a.mp4").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cli.main(["predict", "a.mp4", "--model", "nothing"]) == 2
    assert "--model nothing: neither a run" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", ["schema", "--help", "--version"])
def test_output_that_cannot_be_written_is_one_line(folder: Path, arguments: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m emofuse.cli {arguments} > /dev/full"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("emofuse: error: cannot write an output: No space left on device")


def test_a_bar_shows_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, where file names may look like markup."""
    monkeypatch.setattr(sys, "stderr", terminal := io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    assert list(Progress([1, 2], "[/]\udcff\x1b[2J.mp4")) == [1, 2]
    terminal.flush()
    assert "[/]\\xff\\x1b[2J.mp4" in terminal.buffer.getvalue().decode()  # type: ignore[attr-defined]


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
