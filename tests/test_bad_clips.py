"""Damaged real clips: each has a row with a plain reason, is counted, and does not stop a stage."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_audio import RATE, SMALL, remuxed
from test_corpora import corpus

from emofuse import cli
from emofuse.data import index
from emofuse.data.exclusion_counts import by_kind
from emofuse.datasets import cremad, shards
from emofuse.datasets.base import Entry
from emofuse.features import audio, faces, media

FILM = "ravdess_av/Actor_05/01-01-03-01-01-02-05.mp4"
SILENT = "ravdess_av/Actor_05/02-01-08-01-02-01-05.mp4"
FLASH = "cremad/VideoFlash/1001_DFA_ANG_XX.flv"
VOICE = "ravdess_speech_16k/Actor_{0:02d}/03-01-03-01-01-01-{0:02d}.flac"

PARAMS = """
paper: [acted]
corpora:
  acted:
    kind: ravdess
    title: acted
    faces: {detector: retinaface, body: mobilenet0.25, snippets: 3, frames: 4, size: 32}
    audio: {bands: 32, fft: 1024}
    spectrogram: {segments: 3, frames: 40}
    shards: [0]
    max_unusable: 0.9
    protocols: {kfold_2: [0, 1]}
    validation_actors: 1
    variants: [proposed]
