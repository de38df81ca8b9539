"""What both engines take to find that nothing is to be done, beside themselves on a bare graph of the same size.

`python benchmarks/noop.py [--rounds N]`, in the repository's root. It makes two folders. One is a clone of the working
tree in which all that params.yaml asks for (every corpus, protocol, variant, seed and fold) is there: tiny files with
their true fingerprints, recorded by both engines as by a run. The other has the same files and the same graph, bare. For
Snakemake that is the same rules with the same wildcards, their inputs looked up in a table, without command, log, threads
or any other option; for DVC the same stages in the same files, spelt out, each with the same dependencies and outputs and
the command `true`. Nothing of emofuse runs there. The engines' settings are the same. That both folders have as many jobs
and stages, and that nothing is to be done in either, is checked each time.

The last lines are its figures, of `snakemake -n` and of `dvc status`, whole commands by the clock: their seconds, those on
the bare graph, and the ratio; each is a median over rounds in which the two take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml
from clone import copy_tree
from dvc.repo import Repo

from emofuse import cli, graph, params, provenance, stamps, weights
from emofuse.params import Params

BIN = Path(sys.executable).parent
HEAD = """\
import json
READS = json.load(open("reads.json"))
wildcard_constraints:
    {constraints}
"""
TARGET = """\
rule {name}:
    input: READS["{name}"]
"""
RULE = """\
rule {name}:
    input: lambda wildcards: READS["/".join(["{name}", *wildcards])]
    output: {outputs}
    shell: ""
"""


class Step(NamedTuple):
    """A job as the bare graph has it."""

    rule: str
    wildcards: dict[str, str]
    inputs: list[str]
    outputs: list[str]


def run(folder: Path, *command: str) -> str:
    """What a command prints; one that fails ends the benchmark."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EMOFUSE_")}
    environment = kept | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),  # the clone's own code
        "EMOFUSE_DVC_COMMIT": "0",
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "tmp" / "site"),
        "CI": "1",  # DVC looks for no newer version of itself
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def make_clone(folder: Path) -> Params:
    """A clone of the working tree, and in it every output of the graph, in order, with its fingerprint."""
    copy_tree(folder)
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=-", "-c", "user.email=-", "commit", "-q", "-m", "clone")
    loaded = params.load(folder / "params.yaml")
    for corpus in loaded.corpora:
        stamps.write(corpus, loaded, folder)
    for name in weights.NAMES:
        write(folder, weights.path(name))
    for job in graph.jobs(loaded):
        with provenance.recorded(job, loaded, folder):
            for output in job.outputs:
                write(folder, output)
    return loaded


def write(folder: Path, path: str) -> None:
    """A small file, unlike any other."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(f"{path}\n")


def make_bare(folder: Path, clone: Path, loaded: Params) -> None:
    """The clone's files with the bare graph instead of its own."""
    engines = shutil.ignore_patterns(
        ".git", ".snakemake", "tmp", "cache", "dvc.lock", "dvc.yaml", "workflow", "Snakefile"
    )
    shutil.copytree(clone, folder, ignore=engines)
    run(folder, "git", "init", "-q")
    write_snakefile(folder, loaded)
    write_pipelines(folder, clone)


def targets(loaded: Params) -> dict[str, list[str]]:
    """What Snakemake is asked for, all that there is, and the files that this means."""
    wanted = {
        corpus: [
            path for job in graph.of_corpus(loaded, corpus) if job.stage in ("track", "report") for path in job.outputs
        ]
        for corpus in loaded.corpora
    }
    (paper,) = (job for job in graph.jobs(loaded) if job.stage == "paper")
    default = [*(path for corpus in loaded.paper for path in wanted.pop(corpus)), *paper.outputs]
    return {"all": default, **wanted}


def steps(loaded: Params) -> list[Step]:
    """The jobs of the graph, and those that fetch the weights that they read."""
    found = []
    for job in graph.jobs(loaded):
        names = [name.rstrip("?") for name in cli.COMMANDS[job.stage][1] if not name.startswith("--")]
        wildcards = dict(zip(names, map(str, job.arguments), strict=True))
        found.append(Step(job.stage, wildcards, [*job.inputs, *job.stamps], [*job.outputs, job.fingerprint]))
    fetched = {path for step in found for path in step.inputs} & {weights.path(name) for name in weights.NAMES}
    return [*(Step("weights", {"weights": path}, [], [path]) for path in sorted(fetched)), *found]


def pattern(path: str, wildcards: dict[str, str]) -> str:
    """A path with a wildcard for each part that is its value or, like `fold-0`, its name and value."""
    parts = {value: f"{{{name}}}" for name, value in wildcards.items()}
    parts |= {f"{name}-{value}": f"{name}-{{{name}}}" for name, value in wildcards.items()}
    return parts.get(path) or "".join(parts.get(part, part) for part in re.split(r"([/.])", path))


