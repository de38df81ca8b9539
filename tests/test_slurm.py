"""The micro corpus on a real Slurm cluster of two nodes: identical results, resource requests, and a failing node.

It has one shard and one variant, because each Slurm job takes seconds to start.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import micro
import pytest
import slurm

# The only options beyond those of a user: without an accounting database, the status of jobs comes from squeue.
BY_SLURM = (
    "snakemake", micro.CORPUS, "--profile", "profiles/slurm", "--slurm-status-command", "squeue",
    "--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1",
)  # fmt: skip
WAIT = 600.0  # seconds for a job to start, and for the run to end


pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture(scope="module")
def by_slurm(cluster: slurm.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = micro.make(tmp_path_factory.mktemp("by-slurm") / "emofuse", shards=[0], variants=["proposed"])
    micro.clips(micro.source(folder))
    micro.run(folder, *BY_SLURM, **cluster.settings)
    return folder


@pytest.fixture(scope="module")
def jobs(by_slurm: Path, cluster: slurm.Cluster) -> list[dict[str, str]]:
    """The jobs of that run, as Slurm reports them."""
    return cluster.jobs()


@pytest.mark.integration
def test_a_run_by_slurm_is_identical_to_a_local_run(by_slurm: Path, tmp_path: Path) -> None:
    here = micro.make(tmp_path / "emofuse", shards=[0], variants=["proposed"])
    shutil.copytree(micro.source(by_slurm), micro.source(here), copy_function=shutil.copy2)
    micro.run(here, *micro.SNAKEMAKE)
    for file in (micro.MODEL, micro.MODEL.replace(".safetensors", ".csv"), micro.PREDICTIONS):
        assert (by_slurm / file).read_bytes() == (here / file).read_bytes()
    assert micro.agrees(by_slurm, "snakemake")
    assert {status for _, status in micro.runs(by_slurm)} == {"FINISHED"}
    assert " stale" not in micro.run(by_slurm, "emofuse", "verify", micro.CORPUS)


@pytest.mark.integration
def test_each_job_requests_the_resources_of_its_rule(jobs: list[dict[str, str]]) -> None:
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    requested = [(job["Partition"], job["TimeLimit"], job["MinMemoryNode"], job.get("TresPerJob", "")) for job in jobs]
    day, hour = "1-00:00:00", "01:00:00"
    assert sorted(requested) == sorted(
        [
            ("cpu", day, "2000M", ""),  # the clips
            ("cpu", hour, "2000M", ""),  # the index
            ("cpu", day, "8000M", ""),  # the faces, with a detector that needs no GPU
            ("cpu", "04:00:00", "4000M", ""),  # the sound
            ("cpu", hour, "2000M", ""),  # the splits
            ("gpu", "2-02:00:00", "32000M", "gres:gpu:1"),  # a fold, with its calibration and evaluation
            ("cpu", hour, "8000M", ""),  # the tables
        ]
    )


@pytest.mark.slow
def test_the_run_survives_a_failing_node(
    by_slurm: Path, jobs: list[dict[str, str]], cluster: slurm.Cluster, tmp_path: Path
) -> None:
    def other(folder: Path) -> Path:
        copy = micro.copied(by_slurm, folder)
        micro.change(copy, lambda loaded: loaded["corpora"][micro.CORPUS].update(seeds=[2]))
        return copy

    here, folder = other(tmp_path / "here"), other(tmp_path / "slurm")
    micro.run(here, *micro.SNAKEMAKE)
    process = micro.start(folder, *BY_SLURM, **cluster.settings)
    try:
        deadline = time.monotonic() + WAIT
        while (training := micro.running_job("train", folder)) is None:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        node = training.environ()["SLURMD_NODENAME"]
        cluster.kill(node)
        printed, _ = process.communicate(timeout=WAIT)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"timeout: {process.communicate()[0][-6000:]}")
    assert process.returncode == 0, printed[-6000:]
    lost = [job for job in cluster.jobs()[len(jobs) :] if job["JobState"] != "COMPLETED"]
    assert [(job["JobState"], job["NodeList"]) for job in lost] == [("NODE_FAIL", node)]
    micro.assert_like_uninterrupted(folder, here)
    cluster.revive(node)
