"""Formatting of numbers in text."""

from __future__ import annotations

import math
from collections.abc import Iterable

NONE = "–"  # a missing value


def ranges(numbers: Iterable[int | str]) -> str:
    """Format 1, 2, 3, 7 as `1–3, 7`, and names one after the other."""
    values = set(numbers)
    if names := sorted(value for value in values if isinstance(value, str)):
        return ", ".join(names)
    parts: list[list[int]] = []
    for number in sorted(value for value in values if isinstance(value, int)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in %, without the sign; `–` for None and NaN."""
    return NONE if value is None or math.isnan(value) else f"{100 * value:.{digits}f}"
