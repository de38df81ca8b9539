"""Log-mel spectrograms: size, position in time, and a reason for every clip without one."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import example, given
from hypothesis import strategies as st

from emofuse import cli, config
from emofuse.config import Audio, Spectrogram
from emofuse.data import splits
from emofuse.data.dataset import read_features
from emofuse.data.spectrograms import Sound, read_segments
from emofuse.datasets import shards
from emofuse.features import audio, media
from emofuse.features.media import write_clip
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv

SMALL = Audio(bands=32, fft=1024)
VIEW = Spectrogram(segments=4, frames=20)
RATE = 16000


def clip_bytes(folder: Path, samples: np.ndarray) -> bytes:
    path = folder / "clip.mp4"
    frames = np.zeros((round(len(samples) / 16000 * 25), 32, 32, 3), np.uint8)
    write_clip(path, frames, 25, samples, 16000)
    return path.read_bytes()


def remuxed(
    data: bytes, keep: tuple[str, ...] = ("video", "audio"), late: float = 0.0, container: str = "mp4"
) -> bytes:
    """The same packets in a new file, with only some tracks; the sound, or if negative the video, is delayed by `late` seconds."""
    copy = io.BytesIO()
    with av.open(io.BytesIO(data)) as source, av.open(copy, "w", format=container) as target:
        tracks = [track for track in source.streams if track.type in keep]
        copies = {track.index: target.add_stream_from_template(track) for track in tracks}
        for packet in source.demux(tracks):
            if packet.dts is not None:
                delay = max(late, 0) if packet.stream.type == "audio" else max(-late, 0)
                packet.pts += round(delay / packet.time_base)
                packet.dts += round(delay / packet.time_base)
                packet.stream = copies[packet.stream.index]
                target.mux(packet)
    return copy.getvalue()


def film(folder: Path, moments: tuple[float, ...], late: float = 0.0, seconds: float = 3.0) -> bytes:
    """A dark, silent clip with flashes and clicks that coincide if the sound is delayed by `late` seconds."""
    frames = np.zeros((round(seconds * 25), 64, 64, 3), np.uint8)
    frames[:, ::8] = 60  # blank frames would not count
    time = np.arange(round((seconds - late) * RATE)) / RATE + late
    samples = np.zeros_like(time)
    for moment in moments:
        frames[round(moment * 25) :][:2] += 195
        samples += np.where((time >= moment) & (time < moment + 0.08), 0.5 * np.sin(2000 * np.pi * time), 0)
    write_clip(folder / "film.mp4", frames, 25, samples, RATE)
    return (folder / "film.mp4").read_bytes()


@given(st.integers(0, 2999), st.sampled_from([8.0, 10.0, 12.5]), st.sampled_from([8000, 16000]))
@example(7, 12.5, 8000)  # nearer to the second column, but reflected in the first
def test_a_click_is_in_the_column_of_its_moment(moment: int, hop_ms: float, rate: int) -> None:
    """At `moment` ms of three seconds; the first column is centred on the first sample, and there is one more at the end."""
    section = Audio(bands=24, fft=512, sample_rate=rate, hop_ms=hop_ms, window_ms=2 * hop_ms)
    samples = np.zeros(3 * rate, np.float32)
    samples[moment * rate // 1000] = 0.5
    spectrogram = audio.log_mel(samples, section)
    assert spectrogram.shape == (3000 // hop_ms + 1, 24)
    reflected = not hop_ms <= moment <= 3000 - hop_ms  # at the edge, into the first or last column
    assert spectrogram.mean(1).argmax() == pytest.approx(moment / hop_ms, abs=1 if reflected else 0.51)
    assert audio.span(3.0, section) == pytest.approx(len(spectrogram) - 1)


def test_fft_too_short_for_the_bands_is_refused() -> None:
    with pytest.raises(ValueError, match="mel bands empty"):
        Audio(bands=256, fft=512, window_ms=32.0)
    with pytest.raises(ValueError, match="fft: 512 points are fewer than the 640 samples of a window"):
        Audio(bands=20, fft=512, window_ms=40.0)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
@given(st.sampled_from([8000, 16000, 48000]), st.integers(20, 300), st.sampled_from([256, 400, 512, 1024, 2048]))
def test_parameters_are_refused_if_and_only_if_a_mel_band_is_empty(sample_rate: int, bands: int, fft: int) -> None:
    mel = torchaudio.functional.melscale_fbanks(fft // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate)
    try:
        Audio(sample_rate=sample_rate, bands=bands, fft=fft, window_ms=4.0)
        refused = False
    except ValueError:
        refused = True
    assert refused == bool((mel.sum(0) == 0).any())


def test_spectrogram_equals_torchaudios() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 20000).astype(np.float32)
    section = Audio(bands=80, fft=1024, hop_ms=12.5)
    theirs = torchaudio.transforms.MelSpectrogram(
        16000, n_fft=1024, win_length=512, hop_length=200, n_mels=80, window_fn=torch.hamming_window
    )(torch.from_numpy(samples))
    expected = torch.log(theirs + 1e-6).T.numpy()
    np.testing.assert_allclose(audio.log_mel(samples, section), expected, atol=1e-4)


def test_each_clip_has_a_row_and_each_bad_clip_a_reason(tmp_path: Path) -> None:
    tone = (0.3 * np.sin(np.arange(24000) * 0.3)).astype(np.float32)
    members = {
        "a.mp4": clip_bytes(tmp_path, tone[:16000]),
        "b.mp4": clip_bytes(tmp_path, np.zeros(16000, np.float32)),
        "c.mp4": b"",
        "d.mp4": b"not a clip at all",
        "e.mp4": clip_bytes(tmp_path, tone),
    }
    archive = tmp_path / "shard-0.zip"
    shards.write(archive, sorted(members.items()))
    rows = [{"clip": name[0], "sound": name, "duration": "1.0"} for name in sorted(members)]
    audio.extract(rows, archive, SMALL, tmp_path / "shard-0.npy", tmp_path / "shard-0.csv")
    table = list(csv.DictReader(io.StringIO((tmp_path / "shard-0.csv").read_text())))
    assert [row["status"] for row in table][:3] == ["ok", "the sound track is silent", "empty file"]
    assert table[3]["status"].startswith("cannot be decoded")
    rows = [int(row["rows"]) for row in table]
    assert rows == [pytest.approx(101, abs=4), 0, 0, 0, pytest.approx(151, abs=4)]  # encoders pad the end
    assert [int(row["row"]) for row in table] == [0, rows[0], rows[0], rows[0], rows[0]]
    assert [row["span"] for row in table] == ["100.000"] * 5
    features = np.load(tmp_path / "shard-0.npy", mmap_mode="r")
    assert features.shape == (sum(rows), 32)
    assert features.dtype == np.float16
    for name, first, count in (("a.mp4", 0, rows[0]), ("e.mp4", rows[0], rows[4])):
        expected = audio.log_mel(audio.clip_sound(members[name], 1.0, SMALL), SMALL)
        np.testing.assert_array_equal(features[first : first + count], expected.astype(np.float16))


@pytest.mark.parametrize("container", ["mp4", "flv"])
@pytest.mark.parametrize("late", [0.0, 0.4, -0.4])
def test_sound_is_synchronous_with_the_video(tmp_path: Path, container: str, late: float) -> None:
    moments = (0.52, 1.24, 2.2)
    data = remuxed(film(tmp_path, moments, late), late=late, container=container)
    samples = media.read_audio(data, RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.2) / RATE
    clicks = loud[np.diff(loud, prepend=-1.0) > 0.3]
    assert clicks == pytest.approx(moments, abs=0.005)
    assert media.probe(data).duration == pytest.approx(3.0, abs=0.08)  # and the last packets of sound


@pytest.mark.parametrize("late", [0.0, 0.4, -0.4])
def test_segment_and_snippet_with_the_same_number_are_simultaneous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: float
) -> None:
    """A simultaneous click and flash appear in the same position of both stages' features."""
    # Two moments a clip, each in the middle of a slice of half a second; before the second one there may be no sound.
    pairs = {1: (1, 3), 2: (2, 4), 3: (1, 5)}
    stem = "Actor_02/01-01-{:02d}-01-01-01-02.mp4"
    members = {}
    for emotion, pair in pairs.items():
        moments = tuple(0.5 * (number + 0.5) - 0.04 for number in pair)
        members[stem.format(emotion)] = remuxed(film(tmp_path, moments, late), late=late)
    (tmp_path / "params.yaml").write_text(
        """
paper: [films]
corpora:
  films:
    kind: ravdess
    title: films
    faces: {detector: centre, snippets: 6, frames: 8, size: 32}
    audio: {bands: 32, fft: 1024}
    spectrogram: {segments: 6, frames: 40}
    shards: [0]
    protocols: {kfold_2: [0]}
    variants: [proposed]
variants: {proposed: {}}
"""
    )
    monkeypatch.chdir(tmp_path)
    for name, data in members.items():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes(data)
    monkeypatch.setenv("EMOFUSE_FILMS_SOURCE", str(tmp_path / "source"))
    for command in (["download", "films", "0"], ["index", "films"], ["faces", "films", "0"], ["audio", "films", "0"]):
        assert cli.main(command) == 0
    features = {stage: splits.feature_table("films", stage, [0], Path()) for stage in ("faces", "audio")}
    rows = splits.join(read_csv("data/films/index.csv"), features)
    view = config.load().run("films", "proposed").spectrogram
    pictures, sounds = (
        read_features(Path("data/films"), rows, name, view).batch(range(len(pairs))).numpy()
        for name in ("video", "audio")
    )
    brightness = pictures.max(axis=2).mean(axis=(2, 3, 4))
    loudness = sounds.astype(np.float32).mean(2).max(2)
    for number, pair in enumerate(pairs.values()):
        assert set(np.argsort(brightness[number])[-2:]) == set(pair)
        assert set(np.argsort(loudness[number])[-2:]) == set(pair)


