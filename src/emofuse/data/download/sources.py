"""Local copies of a corpus: the files in a folder, in the zips in it and in zips inside those, or in a zip.

Nothing is lost silently: whatever cannot be read is an error, or is listed with the reason, so that `selection` can tell
whether anything in it is needed.
"""

from __future__ import annotations

import copy
import io
import lzma
import mmap
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from emofuse.datasets.base import stand_in
from emofuse.utils.errors import UserError

LARGEST = 2**30  # bytes of a member of a zip: many times the largest clip, and still small enough for memory
DEEPEST = 3  # zips in zips in zips; some zips contain themselves
# What zipfile raises for damaged files, depending on the damaged part.
BROKEN = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, OverflowError, zlib.error, lzma.LZMAError)

DEFLATE64 = 9  # what Windows' Explorer uses from 2 GB on; zipfile cannot read it
READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, DEFLATE64)

# Zips, also those whose names wget and unfinished downloads have changed: all.zip?download=1, all.zip.1, all.zip.part.
_ZIP = re.compile(
    r".+\.zipx?(\?.*|\.[0-9]{1,2}|\.(part|partial|crdownload|download|filepart|opdownload))?", re.I | re.S
)
_OTHER_ARCHIVE = re.compile(
    r".+\.(7z|rar|r[0-9]{2}|tar|tar\.\w+|t[abgxz]z\d?|iso|dmg|cab|z[0-9]{2}|[0-9]{3})", re.I | re.S
)
# What file managers, archivers and file servers add.
_SYSTEM = ("__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "#recycle", "#snapshot")
# Files that stand for another, which is not there: its name → what to do.
_ABSENT = (
    (re.compile(r"\.(.+)\.icloud", re.S), "is in iCloud only; download it"),
    (re.compile(r"(.+)\.dvc", re.S), "is known to DVC but not here; run dvc pull"),
    (
        re.compile(r"(.+)\.(?:part|partial|crdownload|download|filepart|opdownload)", re.S),
        "is an unfinished download; finish it",
    ),
)


@dataclass(frozen=True)
class File:
    """A file of a source.

    path: relative to the source; place: for messages; read: returns its content; archive: the zip on disk that it is in;
    fault: why it cannot be read, as far as that is known without reading it.
    """

    path: str
    place: str
    read: Callable[[], bytes]
    archive: Path | None = None
    fault: str = ""


class Unread(NamedTuple):
    """An archive that cannot be read, or a link in a zip that may stand for a folder.

    path: relative to the source; reason: what is wrong with it and what to do, starting with its place; names: the paths
    of files that are known to be in it; none if that is not known.
    """

    path: str
    reason: str
    names: tuple[str, ...]


@dataclass
class Contents:
    """What is in a source."""

    files: list[File] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)  # paths of files and folders that file managers and archivers add
    loops: list[str] = field(default_factory=list)  # paths of links to folders that are read anyway, or are above


def scan(source: Path, key: str) -> Contents:
    """Every file in a folder and in the zips in it, or in a zip. Links are followed; each folder is read once.

    Raises `UserError` for a source that does not exist, naming the parameter `key`, and for a folder or zip that may not
    be read. Archives with unreadable content are in `unread`.
    """
    contents = Contents()
    try:
        is_folder = stat.S_ISDIR(source.stat().st_mode)
    except FileNotFoundError:
        what = f"{source.readlink()}, to which {source} is a link" if source.is_symlink() else source
        raise UserError(f"{key}: there is no {what}; give a folder, a zip or an address") from None
    except OSError as error:
        raise UserError(f"{key}: {source} cannot be read: {error.strerror}") from None
    if is_folder:
        _scan_folders(source, contents)
    elif _OTHER_ARCHIVE.fullmatch(source.name):
        contents.unread.append(Unread(source.name, _other_archive(str(source)), ()))
    else:
        _scan_zip(_Zip(source), "", contents)
    return contents


def add_download(path: Path, name: str, contents: Contents) -> None:
    """Add the files in a downloaded zip, or a downloaded file that is not a zip; `name` is that of the published file."""
    if path.suffix == ".zip":
        _scan_zip(_Zip(path), f"{path.stem}/", contents)
    else:
        contents.files.append(File(name, str(path), partial(_read, str(path))))


