"""Corpora that anybody can add: clips listed in corpora/<folder>/metadata.csv, one row per clip.

| column | content |
|---|---|
| file | path of the clip, relative to the source; its end is enough, if it is unambiguous |
| actor | a number or a name; folds are made of actors |
| emotion | one of the emotions in params.yaml |
| clip | a name of the clip, if it is not to be that of the file |
| sound | path of a separate file with its sound |
| gender, intensity, statement, repetition | for information |
| bytes, sha256 | of the published file, for downloads |
| samples_md5 | of the samples of a recording, as the header of a FLAC copy states it |

Other columns are ignored. Recordings listed as .wav may also be .flac files.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from emofuse.datasets.base import (
    OTHER_TYPE,
    Actor,
    Clip,
    Dataset,
    Entry,
    Member,
    NotAClip,
    Published,
    actor_named,
    sorted_actors,
)
from emofuse.datasets.urls import RemoteFile
from emofuse.utils.console import printable
from emofuse.utils.errors import UserError

if TYPE_CHECKING:
    from emofuse.config import Corpus, Table

REQUIRED = ("file", "actor", "emotion")
LONGEST = 200  # characters of a name
_MD5 = re.compile("[0-9a-f]{32}")
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Row:
    """A row of metadata.csv: the labels of a clip, its files, and what is known about them as published."""

    line: int
    clip: Clip
    file: str
    sound: str
    size: int | None
    checksum: str
    samples_md5: str

    @property
    def files(self) -> tuple[str, ...]:
        """The clip's files, one or two."""
        return (self.file,) if self.sound == self.file else (self.file, self.sound)


class TableCorpus(Dataset):
    """A corpus whose clips are listed in a table."""

    def __init__(self, table: Table, root: Path) -> None:
        """Raises `UserError` for a missing or invalid metadata.csv, naming the line."""
        self.emotions = tuple(table.emotions)
        self.people, self.licence, self.terms = table.people, table.licence, table.terms
        self.metadata = table.metadata
        path = root / table.metadata
        try:
            self.rows = _rows(path.read_bytes(), table.metadata, self.emotions)
        except FileNotFoundError:
            raise UserError(
                f"{table.metadata} is missing: write it with the columns {', '.join(REQUIRED)}, or run emofuse corpus"
            ) from None
        except OSError as error:
            raise UserError(f"{table.metadata} cannot be read: {error.strerror}") from None
        self.actors = sorted_actors({row.clip.actor for row in self.rows})

    @cached_property
    def _by_clip(self) -> Mapping[str, Row]:
        return {row.clip.clip: row for row in self.rows}

    @cached_property
    def _by_file(self) -> Mapping[str, Row]:
        return {file: row for row in self.rows for file in row.files}

    @cached_property
    def _types(self) -> tuple[str, ...]:
        listed = dict.fromkeys(PurePosixPath(file).suffix.lower() for file in self._by_file)
        return (*listed, ".flac") if ".wav" in listed and ".flac" not in listed else tuple(listed)

    def parse(self, stem: str) -> Clip:
        """The labels of a clip, by its name."""
        if stem not in self._by_clip:
            raise NotAClip(f"not in {self.metadata}")
        return self._by_clip[stem].clip

    def types(self, corpus: Corpus) -> tuple[str, ...]:
        """The extensions of the listed files."""
        return self._types

    def member(self, path: str, corpus: Corpus) -> Member | str:
        """A listed file. Folders above those in the table do not matter, and neither does the form of accents."""
        parts = PurePosixPath(unicodedata.normalize("NFC", path)).parts
        suffix = PurePosixPath(path).suffix
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            listed = end if end in self._by_file else _recorded(end)
            if listed in self._by_file:
                name = str(PurePosixPath(listed).with_suffix(suffix)) if listed != end else listed
                return Member(self._by_file[listed].clip.actor, name, is_clip=True, clip=listed)
        return f"not in {self.metadata}" if suffix.lower() in self._types else OTHER_TYPE

    def listed(self, actors: Sequence[Actor]) -> Mapping[str, str]:
        """The files that a source must have for some actors → where they are listed."""
        wanted = set(actors)
        return {
            file: f"{self.metadata}, line {row.line}"
            for row in self.rows
            if row.clip.actor in wanted
            for file in row.files
        }

    def flac_md5(self) -> Mapping[str, str]:
        """The name of a recording as .flac file → the MD5 of its samples, as far as they are known."""
        return {
            str(PurePosixPath(row.sound).with_suffix(".flac")): row.samples_md5 for row in self.rows if row.samples_md5
        }

    def remote(self, bases: Sequence[str], actors: Sequence[Actor], corpus: Corpus) -> list[RemoteFile]:
        """The listed files of some actors, one by one."""
        wanted = set(actors)
        return [
            RemoteFile(file, tuple(f"{base}/{quote(file)}" for base in bases), *known)
            for row in self.rows
            if row.clip.actor in wanted
            for file, known in zip(row.files, ((row.size, row.checksum), (None, "")), strict=False)
        ]

    def entries(self, names: Sequence[str], read: Callable[[str], bytes], corpus: Corpus) -> Iterator[Entry]:
        """The listed clips whose files are in a shard."""
        present = {_recorded(name) if name not in self._by_file else name: name for name in names}
        for row in self.rows:
            if all(file in present for file in row.files):
                yield Entry(present[row.file], present[row.sound], row.clip)

    def published(self, corpus: Corpus) -> Published:
        """All listed actors and clips."""
        return Published(self.actors, len(self.rows))


