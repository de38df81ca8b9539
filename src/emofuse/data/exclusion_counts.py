"""Counts of the reasons why clips are unusable. A reason is "kind" or "kind: detail"."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable


def by_kind(reasons: Iterable[str]) -> dict[str, int]:
    """Reason → number of clips, in descending order: by kind, with the detail if it is the same for all clips of a kind."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for reason in reasons:
        kinds[reason.partition(":")[0]][reason] += 1
    counts = {next(iter(full)) if len(full) == 1 else kind: full.total() for kind, full in kinds.items()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
