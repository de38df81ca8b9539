"""CREMA-D (Cao et al. 2014, doi 10.1109/TAFFC.2014.2336244): 7,442 clips of 91 actors and 12 sentences.

A clip is named actor_sentence_emotion_level. Video with sound is in VideoFlash/*.flv, sound also in AudioWAV/*.wav.
cremad_actors.csv is taken from the corpus's VideoDemographics.csv, and cremad_files.csv from the Git LFS pointers of its
repository. Both are under the Open Database License 1.0 (opendatacommons.org/licenses/odbl/1.0), their contents under
the Database Contents License.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from emofuse.datasets.base import (
    COPY,
    OTHER_TYPE,
    TABLES,
    Actor,
    Clip,
    Dataset,
    Entry,
    Member,
    NotAClip,
    Published,
)
from emofuse.datasets.mixed import other_corpus
from emofuse.datasets.urls import RemoteFile, addresses
from emofuse.utils.files import read_csv

if TYPE_CHECKING:
    from emofuse.config import Corpus

EMOTIONS = ("angry", "disgust", "fearful", "happy", "neutral", "sad")
ACTORS = tuple(range(1001, 1092))

CODES = dict(zip(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"), EMOTIONS, strict=True))
LETTERS = dict(zip("ADFHNS", EMOTIONS, strict=True))  # in the table of votes
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
VIDEO, SOUND, VOTES = "VideoFlash", "AudioWAV", "processedResults/tabulatedVotes.csv"
TYPES = {".flv": VIDEO, ".mp4": VIDEO, ".wav": SOUND}

FILES = Path(__file__).with_name("cremad_files.csv")

# According to the corpus's README.
BAD_VIDEO = {
    "1076_MTI_NEU_XX": "known bad clip: very short, without sound",
    "1076_MTI_SAD_XX": "known bad clip: an error picture, without sound",
    "1064_TIE_SAD_XX": "known bad clip: without duration",
    "1064_IEO_DIS_MD": "known bad clip: a minute long, with every emotion",
}
BAD_SOUND = {"1076_MTI_SAD_XX": "known bad clip: without sound"}

# One of Kaggle's copies has 1040_ITH_SAD_X.wav, and others have lower case.
_STEM = re.compile("[-_]".join((r"([0-9]{4})", r"([A-Za-z]{3})", r"([A-Za-z]{3})", r"([A-Za-z]{1,2})")))
_NAME_IN_NAME = re.compile(rf"(?<![0-9]){_STEM.pattern}(?![A-Za-z])")


@cache
def genders() -> dict[int, str]:
    """Actor → "male" or "female", from the corpus's own table."""
    # Snakemake needs names parsed whenever it starts, when importing pandas would take too long.
    with Path(__file__).with_name("cremad_actors.csv").open(newline="", encoding="utf-8") as stream:
        return {int(row["actor"]): row["gender"] for row in csv.DictReader(stream)}


def votes_on(table: bytes, actors: Sequence[Actor]) -> bytes:
    """The votes of people who saw and heard a clip of some actors, from tabulatedVotes.csv.

    The table may have been saved again by pandas, R or a spreadsheet, with other quotes, separators, encodings and
    columns; the result is the same. Raises ValueError, with the reason, for the content of another file.
    """
    header, *rows = _cells(table)
    names = [cell.strip().casefold() for cell in header]
    if absent := [name for name in ("fileName", *LETTERS) if name.casefold() not in names]:
        raise ValueError(f"it has no column {absent[0]}")
    columns = [names.index(letter.casefold()) for letter in LETTERS]
    clip, number = names.index("filename"), _row_numbers(rows, len(header))
    lines: list[tuple[int | str, ...]] = []
    for row in rows:
        stem = PurePosixPath(row[clip].strip().replace("\\", "/")).stem.upper()  # some tables have paths or extensions
        stem += "X" * stem.endswith("_X")
        # A row's number starts with 1 if people only heard the clip, 2 if they only saw it, 3 if both.
        if _whole(row[number]) // 100_000 == 3 and stem[:4].isdecimal() and int(stem[:4]) in actors:
            lines.append((_whole(row[number]), *(_whole(row[column]) for column in columns), stem))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["", *LETTERS, "fileName"], *sorted(lines)])
    return text.getvalue().encode()


