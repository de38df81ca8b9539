"""The corpora: labels in names, published files, and the zips that hold the clips."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from itertools import product
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emofuse import datasets
from emofuse.config import Audio, Corpus, Faces
from emofuse.datasets import base, cremad, ravdess, shards
from emofuse.utils.errors import UserError

RAVDESS, CREMAD = datasets.get("ravdess"), datasets.get("cremad")


def corpus(kind: str, **changes: object) -> Corpus:
    """A small corpus section; modalities decide which features it has."""
    modalities = changes.setdefault("modalities", ["video", "audio"])
    return Corpus(
        kind=kind,
        title=kind,
        faces=Faces() if "video" in modalities else None,
        audio=Audio() if "audio" in modalities else None,
        protocols={"kfold_2": [0]},
        variants=["proposed"],
        **changes,
    )


def ravdess_stems() -> list[str]:
    numbers = product(("01", "02", "03"), ("01", "02"), range(1, 9), (1, 2), (1, 2), (1, 2), range(1, 25))
    return [f"{m}-{c}-{e:02d}-{i:02d}-{s:02d}-{r:02d}-{a:02d}" for m, c, e, i, s, r, a in numbers]


def readable(parse, stems: list[str]) -> list[base.Clip]:
    clips = []
    for stem in stems:
        try:
            clips.append(parse(stem))
        except base.NotAClip:
            continue
    return clips


def test_ravdess_has_exactly_its_7356_clips() -> None:
    clips = readable(RAVDESS.parse, ravdess_stems())
    channels = Counter((clip.clip[:2], clip.clip[3:5]) for clip in clips)
    assert len(clips) == 7356
    assert channels == {(m, c): 1440 if c == "01" else 1012 for m in ("01", "02", "03") for c in ("01", "02")}
    speech = Counter(clip.emotion for clip in clips if clip.clip.startswith("03-01"))
    assert speech == {emotion: 96 if emotion == "neutral" else 192 for emotion in ravdess.EMOTIONS}
    song = Counter(clip.emotion for clip in clips if clip.clip.startswith("03-02"))
    assert song == {"neutral": 92, **dict.fromkeys(("calm", "happy", "sad", "angry", "fearful"), 184)}


def test_ravdess_parses_each_number() -> None:
    expected = base.Clip("01-01-06-02-01-02-16", 16, "female", "fearful", "strong", "kids", "2")
    assert RAVDESS.parse("01-01-06-02-01-02-16") == expected
    assert RAVDESS.parse("03-02-02-01-02-01-07").gender == "male"


@pytest.mark.parametrize(
    ("stem", "reason"),
    [
        ("", "seven numbers"),
        ("03-01-06-01-02-01", "seven numbers"),
        ("03-01-06-01-02-01-12-13-14\n", "a copy of a clip"),
        ("03-01-06-01-02-01-123", "seven numbers"),
        ("03-01-06-01-02-01-12.wav", "a copy of a clip, whose original is missing"),
        ("03-01-06-01-02-01-12_croppad", "a copy of a clip"),
        ("noise_03-01-06-01-02-01-12", "a copy of a clip"),
        ("٠٣-01-06-01-02-01-12", "seven numbers"),  # digits, but not ASCII ones
        ("04-01-06-01-02-01-12", "no modality 04"),
        ("03-03-06-01-02-01-12", "no channel 03"),
        ("03-01-09-01-02-01-12", "no emotion 09"),
        ("03-01-06-03-02-01-12", "no intensity 03"),
        ("03-01-06-01-03-01-12", "no statement 03"),
        ("03-01-06-01-02-03-12", "no repetition 03"),
        ("03-01-06-01-02-01-25", "no actor 25; speaker 25 of data sets that mix corpora is TESS's"),
        ("03-01-06-01-02-01-27", "no actor 27$"),
        ("03-01-06-01-02-01-00", "no actor 00"),
        ("03-01-01-02-02-01-12", "neutral has no strong"),
        ("03-02-03-01-02-01-18", "actor 18 sings no"),
        ("03-02-08-01-02-01-12", "sings no surprised"),
    ],
)
def test_ravdess_names_the_error_in_a_name(stem: str, reason: str) -> None:
    with pytest.raises(base.NotAClip, match=reason):
        RAVDESS.parse(stem)


def test_cremad_accepts_exactly_its_7442_clips() -> None:
    with cremad.FILES.open(newline="", encoding="utf-8") as stream:
        published = [row["clip"] for row in csv.DictReader(stream)]
    clips = [CREMAD.parse(stem) for stem in published]
    assert len(clips) == 7442
    assert Counter(clip.emotion for clip in clips) == {
        **dict.fromkeys(("angry", "disgust", "fearful", "happy", "sad"), 1271),
        "neutral": 1087,
    }
    assert Counter(clip.intensity for clip in clips) == {"unspecified": 6077, "low": 455, "medium": 455, "high": 455}
    genders = {clip.actor: clip.gender for clip in clips}
    assert Counter(genders.values()) == {"male": 48, "female": 43}
    every = [f"{a}_{s}_{e}_{v}" for a in (1001,) for s in cremad.SENTENCES for e in cremad.CODES for v in cremad.LEVELS]
    assert len(readable(CREMAD.parse, every)) == 82


@pytest.mark.parametrize(
    ("stem", "reason"),
    [
        ("1001_DFA_ANG", "such as"),
        ("1092_DFA_ANG_XX", "no actor 1092"),
        ("1001_ABC_ANG_XX", "no sentence ABC"),
        ("1001_DFA_SUR_XX", "no emotion SUR"),
        ("1001_IEO_ANG_ZZ", "no level ZZ"),
        ("1001_DFA_ANG_HI", "not recorded"),
        ("1001_IEO_ANG_XX", "not recorded"),
        ("1040_ITH_SAD_Y", "no level Y"),
        ("1001_DFA_ANG_XX (1)", "a copy of a clip"),
        ("1001_DFA_ANG_XXL", "such as"),
    ],
)
def test_cremad_names_the_error_in_a_name(stem: str, reason: str) -> None:
    with pytest.raises(base.NotAClip, match=reason):
        CREMAD.parse(stem)


@pytest.mark.parametrize(
    ("kind", "variant", "clip"),
    [
        ("cremad", "1040_ITH_SAD_X", "1040_ITH_SAD_XX"),  # in one of Kaggle's copies
        ("cremad", "1001_dfa_ang_xx", "1001_DFA_ANG_XX"),
        ("cremad", "1001-IEO-HAP-LO", "1001_IEO_HAP_LO"),
        ("ravdess", "03_01_06_01_02_01_12", "03-01-06-01-02-01-12"),
    ],
)
def test_variants_of_a_name_are_the_clip(kind: str, variant: str, clip: str) -> None:
    dataset = datasets.get(kind)
    assert dataset.parse(variant) == dataset.parse(clip)
    assert dataset.parse(variant).clip == clip
    member = dataset.member(f"in/{variant}.WAV", corpus(kind, modalities=["audio"]))
    assert member.name.endswith(f"/{clip}.wav")


@pytest.mark.parametrize(
    ("kind", "path", "reason"),
    [
        (
            "ravdess",
            "Actor_25/03-01-06-01-02-01-25.wav",
            "not in RAVDESS; data sets that mix corpora number those of TESS",
        ),
        ("ravdess", "Actor_26/anything.wav", "not in RAVDESS"),
        ("ravdess", "Actor_26/YAF_back_angry.wav", "of TESS"),
        ("ravdess", "Crema/1001_DFA_ANG_XX.wav", "of CREMA-D"),
        ("ravdess", "Savee/DC_sa01.wav", "of SAVEE"),
        ("ravdess", "AudioData/JK/sa01.wav", "of SAVEE"),
        ("ravdess", "wav/03a01Wa.wav", "of EMO-DB"),
        ("cremad", "Ravdess/Actor_01/03-01-06-01-02-01-01.wav", "of RAVDESS"),
        ("cremad", "OAF_Fear/OAF_back_fear.wav", "of TESS"),
    ],
)
def test_clips_of_other_corpora_are_told_apart(kind: str, path: str, reason: str) -> None:
    found = datasets.get(kind).member(path, corpus(kind, modalities=["audio"]))
    assert isinstance(found, str)
    assert reason in found


NAMES = st.one_of(
    st.text(),
    st.from_regex(r"\A[0-9]{2}(-[0-9]{2}){6}\Z"),
    st.from_regex(r"\A[0-9]{4}_[A-Z]{3}_[A-Z]{3}_[A-Z]{1,2}\Z"),
    st.from_regex(r"\Ademo-[0-9]{2}-[a-z]+-[0-9]{2}\Z"),
)


@pytest.mark.parametrize("kind", datasets.KINDS)
@given(stem=NAMES)
def test_any_name_is_parsed_or_refused(kind: str, stem: str) -> None:
    try:
        clip = datasets.get(kind).parse(stem)
    except base.NotAClip as error:
        refused = str(error)
    else:
        refused = ""
        assert datasets.get(kind).parse(clip.clip) == clip
        assert clip.emotion in datasets.get(kind).emotions
        assert clip.gender in ("male", "female")
    assert refused or clip


@given(st.sampled_from(readable(RAVDESS.parse, ravdess_stems())))
def test_ravdess_labels_determine_the_name(clip: base.Clip) -> None:
    emotion = ravdess.EMOTIONS.index(clip.emotion) + 1
    intensity = {"normal": "01", "strong": "02"}[clip.intensity]
    statement = {"kids": "01", "dogs": "02"}[clip.statement]
    labels = f"{emotion:02d}-{intensity}-{statement}-{int(clip.repetition):02d}-{clip.actor:02d}"
    assert clip.clip[6:] == labels


@given(path=st.text(), ending=st.sampled_from(["", ".wav", ".mp4", ".flv", ".FLAC", ".csv"]))
@pytest.mark.parametrize("kind", ["ravdess", "cremad"])
@pytest.mark.parametrize("modalities", [["video", "audio"], ["audio"]])
def test_any_path_is_a_member_or_ignored(kind: str, modalities: list[str], path: str, ending: str) -> None:
    member = datasets.get(kind).member(path + ending, corpus(kind, modalities=modalities))
    assert isinstance(member, str) or member.is_clip or member.name == path + ending


def test_ravdess_selects_modality_and_channel() -> None:
    paths = ["a/01-01-03-01-01-01-05.MP4", "02-01-03-01-01-01-05.mp4", "01-02-03-01-01-01-05.mp4"]
    paths += ["03-01-03-01-01-01-05.wav", "03-01-03-01-01-01-05.flac", "01-01-03-01-01-01-05.wav", "x.txt"]

    def selected(**changes: object) -> list[str]:
        members = [RAVDESS.member(path, corpus("ravdess", **changes)) for path in paths]
        return [member.name for member in members if not isinstance(member, str)]

    assert selected() == ["Actor_05/01-01-03-01-01-01-05.mp4"]
    assert selected(vocal=["song"]) == ["Actor_05/01-02-03-01-01-01-05.mp4"]
    assert selected(modalities=["audio"]) == ["Actor_05/03-01-03-01-01-01-05.wav", "Actor_05/03-01-03-01-01-01-05.flac"]


def test_wrong_name_belongs_to_the_actor_of_its_folder() -> None:
    section = corpus("ravdess")
    assert RAVDESS.member("in/Actor_07/smile.mp4", section) == base.Member(7, "in/Actor_07/smile.mp4", False)
    assert RAVDESS.member("smile.mp4", section) == base.Member(None, "smile.mp4", False)
    assert CREMAD.member("1005_smile.flv", corpus("cremad")) == base.Member(1005, "1005_smile.flv", False)


def test_ravdess_lists_its_published_archives() -> None:
    def names(actors: tuple[int, ...], **changes: object) -> list[str]:
        return [file.path for file in RAVDESS.remote(("http://host",), actors, corpus("ravdess", **changes))]

    assert names((17, 18)) == ["Video_Speech_Actor_17.zip", "Video_Speech_Actor_18.zip"]
    assert names((17, 18), vocal=["song", "speech"])[2:] == ["Video_Song_Actor_17.zip"]
    assert names((17, 18), modalities=["audio"]) == ["Audio_Speech_Actors_01-24.zip"]
    assert names((), modalities=["audio"]) == []


def test_cremad_lists_only_the_needed_files() -> None:
    def files(**changes: object) -> list[str]:
        return [file.path for file in CREMAD.remote(("http://host",), (1001,), corpus("cremad", **changes))]

    assert len(files()) == 82
    assert all(path.startswith("VideoFlash/") for path in files())
    assert len(files(sound="wav")) == 164
    # Audio only needs no video, and video only needs no audio.
    assert all(path.startswith("AudioWAV/") for path in files(modalities=["audio"]))
    assert all(path.startswith("VideoFlash/") for path in files(sound="wav", modalities=["video"]))
    assert files(labels="perceived")[-1] == cremad.VOTES


VOTES = (
    b'"","A","D","F","H","N","S","fileName","numResponses"\n'
    b'"100001",9,0,0,0,0,0,"1001_DFA_ANG_XX",9\n'
    b'"300001",1,5,0,0,3,0,"1001_DFA_ANG_XX",9\n'
    b'"300002",4,0,0,4,1,0,"1001_DFA_HAP_XX",9\n'
    b'"300003",0,0,0,0,0,9,"1002_DFA_SAD_XX",9\n'
)


def table(rows: list[list[str]], separator: str = ",", quoting: int = csv.QUOTE_MINIMAL) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator="\r\n").writerows(rows)
    return text.getvalue()


ROWS = [line.split(",") for line in VOTES.decode().replace('"', "").splitlines()]
PANDAS = [["Unnamed: 0", *ROWS[0][1:]], *ROWS[1:]]


@pytest.mark.parametrize(
    "saved",
    [
        table(ROWS),
        table(ROWS, quoting=csv.QUOTE_ALL),
        "\ufeff" + table(ROWS, ";"),
        "sep=;\r\n" + table(ROWS, ";"),
        table(PANDAS, "\t"),
        table([["", *PANDAS[0]], *([str(n), *row] for n, row in enumerate(PANDAS[1:]))]),  # with an index
        table([ROWS[0][1:], *ROWS[1:]]),  # R's write.table leaves out the name of the first column
        table([PANDAS[0], *([f"{cell}.0" if cell.isdecimal() else cell for cell in row] for row in PANDAS[1:])]),
        table([PANDAS[0], *([f"{cell},0" if cell.isdecimal() else cell for cell in row] for row in PANDAS[1:])], ";"),
        table([ROWS[0], *([f"{float(row[0]):e}", *row[1:]] for row in ROWS[1:])]),
        table([row[::-1] for row in ROWS]),  # columns in another order
        table([ROWS[0], *ROWS[:0:-1]]),  # and rows
        table([*ROWS, [""] * 9]),
        table(ROWS, quoting=csv.QUOTE_ALL).replace(",", ", "),
        table(ROWS).replace("_XX", "_XX.wav"),
        table(ROWS).replace("1001_", "AudioWAV\\1001_").replace("_XX", "_x.flv"),
    ],
)
def test_table_of_votes_is_read_by_column_whoever_saved_it(saved: str) -> None:
    expected = cremad.votes_on(VOTES, (1001,))
    assert len(cremad.majorities(expected)) == 2
    for encoding in ("utf-8", "utf-16"):
        if encoding == "utf-8" or "\ufeff" not in saved:
            assert cremad.votes_on(saved.encode(encoding), (1001,)) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no rows"),
        (table([row[1:] for row in ROWS]).encode(), "no column of row numbers"),
        (table([row[:-2] for row in ROWS]).encode(), "no column fileName"),
        (VOTES.replace(b'"H"', b'"happy"'), "no column H"),
        (VOTES.replace(b"9,0,0,0", b"9,0.5,0,0"), "'0.5' is not a whole number"),
        (VOTES + b'"300004",0,0', "differ in length"),
        (b"\xff\xfe\x00", "utf-16"),
    ],
)
def test_another_table_is_refused_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        cremad.votes_on(content.replace(b"100001", b"300009"), (1001,))


def test_perceived_emotion_is_the_majority_of_those_who_saw_and_heard_the_clip() -> None:
    table = cremad.votes_on(VOTES, (1001,))
    assert cremad.majorities(table) == {"1001_DFA_ANG_XX": "disgust", "1001_DFA_HAP_XX": None}
    names = [f"VideoFlash/1001_DFA_{code}_XX.flv" for code in ("ANG", "HAP", "SAD")] + [cremad.VOTES]
    entries = list(CREMAD.entries(names, lambda name: table, corpus("cremad", labels="perceived")))
    assert [(entry.clip.emotion, entry.reason) for entry in entries] == [
        ("disgust", ""),
        ("", "its votes are tied"),
        ("", "it has no votes"),
    ]
    intended = list(CREMAD.entries(names, lambda name: table, corpus("cremad")))
    assert [(entry.clip.emotion, entry.reason) for entry in intended] == [("angry", ""), ("happy", ""), ("sad", "")]


def test_cremad_joins_sound_with_video_and_reports_what_is_missing() -> None:
    section = corpus("cremad", sound="wav")
    names = ["AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1001_DFA_HAP_XX.wav"]
    names += ["VideoFlash/1001_DFA_ANG_XX.flv", "VideoFlash/1001_DFA_SAD_XX.flv", "odd.wav"]
    entries = {entry.file: entry for entry in CREMAD.entries(names, lambda name: b"", section)}
    assert set(entries) == set(names[1:])
    assert entries[names[2]].sound == names[0]
    assert entries[names[2]].reason == ""
    assert entries[names[3]].reason == "AudioWAV/1001_DFA_SAD_XX.wav is missing"
    assert entries[names[1]].reason == "its video is missing"
    assert entries["odd.wav"].clip is None


def test_known_bad_clips_of_cremad_have_reasons() -> None:
    stems = ["1064_IEO_DIS_MD", "1064_TIE_SAD_XX", "1076_MTI_NEU_XX", "1076_MTI_SAD_XX", "1040_ITH_SAD_XX"]
    video = CREMAD.entries([f"VideoFlash/{stem}.flv" for stem in stems], lambda name: b"", corpus("cremad"))
    assert ["known bad clip" in entry.reason for entry in video] == [True, True, True, True, False]
    section = corpus("cremad", modalities=["audio"], sound="wav")
    sound = CREMAD.entries([f"AudioWAV/{stem}.wav" for stem in stems], lambda name: b"", section)
    assert ["known bad clip" in entry.reason for entry in sound] == [False, False, False, True, False]


def test_votes_of_cremad_agree_with_published_counts(shared_data) -> None:
    table = (shared_data / "cremad" / "processedResults" / "tabulatedVotes.csv").read_bytes()
    perceived = cremad.majorities(cremad.votes_on(table, cremad.ACTORS))
    assert len(perceived) == 7442
    assert sum(emotion is None for emotion in perceived.values()) == 420
    agreed = sum(CREMAD.parse(clip).emotion == emotion for clip, emotion in perceived.items() if emotion)
    assert agreed / 7442 == pytest.approx(0.7221, abs=1e-4)


def test_actors_of_cremad_are_those_of_its_demographics(shared_data) -> None:
    with (shared_data / "cremad" / "VideoDemographics.csv").open(newline="", encoding="utf-8") as stream:
        assert cremad.genders() == {int(row["ActorID"]): row["Sex"].lower() for row in csv.DictReader(stream)}


def test_same_members_give_the_same_bytes(tmp_path) -> None:
    members = [("Actor_01/a.wav", b"one"), ("Actor_02/b.wav", b"two")]
    shards.write(tmp_path / "first.zip", members)
    shards.write(tmp_path / "second.zip", iter(members))
    assert (tmp_path / "first.zip").read_bytes() == (tmp_path / "second.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "first.zip") as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    assert shards.members(tmp_path / "first.zip") == ["Actor_01/a.wav", "Actor_02/b.wav"]
    assert shards.read_member(tmp_path / "first.zip", "Actor_02/b.wav") == b"two"
    with pytest.raises(UserError, match="run emofuse index again"):
        shards.read_member(tmp_path / "first.zip", "Actor_03/c.wav")


def test_replaced_shard_is_read_again(tmp_path) -> None:
    for text in (b"old", b"newer"):
        shards.write(tmp_path / "shard.zip", [("a", text)])
        assert shards.read_member(tmp_path / "shard.zip", "a") == text


@pytest.mark.parametrize("names", [["b", "a"], ["a", "a"]])
def test_unsorted_members_are_refused_and_leave_no_file(tmp_path, names: list[str]) -> None:
    with pytest.raises(ValueError, match="sorted and unique"):
        shards.write(tmp_path / "shard.zip", [(name, b"") for name in names])
    assert list(tmp_path.iterdir()) == []


@given(st.sets(st.integers(0, 2000)), st.integers(1, 40))
def test_shards_contain_every_actor_once_in_order(actors: set[int], number: int) -> None:
    runs = [shards.actors_of(list(actors), shard, number) for shard in range(number)]
    assert [actor for run in runs for actor in run] == sorted(actors)
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


def test_published_extent_depends_on_the_vocal_channels() -> None:
    speech, song = (RAVDESS.published(corpus("ravdess", vocal=[vocal])) for vocal in ("speech", "song"))
    assert (len(speech.actors), speech.clips) == (24, 1440)
    assert (len(song.actors), song.clips) == (23, 1012)
    assert RAVDESS.published(corpus("ravdess", vocal=["speech", "song"])).clips == 2452
    assert CREMAD.published(corpus("cremad")) == (CREMAD.actors, 7442)


def test_params_yaml_accepts_all_kinds() -> None:
    assert get_args(Corpus.model_fields["kind"].annotation) == (*datasets.KINDS, "table")
    assert all(isinstance(datasets.get(kind), base.Dataset) for kind in datasets.KINDS)


def test_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="no corpus of kind"):
        datasets.get("base")
