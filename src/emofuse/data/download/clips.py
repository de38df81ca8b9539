"""Clips from where they are to data/<corpus>/raw/shard-<k>.zip: made, copied from a local folder or zip, or fetched."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import lzma
import os
import re
import stat
import time
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from emofuse import datasets as corpora
from emofuse import paths
from emofuse.data.download import http as remote
from emofuse.datasets import base, shards
from emofuse.datasets.addresses import Remote, registry
from emofuse.provenance.job import job
from emofuse.provenance.records import Record
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_json
from emofuse.utils.progress import Progress

if TYPE_CHECKING:
    from emofuse.config import Corpus, Params

log = logging.getLogger(__name__)

LARGEST = 2**30  # bytes of a member of a zip: many times the largest clip, and no more than memory holds
# What zipfile raises for damage, by the part of a zip that it is in.
BROKEN = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error, lzma.LZMAError)
_ZENODO = re.compile(r"(https?://[^/]+)/records?/([0-9]+)/files/")


@dataclass(frozen=True)
class File:
    """A file of a source: `path` within it, `place` as people know it, `read` for its bytes, the zip that it is in."""

    path: str
    place: str
    read: Callable[[], bytes]
    archive: Path | None = None


def stage(params: Params, corpus: str, shard: int, root: Path = Path()) -> None:
    """`emofuse download`: fetch the clips of one shard to data/<corpus>/raw/, from where the corpus's source says."""
    section, target = params.corpus(corpus), paths.raw(corpus, shard)
    shards.check(shard, corpus, section.shards)
    digest = at_source(params, corpus, shard, root)
    key = {"corpus": corpus, "shard": shard}
    with job("download", params, key, paths.raw_record(corpus, shard), [], [target], root) as made:
        run(corpus, section, shard, source(corpus, section), root)
        with zipfile.ZipFile(root / target) as written:
            content = _digest((member, written.read(member)) for member in sorted(written.namelist()))
        made.details["source"] = {"digest": digest, "content": content, "listing": _listing(corpus, section, shard)}


def at_source(params: Params, corpus: str, shard: int, root: Path = Path()) -> str:
    """A digest of a shard's clips at their source, by content: the shard is downloaded again when it changes.

    A source that is not attached, or is on the web, counts as unchanged, as does a local copy of the clips that are
    here. Files whose size and time are as they were at the download are not read again.
    """
    record = Record.read(root, paths.raw_record(corpus, shard))
    before = record.details.get("source", {}) if record else {}
    unchanged: str = before.get("digest", "")
    try:
        section = params.corpus(corpus)
        listing = _listing(corpus, section, shard)
        if not listing or listing == before.get("listing"):
            return unchanged
        chosen = _at_hand(corpus, section, shard)
        digest = _digest((member, chosen[member].read()) for member in sorted(chosen))
    except (UserError, OSError):
        return unchanged  # the download will say what is wrong, if it has to run
    return unchanged if digest == before.get("content") else digest


def _listing(name: str, corpus: Corpus, shard: int) -> dict[str, list[int]]:
    """Size and time of each file that a shard is made of, by its name in the shard; {} if the source is not a local one."""
    files = {
        member: (file.archive or Path(file.place)).stat() for member, file in _at_hand(name, corpus, shard).items()
    }
    return {member: [found.st_size, found.st_mtime_ns] for member, found in sorted(files.items())}


def _at_hand(name: str, corpus: Corpus, shard: int) -> dict[str, File]:
    """The files of a shard in a local source by their name in the shard; {} if the source is not a local one."""
    place = source(name, corpus)
    if corpus.demo is not None or not place or _is_address(place) or not Path(place).expanduser().exists():
        return {}
    reader = corpora.reader(corpus.kind)
    actors = shards.actors_of(_actors(name, corpus, reader), shard, len(corpus.shards))
    files = list(_local(Path(place).expanduser(), f"corpora.{name}.source"))
    chosen, _ = _choose(files, corpus, reader, actors, first=shard == 0, compare=False)
    if corpus.kind == "cremad" and corpus.labels == "perceived" and actors:
        chosen[reader.VOTES] = _votes(files, reader, actors, f"corpora.{name}.labels")
    return chosen


