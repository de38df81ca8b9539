"""CREMA-D (Cao et al. 2014, doi 10.1109/TAFFC.2014.2336244): 7,442 clips of 91 actors and 12 sentences.

A clip is named actor_sentence_emotion_level. Pictures and sound are in VideoFlash/*.flv, sound also in
AudioWAV/*.wav. cremad_actors.csv beside this file is taken from the corpus's VideoDemographics.csv, and
cremad_files.csv from the Git LFS pointers of its repository; both are under the Open Database License
1.0 (opendatacommons.org/licenses/odbl/1.0), their contents under the Database Contents License.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from emofuse.datasets.addresses import REGISTRY, Remote, registry
from emofuse.datasets.base import TABLES, Clip, Entry, NotAClip, Place

if TYPE_CHECKING:
    from emofuse.config import Corpus

EMOTIONS = ("angry", "disgust", "fearful", "happy", "neutral", "sad")
ACTORS = tuple(range(1001, 1092))

CODES = dict(zip(("ANG", "DIS", "FEA", "HAP", "NEU", "SAD"), EMOTIONS, strict=True))
LEVELS = {"LO": "low", "MD": "medium", "HI": "high", "XX": "unspecified"}
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
VIDEO, SOUND, VOTES = "VideoFlash", "AudioWAV", "processedResults/tabulatedVotes.csv"

# What the corpus's own README says of single files.
BAD_VIDEO = {
    "1076_MTI_NEU_XX": "known bad clip: very short, without sound",
    "1076_MTI_SAD_XX": "known bad clip: an error picture, without sound",
    "1064_TIE_SAD_XX": "known bad clip: without duration",
    "1064_IEO_DIS_MD": "known bad clip: a minute long, with every emotion",
}
BAD_SOUND = {"1076_MTI_SAD_XX": "known bad clip: without sound"}

_STEM = re.compile(r"([0-9]{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]{2})")


@cache
def genders() -> dict[int, str]:
    """Actor → "male" or "female", as the corpus's own table says."""
    with Path(__file__).with_name("cremad_actors.csv").open(newline="", encoding="utf-8") as stream:
        return {int(row["actor"]): row["gender"] for row in csv.DictReader(stream)}


def parse(stem: str) -> Clip:
    """What a clip's name says; the emotion is the intended one, and the one repetition is "1".

    Raises `NotAClip` for any other name, and for levels that were never recorded: a level is given for the
    sentence IEO alone, for every emotion but neutral.
    """
    match = _STEM.fullmatch(stem)
    if not match:
        raise NotAClip("not actor_sentence_emotion_level, such as 1001_DFA_ANG_XX")
    actor, sentence, emotion, level = match.groups()
    if int(actor) not in ACTORS:
        raise NotAClip(f"there is no actor {actor}")
    for code, known, what in ((sentence, SENTENCES, "sentence"), (emotion, CODES, "emotion"), (level, LEVELS, "level")):
        if code not in known:
            raise NotAClip(f"there is no {what} {code}")
    if (level != "XX") != (sentence == "IEO" and emotion != "NEU"):
        raise NotAClip(f"{emotion} of {sentence} was not recorded at level {level}")
    return Clip(stem, int(actor), genders()[int(actor)], CODES[emotion], LEVELS[level], sentence, "1")


def _folders(corpus: Corpus) -> tuple[str, ...]:
    """The folders that a corpus's clips come from: pictures, sound or both. Sound alone never needs the pictures'."""
    video = "video" in corpus.modalities
    wav = "audio" in corpus.modalities and (corpus.sound == "wav" or not video)
    return (SOUND,) * wav + (VIDEO,) * video


def member(path: str, corpus: Corpus) -> Place | None:
    """Where a file of a source goes; `path` is its path there.

    Pictures are flv, or mp4 where somebody has converted them; wav counts where the sound comes from there.
    None for a file of another kind. A wrong name keeps its path, so that the index can say so.
    """
    place = PurePosixPath(path)
    suffix = place.suffix.lower()
    folder = {".flv": VIDEO, ".mp4": VIDEO, ".wav": SOUND}.get(suffix)
    if folder not in _folders(corpus):
        return None
    try:
        return Place(parse(place.stem).actor, f"{folder}/{place.stem}{suffix}", is_clip=True)
    except NotAClip:
        hint = re.match("[0-9]{4}", place.name)
        return Place(int(hint[0]) if hint and int(hint[0]) in ACTORS else None, path, is_clip=False)


