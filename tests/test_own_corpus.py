"""`emofuse corpus`: own clips become a corpus, by a pattern of their names or by EmoBox's metadata."""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex
import shutil
import wave
import zipfile
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from emofuse import config, datasets
from emofuse.cli import main
from emofuse.data import own_corpus
from emofuse.data.own_corpus import emobox, names, section
from emofuse.data.own_corpus.listing import read_maps
from emofuse.data.protocols import read_protocol
from emofuse.datasets import demo
from emofuse.datasets.demo import face, voice
from emofuse.evaluation import external
from emofuse.features import media
from emofuse.utils.errors import UserError

CODES = {"happy": "J", "sad": "T", "angry": "C"}
PATTERN = "{actor}_{emotion:1}{take:2}"
MAP = "emotion:J=joy,T=sad,C=anger"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with params.yaml, to which a corpus can be added."""
    for name in ("corpora", "protocols"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def film(path: Path, actor: int, emotion: str, take: int) -> None:
    """A clip of the demo, with any extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames, samples = demo.render(5, actor, emotion, take)
    media.write_clip(path.with_suffix(".mp4"), frames, face.RATE, samples, voice.SAMPLE_RATE)
    path.with_suffix(".mp4").rename(path)


def films(folder: Path, suffix: str = ".film", people: tuple[str, ...] = ("ana", "bo", "cy", "di", "ed")) -> Path:
    """Clips of some people in a folder, named in a way of their own."""
    for number, actor in enumerate(people, start=1):
        for emotion, code in CODES.items():
            for take in (1, 2):
                film(folder / f"session {number}" / f"{actor}_{code}{take:02d}{suffix}", number, emotion, take)
    return folder


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of `films`. Tests that add files use a copy."""
    return films(tmp_path_factory.mktemp("films") / "clips")


def write(root: Path, folder: Path, **options: Any) -> list[str]:
    arguments = {"name": None, "pattern": None, "metadata": None, "maps": {}, **options}
    return list(own_corpus.write(folder, root=root, **arguments))


def untouched(root: Path) -> bool:
    """Whether params.yaml, corpora/ and protocols/ are as in the repository, and nothing else is there."""
    same = (root / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    present = {path.relative_to(root) for path in root.glob("[!c]*/*/*")} | {
        path.relative_to(root) for path in root.glob("corpora/*")
    }
    expected = {path.relative_to(ROOT) for path in ROOT.glob("protocols/*/*")} | {
        path.relative_to(ROOT) for path in ROOT.glob("corpora/*")
    }
    return same and present == expected and not list(root.glob(".params*"))


def test_films_with_codes_in_their_names_become_a_corpus(root: Path, tmp_path: Path, clips: Path) -> None:
    folder = shutil.copytree(clips, tmp_path / "clips" / "Own Films!")
    (folder / "notes.txt").write_text("?")
    film(folder / "ana_X01.film", 1, "calm", 1)
    printed = write(root, folder, pattern=PATTERN, maps=read_maps([MAP]))
    assert printed[0] == "not listed: 1 file whose names do not fit --pattern, such as notes.txt"
    assert printed[1] == "not listed: 1 file with the emotion X, which --map does not mention, such as ana_X01.film"
    assert f"{folder}: 30 clips with video and audio, of 5 actors (ana, bo, cy, di, ed)" in printed
    corpus = config.load(root / "params.yaml").corpus("own_films")
    dataset = datasets.of(corpus, root)
    assert dataset.actors == ("ana", "bo", "cy", "di", "ed")
    assert dataset.emotions == ("happy", "sad", "angry")
    assert dataset.parse("session 2/bo_C01").emotion == "angry"
    assert dataset.parse("session 2/bo_C02").repetition == "02"
    assert corpus.protocols == {"kfold_5": [0, 1, 2, 3, 4]}
    before = yaml.safe_load((ROOT / "params.yaml").read_text())
    after = yaml.safe_load((root / "params.yaml").read_text())
    assert list(after["corpora"]) == [*before["corpora"], "own_films"]
    del after["corpora"]["own_films"]
    assert after == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--pattern is missing"),
        ({"pattern": "{actor}_{take}"}, "--pattern {actor}_{take}: it has no {emotion}"),
        ({"pattern": "{actor}_{Emotion}"}, "--pattern {actor}_{Emotion}: fields are {name} or {name:width}"),
        ({"pattern": "{actor}_{emotion"}, "--pattern {actor}_{emotion: fields are"),
        ({"pattern": PATTERN, "maps": {"sex": {"f": "female"}}}, "--map sex: --pattern has no {sex}"),
        ({"pattern": "{actor}-{emotion}"}, "no clip could be listed (30 files whose names do not fit --pattern, such as"),
        ({"pattern": PATTERN, "name": "My Corpus"}, "--name 'My Corpus': use small letters"),
        ({"pattern": PATTERN, "name": "demo"}, "params.yaml has a corpus demo already"),
        ({"pattern": PATTERN, "name": "javased_x", "maps": {"emotion": {"J": "joy", "T": "", "C": ""}}}, "corpora.javased_x.table.emotions: "),
        ({"pattern": "session {actor}/{person}_{emotion:1}{take}", "maps": {"actor": {"1": "a", "2": "a"}, "emotion": {"J": "happy", "T": "sad", "C": "sad"}}}, "1 actors (a) are too few"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_change_nothing(
    root: Path, clips: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        write(root, clips, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert untouched(root)


def test_a_folder_that_is_not_there_is_one_line(root: Path) -> None:
    with pytest.raises(UserError, match="FOLDER: there is no nowhere"):
        write(root, Path("nowhere"), pattern=PATTERN)


@pytest.mark.parametrize(
    "option", ["emotion", "emotion:", "emotion:01", "emotion:01=sad,", ":01=sad", "emotion:1=sad,1=happy"]
)
def test_a_map_that_cannot_be_read_is_one_line(option: str) -> None:
    with pytest.raises(UserError, match="--map"):
        read_maps([option])


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        ("{actor}-{sentence}-{emotion}_{take}.mp4", "a/b/01-02-03_04.MP4", {"actor": "01", "sentence": "02", "emotion": "03", "take": "04"}),
        ("{actor:2}{text:3}{emotion:1}{version:1}.wav", "wav/03a01Fa.wav", {"actor": "03", "text": "a01", "emotion": "F", "version": "a"}),
        ("{actor}/{emotion}{take:2}.wav", "DC/sa01.wav", {"actor": "DC", "emotion": "sa", "take": "01"}),
        ("{actor}/{emotion}/*", "x/sad/1.wav", None),
        ("{actor}_{word}_{emotion}", "OAF_back_angry.wav", {"actor": "OAF", "word": "back", "emotion": "angry"}),
        ("{emotion}/{actor}_{actor}.wav", "sad/x_x.wav", {"emotion": "sad", "actor": "x"}),
        ("{emotion}/{actor}_{actor}.wav", "sad/x_y.wav", None),
        ("{actor}-{emotion}.wav", "1-sad.wav.bak", None),
        ("{actor}.{emotion}.wav", "1xsad.wav", None),
    ],
)  # fmt: skip
def test_patterns_of_public_corpora(pattern: str, path: str, fields: dict[str, str] | None) -> None:
    found = names.compiled(pattern).fullmatch(path)
    assert (found and found.groupdict()) == fields


CELLS = st.text("abcXYZ0189", min_size=1, max_size=6)


@given(values=st.lists(CELLS, min_size=3, max_size=3), folders=st.lists(CELLS, max_size=3))
def test_a_name_made_by_a_pattern_is_read_as_it_was_made(values: list[str], folders: list[str]) -> None:
    path = "/".join([*folders, "{}-{}_{}.mkv".format(*values)])
    found = names.compiled("{actor}-{emotion}_{take}").fullmatch(path)
    assert found is not None
    assert list(found.groupdict().values()) == values


LAYOUTS = {
    "corpora last": "paper: [a]\ncorpora:\n  a: {kind: demo}\n",
    "no newline at the end": "corpora:\n  a: {kind: demo}",
    "comments": "# top\ncorpora: # these\n  # about a\n  a: {kind: demo}\n  # after a\n\n# about variants\nvariants:\n  x: {}\n",
    "four spaces": "corpora:\n    a:\n        kind: demo\n\nvariants: {}\n",
    "windows": "corpora:\r\n  a: {kind: demo}\r\nvariants: {}\r\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_section_is_added_to_params_yaml_as_it_is_laid_out(layout: str) -> None:
    own = "  b:\n    kind: table\n    shards: [0]\n"
    changed = section.inserted(LAYOUTS[layout], own)
    assert changed is not None
    before, after = (yaml.safe_load(text) for text in (LAYOUTS[layout], changed))
    assert after["corpora"].pop("b") == {"kind": "table", "shards": [0]}
    assert after == before
    kept = [line for line in LAYOUTS[layout].splitlines() if line.strip()]
    assert [line for line in changed.splitlines() if line in kept and line.strip()] == kept


def test_params_on_one_line_are_left_alone() -> None:
    assert section.inserted("corpora: {a: {kind: demo}}\n", "  b: {}\n") is None


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_new_corpus_runs_under_both_engines_without_code(tmp_path: Path, clips: Path) -> None:
    clone = micro.make(tmp_path / "emofuse")
    printed = micro.run(clone, "emofuse", "corpus", str(clips), "--name", "own", "--pattern", PATTERN, "--map", MAP)
    assert "snakemake own --cores 2 runs it" in printed

    def shrink(params: dict[str, Any]) -> None:
        own = params["corpora"]["own"]
        own |= {key: micro.SECTION[key] for key in ("faces", "audio", "spectrogram", "network", "training")}
        own |= {"protocols": {"kfold_5": [0]}, "variants": ["proposed"]}

    micro.change(clone, shrink)
    micro.commit(clone, "own")
    ran = micro.ran(micro.run(clone, "snakemake", "own", "--cores", "2"))
    assert "train own kfold_5 proposed 1 0" in ran
    page = (clone / "results/own/report.html").read_text()
    assert "30 of 30 clips are usable, from 5 actors (ana, bo, cy, di, ed)" in re.sub("<[^>]+>", "", page)
    assert not micro.ran(micro.run(clone, "dvc", "repro", "report@own"))
    assert "own: " in micro.run(clone, "emofuse", "verify", "own")
    row = next(line for line in (clone / "corpora/own/metadata.csv").read_text().splitlines() if "di_C02" in line)
    table = (clone / "corpora/own/metadata.csv").read_text()
    (clone / "corpora/own/metadata.csv").write_text(table.replace(row, row.replace("angry", "sad")))
    changed = micro.ran(micro.run(clone, "dvc", "repro", "report@own"))
    assert {"index own", "splits own kfold_5", "train own kfold_5 proposed 1 0"} <= changed


def document() -> list[list[str]]:
    """The commands in docs/own-corpus.md that call emofuse, as lists of arguments."""
    text = (ROOT / "docs" / "own-corpus.md").read_text()
    shell = "\n".join(re.findall("```sh\n(.+?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in shell.splitlines() if line.startswith("emofuse corpus")]


def test_the_first_example_of_the_document(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMO-DB's names; its speakers are numbered 03 to 16, its emotions are letters for German words."""
    monkeypatch.chdir(root)
    with zipfile.ZipFile("download.zip", "w") as archive:
        for number, (actor, code) in enumerate(itertools.product(("03", "08", "09", "10", "11"), "WLEAFTN")):
            for take in "ab":
                archive.writestr(f"wav/{actor}a0{number % 7 + 1}{code}{take}.wav", tone(100 + number))
        archive.writestr("erkennung.txt", "?")
    assert main(document()[0]) == 0
    corpus = config.load("params.yaml").corpus("emodb")
    dataset = datasets.of(corpus, root)
    assert dataset.emotions == ("neutral", "happy", "sad", "angry", "fearful", "disgust", "boredom")
    assert dataset.actors == (3, 8, 9, 10, 11)
    assert corpus.modalities == ["audio"]
    assert config.load("params.yaml").run("emodb", "proposed").loss.start == "flat"


