"""Files from the web: fetched whole and checked, or not there at all.

requests carries the bytes and urllib3 reads what a host asks for; here is what they leave to the caller: going on from
where a transfer broke off, trying again, and asking another host.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from filelock import FileLock

from emofuse.data.download.connection import Connection, host_of
from emofuse.datasets.addresses import Remote
from emofuse.utils.errors import UserError

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

TRIES = 5  # in a row that brought nothing new
PAUSE = 1.0  # seconds before the second try, doubled before each further one
LONGEST_PAUSE = 300.0  # seconds; a host that asks for more is not waited for
CONNECT = 10.0  # seconds in which a host must take a connection
SILENCE = 30.0  # seconds without a byte after which a try has failed
REFUSALS = 3  # files in a row after which a host is asked for no more, where another host has them too
LARGE = 10_000_000  # bytes of a file that is worth a line of its own: a corpus can be thousands of small ones
BLOCK = 1 << 16  # bytes
TELL = 15.0  # seconds between lines in a log


class WrongBytes(Exception):
    """A file that is not what the registry says; str() is the difference."""


class _Refused(Exception):
    """An address from which a file cannot be had; str() is why, `lost` whether the connection itself is at fault."""

    def __init__(self, reason: str, lost: bool) -> None:
        super().__init__(reason)
        self.lost = lost


def check(stream: BinaryIO, remote: Remote) -> None:
    """Compare a file's bytes with what is known of it; `WrongBytes` where they differ."""
    size = stream.seek(0, os.SEEK_END)
    if remote.size is not None and size != remote.size:
        raise WrongBytes(f"it has {size:,} bytes, not {remote.size:,}")
    if remote.checksum:
        algorithm, _, expected = remote.checksum.partition(":")
        stream.seek(0)
        found = hashlib.file_digest(stream, algorithm).hexdigest()  # type: ignore[arg-type]
        if not found.startswith(expected):
            raise WrongBytes(f"its {algorithm} is {found}, not {expected}")


def check_file(path: Path, remote: Remote) -> None:
    """`check` a file by its path."""
    with path.open("rb") as stream:
        check(stream, remote)


