"""Which files of a source are a shard's clips. Whatever else is in the source is counted, with a reason."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from emofuse.data.download.sources import Contents, File, Unread
from emofuse.datasets.base import OTHER_MODALITY, OTHER_TYPE, Actor, Dataset, Member, sorted_actors
from emofuse.utils.console import printable
from emofuse.utils.errors import UserError

if TYPE_CHECKING:
    from emofuse.config import Corpus

log = logging.getLogger(__name__)

# Why files are ignored, besides what `Dataset.member` says.
DERIVED = "derived from clips that are here"
HIDDEN = "hidden or added by file managers"
LOOP = "that are links to folders read anyway, or above the source"
EXPECTED = (HIDDEN, LOOP, OTHER_TYPE, OTHER_MODALITY)  # the reasons that need nobody's attention

# Names of folders with converted copies. They decide which of two files of one clip is the original, nothing else.
_DERIVED_FOLDER = re.compile(
    r"(?<![a-z])(aug|augment\w*|resampl\w*|(down|up)sampl\w*|convert\w*|(pre)?process\w*|normali[sz]\w*|trim\w*|crop\w*"
    r"|(de)?nois\w*|pitch\w*|stretch\w*|shift\w*|speed\w*|filter\w*|enhanc\w*|clean\w*|resiz\w*|mono|chunks|segments)"
    r"(?![a-z])"
    r"|(?<![0-9])(8|11|16|22|24|32|44)([.,]?[0-9]+)?[ _-]?k(hz)?(?![a-z])"
    r"|(?<![0-9])(8000|11025|16000|22050|24000|32000|44100)(?![0-9])",
    re.IGNORECASE,
)
_ORIGINAL_FOLDER = re.compile(r"(?<![a-z])(orig(inal)?s?|raw)(?![a-z])", re.IGNORECASE)


class _Candidate(NamedTuple):
    """A file of a clip. The one with the lowest rank is used."""

    rank: tuple[bool, int, bool]
    member: Member
    file: File


@dataclass(frozen=True)
class Selection:
    """The files of some actors by member of the shard, and what else is in the source."""

    members: dict[str, File]
    clips: dict[str, Actor]  # every clip of the corpus that can be read, whoever's it is → its actor
    misnamed: list[str]  # paths of files of the right type with wrong names, whoever's they are
    ignored: dict[str, list[str]]  # reason → paths
    faulty: list[File]  # files that cannot be read and are not needed

    @property
    def present(self) -> set[Actor]:
        """All actors of whom there is a clip."""
        return set(self.clips.values())


def select(
    contents: Contents, corpus: Corpus, dataset: Dataset, actors: Sequence[Actor], first: bool, compare: bool = True
) -> Selection:
    """Select the clips of some actors, and the wrong names that the index has to report.

    Wrong names that hint at no actor go to the `first` shard. Of several files of a clip, derived copies are ignored, and
    the others must be equal. Raises `UserError` if they are not, unless `compare` is off, and for a clip whose only file
    cannot be read.
    """
    ignored: dict[str, list[str]] = defaultdict(list)
    for reason, paths in ((HIDDEN, contents.hidden), (LOOP, contents.loops)):
        if paths:
            ignored[reason] = list(paths)
    files: dict[str, list[_Candidate]] = defaultdict(list)  # clip → its files
    wrong: list[tuple[Member, File]] = []
    faulty: list[File] = []
    types = dataset.types(corpus)
    for file in sorted(contents.files, key=lambda file: file.path):
        member = dataset.member(file.path, corpus)
        if isinstance(member, str):
            if file.fault:
                faulty.append(file)
            else:
                ignored[member].append(file.path)
        elif member.is_clip:
            folder, _, name = file.path.rpartition("/")
            stem, dot, suffix = name.rpartition(".")
            renamed = stem != member.clip.rpartition("/")[2]
            rank = (_is_derived(folder), types.index(dot + suffix.lower()), renamed)
            files[member.clip].append(_Candidate(rank, member, file))
        else:
            wrong.append((member, file))
    members: dict[str, File] = {}
    clips: dict[str, Actor] = {}
    equal = 0
    for clip, candidates in files.items():
        readable = [candidate for candidate in candidates if not candidate.file.fault]
        mine = (candidates[0].member.actor or 0) in actors
        if not readable:
            if mine:
                raise UserError(f"{candidates[0].file.fault}; it should be the clip {clip}")
            continue
        best = min(candidate.rank for candidate in readable)
        kept, *others = (candidate for candidate in readable if candidate.rank == best)
        derived = [candidate.file.path for candidate in readable if candidate.rank != best]
        if derived:
            ignored[DERIVED] += derived
        faulty += [candidate.file for candidate in candidates if candidate.file.fault]
        clips[clip] = kept.member.actor or 0
        if mine:
            members[kept.member.name] = kept.file
            if compare:
                _check_equal(clip, kept.file, [other.file for other in others])
                equal += bool(others)
    if equal:
        log.info("%d clips have several identical files; one of each is used", equal)
    misnamed = []
    for member, file in wrong:
        if file.fault:
            faulty.append(file)
            continue
        if member.clip in clips:
            ignored[DERIVED].append(file.path)
            continue
        misnamed.append(file.path)
        if member.actor in actors or (member.actor is None and first):
            if member.name in members:
                _check_equal(member.name, members[member.name], [file])
            members[member.name] = file
    return Selection(members, clips, misnamed, dict(ignored), faulty)


@lru_cache(maxsize=1024)
def _is_derived(folder: str) -> bool:
    return bool(_DERIVED_FOLDER.search(folder)) and not _ORIGINAL_FOLDER.search(folder)


def _check_equal(clip: str, kept: File, others: Sequence[File]) -> None:
    if others:
        data = kept.read()
        for other in others:
            if other.read() != data:
                raise UserError(f"{clip}: two files differ, {kept.place} and {other.place}; remove one of them")


def check_unread(
    unread: Sequence[Unread], selection: Selection, corpus: Corpus, dataset: Dataset, expected: Sequence[Actor]
) -> None:
    """Raise `UserError` if an archive that could not be read is needed for the clips of the expected actors.

    It is if it has clips that are nowhere else, judged by the names in it or, if these are not known, by its own name.
    """
    absent = set(expected) - selection.present
    published = {
        PurePosixPath(file.path).parts[0].removesuffix(".zip")
        for file in (dataset.remote(("",), sorted_actors(absent), corpus) if absent and unread else ())
    }
    for archive in unread:
        lost: set[str] = set()
        for name in archive.names:
            member = dataset.member(name, corpus)
            if isinstance(member, Member) and member.is_clip and member.actor in expected:
                lost |= {member.clip} - selection.clips.keys()
        if lost:
            raise UserError(f"{archive.reason}; {len(lost):,} clips in it are nowhere else, such as {min(lost)}")
        hint = dataset.member(f"{archive.path}/clip{dataset.types(corpus)[0]}", corpus)
        named = isinstance(hint, Member) and hint.actor in absent
        if not archive.names and (named or PurePosixPath(archive.path).name.startswith(tuple(published))):
            raise UserError(f"{archive.reason}; by its name, it has clips that are nowhere else")


def described(ignored: Mapping[str, Sequence[str]]) -> list[str]:
    """What is ignored: the number of files, the reason, and an example."""
    return [
        f"{len(paths):,} file{'s' * (len(paths) > 1)} {reason}, such as {printable(paths[0])}"
        for reason, paths in sorted(ignored.items())
    ]
