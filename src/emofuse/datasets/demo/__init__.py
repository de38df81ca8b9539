"""The demo corpus: made faces and voices whose emotions can be told exactly as well as is known.

Each emotion shows one of six visual cues and sounds one of six vocal cues, drawn independently given the
emotion with the chances below. So the best possible accuracy from sight, from sound and from both, the
Bayes accuracy, is arithmetic. Each modality alone confuses emotions that the other tells apart. Which
emotions are alike is invented, and unlike valence and arousal on purpose: a learned emotional metric
has something to find out.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emofuse.datasets.base import Clip, NotAClip
from emofuse.datasets.demo import face as demo_face
from emofuse.datasets.demo import voice as demo_voice
from emofuse.features import media

if TYPE_CHECKING:
    from emofuse.config import Demo

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")

# The confusion tables: in how many of 20 draws an emotion shows, or sounds, a cue.
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


def parse(stem: str) -> Clip:
    """What a clip's name says: `demo-<actor>-<emotion>-<take>`; odd actors are male, even ones female.

    Raises `NotAClip` for any other name.
    """
    match = _STEM.fullmatch(stem)
    if not match:
        raise NotAClip("not demo-<two digits of actor>-<emotion>-<two digits of take>")
    actor, emotion, take = int(match[1]), match[2], match[3]
    if not actor or take == "00":
        raise NotAClip("actors and takes are counted from 01")
    gender = "female" if actor % 2 == 0 else "male"
    return Clip(stem, actor, gender, emotion, intensity="normal", statement="syllables", repetition=take)


def _name(actor: int, emotion: str, take: int) -> str:
    return f"demo-{actor:02d}-{emotion}-{take:02d}"


def _generator(seed: int, actor: int, emotion: str | None = None, take: int = 0) -> np.random.Generator:
    """Each actor's and each clip's own random numbers, so that none depends on which others are made."""
    place = 0 if emotion is None else 1 + EMOTIONS.index(emotion)
    return np.random.default_rng([seed % 2**64, actor, place, take])


def _draw(rng: np.random.Generator, chances: dict[str, int]) -> str:
    return list(chances)[int(np.searchsorted(np.cumsum(list(chances.values())), rng.integers(DRAWS), side="right"))]


def cues(seed: int, actor: int, emotion: str, take: int) -> tuple[str, str]:
    """The visual and the vocal cue that a clip was made from."""
    rng = _generator(seed, actor, emotion, take)
    return _draw(rng, VISUAL[emotion]), _draw(rng, VOCAL[emotion])


def render(seed: int, actor: int, emotion: str, take: int) -> tuple[np.ndarray, np.ndarray]:
    """A clip before it is encoded.

    Returns frames, uint8 (T, H, W, 3) RGB at `demo_face.RATE` a second, and samples, float32 (samples,) at
    `demo_voice.SAMPLE_RATE` Hz.
    """
    actor_rng, rng = _generator(seed, actor), _generator(seed, actor, emotion, take)
    visual, vocal = _draw(rng, VISUAL[emotion]), _draw(rng, VOCAL[emotion])
    looks = demo_face.Looks.draw(actor_rng, female=actor % 2 == 0)
    timbre = demo_voice.Timbre.draw(actor_rng, female=actor % 2 == 0)
    # The length is drawn before anything that hangs on a cue, and the face takes no notice of the voice:
    # nothing but the two cues may tell the emotion.
    count = int(rng.integers(37, 41))
    face_rng, voice_rng = rng.spawn(2)
    frames = demo_face.render(visual, looks, face_rng, count)
    return frames, demo_voice.render(vocal, timbre, voice_rng, count / demo_face.RATE)


def make_shard(
    demo: Demo, shard: int, shards: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, bytes]]:
    """Make the clips of one of `shards` runs of consecutive actors, and `bayes.json`.

    Yields (name, bytes) in order of name. A clip depends on the seed, its actor, emotion and take alone.
    `progress` hears how many clips of how many are made.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"shard {shard} of {shards}")
    actors = range(1 + shard * demo.actors // shards, 1 + (shard + 1) * demo.actors // shards)
    wanted = [(a, e, t) for a in actors for e in sorted(EMOTIONS) for t in range(1, demo.takes + 1)]
    with tempfile.TemporaryDirectory(prefix="emofuse-") as folder:
        path = Path(folder) / "clip.mp4"
        for made, (actor, emotion, take) in enumerate(wanted, 1):
            frames, samples = render(demo.seed, actor, emotion, take)
            media.write_clip(path, frames, demo_face.RATE, samples, demo_voice.SAMPLE_RATE)
            yield f"Actor_{actor:02d}/{_name(actor, emotion, take)}.mp4", path.read_bytes()
            if progress is not None:
                progress(made, len(wanted))
    yield "bayes.json", (json.dumps(bayes(demo), indent=2) + "\n").encode()


def bayes(demo: Demo) -> dict[str, float]:
    """The highest accuracy that any reader can expect, for `audio`, `video` and `audio_video`.

    Emotions are equally many, and takes are drawn one by one: the answer holds for every seed and size.
    """
    sight = {cue: {e: Fraction(VISUAL[e].get(cue, 0), DRAWS) for e in EMOTIONS} for cue in demo_face.CUES}
    sound = {cue: {e: Fraction(VOCAL[e].get(cue, 0), DRAWS) for e in EMOTIONS} for cue in demo_voice.CUES}

    def best(likelihoods: list[dict[str, Fraction]]) -> float:
        """Of each observation the likeliest emotion is right."""
        return float(sum(max(chances.values()) for chances in likelihoods) / len(EMOTIONS))

    both = [{e: a[e] * v[e] for e in EMOTIONS} for a in sound.values() for v in sight.values()]
    return {"audio": best(list(sound.values())), "video": best(list(sight.values())), "audio_video": best(both)}


def guess(visual: str | None, vocal: str | None) -> str:
    """The likeliest emotion given one cue or both: the Bayes rule, the first of equals."""

    def chance(emotion: str) -> int:
        seen = VISUAL[emotion].get(visual, 0) if visual else DRAWS
        heard = VOCAL[emotion].get(vocal, 0) if vocal else DRAWS
        return seen * heard

    return max(EMOTIONS, key=chance)


def read_cues(data: bytes) -> tuple[str, str]:
    """The visual and the vocal cue of an encoded clip, measured on its pixels and samples."""
    frames = media.read_frames(data, demo_face.REST + demo_face.APEX)
    return demo_face.read(frames), demo_voice.read(media.read_audio(data, demo_voice.SAMPLE_RATE))
