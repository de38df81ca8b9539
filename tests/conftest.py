"""Fixtures shared by the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# Examples may be slow on a busy machine, so they have no deadline.
settings.register_profile("emofuse", deadline=None)
settings.load_profile("emofuse")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests that need the longest time, so that they do not run alone at the end."""

    def rank(item: pytest.Item) -> int:
        if "dvc_run" in getattr(item, "fixturenames", ()):
            return 0
        return 1 if item.get_closest_marker("timeout") else 2

    items.sort(key=rank)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips and weights, next to the repository or named by EMOFUSE_SHARED_DATA.

    Without it the test is skipped, or fails if EMOFUSE_REQUIRE_SHARED_DATA is set.
    """
    folder = Path(os.environ.get("EMOFUSE_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        message = f"no real clips: {folder.name} is missing; name their folder in EMOFUSE_SHARED_DATA"
        if os.environ.get("EMOFUSE_REQUIRE_SHARED_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that is created once for all test processes. Copy it; do not change it."""
    base = factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    folder = base / name
    with FileLock(base / f"{name}.lock"):
        if not (done := base / f"{name}.done").exists():
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro corpus, run by Snakemake."""
    import micro

    return once(tmp_path_factory, "run-by-snakemake", micro.run_by_snakemake) / "emofuse"


@pytest.fixture(scope="session")
def dvc_run(tmp_path_factory: pytest.TempPathFactory, micro_run: Path) -> Path:
    """The micro corpus, run by DVC, committed, and pushed to a remote in the folder `store` next to it."""
    import micro

    return once(tmp_path_factory, "run-by-dvc", lambda folder: micro.run_by_dvc(folder, micro_run)) / "emofuse"


@pytest.fixture(scope="session")
def pulled_run(tmp_path_factory: pytest.TempPathFactory, dvc_run: Path) -> Path:
    """A clone of the DVC run, pulled and adopted, with the clips."""
    import micro

    return once(tmp_path_factory, "pulled", lambda folder: micro.pull(folder, dvc_run)) / "emofuse"
