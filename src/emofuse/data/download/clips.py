"""The download stage: the clips of a shard, computed, copied from a local source, or downloaded."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from emofuse import datasets, paths
from emofuse.data.download import http, selection, sources, zenodo
from emofuse.data.download.selection import Selection, select
from emofuse.data.download.sources import Contents, File
from emofuse.datasets import shards
from emofuse.datasets.base import TABLES, Actor, Dataset, Published, sorted_actors
from emofuse.datasets.urls import RemoteFile, addresses
from emofuse.provenance.job import job
from emofuse.provenance.records import Record
from emofuse.utils.console import printable
from emofuse.utils.errors import UserError
from emofuse.utils.progress import Progress
from emofuse.utils.stand_ins import stand_in
from emofuse.utils.text import ranges

if TYPE_CHECKING:
    from emofuse.config import Corpus, Params

log = logging.getLogger(__name__)

FLAC_MD5 = slice(26, 42)  # the bytes of a FLAC file with the MD5 of its samples


def stage(params: Params, corpus: str, shard: int, root: Path = Path()) -> None:
    """`emofuse download`: get the clips of one shard from the corpus's source to data/<corpus>/raw/."""
    section, target = params.corpus(corpus), paths.raw(corpus, shard)
    shards.check(shard, corpus, section.shards)
    digest = at_source(params, corpus, shard, root)
    key = {"corpus": corpus, "shard": shard}
    with job("download", params, key, paths.raw_record(corpus, shard), section.tables, [target], root) as running:
        download(corpus, section, shard, source(corpus, section), root)
        with zipfile.ZipFile(root / target) as archive:
            content = _digest((member, archive.read(member)) for member in sorted(archive.namelist()))
        running.details["source"] = {
            "digest": digest,
            "content": content,
            "listing": _listing(_local_files(corpus, section, shard, root)),
        }


def source(name: str, corpus: Corpus) -> str | None:
    """Where to get a corpus's clips: EMOFUSE_<NAME>_SOURCE, else params.yaml; None for where they are published.

    It is in no job's settings, because it does not change what the clips are.
    """
    return os.environ.get(_setting(name)) or corpus.source


def at_source(params: Params, corpus: str, shard: int, root: Path = Path()) -> str:
    """A digest of the content of a shard's clips at a local source: if it changes, the shard is downloaded again.

    A source on the web or one that is not mounted counts as unchanged, and so does one whose clips are equal to those
    of the shard. Files whose sizes and times are those of the last download are not read again.
    """
    record = Record.read(root, paths.raw_record(corpus, shard))
    before = record.details.get("source", {}) if record else {}
    unchanged: str = before.get("digest", "")
    try:
        section = params.corpus(corpus)
        files = _local_files(corpus, section, shard, root)
        listing = _listing(files)
        if not listing or listing == before.get("listing"):
            return unchanged
        digest = _digest((member, files[member].read()) for member in sorted(files))
    except (UserError, OSError):
        return unchanged  # the download reports what is wrong, if it has to run
    return unchanged if digest == before.get("content") else digest


def _listing(files: Mapping[str, File]) -> dict[str, list[int]]:
    """Member of a shard → size and time of the file that holds it."""
    stats = {member: (file.archive or Path(file.place)).stat() for member, file in sorted(files.items())}
    return {member: [found.st_size, found.st_mtime_ns] for member, found in stats.items()}


def _local_files(name: str, corpus: Corpus, shard: int, root: Path) -> dict[str, File]:
    """Member of a shard → its file at a local source; {} for another source."""
    place = source(name, corpus)
    if corpus.demo is not None or not place or _is_address(place) or not Path(place).expanduser().exists():
        return {}
    dataset = datasets.of(corpus, root)
    actors = shards.actors_of(_actors(name, corpus, dataset), shard, len(corpus.shards))
    contents = sources.scan(Path(place).expanduser(), f"corpora.{name}.source")
    selected = select(contents, corpus, dataset, actors, first=shard == 0, compare=False)
    return selected.members | _tables(name, corpus, dataset, contents.files, actors)


