"""One GPU per job: parallel jobs on a machine share its GPUs by file locks. Small trainings may share a GPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from emofuse.utils.locks import one_of


@contextmanager
def device() -> Iterator[torch.device]:
    """A GPU that no other job of this user on this machine uses; the CPU if there is no GPU.

    Chooses among the GPUs in CUDA_VISIBLE_DEVICES and waits while all of them are in use.
    """
    count = torch.cuda.device_count()
    if not count:
        yield torch.device("cpu")
        return
    names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
    with one_of(names, Path(tempfile.gettempdir()) / f"emofuse-gpus-{os.getuid()}", "GPUs") as index:
        torch.cuda.set_device(index)
        yield torch.device("cuda", index)


def shared() -> torch.device:
    """A GPU that other processes may use at the same time, which suits small networks; the CPU if there is no GPU."""
    count = torch.cuda.device_count()
    if not count:
        return torch.device("cpu")
    index = os.getpid() % count
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
