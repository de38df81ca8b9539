"""What every corpus has in common: the labels of a clip and the zip file ("shard") that holds clips."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic

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


@contextmanager
def _reading(path: Path) -> Iterator[zipfile.ZipFile]:
    """The opened zip. Its table of members is read once, not once a member: a shard holds hundreds."""
    try:
        state = path.stat()
        yield _open(str(path), state.st_mtime_ns, state.st_size)
    except FileNotFoundError:
        corpus, shard = path.parts[-3], path.stem.rpartition("-")[2]
        raise UserError(f"{path} is missing: run emofuse download {corpus} {shard}") from None
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}; the index is of another download: run emofuse index again") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it and run emofuse download again") from None


def read_member(path: str | Path, name: str) -> bytes:
    """The bytes of one member of a shard, data/<corpus>/raw/shard-<k>.zip; `UserError` where they cannot be had."""
    with _reading(Path(path)) as archive:
        return archive.read(name)


def members(path: str | Path) -> list[str]:
    """The names of a shard's members, sorted; folders left out. `UserError` where it cannot be read."""
    with _reading(Path(path)) as archive:
        return sorted(name for name in archive.namelist() if not name.endswith("/"))


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
