"""The index of clips: labels, streams, hashes, and the reasons why clips are unusable."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import struct
import time
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from test_corpora import VOTES, corpus

from emofuse import paths
from emofuse.data import index
from emofuse.data.download import clips
from emofuse.datasets import cremad, shards
from emofuse.features import media
from emofuse.utils.errors import UserError
from emofuse.utils.files import write_csv


def tone(seconds: float = 0.5, pitch: float = 440) -> bytes:
    """A wav file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16000)
        samples = (int(9000 * math.sin(2 * math.pi * pitch * n / 16000)) for n in range(int(seconds * 16000)))
        sound.writeframes(b"".join(struct.pack("<h", sample) for sample in samples))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An mp4 file with video and sound."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    frames = np.full((10, 64, 64, 3), 128, np.uint8)
    media.write_clip(path, frames, 20.0, np.zeros(8000, np.float32), 16000)
    return path.read_bytes()


def built(root: Path, name: str, section, *contents: dict[str, bytes]) -> list[dict[str, str]]:
    """The index of shards with these members."""
    for number, members in enumerate(contents):
        shards.write(root / "data" / name / "raw" / f"shard-{number}.zip", sorted(members.items()))
    path = root / paths.index(name)
    write_csv(path, index.build(name, section, root))
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_index_row_describes_a_clip(tmp_path: Path) -> None:
    clip = "Actor_12/03-01-06-02-02-01-12.wav"
    sound = tone()
    section = corpus("ravdess", modalities=["audio"], shards=[0, 1])
    rows = built(tmp_path, "voices", section, {}, {clip: sound})
    assert rows == [
        {
            "clip": "03-01-06-02-02-01-12",
            "shard": "1",
            "file": clip,
            "sound": clip,
            "actor": "12",
            "gender": "female",
            "emotion": "fearful",
            "intensity": "strong",
            "statement": "dogs",
            "repetition": "1",
            "video": "false",
            "audio": "true",
            "duration": "0.500",
            "sha256": hashlib.sha256(sound).hexdigest(),
            "status": "ok",
        }
    ]


def test_each_bad_clip_has_a_reason_and_stops_nothing(tmp_path: Path, film: bytes) -> None:
    stem = "Actor_02/01-01-{:02d}-01-01-01-02.mp4"
    members = {
        stem.format(1): film,
        stem.format(2): b"",
        stem.format(3): b"no film at all" * 100,
        stem.format(4): tone(),
        stem.format(5): b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        stem.format(6): b"/annex/objects/SHA256E-s1--0.mp4\n",
        stem.format(7): b"\n<!DOCTYPE html><html>",
        "Actor_02/01-01-07-02-01-01-02.mp4": film.replace(b"avc1", b"zzzz").replace(b"mp4a", b"zzzz"),
        "Actor_02/01-01-08-01-01-01-02_crop.mp4": film,
        "Actor_02/smile.mp4": film,
    }
    rows = built(tmp_path, "films", corpus("ravdess", shards=[0]), members)
    status = {row["clip"]: row["status"] for row in rows}
    assert status == {
        "01-01-01-01-01-01-02": "ok",
        "01-01-02-01-01-01-02": "empty file",
        "01-01-03-01-01-01-02": status["01-01-03-01-01-01-02"],
        "01-01-04-01-01-01-02": "no video track",
        "01-01-05-01-01-01-02": "a pointer of Git LFS, not the clip: run `git lfs pull` in the repository that it comes from",
        "01-01-06-01-01-01-02": "a pointer of git-annex, not the clip: run `git annex get` in the repository that it comes from",
        "01-01-07-01-01-01-02": "a web page, not the clip: download it with a browser, which can log in or confirm",
        "01-01-07-02-01-01-02": status["01-01-07-02-01-01-02"],
        "Actor_02/01-01-08-01-01-01-02_crop.mp4": "wrong name: named like a copy of a clip, whose original is missing",
        "Actor_02/smile.mp4": "wrong name: not seven numbers of two digits with hyphens between",
    }
    assert status["01-01-03-01-01-01-02"].startswith("cannot be decoded")
    assert status["01-01-07-02-01-01-02"].startswith("cannot be decoded: the codec of its video is unknown")
    assert [row["clip"] for row in rows] == sorted(status)
    wrong = rows[-1]
    assert {wrong[label] for label in index.LABELS} == {""}


def test_clip_far_shorter_or_longer_than_a_sentence_is_unusable(tmp_path: Path) -> None:
    stem = "Actor_07/03-01-{:02d}-01-01-01-07.wav"
    members = {stem.format(n): tone(seconds) for n, seconds in enumerate((0.2, 0.3, 19.9, 20.2), 1)}
    rows = built(tmp_path, "voices", corpus("ravdess", modalities=["audio"], shards=[0]), members)
    assert [row["status"] for row in rows] == ["too short: 0.2 seconds", "ok", "ok", "too long: 20.2 seconds"]