def write_snakefile(folder: Path, loaded: Params) -> None:
    """The bare graph for Snakemake, and the table that it looks its inputs up in."""
    reads = targets(loaded)
    asked = [TARGET.format(name=name) for name in reads]
    rules: dict[str, list[str]] = {}
    values: dict[str, set[str]] = {}
    for step in steps(loaded):
        outputs = [pattern(path, step.wildcards) for path in step.outputs]
        if rules.setdefault(step.rule, outputs) != outputs:
            raise SystemExit(f"{step.rule} has no one pattern: {rules[step.rule]} and {outputs}")
        reads["/".join((step.rule, *step.wildcards.values()))] = step.inputs
        for name, value in step.wildcards.items():
            values.setdefault(name, set()).add(re.escape(value))
    constraints = ",\n    ".join(f"{name}={'|'.join(sorted(known))!r}" for name, known in values.items())
    made = [RULE.format(name=name, outputs=", ".join(map(repr, outputs))) for name, outputs in rules.items()]
    (folder / "Snakefile").write_text("".join([HEAD.format(constraints=constraints), *asked, *made]))
    (folder / "reads.json").write_text(json.dumps(reads))


def write_pipelines(folder: Path, clone: Path) -> None:
    """The bare graph for DVC: what the clone's pipelines come to, spelt out."""
    files: dict[Path, dict[str, Any]] = {}
    for stage in stages(clone):
        file = Path(stage.path_in_repo)

        def path(item: Any, start: Path = clone / file.parent) -> str:
            return os.path.relpath(item.fs_path, start)

        files.setdefault(file, {})[stage.name.replace("@", "-")] = {
            "cmd": "true",
            "deps": [path(dependency) for dependency in stage.deps],
            "outs": [{path(out): {"cache": out.use_cache, "persist": out.persist}} for out in stage.outs],
        }
    for file, spelt_out in files.items():
        (folder / file).write_text(yaml.safe_dump({"stages": spelt_out}, sort_keys=False))


def stages(folder: Path) -> list[Any]:
    """The stages of all of a folder's pipelines."""
    with Repo(str(folder)) as repo:
        return list(repo.index.stages)


def record(folder: Path, asked: list[str]) -> tuple[int, int]:
    """Have both engines record every file as a run does; the numbers of jobs and of stages."""
    run(folder, "snakemake", "--touch", "--forceall", "--cores", "1", *asked)
    run(folder, "dvc", "commit", "--force", "--quiet", "--no-relink")  # links would be newer than what is made of them
    planned = re.search(r"^total +(\d+)$", run(folder, "snakemake", "-n", "--forceall", *asked), re.MULTILINE)
    if planned is None:
        raise SystemExit("snakemake -n says no number of jobs")
    return int(planned[1]), len(stages(folder))


def seconds(folder: Path, expected: str, *command: str) -> float:
    """The time of a command that has to say what is expected."""
    started = time.perf_counter()
    printed = run(folder, *command)
    took = time.perf_counter() - started
    if expected not in printed:
        raise SystemExit(f"{folder.name}: {' '.join(command)} finds something to do: {printed[-3000:]}")
    return took


def measure(name: str, rounds: int, once: Callable[[Path], float], clone: Path, bare: Path) -> dict[str, float]:
    """The figures of an engine."""
    once(clone), once(bare)  # compiled modules, files in memory
    taken = []
    for number in range(rounds):
        taken.append((once(clone), once(bare)))
        print(f"{name}, round {number + 1}: {taken[-1][0]:.2f} s, bare {taken[-1][1]:.2f} s", flush=True)
    return {
        f"{name}_seconds": median(own for own, _ in taken),
        f"{name}_bare_seconds": median(bare for _, bare in taken),
        f"{name}_over_bare": median(own / bare for own, bare in taken),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clone, bare = Path(name).resolve() / "clone", Path(name).resolve() / "bare"
        loaded = make_clone(clone)
        make_bare(bare, clone, loaded)
        asked = list(targets(loaded))
        sizes = record(clone, asked)
        if record(bare, asked) != sizes:
            raise SystemExit("the bare graph is of another size")
        nothing, current = "Nothing to be done", "Data and pipelines are up to date."
        rounds = options.rounds
        figures = measure(
            "snakemake", rounds, lambda folder: seconds(folder, nothing, "snakemake", "-n", *asked), clone, bare
        )
        figures |= measure("dvc", rounds, lambda folder: seconds(folder, current, "dvc", "status"), clone, bare)
    print(f"jobs: {sizes[0]}\nstages: {sizes[1]}")
    for figure, value in figures.items():
        print(f"{figure}: {value:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
