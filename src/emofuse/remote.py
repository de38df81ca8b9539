"""Files from the web: fetched whole, checked, or not there at all."""

from __future__ import annotations

import csv
import glob
import hashlib
import logging
import os
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from emofuse.errors import UserError
from emofuse.files import atomic

log = logging.getLogger(__name__)

REGISTRY = Path(__file__).resolve().parent / "registry"
TRIES = 4
PAUSE = 1.0  # seconds before the second try, doubled before each further one
LONGEST_PAUSE = 60.0  # seconds, also of what a host asks for
LARGE = 10_000_000  # bytes
SILENCE = 30.0  # seconds without a byte after which a try has failed


@dataclass(frozen=True)
class Remote:
    """A file on the web.

    path: where it is kept, under the folder of archives; size in bytes, None where unknown; checksum
    "md5:…" or "sha256:…", of which the start is enough, "" where none is known.
    """

    path: str
    address: str
    size: int | None = None
    checksum: str = ""


class WrongBytes(Exception):
    """A file that is not what the registry says; str() is the difference."""


@cache
def registry() -> dict[str, Remote]:
    """The files whose address is known, by name: registry/addresses.csv, which says where each line is from."""
    with (REGISTRY / "addresses.csv").open(newline="", encoding="utf-8") as stream:
        return {
            row["name"]: Remote(row["file"], row["address"], int(row["bytes"] or 0) or None, row["checksum"])
            for row in csv.DictReader(stream)
        }


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


def fetch(remote: Remote, target: Path, setting: str) -> Path:
    """Make sure that `target` is the remote file, whole and checked; one that is there is checked and kept.

    Several processes may ask for the same file: one fetches it, the others wait. A host that does not
    answer, is busy, or sends something else is tried again, later and later. `setting` is the
    environment variable that points at a local copy. Raises `UserError` where the file cannot be had,
    saying how to get it by hand.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".lock-{target.name}")):
        if target.exists():
            try:
                check_file(target, remote)
                return target
            except WrongBytes as error:
                log.warning("%s is not the file it should be: %s; fetching it again", target, error)
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*"):
            leftover.unlink()  # of a process that was killed: nobody else fetches while the lock is held
        if _is_large(remote):
            log.info("fetching %s", remote.address)
        _fetch(remote, target, setting)
        if not remote.checksum:
            with target.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            log.info("%s: no checksum is published; its sha256 is %s", target.name, digest)
    return target


def _is_large(remote: Remote) -> bool:
    """Whether a file is worth a line of its own: a corpus can be thousands of small ones."""
    return remote.size is None or remote.size > LARGE


def _fetch(remote: Remote, target: Path, setting: str) -> None:
    import pooch
    from requests import RequestException

    download = pooch.HTTPDownloader(
        progressbar=_is_large(remote) and sys.stderr.isatty(), chunk_size=1 << 20, timeout=SILENCE
    )
    for attempt in range(1, TRIES + 1):
        pause = PAUSE * 2 ** (attempt - 1)
        try:
            with atomic(target) as partial:
                download(remote.address, str(partial), None)
                check_file(partial, remote)
            return
        except WrongBytes as error:
            reason = f"what it sends is something else: {error}"
        except RequestException as error:
            reason, wait = _reason(error)
            if wait is None:
                attempt = TRIES  # another try would get the same answer
            else:
                pause = max(pause, wait)
        if attempt == TRIES:
            break
        log.info("%s: %s; trying again", remote.address, reason)
        time.sleep(min(pause, LONGEST_PAUSE))
    raise UserError(
        f"{remote.address}: {reason}. Fetch it by hand and put it at {target}, or set {setting} to a local copy"
    )


def _reason(error: Exception) -> tuple[str, float | None]:
    """Why a request failed, in plain words, and how long the host asks to wait (seconds); None: for ever."""
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        answer = f"the host answers {response.status_code} {response.reason}"
        if response.status_code in (408, 429) or response.status_code >= 500:
            asked = response.headers.get("Retry-After", "")
            return answer, float(asked) if asked.isdigit() else 0.0
        return answer, None
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke before the end", 0.0
    if isinstance(error, requests.Timeout):
        return "the host does not answer in time", 0.0
    if isinstance(error, requests.exceptions.ConnectionError):
        # A host that falls silent halfway is a ConnectionError too, without being out of reach.
        return ("the host falls silent" if "Read timed out" in str(error) else "the host cannot be reached"), 0.0
    return f"not an address that can be fetched ({error})", None
