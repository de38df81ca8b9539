"""Starting is quick: neither a dry run nor `emofuse --help` imports what only the stages' work needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from test_engines import copy

from emofuse import graph, params, provenance

BIG = {"torch", "torchvision", "torchaudio", "mlflow", "matplotlib", "pandas", "av", "scipy", "sklearn", "dvc"}
DRY_RUN = ("snakemake", "-n", "demo")
HELP = ("emofuse.cli", "--help")


def big_imports(command: tuple[str, ...], folder: Path, source: Path = ROOT / "src") -> set[str]:
    """Which of the big packages a command imports, wherever in it; `source` is where emofuse is."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EMOFUSE_")}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *command],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, flags=re.MULTILINE))
    assert "emofuse.params" in imported
    return {name.split(".")[0] for name in imported} & BIG


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The workflow, with a job that has run, so that there is a fingerprint to judge."""
    folder = copy(tmp_path / "clone")
    loaded = params.load(folder / "params.yaml")
    job = next(graph.of_corpus(loaded, "demo"))
    with provenance.recorded(job, loaded, folder):
        for output in job.outputs:
            (folder / output).parent.mkdir(parents=True)
            (folder / output).write_text("made")
    return folder


def test_a_dry_run_imports_nothing_big(clone: Path) -> None:
    # Snakemake looks at all of its plugins as it starts, and that for Slurm imports pandas.
    assert big_imports(DRY_RUN, clone) <= {"pandas"}


def test_help_imports_nothing_big(tmp_path: Path) -> None:
    assert big_imports(HELP, tmp_path) == set()


def test_an_import_added_to_a_rule_file_is_found(clone: Path) -> None:
    rules = clone / "workflow" / "rules" / "common.smk"
    rules.write_text(f"import av\n{rules.read_text()}")
    assert "av" in big_imports(DRY_RUN, clone)


def test_an_import_added_to_a_module_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "emofuse", tmp_path / "emofuse", ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "emofuse" / "graph.py"
    module.write_text(f"{module.read_text()}\nimport av\n")
    assert big_imports(HELP, tmp_path, tmp_path) == {"av"}