def check_room(folder: Path, needed: int) -> None:
    """`UserError` where the disk of a folder, which need not exist yet, has less than `needed` bytes free."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{folder}: {needed / 1e9:,.1f} GB are needed there and {free / 1e9:,.1f} GB are free;"
            " free some, or make data a link to a larger disk"
        )


def fetch(wanted: Sequence[Remote], folder: Path, setting: str) -> list[Path]:
    """Make sure that files are in `folder`, whole and checked; return where.

    One that is there is checked and kept. One that broke off, now or in an earlier process, goes on from where it
    was. Where several processes ask for the same file, one fetches it and the others wait. A host that does not
    answer, is busy or breaks off is tried again, later and later or when it says; then the file's next address is.
    `setting` is the environment variable that points at a local copy. Raises `UserError` for a disk without room and
    for a file that cannot be had, which says how to get it by hand.
    """
    try:
        absent = []
        for remote in wanted:
            difference = _difference(folder / remote.path, remote)
            if difference:
                log.warning("%s is not the file it should be: %s; fetching it again", folder / remote.path, difference)
            if difference is not None:
                absent.append(remote)
        if absent:
            check_room(folder, sum(remote.size or 0 for remote in absent))
            refusals: Counter[str] = Counter()
            with Connection() as connection, _Meter(absent) as meter:
                for remote in absent:
                    _fetch(connection, refusals, meter, remote, folder / remote.path, setting)
                    meter.next_file()
    except OSError as error:
        raise UserError(
            f"cannot fetch to {error.filename or folder}: {error.strerror}; free space or make it readable and"
            " writable, and run again"
        ) from error
    return [folder / remote.path for remote in wanted]


def _difference(path: Path, remote: Remote) -> str | None:
    """In what a file is not the remote one: None where it is, "" where there is none."""
    try:
        check_file(path, remote)
    except FileNotFoundError:
        return ""
    except WrongBytes as error:
        return str(error)
    return None


def _fetch(
    connection: Connection, refusals: Counter[str], meter: _Meter, remote: Remote, target: Path, setting: str
) -> None:
    """Fetch a file from the first of its addresses that has it; `refusals` counts, by host, the files in a row that
    it did not give."""
    reasons = []
    last = remote.addresses[-1]
    for address in remote.addresses:
        host = host_of(address)
        if refusals[host] >= REFUSALS and address != last:
            continue
        session = connection.to(address)
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _beside(target, "lock")
        try:
            with FileLock(lock):  # inside the host's lock, never around it: who has this one waits for nobody
                if _difference(target, remote) is not None:
                    _insist(session, meter, address, remote, target)
                lock.unlink(missing_ok=True)  # who waits for it finds the file
        except _Refused as refused:
            reasons.append(f"{address}: {refused}")
            refusals[host] += REFUSALS if refused.lost else 1
            if address != last:
                end = " from now on" if refusals[host] >= REFUSALS else ""
                log.warning("%s; asking %s%s", reasons[-1], host_of(last), end)
        else:
            refusals[host] = 0
            return
    raise UserError(
        f"{'; '.join(reasons)}. Fetch it by hand and put it at {target},"
        f" or set {setting} to a local copy (a folder, or the zips)"
    )


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


def _insist(session: requests.Session, meter: _Meter, address: str, remote: Remote, target: Path) -> None:
    """Try an address as long as a try brings something new, and then a few times more; `_Refused` at last."""
    import requests

    part = _beside(target, "part")
    tries = most = 0
    if remote.size is None or remote.size > LARGE:
        log.info("fetching %s", address)
    while True:
        wait: float | None = 0.0
        lost = False
        try:
            _transfer(session, meter, address, remote, target)
            _finish(remote, target)
            return
        except WrongBytes as error:
            part.unlink(missing_ok=True)
            reason = f"what it sends is something else: {error}"
        except requests.RequestException as error:
            reason, wait = _reason(error)
            lost = error.response is None
        have = _size(part)
        tries = tries + 1 if have <= most else 1
        most = max(most, have)
        if wait is None or wait > LONGEST_PAUSE or tries == TRIES:
            raise _Refused(reason, lost)
        # Jobs that were turned away together do not come back together.
        pause = max(wait, PAUSE * 2 ** (tries - 1) * random.uniform(1, 1.5))
        log.info("%s: %s; trying again in %.0f s", address, reason, pause)
        time.sleep(pause)


def _transfer(session: requests.Session, meter: _Meter, address: str, remote: Remote, target: Path) -> None:
    """Add to the part of a file what it lacks; the whole where the host sends no ranges, or has another file by now.

    Beside it lies what tells one version of the file from another, the host's ETag or date. Where the host gives
    neither, only a checksum can tell: without one the file starts again.
    """
    part, version = _beside(target, "part"), _beside(target, "version")
    have = _size(part)
    if have and have == remote.size:  # killed before it could be checked
        return
    known = version.read_text(encoding="utf-8") if version.exists() else ""
    headers = {"Range": f"bytes={have}-"} if have and (known or remote.checksum) else {}
    if headers and known:
        headers["If-Range"] = known
    with session.get(address, headers=headers, stream=True, timeout=(CONNECT, SILENCE)) as response:
        if response.status_code == 416 and headers:  # it is shorter by now
            part.unlink()
            return _transfer(session, meter, address, remote, target)
        response.raise_for_status()
        if response.status_code != 206:
            have = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise WrongBytes("another range than the one asked for")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal():
            size = have + int(length)
            if remote.size is not None and size != remote.size:
                raise WrongBytes(f"it has {size:,} bytes, not {remote.size:,}")
            check_room(part.parent, int(length))
        with part.open("ab") as stream:
            stream.truncate(have)
            version.write_text(_version(response), encoding="utf-8")
            for block in response.iter_content(BLOCK):
                stream.write(block)
                have += len(block)
                meter.at(have)


def _version(response: requests.Response) -> str:
    """What tells this version of a file from others, for If-Range: a weak ETag says only that they are alike."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _finish(remote: Remote, target: Path) -> None:
    """Check a transferred file and give it its name."""
    part = _beside(target, "part")
    with part.open("rb+") as stream:
        check(stream, remote)
        if not remote.checksum:
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            log.info("%s: no checksum is published; its sha256 is %s", target.name, digest)
        os.fsync(stream.fileno())
    part.replace(target)
    _beside(target, "version").unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: requests.RequestException) -> tuple[str, float | None]:
    """Why a request failed, in plain words, and how long the host asks to wait (seconds); None: for ever."""
    import requests
    from urllib3.exceptions import InvalidHeader, MaxRetryError, ReadTimeoutError
    from urllib3.util import Retry

    if error.response is not None:
        status = error.response.status_code
        answer = f"the host answers {status} {error.response.reason}"
        if status not in (408, 429) and status < 500:
            return answer, None
        try:
            wait = Retry().get_retry_after(error.response.raw) or 0.0
        except InvalidHeader:
            wait = 0.0
        return f"{answer} and asks to wait {wait:.0f} s" if wait > LONGEST_PAUSE else answer, wait
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "the host does not answer in time", 0.0
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke before the end", 0.0
    if isinstance(error, requests.exceptions.ConnectionError):
        cause = error.args[0] if error.args else None
        if isinstance(cause, ReadTimeoutError):
            return "the host falls silent", 0.0
        return ("the host cannot be reached" if isinstance(cause, MaxRetryError) else "the connection broke"), 0.0
    return f"not an address that can be fetched ({error})", None


class _Meter:
    """How far the fetching is, in bytes: a bar on a terminal, a line now and then in a log."""

    def __init__(self, files: Sequence[Remote]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

        columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        total = sum(file.size or 0 for file in files) if all(file.size for file in files) else None
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty())
        self._bar.add_task("fetching", total=total)
        self._before = self._position = 0  # bytes of the files before this one, and of this one
        self._started = self._told = time.monotonic()

    def __enter__(self) -> _Meter:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def at(self, position: int) -> None:
        """The transfer is `position` bytes into its file."""
        self._position = position
        task = self._bar.tasks[0]
        self._bar.update(task.id, completed=self._before + position)
        if self._bar.disable and time.monotonic() - self._told > TELL:
            self._told = time.monotonic()
            of = f" of {task.total / 1e6:,.0f}" if task.total else ""
            left = f", {task.time_remaining:,.0f} s left" if task.time_remaining else ""
            log.info("fetching: %s%s MB%s", f"{task.completed / 1e6:,.0f}", of, left)

    def next_file(self) -> None:
        """The file is there."""
        self._before, self._position = self._before + self._position, 0
