"""Quick start: neither a dry run nor `emofuse --help` imports the large packages that only the stages need."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import micro
import pytest
from conftest import ROOT

LARGE = {"torch", "torchvision", "torchaudio", "mlflow", "matplotlib", "pandas", "av", "scipy", "sklearn", "dvc"}
DRY_RUN = ("snakemake", "-n", micro.CORPUS)
HELP = ("emofuse.cli", "--help")


def large_imports(command: tuple[str, ...], folder: Path, source: Path) -> set[str]:
    """The large packages that a command imports, directly or not. `source` is the folder of the emofuse package."""
    printed = micro.run(folder, sys.executable, "-X", "importtime", "-m", *command, PYTHONPATH=str(source))
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", printed, flags=re.MULTILINE))
    assert "emofuse.config" in imported
    return {name.split(".")[0] for name in imported} & LARGE


@pytest.fixture
def clone(micro_run: Path, tmp_path: Path) -> Path:
    """A clone in which everything has run, so that there are records to check."""
    return micro.copied(micro_run, tmp_path)


def test_a_dry_run_imports_no_large_package(clone: Path) -> None:
    # Snakemake imports all its plugins when it starts, and the one for Slurm imports pandas.
    assert large_imports(DRY_RUN, clone, clone / "src") <= {"pandas"}


def test_help_imports_no_large_package(tmp_path: Path) -> None:
    assert large_imports(HELP, tmp_path, ROOT / "src") == set()


def test_an_import_added_to_a_rule_file_is_detected(clone: Path) -> None:
    rules = clone / "workflow" / "rules" / "common.smk"
    rules.write_text(f"import av\n{rules.read_text()}")
    assert "av" in large_imports(DRY_RUN, clone, clone / "src")


def test_an_import_added_to_a_module_is_detected(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src" / "emofuse", tmp_path / "emofuse", ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "emofuse" / "paths.py"
    module.write_text(f"{module.read_text()}\nimport av\n")
    assert large_imports(HELP, tmp_path, tmp_path) == {"av"}