def _digest(members: Iterable[tuple[str, bytes]]) -> str:
    lines = (f"{member} {hashlib.sha256(data).hexdigest()}\n" for member, data in members)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def download(name: str, corpus: Corpus, shard: int, source: str | None, root: Path | str = ".") -> None:
    """Write data/<corpus>/raw/shard-<shard>.zip: the clips of one run of the corpus's actors.

    `source` is a local folder (searched recursively, including the zips in it), a local zip, or an http address: of a
    zip, or of the folder of the corpus's files. Without one the clips come from where they are published. Actors are
    assigned to shards whether they are present or not, so a shard can be empty. Downloads stay in
    data/<corpus>/archives/. Files of the corpus's type with wrong names are included, so that the index can report
    them; derived copies and files of other types, modalities and corpora are counted and logged.

    Raises `UserError` for a source that does not exist, cannot be downloaded, or has no clip of the corpus or of an
    actor whom params.yaml names; for two different files of one clip; for a folder, clip or archive with clips that
    cannot be read or trusted; and for a full disk.
    """
    root = Path(root)
    target = root / paths.raw(name, shard)
    dataset = datasets.of(corpus, root)
    generated = dataset.generate(corpus, shard)
    if generated is not None:
        progress = Progress(generated, f"generating {name}, shard {shard}")
        shards.write(target, ((member, encode()) for member, encode in progress))
        return
    everyone = _actors(name, corpus, dataset)
    actors = shards.actors_of(everyone, shard, len(corpus.shards))
    contents, published, expected = _files(name, corpus, dataset, everyone, actors, source, root)
    selected = select(contents, corpus, dataset, actors, first=shard == 0)
    selection.check_unread(contents.unread, selected, corpus, dataset, expected)
    absent = sorted_actors(set(expected) - selected.present)
    place = source or addresses()[corpus.kind].addresses[0]
    lost = {file: where for file, where in dataset.listed(actors).items() if file not in selected.clips}
    if expected and len(absent) == len(expected):
        found = {**({"with wrong names": selected.misnamed} if selected.misnamed else {}), **selected.ignored}
        why = [*_skipped(contents, selected), *selection.described(found)] or ["it is empty"]
        raise UserError(
            f"{place}: it contains no clip of {name} ({'; '.join(why)});"
            f" see corpora.{name} in params.yaml and {_setting(name)}"
        )
    if absent and corpus.actors != "all":
        raise UserError(
            f"corpora.{name}.actors: no clip of {ranges(absent)} in {place}; add the clips or remove the actors"
        )
    if lost:
        file, where = next(iter(lost.items()))
        others = f" (and {len(lost) - 1:,} more files)" if len(lost) > 1 else ""
        raise UserError(f"{where}: {file} is not in {place}{others}; add the clip, or remove the line")
    whole = dataset.published(corpus) if expected == everyone == dataset.actors else None
    _report(f"{name}, shard {shard}", contents, selected, actors, sorted_actors(set(absent) & set(actors)), whole)
    members = selected.members | _tables(name, corpus, dataset, contents.files, actors)
    what = f"download of {name}, shard {shard}"
    shards.write(target, _contents(members, published, dataset.flac_md5(), what))


def _skipped(contents: Contents, selected: Selection) -> list[str]:
    """What could not be read and is not needed, as far as known."""
    reasons = [archive.reason for archive in contents.unread] + [file.fault for file in selected.faulty]
    return reasons[:3] + ([f"{len(reasons) - 3:,} more files"] if len(reasons) > 3 else [])


def _report(
    what: str,
    contents: Contents,
    selected: Selection,
    actors: Sequence[Actor],
    absent: Sequence[Actor],
    whole: Published | None,
) -> None:
    """Log what is in a source: what is used, what is not and why, and which of the shard's actors are absent."""
    for reason in _skipped(contents, selected):
        log.warning("%s: skipped: %s", what, printable(reason))
    for reason, ignored in selected.ignored.items():
        level = logging.INFO if reason in selection.EXPECTED else logging.WARNING
        log.log(level, "%s: ignored: %s", what, *selection.described({reason: ignored}))
    mine = [actor for actor in selected.clips.values() if actor in actors]
    log.info(
        "%s: %s clips of %d actors, out of %s clips of %d actors in the source%s",
        *(what, f"{len(mine):,}", len(set(mine)), f"{len(selected.clips):,}", len(selected.present)),
        f"; {whole.clips:,} clips of {len(whole.actors)} actors are published" if whole else "",
    )
    if absent:
        unknown = [archive.path for archive in contents.unread if not archive.names]
        maybe = f"; they may be in what was skipped: {printable(', '.join(unknown))}" if unknown else ""
        log.warning("%s: no clip of actors %s%s", what, ranges(absent), maybe)


def _files(
    name: str,
    corpus: Corpus,
    dataset: Dataset,
    everyone: Sequence[Actor],
    actors: Sequence[Actor],
    source: str | None,
    root: Path,
) -> tuple[Contents, list[RemoteFile], Sequence[Actor]]:
    """The contents of a source, downloaded if necessary; the corresponding published files; the actors to expect there.

    `actors` are those of the shard, out of `everyone`.
    """
    setting, archives = _setting(name), root / "data" / name / "archives"
    if corpus.table and not source:
        raise UserError(
            f"corpora.{name}.source: missing; give the folder, zip or address of the clips, or set {setting}"
        )
    published_at = () if corpus.table else addresses()[corpus.kind].addresses
    if source and not _is_address(source):
        contents = sources.scan(Path(source).expanduser(), f"corpora.{name}.source (or {setting})")
        published = dataset.remote(published_at, actors, corpus)
        _report_other_editions(contents.files, published, archives, setting)
        return contents, published, everyone
    if source and (path := PurePosixPath(urlsplit(source).path)).suffix == ".zip":
        file = replace(addresses().get(path.name) or RemoteFile(path.name, ()), addresses=(source,))
        return _fetched([file], archives, setting), [file], everyone
    bases = (source.rstrip("/"),) if source else published_at
    own = {file.path for file in dataset.remote(bases, actors, corpus)}
    corpus_files = zenodo.with_checksums(dataset.remote(bases, everyone, corpus), archives, setting) if own else []
    # For all shards, so that a full disk is not discovered after hours: everything is stored as downloaded and in shards.
    absent = (file for file in corpus_files if not (archives / file.path).exists())
    http.check_space(archives, 2 * sum(file.size or 0 for file in absent))
    published = [file for file in corpus_files if file.path in own]
    return _fetched(published, archives, setting), published, actors if published else ()


