"""What several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# A busy machine is slow now and then; how long an example took says nothing.
settings.register_profile("emofuse", deadline=None)
settings.load_profile("emofuse")

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that run the engines take minutes each: they come first, so that nobody waits for the last of them."""
    long = {item.path for item in items if "micro_run" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips and weights beside the repository; EMOFUSE_SHARED_DATA names another.

    Where there is none the test is skipped, or fails if EMOFUSE_REQUIRE_SHARED_DATA is set.
    """
    folder = Path(os.environ.get("EMOFUSE_SHARED_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        message = f"no real clips: {folder.name} is missing; name their folder in EMOFUSE_SHARED_DATA"
        if os.environ.get("EMOFUSE_REQUIRE_SHARED_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def micro_run(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The micro corpus, run by Snakemake, once for all processes of the tests; to be copied, not changed."""
    import micro

    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "micro" / "emofuse"
    with FileLock(folder.parents[1] / "micro.lock"):
        if not (folder / "results/demo/report.html").is_file():
            micro.make(folder)
            printed = micro.run(folder, *micro.ENGINES["snakemake"])
            assert micro.ran(printed) == {str(job) for job in micro.jobs(folder)}
    return folder
