"""Resources such as GPUs are shared by file locks; a killed process releases its own."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from emofuse.utils import gpu, locks

HOLD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from emofuse.utils import locks
    names, folder, seconds = sys.argv[1].split(), Path(sys.argv[2]), float(sys.argv[3])
    with locks.one_of(names, folder, "GPUs") as index:
        print(index, time.time(), flush=True)
        time.sleep(seconds)
        print(time.time(), flush=True)
    """
)


def holder(names: str, folder: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, names, str(folder), str(seconds)], stdout=subprocess.PIPE, text=True
    )


def test_no_two_processes_share_a_gpu_and_all_gpus_are_used(tmp_path: Path) -> None:
    processes = [holder("GPU-a GPU-b", tmp_path / "locks", 1.5) for _ in range(4)]
    spans: dict[int, list[tuple[float, float]]] = {0: [], 1: []}
    for process in processes:
        output, _ = process.communicate(timeout=60)
        index, start, end = output.split()
        spans[int(index)].append((float(start), float(end)))
    for times in spans.values():
        assert len(times) >= 1
        times.sort()
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))


def test_gpu_of_a_killed_job_is_released(tmp_path: Path) -> None:
    process = holder("GPU-a", tmp_path / "locks", 60)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("0 ")
    process.send_signal(signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    with locks.one_of(["GPU-a"], tmp_path / "locks", "GPUs") as index:
        assert index == 0
    assert time.monotonic() - started < 30


def test_waiting_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = holder("GPU-a", tmp_path / "locks", 2)
    assert process.stdout is not None
    process.stdout.readline()
    with caplog.at_level("INFO"), locks.one_of(["GPU-a"], tmp_path / "locks", "GPUs"):
        pass
    process.wait()
    assert caplog.messages == ["waiting: all 1 GPUs are in use"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_device_is_the_cpu() -> None:
    with gpu.device() as device:
        assert device == torch.device("cpu")