def _scan_folders(source: Path, contents: Contents) -> None:
    """List the files below a folder. Links are read after everything else, so that they do not hide a folder's own path."""
    root, start = os.path.realpath(source), len(os.path.join(source, ""))  # noqa: PTH118 (a Path has no separator at its end)
    seen = {root}
    folders, links = [(str(source), root)], list[str]()
    while folders or links:
        if folders:
            folder, real = folders.pop()
        else:
            folder = links.pop(0)
            real = os.path.realpath(folder)
            if real in seen or f"{root}/".startswith(f"{real.rstrip('/')}/"):
                contents.loops.append(_escaped(folder[start:]))
                continue
            seen.add(real)
        try:
            with os.scandir(folder) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be read: {error.strerror}; make it readable, or move it out of the source"
            ) from None
        names = {entry.name for entry in entries}
        for entry in entries:
            path = _escaped(entry.path[start:])
            if absent := _absent(entry.name, names):
                name, fault = absent
                path, place = str(PurePosixPath(path).with_name(_escaped(name))), str(Path(folder, name))
                if _has_file_type(name) and not _ZIP.fullmatch(name) and not _OTHER_ARCHIVE.fullmatch(name):
                    contents.files.append(_faulty(path, place, f"{place} {fault}, or remove {entry.name}"))
                else:
                    contents.unread.append(Unread(path, f"{place} {fault}, or remove {entry.name}", ()))
            elif _is_hidden(entry.name):
                contents.hidden.append(path)
            elif _is_folder(entry):
                if entry.is_symlink():
                    links.append(entry.path)
                elif (own := f"{real.rstrip('/')}/{entry.name}") not in seen:
                    seen.add(own)
                    folders.append((entry.path, own))
            else:
                _add(entry, path, _fault_of(entry), contents)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to a place that may not be read
        return False


def _add(entry: os.DirEntry[str], path: str, fault: str, contents: Contents) -> None:
    """Add one file of a folder, and what is in it if it is a zip; `path` is relative to the source."""
    is_zip = _ZIP.fullmatch(entry.name)
    if is_zip and not fault:
        _scan_zip(_Zip(Path(entry.path)), f"{PurePosixPath(path).with_suffix('')}/", contents)
    elif is_zip or _OTHER_ARCHIVE.fullmatch(entry.name):
        contents.unread.append(Unread(path, fault or _other_archive(entry.path), ()))
    elif fault:
        contents.files.append(_faulty(path, entry.path, fault))
    else:
        contents.files.append(File(path, entry.path, partial(_read, entry.path)))


def _fault_of(entry: os.DirEntry[str]) -> str:
    """Why something that is not a folder cannot be read; "" for a file. `UserError` if it may stand for a folder."""
    if entry.is_file(follow_symlinks=False):
        return ""
    try:
        return "" if stat.S_ISREG(entry.stat().st_mode) else f"{entry.path} is neither a file nor a folder; replace it"
    except OSError as error:
        what = f"a link to {Path(entry.path).readlink()}, which " if entry.is_symlink() else ""
        fault = f"{entry.path} {'is ' if what else ''}{what}cannot be read ({error.strerror}); restore it, or remove it"
        if not _has_file_type(entry.name):
            raise UserError(fault) from None
        return fault


def _absent(name: str, others: Collection[str]) -> tuple[str, str] | None:
    """The name of the file for which one with this name stands, and what to do, if that is not among the others."""
    for pattern, what in _ABSENT:
        if (found := pattern.fullmatch(name)) and found[1] not in others and not _ZIP.fullmatch(name):
            return found[1], what
    return None


def _has_file_type(name: str) -> bool:
    """Whether a name ends as names of files do, not those of folders."""
    return bool(re.fullmatch(r"\.[A-Za-z0-9]{2,4}", PurePosixPath(name).suffix))


def _escaped(name: str) -> str:
    """A name without bytes that are not UTF-8, which cannot be stored in a zip."""
    return name if name.isascii() else os.fsencode(name).decode(errors="backslashreplace")


def _is_hidden(name: str) -> bool:
    """Whether it is a file that file managers and archivers add."""
    return name.startswith(".") or name in _SYSTEM


def _faulty(path: str, place: str, fault: str, archive: Path | None = None) -> File:
    def read() -> bytes:
        raise UserError(fault)

    return File(path, place, read, archive, fault)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