def tone(hertz: float) -> bytes:
    """A recording of half a second."""
    samples = (9000 * np.sin(2 * np.pi * hertz * np.arange(8000) / 16000)).astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as written:
        written.setparams((1, 2, 16000, 0, "NONE", ""))
        written.writeframes(samples.tobytes())
    return stream.getvalue()


# ── EmoBox ───────────────────────────────────────────────────────────────────────────────────────────────────────────

RAVDESS = document()[1][document()[1].index("--pattern") + 1]


@pytest.fixture
def speech(shared_data: Path) -> list[str]:
    folder = shared_data / "ravdess_speech_16k"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.flac"))


def test_the_folds_of_ravdess_are_those_of_our_protocol(root: Path, shared_data: Path) -> None:
    printed = write(
        root,
        shared_data / "ravdess_speech_16k",
        name="speech",
        metadata=shared_data / "emobox/ravdess",
        pattern=RAVDESS,
    )
    assert "protocol: 6 folds of EmoBox" in printed
    ours = ROOT / "protocols/ravdess/emobox_6cv.csv"
    assert read_protocol(root / "protocols/speech/emobox.csv") == read_protocol(ours)
    corpus = config.load(root / "params.yaml").corpus("speech")
    assert (corpus.actors_known, corpus.modalities, len(datasets.of(corpus, root).actors)) == (True, ["audio"], 24)
    assert datasets.of(corpus, root).parse("ravdess-03-01-05-01-02-01-18").emotion == "angry"


