"""Zips, and zips in zips, which are read but never unpacked; and what other files are that should be zips."""

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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from emofuse.utils.errors import UserError
from emofuse.utils.stand_ins import stand_in

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
    r".+\.(7z|rar|r[0-9]{2}|tar|tar\.\w+|t[abgxz]z\d?|iso|dmg|cab|z[0-9]{2}|[0-9]{3}|gz|bz2|xz|zst|lz4|lzma)",
    re.I | re.S,
)


def is_zip(name: str) -> bool:
    """Whether a file is a zip by its name."""
    return bool(_ZIP.fullmatch(name))


def is_other(name: str) -> bool:
    """Whether a file is an archive of another kind, or a part of one, by its name."""
    return bool(_OTHER_ARCHIVE.fullmatch(name))


def is_link(entry: zipfile.ZipInfo) -> bool:
    """Whether a member of a zip is a link."""
    return stat.S_ISLNK(entry.external_attr >> 16)


@dataclass(frozen=True)
class Zip:
    """A zip: a file on disk, or a member of another zip. It is opened when needed and not kept open for long."""

    file: Path
    within: tuple[int, ...] = ()  # the positions of the members that lead to it, from the outermost zip inwards
    place: str = ""

    @property
    def name(self) -> str:
        """Its place, for messages."""
        return self.place or str(self.file)

    def open(self) -> zipfile.ZipFile:
        """The open zip. Raises one of BROKEN."""
        found = self.file.stat()
        return _opened(self.file, found.st_mtime_ns, found.st_size, self.within)

    def inner(self, entry: zipfile.ZipInfo) -> Zip:
        """A member that is a zip itself."""
        return Zip(self.file, (*self.within, entry.header_offset), f"{self.name}:{entry.filename}")


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


def fault_of(zipped: Zip, entry: zipfile.ZipInfo, parts: tuple[str, ...]) -> str:
    """Why a member of a zip must not or cannot be read; "" if it can."""
    if ".." in parts or parts[:1] == ("/",) or ":" in "".join(parts[:1]):
        return f"{zipped.name}: member {entry.filename!r} leads out of the folder; do not trust this zip"
    if is_link(entry):
        return f"{zipped.name}: member {entry.filename!r} is a link; do not trust this zip"
    unpack = "unpack the zip with another program and give the folder"
    if entry.flag_bits & 1:
        return f"{zipped.name}: {entry.filename} is encrypted; {unpack}"
    if entry.compress_type not in READABLE:
        return f"{zipped.name}: {entry.filename} is compressed by a rare method, {entry.compress_type}; {unpack}"
    if entry.file_size > LARGEST and not is_zip(parts[-1]):
        return (
            f"{zipped.name}: {entry.filename} claims to have {entry.file_size:,} bytes, which no clip has;"
            " do not trust this zip"
        )
    if entry.file_size > LARGEST and entry.compress_type != zipfile.ZIP_STORED:
        return f"{zipped.name}: {entry.filename} is a large zip in a zip; unpack {zipped.name} and give the folder"
    return ""


def read(zipped: Zip, entry: zipfile.ZipInfo) -> bytes:
    """The content of a member; `UserError` if it is damaged."""
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


def not_a_zip(path: Path) -> str:
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


def refusal(place: str) -> str:
    """What to do with an archive that is not read."""
    if re.fullmatch(r".+\.[0-9]{3}", place, re.S):
        return f"{place} is a part of a split archive; join the parts (cat all.zip.0* > all.zip), or unpack them with 7-Zip"
    return f"{place} is an archive that is not read, only zips and zips in zips are; unpack it and put its files here"


def names_in(path: Path) -> list[str]:
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
