"""Killed at any moment, on a full disk, in a folder that cannot be written: the same command again, and all is as if nothing
had been.
"""

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

STAGES = ("download", "index", "faces", "audio", "splits", "train", "evaluate", "track", "report")
MODEL = "models/demo/kfold_3/proposed/seed-1/fold-0.safetensors"
WAIT = 240.0  # seconds for a stage to begin


def unlock(folder: Path) -> None:
    """What README.md says to do where DVC's own list of locks was cut by a kill, of which DVC does not recover itself."""
    locks = folder / ".dvc/tmp/rwlock"
    if locks.exists() and not locks.stat().st_size:
        locks.unlink()


def kill_in(stage: str, folder: Path, engine: str, after: float) -> bool:
    """Run an engine, and kill it and all its jobs so many seconds after one of a stage began; whether one did."""
    if engine == "dvc":
        unlock(folder)
    process = micro.start(folder, *micro.ENGINES[engine])
    deadline = time.monotonic() + WAIT
    try:
        while process.poll() is None and micro.at_work(stage, folder) is None:
            assert time.monotonic() < deadline, f"{stage} did not begin"
            time.sleep(0.05)
        reached = process.poll() is None
        time.sleep(after if reached else 0)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                child.kill()
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return reached


def interrupted(folder: Path, stages: list[tuple[str, str]], seed: int) -> int:
    """How many of these kills, each a stage and an engine, hit something."""
    chance = random.Random(seed)
    return sum(kill_in(stage, folder, engine, chance.uniform(0, 4)) for stage, engine in stages)


def test_killed_five_times(micro_run: Path, tmp_path: Path) -> None:
    folder = micro.make(tmp_path / "emofuse")
    kills = [("faces", "snakemake"), ("train", "dvc"), ("evaluate", "snakemake"), ("track", "dvc")]
    assert interrupted(folder, kills, seed=1) == 4
    # DVC may have drawn the report before it came to track.
    (folder / "results/demo/report.html").unlink(missing_ok=True)
    assert interrupted(folder, [("report", "snakemake")], seed=2) == 1
    micro.run(folder, *micro.ENGINES["snakemake"])
    micro.is_as_if_nothing_had_been(folder, micro_run)


@pytest.mark.slow
def test_snakemake_mends_the_list_of_locks_that_a_killed_dvc_cut(micro_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "emofuse"
    shutil.copytree(micro_run, folder, symlinks=True)
    (folder / "results/demo/tables/main.md").unlink()
    (folder / ".dvc/tmp").mkdir(exist_ok=True)
    (folder / ".dvc/tmp/rwlock").write_text("")
    assert "is corrupted" in micro.run(folder, "dvc", "repro", micro.PIPELINE, status=255)
    assert "not recorded" not in micro.run(folder, *micro.ENGINES["snakemake"])
    assert micro.agrees(folder, "dvc")


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", [0, 1])
def test_killed_two_hundred_times(micro_run: Path, tmp_path: Path, part: int) -> None:
    """A hundred of them; the two parts can run side by side."""
    hit = dict.fromkeys(STAGES, 0)
    engines = list(micro.ENGINES)
    for number in range(100 * part, 100 * part + 100):
        if sum(hit.values()) >= 100:
            break
        folder = micro.make(tmp_path / str(number) / "emofuse")
        for place, stage in enumerate(STAGES):
            engine = engines[(number + place) % 2]
            hit[stage] += interrupted(folder, [(stage, engine)], seed=100 * number + place)
        if engines[number % 2] == "dvc":
            unlock(folder)
        micro.run(folder, *micro.ENGINES[engines[number % 2]])
        micro.is_as_if_nothing_had_been(folder, micro_run)
        print(f"{sum(hit.values())} kills, {number - 100 * part + 1} runs as if there had been none", flush=True)
        shutil.rmtree(folder)
    assert sum(hit.values()) >= 100, hit
    assert min(hit.values()) > 0, hit


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own at a folder, with what is in it."""
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


@pytest.mark.parametrize(
    ("trouble", "place", "lost", "command"),
    [
        pytest.param("full", "data/demo/audio", "data/demo/audio/shard-0.npy", "audio demo 0", marks=pytest.mark.slow),
        pytest.param("full", "models/demo", MODEL, "train demo kfold_3 proposed 1 0", marks=pytest.mark.slow),
        ("full", "provenance/demo", "provenance/demo/splits/kfold_3.json", "splits demo kfold_3"),
        pytest.param("full", "results/demo", "results/demo/tables/main.md", "report demo", marks=pytest.mark.slow),
        ("read-only", "results/demo", "results/demo/tables/main.md", "report demo"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line_and_then_all_is_well(
    micro_run: Path, tmp_path: Path, trouble: str, place: str, lost: str, command: str
) -> None:
    folder = tmp_path / "emofuse"
    shutil.copytree(micro_run, folder, symlinks=True)
    before = (folder / lost).read_bytes()
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
    assert (folder / lost).read_bytes() == before
    if command.startswith("train"):
        micro.run(folder, "emofuse", "report", "demo")  # it shows how long a training took
    assert " stale" not in micro.run(folder, "emofuse", "verify", "demo")
