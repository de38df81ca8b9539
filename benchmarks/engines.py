"""What both engines take to find that nothing is to be done, beside themselves on a bare graph of the same size.

`python benchmarks/engines.py [--rounds N]`, in the repository's root. It makes two folders. One is a clone of the working
tree in which every output that params.yaml asks for exists, as a tiny file or a valid record, registered with both engines.
The other has the same files and the same graph, bare. For Snakemake that is the same rules and wildcards, with inputs from
a table and without any option; for DVC the same stages, spelled out, each with the command `true`. Nothing of emofuse runs
there. The engines' settings are the same. That both have as many jobs and stages, and nothing to do, is checked each time.

The last lines are its figures, of `snakemake -n` and of `dvc status`, whole commands by the clock: medians over rounds in
which the two folders take turns.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import yaml
from clone import copy_tree
from dvc.repo import Repo

from emofuse import config
from emofuse.provenance.code import digest
from emofuse.provenance.records import SUFFIX, Record

BIN = Path(sys.executable).parent
NOTHING_TO_DO = {"snakemake -n": "Nothing to be done", "dvc status": "always changed"}
HEAD = 'import json\nREADS = json.load(open("reads.json"))\nwildcard_constraints:\n    {}\n'
INPUT = 'rule {0}:\n    input: lambda wildcards: READS["/".join(["{0}", *wildcards])]\n'


class Job(NamedTuple):
    """A job as `snakemake -n` prints it."""

    rule: str
    wildcards: dict[str, str]
    inputs: list[str]
    outputs: list[str]


def run(folder: Path, *command: str) -> str:
    """What a command prints; one that fails ends the benchmark."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMOFUSE_")} | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),  # the clone's own code
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "CI": "1",  # DVC does not look for newer versions of itself
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "tmp" / "site"),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{folder.name}: {' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def planned(folder: Path, targets: list[str]) -> list[Job]:
    """Every job of the graph."""
    printed = run(folder, "snakemake", "-n", "--forceall", *targets)
    found = []
    for rule, body in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", printed, re.MULTILINE):
        lists = {name: listed.split(", ") for name, listed in re.findall(r"^    (\w+): (.*)$", body, re.MULTILINE)}
        wildcards = dict(each.split("=") for each in lists.get("wildcards", []))
        found.append(Job(rule, wildcards, lists.get("input", []), lists.get("output", [])))
    total = re.search(r"^total +(\d+)$", printed, re.MULTILINE)
    if total is None or int(total[1]) != len(found):
        raise SystemExit(f"snakemake -n: {total and total[0]} jobs, of which {len(found)} were recognised")
    return found


def write_outputs(folder: Path, job: Job, params: config.Params) -> None:
    """The outputs of a job: files that contain their own path, and a valid record."""
    hashes = {path: hashlib.sha256(f"{path}\n".encode()).hexdigest() for path in job.inputs + job.outputs}
    for path in job.outputs:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if not path.endswith(SUFFIX):
            (folder / path).write_text(f"{path}\n")
            continue
        stage = job.rule.split("_")[0]  # weights_<name>
        key = {name: int(value) if value.isdecimal() else value for name, value in job.wildcards.items()}
        kind = params.corpora[job.wildcards["corpus"]].kind if key else None
        inputs = {name: hashes[name] for name in job.inputs}
        outputs = {name: hashes[name] for name in job.outputs if name != path}
        Record(path, stage, key, params.settings(stage, **key), digest(stage, kind), inputs, outputs).write(folder)


def write_snakefile(folder: Path, jobs: list[Job]) -> None:
    """The bare graph for Snakemake, and the table that it looks its inputs up in."""
    reads, rules, values = {}, {}, {}
    for job in jobs:
        names = {value: f"{{{name}}}" for name, value in job.wildcards.items()}
        names |= {f"{name}-{value}": f"{name}-{{{name}}}" for name, value in job.wildcards.items()}
        patterns = ["".join(names.get(part, part) for part in re.split("([/.])", path)) for path in job.outputs]
        if rules.setdefault(job.rule, patterns) != patterns:
            raise SystemExit(f"{job.rule}: more than one pattern, {rules[job.rule]} and {patterns}")
        reads["/".join((job.rule, *job.wildcards.values()))] = job.inputs
        for name, value in job.wildcards.items():
            values.setdefault(name, set()).add(value)
    lines = [HEAD.format(",\n    ".join(f"{name}={'|'.join(sorted(known))!r}" for name, known in values.items()))]
    for rule, patterns in rules.items():
        if patterns:
            lines += [INPUT.format(rule), f"    output: {', '.join(map(repr, patterns))}\n", '    shell: ""\n']
        else:  # a target
            lines += [f'rule {rule}:\n    input: READS["{rule}"]\n']
    (folder / "Snakefile").write_text("".join(lines))
    (folder / "reads.json").write_text(json.dumps(reads))


def stages(folder: Path) -> list[Any]:
    """The stages of a folder's dvc.yaml, resolved."""
    with Repo(str(folder)) as repo:
        return list(repo.index.stages)


def write_dvc(folder: Path, clone: Path) -> None:
    """The bare graph for DVC: what the clone's dvc.yaml comes to, without its parameters."""
    spelled_out = {}
    for stage in stages(clone):
        files = [item for item in stage.deps if not hasattr(item, "params")]
        outs = [{os.path.relpath(out.fs_path, clone): {"cache": out.use_cache, "persist": True}} for out in stage.outs]
        spelled_out[stage.name.replace("@", "-")] = {
            "cmd": "true",
            "always_changed": stage.always_changed,
            "deps": [os.path.relpath(item.fs_path, clone) for item in files],
            "outs": outs,
        }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": spelled_out}, sort_keys=False))


def seconds(folder: Path, command: str, *targets: str) -> float:
    """The time of a command that must find nothing to do."""
    started = time.perf_counter()
    printed = run(folder, *command.split(), *targets)
    took = time.perf_counter() - started
    changed = {line.strip() for line in printed.splitlines() if line.startswith("\t")}
    if NOTHING_TO_DO[command] not in printed or changed - {"always changed"}:  # the stages `source@` are, by design
        raise SystemExit(f"{folder.name}: {command} finds something to do: {printed[-3000:]}")
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clone, bare = Path(name).resolve() / "clone", Path(name).resolve() / "bare"
        copy_tree(clone)
        params = config.load(clone / "params.yaml")
        targets = ["all", *params.corpora]
        jobs = planned(clone, targets)
        for job in jobs:
            write_outputs(clone, job, params)
        for corpus in params.corpora:  # DVC's alone
            (clone / f"data/{corpus}/source.json").write_text(f"{corpus}\n")
        run(clone, "git", "init", "--quiet")
        shutil.copytree(clone, bare, ignore=shutil.ignore_patterns(".snakemake", "workflow", "Snakefile", "dvc.yaml"))
        write_snakefile(bare, jobs)
        write_dvc(bare, clone)
        for folder in (clone, bare):
            run(folder, "snakemake", "--touch", "--forceall", "--cores", "1", *targets)  # as `emofuse adopt` does
            run(folder, "dvc", "commit", "--force", "--quiet", "--no-relink")  # links would be newer than what follows
        if sorted(planned(bare, targets), key=str) != sorted(jobs, key=str) or len(stages(bare)) != len(stages(clone)):
            raise SystemExit("the bare graph is a different one")
        print(f"jobs: {len(jobs)}")
        for command, asked in (("snakemake -n", targets), ("dvc status", [])):
            seconds(clone, command, *asked), seconds(bare, command, *asked)  # compiled modules, files in memory
            taken = [(seconds(clone, command, *asked), seconds(bare, command, *asked)) for _ in range(options.rounds)]
            figure = command.replace(" -", "_").replace(" ", "_")
            print(f"{figure}_seconds: {median(own for own, _ in taken):.2f}")
            print(f"{figure}_seconds_bare: {median(other for _, other in taken):.2f}")
            print(f"{figure}_ratio: {median(own / other for own, other in taken):.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