def remote(bases: Sequence[str], actors: Sequence[int], corpus: Corpus) -> list[Remote]:
    """The published files with the clips of some actors, and with the votes where those are the labels."""
    suffixes = {VIDEO: "flv", SOUND: "wav"}
    files = []
    with (REGISTRY / "cremad_files.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if int(row["clip"][:4]) in actors:
                for folder in _folders(corpus):
                    suffix = suffixes[folder]
                    path = f"{folder}/{row['clip']}.{suffix}"
                    size, checksum = int(row[f"{suffix}_bytes"]), f"sha256:{row[f'{suffix}_sha256']}"
                    files.append(Remote(path, tuple(f"{base}/{path}" for base in bases), size, checksum))
    if corpus.labels == "perceived" and actors:
        # The addresses of the clips serve Git LFS files, and the votes are none.
        files.append(registry()[VOTES])
    return files


def votes_of(table: bytes, actors: Sequence[int]) -> bytes:
    """The rows of tabulatedVotes.csv in which people saw and heard a clip of some actors, with the header."""
    header, *lines = table.decode("utf-8").splitlines(keepends=True)
    column = next(csv.reader([header])).index("fileName")
    # A row's number starts with 1 where people only heard the clip, 2 where they only saw it, 3 where both.
    rows = ((line, next(csv.reader([line]))) for line in lines if line.startswith('"3'))
    return "".join([header, *(line for line, row in rows if int(row[column][:4]) in actors)]).encode()


def majorities(table: bytes) -> dict[str, str | None]:
    """Clip → the emotion that most people saw and heard, None where two or more have equally many votes."""
    letters = dict(zip("ADFHNS", EMOTIONS, strict=True))
    perceived: dict[str, str | None] = {}
    for row in csv.DictReader(io.StringIO(table.decode("utf-8"))):
        most = max(int(row[letter]) for letter in letters)
        first = [emotion for letter, emotion in letters.items() if int(row[letter]) == most]
        perceived[row["fileName"]] = first[0] if len(first) == 1 else None
    return perceived


def entries(names: Sequence[str], read: Callable[[str], bytes], corpus: Corpus) -> Iterator[Entry]:
    """The clips of a shard: pictures and sound joined, known bad files named, labels as the corpus asks for."""
    perceived = majorities(read(VOTES)) if VOTES in names else {}
    wanted = _folders(corpus)
    present = set(names)
    for name in names:
        place = PurePosixPath(name)
        if place.suffix in TABLES:
            continue
        try:
            clip = parse(place.stem)
        except NotAClip as error:
            yield Entry(name, name, None, f"wrong name: {error}")
            continue
        sound = f"{SOUND}/{clip.clip}.wav"
        if VIDEO not in wanted:
            yield _labelled(Entry(name, name, clip, BAD_SOUND.get(clip.clip, "")), perceived, corpus)
        elif name != sound:
            reason = BAD_VIDEO.get(clip.clip, "")
            if SOUND in wanted and sound not in present:
                reason = reason or f"{sound} is missing"
            entry = Entry(name, sound if SOUND in wanted and sound in present else name, clip, reason)
            yield _labelled(entry, perceived, corpus)
        elif not any(f"{VIDEO}/{clip.clip}{suffix}" in present for suffix in (".flv", ".mp4")):
            yield _labelled(Entry(name, name, clip, "its video is missing"), perceived, corpus)


def _labelled(entry: Entry, perceived: dict[str, str | None], corpus: Corpus) -> Entry:
    if corpus.labels == "intended" or entry.clip is None:
        return entry
    emotion = perceived.get(entry.clip.clip)
    reason = "" if emotion else "its votes are tied" if entry.clip.clip in perceived else "nobody has voted on it"
    return replace(entry, clip=replace(entry.clip, emotion=emotion or ""), reason=entry.reason or reason)