variants: {proposed: {}}
"""


def made(folder: Path, picture: np.ndarray, samples: np.ndarray, seconds: float = 1.5, rate: float = 10) -> bytes:
    """A clip of a still picture, uint8 (H, W, 3), with sound."""
    frames = np.repeat(picture[None], round(seconds * rate), axis=0)
    media.write_clip(folder / "made.mp4", frames, rate, samples[: round(seconds * RATE)], RATE)
    return (folder / "made.mp4").read_bytes()


@pytest.fixture(scope="session")
def stills(shared_data: Path) -> dict[int, np.ndarray]:
    return {n: np.asarray(Image.open(shared_data / f"faces/Actor_{n:02d}.png").convert("RGB")) for n in range(1, 5)}


def voice(shared: Path, actor: int) -> np.ndarray:
    return media.read_audio((shared / VOICE.format(actor)).read_bytes(), RATE)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_corpus_of_good_and_bad_clips(
    shared_data: Path,
    stills: dict[int, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = (shared_data / FILM).read_bytes()
    speech = voice(shared_data, 1)
    bars = np.kron(np.eye(4, 7, dtype=np.uint8) * 200, np.ones((56, 56), np.uint8))[..., None].repeat(3, 2)
    good = {actor: made(tmp_path, picture, voice(shared_data, actor)) for actor, picture in stills.items()}
    minute = made(tmp_path, stills[1][:32, :32], np.resize(speech, 61 * RATE), 61, 1)
    stem = "Actor_{1:02d}/01-01-{0:02d}-01-01-01-{1:02d}.mp4"
    files = {stem.format(1, actor): data for actor, data in good.items()}
    files["Actor_02/01-01-01-01-01-02-02.mp4"] = good[2]  # the second repetition, the same recording
    files[stem.format(1, 5)] = real
    expected = dict.fromkeys(files, "")
    bad = {
        stem.format(2, 5): (remuxed(real, keep=("video",)), "no sound track"),
        stem.format(3, 5): ((shared_data / SILENT).read_bytes(), "the sound track is silent"),
        stem.format(4, 5): (remuxed(real, keep=("audio",)), "no video track"),
        stem.format(5, 5): (b"", "empty file"),
        stem.format(6, 5): (real[: len(real) // 2], r"truncated: 1\.6 of 3\.2 seconds"),
        stem.format(7, 5): (b"<html>404: not found</html>" * 100, "a web page, not the clip: .+"),
        stem.format(2, 1): (made(tmp_path, bars, speech), "no face.*"),
        stem.format(3, 1): (made(tmp_path, np.hstack([stills[n][:, 100:300] for n in (1, 2)]), speech), "two faces.*"),
        stem.format(4, 1): (minute, r"too long: 61\.\d seconds"),
        stem.format(5, 1): (
            good[3],
            "duplicate content: 01-01-01-01-01-01-03 is identical, but of another actor or emotion",
        ),
        "Actor_01/smile.mp4": (good[1][:-1], "wrong name: not seven numbers of two digits with hyphens between"),
    }
    files |= {name: data for name, (data, _) in bad.items()}
    expected |= {name: reason for name, (_, reason) in bad.items()}
    expected[stem.format(1, 3)] = (
        "duplicate content: 01-01-05-01-01-01-01 is identical, but of another actor or emotion"
    )
    for name, data in files.items():
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "literature").symlink_to(ROOT / "literature")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMOFUSE_ACTED_SOURCE", str(tmp_path / "source"))
    monkeypatch.setenv("EMOFUSE_WEIGHTS_SOURCE", str(shared_data / "weights"))
    for command in (
        ["download", "acted", "0"],
        ["index", "acted"],
        ["weights", "retinaface_mobilenet0.25"],
        ["faces", "acted", "0"],
        ["audio", "acted", "0"],
        ["splits", "acted", "kfold_2"],
        ["report", "acted"],
    ):
        assert cli.main(command) == 0

    clips = {row["clip"]: row for row in rows(Path("data/acted/splits/kfold_2/clips.csv"))}
    assert len(clips) == len(files)
    for name, reason in expected.items():
        row = clips[name if "smile" in name else Path(name).stem]
        assert re.fullmatch(reason, row["reason"]), (name, row["reason"])
        assert row["usable"] == ("false" if reason else "true")
    usable = {clip for clip, row in clips.items() if row["usable"] == "true"}
    folds = rows(Path("data/acted/splits/kfold_2/folds.csv"))
    assert {row["clip"] for row in folds} == usable
    pair = {"01-01-01-01-01-01-02", "01-01-01-01-01-02-02"}
    sides = {(row["fold"], row["part"]) for row in folds if row["clip"] in pair}
    assert Counter(fold for fold, _ in sides) == {"0": 1, "1": 1}

    page = Path("results/acted/report.html").read_text()
    assert f"{len(usable)} of {len(files)} clips are usable" in page
    for reason in ("duplicate content", "no sound track", "truncated: 1.6 of"):
        assert reason in page

    (tmp_path / "params.yaml").write_text(PARAMS.replace("max_unusable: 0.9", "max_unusable: 0.5"))
    capsys.readouterr()
    assert cli.main(["splits", "acted", "kfold_2"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{len(files) - len(usable)} of {len(files)} clips are unusable" in message
    assert "corpora.acted.max_unusable 0.5" in message


@settings(max_examples=60)
@given(file=st.sampled_from([FILM, FLASH, VOICE.format(1)]), part=st.floats(0, 1, exclude_max=True))
def test_truncated_clip_has_a_reason_or_nearly_all_of_its_sound(shared_data: Path, file: str, part: float) -> None:
    whole = (shared_data / file).read_bytes()
    length = media.probe(whole).duration
    cut = whole[: int(part * len(whole))]
    with suppress(media.BrokenClip):
        media.probe(cut)
        assert len(media.read_audio(cut, RATE)) / RATE > length - media.ROUNDING - 0.1  # the video is longer


@pytest.mark.parametrize(
    ("file", "part", "reason"),
    [
        (FILM, 0.01, "truncated: 0.0 of 3.2 seconds"),
        (FILM, 0.99, "truncated: 3.0 of 3.2 seconds"),
        (FLASH, 0.01, "truncated: 0.0 of 2.2 seconds"),
        (FLASH, 0.3, "truncated: 0.5 of 2.2 seconds"),
        (FLASH, 0.9, "truncated: 2.0 of 2.2 seconds"),
        (VOICE.format(1), 0.01, "truncated: its header is missing"),
        (VOICE.format(1), 0.5, "truncated: 1.5 of 3.5 seconds"),
    ],
)
def test_reason_of_a_truncated_clip_says_how_much_is_left(
    shared_data: Path, file: str, part: float, reason: str
) -> None:
    whole = (shared_data / file).read_bytes()
    with pytest.raises(media.BrokenClip) as broken:
        media.probe(whole[: int(part * len(whole))])
    assert str(broken.value) == reason


@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_truncated_mp4_with_its_header_at_the_end_has_a_reason(
    stills: dict[int, np.ndarray], tmp_path: Path, part: float
) -> None:
    film = made(tmp_path, stills[1], np.resize(TONE, 2 * RATE))
    with pytest.raises(media.BrokenClip, match="truncated: its header is missing"):
        media.probe(film[: int(part * len(film))])


@settings(max_examples=60)
@given(data=st.data())
def test_flipped_bytes_never_stop_a_stage(shared_data: Path, data: st.DataObject) -> None:
    clip = bytearray((shared_data / data.draw(st.sampled_from([FLASH, VOICE.format(1)]))).read_bytes())
    places = st.one_of(st.integers(0, 2000), st.integers(0, len(clip) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=50)):
        clip[place] = value
    with suppress(media.BrokenClip):
        media.probe(bytes(clip))
    with suppress(media.BrokenClip):
        sound = audio.clip_sound(bytes(clip), 2.0, SMALL)
        assert np.isfinite(audio.log_mel(sound, SMALL).astype(np.float16)).all()


def test_known_bad_clips_of_cremad_are_excluded(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / FLASH).read_bytes()
    names = [*cremad.BAD_VIDEO, "1001_DFA_ANG_XX"]
    shards.write(tmp_path / "data/acted/raw/shard-0.zip", sorted((f"VideoFlash/{name}.flv", whole) for name in names))
    rows = index.build("acted", corpus("cremad", shards=[0]), tmp_path)
    status = dict(zip(rows["clip"], rows["status"], strict=True))
    assert status == {
        "1001_DFA_ANG_XX": "ok",
        "1064_IEO_DIS_MD": "known bad clip: a minute long, with every emotion",
        "1064_TIE_SAD_XX": "known bad clip: without duration",
        "1076_MTI_NEU_XX": "known bad clip: very short, without sound",
        "1076_MTI_SAD_XX": "known bad clip: an error picture, without sound",
    }


@pytest.mark.parametrize("file", [FILM, FLASH, VOICE.format(1)])
def test_sound_starts_at_the_first_frame(shared_data: Path, file: str) -> None:
    data = (shared_data / file).read_bytes()
    with av.open(io.BytesIO(data)) as container:
        video = container.streams.video
        early = round(float(video[0].start_time * video[0].time_base) * RATE) if video else 0
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        frames = (*container.decode(container.streams.audio[0]), None)
        expected = np.concatenate([b.to_ndarray()[0] for frame in frames for b in resampler.resample(frame)])
    assert early == (432 if file == FLASH else 0)
    np.testing.assert_array_equal(media.read_audio(data, RATE), np.clip(expected[early:], -1, 1))


def sound(samples: np.ndarray, codec: str, container: str, rate: int = RATE, jump: float = 0.0) -> bytes:
    """A recording whose timestamps jump by some seconds in the middle."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as target:
        stream = target.add_stream(codec, rate=rate, layout="mono")
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = rate, start
            for packet in stream.encode(frame):
                if start > len(samples) / 2:
                    packet.pts += round(jump / packet.time_base)
                    packet.dts = packet.pts
                target.mux(packet)
        if not jump:
            target.mux(stream.encode(None))
    return file.getvalue()


