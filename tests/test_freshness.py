"""What a change makes run again, whoever ran before: exactly the right jobs, under either engine, and the other agrees.

A cell of the matrix is a state (run by Snakemake, run by DVC, pulled into a clone by DVC), a change, and an engine. In
every run of the tests each pair of these is tried at least once: of Snakemake what it plans, of DVC, which cannot plan,
one state a change for real. `make soak` runs every cell, and one engine after the other.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import micro
import pytest

PLAN = """
from pathlib import Path
from emofuse import params, plan, provenance
print(*plan.left(provenance.Chain(params.load(), Path()), "demo"), sep="\\n")
"""
KEY = "demo kfold_3 proposed 1 0"
CLIP = "data/demo/raw/shard-1.zip"
MODEL = "models/demo/kfold_3/proposed/seed-1/fold-0.safetensors"
SCORES = "results/demo/kfold_3/proposed/seed-1/fold-0/predictions.csv"


@dataclass(frozen=True)
class Change:
    """What is done to a project, and the jobs that it concerns of itself.

    Of a file that is spoilt or lost, `file`, DVC runs nothing: it brings it back from its cache. Of anything else either
    engine runs all that comes after.
    """

    do: Callable[[Path], object]
    concerns: Callable[[str], bool]
    file: str = ""


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


def spoil(name: str) -> Callable[[Path], object]:
    """Change a byte and keep the size."""

    def do(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return do


CHANGES = {
    "nothing": Change(lambda folder: None, lambda job: False),
    "seed": Change(
        parameter("corpora", "demo", "seeds", value=[2]),
        lambda job: job.split()[-2:-1] == ["2"] or job in ("track demo", "report demo"),
    ),
    "variant": Change(
        parameter("variants", "audio_only", "loss", value={"margin": 0.3}),
        lambda job: " audio_only " in job or job == "report demo",
    ),
    "feature": Change(
        parameter("corpora", "demo", "audio", "hop_ms", value=12.0),
        lambda job: job.startswith("audio ") or job == "report demo",
    ),
    "comment": Change(add("src/emofuse/splits.py", "# Nothing that runs.\n"), lambda job: False),
    "code": Change(add("src/emofuse/evaluation.py", "UNUSED = 1\n"), lambda job: job.startswith(("evaluate", "report"))),
    "clip": Change(spoil(CLIP), lambda job: job == "download demo 1", CLIP),
    "deleted": Change(lambda folder: (folder / MODEL).unlink(), lambda job: job == f"train {KEY}", MODEL),
    "corrupted": Change(spoil(SCORES), lambda job: job == f"evaluate {KEY}", SCORES),
}  # fmt: skip
STATES = ("snakemake", "dvc", "pull")
OTHER = {"snakemake": "dvc", "dvc": "snakemake"}


@pytest.fixture(scope="module")
def states(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("states")
    made = {"snakemake": micro_run, "dvc": micro.make(folder / "dvc")}
    printed = micro.run(made["dvc"], *micro.ENGINES["dvc"])
    assert micro.ran(printed) == {str(job) for job in micro.jobs(made["dvc"])}
    origin = folder / "origin"
    shutil.copytree(made["snakemake"], origin, symlinks=True)
    micro.run(origin, "dvc", "remote", "add", "-d", "store", str(folder / "store"))
    micro.run(origin, "dvc", "push", micro.PIPELINE)
    micro.run(origin, "git", "add", "-A")
    micro.run(origin, "git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", "run")
    made["pull"] = folder / "pull"
    micro.run(folder, "git", "clone", "-q", str(origin), str(made["pull"]))
    micro.run(made["pull"], "dvc", "pull", micro.PIPELINE)
    return made


def changed(states: dict[str, Path], state: str, change: str, folder: Path) -> Path:
    folder = folder / state / "emofuse"
    shutil.copytree(states[state], folder, symlinks=True)
    CHANGES[change].do(folder)
    return folder


def expected(folder: Path, change: Change, engine: str) -> set[str]:
    if change.file and engine == "dvc":
        return set()
    return micro.downstream(folder, {str(job) for job in micro.jobs(folder) if change.concerns(str(job))})


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", STATES)
def test_snakemake_plans_exactly_the_right_jobs(
    states: dict[str, Path], tmp_path: Path, state: str, change: str
) -> None:
    folder = changed(states, state, change, tmp_path)
    planned = micro.ran(micro.run(folder, "snakemake", "demo", "-n"))
    assert planned == expected(folder, CHANGES[change], "snakemake")
    # By the folder's own code, of which the stamps have the hash.
    by_plan = micro.run(folder, sys.executable, "-c", PLAN)
    assert set(filter(None, by_plan.splitlines())) == planned


def run_and_ask_the_other(folder: Path, before: Path, change: str, engine: str) -> None:
    assert micro.ran(micro.run(folder, *micro.ENGINES[engine])) == expected(folder, CHANGES[change], engine)
    if file := CHANGES[change].file:
        assert (folder / file).read_bytes() == (before / file).read_bytes()
    assert micro.agrees(folder, OTHER[engine])
    assert micro.agrees(folder, engine)
    assert " stale" not in micro.run(folder, "emofuse", "verify", "demo")


@pytest.mark.parametrize(("state", "change"), [(STATES[n % 3], change) for n, change in enumerate(CHANGES)])
def test_dvc_runs_exactly_the_right_jobs_and_snakemake_agrees(
    states: dict[str, Path], tmp_path: Path, state: str, change: str
) -> None:
    run_and_ask_the_other(changed(states, state, change, tmp_path), states[state], change, "dvc")


@pytest.mark.slow
@pytest.mark.parametrize("engine", OTHER)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("state", STATES)
def test_every_cell(states: dict[str, Path], tmp_path: Path, state: str, change: str, engine: str) -> None:
    run_and_ask_the_other(changed(states, state, change, tmp_path), states[state], change, engine)


@pytest.mark.slow
def test_a_parameter_changed_and_changed_back_under_the_other_engine(states: dict[str, Path], tmp_path: Path) -> None:
    """By Snakemake, with another seed by DVC, and as before by Snakemake: it must not take its own old word for it."""
    folder = changed(states, "snakemake", "variant", tmp_path)
    before = (folder / "models/demo/kfold_3/audio_only/seed-1/fold-0.safetensors").read_bytes()
    micro.run(folder, *micro.ENGINES["dvc"])
    assert (folder / "models/demo/kfold_3/audio_only/seed-1/fold-0.safetensors").read_bytes() != before
    micro.run(folder, "git", "checkout", "-q", "params.yaml")
    assert micro.ran(micro.run(folder, *micro.ENGINES["snakemake"])) == expected(
        folder, CHANGES["variant"], "snakemake"
    )
    assert (folder / "models/demo/kfold_3/audio_only/seed-1/fold-0.safetensors").read_bytes() == before


@pytest.mark.slow
def test_of_a_partly_failed_run_dvc_has_what_finished(states: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(states, "snakemake", "seed", tmp_path)
    broken = folder / "src/emofuse/augmentation.py"  # what only trainings run
    text = broken.read_text()
    broken.write_text(text.replace("def augment(", "def augmented(", 1))
    assert broken.read_text() != text
    micro.change(folder, lambda loaded: loaded["corpora"]["demo"].update(split_seed=5))
    micro.run(folder, *micro.ENGINES["snakemake"], status=1)
    status = micro.run(folder, "dvc", "status", micro.PIPELINE)
    assert "splits" not in status
    assert "train@proposed-2-0" in status