def _digest(members: Iterable[tuple[str, bytes]]) -> str:
    lines = (f"{member} {hashlib.sha256(data).hexdigest()}\n" for member, data in members)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def source(name: str, corpus: Corpus) -> str | None:
    """Where a corpus's clips come from: EMOFUSE_<NAME>_SOURCE, else params.yaml; None for where they are published.

    It is part of no settings, because it does not change what the clips are.
    """
    return os.environ.get(f"EMOFUSE_{name.upper()}_SOURCE") or corpus.source


def run(name: str, corpus: Corpus, shard: int, source: str | None, root: Path | str = ".") -> None:
    """Write data/<corpus>/raw/shard-<shard>.zip, the clips of one run of the corpus's actors.

    `source` is a local folder (searched through, zips in it as well), a local zip, or an http address: of one
    zip, or the base of the corpus's files; without one they come from where they are published. The corpus's
    actors are dealt to shards whoever of them is there, so a shard can be empty. What is fetched stays in
    data/<corpus>/archives/. A file of the corpus's kind with a wrong name goes along, for the index to say so;
    one of another modality does not.

    Raises `UserError` for a source that is not there, cannot be fetched, holds no clip of the corpus or not
    one of an actor that `actors` names, for two files of one clip, for an unsafe or damaged zip, and for a disk
    without room.
    """
    root = Path(root)
    target = root / "data" / name / "raw" / f"shard-{shard}.zip"
    reader = corpora.reader(corpus.kind)
    if corpus.demo is not None:
        base.write_shard(target, reader.make_shard(corpus.demo, shard, len(corpus.shards), _Told(name, shard)))
        return
    setting = f"EMOFUSE_{name.upper()}_SOURCE"
    everyone = _actors(name, corpus, reader)
    actors = shards.actors_of(everyone, shard, len(corpus.shards))
    archives = root / "data" / name / "archives"
    bases = registry()[corpus.kind].addresses
    searched: Sequence[int] = everyone
    if source and not _is_address(source):
        files = list(_local(Path(source).expanduser(), f"corpora.{name}.source (or {setting})"))
        served = reader.remote(bases, actors, corpus)
        _say_other_editions(files, served, archives, setting)
    elif source and (path := PurePosixPath(urlsplit(source).path)).suffix == ".zip":
        served = [replace(registry().get(path.name) or Remote(path.name, ()), addresses=(source,))]
        files = _fetched(served, archives, setting)
    else:
        bases = (source.rstrip("/"),) if source else bases
        own = {file.path for file in reader.remote(bases, actors, corpus)}
        whole = _checked(reader.remote(bases, everyone, corpus), archives, setting) if own else []
        # Of every shard, not to find out after hours: once as they are fetched, once more in the shards.
        remote.check_room(archives, 2 * sum(f.size or 0 for f in whole if not (archives / f.path).exists()))
        served = [file for file in whole if file.path in own]
        files = _fetched(served, archives, setting)
        searched = actors if served else ()  # the others' clips are in other files
    chosen, present = _choose(files, corpus, reader, actors, first=shard == 0)
    absent = sorted(set(searched) - present)
    place = source or bases[0]
    if searched and len(absent) == len(searched):
        raise UserError(f"{place}: no clip of {name} is there; see corpora.{name} in params.yaml and {setting}")
    if absent and corpus.actors != "all":
        raise UserError(
            f"corpora.{name}.actors: no clip of {_list(absent)} in {place}; add them or leave the actors out"
        )
    if missing := sorted(set(absent) & set(actors)):
        log.warning("%s, shard %d: no clip of actors %s is there", name, shard, _list(missing))
    if corpus.kind == "cremad" and corpus.labels == "perceived" and actors:
        chosen[reader.VOTES] = _votes(files, reader, actors, f"corpora.{name}.labels")
    base.write_shard(target, _members(chosen, served, f"{name}, shard {shard}"))