def test_missing_shard_or_member_is_one_line(tmp_path: Path) -> None:
    archive = tmp_path / "data" / "toy" / "raw" / "shard-3.zip"
    row = {"clip": "a", "sound": "a.mp4", "duration": "1.0"}
    with pytest.raises(UserError, match="is missing: run emofuse download toy 3"):
        audio.extract([row], archive, SMALL, tmp_path / "a.npy", tmp_path / "a.csv")
    archive.parent.mkdir(parents=True)
    shards.write(archive, [("b.mp4", b"")])
    with pytest.raises(UserError, match="run emofuse index again"):
        audio.extract([row], archive, SMALL, tmp_path / "a.npy", tmp_path / "a.csv")
    assert not (tmp_path / "a.npy").exists()


def wave(samples: np.ndarray) -> bytes:
    """A WAV file of samples (samples,) or (samples, channels) as they are, integers or floating-point numbers."""
    channels = samples[0].size
    size, kind = samples.itemsize, 3 if samples.dtype.kind == "f" else 1
    header = struct.pack("<HHIIHH", kind, channels, RATE, RATE * channels * size, channels * size, 8 * size)
    data = samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    body = b"WAVEfmt " + struct.pack("<I", len(header)) + header + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.fixture(scope="session")
def speech(shared_data: Path) -> np.ndarray:
    """A real recording whose peak is half of the full scale, float64 (samples,)."""
    file = shared_data / "ravdess_speech_16k/Actor_12/03-01-06-02-01-01-12.flac"
    samples = media.read_audio(file, RATE).astype(float)
    return samples / np.abs(samples).max() / 2


