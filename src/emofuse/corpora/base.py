"""What every corpus has in common: the labels of a clip and the zip file ("shard") that holds clips."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from emofuse.files import atomic

TABLES = (".csv", ".json")  # members of a shard that are no clips


@dataclass(frozen=True)
class Clip:
    """One clip and what its name says about it.

    clip is the name without folder and ending; gender is "male" or "female", "" where the corpus does not say;
    emotion is one of the corpus's EMOTIONS; intensity, statement and repetition are the corpus's own words.
    """

    clip: str
    actor: int
    gender: str
    emotion: str
    intensity: str
    statement: str
    repetition: str


class NotAClip(Exception):
    """A name that is not one of the corpus's clips; str() is the reason in plain English."""


def write_shard(path: str | Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a stored (uncompressed) zip: fixed times, sorted names, so that the same members give the same bytes.

    members: (name, bytes) pairs. They are written as they come, one in memory at a time, so they must come in sorted
    order of name; ValueError where they do not, or where a name comes twice.
    """
    last = ""
    with atomic(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            if name <= last:
                raise ValueError(f"shard {path}: member {name!r} after {last!r}; they must be sorted and unique")
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, whatever wrote it: the default differs by platform, and so would the bytes
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
            last = name


@lru_cache(maxsize=2)
def _open(path: str, changed: int, size: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _archive(path: str | Path) -> zipfile.ZipFile:
    """The opened zip. Its table of members is read once, not once a member: a shard holds hundreds."""
    state = Path(path).stat()
    return _open(str(path), state.st_mtime_ns, state.st_size)


def read_member(path: str | Path, name: str) -> bytes:
    """The bytes of one member of a shard; KeyError where there is none of that name."""
    return _archive(path).read(name)


def members(path: str | Path) -> list[str]:
    """The names of a shard's members, sorted; folders left out."""
    return sorted(name for name in _archive(path).namelist() if not name.endswith("/"))


@dataclass(frozen=True)
class Place:
    """Where a file of a source goes: whose shard, None where its name hints at nobody, and its name in there.

    is_clip is false for a wrong name, which goes along for the index to say so.
    """

    actor: int | None
    name: str
    is_clip: bool


@dataclass(frozen=True)
class Entry:
    """One clip of a shard: the member that holds its picture, the one that holds its sound, and what it is.

    clip is None for a name that is none of the corpus's; reason says why the clip cannot be used, "" where
    nothing is known against it.
    """

    file: str
    sound: str
    clip: Clip | None
    reason: str = ""


def entries(parse: Callable[[str], Clip], names: Iterable[str]) -> Iterator[Entry]:
    """The clips of a shard where one member is one clip; tables (csv, json) are none."""
    for name in names:
        if PurePosixPath(name).suffix in TABLES:
            continue
        try:
            yield Entry(name, name, parse(PurePosixPath(name).stem))
        except NotAClip as error:
            yield Entry(name, name, None, f"wrong name: {error}")