def _setting(name: str) -> str:
    return f"EMOFUSE_{name.upper()}_SOURCE"


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _fetched(published: Sequence[RemoteFile], archives: Path, setting: str) -> Contents:
    """Download files to the folder of archives, and list them and the contents of zips."""
    contents = Contents()
    for file, path in zip(published, http.fetch(published, archives, setting), strict=True):
        sources.add_download(path, file.path, contents)
    return contents


def _report_other_editions(
    files: Sequence[File], published: Sequence[RemoteFile], archives: Path, setting: str
) -> None:
    """Warn if zips of a local copy differ from the published ones of the same name; they are used as they are."""
    zips = {file.archive.name: file.archive for file in files if file.archive is not None}
    named = [file for file in published if file.path in zips]
    for file in zenodo.with_checksums(named, archives, setting):
        try:
            http.verify_file(zips[file.path], file)
        except http.WrongContent as error:
            log.warning("%s is not the archive that the corpus publishes: %s", zips[file.path], error)


def _actors(name: str, corpus: Corpus, dataset: Dataset) -> tuple[Actor, ...]:
    """The actors that params.yaml asks for."""
    everyone = dataset.actors
    if corpus.actors == "all":
        return everyone
    if unknown := sorted_actors(set(corpus.actors) - set(everyone)):
        raise UserError(
            f"corpora.{name}.actors: there is no actor {unknown[0]}; there are {everyone[0]} to {everyone[-1]}"
        )
    return sorted_actors(corpus.actors)


def _tables(
    name: str, corpus: Corpus, dataset: Dataset, files: Sequence[File], actors: Sequence[Actor]
) -> dict[str, File]:
    """The corpus's tables, by member of the shard, restricted to some actors."""
    tables = {}
    for member, part in dataset.tables(corpus).items() if actors else ():
        wanted = PurePosixPath(member)
        named = [file for file in files if wanted.stem.casefold() in PurePosixPath(file.path).stem.casefold()]
        same = [file for file in named if PurePosixPath(file.path).name.casefold() == wanted.name.casefold()]
        found = same or [file for file in named if PurePosixPath(file.path).suffix.lower() == wanted.suffix]
        if not found:
            instead = f", as {wanted.suffix} instead of {named[0].place}" if named else ""
            raise UserError(
                f"corpora.{name}: its labels are in the corpus's table {member}; add it to the source{instead}"
            )
        tables[member] = replace(found[0], read=partial(_rows, found, member, part, actors))
    return tables


def _rows(
    files: Sequence[File], member: str, part: Callable[[bytes, Sequence[Actor]], bytes], actors: Sequence[Actor]
) -> bytes:
    """The rows of some actors. `files` are copies of the table."""
    tables = {}
    for file in files:
        data = file.read()
        try:
            if instead := stand_in(data, "the table"):
                raise ValueError(f"it is {instead}")
            tables[part(data, actors)] = file.place
        except ValueError as error:
            raise UserError(f"{file.place} is not the corpus's table {member} ({error}); get it again") from None
    if len(tables) > 1:
        raise UserError(f"{member}: two files differ, {' and '.join(sorted(tables.values())[:2])}; remove one of them")
    return next(iter(tables))


def _contents(
    members: dict[str, File], published: Sequence[RemoteFile], flac_md5: Mapping[str, str], what: str
) -> Iterator[tuple[str, bytes]]:
    """The shard's members in order. A local copy may be another edition, so files that differ are only counted.

    Raises `UserError` if all clips are stand-ins for files that were not fetched; the index reports single ones.
    """
    expected = {file.path: file for file in published}
    clips = [member for member in members if PurePosixPath(member).suffix not in TABLES]
    others = 0
    unfetched: list[str] = []
    for member in Progress(sorted(members), what):
        data = members[member].read()
        if instead := stand_in(data, "the clip"):
            unfetched.append(f"{members[member].place} is {instead}")
        elif member in expected and member in clips:
            try:
                http.verify(io.BytesIO(data), expected[member])
            except http.WrongContent:
                others += 1
        elif member in flac_md5:
            others += data[FLAC_MD5].hex() != flac_md5[member]
        yield member, data
    if clips and len(unfetched) == len(clips):
        raise UserError(f"{unfetched[0]} (and so are {len(clips) - 1} more)")
    if unfetched:
        log.warning("%s: %d of %d clips were not fetched: %s", what, len(unfetched), len(clips), unfetched[0])
    if others:
        log.warning("%s: %d of %d files differ from the published ones", what, others, len(members))