# ── zips ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Zip:
    """A zip: a file on disk, or a member of another zip. It is opened when needed and not kept open for long."""

    file: Path
    within: tuple[int, ...] = ()  # the positions of the members that lead to it, from the outermost zip inwards
    place: str = ""

    @property
    def name(self) -> str:
        return self.place or str(self.file)

    def open(self) -> zipfile.ZipFile:
        found = self.file.stat()
        return _opened(self.file, found.st_mtime_ns, found.st_size, self.within)

    def member(self, entry: zipfile.ZipInfo) -> _Zip:
        return _Zip(self.file, (*self.within, entry.header_offset), f"{self.name}:{entry.filename}")


@lru_cache(maxsize=DEEPEST + 1)
def _opened(file: Path, modified: int, size: int, within: tuple[int, ...]) -> zipfile.ZipFile:
    if not within:
        archive = zipfile.ZipFile(file)
    else:
        outer = _opened(file, modified, size, within[:-1])
        entry = next(entry for entry in outer.infolist() if entry.header_offset == within[-1])
        stored = entry.compress_type == zipfile.ZIP_STORED
        archive = zipfile.ZipFile(
            io.BufferedReader(_Window(outer, entry)) if stored else io.BytesIO(_content(outer, entry))
        )
    assert archive.fp is not None
    archive.fp.seek(0)
    # The last list of files in a zip of zips that was cut off is that of the last whole zip in it.
    if archive.fp.read(4) == b"PK\3\4" and min((found.header_offset for found in archive.infolist()), default=1) > 0:
        raise zipfile.BadZipFile("its list of files is missing or damaged")
    return archive


