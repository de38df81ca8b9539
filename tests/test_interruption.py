"""Killed at any moment, on a full disk, in a folder that cannot be written: the same command again, and all is as if nothing
had been.
"""

from __future__ import annotations

import csv
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
from mlflow.tracking import MlflowClient

STAGES = ("download", "index", "faces", "audio", "splits", "train", "evaluate", "track", "report")
MODEL = "models/demo/kfold_3/proposed/seed-1/fold-0.safetensors"
WAIT = 240.0  # seconds for a stage to begin


def is_at(stage: str, folder: Path) -> bool:
    """Whether a job of a stage is at work in a folder."""
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if f"emofuse {stage} demo" in " ".join(command).replace("/emofuse ", " emofuse ") and (
                process.cwd() == str(folder)
            ):
                return True
        except psutil.Error:
            continue
    return False


def kill_in(stage: str, folder: Path, engine: str, after: float) -> bool:
    """Run an engine, and kill it and all its jobs so many seconds after one of a stage began; whether one did."""
    process = micro.start(folder, *micro.ENGINES[engine])
    deadline = time.monotonic() + WAIT
    try:
        while process.poll() is None and not is_at(stage, folder):
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


def is_as_if_nothing_had_been(folder: Path, whole: Path) -> None:
    assert micro.tables(folder).keys() == micro.tables(whole).keys()
    differing = {name for name, content in micro.tables(whole).items() if micro.tables(folder)[name] != content}
    # They show how many seconds the trainings took, the page the commit too; nothing else knows a clock.
    assert differing <= {f"results/demo/{name}" for name in TIMED}
    assert untimed(folder) == untimed(whole)
    models = [path.relative_to(whole) for path in (whole / "models").rglob("*.safetensors")]
    assert models
    assert all((folder / path).read_bytes() == (whole / path).read_bytes() for path in models)
    assert runs(folder) == runs(whole)
    assert micro.agrees(folder, "snakemake")
    assert micro.agrees(folder, "dvc")
    half = [
        path for place in ("data", "models", "results", "provenance", "stamps") for path in (folder / place).rglob(".*")
    ]
    assert [path for path in half if path.name != ".gitignore"] == []


def untimed(folder: Path) -> list[dict[str, str]]:
    """The main table without its times."""
    with (folder / "results/demo/tables/main.csv").open(newline="") as stream:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def runs(folder: Path) -> list[tuple[str, str]]:
    """The runs of the MLflow store: name and status."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("emofuse/demo")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return sorted((run.info.run_name, run.info.status) for run in found)


TIMED = ("report.html", "tables/main.csv", "tables/main.md", "tables/main.tex")


def interrupted(folder: Path, stages: list[tuple[str, str]], seed: int) -> int:
    """How many of these kills, each a stage and an engine, hit something."""
    chance = random.Random(seed)
    return sum(kill_in(stage, folder, engine, chance.uniform(0, 4)) for stage, engine in stages)


def test_killed_five_times(micro_run: Path, tmp_path: Path) -> None:
    folder = micro.make(tmp_path / "emofuse")
    kills = [
        ("faces", "snakemake"),
        ("train", "dvc"),
        ("evaluate", "snakemake"),
        ("track", "dvc"),
        ("report", "snakemake"),
    ]
    assert interrupted(folder, kills, seed=1) == 5
    micro.run(folder, *micro.ENGINES["snakemake"])
    is_as_if_nothing_had_been(folder, micro_run)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_two_hundred_times(micro_run: Path, tmp_path: Path) -> None:
    hit = dict.fromkeys(STAGES, 0)
    for number in range(100):
        if sum(hit.values()) >= 200:
            break
        folder = micro.make(tmp_path / str(number) / "emofuse")
        engines = list(micro.ENGINES)
        for place, stage in enumerate(STAGES):
            engine = engines[(number + place) % 2]
            hit[stage] += interrupted(folder, [(stage, engine)], seed=100 * number + place)
        micro.run(folder, *micro.ENGINES[engines[number % 2]])
        is_as_if_nothing_had_been(folder, micro_run)
        shutil.rmtree(folder)
    assert sum(hit.values()) >= 200, hit
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
        ("full", "data/demo/audio", "data/demo/audio/shard-0.npy", "audio demo 0"),
        ("full", "models/demo", MODEL, "train demo kfold_3 proposed 1 0"),
        ("full", "provenance/demo", "provenance/demo/splits/kfold_3.json", "splits demo kfold_3"),
        ("full", "results/demo", "results/demo/tables/main.md", "report demo"),
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
    micro.run(folder, "emofuse", "report", "demo")  # it shows how long a training took
    assert " stale" not in micro.run(folder, "emofuse", "verify", "demo")
