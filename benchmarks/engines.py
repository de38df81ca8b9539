"""How long Snakemake and DVC take to find that nothing has to run, compared with bare graphs of the same size.

`python benchmarks/engines.py [--rounds N]`, in the root of the repository. The script builds a clone of the working tree in
which every output that params.yaml asks for exists (tiny files and valid records) and is registered with both engines. It
compares the clone with bare graphs over the same files, in which nothing of emofuse runs:

- for Snakemake, the same rules and wildcards, with inputs from a lookup table and without `params` or other directives;
- for DVC, the same stages, spelled out, each with the command `true`; once without parameters ("bare") and once with the
  same `params` ("same params"): DVC itself parses params.yaml once per stage that lists parameters.

Each graph must have the same number of jobs and stages and nothing to do. The figures are wall-clock seconds of whole
commands and their ratios, as medians over rounds in which the folders take turns.
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
    """Run a command and return what it prints; a failure ends the benchmark."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMOFUSE_")} | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),  # the clone's code, not the installed package
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "CI": "1",  # no check for new DVC releases
        "DVC_SITE_CACHE_DIR": str(folder / ".dvc" / "tmp" / "site"),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{folder.name}: {' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout + done.stderr


def copy_tree(folder: Path) -> None:
    """Copy to `folder` all files of the current folder that git tracks or would add."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)


def planned(folder: Path, targets: list[str]) -> list[Job]:
    """All jobs of the graph."""
    printed = run(folder, "snakemake", "-n", "--forceall", *targets)
    found = []
    for rule, body in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", printed, re.MULTILINE):
        lists = {name: listed.split(", ") for name, listed in re.findall(r"^    (\w+): (.*)$", body, re.MULTILINE)}
        wildcards = dict(each.split("=") for each in lists.get("wildcards", []))
        found.append(Job(rule, wildcards, lists.get("input", []), lists.get("output", [])))
    total = re.search(r"^total +(\d+)$", printed, re.MULTILINE)
    if total is None or int(total[1]) != len(found):
        raise SystemExit(f"snakemake -n: {total and total[0]} jobs, but {len(found)} were parsed")
    return found


def write_outputs(folder: Path, job: Job, params: config.Params) -> None:
    """Write the outputs of a job: files that contain their own path, and a valid record."""
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
    """Write the bare Snakefile and the table from which it looks up inputs."""
    reads, rules, values = {}, {}, {}
    for job in jobs:
        names = {value: f"{{{name}}}" for name, value in job.wildcards.items()}
        names |= {f"{name}-{value}": f"{name}-{{{name}}}" for name, value in job.wildcards.items()}
        patterns = ["".join(names.get(part, part) for part in re.split("([/.])", path)) for path in job.outputs]
        if rules.setdefault(job.rule, patterns) != patterns:
            raise SystemExit(f"{job.rule}: two patterns, {rules[job.rule]} and {patterns}")
        reads["/".join((job.rule, *job.wildcards.values()))] = job.inputs
        for name, value in job.wildcards.items():
            values.setdefault(name, set()).add(value)
    lines = [HEAD.format(",\n    ".join(f"{name}={'|'.join(sorted(known))!r}" for name, known in values.items()))]
    for rule, patterns in rules.items():
        if patterns:
            lines += [INPUT.format(rule), f"    output: {', '.join(map(repr, patterns))}\n", '    shell: ""\n']
        else:  # a target rule
            lines += [f'rule {rule}:\n    input: READS["{rule}"]\n']
    (folder / "Snakefile").write_text("".join(lines))
    (folder / "reads.json").write_text(json.dumps(reads))


def stages(folder: Path) -> list[Any]:
    """The resolved stages of a folder's dvc.yaml."""
    with Repo(str(folder)) as repo:
        return list(repo.index.stages)


def write_dvc(folder: Path, clone: Path, with_params: bool) -> None:
    """Write the bare dvc.yaml: the clone's stages with their dependencies and outputs, on request with their parameters."""
    spelled_out: dict[str, dict[str, Any]] = {}
    for stage in stages(clone):
        files = [item for item in stage.deps if not hasattr(item, "params")]
        outs = [{os.path.relpath(out.fs_path, clone): {"cache": out.use_cache, "persist": True}} for out in stage.outs]
        name = stage.name.replace("@", "-")
        spelled_out[name] = {
            "cmd": "true",
            "always_changed": stage.always_changed,
            "deps": [os.path.relpath(item.fs_path, clone) for item in files],
            "outs": outs,
        }
        params = [key for item in stage.deps if hasattr(item, "params") for key in item.params]
        if with_params and params:
            spelled_out[name]["params"] = params
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": spelled_out}, sort_keys=False))


def seconds(folder: Path, command: str, *targets: str) -> float:
    """The wall-clock time of a command that must find nothing to do."""
    started = time.perf_counter()
    printed = run(folder, *command.split(), *targets)
    took = time.perf_counter() - started
    changed = {line.strip() for line in printed.splitlines() if line.startswith("\t")}
    if NOTHING_TO_DO[command] not in printed or changed - {"always changed"}:  # as the stages `source@…` are, by design
        raise SystemExit(f"{folder.name}: {command} finds something to do: {printed[-3000:]}")
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clone, bare, same = (Path(name).resolve() / folder for folder in ("clone", "bare", "same-params"))
        copy_tree(clone)
        params = config.load(clone / "params.yaml")
        targets = ["all", *params.corpora]
        jobs = planned(clone, targets)
        for job in jobs:
            write_outputs(clone, job, params)
        for corpus in params.corpora:  # an output of DVC's stage alone
            (clone / f"data/{corpus}/source.json").write_text(f"{corpus}\n")
        run(clone, "git", "init", "--quiet")
        for folder in (bare, same):
            shutil.copytree(
                clone, folder, ignore=shutil.ignore_patterns(".snakemake", "workflow", "Snakefile", "dvc.yaml")
            )
            write_snakefile(folder, jobs)
            write_dvc(folder, clone, with_params=folder == same)
        for folder in (clone, bare, same):
            run(folder, "snakemake", "--touch", "--forceall", "--cores", "1", *targets)  # as `emofuse adopt` does
            run(folder, "dvc", "commit", "--force", "--quiet", "--no-relink")  # links would be newer than later outputs
            if sorted(planned(folder, targets), key=str) != sorted(jobs, key=str):
                raise SystemExit(f"{folder.name}: a different graph")
        print(f"jobs: {len(jobs)}\nstages: {len(stages(clone))}")
        for command, arguments, folders in (
            ("snakemake -n", targets, (clone, bare)),
            ("dvc status", [], (clone, bare, same)),
        ):
            figure = command.replace(" -", "_").replace(" ", "_")
            for folder in folders:
                seconds(folder, command, *arguments)  # fills the caches of modules and files
            rounds = [[seconds(folder, command, *arguments) for folder in folders] for _ in range(options.rounds)]
            for folder, taken in zip(folders, zip(*rounds, strict=True), strict=True):
                print(f"{figure}_seconds, {folder.name}: {median(taken):.2f}")
            for position, folder in enumerate(folders[1:], start=1):
                ratio = median(times[0] / times[position] for times in rounds)
                print(f"{figure}_ratio, over {folder.name}: {ratio:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
