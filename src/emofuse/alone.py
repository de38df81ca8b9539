"""One Snakemake a folder: a lock that a killed process gives back, unlike Snakemake's own."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from emofuse.errors import UserError

LOCK = Path(".emofuse") / "snakemake.lock"
_held: list[FileLock] = []


def alone(root: Path) -> None:
    """Take the lock of a folder for the life of this process; `UserError` where another process has it."""
    (root / LOCK).parent.mkdir(exist_ok=True)
    lock = FileLock(root / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another Snakemake is at work in this folder: wait until it has ended, or stop it") from None
    _held.append(lock)
