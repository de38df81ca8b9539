"""Local copies of a corpus: the files in a folder, in the zips in it and in zips inside those, or in a zip.

Nothing is lost silently: whatever cannot be read is an error, or is listed with the reason, so that `selection` can tell
whether anything in it is needed.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from emofuse.data.download import archives
from emofuse.utils.errors import UserError

# What file managers, archivers and file servers add.
_SYSTEM = ("__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "#recycle", "#snapshot")
# Files that stand for another, which is not there: its name → what to do.
_ABSENT = (
    (re.compile(r"\.(.+)\.icloud", re.S), "is in iCloud only; download it"),
    (re.compile(r"(.+)\.dvc", re.S), "is known to DVC but not here; run dvc pull"),
    (
        re.compile(r"(.+?)(?: - Shortcut)?\.lnk", re.S | re.I),
        "is only a shortcut of Windows here; copy what it leads to",
    ),
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
    elif archives.is_other(source.name):
        contents.unread.append(Unread(source.name, archives.refusal(str(source)), ()))
    elif not (source.is_file() and (archives.is_zip(source.name) or zipfile.is_zipfile(source))):
        raise UserError(f"{key}: {source} is neither a folder nor a zip; give a folder, a zip or an address")
    else:
        _scan_zip(archives.Zip(source), "", contents)
    return contents


def add_download(path: Path, name: str, contents: Contents) -> None:
    """Add the files in a downloaded zip, or a downloaded file that is not a zip; `name` is that of the published file."""
    if path.suffix == ".zip":
        _scan_zip(archives.Zip(path), f"{path.stem}/", contents)
    else:
        contents.files.append(File(name, str(path), partial(_read, str(path))))


def _scan_folders(source: Path, contents: Contents) -> None:
    """List the files below a folder."""
    start = len(os.path.join(source, ""))  # noqa: PTH118 (a Path has no separator at its end)
    for entry, names in walk(source, contents.loops):
        path = _escaped(_divided(entry.path[start:]))
        if absent := _absent(entry.name, names):
            name, what = absent
            path = str(PurePosixPath(path).with_name(_escaped(name)))
            fault = f"{Path(entry.path).with_name(name)} {what}, or remove {entry.name}"
            if _has_file_type(name) and not archives.is_zip(name) and not archives.is_other(name):
                contents.files.append(_faulty(path, entry.path, fault))
            else:
                contents.unread.append(Unread(path, fault, ()))
        elif any(map(_is_hidden, path.split("/"))):
            contents.hidden.append(path)
        else:
            _add(entry, path, _fault_of(entry), contents)


def walk(source: Path, loops: list[str]) -> Iterator[tuple[os.DirEntry[str], Collection[str]]]:
    """Everything below a folder but the folders that are read, with the names in its folder, in order.

    Links to folders are followed, after everything else, so that they do not hide a folder's own path. Those to folders
    that are read anyway, and to folders above, are added to `loops`. Hidden folders are not read. Raises `UserError` for
    a folder that may not be read.
    """
    root = os.path.realpath(source)
    seen = {root}
    folders, links = [(str(source), root)], list[str]()
    while folders or links:
        if folders:
            folder, real = folders.pop()
        else:
            folder = links.pop(0)
            real = os.path.realpath(folder)
            if real in seen or f"{root}/".startswith(f"{real.rstrip('/')}/"):
                loops.append(os.path.relpath(folder, source))
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
            if _is_hidden(entry.name) or not _is_folder(entry):
                yield entry, names
            elif entry.is_symlink():
                links.append(entry.path)
            elif (own := f"{real.rstrip('/')}/{entry.name}") not in seen:
                seen.add(own)
                folders.append((entry.path, own))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to a place that may not be read
        return False


def _add(entry: os.DirEntry[str], path: str, fault: str, contents: Contents) -> None:
    """Add one file of a folder, and what is in it if it is a zip; `path` is relative to the source."""
    is_zip = archives.is_zip(entry.name)
    if is_zip and not fault:
        _scan_zip(archives.Zip(Path(entry.path)), f"{PurePosixPath(path).with_suffix('')}/", contents)
    elif is_zip or archives.is_other(entry.name):
        contents.unread.append(Unread(path, fault or archives.refusal(entry.path), ()))
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
        if (found := pattern.fullmatch(name)) and found[1] not in others and not archives.is_zip(name):
            return found[1], what
    return None


def _has_file_type(name: str) -> bool:
    """Whether a name ends as names of files do, not those of folders."""
    return bool(re.fullmatch(r"\.[A-Za-z0-9]{2,4}", PurePosixPath(name).suffix))


def _divided(path: str) -> str:
    """A path with the folders in it that a zip of PowerShell, unpacked on Linux, leaves in the names of files."""
    if "\\" not in path:
        return path
    return "/".join(part for part in re.split(r"[/\\]", path) if part not in ("", ".", ".."))


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


def _scan_zip(zipped: archives.Zip, prefix: str, contents: Contents) -> None:
    """List the files in a zip, and in zips in it; `prefix` starts their paths."""
    try:
        if not zipped.within and (reason := archives.not_a_zip(zipped.file)):
            raise zipfile.BadZipFile(reason)
        entries = zipped.open().infolist()
    except PermissionError as error:
        raise UserError(f"{zipped.name} cannot be read: {error.strerror}") from None
    except archives.BROKEN as error:
        reason = f"{zipped.name} is not a readable zip file ({error}); delete it or get it again"
        names = () if zipped.within else tuple(prefix + name for name in archives.names_in(zipped.file))
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
        place, fault = f"{zipped.name}:{entry.filename}", archives.fault_of(zipped, entry, parts)
        is_zip, may_be_folder = archives.is_zip(parts[-1]), archives.is_link(entry) and not _has_file_type(name)
        if is_zip and not fault and len(zipped.within) < archives.DEEPEST:
            _scan_zip(zipped.inner(entry), f"{prefix}{PurePosixPath(name).with_suffix('')}/", contents)
        elif is_zip or may_be_folder or archives.is_other(parts[-1]):
            contents.unread.append(Unread(f"{prefix}{name}", fault or archives.refusal(place), ()))
        elif fault:
            contents.files.append(_faulty(f"{prefix}{name}", place, fault, zipped.file))
        else:
            contents.files.append(File(f"{prefix}{name}", place, partial(archives.read, zipped, entry), zipped.file))