def test_without_speakers_the_folds_are_kept_and_marked(root: Path, shared_data: Path) -> None:
    printed = write(root, shared_data / "ravdess_speech_16k", name="speech", metadata=shared_data / "emobox/ravdess")
    assert any(line.startswith("actors unknown: ") for line in printed)
    corpus = config.load(root / "params.yaml").corpus("speech")
    assert not corpus.actors_known
    dataset, protocol = datasets.of(corpus, root), read_protocol(root / "protocols/speech/emobox.csv")
    for fold in range(6):
        lines = (
            (shared_data / f"emobox/ravdess/fold_{fold + 1}/ravdess_test_fold_{fold + 1}.jsonl")
            .read_text()
            .splitlines()
        )
        (group,) = protocol[fold]["test"]
        assert set(dataset.listed([group])) == {
            f"Actor_{key[-2:]}/{key[8:]}.flac" for key in (json.loads(line)["key"] for line in lines)
        }


def metadata(folder: Path, parts: dict[str, str], labels: dict[str, str] | None = None, **more: object) -> Path:
    """EmoBox's metadata of one fold: key → part. Keys are x-<speaker>-<emotion>-<number>."""
    (folder / "fold_1").mkdir(parents=True)
    entries = {
        key: {"key": key, "wav": f"downloads/x/{key[2:]}.wav", "emo": key.split("-")[2], **more} for key in parts
    }
    (folder / "x.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries.values()))
    (folder / "label_map.json").write_text(json.dumps({"h": "Happy", "s": "Sadness"} if labels is None else labels))
    for part in set(parts.values()):
        found = [json.dumps(entries[key]) for key in parts if parts[key] == part]
        (folder / "fold_1" / f"x_{part}_fold_1.jsonl").write_text("\n".join(found) + "\n")
    return folder


def keys(train: str, test: str, valid: str = "") -> dict[str, str]:
    """Two clips per emotion of each speaker."""
    parts = {"train": train, "test": test, "valid": valid}
    return {
        f"x-{who}-{emo}-{n}": part for part, people in parts.items() for who in people for emo in "hs" for n in "12"
    }


def paths_of(parts: dict[str, str]) -> list[str]:
    return [f"{key[2:]}.wav" for key in parts]


def test_official_validation_clips_are_kept(tmp_path: Path) -> None:
    parts = keys("abc", "d", "e")
    listing = emobox.read(metadata(tmp_path / "x", parts), paths_of(parts), "x-{actor}-{e}-{n}", {})
    assert listing.folds == {0: {"test": ["d"], "val": ["e"]}}
    assert {row["emotion"] for row in listing.rows} == {"happy", "sad"}


def test_one_fold_without_speakers_leaves_groups_to_train_and_validate_on(tmp_path: Path) -> None:
    parts = keys("abcdefgh", "i")
    listing = emobox.read(metadata(tmp_path / "x", parts), paths_of(parts), None, {})
    assert not listing.actors_known
    assert len({row["actor"] for row in listing.rows}) >= 4
    (tested,) = listing.folds[0]["test"]
    assert {row["clip"] for row in listing.rows if row["actor"] == tested} == {
        k for k, part in parts.items() if part == "test"
    }


def test_speakers_in_two_parts_are_refused(tmp_path: Path) -> None:
    parts = keys("abc", "d") | {"x-a-h-9": "test"}
    with pytest.raises(UserError, match=r"in fold 1, clips of actor a are in train and in test; leave out {actor}"):
        emobox.read(metadata(tmp_path / "x", parts), paths_of(parts), "x-{actor}-{e}-{n}", {})


def test_what_is_not_listed_is_counted_with_the_reason(tmp_path: Path) -> None:
    parts = keys("abc", "d")
    listing = emobox.read(metadata(tmp_path / "x", parts, {"h": "Happy"}), [*paths_of(parts)[1:], "more.wav"], None, {})
    assert {reason: len(found) for reason, found in listing.ignored.items()} == {
        "of the metadata that are not in the folder": 1,
        "with the label s, which label_map.json does not mention": 8,
        "that are not in the metadata": 9,
    }
    cut = emobox.read(metadata(tmp_path / "y", parts, start_time=1.0), paths_of(parts), None, {})
    assert "that are parts of longer recordings; cut them first" in cut.ignored
    assert not cut.rows


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("x.jsonl", None, "expected a folder of EmoBox's data/, with one .jsonl file; it has 0"),
        ("x.jsonl", "{}\n", "x.jsonl, line 1: expected a JSON object with key, wav, emo"),
        ("x.jsonl", "[1\n", "x.jsonl, line 1: expected a JSON object"),
        ("label_map.json", None, "label_map.json is missing; get the whole folder"),
        ("label_map.json", "[]", "label_map.json: expected a JSON object, label: meaning"),
        ("fold_1/x_test_fold_1.jsonl", None, "files of test clips are missing"),
    ],
)
def test_metadata_that_is_not_emoboxs_is_one_line(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    folder = metadata(tmp_path / "x", keys("abc", "d"))
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError) as caught:
        emobox.read(folder, [], None, {})
    assert message in str(caught.value)


