"""After a kill, a full disk or a read-only folder, the same command gives the results of an uninterrupted run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import micro
import psutil
import pytest

STAGES = ("download", "index", "faces", "audio", "splits", "train", "evaluate", "report")
WAIT = 240.0  # seconds for a stage to start


def start_and_wait(stage: str, folder: Path, engine: str, after: float) -> tuple[subprocess.Popen[str], bool]:
    """Run an engine until some seconds after a stage started. The second value is whether it did start."""
    process = micro.start(folder, *micro.ENGINES[engine])
    deadline = time.monotonic() + WAIT
    while process.poll() is None and micro.running_job(stage, folder) is None:
        assert time.monotonic() < deadline, f"{stage} did not start"
        time.sleep(0.05)
    reached = process.poll() is None
    time.sleep(after if reached else 0)
    return process, reached


def kill_in(stage: str, folder: Path, engine: str, after: float) -> bool:
    """Kill an engine and all its jobs during a stage, then unlock. Returns whether the stage had started."""
    process, reached = start_and_wait(stage, folder, engine, after)
    for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            child.kill()
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    unlock(folder)
    return reached


def unlock(folder: Path) -> None:
    """Do what Snakemake and DVC ask for after a kill."""
    if any((folder / ".snakemake/locks").glob("*")):
        micro.run(folder, "snakemake", "--unlock")
    rwlock = folder / ".dvc/tmp/rwlock"  # DVC asks to delete it if it was killed while writing it
    if rwlock.exists() and not rwlock.stat().st_size:
        rwlock.unlink()


def fresh(micro_run: Path, folder: Path) -> Path:
    """A clone in which nothing has run, with the clips of a finished run."""
    clone = micro.make(folder / "emofuse")
    shutil.copytree(micro.source(micro_run), micro.source(clone), copy_function=shutil.copy2)
    return clone


@pytest.mark.integration
def test_killed_five_times(micro_run: Path, tmp_path: Path) -> None:
    folder, chance = fresh(micro_run, tmp_path), random.Random(1)
    kills = [("faces", "snakemake"), ("splits", "dvc"), ("train", "dvc"), ("evaluate", "snakemake"), ("report", "dvc")]
    assert sum(kill_in(stage, folder, engine, chance.uniform(0, 4)) for stage, engine in kills) == 5
    micro.run(folder, *micro.SNAKEMAKE)
    micro.assert_like_uninterrupted(folder, micro_run)
    micro.run(folder, *micro.DVC)
    assert "up to date" in micro.run(folder, "dvc", "status", f"report@{micro.CORPUS}")


@pytest.mark.integration
def test_stopped_by_ctrl_c(micro_run: Path, tmp_path: Path) -> None:
    folder = fresh(micro_run, tmp_path)
    process, reached = start_and_wait("train", folder, "snakemake", after=2)
    assert reached
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    micro.run(folder, *micro.SNAKEMAKE)  # without unlocking
    micro.assert_like_uninterrupted(folder, micro_run)


def kill_often(micro_run: Path, tmp_path: Path, kills: int, first: int) -> None:
    hit = dict.fromkeys(STAGES, 0)
    engines = list(micro.ENGINES)
    number = first
    while sum(hit.values()) < kills:
        folder, chance = fresh(micro_run, tmp_path / str(number)), random.Random(number)
        for place, stage in enumerate(STAGES):
            hit[stage] += kill_in(stage, folder, engines[(number + place) % 2], chance.uniform(0, 4))
        micro.run(folder, *micro.ENGINES[engines[number % 2]])
        micro.assert_like_uninterrupted(folder, micro_run)
        number += 1
        print(f"{sum(hit.values())} kills, {number - first} runs like uninterrupted ones: {hit}", flush=True)
        shutil.rmtree(folder.parent)
    assert min(hit.values()) > 0, hit


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", [0, 1])
def test_killed_fifty_times(micro_run: Path, tmp_path: Path, part: int) -> None:
    """Twenty-five kills; the two parts run in parallel."""
    kill_often(micro_run, tmp_path, 25, 1000 * part)


@pytest.mark.long
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("part", [2, 3])
def test_killed_two_hundred_times(micro_run: Path, tmp_path: Path, part: int) -> None:
    """A hundred kills per part."""
    kill_often(micro_run, tmp_path, 100, 1000 * part)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a separate file system at a folder, with the same content, full or read-only."""
    kept = folder.with_name(f"{folder.name}.kept")
    folder.rename(kept)
    folder.mkdir()
    size = 2 * sum(path.stat().st_size + 4096 for path in kept.rglob("*")) + 2**20
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        folder.rmdir()
        kept.rename(folder)
        pytest.skip(f"cannot mount a small disk here: {done.stderr.strip()}")
    try:
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        if options == "full":
            with suppress(OSError), (folder / "filler").open("wb", buffering=0) as stream:
                while True:
                    stream.write(bytes(4096))
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()
        kept.rename(folder)


TROUBLES = [
    (
        "full",
        f"data/{micro.CORPUS}/features/audio",
        f"data/{micro.CORPUS}/features/audio/shard-0.npy",
        f"audio {micro.CORPUS} 0",
    ),
    ("full", f"models/{micro.CORPUS}", micro.MODEL, f"train {micro.FOLD}"),
    (
        "full",
        f"data/{micro.CORPUS}/splits",
        f"data/{micro.CORPUS}/splits/kfold_3/record.json",
        f"splits {micro.CORPUS} kfold_3",
    ),
    ("full", f"results/{micro.CORPUS}/tables", f"results/{micro.CORPUS}/tables/main.md", f"report {micro.CORPUS}"),
    ("read-only", f"results/{micro.CORPUS}/tables", f"results/{micro.CORPUS}/tables/main.md", f"report {micro.CORPUS}"),
]


@pytest.mark.parametrize(
    ("trouble", "place", "lost", "command"),
    [pytest.param(*each, marks=pytest.mark.integration if number in (1, 4) else pytest.mark.slow) for number, each in enumerate(TROUBLES)],
)  # fmt: skip
def test_an_unwritable_folder_is_one_line_and_a_rerun_succeeds(
    micro_run: Path, tmp_path: Path, trouble: str, place: str, lost: str, command: str
) -> None:
    folder = micro.copied(micro_run, tmp_path)
    record = "record.json"
    before = {
        path.name: path.read_bytes() for path in (folder / lost).parent.iterdir() if not path.name.endswith(record)
    }
    (folder / lost).unlink()
    with mounted(folder / place, trouble):
        printed = micro.run(folder, "emofuse", *command.split(), status=2)
        errors = [line for line in printed.splitlines() if line.startswith("emofuse: error: ")]
        assert len(errors) == 1
        assert f"cannot write {place}" in errors[0]
        assert {"full": "No space left", "read-only": "Read-only file system"}[trouble] in errors[0]
        assert "Traceback" not in printed
        assert not (folder / lost).exists()
    micro.run(folder, "emofuse", *command.split())
    assert {
        path.name: path.read_bytes() for path in (folder / lost).parent.iterdir() if not path.name.endswith(record)
    } == before
    printed = micro.run(folder, "emofuse", "verify", micro.CORPUS)
    assert "stale" not in printed
    assert "corrupted" not in printed
