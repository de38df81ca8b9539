"""Progress that is a bar on a terminal and a few plain lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Progress(Sequence[T]):
    """The items of a sequence, and while they are walked through, how far that is and the time left."""

    def __init__(self, items: Sequence[T], what: str) -> None:
        self._items, self._what = items, what

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._items[index]

    def __iter__(self) -> Iterator[T]:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import track

            yield from track(self._items, self._what, console=Console(stderr=True))
            return
        started = told = time.monotonic()
        for number, item in enumerate(self._items):
            now = time.monotonic()
            if number and now - told > 15:
                left = (now - started) / number * (len(self) - number)
                log.info("%s: %d of %d, %.0f s left", self._what, number, len(self), left)
                told = now
            yield item
        log.info("%s: %d in %.0f s", self._what, len(self), time.monotonic() - started)