@pytest.mark.parametrize("layout", ["lines", "list"])
def test_predictions_in_emoboxs_format_are_scored(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "data/speech/splits/emobox_6cv"
    folder.mkdir(parents=True)
    rows = [
        (f"03-01-0{e}-01-01-01-0{a}", a, word) for a in (1, 2) for e, word in ((3, "happy"), (4, "sad"), (5, "angry"))
    ]
    (folder / "clips.csv").write_text(
        "clip,actor,emotion,usable\n" + "".join(f"{c},{a},{w},true\n" for c, a, w in rows)
    )
    (folder / "folds.csv").write_text("fold,part,clip\n" + "".join(f"0,test,{clip}\n" for clip, _, _ in rows))
    words = {"happy": "Happy", "sad": "Sadness", "angry": "Anger"}
    found = [{"key": f"ravdess-{clip}", "pred": words[word]} for clip, _, word in rows]
    found[0]["pred"] = "sad"
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps(found) if layout == "list" else "".join(json.dumps(each) + "\n" for each in found))
    scores = external.score(file, "speech", "emobox_6cv", ("happy", "sad", "angry"), tmp_path)
    assert scores.record()["mean_over_folds"]["war"]["mean"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"key": "x", "pred"\n', "is not JSON"),
        ('{"key": "x"}\n', 'line 1: expected {"key": clip, "pred": emotion}'),
        ("[1]", 'entry 1: expected {"key": clip, "pred": emotion}'),
        ("[]", "there are no predictions"),
    ],
)
def test_other_json_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    folder = tmp_path / "data/speech/splits/halves"
    folder.mkdir(parents=True)
    (folder / "clips.csv").write_text("clip,actor,emotion,usable\nx,1,sad,true\n")
    (folder / "folds.csv").write_text("fold,part,clip\n0,test,x\n")
    (tmp_path / "predictions.json").write_text(content)
    with pytest.raises(UserError) as caught:
        external.score(tmp_path / "predictions.json", "speech", "halves", ("sad", "happy"), tmp_path)
    assert message in str(caught.value)
