"""Folds: nobody, and no recording, is on two sides."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from emofuse.data import protocols, splits
from emofuse.utils.errors import UserError

EMOTIONS = ("happy", "sad", "angry")


def make_clips(actors: int, takes: int = 2, shared: tuple[tuple[int, int], ...] = ()) -> list[splits.Row]:
    """Clips of every actor and emotion; `shared` pairs of actors have one recording in common."""
    clips = [
        {
            "clip": f"{actor}-{emotion}-{take}",
            "actor": str(actor),
            "gender": "male" if actor % 2 else "female",
            "emotion": emotion,
            "group": f"{actor}-{emotion}-{take}",
        }
        for actor, emotion, take in itertools.product(range(1, actors + 1), EMOTIONS, range(takes))
    ]
    by_name = {row["clip"]: row for row in clips}
    for one, two in shared:
        by_name[f"{two}-happy-0"]["group"] = by_name[f"{one}-happy-0"]["group"]
    return clips


@given(st.integers(4, 30), st.integers(2, 4), st.integers(0, 99))
def test_kfold_tests_every_actor_once_and_spreads_the_genders(actors: int, folds: int, seed: int) -> None:
    genders = {actor: "male" if actor % 2 else "female" for actor in range(1, actors + 1)}
    dealt = splits.kfold(genders, folds, seed)
    assert sorted(itertools.chain(*dealt.values())) == sorted(genders)
    for gender in ("male", "female"):
        counts = [sum(genders[actor] == gender for actor in group) for group in dealt.values()]
        assert max(counts) - min(counts) <= 1
    assert dealt == splits.kfold(genders, folds, seed)


@given(st.integers(6, 16), st.integers(2, 3), st.integers(1, 2), st.integers(0, 9), st.data())
def test_no_actor_and_no_recording_is_on_two_sides(
    actors: int, folds: int, validation: int, seed: int, data: st.DataObject
) -> None:
    pair = st.tuples(st.integers(1, actors), st.integers(1, actors))
    clips = make_clips(actors, shared=tuple(data.draw(st.lists(pair, max_size=3))))
    genders = {int(row["actor"]): row["gender"] for row in clips}
    published = {fold: {"test": group} for fold, group in splits.kfold(genders, folds, seed).items()}
    by_name = {row["clip"]: row for row in clips}
    for parts in splits.actor_folds(clips, published, validation, str(seed)).values():
        for key in ("actor", "group"):
            sides = [{by_name[clip][key] for clip in parts[part]} for part in splits.PARTS]
            assert not sides[0] & sides[1]
            assert not sides[0] & sides[2]
            assert not sides[1] & sides[2]
        assert len({by_name[clip]["actor"] for clip in parts["val"]}) <= validation
        assert parts["train"]


def test_validation_actors_are_balanced_and_do_not_depend_on_the_test_clips() -> None:
    training = {actor: "male" if actor % 2 else "female" for actor in range(1, 20)}
    chosen = splits.validation_actors(training, 4, "seed")
    assert Counter(training[actor] for actor in chosen) == {"male": 2, "female": 2}
    with pytest.raises(UserError, match="validation_actors"):
        splits.validation_actors(training, 19, "seed")


def test_a_published_protocol_keeps_its_own_validation_actors() -> None:
    protocol = protocols.read_protocol(ROOT / protocols.protocol_path("ravdess", "chumachenko_split"))
    parts = splits.actor_folds(make_clips(24), protocol, 4, "seed")[0]
    assert {clip.split("-")[0] for clip in parts["val"]} == {"11", "13", "18", "22"}
    assert {clip.split("-")[0] for clip in parts["test"]} == {"5", "10", "16", "19"}


def test_a_partial_corpus_shrinks_its_folds_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    protocol = protocols.read_protocol(ROOT / protocols.protocol_path("ravdess", "luna_jimenez_2022_5cv"))
    folds = splits.actor_folds(make_clips(8), protocol, 2, "seed")
    assert {clip.split("-")[0] for clip in folds[0]["test"]} == {"2", "5"}
    assert sorted(folds) == [0, 1, 3, 4]
    assert "2 of its 5 test actors" in caplog.text


@given(st.integers(2, 4), st.integers(0, 9))
def test_random_folds_are_as_large_as_those_by_actor_and_share_the_actors(folds: int, seed: int) -> None:
    clips = make_clips(8, takes=4)
    genders = {int(row["actor"]): row["gender"] for row in clips}
    published = {fold: {"test": group} for fold, group in splits.kfold(genders, folds, seed).items()}
    apart = splits.actor_folds(clips, published, 1, str(seed))
    made = splits.random_folds(clips, published, 1, str(seed))
    tested = [clip for parts in made.values() for clip in parts["test"]]
    assert sorted(tested) == sorted(row["clip"] for row in clips)
    by_name = {row["clip"]: row for row in clips}
    for fold, parts in made.items():
        for part, names in parts.items():
            assert len(set(names)) == len(names)
            count, wanted = (Counter(by_name[clip]["emotion"] for clip in each) for each in (names, apart[fold][part]))
            assert count == wanted
        actors = [{by_name[clip]["actor"] for clip in parts[part]} for part in ("train", "test")]
        assert len(actors[0] & actors[1]) >= 4


@given(st.integers(0, 30))
def test_random_folds_keep_a_recording_on_one_side(seed: int) -> None:
    clips = make_clips(6, takes=4, shared=((1, 2), (3, 4)))
    published = {fold: {"test": [2 * fold + 1, 2 * fold + 2]} for fold in range(3)}
    made = splits.random_folds(clips, published, 1, str(seed))
    for parts in made.values():
        sides = [{row["group"] for row in clips if row["clip"] in parts[part]} for part in splits.PARTS]
        assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]


def test_the_first_reason_is_the_one_that_is_given() -> None:
    index = [
        {"clip": "a", "sha256": "1", "status": "ok", "shard": "0"},
        {"clip": "b", "sha256": "2", "status": "wrong name", "shard": "0"},
        {"clip": "c", "sha256": "3", "status": "ok", "shard": "0"},
        {"clip": "d", "sha256": "4", "status": "ok", "shard": "0"},
    ]
    faces = {"a": {"row": "0", "status": "ok"}, "c": {"row": "1", "status": "no face"}}
    audio = {
        "a": {"row": "0", "status": "ok"},
        "c": {"row": "1", "status": "silent"},
        "d": {"row": "2", "status": "ok"},
    }
    rows = {row["clip"]: row for row in splits.join(index, {"faces": faces, "audio": audio})}
    assert [rows[clip]["usable"] for clip in "abcd"] == ["true", "false", "false", "false"]
    assert [rows[clip]["reason"] for clip in "abcd"] == ["", "wrong name", "no face", "not in the faces table"]
    assert (rows["a"]["faces_row"], rows["a"]["audio_row"]) == ("0", "0")
