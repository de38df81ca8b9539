"""Prefetching: results that threads compute before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def prefetched(function: Callable[[A], B], items: Iterable[A], threads: int, results: int) -> Iterator[B]:
    """`function` of each item, in order, computed by `threads` threads at most `results` items ahead of the consumer.

    Without threads, each result is computed when it is requested. An exception is raised where its item's result is
    requested. Items that have not been started by then, or when the consumer stops, are not computed.
    """
    if threads < 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[B]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > results:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