class _Window(io.RawIOBase):
    """An uncompressed member of an open zip, as a file. Unlike zipfile's own, it can be read backwards quickly."""

    def __init__(self, outer: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
        self._outer, self._size, self._position = outer, entry.compress_size, 0
        assert outer.fp is not None
        outer.fp.seek(entry.header_offset)
        header = outer.fp.read(30)
        if len(header) < 30 or not header.startswith(b"PK\3\4"):
            raise zipfile.BadZipFile("its header is damaged")
        self._start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("a position before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        assert self._outer.fp is not None
        self._outer.fp.seek(self._start + self._position)
        data = self._outer.fp.read(max(0, min(len(buffer), self._size - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _scan_zip(zipped: _Zip, prefix: str, contents: Contents) -> None:
    """List the files in a zip, and in zips in it; `prefix` starts their paths."""
    try:
        if not zipped.within and (reason := _not_a_zip(zipped.file)):
            raise zipfile.BadZipFile(reason)
        entries = zipped.open().infolist()
    except PermissionError as error:
        raise UserError(f"{zipped.name} cannot be read: {error.strerror}") from None
    except BROKEN as error:
        reason = f"{zipped.name} is not a readable zip file ({error}); delete it or get it again"
        names = () if zipped.within else tuple(prefix + name for name in _names_in(zipped.file))
        contents.unread.append(Unread(prefix.rstrip("/") or zipped.file.name, reason, names))
        return
    for entry in entries:
        name = entry.filename.replace("\\", "/")  # which PowerShell writes
        parts = PurePosixPath(name).parts
        if not parts or name.endswith("/"):
            continue
        if any(map(_is_hidden, parts)) and ".." not in parts:
            contents.hidden.append(f"{prefix}{name}")
            continue
        place, fault = f"{zipped.name}:{entry.filename}", _fault_of_member(zipped, entry, parts)
        is_zip, may_be_folder = _ZIP.fullmatch(parts[-1]), _is_link(entry) and not _has_file_type(name)
        if is_zip and not fault and len(zipped.within) < DEEPEST:
            _scan_zip(zipped.member(entry), f"{prefix}{PurePosixPath(name).with_suffix('')}/", contents)
        elif is_zip or may_be_folder or _OTHER_ARCHIVE.fullmatch(parts[-1]):
            contents.unread.append(Unread(f"{prefix}{name}", fault or _other_archive(place), ()))
        elif fault:
            contents.files.append(_faulty(f"{prefix}{name}", place, fault, zipped.file))
        else:
            contents.files.append(File(f"{prefix}{name}", place, partial(_read_member, zipped, entry), zipped.file))


def _fault_of_member(zipped: _Zip, entry: zipfile.ZipInfo, parts: tuple[str, ...]) -> str:
    """Why a member of a zip must not or cannot be read; "" if it can."""
    if ".." in parts or parts[:1] == ("/",) or ":" in "".join(parts[:1]):
        return f"{zipped.name}: member {entry.filename!r} leads out of the folder; do not trust this zip"
    if _is_link(entry):
        return f"{zipped.name}: member {entry.filename!r} is a link; do not trust this zip"
    unpack = "unpack the zip with another program and give the folder"
    if entry.flag_bits & 1:
        return f"{zipped.name}: {entry.filename} is encrypted; {unpack}"
    if entry.compress_type not in READABLE:
        return f"{zipped.name}: {entry.filename} is compressed by a rare method, {entry.compress_type}; {unpack}"
    if entry.file_size > LARGEST and not _ZIP.fullmatch(parts[-1]):
        return (
            f"{zipped.name}: {entry.filename} claims to have {entry.file_size:,} bytes, which no clip has;"
            " do not trust this zip"
        )
    if entry.file_size > LARGEST and entry.compress_type != zipfile.ZIP_STORED:
        return f"{zipped.name}: {entry.filename} is a large zip in a zip; unpack {zipped.name} and give the folder"
    return ""


def _is_link(entry: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(entry.external_attr >> 16)


def _read_member(zipped: _Zip, entry: zipfile.ZipInfo) -> bytes:
    try:
        return _content(zipped.open(), entry)
    except BROKEN as error:
        raise UserError(f"{zipped.name}: {entry.filename} cannot be read ({error}); get the zip again") from None


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The content of a member, never more than it claims to have. Raises one of BROKEN."""
    if entry.compress_type != DEFLATE64:
        return archive.read(entry)
    import inflate64

    # Read the compressed bytes as if they were stored.
    raw = copy.copy(entry)
    raw.compress_type, raw.file_size, raw.CRC = zipfile.ZIP_STORED, entry.compress_size, None  # type: ignore[assignment]
    inflater, data = inflate64.Inflater(), bytearray()
    with archive.open(raw) as stream:
        while len(data) <= entry.file_size and (block := stream.read(1 << 16)):
            data += inflater.inflate(block)
    if len(data) != entry.file_size or zlib.crc32(data) != entry.CRC:
        raise zipfile.BadZipFile("bad CRC-32")
    return bytes(data)


# ── archives that cannot be read ─────────────────────────────────────────────────────────────────────────────────────


def _not_a_zip(path: Path) -> str:
    """What a file that should be a zip is instead, and what to do; "" if it may be a zip."""
    with path.open("rb") as stream:
        head = stream.read(512)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - 65_557))
        tail = stream.read()
    if not head:
        return "it is empty"
    if instead := stand_in(head, "the zip"):
        return f"it is {instead}"
    for magic, kind in (
        (b"Rar!", "rar"),
        (b"7z\xbc\xaf", "7z"),
        (b"\x1f\x8b", "gz"),
        (b"\xfd7zXZ", "xz"),
        (b"BZh", "bz2"),
    ):
        if head.startswith(magic):
            return f"it is a {kind} archive: unpack it"
    if head[257:262] == b"ustar":
        return "it is a tar archive: unpack it"
    end = tail.rfind(b"PK\5\6")
    if end >= 0 and tail[end + 4 : end + 6] not in (b"\0\0", b"\xff\xff"):
        return f"it is the last of several parts: join them with zip -s 0 {path.name} --out joined.zip"
    return ""


def _other_archive(place: str) -> str:
    if re.fullmatch(r".+\.[0-9]{3}", place, re.S):
        return f"{place} is a part of a split archive; join the parts (cat all.zip.0* > all.zip), or unpack them with 7-Zip"
    return f"{place} is an archive that is not read, only zips and zips in zips are; unpack it and put its files here"


def _names_in(path: Path) -> list[str]:
    """The names of files in a damaged zip, as far as they can be found, with `/` between folders."""
    names: list[str] = []
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for signature, length_at, name_at in ((b"PK\3\4", 26, 30), (b"PK\1\2", 28, 46)):
                found = data.find(signature)
                while found >= 0:
                    length = int.from_bytes(data[found + length_at : found + length_at + 2], "little")
                    name = data[found + name_at : found + name_at + length].decode(errors="replace")
                    names.append(name.replace("\\", "/"))
                    found = data.find(signature, found + 4)
    except (OSError, ValueError):  # an empty file cannot be mapped
        pass
    return names