def _actors(name: str, corpus: Corpus, reader: ModuleType) -> tuple[int, ...]:
    everyone: tuple[int, ...] = reader.ACTORS
    if corpus.actors == "all":
        return everyone
    if unknown := sorted(set(corpus.actors) - set(everyone)):
        raise UserError(
            f"corpora.{name}.actors: there is no actor {unknown[0]}; there are {everyone[0]} to {everyone[-1]}"
        )
    return tuple(sorted(corpus.actors))


def _list(actors: Sequence[int]) -> str:
    return ", ".join(map(str, actors))


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _choose(
    files: Sequence[File], corpus: Corpus, reader: ModuleType, actors: Sequence[int], first: bool, compare: bool = True
) -> tuple[dict[str, File], set[int]]:
    """The files of some actors by their name in the shard, and every actor of whom a clip is there.

    A wrong name that hints at no actor goes to the first shard. The same bytes twice are one clip; `compare` makes sure
    that they are the same.
    """
    copies: dict[str, list[tuple[str, File]]] = defaultdict(list)
    present: set[int] = set()
    for file in sorted(files, key=lambda file: file.path):
        place: base.Place | None = reader.member(file.path, corpus)
        if place is None:
            continue
        if place.is_clip and place.actor is not None:
            present.add(place.actor)
        if place.actor in actors or (place.actor is None and first):
            # A clip is the same with another ending; of a wrong name that is not known.
            key = str(PurePosixPath(place.name).with_suffix("")) if place.is_clip else place.name
            copies[key].append((place.name, file))
    for clip, (kept, *others) in copies.items():
        if others and compare:
            data = kept[1].read()
            for _, other in others:
                if other.read() != data:
                    raise UserError(f"{clip}: two files differ, {kept[1].place} and {other.place}; remove one of them")
            log.info("%s: the same bytes %d times; one is taken", clip, 1 + len(others))
    return dict(kept for kept, *_ in copies.values()), present


def _votes(files: Sequence[File], reader: ModuleType, actors: Sequence[int], key: str) -> File:
    """The crowd's votes on the clips of some actors."""
    name = PurePosixPath(reader.VOTES).name
    table = next((file for file in files if PurePosixPath(file.path).name == name), None)
    if table is None:
        raise UserError(f"{key}: perceived needs the corpus's table {reader.VOTES}; add it to the source")

    def read() -> bytes:
        try:
            votes: bytes = reader.votes_of(table.read(), actors)
            reader.majorities(votes)  # which the index stage reads from them
        except (ValueError, LookupError, TypeError, csv.Error, StopIteration):
            raise UserError(f"{table.place} is not the corpus's table of votes; get it again") from None
        return votes

    return replace(table, read=read)


def _members(chosen: dict[str, File], served: Sequence[Remote], what: str) -> Iterator[tuple[str, bytes]]:
    """The shard's members in order; those that are not the published files are counted, not refused: a local copy may
    be an older edition, or converted."""
    published = {file.path: file for file in served}
    others = 0
    for member in Progress(sorted(chosen), f"download of {what}"):
        data = chosen[member].read()
        if member in published and not member.endswith(".csv"):
            try:
                remote.check(io.BytesIO(data), published[member])
            except remote.WrongBytes:
                others += 1
        yield member, data
    if others:
        log.warning("%s: %d of %d files are not those that the corpus publishes", what, others, len(chosen))


def _local(source: Path, key: str) -> Iterator[File]:
    """Every file of a folder and of the zips in it, or of a zip."""
    if not source.exists():
        raise UserError(f"{key}: there is no {source}; name a folder, a zip or an address")
    if not source.is_dir():
        yield from _zip(source)
        return
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in names:
            path = Path(folder, name)
            # A name that is not UTF-8 cannot be written to a zip.
            within = PurePosixPath(path.relative_to(source).as_posix().encode(errors="replace").decode())
            if _is_hidden(name):
                continue
            if path.suffix.lower() == ".zip":
                for file in _zip(path):
                    yield replace(file, path=f"{within.with_suffix('')}/{file.path}")
            else:
                yield File(str(within), str(path), partial(_read, path))