def test_missing_modality_that_the_corpus_does_not_use_is_no_fault(tmp_path: Path, film: bytes) -> None:
    rows = built(
        tmp_path,
        "faces",
        corpus("ravdess", modalities=["video"], shards=[0]),
        {
            "Actor_02/01-01-01-01-01-01-02.mp4": film,
        },
    )
    assert rows[0]["status"] == "ok"


def test_copies_with_equal_labels_stay_usable(tmp_path: Path) -> None:
    section = corpus("ravdess", modalities=["audio"], shards=[0])
    members = {f"Actor_07/03-01-03-01-02-{n:02d}-07.wav": tone() for n in (1, 2)}
    rows = built(tmp_path, "voices", section, members)
    assert len({row["sha256"] for row in rows}) == 1
    assert [row["status"] for row in rows] == ["ok", "ok"]


def test_separate_sound_of_cremad_counts_for_streams_and_hash(tmp_path: Path, film: bytes) -> None:
    picture, sound = "VideoFlash/1001_DFA_ANG_XX.mp4", "AudioWAV/1001_DFA_ANG_XX.wav"
    wav = tone(1.0)
    section = corpus("cremad", sound="wav", shards=[0])
    rows = built(tmp_path, "acted", section, {picture: film, sound: wav})
    assert (rows[0]["file"], rows[0]["sound"], rows[0]["duration"]) == (picture, sound, "1.000")
    assert (rows[0]["video"], rows[0]["audio"], rows[0]["status"]) == ("true", "true", "ok")
    assert rows[0]["sha256"] == hashlib.sha256(film + wav).hexdigest()


def test_perceived_labels_of_cremad_are_those_of_the_crowd(tmp_path: Path, film: bytes) -> None:
    members = {f"VideoFlash/1001_DFA_{code}_XX.mp4": film for code in ("ANG", "HAP")}
    members[cremad.VOTES] = cremad.votes_on(VOTES, (1001,))
    rows = built(tmp_path, "acted", corpus("cremad", labels="perceived", shards=[0]), members)
    assert [(row["emotion"], row["status"]) for row in rows] == [("disgust", "ok"), ("", "its votes are tied")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "shard-0.zip is missing: run emofuse download voices 0"),
        (b"no zip", "shard-0.zip cannot be read"),
        (b"PK\5\6" + bytes(18), "there is no clip of voices in its shards"),
    ],
)
def test_shard_that_cannot_be_indexed_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "data" / "voices" / "raw" / "shard-0.zip"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        index.build("voices", corpus("ravdess", modalities=["audio"], shards=[0]), tmp_path)
    assert message in str(error.value)


def rows_of(name: str, section, source: Path, root: Path) -> list[dict[str, str]]:
    for shard in section.shards:
        clips.download(name, section, shard, str(source), root)
    return built(root, name, section)


def test_all_speech_recordings(tmp_path: Path, shared_data: Path) -> None:
    section = corpus("ravdess", modalities=["audio"], shards=list(range(8)))
    started = time.monotonic()
    rows = rows_of("voices", section, shared_data / "ravdess_speech_16k", tmp_path)
    assert time.monotonic() - started < 60
    assert len(rows) == 1440
    assert {row["status"] for row in rows} == {"ok"}
    assert set(Counter(row["actor"] for row in rows).values()) == {60}
    assert set(Counter(row["shard"] for row in rows).values()) == {180}
    hashes = Counter(row["sha256"] for row in rows)
    assert [row["clip"] for row in rows if hashes[row["sha256"]] > 1] == [
        "03-01-03-01-02-01-07",
        "03-01-03-01-02-02-07",
    ]
    # The same folder again, the same bytes.
    first = (tmp_path / "data" / "voices" / "index.csv").read_bytes()
    rows_of("voices", section, shared_data / "ravdess_speech_16k", tmp_path)
    assert (tmp_path / "data" / "voices" / "index.csv").read_bytes() == first


def test_real_films(tmp_path: Path, shared_data: Path) -> None:
    rows = rows_of("films", corpus("ravdess", shards=[0, 1]), shared_data / "ravdess_av", tmp_path)
    assert len(rows) == 7  # the eighth is of modality 02, pictures alone
    assert {(row["actor"], row["video"], row["audio"], row["status"]) for row in rows} == {("5", "true", "true", "ok")}
    assert all(2 < float(row["duration"]) < 5 for row in rows)


def test_real_cremad_clips(tmp_path: Path, shared_data: Path) -> None:
    section = corpus("cremad", shards=[0, 1])
    rows = rows_of("acted", section, shared_data / "cremad", tmp_path)
    assert [(row["clip"], row["emotion"], row["status"]) for row in rows] == [
        ("1001_DFA_ANG_XX", "angry", "ok"),
        ("1001_DFA_HAP_XX", "happy", "ok"),
        ("1001_DFA_NEU_XX", "neutral", "ok"),
        ("1001_DFA_SAD_XX", "sad", "ok"),
    ]
    assert all(1 < float(row["duration"]) < 4 for row in rows)
    perceived = rows_of("heard", corpus("cremad", shards=[0, 1], labels="perceived"), shared_data / "cremad", tmp_path)
    assert [row["emotion"] for row in perceived] == ["angry", "happy", "neutral", "neutral"]
