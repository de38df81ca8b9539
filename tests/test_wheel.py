"""The package outside the checkout: an installed wheel has everything that `emofuse --help` and `emofuse predict` need."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import micro
import pytest
from conftest import ROOT

MODULE = (sys.executable, "-m", "emofuse.cli")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which Python imports emofuse from an installed wheel instead of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    checkout = folder / "checkout"  # the build writes to its folder
    shutil.copytree(ROOT / "src", checkout / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    micro.run(checkout, *pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), ".")
    (wheel,) = folder.glob("*.whl")
    micro.run(folder, *pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel))
    shutil.rmtree(checkout)
    return {"PYTHONPATH": str(folder / "site")}


def test_help_runs_from_a_wheel(installed: dict[str, str], tmp_path: Path) -> None:
    assert "predict" in micro.run(tmp_path, *MODULE, "--help", **installed)
    where = micro.run(tmp_path, sys.executable, "-c", "import emofuse; print(emofuse.__file__)", **installed)
    assert where.startswith(installed["PYTHONPATH"])


@pytest.mark.integration
def test_predict_from_a_wheel_writes_its_page(installed: dict[str, str], micro_run: Path, tmp_path: Path) -> None:
    micro.run(micro_run, "emofuse", "export", str(Path(micro.MODEL).parent), str(tmp_path / "model"))
    clip = next(iter(sorted(micro.source(micro_run).rglob("*.mp4"))))
    micro.run(tmp_path, *MODULE, "predict", str(clip), "--model", "model", **installed)
    page = (tmp_path / "predictions/predictions.html").read_text()
    assert clip.name in page
    assert "<style>" in page
    assert "<svg" in page
