"""Corpora of kind table: metadata.csv, its mistakes, and what a source must have."""

from __future__ import annotations

import csv
import hashlib
import shutil
import unicodedata
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import ROOT
from faulty_server import serving
from hypothesis import given
from hypothesis import strategies as st

from emofuse import config, datasets, paths
from emofuse.config import Corpus, Params
from emofuse.data import index, splits
from emofuse.data.download import clips, http
from emofuse.datasets import table
from emofuse.utils.errors import UserError

TABLE = "corpora/voices/metadata.csv"
HEADER = "file,actor,emotion"
PEOPLE = ("anna", "boris", "chiara", "dmitri")
ROWS = [
    f"{actor}/{emotion}{take}.wav,{actor},{emotion}"
    for actor in PEOPLE
    for emotion in ("sad", "happy")
    for take in "12"
]


def section(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "table",
        "title": "voices",
        "table": {"metadata": TABLE, "emotions": ["happy", "sad"]},
        "modalities": ["audio"],
        "audio": {"bands": 32, "fft": 1024},
        "spectrogram": {"segments": 2, "frames": 32},
        "shards": [0, 1],
        "protocols": {"kfold_2": [0, 1]},
        "validation_actors": 1,
        "variants": ["audio_only"],
        **changes,
    }


def load(root: Path, content: str | bytes | None, /, **changes: Any) -> Params:
    """The parameters of a folder with one corpus and its table."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree |= {"corpora": {"voices": section(**changes)}, "paper": []}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    (root / TABLE).parent.mkdir(parents=True, exist_ok=True)
    if content is not None:
        (root / TABLE).write_bytes(content.encode() if isinstance(content, str) else content)
    return config.load(root / "params.yaml")


def lines(rows: list[str], header: str = HEADER) -> str:
    return "\n".join([header, *rows]) + "\n"


def source(root: Path, files: dict[str, bytes] | None = None) -> Path:
    """A folder with the clips of ROWS, each with its own bytes."""
    for path, data in (files or {row.split(",")[0]: row.encode() for row in ROWS}).items():
        (root / "source" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "source" / path).write_bytes(data)
    return root / "source"


MISTAKES = {
    "absent": (None, f"{TABLE} is missing: write it with the columns file, actor, emotion"),
    "empty": ("", f"{TABLE}: there is no column file in its first line (nothing)"),
    "no rows": (f"{HEADER}\n", f"{TABLE}: it lists no clips"),
    "no actor": (lines(ROWS, "file,speaker,emotion"), f"{TABLE}: there is no column actor in its first line"),
    "semicolons": (lines(ROWS).replace(",", ";"), f"{TABLE}: the cells are separated by semicolons; save it with commas"),
    "tabs": (lines(ROWS).replace(",", "\t"), f"{TABLE}: the cells are separated by tabs; save it with commas"),
    "Latin-1": (lines([*ROWS, "zoë.wav,anna,sad"]).encode("latin-1"), f"{TABLE}, line 18: it is not UTF-8; save the table as CSV UTF-8"),
    "UTF-16": (lines(ROWS).encode("utf-16"), f"{TABLE}, line 1: it is not UTF-8"),
    "zeros": (lines(ROWS).encode("utf-16-le"), f"{TABLE}: it is not a text file"),
    "empty cell": (lines([*ROWS, "x.wav,,sad"]), f"{TABLE}, line 18: the cell of actor is empty; fill it in"),
    "blank cell": (lines([*ROWS, "x.wav,anna, "]), f"{TABLE}, line 18: the cell of emotion is empty"),
    "short row": (lines([*ROWS, "x.wav,anna"]), f"{TABLE}, line 18: 2 cells for 3 columns"),
    "open quote": (lines([*ROWS, '"x.wav,anna,sad']), f"{TABLE}, line 18: unexpected end of data"),
    "column twice": (lines(ROWS, "file,actor,emotion").replace(HEADER, "file,actor,emotion,file", 1).replace("sad\n", "sad,x\n").replace("happy\n", "happy,x\n"), f"{TABLE}: there are two columns file; keep one"),
    "other emotion": (lines([*ROWS, "x.wav,anna,bored"]), f"{TABLE}, line 18: the emotion 'bored' is not among those in params.yaml, happy, sad"),
    "file twice": (lines([*ROWS, ROWS[0]]), f"{TABLE}, line 18: the clip anna/sad1 is on line 2 already"),
    "clip twice": (lines([*ROWS, "anna/sad1.mp3,anna,sad"]), f"{TABLE}, line 18: the clip anna/sad1 is on line 2 already"),
    "absolute path": (lines([*ROWS, "/x.wav,anna,sad"]), f"{TABLE}, line 18: /x.wav is not relative to the source"),
    "path above": (lines([*ROWS, "../x.wav,anna,sad"]), f"{TABLE}, line 18: ../x.wav is not relative to the source"),
    "drive": (lines([*ROWS, "C:\\x.wav,anna,sad"]), f"{TABLE}, line 18: C:\\x.wav is not relative to the source"),
    "one actor": (lines([row for row in ROWS if ",anna," in row]), f"{TABLE}: every clip is of actor anna; a model must be tested on other actors"),
    "numbers and names": (lines([*ROWS, "x.wav,7,sad"]), f"{TABLE}: actors are either numbers or names, not both (7 and "),
    "single clip": (lines([*(row for row in ROWS if "sad" not in row), "x.wav,anna,sad"]), f"{TABLE}, line 10: it is the only clip that is sad, which cannot be in training and test"),
    "no clip": (lines([row for row in ROWS if "sad" not in row]), f"{TABLE}: no clip is sad; remove it from the emotions in params.yaml"),
    "unprintable": (lines([*ROWS, "x.wav,an\x07na,sad"]), f"{TABLE}, line 18: actor 'an\\x07na' is too long or cannot be printed"),
    "long": (lines([*ROWS, f"x.wav,{'a' * 999},sad"]), f"{TABLE}, line 18: actor "),
    "bytes": (lines([f"{row},9" for row in ROWS] + ["x.wav,anna,sad,9 kB"], f"{HEADER},bytes"), f"{TABLE}, line 18: bytes '9 kB' is not a whole number"),
    "sha256": (lines([f"{row}," for row in ROWS] + ["x.wav,anna,sad,12ab"], f"{HEADER},sha256"), f"{TABLE}, line 18: sha256 '12ab' is not a SHA-256"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_in_the_table_has_a_line_of_its_own(tmp_path: Path, mistake: str) -> None:
    table, message = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        load(tmp_path, table)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@given(
    content=st.one_of(
        st.binary(max_size=300),
        st.text(max_size=300).map(str.encode),
        st.lists(
            st.lists(st.sampled_from(["a.wav", "x/b.wav", "anna", "2", "sad", "happy", "", '"', "é"]), max_size=5)
        ).map(lambda rows: lines([",".join(row) for row in rows]).encode()),
    )
)
def test_any_table_is_read_or_gives_one_line(content: bytes) -> None:
    message, rows = "", ()
    try:
        rows = table._rows(content, TABLE, ("happy", "sad"))
    except UserError as error:
        message = str(error)
    assert {row.clip.emotion for row in rows} == {"happy", "sad"} if rows else message.startswith(TABLE)
    assert not message or message.isprintable()


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"kind": "ravdess"}, "corpora.voices.table: required if and only if kind is table"),
    "folder": ({"table": {"metadata": "/tmp/metadata.csv", "emotions": ["happy", "sad"]}}, "corpora.voices.table.metadata: "),
    "emotion twice": ({"table": {"metadata": TABLE, "emotions": ["sad", "sad"]}}, "corpora.voices.table.emotions: an emotion is listed twice"),
    "actors": ({"actors": ["anna", "zoe"]}, f"corpora.voices.actors: there is no actor zoe in {TABLE}; remove it"),
    "folds": ({"protocols": {"kfold_5": [0]}}, "corpora.voices.protocols.kfold_5: 5 folds of 4 actors leave some empty"),
    "protocol": ({"protocols": {"halves": [0]}}, "corpora.voices.protocols.halves: no such protocol"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_contradictions_between_params_and_table_are_one_line(tmp_path: Path, change: str) -> None:
    changes, message = CHANGES[change]
    with pytest.raises(UserError) as caught:
        load(tmp_path, lines(ROWS), **changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "variant", "message"),
    [
        ({}, "audio_only", "set corpora.voices.loss.start: flat"),
        ({}, "polarity", "remove the variant"),
        ({"loss": {"start": "flat"}}, "audio_only", ""),
        ({}, "cross_entropy", ""),
    ],
)
def test_emotions_without_valence_need_a_loss_that_does_not_use_it(
    tmp_path: Path, changes: dict[str, Any], variant: str, message: str
) -> None:
    table = lines(ROWS).replace("sad", "bored")
    about = {"table": {"metadata": TABLE, "emotions": ["happy", "bored"]}, "network": {"modalities": ["audio"]}}
    if not message:
        assert load(tmp_path, table, variants=[variant], **about, **changes)
        return
    with pytest.raises(UserError, match=r"bored has no known valence and arousal, which .* needs") as caught:
        load(tmp_path, table, variants=[variant], **about, **changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "table",
    [
        lines(ROWS),
        "\ufeff" + lines(ROWS),
        lines(ROWS).replace("\n", "\r\n"),
        lines(ROWS).replace("/", "\\"),
        lines([row.replace(",", " , ") for row in ROWS], "file , actor, emotion"),
        lines([*ROWS[:3], "", ",,", *ROWS[3:]]),
        lines([f"{row},note, with a comma".replace("note, with a comma", '"note, with a comma"') for row in ROWS], f"{HEADER},note"),
        lines([",".join(f'"{cell}"' for cell in row.split(",")) for row in ROWS], '"file","actor","emotion"'),
    ],
)  # fmt: skip
def test_ways_of_saving_a_table_that_mean_the_same(tmp_path: Path, table: str) -> None:
    params = load(tmp_path, table)
    dataset = datasets.of(params.corpus("voices"), tmp_path)
    assert dataset.actors == PEOPLE
    found = {file for actor in PEOPLE for file in dataset.listed([actor])}
    assert found == {row.split(",")[0] for row in ROWS}


def downloaded(root: Path, params: Params, place: Path | str) -> dict[str, bytes]:
    """The members of all shards."""
    members = {}
    for shard in params.corpus("voices").shards:
        clips.download("voices", params.corpus("voices"), shard, str(place), root)
        with zipfile.ZipFile(root / paths.raw("voices", shard)) as archive:
            members |= {name: archive.read(name) for name in archive.namelist()}
    return members


def test_clips_are_found_in_folders_zips_and_below_other_folders(tmp_path: Path) -> None:
    params = load(tmp_path, lines(ROWS))
    expected = {row.split(",")[0]: row.encode() for row in ROWS}
    plain = source(tmp_path)
    assert downloaded(tmp_path, params, plain) == expected
    shutil.copytree(plain, tmp_path / "deep" / "a" / "b")
    assert downloaded(tmp_path, params, tmp_path / "deep") == expected
    shutil.make_archive(str(tmp_path / "all"), "zip", tmp_path / "deep")
    assert downloaded(tmp_path, params, tmp_path / "all.zip") == expected


def test_accents_of_macs_and_recordings_as_flac_are_found(tmp_path: Path) -> None:
    params = load(tmp_path, lines([*ROWS, "anna/zoë.wav,anna,sad"]))
    files = {row.split(",")[0].replace(".wav", ".flac"): row.encode() for row in ROWS}
    name = unicodedata.normalize("NFD", "anna/zoë.flac")
    found = downloaded(tmp_path, params, source(tmp_path, {**files, name: b"zoe"}))
    assert found == {**files, "anna/zoë.flac": b"zoe"}


def test_a_listed_clip_that_the_source_lacks_is_an_error(tmp_path: Path) -> None:
    params, place = load(tmp_path, lines(ROWS)), source(tmp_path)
    (place / "boris/sad1.wav").unlink()
    with pytest.raises(UserError) as caught:
        downloaded(tmp_path, params, place)
    assert str(caught.value) == f"{TABLE}, line 6: boris/sad1.wav is not in {place}; add the clip, or remove the line"


def test_other_files_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    params, place = load(tmp_path, lines(ROWS)), source(tmp_path)
    (place / "anna/extra.wav").write_bytes(b"?")
    (place / "readme.txt").write_text("?")
    with caplog.at_level("INFO"):
        assert "anna/extra.wav" not in downloaded(tmp_path, params, place)
    assert f"ignored: 1 file not in {TABLE}, such as anna/extra.wav" in caplog.text
    assert "ignored: 1 file of another type, such as readme.txt" in caplog.text


def test_without_a_source_the_message_says_how_to_name_one(tmp_path: Path) -> None:
    params = load(tmp_path, lines(ROWS))
    with pytest.raises(
        UserError, match=r"corpora.voices.source: missing; give the folder, .* set EMOFUSE_VOICES_SOURCE"
    ):
        clips.download("voices", params.corpus("voices"), 0, None, tmp_path)


def test_listed_files_are_downloaded_one_by_one_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [f"{row},{len(row)},{hashlib.sha256(row.encode()).hexdigest()}" for row in ROWS]
    params = load(tmp_path, lines(known, f"{HEADER},bytes,sha256"))
    with serving() as server:
        for row in ROWS:
            server.files[f"/clips/{row.split(',')[0]}"] = row.encode()
        expected = {row.split(",")[0]: row.encode() for row in ROWS}
        assert downloaded(tmp_path, params, f"{server.address}/clips") == expected
        shutil.rmtree(tmp_path / "data")
        monkeypatch.setattr(http, "BACKOFF", 0.001)
        server.files["/clips/anna/sad1.wav"] = ROWS[0].upper().encode()
        with pytest.raises(UserError, match=r"anna/sad1\.wav: the server sends something else: its sha256 is"):
            downloaded(tmp_path, params, f"{server.address}/clips")


def tone(path: Path, hertz: float) -> None:
    """A recording of a tone, a second long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (9000 * np.sin(2 * np.pi * hertz * np.arange(16000) / 16000)).astype("<i2")
    with wave.open(str(path), "wb") as stream:
        stream.setparams((1, 2, 16000, 0, "NONE", ""))
        stream.writeframes(samples.tobytes())


