"""Local copies of a corpus: the files in a folder, in the zips in it, or in a zip."""

from __future__ import annotations

import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from emofuse.utils.errors import UserError

LARGEST = 2**30  # bytes of a member of a zip: many times the largest clip, and still small enough for memory
# What zipfile raises for damaged files, depending on the damaged part.
BROKEN = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class File:
    """A file of a source.

    path: relative to the source; place: for messages; read: returns its content; archive: the zip that it is in.
    """

    path: str
    place: str
    read: Callable[[], bytes]
    archive: Path | None = None


def files_in(source: Path, key: str) -> Iterator[File]:
    """Every file in a folder and in the zips in it, or in a zip.

    Raises `UserError` for a source that does not exist, naming the parameter `key`, and for a zip that cannot be read
    or trusted.
    """
    if not source.exists():
        raise UserError(f"{key}: there is no {source}; give a folder, a zip or an address")
    if not source.is_dir():
        yield from files_in_zip(source)
        return
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in names:
            path = Path(folder, name)
            # Names that are not UTF-8 cannot be stored in a zip.
            relative = PurePosixPath(path.relative_to(source).as_posix().encode(errors="replace").decode())
            if _is_hidden(name):
                continue
            if path.suffix.lower() == ".zip":
                for file in files_in_zip(path):
                    yield replace(file, path=f"{relative.with_suffix('')}/{file.path}")
            else:
                yield File(str(relative), str(path), partial(_read, path))


def downloaded(path: Path, name: str) -> Iterator[File]:
    """The files in a downloaded zip, or a downloaded file that is not a zip; `name` is that of the published file."""
    if path.suffix == ".zip":
        yield from (replace(file, path=f"{path.stem}/{file.path}") for file in files_in_zip(path))
    else:
        yield File(name, str(path), partial(_read, path))


def files_in_zip(path: Path) -> Iterator[File]:
    """Every file in a zip. `UserError` if any member is a link or its name leads out of the folder."""
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise UserError(f"{path} is not a readable zip file ({error}); delete it or get it again") from None
    for entry in archive.infolist():
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        if ".." in parts or parts[:1] == ("/",) or ":" in "".join(parts[:1]):
            raise UserError(f"{path}: member {entry.filename!r} leads out of the folder; do not trust this zip")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UserError(f"{path}: member {entry.filename!r} is a link; do not trust this zip")
        if parts and not entry.is_dir() and not any(_is_hidden(part) for part in parts):
            yield File(entry.filename, f"{path}:{entry.filename}", partial(_read_member, archive, entry), path)


def _is_hidden(name: str) -> bool:
    """Whether it is a file that file managers and archivers add."""
    return name.startswith(".") or name == "__MACOSX"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > LARGEST:  # zipfile never reads more than the stated size
        raise UserError(
            f"{archive.filename}: {entry.filename} claims to have {entry.file_size:,} bytes, which no clip has;"
            " do not trust this zip"
        )
    try:
        return archive.read(entry)
    except BROKEN as error:
        raise UserError(f"{archive.filename}: {entry.filename} cannot be read ({error}); get the zip again") from None
