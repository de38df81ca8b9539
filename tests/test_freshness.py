"""A change reruns exactly the affected jobs, with either engine and regardless of which engine ran last.

A test is a state (run by Snakemake, run by DVC, pulled into a clone), a change, and an engine. CI tests each change in one
state with one engine; `make soak` tests all combinations.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import micro
import pytest

CORPUS, FOLD = micro.CORPUS, micro.FOLD
AUDIO_FOLD = FOLD.replace("proposed", "audio_only")
REPORT = f"report {CORPUS}"
AUDIO = {f"audio {CORPUS} 0", f"audio {CORPUS} 1"}
TRAININGS = {f"train {FOLD}", f"train {AUDIO_FOLD}", f"calibrate {FOLD}"}
EVALUATIONS = {f"evaluate {FOLD}", f"evaluate {AUDIO_FOLD}"}
AFTER_FEATURES = {f"splits {CORPUS} kfold_3", *TRAININGS, *EVALUATIONS, REPORT}


@dataclass(frozen=True)
class Change:
    """A change to a clone, and the jobs that then run for `target`."""

    do: Callable[[Path], object]
    jobs: set[str]
    target: str = CORPUS
    by_dvc: set[str] | None = None  # if DVC stops at outputs that are unchanged
    needs_clips: bool = False  # a clone has none: they are fetched, and everything after them runs
    keeps: set[str] = field(default_factory=set)  # files that are the same bytes afterwards


def parameter(*path: str, value: object) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        def put(loaded: dict) -> None:  # type: ignore[type-arg]
            for key in path[:-1]:
                loaded = loaded[key]
            loaded[path[-1]] = value

        micro.change(folder, put)

    return do


def add(name: str, text: str) -> Callable[[Path], object]:
    def do(folder: Path) -> None:
        with (folder / name).open("a") as stream:
            stream.write(text)

    return do


def corrupt(name: str) -> Callable[[Path], object]:
    """Change a byte and keep the size."""

    def do(folder: Path) -> None:
        path = folder / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.unlink()  # DVC may have linked it to its cache
        path.write_bytes(content)

    return do


def replace_clip(folder: Path) -> None:
    """Put another clip in the place of one at the source, of an actor of the second shard."""
    place = micro.source(folder) / "Actor_06"
    shutil.copy(place / "01-01-03-01-01-01-06.mp4", place / "01-01-04-01-01-01-06.mp4")
    (place / "01-01-03-01-01-01-06.mp4").unlink()


CHANGES = {
    "nothing": Change(lambda folder: None, set()),
    "seed": Change(
        parameter("corpora", CORPUS, "seeds", value=[2]),
        {job.replace(" 1 0", " 2 0") for job in TRAININGS | EVALUATIONS} | {REPORT},
    ),
    "variant": Change(
        parameter("variants", "audio_only", "loss", value={"margin": 0.3}),
        {f"train {AUDIO_FOLD}", f"evaluate {AUDIO_FOLD}", REPORT},
    ),
    "view of the sound": Change(
        parameter("variants", "audio_only", "spectrogram", value={"segments": 1, "frames": 90, "normalise": "fixed"}),
        {f"train {AUDIO_FOLD}", f"evaluate {AUDIO_FOLD}", REPORT},
    ),
    "feature": Change(
        parameter("corpora", CORPUS, "audio", "hop_ms", value=12.0),
        {*AUDIO, *AFTER_FEATURES},
        needs_clips=True,
    ),
    "comment": Change(add("src/emofuse/data/splits.py", "# A comment.\n"), set()),
    "code": Change(
        add("src/emofuse/evaluation/calibration.py", "UNUSED = 1\n"), {f"calibrate {FOLD}", *EVALUATIONS, REPORT}
    ),
    "clip": Change(
        replace_clip,
        {f"{stage} {CORPUS} {shard}" for stage in ("faces", "audio") for shard in (0, 1)}
        | {f"download {CORPUS} 1", f"index {CORPUS}", *AFTER_FEATURES},
        needs_clips=True,
    ),
    "deleted": Change(
        lambda folder: (folder / micro.MODEL).unlink(),
        {f"train {FOLD}", f"evaluate {FOLD}", REPORT},
        target=f"{CORPUS}_models {CORPUS}",
        by_dvc={f"train {FOLD}"},
        keeps={micro.MODEL, micro.PREDICTIONS},
    ),
    "corrupted": Change(corrupt(micro.FACES), {f"faces {CORPUS} 1"}, keeps={micro.FACES, micro.PREDICTIONS}),
}
REBUILD = ("snakemake", "--force", micro.FACES, "--cores", "2")
RESTORE = ("dvc", "checkout", "--force", "--allow-missing", f"features@{CORPUS}")  # in a clone, from the cache of DVC
REPRO = ("dvc", "repro", "--allow-missing", f"report@{CORPUS}")
STATES = ("snakemake", "dvc", "pull")
CELLS = [(state, change, engine) for state in STATES for change in CHANGES for engine in micro.ENGINES]
# Each change once, in one of the states and with one of the engines.
PAIRS = [
    (STATES[number % 3], change, ("snakemake", "dvc")[number // 3 % 2 ^ number % 2])
    for number, change in enumerate(CHANGES)
]


@pytest.fixture
def states(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    fixtures = {"snakemake": "micro_run", "dvc": "dvc_run", "pull": "pulled_run"}
    return lambda state: request.getfixturevalue(fixtures[state])


def check(states: Callable[[str], Path], tmp_path: Path, state: str, change: str, engine: str) -> None:
    folder, expected = micro.copied(states(state), tmp_path), CHANGES[change]
    before = {name: (folder / name).read_bytes() for name in expected.keeps}
    expected.do(folder)
    jobs, done = expected.jobs, set()
    if state == "pull" and expected.needs_clips:
        jobs = micro.jobs(folder)
    if engine == "dvc" and expected.by_dvc is not None:
        jobs = jobs - (expected.jobs - expected.by_dvc)
    if change == "corrupted":
        assert_refused(folder)
        if state == "pull":
            micro.run(folder, *RESTORE)
            micro.run(folder, "emofuse", "adopt")
            jobs = set()
        else:
            done |= micro.ran(micro.run(folder, *REBUILD))
    command = REPRO if engine == "dvc" else ("snakemake", *expected.target.split(), "--cores", "2")
    done |= micro.ran(micro.run(folder, *command))
    assert done == jobs
    assert {name: (folder / name).read_bytes() for name in expected.keeps} == before
    assert micro.agrees(folder, "snakemake")
    assert not micro.ran(micro.run(folder, *REPRO))
    assert "up to date" in micro.run(folder, "dvc", "status", f"report@{CORPUS}")
    printed = micro.run(folder, "emofuse", "verify", CORPUS)
    assert "stale" not in printed
    assert "corrupted" not in printed


def assert_refused(folder: Path) -> None:
    """Assert that a corrupted feature file is rejected by its readers and detected by verify and DVC."""
    printed = micro.run(folder, "emofuse", "train", *FOLD.split(), status=2)
    assert f"{micro.FACES} is corrupted" in printed
    assert f"snakemake --force {micro.FACES}" in printed
    assert "1 corrupted" in micro.run(folder, "emofuse", "verify", CORPUS, "--step", "features", status=2)
    if (folder / "dvc.lock").is_file():
        lock = (folder / "dvc.lock").read_bytes()
        assert "modified" in micro.run(folder, "dvc", "status", f"features@{CORPUS}")
        micro.run(folder, "dvc", "repro", "--allow-missing", f"features@{CORPUS}", status=None)
        assert (folder / "dvc.lock").read_bytes() == lock


@pytest.mark.integration
@pytest.mark.parametrize(("state", "change", "engine"), PAIRS)
def test_exactly_the_affected_jobs_run(
    states: Callable[[str], Path], tmp_path: Path, state: str, change: str, engine: str
) -> None:
    check(states, tmp_path, state, change, engine)


@pytest.mark.slow
@pytest.mark.parametrize(("state", "change", "engine"), [cell for cell in CELLS if cell not in PAIRS])
def test_exactly_the_affected_jobs_run_in_all_other_combinations(
    states: Callable[[str], Path], tmp_path: Path, state: str, change: str, engine: str
) -> None:
    check(states, tmp_path, state, change, engine)
