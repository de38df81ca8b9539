"""RAVDESS (Livingstone & Russo 2018, doi 10.1371/journal.pone.0196391): speech and song of 24 actors.

A clip is named modality-channel-emotion-intensity-statement-repetition-actor, two digits each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from emofuse.datasets.base import Clip, Dataset, Member, NotAClip, Published
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

_STEM = re.compile(r"([0-9]{2})-([0-9]{2})-([0-9]{2})-([0-9]{2})-([0-9]{2})-([0-9]{2})-([0-9]{2})")
_FOLDER = re.compile(r"Actor_([0-9]{2})")


class Ravdess(Dataset):
    """RAVDESS: with video, a clip is an mp4 file of modality 01; without, a wav or flac file of modality 03."""

    emotions = EMOTIONS
    actors = ACTORS
    people = "professional actors from Toronto who speak two English sentences with a North American accent"
    licence = "cc-by-nc-sa-4.0"
    terms = (
        "RAVDESS (Livingstone and Russo, PLoS ONE 13, 2018), CC BY-NC-SA 4.0: no commercial use; the authors must be"
        " credited; derived works, including these models, must be shared under the same terms."
    )

    def parse(self, stem: str) -> Clip:
        """The labels in a clip's name; actors with odd numbers are male, those with even numbers female.

        Raises `NotAClip` for any other name and for clips that were never recorded: strong neutral ones, songs of
        disgust and surprise, and songs of actor 18.
        """
        match = _STEM.fullmatch(stem)
        if not match:
            raise NotAClip("not seven numbers of two digits with hyphens between")
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
            raise NotAClip(f"there is no actor {actor}")
        label = NUMBERED_EMOTIONS[emotion]
        if label == "neutral" and INTENSITIES[intensity] == "strong":
            raise NotAClip("neutral has no strong intensity")
        if CHANNELS[channel] == "song" and (label in UNSUNG or int(actor) == ACTOR_WITHOUT_SONG):
            raise NotAClip(f"actor {actor} sings no {label}")
        gender = "female" if int(actor) % 2 == 0 else "male"
        return Clip(
            stem, int(actor), gender, label, INTENSITIES[intensity], STATEMENTS[statement], REPETITIONS[repetition]
        )

    def member(self, path: str, corpus: Corpus) -> Member | None:
        """None for a file of another type, modality or channel; a wrong name belongs to the actor of its folder."""
        file = PurePosixPath(path)
        video = "video" in corpus.modalities
        suffix = file.suffix.lower()
        if suffix not in ((".mp4",) if video else (".wav", ".flac")):
            return None
        try:
            clip = self.parse(file.stem)
        except NotAClip:
            folders = [int(number) for number in _FOLDER.findall(str(file.parent))]
            return Member(folders[-1] if folders and folders[-1] in ACTORS else None, path, is_clip=False)
        modality, channel = file.stem.split("-")[:2]
        if modality != (AUDIO_VIDEO if video else AUDIO_ONLY) or CHANNELS[channel] not in corpus.vocal:
            return None
        return Member(clip.actor, f"Actor_{clip.actor:02d}/{file.stem}{suffix}", is_clip=True)

    def remote(self, bases: Sequence[str], actors: Sequence[int], corpus: Corpus) -> list[RemoteFile]:
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
