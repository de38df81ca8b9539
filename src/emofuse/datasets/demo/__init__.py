"""The demo corpus: synthetic faces and voices, made so that the best possible accuracy is known exactly.

Each emotion shows one of six visual cues and one of six vocal cues, drawn independently given the emotion with the
probabilities below. The best possible accuracy (the Bayes accuracy) from video, from audio and from both is therefore
simple arithmetic. Each modality alone confuses emotions that the other one separates. Which emotions are similar is
invented, and deliberately unlike valence and arousal, so that a learnable emotional metric has something to learn.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emofuse.datasets.base import Clip, Dataset, NotAClip
from emofuse.datasets.demo import face, voice

if TYPE_CHECKING:
    from emofuse.config import Corpus, Demo

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")

# In how many of 20 draws an emotion shows a cue.
DRAWS = 20
VISUAL: dict[str, dict[str, int]] = {
    "neutral": {"blank": 19, "frown": 1},
    "calm": {"narrow": 20},
    "happy": {"grin": 19, "gape": 1},
    "sad": {"frown": 18, "blank": 2},
    "angry": {"narrow": 16, "wince": 4},
    "fearful": {"grin": 15, "gape": 5},
    "disgust": {"wince": 19, "narrow": 1},
    "surprised": {"gape": 20},
}
VOCAL: dict[str, dict[str, int]] = {
    "neutral": {"even": 19, "slow": 1},
    "calm": {"slow": 19, "even": 1},
    "happy": {"bursts": 19, "wail": 1},
    "sad": {"bursts": 17, "even": 3},
    "angry": {"hammer": 18, "slow": 2},
    "fearful": {"wail": 18, "bursts": 2},
    "disgust": {"swoop": 17, "hammer": 3},
    "surprised": {"swoop": 20},
}

_STEM = re.compile(rf"demo-([0-9]{{2}})-({'|'.join(EMOTIONS)})-([0-9]{{2}})")


class DemoCorpus(Dataset):
    """The demo corpus. A clip depends only on the seed and on its actor, emotion and take."""

    emotions = EMOTIONS

    def parse(self, stem: str) -> Clip:
        """The labels in a name `demo-<actor>-<emotion>-<take>`; odd actors are male, even ones female."""
        match = _STEM.fullmatch(stem)
        if not match:
            raise NotAClip("not demo-<two digits of actor>-<emotion>-<two digits of take>")
        actor, emotion, take = int(match[1]), match[2], match[3]
        if not actor or take == "00":
            raise NotAClip("actors and takes are counted from 01")
        gender = "female" if actor % 2 == 0 else "male"
        return Clip(stem, actor, gender, emotion, intensity="normal", statement="syllables", repetition=take)

    def generate(self, corpus: Corpus, shard: int) -> list[tuple[str, Callable[[], bytes]]]:
        """See `members`."""
        assert corpus.demo is not None, "as params.yaml requires"
        return members(corpus.demo, shard, len(corpus.shards))

    def bayes_accuracy(self, corpus: Corpus) -> dict[str, float]:
        """See `bayes`."""
        return bayes()


DATASET = DemoCorpus()


def members(demo: Demo, shard: int, shards: int) -> list[tuple[str, Callable[[], bytes]]]:
    """The clips (mp4) of one of `shards` runs of consecutive actors, and `bayes.json` with the Bayes accuracies."""
    actors = range(1 + shard * demo.actors // shards, 1 + (shard + 1) * demo.actors // shards)
    clips: list[tuple[str, Callable[[], bytes]]] = [
        (f"Actor_{actor:02d}/demo-{actor:02d}-{emotion}-{take:02d}.mp4", partial(encode, demo, actor, emotion, take))
        for actor in actors
        for emotion in sorted(EMOTIONS)
        for take in range(1, demo.takes + 1)
    ]
    return [*clips, ("bayes.json", (json.dumps(bayes(), indent=2) + "\n").encode)]


def _generator(seed: int, actor: int, emotion: str | None = None, take: int = 0) -> np.random.Generator:
    """The random numbers of an actor or of a clip, independent of which others are generated."""
    place = 0 if emotion is None else 1 + EMOTIONS.index(emotion)
    return np.random.default_rng([seed % 2**64, actor, place, take])


def _draw(rng: np.random.Generator, draws: dict[str, int]) -> str:
    return list(draws)[int(np.searchsorted(np.cumsum(list(draws.values())), rng.integers(DRAWS), side="right"))]


def cues(seed: int, actor: int, emotion: str, take: int) -> tuple[str, str]:
    """The visual and the vocal cue that a clip is made from."""
    rng = _generator(seed, actor, emotion, take)
    return _draw(rng, VISUAL[emotion]), _draw(rng, VOCAL[emotion])


def render(seed: int, actor: int, emotion: str, take: int) -> tuple[np.ndarray, np.ndarray]:
    """A clip before it is encoded.

    Returns frames, uint8 (T, H, W, 3) RGB at `face.RATE` per second, and samples, float32 (samples,) at
    `voice.SAMPLE_RATE` Hz.
    """
    actor_rng, rng = _generator(seed, actor), _generator(seed, actor, emotion, take)
    visual, vocal = _draw(rng, VISUAL[emotion]), _draw(rng, VOCAL[emotion])
    looks = face.Looks.draw(actor_rng, female=actor % 2 == 0)
    timbre = voice.Timbre.draw(actor_rng, female=actor % 2 == 0)
    # The length is drawn before anything that depends on a cue, and face and voice have random numbers of their own:
    # only the two cues may reveal the emotion.
    count = int(rng.integers(37, 41))
    face_rng, voice_rng = rng.spawn(2)
    frames = face.render(visual, looks, face_rng, count)
    return frames, voice.render(vocal, timbre, voice_rng, count / face.RATE)


def encode(demo: Demo, actor: int, emotion: str, take: int) -> bytes:
    """A clip as mp4 file."""
    from emofuse.features import media

    frames, samples = render(demo.seed, actor, emotion, take)
    with tempfile.TemporaryDirectory(prefix="emofuse-") as folder:
        path = Path(folder) / "clip.mp4"
        media.write_clip(path, frames, face.RATE, samples, voice.SAMPLE_RATE)
        return path.read_bytes()


def bayes() -> dict[str, float]:
    """The highest expected accuracy of any classifier, for `audio`, `video` and `audio_video`.

    Emotions are equally frequent and takes are drawn independently, so it holds for every seed and size.
    """
    video = {cue: {e: Fraction(VISUAL[e].get(cue, 0), DRAWS) for e in EMOTIONS} for cue in face.CUES}
    audio = {cue: {e: Fraction(VOCAL[e].get(cue, 0), DRAWS) for e in EMOTIONS} for cue in voice.CUES}

    def accuracy(likelihoods: list[dict[str, Fraction]]) -> float:
        """For each observation, the most probable emotion is the correct one with its posterior probability."""
        return float(sum(max(each.values()) for each in likelihoods) / len(EMOTIONS))

    both = [{e: a[e] * v[e] for e in EMOTIONS} for a in audio.values() for v in video.values()]
    return {
        "audio": accuracy(list(audio.values())),
        "video": accuracy(list(video.values())),
        "audio_video": accuracy(both),
    }


def guess(visual: str | None, vocal: str | None) -> str:
    """The most probable emotion given one cue or both (the Bayes rule); the first if several are equally probable."""

    def likelihood(emotion: str) -> int:
        seen = VISUAL[emotion].get(visual, 0) if visual else DRAWS
        heard = VOCAL[emotion].get(vocal, 0) if vocal else DRAWS
        return seen * heard

    return max(EMOTIONS, key=likelihood)


def read_cues(data: bytes) -> tuple[str, str]:
    """The visual and the vocal cue of an encoded clip, measured on its pixels and samples."""
    from emofuse.features import media

    frames = media.read_frames(data, face.REST + face.APEX)
    return face.read(frames), voice.read(media.read_audio(data, voice.SAMPLE_RATE))