TONE = (0.3 * np.sin(np.arange(2 * RATE) * 0.3)).astype(np.float32)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (sound(TONE, "aac", "mp4", jump=0.5), "the sound track is out of sync: .* differ by 0.5 seconds"),
        (sound(TONE, "aac", "adts") + sound(TONE, "aac", "adts", 32000), "the sound changes its format"),
        (sound(TONE[: RATE // 2], "aac", "mp4"), r"the sound is too short: 0\.\d of 2\.0 seconds"),
        (
            sound(np.where(np.arange(2 * RATE) == 9, np.nan, TONE).astype("f4"), "pcm_f32le", "wav"),
            "samples that are not finite",
        ),
        (sound(TONE * 1e-4, "pcm_f32le", "wav"), "the sound track is silent"),
    ],
)
def test_unusable_sound_has_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(media.BrokenClip, match=reason):
        audio.clip_sound(data, 2.0, SMALL)


def test_unknown_codec_is_a_reason_and_invalid_metadata_is_not(stills: dict[int, np.ndarray], tmp_path: Path) -> None:
    film = made(tmp_path, stills[1], np.resize(TONE, 2 * RATE))
    reason = "cannot be decoded: the codec of its video is unknown, which is not read; convert it"
    with pytest.raises(media.BrokenClip, match=reason):
        media.read_frames(film.replace(b"avc1", b"zzzz"), [0.1])
    found = media.probe(film.replace(b"avc1", b"zzzz"))
    assert found.missing["video"].startswith(reason)
    assert found.audio  # which may be all that is needed
    titled = io.BytesIO()
    with av.open(io.BytesIO(film)) as source, av.open(titled, "w", format="mp4", options={}) as target:
        target.metadata["title"] = "ABCDEFGH"
        tracks = {track.index: target.add_stream_from_template(track) for track in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = tracks[packet.stream.index]
                target.mux(packet)
    latin = titled.getvalue().replace(b"ABCDEFGH", b"\xe4BCDEFG\xff")
    assert media.probe(latin) == media.probe(film)


def test_reasons_are_counted_by_kind() -> None:
    reasons = ["truncated: 1 of 3", "truncated: 2 of 3", "wrong name: a", "wrong name: a", "no face", "too long: 60"]
    assert by_kind(reasons) == {"truncated": 2, "wrong name: a": 2, "no face": 1, "too long: 60": 1}
    assert by_kind([]) == {}


AWKWARD = "awkward/"


def converted(source: Path, target: Path, *options: str) -> bytes:
    subprocess.run([media.ffmpeg_binary(), "-v", "error", "-y", "-i", source, *options, target], check=True)
    return target.read_bytes()


@pytest.fixture(scope="session")
def small(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real clip with small frames, and constant bit rates so that halves of files are halves of time."""
    path = tmp_path_factory.mktemp("small") / "small.mp4"
    converted(shared_data / FILM, path, "-vf", "scale=160:90", "-b:v", "200k", "-c:a", "aac")
    return path


@pytest.mark.parametrize(
    ("file", "duration"),
    [
        ("apac2.mp4", 3.24), ("quietstart.aac", 7.66), ("quietstart.mp3", 7.68), ("longmeta.flv", 3.24),
        ("overflow.flv", 3.24), ("still_end.mp4", 3.24), ("webrtc_resize.webm", 3.24), ("float_int16scale.wav", 3.64),
    ],
)  # fmt: skip
def test_duration_is_that_of_what_plays(shared_data: Path, file: str, duration: float) -> None:
    data = (shared_data / AWKWARD / file).read_bytes()
    found = media.probe(data)
    assert found.duration == pytest.approx(duration, abs=0.02)
    assert len(media.read_audio(data, RATE)) / RATE == pytest.approx(duration, abs=0.1)
    if found.video:
        assert len(media.read_frames(data, [0.1, duration - 0.1])) == 2


FILES: dict[str, tuple[str, ...]] = {
    # name of the file → how it is made; the containers that state their length in bytes first
    "fast.mp4": ("-c", "copy", "-movflags", "faststart"),
    "fragment.mp4": ("-c", "copy", "-movflags", "frag_keyframe+empty_moov"),
    "a.mkv": ("-c", "copy"),
    "cues.webm": ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus", "-cues_to_front", "1"),
    "a.avi": ("-c:v", "mpeg4", "-c:a", "mp3"),
    "a.flv": ("-c", "copy"),
    "a.wmv": ("-c:v", "wmv2", "-c:a", "wmav2"),
    "a.wav": ("-vn",),
    "float.wav": ("-vn", "-c:a", "pcm_f32le"),
    "rf64.wav": ("-vn", "-rf64", "always"),
    "a.w64": ("-vn",),
    "a.aiff": ("-vn",),
    "a.au": ("-vn",),
    "a.caf": ("-vn", "-c:a", "pcm_s16le"),
    "a.flac": ("-vn",),
    "a.mp3": ("-vn",),
}
UNPROVEN: dict[str, tuple[str, ...]] = {
    "live.mkv": ("-c", "copy", "-live", "1"),
    "live.flv": ("-c", "copy", "-flvflags", "no_duration_filesize"),
    "a.ts": ("-c", "copy"),
    "a.mpg": ("-c:v", "mpeg2video", "-c:a", "mp2"),
    "a.ogg": ("-vn", "-c:a", "libvorbis"),
    "a.aac": ("-vn", "-c:a", "aac"),
    "no_header.mp3": ("-vn", "-write_xing", "0"),
    "memo.amr": ("-vn", "-c:a", "libopencore_amrnb", "-ar", "8000", "-ac", "1"),
}


@pytest.mark.parametrize("name", [*FILES, *UNPROVEN])
def test_truncation_is_reported_if_the_file_itself_proves_it(small: Path, tmp_path: Path, name: str) -> None:
    whole = converted(small, tmp_path / name, *(FILES | UNPROVEN)[name])
    found = media.probe(whole)
    assert found.duration == pytest.approx(3.24, abs=0.05)
    assert len(media.read_audio(whole, RATE)) / RATE == pytest.approx(3.24, abs=0.05)
    half = whole[: len(whole) // 2]
    if name in FILES:
        with pytest.raises(media.BrokenClip, match=r"truncated: [12]\.\d of [2-4]\.\d seconds"):
            media.probe(half)
    else:  # what is there plays, as after the end of a stream
        assert 1 < media.probe(half).duration < 2.3


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000])
def test_sound_from_a_pipe_has_no_length(tmp_path: Path, length: int) -> None:
    """Programs that write to a pipe cannot know the length, and write a placeholder."""
    data = sound(TONE, "pcm_s16le", "wav")
    start = data.index(b"data") + 4
    piped = data[:4] + length.to_bytes(4, "little") + data[8:start] + length.to_bytes(4, "little") + data[start + 4 :]
    assert media.probe(piped).duration == pytest.approx(2.0, abs=0.01)
    np.testing.assert_array_equal(media.read_audio(piped, RATE), media.read_audio(data, RATE))


def test_what_other_programs_append_to_a_file_is_not_its_length(small: Path, tmp_path: Path) -> None:
    fast = converted(small, tmp_path / "a.mp4", "-c", "copy", "-movflags", "faststart")
    wave = sound(TONE, "pcm_s16le", "wav")
    for data, more in (
        (fast, b"SEFH" + bytes(range(1, 99))),
        (wave, b"\xff\xff\xff\x01junk"),
        (wave, b"LIST\xff\xff\0\0INFO"),
    ):
        assert media.probe(data + more).duration == pytest.approx(media.probe(data).duration, abs=0.01)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("a.mov", ("-c:v", "qtrle", "-c:a", "copy"), "the codec of its video is qtrle, which is not read; convert it"),
        ("a.mkv", ("-c:v", "png", "-c:a", "copy"), "the codec of its video is png, which is not read; convert it"),
        ("b.mkv", ("-c:v", "copy", "-c:a", "wavpack"), "the codec of its sound is wavpack, which is not read"),
        ("a.wav", ("-vn", "-c:a", "adpcm_yamaha"), "the codec of its sound is adpcm_yamaha, which is not read"),
        ("b.wav", ("-vn", "-c:a", "pcm_s64le"), "the codec of its sound is pcm_s64le, which is not read"),
    ],
)
def test_only_allowed_decoders_are_opened(
    small: Path, tmp_path: Path, name: str, options: tuple[str, ...], reason: str
) -> None:
    data = converted(small, tmp_path / name, "-t", "0.5", *options)
    kind = "audio" if "sound" in reason else "video"
    with pytest.raises(media.BrokenClip, match=reason):
        media.read_audio(data, RATE) if kind == "audio" else media.read_frames(data, [0.1])
    streams = media.probe(data)
    assert reason in streams.missing[kind]
    assert streams.audio == (kind == "video")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mov", ("-c:v", "prores", "-c:a", "pcm_s24le")),
        ("b.mov", ("-c:v", "dnxhd", "-profile:v", "dnxhr_lb", "-s", "320x180", "-c:a", "alac")),
        ("a.mp4", ("-c:v", "libx265", "-x265-params", "log-level=none", "-c:a", "aac")),
        ("b.mp4", ("-c:v", "libsvtav1", "-preset", "13", "-c:a", "mp3")),
        ("c.mp4", ("-c:v", "mpeg4", "-c:a", "ac3")),
        ("a.webm", ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-c:a", "libvorbis")),
        ("a.ogv", ("-c:v", "libtheora", "-c:a", "libvorbis")),
        ("a.avi", ("-c:v", "mjpeg", "-c:a", "pcm_u8")),
        ("b.avi", ("-c:v", "msmpeg4", "-c:a", "mp2")),
        ("c.avi", ("-c:v", "rawvideo", "-c:a", "adpcm_ms")),
        ("a.mkv", ("-c:v", "ffv1", "-c:a", "flac")),
        ("a.flv", ("-c:v", "flv", "-c:a", "nellymoser", "-ar", "22050", "-ac", "1")),
        ("a.3gp", ("-c:v", "h263", "-s", "176x144", "-c:a", "libopencore_amrnb", "-ar", "8000", "-ac", "1")),
        ("a.dv", ("-s", "720x576", "-r", "25", "-pix_fmt", "yuv420p", "-ar", "48000", "-ac", "2")),
        ("a.mpg", ("-c:v", "mpeg1video", "-c:a", "mp2")),
    ],
)
def test_codecs_of_cameras_browsers_and_editors_are_read(
    small: Path, tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    data = converted(small, tmp_path / name, "-ss", "1", "-t", "1", *options)
    assert media.probe(data).missing == {}
    assert media.read_frames(data, [0.5]).std() > 20
    assert np.abs(media.read_audio(data, RATE)).max() > 0.005


def test_format_that_is_not_read_is_named_with_a_remedy(small: Path, tmp_path: Path) -> None:
    data = converted(small, tmp_path / "a.nut", "-c", "copy")
    with pytest.raises(media.BrokenClip, match=r"or in none of the formats that are read \(mp4, mov, .*amr"):
        media.probe(data)


@pytest.mark.parametrize("cut", [("-ss", "1.2"), ("-ss", "0.5", "-itsoffset", "5")], ids=["edit list", "late start"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mov"])
def test_parts_that_were_cut_without_encoding_stay_synchronous(
    small: Path, tmp_path: Path, cut: tuple[str, ...], name: str
) -> None:
    """Such files have edit lists, negative timestamps or a late start."""
    part = tmp_path / name
    subprocess.run([media.ffmpeg_binary(), "-v", "error", *cut, "-i", small, "-c", "copy", part], check=True)
    data, whole = part.read_bytes(), small.read_bytes()
    # Where the part begins in the whole, by its sound and by its picture.
    sounding, rest = media.read_audio(data, RATE), media.read_audio(whole, RATE)
    start = len(sounding) - RATE - 3200
    begin = int(np.correlate(rest, sounding[start : start + RATE], "valid").argmax()) - start
    frames = media.read_frames(whole, (np.arange(90) / 30).tolist()).astype(int)
    picture = media.read_frames(data, [0.5])[0].astype(int)
    nearest = np.abs(frames - picture).mean((1, 2, 3)).argmin() / 30 - 0.5
    assert begin / RATE == pytest.approx(nearest, abs=0.06)


def test_video_whose_start_or_end_is_lost_is_not_held(small: Path, tmp_path: Path) -> None:
    """A player holds the last frame; but one that cannot be decoded is not held over."""
    data = bytearray(converted(small, tmp_path / "a.mp4", "-g", "300", "-c:v", "libx264", "-c:a", "copy"))
    with av.open(io.BytesIO(bytes(data))) as container:
        places = [(p.pos, p.size, float(p.pts * p.time_base)) for p in container.demux(video=0) if p.size]
    for position, size, time in places:
        if time > 1.5:
            data[position : position + size] = bytes(size)
    with pytest.raises(media.BrokenClip, match="cannot be decoded"):
        media.decode_frames(bytes(data), [0.5, 2.9])


def test_errors_in_the_picture_have_a_reason(shared_data: Path) -> None:
    """The decoder conceals them, and goes on."""
    data = bytearray((shared_data / FILM).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(1).bytes(400)
    times = faces.frame_times(3.2, 6, 16).ravel().tolist()
    with pytest.raises(media.BrokenClip, match="the picture is damaged: in 1 of 96 frames"):
        media.decode_frames(bytes(data), times)


def test_a_video_and_a_longer_sound_in_another_file_are_unequal(shared_data: Path, tmp_path: Path) -> None:
    section = corpus("ravdess", shards=[0])
    film, speech = (shared_data / FILM).read_bytes(), sound(np.resize(TONE, 6 * RATE), "pcm_s16le", "wav")
    entry = Entry(clip=None, file="a.mp4", sound="a.wav", reason="")
    row = index._content(entry, {"a.mp4": film, "a.wav": speech}.__getitem__, section)  # type: ignore[arg-type]
    assert row["status"] == "of two files: 3.2 seconds and, with the sound, 6.0"
