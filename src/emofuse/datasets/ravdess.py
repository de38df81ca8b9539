"""RAVDESS (Livingstone & Russo 2018, doi 10.1371/journal.pone.0196391): speech and song of 24 actors.

A clip is named modality-channel-emotion-intensity-statement-repetition-actor, two digits each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from emofuse.datasets.base import COPY, OTHER_MODALITY, OTHER_TYPE, Actor, Clip, Dataset, Member, NotAClip, Published
from emofuse.datasets.mixed import other_corpus
from emofuse.datasets.urls import RemoteFile, addresses

if TYPE_CHECKING:
    from emofuse.config import Corpus

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
ACTORS = tuple(range(1, 25))

AUDIO_VIDEO, VIDEO_ONLY, AUDIO_ONLY = "01", "02", "03"
CHANNELS = {"01": "speech", "02": "song"}
CLIPS = {"speech": 1440, "song": 1012}  # per modality
NUMBERED_EMOTIONS = {f"{number:02d}": emotion for number, emotion in enumerate(EMOTIONS, start=1)}
INTENSITIES = {"01": "normal", "02": "strong"}
STATEMENTS = {"01": "kids", "02": "dogs"}
REPETITIONS = {"01": "1", "02": "2"}
UNSUNG = ("disgust", "surprised")
ACTOR_WITHOUT_SONG = 18

_STEM = re.compile("[-_]".join(7 * [r"([0-9]{2})"]))
_NAME_IN_NAME = re.compile(rf"(?<![0-9]){_STEM.pattern}(?![0-9])")
_FOLDER = re.compile(r"actor[ _-]?([0-9]{2})(?![0-9])", re.IGNORECASE)

STRANGERS = "of speakers who are not in RAVDESS; data sets that mix corpora number those of TESS 25 and 26"


class Ravdess(Dataset):
    """RAVDESS: with video, a clip is an mp4 file of modality 01; without, a wav or flac file of modality 03."""

    emotions = EMOTIONS
    actors = ACTORS
    name_in_name = _NAME_IN_NAME
    people = "professional actors from Toronto who speak two English sentences with a North American accent"
    licence = "cc-by-nc-sa-4.0"
    terms = (
        "RAVDESS (Livingstone and Russo, PLoS ONE 13, 2018), CC BY-NC-SA 4.0: no commercial use; the authors must be"
        " credited; derived works, including these models, must be shared under the same terms."
    )

    def parse(self, stem: str) -> Clip:
        """The labels in a clip's name; actors with odd numbers are male, those with even numbers female.

        Raises `NotAClip` for any other name and for clips that were never recorded: strong neutral ones, songs of
        disgust and surprise, and songs of actor 18. Underscores may stand for the hyphens.
        """
        match = _STEM.fullmatch(stem)
        if not match:
            raise NotAClip(COPY if self.named_in(stem) else "not seven numbers of two digits with hyphens between")
        modality, channel, emotion, intensity, statement, repetition, actor = match.groups()
        for number, known, what in (
            (modality, (AUDIO_VIDEO, VIDEO_ONLY, AUDIO_ONLY), "modality"),
            (channel, CHANNELS, "channel"),
            (emotion, NUMBERED_EMOTIONS, "emotion"),
            (intensity, INTENSITIES, "intensity"),
            (statement, STATEMENTS, "statement"),
            (repetition, REPETITIONS, "repetition"),
        ):
            if number not in known:
                raise NotAClip(f"there is no {what} {number}")
        if int(actor) not in ACTORS:
            mixed = f"; speaker {actor} of data sets that mix corpora is TESS's" if actor in ("25", "26") else ""
            raise NotAClip(f"there is no actor {actor}{mixed}")
        label = NUMBERED_EMOTIONS[emotion]
        if label == "neutral" and INTENSITIES[intensity] == "strong":
            raise NotAClip("neutral has no strong intensity")
        if CHANNELS[channel] == "song" and (label in UNSUNG or int(actor) == ACTOR_WITHOUT_SONG):
            raise NotAClip(f"actor {actor} sings no {label}")
        gender = "female" if int(actor) % 2 == 0 else "male"
        return Clip(
            "-".join(match.groups()),
            int(actor),
            gender,
            label,
            INTENSITIES[intensity],
            STATEMENTS[statement],
            REPETITIONS[repetition],
        )

    def types(self, corpus: Corpus) -> tuple[str, ...]:
        """Films, or recordings, also re-encoded ones."""
        return (".mp4",) if "video" in corpus.modalities else (".wav", ".flac")

    def member(self, path: str, corpus: Corpus) -> Member | str:
        """A wrong name belongs to the actor of its folder."""
        file = PurePosixPath(path)
        suffix = file.suffix.lower()
        if suffix not in self.types(corpus):
            return OTHER_TYPE
        clip, is_clip = self.clip_at(file)
        if clip is None:
            return self._misnamed(path)
        modality, channel = clip.clip.split("-")[:2]
        wanted = AUDIO_VIDEO if "video" in corpus.modalities else AUDIO_ONLY
        if modality != wanted or CHANNELS[channel] not in corpus.vocal:
            return OTHER_MODALITY
        name = f"Actor_{clip.actor:02d}/{clip.clip}"
        return Member(clip.actor, f"{name}{suffix}" if is_clip else path, is_clip, name)

    def _misnamed(self, path: str) -> Member | str:
        """A file of the right type whose name neither is nor contains that of a clip."""
        file = PurePosixPath(path)
        if other := other_corpus(path, own="RAVDESS"):
            return f"of {other}"
        named = _NAME_IN_NAME.search(file.stem)
        folders = _FOLDER.findall(str(file.parent))
        actor = int(named[7] if named else folders[-1] if folders else 0)
        if actor > max(ACTORS):
            return STRANGERS
        folder = int(folders[-1]) if folders else 0
        return Member(folder if folder in ACTORS else None, path, is_clip=False)

    def remote(self, bases: Sequence[str], actors: Sequence[Actor], corpus: Corpus) -> list[RemoteFile]:
        """The archives of some actors: with video one per actor, without video one for all."""
        names = []
        for channel in sorted(corpus.vocal, reverse=True):
            if "video" not in corpus.modalities:
                names += [f"Audio_{channel.title()}_Actors_01-24.zip"] if actors else []
            else:
                recorded = [a for a in actors if channel == "speech" or a != ACTOR_WITHOUT_SONG]
                names += [f"Video_{channel.title()}_Actor_{actor:02d}.zip" for actor in recorded]
        known = addresses()
        return [
            replace(
                known.get(name) or RemoteFile(name, ()),
                addresses=tuple(f"{base}/{name}?download=1" for base in bases),
            )
            for name in names
        ]

    def published(self, corpus: Corpus) -> Published:
        """Actors and clips of the corpus's vocal channels, in one modality."""
        actors = tuple(actor for actor in ACTORS if "speech" in corpus.vocal or actor != ACTOR_WITHOUT_SONG)
        return Published(actors, sum(CLIPS[channel] for channel in corpus.vocal))


DATASET = Ravdess()
