"""The demo corpus: names, probabilities, and that the cues of a clip can be read back from it."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from pathlib import Path, PurePosixPath

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emofuse import datasets
from emofuse.config import Corpus, Demo
from emofuse.datasets import base, demo
from emofuse.datasets.demo import face as demo_face
from emofuse.datasets.demo import voice as demo_voice
from emofuse.features import media

SEED = 7  # not that of the demo in params.yaml


@pytest.fixture(scope="module")
def clips() -> dict[str, bytes]:
    """The eight emotions of six actors, once each."""
    return {name: encode() for name, encode in demo.members(Demo(seed=SEED, actors=6, takes=1), 0, 1)}


@given(st.integers(1, 99), st.sampled_from(demo.EMOTIONS), st.integers(1, 99))
def test_name_gives_the_labels(actor: int, emotion: str, take: int) -> None:
    stem = f"demo-{actor:02d}-{emotion}-{take:02d}"
    clip = demo.DATASET.parse(stem)
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
def test_any_other_name_is_refused(stem: str) -> None:
    with pytest.raises(base.NotAClip):
        demo.DATASET.parse(stem)


def test_fewer_emotions_leave_the_other_clips_as_they_are(clips: dict[str, bytes]) -> None:
    section = Demo(seed=SEED, actors=6, takes=1, emotions=["sad", "calm"])
    chosen = dict(demo.members(section, 0, 1))
    bayes = json.loads(chosen.pop("bayes.json")())
    assert list(chosen) == [name for name in clips if "-sad-" in name or "-calm-" in name]
    name = next(iter(chosen))
    assert chosen[name]() == clips[name]
    corpus = Corpus.model_validate(
        {"kind": "demo", "title": "t", "demo": section, "modalities": ["audio"], "audio": {}}
        | {"protocols": {"kfold_2": [0]}, "variants": ["proposed"]}
    )
    dataset = datasets.of(corpus, Path())
    assert dataset.emotions == ("sad", "calm")
    assert dataset.bayes_accuracy(corpus) == bayes
    assert dataset.parse("demo-03-calm-02").emotion == "calm"
    with pytest.raises(base.NotAClip, match="happy is not among the emotions sad, calm"):
        dataset.parse("demo-03-happy-02")
    assert corpus.classes == {"emotions": ["sad", "calm"]}
    whole = corpus.model_copy(update={"demo": Demo(seed=SEED)})
    assert (whole.classes, whole.clips["demo"]) == ({}, {"seed": SEED, "actors": 24, "takes": 4})


@pytest.mark.parametrize(
    ("emotions", "message"),
    [
        (["sad"], "emotions"),
        (["sad", "sad"], "emotions: an emotion is listed twice"),
        (["sad", "bored"], "emotions: there is no 'bored'; there are neutral,"),
    ],
)
def test_wrong_emotions_are_refused(emotions: list[str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Demo.model_validate({"emotions": emotions})


def test_emotions_are_those_of_ravdess_in_its_order() -> None:
    assert demo.EMOTIONS == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


def test_probabilities_sum_to_one_and_cues_are_known() -> None:
    for table, known in ((demo.VISUAL, demo_face.CUES), (demo.VOCAL, demo_voice.CUES)):
        assert tuple(table) == demo.EMOTIONS
        assert all(sum(chances.values()) == demo.DRAWS and set(chances) <= set(known) for chances in table.values())
        assert set().union(*table.values()) == set(known)


SUBSETS = (demo.EMOTIONS, ("sad", "happy"), ("disgust", "angry", "calm", "neutral", "surprised"))


@pytest.mark.parametrize("emotions", SUBSETS, ids=len)
def test_bayes_accuracies_equal_those_by_enumeration(emotions: tuple[str, ...]) -> None:
    """Counts all 20 × 20 draws of every emotion; for each observation the most frequent emotion is correct."""

    def draws(table: dict[str, dict[str, int]], emotion: str) -> list[str]:
        return [cue for cue, times in table[emotion].items() for _ in range(times)]

    seen: dict[str, dict[object, Counter[str]]] = {"video": {}, "audio": {}, "audio_video": {}}
    for emotion in emotions:
        for visual, vocal in itertools.product(draws(demo.VISUAL, emotion), draws(demo.VOCAL, emotion)):
            for what, cue in (("video", visual), ("audio", vocal), ("audio_video", (visual, vocal))):
                seen[what].setdefault(cue, Counter())[emotion] += 1
    counted = {
        what: sum(max(places.values()) for places in cues.values()) / (len(emotions) * demo.DRAWS**2)
        for what, cues in seen.items()
    }
    assert demo.bayes(emotions) == counted
    if emotions == demo.EMOTIONS:
        assert counted == {"audio": 113 / 160, "video": 115 / 160, "audio_video": 3023 / 3200}


def test_each_modality_separates_what_the_other_confuses() -> None:
    accuracy = demo.bayes()
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


def test_draws_follow_the_probabilities_and_the_bayes_rule_reaches_the_bayes_accuracy() -> None:
    places = list(itertools.product(range(1, 100), demo.EMOTIONS, range(1, 13)))
    drawn = [(emotion, *demo.cues(SEED, actor, emotion, take)) for actor, emotion, take in places]
    each = len(places) / len(demo.EMOTIONS)
    pairs = Counter(drawn)
    for emotion, visual, vocal in itertools.product(demo.EMOTIONS, demo_face.CUES, demo_voice.CUES):
        # The cues are independent given the emotion.
        chance = demo.VISUAL[emotion].get(visual, 0) * demo.VOCAL[emotion].get(vocal, 0) / demo.DRAWS**2
        spread = np.sqrt(chance * (1 - chance) / each)
        assert abs(pairs[emotion, visual, vocal] / each - chance) <= 5 * spread

    promised = demo.bayes()
    for what, sees, hears in (("video", True, False), ("audio", False, True), ("audio_video", True, True)):
        right = np.mean([e == demo.guess(v if sees else None, a if hears else None) for e, v, a in drawn])
        assert right == pytest.approx(promised[what], abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 30), st.integers(1, 3), st.integers(1, 12))
def test_shards_are_runs_of_consecutive_actors(actors: int, takes: int, shards: int) -> None:
    settings = Demo(seed=SEED, actors=actors, takes=takes)
    made = [[name for name, _ in demo.members(settings, shard, shards)] for shard in range(shards)]
    stems = []
    for names in made:
        assert names == sorted(names)
        assert names[-1] == "bayes.json"
        stems += [PurePosixPath(name).stem for name in names[:-1]]
        for name in names[:-1]:
            assert PurePosixPath(name).parent.name == f"Actor_{demo.DATASET.parse(PurePosixPath(name).stem).actor:02d}"
    order = [demo.DATASET.parse(stem).actor for stem in stems]
    assert order == sorted(order)
    assert len(set(stems)) == len(stems) == actors * 8 * takes
    sizes = [len(names) for names in made]
    assert max(sizes) - min(sizes) <= 8 * takes


def test_clip_is_the_same_in_all_corpora_with_its_seed(clips: dict[str, bytes]) -> None:
    other = demo.members(Demo(seed=SEED, actors=12, takes=2), 2, 6)
    again = {name: encode() for name, encode in other[:4]}  # two takes of two emotions of actor 5
    shared = set(again) & set(clips)
    assert shared == {"Actor_05/demo-05-angry-01.mp4", "Actor_05/demo-05-calm-01.mp4"}
    assert all(again[name] == clips[name] for name in shared)
    assert len(set(again.values())) == 4


def test_seed_determines_pixels_and_samples() -> None:
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


def test_bayes_accuracies_are_in_the_shard(clips: dict[str, bytes]) -> None:
    assert json.loads(clips["bayes.json"]) == demo.bayes()


def test_cues_survive_encoding(clips: dict[str, bytes]) -> None:
    """The cues, and with them the Bayes rule's answers, can be read from pixels and samples of six actors."""
    right = []
    for name, data in clips.items():
        if name.endswith(".mp4"):
            clip = demo.DATASET.parse(PurePosixPath(name).stem)
            drawn = demo.cues(SEED, clip.actor, clip.emotion, int(clip.repetition))
            read = demo.read_cues(data)
            right.append((read[0] == drawn[0], read[1] == drawn[1], demo.guess(*read) == demo.guess(*drawn)))
    assert len(right) == 48
    assert (np.mean(right, axis=0) >= 0.95).all()


def test_every_cue_can_be_read_from_every_type_of_actor() -> None:
    """Including the rarely drawn ones."""
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
