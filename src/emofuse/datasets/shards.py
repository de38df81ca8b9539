"""Shards: each holds the clips of a run of consecutive actors, so that there are few large files, not thousands of small ones.

The clips of a shard are in data/<corpus>/raw/shard-<k>.zip, its features in an array and a table per stage.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse import paths
from emofuse.datasets.base import A, sorted_actors
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, read_csv

if TYPE_CHECKING:
    from emofuse.config import Corpus

FOLDERS = {"video": "faces", "audio": "audio"}  # modality → the stage of its features, which names their folder


def check(shard: int, corpus: str, shards: Sequence[int]) -> None:
    """Raise `UserError` for a shard that a corpus does not have."""
    if shard not in shards:
        raise UserError(f"corpora.{corpus}.shards: there is no shard {shard}; there are {', '.join(map(str, shards))}")


def actors_of(actors: Sequence[A], shard: int, shards: int) -> tuple[A, ...]:
    """The actors of one of `shards` runs of consecutive actors.

    The runs cover every actor once, in order, and differ by at most one in length; with more shards than actors some
    are empty. `actors` are all of the corpus, present or not, so that no shard's content depends on another's.
    ValueError for a shard out of range.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"shard {shard} of {shards}")
    ordered = sorted_actors(actors)
    return tuple(ordered[shard * len(ordered) // shards : (shard + 1) * len(ordered) // shards])


def features(name: str, corpus: Corpus, modalities: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """The paths of a corpus's features in some modalities, by default all: an array and a table per shard."""
    chosen = corpus.modalities if modalities is None else modalities
    return [paths.features(name, FOLDERS[modality], shard) for modality in chosen for shard in corpus.shards]


def usable(index: Path, shard: int) -> list[dict[str, str]]:
    """The rows of index.csv of a shard's clips with status "ok"."""
    rows = read_csv(index, ("shard", "status"), "emofuse index")
    usable: list[Any] = rows[(rows["shard"] == str(shard)) & (rows["status"] == "ok")].to_dict("records")
    return usable


def write(path: str | Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a zip, uncompressed and with fixed times, so that the same members give the same bytes.

    members: (name, bytes) pairs in sorted order of name, one in memory at a time; ValueError if they are not sorted
    or a name occurs twice.
    """
    last = ""
    with atomic(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members:
            if name <= last:
                raise ValueError(f"shard {path}: member {name!r} after {last!r}; they must be sorted and unique")
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix; the default differs by platform, and so would the bytes
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
            last = name


@lru_cache(maxsize=2)
def _open(path: str, modified: int, size: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The open zip. It is cached, because reading its directory again for each of hundreds of members is slow."""
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
    """The bytes of one member of a shard's zip; `UserError` if it cannot be read."""
    with _opened(Path(path)) as archive:
        return archive.read(name)


def members(path: str | Path) -> list[str]:
    """The sorted names of the members of a shard's zip, without folders; `UserError` if it cannot be read."""
    with _opened(Path(path)) as archive:
        return sorted(name for name in archive.namelist() if not name.endswith("/"))