def _is_hidden(name: str) -> bool:
    """Names that file managers and archivers leave beside the real ones."""
    return name.startswith(".") or name == "__MACOSX"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _zip(path: Path) -> Iterator[File]:
    """Every file of a zip. One that leaves the folder or is a link makes the whole zip suspect: `UserError`."""
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as error:
        raise UserError(f"{path} is not a zip file that can be read ({error}); delete it or get it again") from None
    for entry in archive.infolist():
        parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
        if ".." in parts or parts[:1] == ("/",) or ":" in "".join(parts[:1]):
            raise UserError(f"{path}: member {entry.filename!r} leaves the folder; do not trust this zip")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise UserError(f"{path}: member {entry.filename!r} is a link; do not trust this zip")
        if parts and not entry.is_dir() and not any(_is_hidden(part) for part in parts):
            yield File(entry.filename, f"{path}:{entry.filename}", partial(_read_member, archive, entry), path)


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    if entry.file_size > LARGEST:  # zipfile reads no more than that
        raise UserError(
            f"{archive.filename}: {entry.filename} is said to have {entry.file_size:,} bytes, which no clip has;"
            " do not trust this zip"
        )
    try:
        return archive.read(entry)
    except BROKEN as error:
        raise UserError(f"{archive.filename}: {entry.filename} cannot be read ({error}); get the zip again") from None


def _say_other_editions(files: Sequence[File], served: Sequence[Remote], archives: Path, setting: str) -> None:
    """Check the zips of a local copy that bear the names of published ones; a copy is used as it is."""
    zips = {file.archive.name: file.archive for file in files if file.archive is not None}
    for published in _checked([file for file in served if file.path in zips], archives, setting):
        try:
            remote.check_file(zips[published.path], published)
        except remote.WrongBytes as error:
            log.warning("%s is not the archive that the corpus publishes: %s", zips[published.path], error)


def _fetched(served: Sequence[Remote], archives: Path, setting: str) -> list[File]:
    """Fetch files to the folder of archives; the files in them, or they themselves where they are no zips."""
    files: list[File] = []
    for wanted, path in zip(served, remote.fetch(served, archives, setting), strict=True):
        if path.suffix == ".zip":
            files += (replace(file, path=f"{path.stem}/{file.path}") for file in _zip(path))
        else:
            files.append(File(wanted.path, str(path), partial(_read, path)))
    return files


def _checked(files: Sequence[Remote], archives: Path, setting: str) -> list[Remote]:
    """Files with their sizes and checksums: their own, or those of the Zenodo record which they are in."""
    unknown = [file for file in files if not file.checksum]
    record = _record(unknown[0].addresses[0], archives, setting) if unknown else {}
    if record and (absent := [file.path for file in unknown if file.path not in record]):
        log.warning("the record has no checksum of %s", ", ".join(absent))
    return [file if file.checksum else Remote(file.path, file.addresses, *record.get(file.path, ())) for file in files]


def _record(address: str, archives: Path, setting: str) -> dict[str, tuple[int, str]]:
    """The size and the checksum of every file of the Zenodo record that an address is in; none for other addresses.

    It is kept beside the archives: what was read at first use is what files are held to ever after. Where it cannot
    be had, the zips' own checksums still tell whether they are whole.
    """
    match = _ZENODO.match(address)
    if match is None:
        return {}
    host, number = match.groups()
    metadata = Remote(f"record-{number}.json", (f"{host}/api/records/{number}",))
    try:
        (path,) = remote.fetch([metadata], archives, setting)
        files = read_json(path)["files"]
        return {
            file["key"]: (int(file["size"]), file["checksum"])
            for file in files
            if file["checksum"].startswith(("md5:", "sha256:"))
        }
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        (archives / metadata.path).unlink(missing_ok=True)
        reason = error if isinstance(error, UserError) else f"{metadata.addresses[0]} lists no files"
        log.warning("no published checksums could be had: %s", reason)
        return {}


class _Told:
    """How far the making of clips is, in a line now and then."""

    def __init__(self, name: str, shard: int) -> None:
        self._what, self._told = f"download of {name}, shard {shard}", time.monotonic()

    def __call__(self, made: int, of: int) -> None:
        if made == of or time.monotonic() - self._told > 15:
            log.info("%s: %d of %d", self._what, made, of)
            self._told = time.monotonic()