def test_the_same_recording_under_two_actors_is_excluded_with_the_reason(tmp_path: Path) -> None:
    params = load(tmp_path, lines(ROWS), max_unusable=0.2)
    for number, row in enumerate(ROWS):
        tone(tmp_path / "source" / row.split(",")[0], 200 + 20 * number)
    shutil.copy(tmp_path / "source/anna/sad1.wav", tmp_path / "source/boris/sad1.wav")
    downloaded(tmp_path, params, tmp_path / "source")
    table = index.build("voices", params.corpus("voices"), tmp_path).set_index("clip")
    assert table.loc["boris/sad1", "status"] == (
        "duplicate content: anna/sad1 is identical, but of another actor or emotion"
    )
    assert (table["status"] == "ok").sum() == len(ROWS) - 2


def test_folds_of_actors_with_names_share_none(tmp_path: Path) -> None:
    people = dict.fromkeys(PEOPLE, "")
    folds = splits.kfold(people, 2, 1)
    assert sorted(folds[0] + folds[1]) == list(PEOPLE)
    assert not set(folds[0]) & set(folds[1])


def test_a_protocol_that_names_a_stranger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "protocols" / "voices").mkdir(parents=True)
    (tmp_path / "protocols/voices/halves.csv").write_text("fold,part,actor\n0,test,anna\n0,test,zoe\n")
    with pytest.raises(UserError, match=r"halves.csv: actor zoe is not in corpora/voices/metadata.csv"):
        load(tmp_path, lines(ROWS), protocols={"halves": [0]})
    (tmp_path / "protocols/voices/halves.csv").write_text("fold,part,actor\n0,test,anna\n")
    assert load(tmp_path, lines(ROWS), protocols={"halves": [0]})