def features(data: bytes) -> np.ndarray:
    samples = audio.clip_sound(data, media.probe(data).duration, SMALL)
    sound = Sound(audio.log_mel(samples, SMALL).astype(np.float16), audio.span(len(samples) / RATE, SMALL))
    return read_segments(sound, VIEW).astype(float)


UNUSUAL: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "16-bit numbers as float": lambda x: (x * 32767).astype("f4"),
    "16-bit numbers as double": lambda x: np.round(x * 32767),
    "24-bit numbers as double": lambda x: x * (2**23 - 1),
    "32-bit numbers as float": lambda x: (x * 2**31).astype("f4"),
    "too loud float": lambda x: (x * 7).astype("f4"),
    "slightly too loud float": lambda x: (x * 2.6).astype("f4"),
    "very quiet float": lambda x: (x * 1e-3).astype("f4"),
    "very quiet 32-bit": lambda x: np.round(x * 2e-3 * 2**31).astype("i4"),
    "offset": lambda x: (x + 0.4).astype("f4"),
    "16-bit with offset": lambda x: np.round((x - 0.3) * 32767).astype("i2"),
    "16-bit numbers as float with offset": lambda x: (x * 32767 + 9000).astype("f4"),
    "double": lambda x: x,
    "32-bit": lambda x: np.round(x * (2**31 - 1)).astype("i4"),
    "8-bit": lambda x: np.round(x * 127 + 128).astype("u1"),
    # Microphones with balanced outputs; a player plays both channels.
    "stereo in opposite phase": lambda x: np.round(np.stack((x, -x), 1) * 32767).astype("i2"),
    "stereo in nearly opposite phase": lambda x: np.stack((-0.7 * x, x), 1).astype("f4"),
    "32-bit stereo in opposite phase": lambda x: np.round(np.stack((x, -x), 1) * (2**31 - 1)).astype("i4"),
    "stereo with one channel": lambda x: np.stack((x, 0 * x), 1).astype("f4"),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_levels_and_offsets_do_not_change_the_features(speech: np.ndarray, kind: str) -> None:
    """On 8 bits, there is audible noise."""
    expected = features(wave(np.round(speech * 32767).astype("i2")))
    found = features(wave(UNUSUAL[kind](speech)))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > (0.8 if kind == "8-bit" else 0.95)


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_usual_sound_is_bit_identical_to_the_file(speech: np.ndarray, rate: int) -> None:
    integers = np.round(speech * 32767).astype("i2")
    data = wave(integers)
    np.testing.assert_array_equal(media.read_audio(data, RATE), integers * np.float32(2**-15))
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    with av.open(io.BytesIO(data)) as container:
        whole = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
    frame.sample_rate = RATE
    expected = np.concatenate([b.to_ndarray()[0] for f in (frame, None) for b in resampler.resample(f)])
    np.testing.assert_array_equal(media.read_audio(data, rate), np.clip(expected, -1, 1))


