"""File locks between processes. They are the operating system's: a killed process releases them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from emofuse.utils.errors import UserError

log = logging.getLogger(__name__)

HELD = "EMOFUSE_LOCK_HELD"  # environment variable of the jobs of the process that holds the working directory's lock
POLL = 0.5  # seconds between attempts to take a lock
_locks: list[FileLock] = []  # held until the process ends


def hold(root: Path) -> None:
    """Lock a working directory until this process ends; raises `UserError` if another process holds the lock.

    Does nothing in a job of the process that holds it.
    """
    place = str(root.resolve())
    if os.environ.get(HELD) == place:
        return
    path = root / ".snakemake" / "emofuse.lock"
    try:
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{place}: another run is using this folder{_owner(path)}: wait for it to finish, or stop it"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot lock {path}: {error.strerror}; the folder must be yours, on a file system with locks"
        ) from None
    with suppress(OSError):
        path.with_suffix(".pid").write_text(str(os.getpid()))
    _locks.append(lock)
    os.environ[HELD] = place


def _owner(path: Path) -> str:
    try:
        return f" (process {int(path.with_suffix('.pid').read_text())})"
    except (OSError, ValueError):
        return ""


@contextmanager
def one_of(names: Sequence[str], folder: Path, what: str) -> Iterator[int]:
    """Lock one of several resources, identified by lock files in `folder`, and yield its index.

    Waits while other processes hold all of them; `what` names the resources in the log ("GPUs").
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    locks = [FileLock(folder / f"{name}.lock") for name in names]
    waiting = False
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
        if not waiting:
            log.info("waiting: all %d %s are in use", len(names), what)
            waiting = True
        time.sleep(POLL)
