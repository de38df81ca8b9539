"""The demo corpus: its names, its chances, and that what was put into a clip can be read out of it."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from pathlib import Path, PurePosixPath
from unittest import mock

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emofuse.config import Demo
from emofuse.datasets import base, demo
from emofuse.datasets.demo import face as demo_face
from emofuse.datasets.demo import voice as demo_voice
from emofuse.features import media

SEED = 7  # not the seed that results are judged on


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    """The eight emotions of six actors, once each."""
    return dict(demo.make_shard(Demo(seed=SEED, actors=6, takes=1), 0, 1))


@given(st.integers(1, 99), st.sampled_from(demo.EMOTIONS), st.integers(1, 99))
def test_a_name_is_read_back(actor: int, emotion: str, take: int) -> None:
    stem = f"demo-{actor:02d}-{emotion}-{take:02d}"
    clip = demo.parse(stem)
    assert (clip.clip, clip.actor, clip.emotion, int(clip.repetition)) == (stem, actor, emotion, take)
    assert clip.gender == ("male" if actor % 2 else "female")


@pytest.mark.parametrize(
    "stem",
    [
        "",
        "bayes",
        "demo-3-happy-02",
        "demo-00-happy-02",
        "demo-03-happy-00",
        "demo-03-joyful-02",
        "demo-03-Happy-02",
        "demo-03-happy-02 ",
        "demo-03-happy-02\n",
        "demo-03-happy-002",
        "demo-٠٣-happy-02",
        "x-demo-03-happy-02",
        "03-01-03-01-01-01-03",
    ],
)
def test_another_name_is_no_clip(stem: str) -> None:
    with pytest.raises(base.NotAClip):
        demo.parse(stem)


def test_emotions_are_those_of_ravdess_in_its_order() -> None:
    assert demo.EMOTIONS == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


def test_the_chances_are_whole_and_of_known_cues() -> None:
    for table, known in ((demo.VISUAL, demo_face.CUES), (demo.VOCAL, demo_voice.CUES)):
        assert tuple(table) == demo.EMOTIONS
        assert all(sum(chances.values()) == demo.DRAWS and set(chances) <= set(known) for chances in table.values())
        assert set().union(*table.values()) == set(known)


def test_bayes_accuracies_are_those_counted_one_by_one() -> None:
    """Every one of the 20 × 20 draws of every emotion, put where it is seen; the commonest emotion there is right."""

    def draws(table: dict[str, dict[str, int]], emotion: str) -> list[str]:
        return [cue for cue, times in table[emotion].items() for _ in range(times)]

    seen: dict[str, dict[object, Counter[str]]] = {"video": {}, "audio": {}, "audio_video": {}}
    for emotion in demo.EMOTIONS:
        for visual, vocal in itertools.product(draws(demo.VISUAL, emotion), draws(demo.VOCAL, emotion)):
            for what, cue in (("video", visual), ("audio", vocal), ("audio_video", (visual, vocal))):
                seen[what].setdefault(cue, Counter())[emotion] += 1
    counted = {
        what: sum(max(places.values()) for places in cues.values()) / (8 * demo.DRAWS**2) for what, cues in seen.items()
    }
    assert demo.bayes(Demo()) == counted
    assert counted == {"audio": 113 / 160, "video": 115 / 160, "audio_video": 3023 / 3200}


def test_each_modality_separates_what_the_other_confuses() -> None:
    accuracy = demo.bayes(Demo())
    assert all(0.70 <= accuracy[alone] <= 0.78 for alone in ("audio", "video"))
    assert 0.92 <= accuracy["audio_video"] <= 0.96

    def confused(table: dict[str, dict[str, int]]) -> set[frozenset[str]]:
        """Pairs of emotions that share more than half of their draws."""
        return {
            frozenset(pair)
            for pair in itertools.combinations(demo.EMOTIONS, 2)
            if sum(min(n, table[pair[1]].get(cue, 0)) for cue, n in table[pair[0]].items()) > demo.DRAWS / 2
        }

    assert len(confused(demo.VISUAL)) == len(confused(demo.VOCAL)) == 2
    assert not confused(demo.VISUAL) & confused(demo.VOCAL)


def test_the_draws_follow_the_chances_and_the_bayes_rule_gets_what_is_promised() -> None:
    places = list(itertools.product(range(1, 100), demo.EMOTIONS, range(1, 13)))
    drawn = [(emotion, *demo.cues(SEED, actor, emotion, take)) for actor, emotion, take in places]
    each = len(places) / len(demo.EMOTIONS)
    pairs = Counter(drawn)
    for emotion, visual, vocal in itertools.product(demo.EMOTIONS, demo_face.CUES, demo_voice.CUES):
        # Independent, given the emotion.
        chance = demo.VISUAL[emotion].get(visual, 0) * demo.VOCAL[emotion].get(vocal, 0) / demo.DRAWS**2
        spread = np.sqrt(chance * (1 - chance) / each)
        assert abs(pairs[emotion, visual, vocal] / each - chance) <= 5 * spread

    promised = demo.bayes(Demo())
    for what, sees, hears in (("video", True, False), ("audio", False, True), ("audio_video", True, True)):
        right = np.mean([e == demo.guess(v if sees else None, a if hears else None) for e, v, a in drawn])
        assert right == pytest.approx(promised[what], abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 30), st.integers(1, 3), st.integers(1, 12))
def test_shards_are_runs_of_consecutive_actors(actors: int, takes: int, shards: int) -> None:
    settings = Demo(seed=SEED, actors=actors, takes=takes)
    with (
        mock.patch.object(demo, "render", return_value=(np.empty(0), np.empty(0))),
        mock.patch.object(media, "write_clip", lambda path, *clip: Path(path).write_bytes(b"clip")),
    ):
        made = [[name for name, _ in demo.make_shard(settings, shard, shards)] for shard in range(shards)]
    stems = []
    for names in made:
        assert names == sorted(names)
        assert names[-1] == "bayes.json"
        stems += [PurePosixPath(name).stem for name in names[:-1]]
        for name in names[:-1]:
            assert PurePosixPath(name).parent.name == f"Actor_{demo.parse(PurePosixPath(name).stem).actor:02d}"
    order = [demo.parse(stem).actor for stem in stems]
    assert order == sorted(order)
    assert len(set(stems)) == len(stems) == actors * 8 * takes
    sizes = [len(names) for names in made]
    assert max(sizes) - min(sizes) <= 8 * takes


def test_there_is_no_shard_beyond_the_last() -> None:
    with pytest.raises(ValueError, match="shard 2 of 2"):
        next(demo.make_shard(Demo(), 2, 2))


def test_a_clip_is_the_same_in_every_corpus_of_its_seed(clips: dict[str, bytes]) -> None:
    heard = []
    other = demo.make_shard(Demo(seed=SEED, actors=12, takes=2), 2, 6, progress=lambda *step: heard.append(step))
    again = dict(itertools.islice(other, 4))  # two takes of two emotions of actor 5
    shared = set(again) & set(clips)
    assert shared == {"Actor_05/demo-05-angry-01.mp4", "Actor_05/demo-05-calm-01.mp4"}
    assert all(again[name] == clips[name] for name in shared)
    assert heard == [(1, 32), (2, 32), (3, 32)]  # the fourth is not asked on
    assert len(set(again.values())) == 4


def test_the_seed_decides_pixels_and_samples() -> None:
    frames, samples = demo.render(SEED, 3, "happy", 2)
    same_frames, same_samples = demo.render(SEED, 3, "happy", 2)
    assert np.array_equal(frames, same_frames)
    assert np.array_equal(samples, same_samples)
    for place in ((SEED + 1, 3, "happy", 2), (-1, 3, "happy", 2), (SEED, 5, "happy", 2), (SEED, 3, "happy", 1)):
        other_frames, other_samples = demo.render(*place)
        assert not np.array_equal(frames[:30], other_frames[:30])
        assert not np.array_equal(samples[:1000], other_samples[:1000])


def test_clips_are_h264_with_sound(clips: dict[str, bytes]) -> None:
    for data in list(clips.values())[:3]:
        streams = media.probe(data)
        assert streams.video
        assert streams.audio
        assert 1.4 < streams.duration < 1.75
        with av.open(io.BytesIO(data)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, video.width, video.height) == ("h264", demo_face.SIZE, demo_face.SIZE)
            assert video.average_rate == demo_face.RATE
            assert (audio.codec_context.name, audio.rate) == ("aac", demo_voice.SAMPLE_RATE)
        assert media.read_frames(data, [0.0, 1.0]).std() > 20
        samples = media.read_audio(data, demo_voice.SAMPLE_RATE)
        assert 0.01 < samples.std() < 0.5


def test_bayes_accuracies_lie_beside_the_clips(clips: dict[str, bytes]) -> None:
    assert json.loads(clips["bayes.json"]) == demo.bayes(Demo())


def test_the_cues_survive_encoding(clips: dict[str, bytes]) -> None:
    """Read from pixels and samples alone, over six actors: the cues, and with them the Bayes rule's answers."""
    right = []
    for name, data in clips.items():
        if name.endswith(".mp4"):
            clip = demo.parse(PurePosixPath(name).stem)
            drawn = demo.cues(SEED, clip.actor, clip.emotion, int(clip.repetition))
            read = demo.read_cues(data)
            right.append((read[0] == drawn[0], read[1] == drawn[1], demo.guess(*read) == demo.guess(*drawn)))
    assert len(right) == 48
    assert (np.mean(right, axis=0) >= 0.95).all()


def test_every_cue_is_read_on_every_kind_of_actor() -> None:
    """The cues that the tables draw seldom, too."""
    for actor in (1, 2, 3, 4):
        actor_rng = np.random.default_rng([SEED, actor])
        looks = demo_face.Looks.draw(actor_rng, female=actor % 2 == 0)
        timbre = demo_voice.Timbre.draw(actor_rng, female=actor % 2 == 0)
        times = [round(t * demo_face.RATE) for t in demo_face.REST + demo_face.APEX]
        for cue in demo_face.CUES:
            frames = demo_face.render(cue, looks, np.random.default_rng(actor), 38)
            assert frames.shape == (38, demo_face.SIZE, demo_face.SIZE, 3)
            assert demo_face.read(frames[times]) == cue
        for cue in demo_voice.CUES:
            assert demo_voice.read(demo_voice.render(cue, timbre, np.random.default_rng(actor), 1.5)) == cue
