"""Why clips are not usable, counted: a reason is "kind" or "kind: detail"."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable


def by_kind(reasons: Iterable[str]) -> dict[str, int]:
    """Reason → clips, the commonest first: by kind, and in full where all clips of a kind have the same detail."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for reason in reasons:
        kinds[reason.partition(":")[0]][reason] += 1
    counts = {next(iter(full)) if len(full) == 1 else kind: full.total() for kind, full in kinds.items()}
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
