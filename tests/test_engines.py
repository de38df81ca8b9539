"""Snakemake and DVC hold the same graph, and a wrong params.yaml is the same line from both and the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from emofuse import graph, params, versions

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "workflow", "profiles", "environment.yml", "params.yaml", "protocols", "literature")
DVC = ("dvc.yaml", "pipelines", ".dvc/config", ".dvcignore")
# A file of DVC → what `snakemake` is asked for, to run the same stages.
TARGETS = {"dvc.yaml": [], "pipelines/demo/dvc.yaml": ["demo"], "pipelines/ravdess_audio/dvc.yaml": ["ravdess_audio"]}

Job = tuple[str, frozenset[str]]  # command, inputs
Graph = dict[frozenset[str], Job]  # by outputs


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMOFUSE_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    return subprocess.run(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )


def copy(target: Path) -> Path:
    """The workflow as a fresh clone has it: no data, no stamps, no locks."""
    for name in (*PARTS, *DVC):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("dvc.lock"))
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    assert run("git", "init", "-q", cwd=target).returncode == 0
    return target


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy(tmp_path_factory.mktemp("clone"))


def snakemake_graph(root: Path, targets: list[str]) -> Graph:
    """The jobs of a dry run; a job's output goes to its log, which is no part of the command."""
    done = run(sys.executable, "-m", "snakemake", "-n", "-F", *targets, cwd=root)
    assert done.returncode == 0, done.stdout
    found: Graph = {}
    for block in re.split(r"^(?:local)?rule \w+:\n", done.stdout, flags=re.MULTILINE)[1:]:
        fields = dict(re.findall(r"^    (input|output|log): (.*)$", block, flags=re.MULTILINE))
        if "output" not in fields:  # a target: a list of other jobs' outputs
            continue
        command = re.search(r"^Shell command: (.*)$", block, flags=re.MULTILINE)
        assert command is not None, block
        outputs = frozenset(fields["output"].split(", "))
        inputs = frozenset(fields.get("input", "").split(", ")) - {""}
        found[outputs] = command[1].removesuffix(f" > {fields['log']} 2>&1"), inputs
    return found


def dvc_graph(root: Path, file: str) -> Graph:
    """The stages of one dvc.yaml.

    A folder under `deps` stands for what other stages write in it. The stages `stamps` are left out:
    Snakemake writes the stamps as it starts.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        stages = list(repo.index.stages)

    def path(item: object) -> str:
        return Path(item.fs_path).relative_to(root).as_posix()  # type: ignore[attr-defined]

    made = {path(out) for stage in stages for out in stage.outs}

    def expand(dependency: str) -> set[str]:
        return {out for out in made if out.startswith(f"{dependency}/")} or {dependency}

    found: Graph = {}
    for stage in stages:
        if stage.path_in_repo == file and not stage.cmd.startswith("emofuse stamps "):
            inputs = frozenset().union(*(expand(path(dependency)) for dependency in stage.deps))
            found[frozenset(path(out) for out in stage.outs)] = stage.cmd, inputs
    return found


def own_graph(root: Path, file: str) -> Graph:
    """The jobs as `emofuse.graph` has them; fetching weights, which their makers' checksums vouch for, is none."""
    loaded = params.load(root / "params.yaml")
    wanted = {Path(file).parent.name} - {""} or {*loaded.paper, "paper"}
    return {
        frozenset((*job.outputs, job.fingerprint)): (f"emofuse {job}", frozenset((*job.inputs, *job.stamps)))
        for job in graph.jobs(loaded)
        if (str(job.arguments[0]) if job.arguments else job.stage) in wanted
    }


def differences(snakemake: Graph, dvc: Graph) -> list[str]:
    found = [f"only Snakemake makes {sorted(outputs)}" for outputs in snakemake.keys() - dvc.keys()]
    found += [f"only DVC makes {sorted(outputs)}" for outputs in dvc.keys() - snakemake.keys()]
    for outputs in snakemake.keys() & dvc.keys():
        (command, inputs), (dvc_command, dvc_inputs) = snakemake[outputs], dvc[outputs]
        if command != dvc_command:
            found.append(f"Snakemake runs {command!r}, DVC {dvc_command!r}")
        found += [f"{command}: only Snakemake reads {file}" for file in sorted(inputs - dvc_inputs)]
        found += [f"{command}: only DVC reads {file}" for file in sorted(dvc_inputs - inputs)]
    return found


@pytest.mark.parametrize("file", TARGETS)
def test_both_engines_run_the_same_commands_on_the_same_files(clone: Path, file: str) -> None:
    stages, jobs = dvc_graph(clone, file), snakemake_graph(clone, TARGETS[file])
    assert len(stages) > 10
    assert differences(jobs, stages) == []
    fetching = {outputs for outputs, (command, _) in jobs.items() if command.startswith("emofuse weights ")}
    assert differences({k: v for k, v in jobs.items() if k not in fetching}, own_graph(clone, file)) == []