def registered(file: str) -> list[dict[str, str]]:
    with (ROOT / "corpora" / "javased" / file).open(newline="") as stream:
        return list(csv.DictReader(stream))


def javased(name: str) -> Corpus:
    return config.load(ROOT / "params.yaml").corpus(name)


@pytest.mark.parametrize(("name", "table"), [("javased", "metadata.csv"), ("javased_sound", "sound.csv")])
def test_the_registry_of_javased_is_complete(name: str, table: str) -> None:
    rows = registered(table)
    takes = 1 if name == "javased" else 7
    assert len(rows) == len({row["sha256"] for row in rows}) == 10 * 4 * 6 * takes
    assert {len([row for row in rows if row["actor"] == str(actor)]) for actor in range(1, 11)} == {24 * takes}
    dataset = datasets.of(javased(name), ROOT)
    files = dataset.remote([str(javased(name).source)], dataset.actors, javased(name))
    assert all(file.size and file.checksum.startswith("sha256:") for file in files)
    assert files[0].addresses[0].startswith("https://raw.githubusercontent.com/2black0/")
    assert not javased(name).show_faces
    assert "gender" not in rows[0]


def test_the_registry_of_javased_is_that_of_its_clips(shared_data: Path) -> None:
    for row in registered("metadata.csv"):
        data = (shared_data / "javased" / row["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (int(row["bytes"]), row["sha256"])


def test_a_folder_of_flac_files_is_a_source_of_the_recordings(
    tmp_path: Path, shared_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(ROOT / "corpora", tmp_path / "corpora")
    files = shutil.copytree(shared_data / "javased_sound_16k", tmp_path / "flac")
    changed = files / "10-01-01_01.flac"
    changed.unlink()
    shutil.copy(files / "10-01-01_02.flac", changed)
    with caplog.at_level("INFO"):
        clips.download("javased_sound", javased("javased_sound"), 3, str(files), tmp_path)
    with zipfile.ZipFile(tmp_path / paths.raw("javased_sound", 3)) as archive:
        assert len(archive.namelist()) == 3 * 168
        assert all(name.endswith(".flac") for name in archive.namelist())
    assert "javased_sound, shard 3: 1 of 504 files differ from the published ones" in caplog.text
