"""Labels from the names of files, by a pattern such as `{actor}-{sentence}-{emotion}_{take}.mp4`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from emofuse.data.own_corpus.listing import Listing, Maps, interpreted
from emofuse.utils.errors import UserError

_FIELD = re.compile(r"\{([a-z][a-z_]*)(?::([1-9][0-9]?))?\}")


def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern.

    {name} stands for one or more characters other than slashes, {name:2} for exactly two. A pattern without slashes is
    about the name of a file, one with slashes also about the folders right above it; without an extension it fits all.
    Capital and small letters are equal. Raises `UserError` for a pattern that is not valid.
    """
    parts, last, seen = list[str](), 0, set[str]()
    for found in _FIELD.finditer(pattern):
        name, width = found.groups()
        parts.append(re.escape(pattern[last : found.start()]))
        parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]{f'{{{width}}}' if width else '+?'})")
        seen.add(name)
        last = found.end()
    rest = pattern[last:]
    if set("{}") & set(_FIELD.sub("", pattern)):
        raise UserError(f"--pattern {pattern}: fields are {{name}} or {{name:width}}, in small letters; correct it")
    parts.append(re.escape(rest))
    if not PurePosixPath(_FIELD.sub("x", pattern)).suffix:
        parts.append(r"(?:\.[^./]+)?")
    return re.compile(f"(?:.*/)?{''.join(parts)}", re.IGNORECASE | re.DOTALL)


def fields(pattern: str) -> set[str]:
    """The names of the fields in a pattern."""
    return {found[1] for found in _FIELD.finditer(pattern)}


def read(paths: Iterable[str], pattern: str, maps: Maps) -> Listing:
    """List the files whose names fit a pattern with at least {actor} and {emotion}.

    Raises `UserError` for another pattern, and for a map of a field that it does not have.
    """
    expression, listing = compiled(pattern), Listing()
    if absent := {"actor", "emotion"} - fields(pattern):
        raise UserError(f"--pattern {pattern}: it has no {{{min(absent)}}}; it needs {{actor}} and {{emotion}}")
    if unknown := set(maps) - fields(pattern):
        raise UserError(f"--map {min(unknown)}: --pattern has no {{{min(unknown)}}}; correct one of them")
    for path in paths:
        found = expression.fullmatch(path)
        row = interpreted(found.groupdict(), maps) if found else "whose names do not fit --pattern"
        if isinstance(row, str):
            listing.ignored[row].append(path)
        else:
            listing.rows.append({"file": path, **row})
    return listing
