"""Connections to hosts: one a process at a time, and few to one host however many processes there are."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

CONNECTIONS = 2  # to one host, of all processes of a user together
LOOK = 0.2  # seconds between looks whether one of them has ended


def host_of(address: str) -> str:
    """The host and port of an address."""
    return urlsplit(address).netloc


class Connection:
    """The one connection of a process, kept open from file to file as long as the host is the same.

    Before it is made, one of the host's lock files is taken, of which there are as many as connections are allowed.
    """

    def __init__(self) -> None:
        self._host: str | None = None
        self._held = ExitStack()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    def to(self, address: str) -> requests.Session:
        """A session with the address's host, as soon as it is this process's turn; that with another host ends."""
        import requests

        host = host_of(address)
        if host != self._host:
            self._held.close()  # first: two processes that wait for each other's host would wait for ever
            self._held.enter_context(_turn(host))
            self._session = self._held.enter_context(requests.Session())
            # The bytes are counted, and asked for, as they are kept.
            self._session.headers["Accept-Encoding"] = "identity"
            self._host = host
        return self._session


def _turn(host: str) -> AbstractContextManager[object]:
    """One of the host's lock files, taken, to be let go at the end."""
    folder = Path(tempfile.gettempdir()) / f"emofuse-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    name = re.sub("[^0-9A-Za-z.-]", "_", host)
    locks = [FileLock(folder / f"{name}-{number}.lock") for number in range(CONNECTIONS)]
    told = False
    while True:
        for lock in locks:
            try:
                return lock.acquire(timeout=0)
            except Timeout:
                continue
        if not told:
            log.info("%s: waiting, %d downloads are under way there", host, CONNECTIONS)
            told = True
        time.sleep(LOOK)
