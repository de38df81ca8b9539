"""A micro corpus, whose stages take seconds each, for tests of Snakemake and DVC.

Its kind is RAVDESS, with clips of the demo under RAVDESS file names, so that it has a source outside the repository.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml
from conftest import ROOT
from mlflow.tracking import MlflowClient

from emofuse import config
from emofuse.datasets import demo, ravdess
from emofuse.datasets.demo import face as demo_face
from emofuse.datasets.demo import voice as demo_voice
from emofuse.features import media
from emofuse.provenance.records import Record, everything

BIN = Path(sys.executable).parent
CORPUS = "micro"
ACTORS = range(1, 7)
SOURCE = "EMOFUSE_MICRO_SOURCE"
SNAKEMAKE = ("snakemake", CORPUS, "--cores", "2")
DVC = ("dvc", "repro", f"report@{CORPUS}")
ENGINES = {"snakemake": SNAKEMAKE, "dvc": DVC}
FOLD = f"{CORPUS} kfold_3 proposed 1 0"
RUN = f"{CORPUS}/kfold_3/proposed/seed-1/fold-0"
MODEL = f"models/{RUN}.safetensors"
PREDICTIONS = f"results/{CORPUS}/runs/{RUN.removeprefix(f'{CORPUS}/')}/predictions.csv"
FACES = f"data/{CORPUS}/features/faces/shard-1.npy"
SECTION: dict[str, Any] = {
    "kind": "ravdess",
    "title": "micro",
    "actors": list(ACTORS),
    "shards": [0, 1],
    "variants": ["proposed", "audio_only"],
    "protocols": {"kfold_3": [0]},
    "validation_actors": 1,
    "seeds": [1],
    "faces": {"detector": "centre", "snippets": 2, "frames": 3, "size": 32},
    "audio": {"bands": 32, "fft": 1024},
    "spectrogram": {"segments": 2, "frames": 32},
    "network": {
        "video": {"backbone": "r3d_10", "width": 4, "weights": "none"},
        "audio": {"backbone": "resnet10", "width": 8, "weights": "none"},
        "dimension": 16,
        "heads": 2,
    },
    "training": {"epochs": 2, "warmup_epochs": 1, "clips_per_emotion": 2, "learning_rate": 1.0e-3, "threads": 1},
}


def clips(folder: Path) -> Path:
    """Create the source: one clip per actor and emotion."""
    for actor in ACTORS:
        place = folder / f"Actor_{actor:02d}"
        place.mkdir(parents=True)
        for number, emotion in enumerate(ravdess.EMOTIONS, start=1):
            frames, samples = demo.render(3, actor, emotion, 1)
            path = place / f"01-01-{number:02d}-01-01-01-{actor:02d}.mp4"
            media.write_clip(path, frames, demo_face.RATE, samples, demo_voice.SAMPLE_RATE)
    return folder


def copy_tree(folder: Path) -> None:
    """Copy the working tree, the files that git tracks or would add, without published results."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file() and not name.startswith("results/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def commit(folder: Path, message: str = "clone") -> None:
    """Commit everything in a folder, which is initialized as a repository if necessary."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", message]):
        subprocess.run(["git", *command], cwd=folder, check=True)


def make(folder: Path, **section: Any) -> Path:
    """A committed copy of the working tree with the micro corpus as its only corpus, in which nothing has run."""
    folder.mkdir(parents=True)
    copy_tree(folder)
    (folder / "dvc.lock").unlink(missing_ok=True)
    change(folder, lambda loaded: loaded.update(corpora={CORPUS: {**SECTION, **section}}, paper=[]))
    commit(folder)
    return folder


def run_by_snakemake(folder: Path) -> None:
    """Run the micro corpus in a new clone with Snakemake."""
    clone = make(folder / "emofuse")
    clips(source(clone))
    assert ran(run(clone, *SNAKEMAKE)) == jobs(clone)


def run_by_dvc(folder: Path, other: Path) -> None:
    """Run it in a new clone with DVC, with the clips of another clone; commit and push the results."""
    clone = make(folder / "emofuse")
    shutil.copytree(source(other), source(clone), copy_function=shutil.copy2)
    assert ran(run(clone, *DVC)) == jobs(clone)
    commit(clone, "run")
    run(clone, "dvc", "remote", "add", "--local", "-d", "store", str(folder / "store"))
    run(clone, "dvc", "push")


def clone(folder: Path, origin: Path) -> Path:
    """A clone of a DVC run, with its remote and clips, before `dvc pull`."""
    folder.mkdir(parents=True, exist_ok=True)
    cloned = folder / "emofuse"
    run(origin, "git", "clone", "-q", str(origin), str(cloned))
    shutil.copytree(source(origin), source(cloned), copy_function=shutil.copy2)
    run(cloned, "dvc", "remote", "add", "--local", "-d", "store", str(origin.parent / "store"))
    return cloned


def pull(folder: Path, origin: Path) -> None:
    """A clone after `make pull`."""
    cloned = clone(folder, origin)
    run(cloned, "dvc", "pull", "--allow-missing")
    run(cloned, "emofuse", "adopt")


def copied(state: Path, folder: Path) -> Path:
    """A copy of a clone and its clips."""
    shutil.copytree(state, folder / "emofuse", symlinks=True)
    if source(state).is_dir():
        shutil.copytree(source(state), folder / "source", copy_function=shutil.copy2)
    return folder / "emofuse"


def change(folder: Path, how: Callable[[dict[str, Any]], object]) -> None:
    """Edit params.yaml."""
    file = folder / "params.yaml"
    loaded = yaml.safe_load(file.read_text())
    how(loaded)
    file.write_text(yaml.safe_dump(loaded, sort_keys=False))


def source(folder: Path) -> Path:
    """The clips of a clone, next to it."""
    return folder.parent / "source"


def start(folder: Path, *command: str, **settings: str) -> subprocess.Popen[str]:
    """Start a command in a folder, with the code and clips of that folder, in its own process group."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EMOFUSE_")}
    env = {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    if source(folder).is_dir():
        env[SOURCE] = str(source(folder))
    return subprocess.Popen(
        command, cwd=folder, env={**env, "PYTHONPATH": str(folder / "src"), **settings}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # ignored if the tests run in the background
    )  # fmt: skip


def run(folder: Path, *command: str, status: int | None = 0, **settings: str) -> str:
    """The output of a command. Asserts its exit status; None stands for any status but 0."""
    process = start(folder, *command, **settings)
    printed, _ = process.communicate()
    assert process.returncode == status if status is not None else process.returncode, printed[-6000:]
    return printed


def ran(printed: str) -> set[str]:
    """The jobs that Snakemake ran or planned, according to its output: `train micro kfold_3 proposed 1 0`."""
    return set(re.findall(r"^Shell command: emofuse (.+?) > \S+ 2>&1$", printed, flags=re.MULTILINE))


def planned(folder: Path, target: str = CORPUS) -> set[str]:
    """The jobs that Snakemake would run."""
    return ran(run(folder, "snakemake", target, "-n"))


def agrees(folder: Path, engine: str) -> bool:
    """Whether an engine has nothing to do."""
    if engine == "snakemake":
        return "Nothing to be done" in run(folder, "snakemake", CORPUS, "-n")
    return not ran(run(folder, *DVC))


def records(folder: Path) -> list[Record]:
    """The records of a folder."""
    return list(everything(folder))


def jobs(folder: Path) -> set[str]:
    """Every job of the micro corpus, as command lines, given its params.yaml."""
    params = config.load(folder / "params.yaml")
    section = params.corpora[CORPUS]
    found = {f"index {CORPUS}", f"report {CORPUS}"}
    found |= {f"{stage} {CORPUS} {shard}" for stage in ("download", "faces", "audio") for shard in section.shards}
    found |= {f"splits {CORPUS} {protocol}" for protocol in section.protocols}
    for protocol, variant, seed, folds in section.runs():
        found |= {
            f"{stage} {CORPUS} {protocol} {variant} {seed} {fold}" for stage in ("train", "evaluate") for fold in folds
        }
    halved = [key for key in params.keys(CORPUS) if params.calibrated_on(key) == "inner halves"]
    found |= {f"calibrate {' '.join(map(str, key.asdict().values()))}" for key in halved}
    return found


def outputs(folder: Path) -> dict[str, bytes]:
    """The outputs that must be bit-identical in every run: all but records, which contain the time."""
    files = [path for place in ("models", "results") for path in (folder / place / CORPUS).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.endswith("record.json")}


def runs(folder: Path) -> list[tuple[str, str]]:
    """The tag and status of each run in the MLflow store."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(f"emofuse/{CORPUS}")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return sorted((run.data.tags.get("emofuse.run", "?"), run.info.status) for run in found)


def assert_like_uninterrupted(folder: Path, whole: Path) -> None:
    """Assert that a run is bit-identical to an uninterrupted one, and that MLflow has each of its runs once."""
    mine, theirs = outputs(folder), outputs(whole)
    assert mine.keys() == theirs.keys()
    assert {name for name in mine if mine[name] != theirs[name]} == set()
    assert {record.path: record.hash for record in records(folder)} == {
        record.path: record.hash for record in records(whole)
    }
    assert runs(folder) == runs(whole)
    assert agrees(folder, "snakemake")
    leftovers = [path for place in ("data", "models", "results") for path in (folder / place).rglob(".*")]
    assert [path for path in leftovers if path.name != ".gitignore"] == []


def running_job(stage: str, folder: Path) -> psutil.Process | None:
    """The process of a stage that is running in a folder, if there is one."""
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if f"emofuse {stage} {CORPUS}" in " ".join(command).replace("/emofuse ", " emofuse ") and (
                process.cwd() == str(folder)
            ):
                return process
        except psutil.Error:
            continue
    return None