def test_every_corpus_is_in_both_graphs() -> None:
    described = {Path(file).parent.name for file in TARGETS} - {""}
    assert {*params.load(ROOT / "params.yaml").paper, *described} == set(params.load(ROOT / "params.yaml").corpora)
    assert {path.parent.name for path in ROOT.glob("pipelines/*/dvc.yaml")} == described


def test_every_stage_waits_for_the_stamps_of_its_corpus(clone: Path) -> None:
    from dvc.repo import Repo

    with Repo(str(clone)) as repo:
        stages = list(repo.index.stages)
    stamps = {stage.cmd.split()[-1] for stage in stages if stage.cmd.startswith("emofuse stamps ")}
    assert stamps == set(params.load(ROOT / "params.yaml").corpora)
    for stage in stages:
        if stage.cmd.split()[1] not in ("stamps", "weights"):
            assert any("/stamps/" in dependency.fs_path for dependency in stage.deps), stage.addressing


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("cmd: emofuse audio demo", "cmd: emofuse audio --fast demo"),
        ("      - stamps/demo/index.json\n", ""),
        ("      - data/demo/kfold_3/folds.csv\n      - prov", "      - data/demo/kfold_3/parts.csv\n      - prov"),
        ("variant: ${corpora.demo.variants}", "variant: [proposed]"),
    ],
    ids=["command", "input", "output", "matrix"],
)
def test_a_planted_difference_is_found(clone: Path, tmp_path: Path, before: str, after: str) -> None:
    changed = copy(tmp_path)
    file = changed / "pipelines" / "demo" / "dvc.yaml"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    assert differences(dvc_graph(clone, "pipelines/demo/dvc.yaml"), dvc_graph(changed, "pipelines/demo/dvc.yaml"))


WRONG = {
    "unknown key": ("epochs: 30", "epochz: 30", "training.epochz: no such parameter"),
    "absent fold": ("kfold_3: [0, 1, 2]", "kfold_3: [0, 1, 7]", "there is no fold 7"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_params_file_is_one_and_the_same_line_everywhere(tmp_path: Path, mistake: str) -> None:
    root = copy(tmp_path)
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    before, after, message = WRONG[mistake]
    text = (root / "params.yaml").read_text()
    assert before in text
    (root / "params.yaml").write_text(text.replace(before, after))
    lines = []
    for command in (
        [sys.executable, "-m", "snakemake", "demo"],
        [sys.executable, "-m", "dvc", "repro", "pipelines/demo/dvc.yaml"],
        ["emofuse", "index", "demo"],
    ):
        done = run(*command, cwd=root)
        assert done.returncode != 0
        assert "Traceback" not in done.stdout
        lines += [line for line in done.stdout.splitlines() if line.startswith("emofuse: error: ")]
    assert len(lines) == 3
    assert len(set(lines)) == 1
    assert message in lines[0]
    assert not (root / "data").exists()


def test_snakemake_refuses_configuration_beside_params_yaml(clone: Path) -> None:
    done = run(sys.executable, "-m", "snakemake", "-n", "demo", "--config", "epochs=3", cwd=clone)
    assert done.returncode != 0
    assert "emofuse: error: --config epochs: params.yaml is the only configuration" in done.stdout


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which a stage `one` has run by other means than DVC, and `two` and `three` have not."""
    monkeypatch.delenv("EMOFUSE_DVC_COMMIT", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", tmp_path / ".dvc" / "config")
    assert run("git", "init", "-q", cwd=tmp_path).returncode == 0
    (tmp_path / ".gitignore").write_text("*.out\n")
    stages = {name: {"cmd": "false", "deps": ["in"], "outs": [f"{name}.out"]} for name in ("one", "two", "three")}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    for name in ("in", "one.out", "three.out"):
        (tmp_path / name).write_text(name)
    return tmp_path


def recorded(root: Path) -> set[str]:
    lock = root / "dvc.lock"
    return set(re.findall(r"^  (\w+):$", lock.read_text(), flags=re.MULTILINE)) if lock.exists() else set()


def test_what_a_run_made_is_up_to_date_for_dvc_and_nothing_else_is(finished: Path) -> None:
    before = (finished / "one.out").stat()
    versions.commit(["in", "one.out", "two.out"])
    assert recorded(finished) == {"one"}  # two has no output, and three was not of this run
    after = (finished / "one.out").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    done = run(sys.executable, "-m", "dvc", "status", "one", cwd=finished)
    assert "up to date" in done.stdout


@pytest.mark.parametrize(("name", "value"), [("EMOFUSE_DVC_COMMIT", "0"), ("DVC_STAGE", "train")])
def test_dvc_is_left_alone_inside_its_own_stage_and_on_request(
    finished: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    versions.commit(["in", "one.out"])
    assert recorded(finished) == set()


def test_without_a_repository_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.delenv("EMOFUSE_DVC_COMMIT", raising=False)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    versions.commit(["one.out"])
    assert "not recorded in DVC" in capsys.readouterr().err
