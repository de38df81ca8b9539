"""One at a time: a Snakemake a folder, a process a job. A killed process gives its locks back, unlike Snakemake's own."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from emofuse.errors import UserError
from emofuse.graph import Job

LOCKS = Path(".emofuse")
TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}(\.[^.]*|)")  # the file's own name, and its suffix once more
log = logging.getLogger(__name__)
_held: list[FileLock] = []


def alone(root: Path) -> None:
    """Take the lock of a folder for the life of this process; `UserError` where another process has it."""
    lock = _lock(root / LOCKS / "snakemake.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError("another Snakemake is at work in this folder: wait until it has ended, or stop it") from None
    _held.append(lock)


@contextmanager
def at(job: Job, root: Path) -> Iterator[None]:
    """Be the only process that does a job: others wait. What one that was killed has left half-written goes first."""
    lock = _lock((root / LOCKS / "jobs" / job.fingerprint).with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting: another process is at work on `emofuse %s`", job)
        lock.acquire()
    try:
        sweep(root / path for path in (*job.outputs, job.fingerprint))
        yield
    finally:
        lock.release()


def sweep(paths: Iterable[Path]) -> None:
    """Remove the temporary files of `emofuse.files.atomic` for these paths, of which nobody is a writer."""
    wanted = set(paths)
    for folder in {path.parent for path in wanted}:
        for left in folder.glob(".*") if folder.is_dir() else ():
            name = TEMPORARY.fullmatch(left.name)
            if name and folder / name[1] in wanted and Path(name[1]).suffix == name[2]:
                left.unlink(missing_ok=True)


def _lock(path: Path) -> FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)
