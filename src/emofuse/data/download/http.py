"""Files from the web, downloaded completely and verified, or not there at all.

Connections, back-off and Retry-After are the business of requests and urllib3's `Retry`. This module adds what they
leave to the caller: resuming a partial file, verifying it, and trying the next address.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from emofuse.datasets.urls import RemoteFile
from emofuse.utils.errors import UserError
from emofuse.utils.locks import locked, one_of
from emofuse.utils.progress import Meter

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

TRIES = 5  # per address: requests, and transfers in a row that break off without a new byte
BACKOFF = 1.0  # seconds, doubled with each try
LONGEST_WAIT = 300  # seconds, whatever a server's Retry-After says
BUSY = (408, 429, 500, 502, 503, 504)  # statuses that are worth another try
CONNECT_TIMEOUT = 10.0  # seconds
READ_TIMEOUT = 30.0  # seconds without a byte
CONNECTIONS = 2  # per host, by all processes of a user on this machine together
FAILURES = 3  # files in a row after which a host is tried last
BLOCK = 1 << 16  # bytes


class WrongContent(Exception):
    """A file that differs from the published one; str() is the difference."""


class _Interrupted(Exception):
    """A transfer that broke off; str() is the reason."""


def verify(stream: BinaryIO, file: RemoteFile) -> None:
    """Compare a stream with the published size and checksum, where known; raises `WrongContent` if it differs."""
    size = stream.seek(0, os.SEEK_END)
    if file.size is not None and size != file.size:
        raise WrongContent(f"it has {size:,} bytes, not {file.size:,}")
    if file.checksum:
        algorithm, _, expected = file.checksum.partition(":")
        stream.seek(0)
        digest = hashlib.file_digest(stream, algorithm).hexdigest()  # type: ignore[arg-type]
        if not digest.startswith(expected):
            raise WrongContent(f"its {algorithm} is {digest}, not {expected}")


def verify_file(path: Path, file: RemoteFile) -> None:
    """`verify` a file on disk."""
    with path.open("rb") as stream:
        verify(stream, file)


def check_space(folder: Path, needed: int) -> None:
    """Raise `UserError` if the disk of a folder, which need not exist yet, has less than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UserError(
            f"{folder}: {needed / 1e9:,.1f} GB are needed but {free / 1e9:,.1f} GB are free;"
            " free some space, or make data a link to a larger disk"
        )


def fetch(files: Sequence[RemoteFile], folder: Path, setting: str) -> list[Path]:
    """Download files to `folder` and return their paths; those that are already there are verified and kept.

    A partial download, also of an earlier process, is resumed. Processes that want the same file download it once.
    `setting` is the environment variable that names a local copy instead. Raises `UserError` if the disk is too small
    or a file cannot be had from any of its addresses; the message says how to get it by hand.
    """
    try:
        missing = [file for file in files if not _is_present(folder / file.path, file)]
        if missing:
            for file in missing:
                if (folder / file.path).exists():
                    log.warning("%s is not the published file; downloading it again", folder / file.path)
            check_space(folder, sum(file.size or 0 for file in missing))
            failures: Counter[str] = Counter()  # host → files in a row that it could not serve
            total = sum(file.size or 0 for file in missing) if all(file.size for file in missing) else None
            with _session() as session, Meter("downloading", total, in_bytes=True) as meter:
                for file in missing:
                    _fetch(session, file, folder / file.path, setting, failures, meter)
    except OSError as error:
        raise UserError(
            f"cannot download to {error.filename or folder}: {error.strerror};"
            " free some space or make the folder writable, and run again"
        ) from error
    return [folder / file.path for file in files]


def _is_present(path: Path, file: RemoteFile) -> bool:
    """Whether a file exists and is the published one."""
    try:
        verify_file(path, file)
    except (FileNotFoundError, WrongContent):
        return False
    return True


@contextmanager
def _session() -> Iterator[requests.Session]:
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(
        total=TRIES - 1,
        backoff_factor=BACKOFF,
        backoff_jitter=BACKOFF,
        status_forcelist=BUSY,
        raise_on_status=False,  # raise_for_status() names the status
        retry_after_max=LONGEST_WAIT,
    )
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        session.headers["Accept-Encoding"] = "identity"  # offsets are those of the file, not of a compressed stream
        yield session


