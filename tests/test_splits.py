"""Folds: no actor and no recording is in two parts."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from emofuse.data import protocols, splits
from emofuse.utils.errors import UserError

EMOTIONS = ("happy", "sad", "angry")


def make_clips(actors: int, takes: int = 2, shared: tuple[tuple[int, int], ...] = ()) -> pd.DataFrame:
    """Clips of every actor and emotion; `shared` pairs of actors have one recording in common."""
    rows = [
        {
            "clip": f"{actor}-{emotion}-{take}",
            "actor": str(actor),
            "gender": "male" if actor % 2 else "female",
            "emotion": emotion,
            "group": f"{actor}-{emotion}-{take}",
        }
        for actor, emotion, take in itertools.product(range(1, actors + 1), EMOTIONS, range(takes))
    ]
    by_name = {row["clip"]: row for row in rows}
    for one, two in shared:
        by_name[f"{two}-happy-0"]["group"] = by_name[f"{one}-happy-0"]["group"]
    return pd.DataFrame(rows)


def parts_of(folds: pd.DataFrame, clips: pd.DataFrame) -> dict[int, dict[str, pd.DataFrame]]:
    """fold → part → rows of the clips."""
    joined = folds.astype({"clip": str}).merge(clips, on="clip", how="left")
    assert len(joined) == len(folds)
    return {fold: {part: rows[rows["part"] == part] for part in splits.PARTS} for fold, rows in joined.groupby("fold")}


def by_gender(clips: pd.DataFrame, folds: int, seed: int) -> splits.Protocol:
    genders = dict(zip(clips["actor"].astype(int), clips["gender"], strict=True))
    return {fold: {"test": group} for fold, group in splits.kfold(genders, folds, seed).items()}


@given(st.integers(4, 30), st.integers(2, 4), st.integers(0, 99))
def test_kfold_tests_every_actor_once_and_balances_the_genders(actors: int, folds: int, seed: int) -> None:
    genders = {actor: "male" if actor % 2 else "female" for actor in range(1, actors + 1)}
    assigned = splits.kfold(genders, folds, seed)
    assert sorted(itertools.chain(*assigned.values())) == sorted(genders)
    for gender in ("male", "female"):
        counts = [sum(genders[actor] == gender for actor in group) for group in assigned.values()]
        assert max(counts) - min(counts) <= 1
    assert assigned == splits.kfold(genders, folds, seed)


@given(st.integers(6, 16), st.integers(2, 3), st.integers(1, 2), st.integers(0, 9), st.data())
def test_no_actor_and_no_recording_is_in_two_parts(
    actors: int, folds: int, validation: int, seed: int, data: st.DataObject
) -> None:
    pair = st.tuples(st.integers(1, actors), st.integers(1, actors))
    clips = make_clips(actors, shared=tuple(data.draw(st.lists(pair, max_size=3))))
    split = splits.actor_folds(clips, by_gender(clips, folds, seed), validation, str(seed))
    for parts in parts_of(split, clips).values():
        for key in ("actor", "group"):
            train, val, test = (set(parts[part][key]) for part in splits.PARTS)
            assert not train & val | train & test | val & test
        assert parts["val"]["actor"].nunique() <= validation
        assert len(parts["train"])


def test_validation_actors_are_balanced_by_gender() -> None:
    training = {actor: "male" if actor % 2 else "female" for actor in range(1, 20)}
    chosen = splits.drawn(training, 4, "seed")
    assert Counter(training[actor] for actor in chosen) == {"male": 2, "female": 2}


def test_validation_actors_leave_some_to_train_on() -> None:
    with pytest.raises(UserError, match="validation_actors: 3 leave none of 3 training actors"):
        splits.actor_folds(make_clips(4), {0: {"test": [1]}}, 3, "seed")


def test_published_protocol_keeps_its_own_validation_actors() -> None:
    protocol = protocols.read_protocol(ROOT / protocols.protocol_path("ravdess", "chumachenko_split"))
    clips = make_clips(24)
    parts = parts_of(splits.actor_folds(clips, protocol, 4, "seed"), clips)[0]
    assert set(parts["val"]["actor"]) == {"11", "13", "18", "22"}
    assert set(parts["test"]["actor"]) == {"5", "10", "16", "19"}


def test_partial_corpus_shrinks_its_folds_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    protocol = protocols.read_protocol(ROOT / protocols.protocol_path("ravdess", "luna_jimenez_2022_5cv"))
    clips = make_clips(8)
    folds = parts_of(splits.actor_folds(clips, protocol, 2, "seed"), clips)
    assert set(folds[0]["test"]["actor"]) == {"2", "5"}
    assert sorted(folds) == [0, 1, 3, 4]
    assert "2 of its 5 test actors" in caplog.text


@given(st.integers(2, 4), st.integers(0, 9))
def test_random_folds_have_the_sizes_of_actor_folds_but_share_actors(folds: int, seed: int) -> None:
    clips = make_clips(8, takes=4)
    protocol = by_gender(clips, folds, seed)
    expected = parts_of(splits.actor_folds(clips, protocol, 1, str(seed)), clips)
    shared = parts_of(splits.random_folds(clips, protocol, 1, str(seed)), clips)
    tested = [clip for parts in shared.values() for clip in parts["test"]["clip"]]
    assert sorted(tested) == sorted(clips["clip"])
    for fold, parts in shared.items():
        for part, rows in parts.items():
            assert rows["clip"].is_unique
            assert Counter(rows["emotion"]) == Counter(expected[fold][part]["emotion"])
        assert len(set(parts["train"]["actor"]) & set(parts["test"]["actor"])) >= 4


@given(st.integers(0, 30))
def test_random_folds_keep_a_recording_in_one_part(seed: int) -> None:
    clips = make_clips(6, takes=4, shared=((1, 2), (3, 4)))
    protocol = {fold: {"test": [2 * fold + 1, 2 * fold + 2]} for fold in range(3)}
    for parts in parts_of(splits.random_folds(clips, protocol, 1, str(seed)), clips).values():
        train, val, test = (set(parts[part]["group"]) for part in splits.PARTS)
        assert not train & val | train & test | val & test


def test_folds_are_reproducible() -> None:
    """The published numbers depend on this choice of actors and clips."""
    clips = make_clips(8, takes=2, shared=((1, 2),))
    texts = [
        split(clips, by_gender(clips, 2, 1), 1, "kfold_2 1").to_csv(index=False)
        for split in (splits.actor_folds, splits.random_folds)
    ]
    assert [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts] == [
        "f75f5a4c576a2edc",
        "2878d046f3a92399",
    ]


def test_first_reason_is_reported() -> None:
    index = pd.DataFrame(
        [
            {"clip": "a", "sha256": "1", "status": "ok", "shard": "0"},
            {"clip": "b", "sha256": "2", "status": "wrong name", "shard": "0"},
            {"clip": "c", "sha256": "3", "status": "ok", "shard": "0"},
            {"clip": "d", "sha256": "4", "status": "ok", "shard": "0"},
        ]
    )
    faces = pd.DataFrame({"clip": ["a", "c"], "row": ["0", "1"], "status": ["ok", "no face"], "replaced": ["3", "0"]})
    audio = pd.DataFrame(
        [("a", "0", "301", "300.5", "ok"), ("c", "301", "0", "200.0", "silent"), ("d", "301", "99", "98.2", "ok")],
        columns=["clip", "row", "rows", "span", "status"],
    )
    clips = splits.join(index, {"faces": faces, "audio": audio})
    assert list(clips.columns) == list(splits.CLIP_COLUMNS)
    assert clips["usable"].tolist() == ["true", "false", "false", "false"]
    assert clips["reason"].tolist() == ["", "wrong name", "no face", "not in the faces table"]
    assert clips["faces_row"].tolist() == ["0", "", "1", ""]
    assert clips["audio_row"].tolist() == ["0", "", "301", "301"]
    assert clips["audio_rows"].tolist() == ["301", "", "0", "99"]
    assert clips["audio_span"].tolist() == ["300.5", "", "200.0", "98.2"]
    assert clips["replaced"].tolist() == ["3", "", "0", ""]
