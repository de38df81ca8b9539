"""Progress of long tasks: a bar on a terminal, a line every 15 seconds in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from emofuse.utils.console import printable

log = logging.getLogger(__name__)

INTERVAL = 15.0  # seconds between lines in a log

T = TypeVar("T")


class Meter:
    """How far a task is: `with Meter("audio", total=90) as meter: …; meter.advance()`.

    `total` is None if it is not known; amounts are bytes if `in_bytes`, else items.
    """

    def __init__(self, what: str, total: int | None, in_bytes: bool = False) -> None:
        self._what, self._total, self._in_bytes = what, total, in_bytes
        self._done = 0
        self._started = self._logged = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Meter:
        if sys.stderr is not None and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            amount = progress.DownloadColumn() if self._in_bytes else progress.MofNCompleteColumn()
            columns = (progress.TextColumn("{task.description}", markup=False), progress.BarColumn(), amount)
            self._bar = progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True))
            self._bar.add_task(printable(self._what), total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()
        elif not any(error):
            log.info("%s: %s in %.0f s", self._what, self._amount(self._done), time.monotonic() - self._started)

    def advance(self, amount: int = 1) -> None:
        """So much more is done."""
        self._done += amount
        if self._bar:
            self._bar.advance(self._bar.task_ids[0], amount)
        elif (now := time.monotonic()) - self._logged > INTERVAL:
            of = f" of {self._amount(self._total)}" if self._total else ""
            seconds = (now - self._started) * ((self._total or 0) - self._done) / self._done
            left = f", {seconds:.0f} s left" if seconds > 0 else ""
            log.info("%s: %s%s%s", self._what, self._amount(self._done), of, left)
            self._logged = now

    def _amount(self, number: int) -> str:
        return f"{number / 1e6:,.0f} MB" if self._in_bytes else f"{number}"


class Progress(Sequence[T]):
    """A sequence that reports progress while it is iterated over."""

    def __init__(self, items: Sequence[T], what: str) -> None:
        self._items, self._what = items, what

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._items[index]

    def __iter__(self) -> Iterator[T]:
        with Meter(self._what, len(self)) as meter:
            for item in self._items:
                yield item
                meter.advance()
