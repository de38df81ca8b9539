"""One GPU a process: jobs that run at once on a machine share out its GPUs by file locks."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

POLL = 0.5  # seconds between two looks at the locks


@contextmanager
def device() -> Iterator[torch.device]:
    """A GPU that no other job of ours on this machine has, until the end of the block; the CPU where there is none.

    Of the GPUs that CUDA_VISIBLE_DEVICES shows; waits while all of them are taken. A job that dies gives its
    GPU back: the lock is the operating system's.
    """
    count = torch.cuda.device_count()
    if not count:
        yield torch.device("cpu")
        return
    names = [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]
    with one_of(names, Path(tempfile.gettempdir()) / f"emofuse-gpus-{os.getuid()}") as index:
        torch.cuda.set_device(index)
        yield torch.device("cuda", index)


@contextmanager
def one_of(names: Sequence[str], folder: Path) -> Iterator[int]:
    """The index of a name that nobody else has leased under `folder`, until the end of the block."""
    folder.mkdir(mode=0o700, exist_ok=True)
    locks = [FileLock(folder / f"{name}.lock") for name in names]
    told = False
    while True:
        for index, lock in enumerate(locks):
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                yield index
            finally:
                lock.release()
            return
        if not told:
            log.info("waiting for one of %d GPUs, all of them taken", len(names))
            told = True
        time.sleep(POLL)