def _recorded(path: str) -> str:
    """The path of a recording that was re-encoded as .flac."""
    return f"{path[:-5]}.wav" if path.lower().endswith(".flac") else path


@lru_cache(maxsize=8)
def _rows(data: bytes, metadata: str, emotions: tuple[str, ...]) -> tuple[Row, ...]:
    """The content of metadata.csv. Raises `UserError` with the line of the first mistake."""
    rows, clips, files = list[Row](), dict[str, int](), dict[str, int]()
    for line, cells in _cells(data, metadata):
        where = f"{metadata}, line {line}"
        for column in REQUIRED:
            if not cells[column]:
                raise UserError(f"{where}: the cell of {column} is empty; fill it in")
        for column, text in cells.items():
            if not text.isprintable() or (len(text) > LONGEST and column not in ("file", "sound")):
                raise UserError(f"{where}: {column} {text[:50]!r} is too long or cannot be printed; correct it")
        row = _row(line, cells, where)
        if row.clip.emotion not in emotions:
            raise UserError(
                f"{where}: the emotion {row.clip.emotion!r} is not among those in params.yaml, {', '.join(emotions)};"
                " correct it, or add it there"
            )
        for what, name, known in (("clip", row.clip.clip, clips), *(("file", file, files) for file in row.files)):
            if name in known:
                raise UserError(f"{where}: the {what} {name} is on line {known[name]} already; keep one of the lines")
            known[name] = line
        rows.append(row)
    _check_counts(rows, metadata, emotions)
    return tuple(rows)


def _row(line: int, cells: Mapping[str, str], where: str) -> Row:
    file = _path(cells["file"], where)
    sound = _path(cells.get("sound", ""), where) or file
    size, checksum, md5 = cells.get("bytes", ""), cells.get("sha256", "").lower(), cells.get("samples_md5", "").lower()
    if size and not size.isdecimal():
        raise UserError(f"{where}: bytes {size!r} is not a whole number; correct it")
    if checksum and not _SHA256.fullmatch(checksum):
        raise UserError(f"{where}: sha256 {checksum[:20]!r} is not a SHA-256; correct it")
    if md5 and not _MD5.fullmatch(md5):
        raise UserError(f"{where}: samples_md5 {md5[:20]!r} is not an MD5; correct it")
    name = cells.get("clip", "") or str(PurePosixPath(file).with_suffix(""))
    details = (cells.get(column, "") for column in ("intensity", "statement", "repetition"))
    clip = Clip(name, actor_named(cells["actor"]), cells.get("gender", ""), cells["emotion"], *details)
    return Row(line, clip, file, sound, int(size) if size else None, f"sha256:{checksum}" if checksum else "", md5)


def _path(text: str, where: str) -> str:
    """A path relative to the source, with slashes. Raises `UserError` for one that leads elsewhere."""
    path = PurePosixPath(unicodedata.normalize("NFC", text.replace("\\", "/")))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", text):
        raise UserError(f"{where}: {text} is not relative to the source of the clips; correct it")
    return str(path) if text else ""


def _cells(data: bytes, metadata: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The line and the cells by column of each row. Raises `UserError` for anything that is not such a table."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{metadata}, line {line}: it is not UTF-8; save the table as CSV UTF-8") from None
    if "\0" in text:
        raise UserError(f"{metadata}: it is not a text file; save the table as CSV UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if absent := [column for column in REQUIRED if column not in header]:
            first = text.splitlines()[0] if text.strip() else ""
            other = next((each for each in (";", "\t") if first.count(each) >= len(REQUIRED) - 1), None)
            if other:
                what = "semicolons" if other == ";" else "tabs"
                raise UserError(f"{metadata}: the cells are separated by {what}; save it with commas")
            found = printable(", ".join(filter(None, header)))[:100] or "nothing"
            raise UserError(f"{metadata}: there is no column {absent[0]} in its first line ({found}); add it")
        if twice := [column for column in header if column and header.count(column) > 1]:
            raise UserError(f"{metadata}: there are two columns {printable(twice[0])}; keep one")
        empty = True
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{metadata}, line {reader.line_num}: {len(cells)} cells for {len(header)} columns; correct it"
                )
            empty = False
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise UserError(f"{metadata}, line {reader.line_num}: {error}; correct it") from None
    if empty:
        raise UserError(f"{metadata}: it lists no clips; add a row for each")


def _check_counts(rows: Sequence[Row], metadata: str, emotions: Sequence[str]) -> None:
    """Raise `UserError` for actors and emotions from which no model can be trained and tested."""
    actors = {row.clip.actor for row in rows}
    if len({type(actor) for actor in actors}) > 1:
        number, name = (next(a for a in actors if isinstance(a, kind)) for kind in (int, str))
        raise UserError(f"{metadata}: actors are either numbers or names, not both ({number} and {name}); rename some")
    if len(actors) == 1:
        raise UserError(
            f"{metadata}: every clip is of actor {actors.pop()}; a model must be tested on other actors than it was"
            " trained on"
        )
    counts = Counter(row.clip.emotion for row in rows)
    for emotion in emotions:
        if counts[emotion] == 0:
            raise UserError(f"{metadata}: no clip is {emotion}; remove it from the emotions in params.yaml")
        if counts[emotion] == 1:
            line = next(row.line for row in rows if row.clip.emotion == emotion)
            raise UserError(
                f"{metadata}, line {line}: it is the only clip that is {emotion}, which cannot be in training and test;"
                " remove the emotion, or merge it with another"
            )
