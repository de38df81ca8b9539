"""One process at a time in a working directory. The lock is the operating system's: a killed process gives it back."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from emofuse.utils.errors import UserError

HELD = "EMOFUSE_LOCK_HELD"  # set for the jobs of the process that holds the lock
_locks: list[FileLock] = []  # held until the process ends


def hold(root: Path) -> None:
    """Take the lock of a working directory for the life of this process, or raise `UserError` if another has it.

    Does nothing in a job of the process that has it.
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