def glitch(samples: np.ndarray, value: float) -> np.ndarray:
    changed = samples.astype("f4")
    changed[len(changed) // 2] = value
    return changed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: glitch(x, np.nan), "the sound has samples that are not finite"),
        (lambda x: glitch(x, np.inf), "the sound has samples that are not finite"),
        (lambda x: glitch(x, -np.inf), "the sound has samples that are not finite"),
        (lambda x: glitch(x, 1e20), r"the sound has values far outside its scale: up to 1e\+20"),
        (lambda x: glitch(x, 5000), r"the sound has values far outside its scale: up to 5e\+03"),
        (lambda x: x * 1e15, "the sound has values far outside its scale"),
        (lambda x: np.sign(x).astype("f4"), r"the sound is clipped: \d+% of its samples are at full level"),
        (lambda x: np.clip(x * 32767, -1, 1).astype("f4"), "the sound is clipped"),
        (lambda x: np.round(np.clip(x * 32767, -1, 1) * 9000).astype("i2"), "the sound is clipped"),
        (lambda x: np.full_like(x, 0.3).astype("f4"), "the sound track is silent"),
    ],
)
def test_sound_without_a_known_level_has_a_reason(
    speech: np.ndarray, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    data = wave(change(speech))
    with pytest.raises(media.BrokenClip, match=reason):
        audio.clip_sound(data, len(speech) / RATE, SMALL)


def test_float_file_with_16_bit_values_has_the_features_of_the_16_bit_file(shared_data: Path) -> None:
    data = (shared_data / "awkward/float_int16scale.wav").read_bytes()
    values = np.frombuffer(data[data.index(b"data") + 8 :], "<f4")[:58192]
    np.testing.assert_allclose(features(data), features(wave(np.round(values).astype("i2"))), atol=0.02)


def test_windows_of_a_file_share_its_level(speech: np.ndarray) -> None:
    """A pause is not taken for very quiet sound."""
    pause = np.random.default_rng(0).normal(0, 0.5, 3 * RATE)  # half a bit of noise
    samples = np.concatenate((pause, speech * 32767, pause))
    spans = [(start, start + 1.0) for start in np.arange(0, len(samples) / RATE - 1, 0.5).tolist()]
    data = wave(samples.astype("f4"))
    whole = media.read_audio(data, RATE)
    for (start, end), found in zip(spans, media.sounds(data, spans, RATE), strict=True):
        assert isinstance(found, np.ndarray)
        np.testing.assert_allclose(found, whole[round(start * RATE) : round(end * RATE)], atol=1e-6)
    assert np.abs(whole[: 3 * RATE]).max() < 1e-3