def _fetch(
    session: requests.Session, file: RemoteFile, target: Path, setting: str, failures: Counter[str], meter: Meter
) -> None:
    """Download one file from the first address that can serve it. `failures` moves hosts that cannot to the end."""
    import requests

    reasons = []
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = _beside(target, "lock")
    for address in sorted(file.addresses, key=lambda address: failures[_host(address)] >= FAILURES):
        host = _host(address)
        try:
            # In this order, a process that holds the lock of a file never waits for a connection, so there is no deadlock.
            with _connection(host), locked(lock):
                if not _is_present(target, file):
                    _fetch_from(session, address, file, target, meter)
                lock.unlink(missing_ok=True)  # processes that wait for it will find the file
        except (requests.RequestException, _Interrupted, WrongContent) as error:
            reasons.append(f"{address}: {_reason(error)}")
            failures[host] += FAILURES if isinstance(error, requests.ConnectionError) else 1
            if len(reasons) < len(file.addresses):
                log.warning("%s; trying the next address", reasons[-1])
        else:
            failures[host] = 0
            return
    raise UserError(
        f"{'; '.join(reasons)}. Download it by hand and put it at {target},"
        f" or set {setting} to a local copy (a folder, or the zips)"
    )


def _host(address: str) -> str:
    """The host and port of an address, without a user's name and password."""
    return urlsplit(address).netloc.rpartition("@")[2]


@contextmanager
def _connection(host: str) -> Iterator[None]:
    """One of the CONNECTIONS to a host that this user's processes on this machine share."""
    folder = Path(tempfile.gettempdir()) / f"emofuse-connections-{os.getuid()}"
    names = [f"{host.replace(':', '_')}-{number}" for number in range(CONNECTIONS)]
    with one_of(names, folder, what=f"connections to {host}"):
        yield


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


def _fetch_from(session: requests.Session, address: str, file: RemoteFile, target: Path, meter: Meter) -> None:
    """Download a file from one address, resuming as long as transfers bring new bytes, and TRIES times more."""
    part, validator = _beside(target, "part"), _beside(target, "validator")
    furthest = failed = 0
    while True:
        try:
            if _size(part) != file.size:  # else the process was killed before it could verify it
                _transfer(session, address, file, part, validator, meter)
            with part.open("rb+") as stream:
                verify(stream, file)
                os.fsync(stream.fileno())
            break
        except WrongContent:
            part.unlink(missing_ok=True)
            failed += 1
            if failed == TRIES:
                raise
        except _Interrupted as error:
            failed = 1 if _size(part) > furthest else failed + 1
            furthest = max(furthest, _size(part))
            if failed == TRIES:
                raise
            log.info("%s: %s after %s bytes; resuming", address, error, f"{_size(part):,}")
        time.sleep(BACKOFF * 2 ** (failed - 1))
    part.replace(target)
    validator.unlink(missing_ok=True)


def _transfer(
    session: requests.Session, address: str, file: RemoteFile, part: Path, validator: Path, meter: Meter
) -> None:
    """Append to a partial file what it lacks; start again if the server has no ranges or another version by now.

    `validator` holds the ETag or date of the version that the part is from. Without one, only a checksum could tell
    that two versions were mixed, so a file without either starts again.
    """
    import requests

    start = _size(part)
    version = validator.read_text(encoding="utf-8") if validator.exists() else ""
    headers = {"Range": f"bytes={start}-"} if start and (version or file.checksum) else {}
    if headers and version:
        headers["If-Range"] = version
    with session.get(address, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)) as response:
        if response.status_code == 416:
            raise WrongContent("it has become shorter")
        response.raise_for_status()
        if response.status_code != 206:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise WrongContent("the server sent another range than requested")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal():
            if file.size is not None and start + int(length) != file.size:
                raise WrongContent(f"it has {start + int(length):,} bytes, not {file.size:,}")
            check_space(part.parent, int(length))
        etag = response.headers.get("ETag", "W/")  # a weak one does not promise identical bytes
        validator.write_text(response.headers.get("Last-Modified", "") if etag.startswith("W/") else etag)
        with part.open("ab") as stream:
            stream.truncate(start)
            try:
                for block in response.iter_content(BLOCK):
                    stream.write(block)
                    meter.advance(len(block))
            except requests.RequestException as error:
                raise _Interrupted(_reason(error)) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """Why a download failed, in plain words."""
    import requests

    match error:
        case WrongContent():
            return f"the server sends something else: {error}"
        case _Interrupted():
            return str(error)
        case requests.HTTPError():
            return f"the server answers {error.response.status_code} {error.response.reason}"
        case requests.exceptions.ChunkedEncodingError():
            return "the connection broke off"
        case requests.ConnectionError() if "Read timed out" in str(error):
            return f"no data for {READ_TIMEOUT:.0f} seconds"
        case requests.ConnectionError() | requests.Timeout():
            return "the server cannot be reached"
    return f"this address cannot be downloaded ({error})"
