"""What a corpus has to implement, and the types in which it describes its clips."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, TypeVar

if TYPE_CHECKING:
    from emofuse.config import Corpus
    from emofuse.datasets.urls import RemoteFile

TABLES = (".csv", ".json")  # members of a shard that are not clips

Actor = int | str  # a number, or a name in corpora whose actors have names
A = TypeVar("A", bound=Actor)


def actor_named(text: str) -> Actor:
    """An actor as written in a table."""
    return int(text) if text.isdecimal() else text


def sorted_actors(actors: Iterable[A]) -> tuple[A, ...]:
    """Actors in order. Those of one corpus are all numbers or all names."""
    return tuple(sorted(actors, key=lambda actor: (isinstance(actor, str), actor)))


@dataclass(frozen=True)
class Clip:
    """The labels of a clip, as its name gives them.

    clip is the name without folder and extension; gender is "male" or "female", "" if the corpus does not say;
    emotion is one of the corpus's emotions; intensity, statement and repetition are the corpus's own terms.
    """

    clip: str
    actor: Actor
    gender: str
    emotion: str
    intensity: str
    statement: str
    repetition: str


OTHER_TYPE = "of another type"
OTHER_MODALITY = "of another modality or channel"
COPY = "named like a copy of a clip, whose original is missing"  # the reason for a wrong name with a clip's name in it


class NotAClip(Exception):
    """A name that is not one of the corpus's clips; str() is the reason in plain English."""


@dataclass(frozen=True)
class Member:
    """A file of a source as a member of a shard.

    actor decides the shard, None if the name gives no hint; name is the member's name; is_clip is False for a wrong
    name, which is kept so that the index can report it. `clip` is the same for all files of one clip; a wrong name
    that contains the name of a clip, such as 03-01-01-01-01-01-01_croppad.wav, has that clip's. It is "" for others.
    """

    actor: Actor | None
    name: str
    is_clip: bool
    clip: str = ""


@dataclass(frozen=True)
class Entry:
    """One clip of a shard.

    file and sound are the members with its picture and its sound; clip is None if the name is wrong; reason says why
    the clip cannot be used, "" if nothing is known against it.
    """

    file: str
    sound: str
    clip: Clip | None
    reason: str = ""


class Published(NamedTuple):
    """The extent of a corpus as it is published, whatever part of it is here."""

    actors: tuple[Actor, ...]
    clips: int


class Dataset(ABC):
    """A corpus: its emotions and actors, the names of its clips, and where its files are.

    `table` has corpora that need no code. To add one in code, write a module `emofuse/datasets/<kind>.py` with a subclass and an instance of it named DATASET, and
    add the kind to `KINDS` and to `config.Corpus.kind`. Every corpus implements `parse`. One whose clips come from
    files also implements `types` and `member`, and `remote` if it is on the web; one that is computed implements `generate`. The
    other methods have defaults. `corpus` is always the corpus's section of params.yaml.
    """

    emotions: tuple[str, ...]  # in the order of the class numbers
    actors: tuple[Actor, ...] = ()  # everyone in the corpus, in order; empty for a computed one
    people: str  # who they are, for the model card
    licence: str  # of models trained on the corpus: an identifier of the Hugging Face Hub
    name_in_name: re.Pattern[str] = re.compile("(?!)")  # a clip's name within a longer one; by default none
    terms: str  # the citation of the corpus, its licence, and what it requires

    def configured(self, corpus: Corpus) -> Dataset:
        """This corpus with what params.yaml chooses of it, such as its emotions."""
        return self

    @abstractmethod
    def parse(self, stem: str) -> Clip:
        """The labels in a clip's name (without folder and extension); raises `NotAClip` for any other name."""

    def named_in(self, stem: str) -> Clip | None:
        """The clip whose name is part of a longer name, if there is one."""
        found = self.name_in_name.search(stem)
        if not found or found[0] == stem:
            return None
        try:
            return self.parse(found[0])
        except NotAClip:
            return None

    def clip_at(self, file: PurePosixPath) -> tuple[Clip | None, bool]:
        """The clip that a file's name, or that of its folder, contains, if any; and whether it is the file's whole name."""
        try:
            return self.parse(file.stem), True
        except NotAClip:
            return self.named_in(file.stem) or self.named_in(f"{file.parent.name}/"), False

    def types(self, corpus: Corpus) -> tuple[str, ...]:
        """The extensions of clips, in lower case, the published one first."""
        return ()

    def member(self, path: str, corpus: Corpus) -> Member | str:
        """The member of a shard that a file of a source becomes, or why it is not of this corpus ("of another type").

        `path` is relative to the source. A file of the right type with a wrong name keeps its path as its name.
        """
        return OTHER_TYPE

    def remote(self, bases: Sequence[str], actors: Sequence[Actor], corpus: Corpus) -> list[RemoteFile]:
        """The published files that hold the clips of some actors; `bases` are the addresses of their folder."""
        return []

    def listed(self, actors: Sequence[Actor]) -> Mapping[str, str]:
        """The members of shards that a source must have for some actors → where they are listed; {} if it may lack any."""
        return {}

    def flac_md5(self) -> Mapping[str, str]:
        """Members of shards that are re-encoded recordings → the MD5 of their samples, as far as they are known."""
        return {}

    def generate(self, corpus: Corpus, shard: int) -> Sequence[tuple[str, Callable[[], bytes]]] | None:
        """The members of a shard of a computed corpus, in order of name; None if the clips come from files."""
        return None

    def tables(self, corpus: Corpus) -> dict[str, Callable[[bytes, Sequence[Actor]], bytes]]:
        """The published tables that every shard carries besides its clips, such as votes: member → selection of rows.

        The selection takes a table and some actors, and returns the part of the table that is about them. It raises
        ValueError for the content of another file.
        """
        return {}

    def entries(self, names: Sequence[str], read: Callable[[str], bytes], corpus: Corpus) -> Iterator[Entry]:
        """The clips in a shard with these members, whose content `read` gives; by default each member is a clip."""
        for name in names:
            if PurePosixPath(name).suffix in TABLES:
                continue
            try:
                yield Entry(name, name, self.parse(PurePosixPath(name).stem))
            except NotAClip as error:
                yield Entry(name, name, None, f"wrong name: {error}")

    def published(self, corpus: Corpus) -> Published | None:
        """The extent of the published corpus; None if there is nothing to compare a local copy with."""
        return None

    def bayes_accuracy(self, corpus: Corpus) -> dict[str, float] | None:
        """The best possible accuracy for "audio", "video" and "audio_video"; None if it is not known."""
        return None
