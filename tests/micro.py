"""A micro corpus: the demo with few clips and a tiny network, whose every stage takes seconds, for tests of the engines."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from conftest import ROOT
from mlflow.tracking import MlflowClient

from emofuse import graph, params

BIN = Path(sys.executable).parent
CORPUS = "demo"
PIPELINE = "pipelines/demo/dvc.yaml"
ENGINES = {
    "snakemake": ("snakemake", CORPUS, "--cores", "2"),
    "dvc": ("dvc", "repro", PIPELINE),
}
TIMED = {"results/demo/report.html", *(f"results/demo/tables/main.{suffix}" for suffix in ("csv", "md", "tex"))}
SIZES: dict[str, Any] = {
    "demo": {"seed": 3, "actors": 6, "takes": 1},
    "shards": [0, 1],
    "variants": ["proposed", "audio_only"],
    "protocols": {"kfold_3": [0]},
    "validation_actors": 1,
    "faces": {"detector": "centre", "snippets": 2, "frames": 3, "size": 32},
    "audio": {"bands": 32, "segments": 2, "frames": 32, "fft": 1024},
    "network": {
        "video": {"backbone": "r3d_10", "width": 4, "weights": "none"},
        "audio": {"backbone": "resnet10", "width": 8, "weights": "none"},
        "dimension": 16,
        "heads": 2,
    },
    "training": {"epochs": 2, "warmup_epochs": 1, "clips_per_emotion": 2, "threads": 1},
}


def environment() -> dict[str, str]:
    # The stages import emofuse from the clone, not from where the tests' environment was installed from.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EMOFUSE_")}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}


def copy_tree(folder: Path) -> None:
    """Put a copy of the working tree there: what git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def commit(folder: Path) -> None:
    """Make a repository of a folder, with one commit of all that is in it."""
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "clone"]):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)


def make(folder: Path) -> Path:
    """A clone of the working tree with the micro corpus in its params.yaml, committed; nothing has run."""
    folder.mkdir(parents=True)
    copy_tree(folder)
    (folder / "pipelines/demo/dvc.lock").unlink(missing_ok=True)
    change(folder, lambda loaded: loaded["corpora"][CORPUS].update(SIZES))
    commit(folder)
    return folder


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    """Change params.yaml."""
    file = folder / "params.yaml"
    loaded = yaml.safe_load(file.read_text())
    how(loaded)
    file.write_text(yaml.safe_dump(loaded, sort_keys=False))


def start(folder: Path, *command: str, **settings: str) -> subprocess.Popen[str]:
    """A command in the folder, with the folder's own code, in a process group of its own."""
    env = {**environment(), "PYTHONPATH": str(folder / "src"), **settings}
    return subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )  # fmt: skip


def run(folder: Path, *command: str, status: int = 0, **settings: str) -> str:
    """What a command printed, which has to end with that status."""
    process = start(folder, *command, **settings)
    printed, _ = process.communicate()
    assert process.returncode == status, printed[-6000:]
    return printed


def ran(printed: str) -> set[str]:
    """The jobs that an engine ran, or says that it would: `train demo kfold_3 proposed 1 0`."""
    commands = re.findall(r"^(?:Shell command: |> )emofuse (.+?)(?: > \S+ 2>&1)?$", printed, flags=re.MULTILINE)
    return {command for command in commands if not command.startswith(("stamps", "weights"))}


def jobs(folder: Path) -> list[graph.Job]:
    """The jobs of the micro corpus."""
    return list(graph.of_corpus(params.load(folder / "params.yaml"), CORPUS))


def downstream(folder: Path, changed: set[str]) -> set[str]:
    """Jobs, and all that read what they make."""
    found = set(changed)
    made: set[str] = set()
    for job in jobs(folder):
        if str(job) in changed or not made.isdisjoint(job.inputs):
            found.add(str(job))
            made |= {*job.outputs, job.fingerprint}
    return found


def agrees(folder: Path, engine: str) -> bool:
    """Whether an engine has nothing to do; DVC may write the stamps anew, which is how it finds that out."""
    if engine == "snakemake":
        return "Nothing to be done" in run(folder, "snakemake", CORPUS, "-n")
    changed = re.findall(r"^(\S+):$", run(folder, "dvc", "status", PIPELINE), flags=re.MULTILINE)
    return set(changed) <= {f"{PIPELINE}:stamps"}


def tables(folder: Path) -> dict[str, bytes]:
    """What a run makes for people: tables, figures, page and the list of tracked folds."""
    files = [path for path in (folder / "results" / CORPUS).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "seed-" not in str(path)}


def at_work(stage: str, folder: Path) -> psutil.Process | None:
    """The job of a stage that is at work in a folder."""
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if f"emofuse {stage} demo" in " ".join(command).replace("/emofuse ", " emofuse ") and (
                process.cwd() == str(folder)
            ):
                return process
        except psutil.Error:
            continue
    return None


def is_as_if_nothing_had_been(folder: Path, whole: Path) -> None:
    """Assert that a run is what another one is, to the bit, and that both engines and MLflow have all of it."""
    assert tables(folder).keys() == tables(whole).keys()
    differing = {name for name, content in tables(whole).items() if tables(folder)[name] != content}
    # They show how many seconds the trainings took, the page the commit too; nothing else knows a clock.
    assert differing <= TIMED
    assert untimed(folder) == untimed(whole)
    models = [path.relative_to(whole) for path in (whole / "models").rglob("*.safetensors")]
    assert models
    assert all((folder / path).read_bytes() == (whole / path).read_bytes() for path in models)
    assert runs(folder) == runs(whole)
    assert agrees(folder, "snakemake")
    assert agrees(folder, "dvc")
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
