"""File locks between processes. They are the operating system's: a killed process releases them."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from emofuse.utils.errors import UserError

log = logging.getLogger(__name__)

HELD = "EMOFUSE_LOCK_HELD"  # environment variable of the jobs of the process that holds the working directory's lock
POLL = 0.5  # seconds between attempts to take a lock
NOTICE = 10.0  # seconds after which waiting for a lock is logged
# What flock answers on file systems without locks: NFS without a lock service, Lustre mounted without them, some of FUSE.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
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
        lock = _acquire(path, timeout=0)
    except Timeout:
        raise UserError(
            f"{place}: another run is using this folder{_owner(path)}: wait for it to finish, or stop it"
        ) from None
    except OSError as error:
        raise UserError(f"cannot lock {path}: {error.strerror}; the folder must be yours and writable") from None
    if lock is None or Path(lock.lock_file) != path:
        log.warning(
            "%s: its file system has no locks: start no second run in this folder%s",
            place,
            "" if lock is None else " on another machine",
        )
    with suppress(OSError):
        path.with_suffix(".pid").write_text(str(os.getpid()))
    if lock:
        _locks.append(lock)
    os.environ[HELD] = place


def _owner(path: Path) -> str:
    try:
        return f" (process {int(path.with_suffix('.pid').read_text())})"
    except (OSError, ValueError):
        return ""


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Lock a file during the block, once other processes have released it.

    Raises `Timeout`, an `OSError`, if they have not after `timeout` seconds.
    """
    try:
        lock = _acquire(path, NOTICE if timeout < 0 else timeout)
    except Timeout:
        if timeout >= 0:
            raise
        log.info("waiting for another process, which has locked %s", path)
        lock = _acquire(path, timeout)
    try:
        yield
    finally:
        if lock:
            lock.release()


def _acquire(path: Path, timeout: float) -> FileLock | None:
    """Lock a file. Raises `Timeout` if another process holds the lock for longer than `timeout` seconds.

    If its file system has no locks, a file in the local temporary folder is locked instead, which keeps processes of the same
    machine apart. None if that folder has no locks either: the caller does without. (A lock that is the existence of a file,
    which filelock offers, would outlive a killed process.)
    """
    digest = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    for place in (path, Path(tempfile.gettempdir()) / f"emofuse-{os.getuid()}-{digest[:16]}.lock"):
        lock = FileLock(place, fallback_to_soft=False)
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            raise
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        else:
            return lock
    return None


@contextmanager
def one_of(names: Sequence[str], folder: Path, what: str) -> Iterator[int]:
    """Lock one of several resources, identified by lock files in `folder`, and yield its index.

    Waits while other processes hold all of them; `what` names the resources in the log ("GPUs").
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    waiting = False
    while True:
        for index, name in enumerate(names):
            try:
                lock = _acquire(folder / f"{name}.lock", timeout=0)
            except Timeout:
                continue
            if lock is None:
                log.warning(
                    "%s has no locks, so processes may use the same %s; set TMPDIR to a local folder", folder, what
                )
                index = os.getpid() % len(names)
            try:
                yield index
            finally:
                if lock:
                    lock.release()
            return
        if not waiting:
            log.info("waiting: all %d %s are in use", len(names), what)
            waiting = True
        time.sleep(POLL)