def _cells(table: bytes) -> list[list[str]]:
    """The rows of a table whose encoding and separator are not known. Raises ValueError if it has none."""
    encoding = "utf-16" if table.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    lines = table.decode(encoding).splitlines()
    if lines and re.fullmatch('"?sep=."?', lines[0]):  # for Excel
        lines = lines[1:]
    separator = max(",;\t|", key=lines[0].count) if lines else ","
    try:
        rows = [row for row in csv.reader(lines, delimiter=separator, skipinitialspace=True) if any(row)]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if len(rows) < 2:
        raise ValueError("it has no rows")
    # Tables that pandas and R write with an index may have one cell less in the header.
    return [["", *rows[0]] if len(rows[1]) == len(rows[0]) + 1 else rows[0], *rows[1:]]


def _row_numbers(rows: list[list[str]], columns: int) -> int:
    """The column of the rows' own numbers, 100001 to 307442. Raises ValueError if there is none."""
    if any(len(row) != columns for row in rows):
        raise ValueError("its rows differ in length")
    for column in range(columns):
        try:
            if all(1 <= _whole(row[column]) // 100_000 <= 3 for row in rows):
                return column
        except ValueError:
            continue
    raise ValueError("it has no column of row numbers, 100001 to 307442")


def _whole(cell: str) -> int:
    """A whole number, possibly written as 9.0, 9,0 or 9e0. Raises ValueError for anything else."""
    try:
        number = Decimal(cell.strip().replace(",", "."))
        if 0 <= number < 1_000_000 and number == int(number):
            return int(number)
    except ArithmeticError:
        pass
    raise ValueError(f"{cell[:20]!r} is not a whole number")


def majorities(votes: bytes) -> dict[str, str | None]:
    """Clip → the emotion with the most votes of people who saw and heard it, None if there is a tie.

    `votes` are those that `votes_on` gives.
    """
    perceived: dict[str, str | None] = {}
    for row in csv.DictReader(io.StringIO(votes.decode("utf-8"))):
        most = max(int(row[letter]) for letter in LETTERS)
        first = [emotion for letter, emotion in LETTERS.items() if int(row[letter]) == most]
        perceived[row["fileName"]] = first[0] if len(first) == 1 else None
    return perceived


class CremaD(Dataset):
    """CREMA-D: labels are the intended emotions or, with `labels: perceived`, the majority of the crowd's votes."""

    emotions = EMOTIONS
    actors = ACTORS
    name_in_name = _NAME_IN_NAME
    people = "48 male and 43 female actors who speak twelve English sentences"
    licence = "odbl"
    terms = (
        "CREMA-D (Cao et al., IEEE Transactions on Affective Computing 5, 2014), Open Database License 1.0: derived works"
        " must credit the source, and derived databases must be shared under the same licence."
    )

    def parse(self, stem: str) -> Clip:
        """The labels in a clip's name; the emotion is the intended one, the repetition is always "1".

        Raises `NotAClip` for any other name and for levels that were never recorded: only the sentence IEO has
        levels, and only for emotions other than neutral. Small letters, hyphens and one X for two are accepted.
        """
        match = _STEM.fullmatch(stem)
        if not match:
            raise NotAClip(COPY if self.named_in(stem) else "not actor_sentence_emotion_level, such as 1001_DFA_ANG_XX")
        actor, sentence, emotion, level = (part.upper() for part in match.groups())
        level = "XX" if level == "X" else level
        if int(actor) not in ACTORS:
            raise NotAClip(f"there is no actor {actor}")
        for code, known, what in (
            (sentence, SENTENCES, "sentence"),
            (emotion, CODES, "emotion"),
            (level, LEVELS, "level"),
        ):
            if code not in known:
                raise NotAClip(f"there is no {what} {code}")
        if (level != "XX") != (sentence == "IEO" and emotion != "NEU"):
            raise NotAClip(f"{emotion} of {sentence} was not recorded at level {level}")
        name = f"{actor}_{sentence}_{emotion}_{level}"
        return Clip(name, int(actor), genders()[int(actor)], CODES[emotion], LEVELS[level], sentence, "1")

    def types(self, corpus: Corpus) -> tuple[str, ...]:
        """Videos are flv files, or mp4 files if somebody has converted them."""
        folders = _folders(corpus)
        return tuple(suffix for suffix, folder in TYPES.items() if folder in folders)

    def member(self, path: str, corpus: Corpus) -> Member | str:
        """Wav files are used if the sound is theirs. A wrong name belongs to the actor with whose number it starts."""
        file = PurePosixPath(path)
        suffix = file.suffix.lower()
        if suffix not in self.types(corpus):
            return OTHER_TYPE
        clip, is_clip = self.clip_at(file)
        if clip is None:
            return self._misnamed(path)
        name = f"{TYPES[suffix]}/{clip.clip}"
        return Member(clip.actor, f"{name}{suffix}" if is_clip else path, is_clip, name)

    def _misnamed(self, path: str) -> Member | str:
        """A file of the right type whose name neither is nor contains that of a clip."""
        if other := other_corpus(path, own="CREMA-D"):
            return f"of {other}"
        hint = re.match("[0-9]{4}", PurePosixPath(path).name)
        return Member(int(hint[0]) if hint and int(hint[0]) in ACTORS else None, path, is_clip=False)

    def remote(self, bases: Sequence[str], actors: Sequence[Actor], corpus: Corpus) -> list[RemoteFile]:
        """The clips of some actors, one file each, and the votes if those are the labels."""
        listed = read_csv(FILES)
        listed = listed[listed["clip"].str[:4].astype(int).isin(actors)]
        suffixes = {VIDEO: "flv", SOUND: "wav"}
        files = []
        for row in listed.to_dict("records"):
            for folder in _folders(corpus):
                suffix = suffixes[folder]
                path = f"{folder}/{row['clip']}.{suffix}"
                size, checksum = int(row[f"{suffix}_bytes"]), f"sha256:{row[f'{suffix}_sha256']}"
                files.append(RemoteFile(path, tuple(f"{base}/{path}" for base in bases), size, checksum))
        if self.tables(corpus) and actors:
            files.append(addresses()[VOTES])  # not a Git LFS file, so the addresses of the clips do not have it
        return files

    def tables(self, corpus: Corpus) -> dict[str, Callable[[bytes, Sequence[Actor]], bytes]]:
        """The crowd's votes, if those are the labels."""
        return {VOTES: votes_on} if corpus.labels == "perceived" else {}

    def entries(self, names: Sequence[str], read: Callable[[str], bytes], corpus: Corpus) -> Iterator[Entry]:
        """The clips in a shard: video joined with sound, known bad files reported, labels as the corpus asks for."""
        perceived = majorities(read(VOTES)) if VOTES in names else {}
        folders = _folders(corpus)
        present = set(names)
        for name in names:
            file = PurePosixPath(name)
            if file.suffix in TABLES:
                continue
            try:
                clip = self.parse(file.stem)
            except NotAClip as error:
                yield Entry(name, name, None, f"wrong name: {error}")
                continue
            sound = f"{SOUND}/{clip.clip}.wav"
            if VIDEO not in folders:
                yield _labelled(Entry(name, name, clip, BAD_SOUND.get(clip.clip, "")), perceived, corpus)
            elif name != sound:
                reason = BAD_VIDEO.get(clip.clip, "")
                if SOUND in folders and sound not in present:
                    reason = reason or f"{sound} is missing"
                entry = Entry(name, sound if SOUND in folders and sound in present else name, clip, reason)
                yield _labelled(entry, perceived, corpus)
            elif not any(f"{VIDEO}/{clip.clip}{suffix}" in present for suffix in (".flv", ".mp4")):
                yield _labelled(Entry(name, name, clip, "its video is missing"), perceived, corpus)

    def published(self, corpus: Corpus) -> Published:
        """All actors and clips."""
        return Published(ACTORS, 7442)


def _folders(corpus: Corpus) -> tuple[str, ...]:
    """The folders that a corpus's clips come from; a corpus without video never needs those of the videos."""
    video = "video" in corpus.modalities
    wav = "audio" in corpus.modalities and (corpus.sound == "wav" or not video)
    return (SOUND,) * wav + (VIDEO,) * video


def _labelled(entry: Entry, perceived: dict[str, str | None], corpus: Corpus) -> Entry:
    """The entry with the label that the corpus asks for."""
    if corpus.labels == "intended" or entry.clip is None:
        return entry
    emotion = perceived.get(entry.clip.clip)
    reason = "" if emotion else "its votes are tied" if entry.clip.clip in perceived else "it has no votes"
    return replace(entry, clip=replace(entry.clip, emotion=emotion or ""), reason=entry.reason or reason)


DATASET = CremaD()
