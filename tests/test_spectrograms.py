"""How networks read sound: trimming, normalisation, segments and shifts, each compared with a plain loop."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_audio import RATE, SMALL, wave

from emofuse import config
from emofuse.config import Spectrogram
from emofuse.data import splits
from emofuse.data.dataset import read_features
from emofuse.data.spectrograms import Sound, Spectrograms, read_segments
from emofuse.datasets import shards
from emofuse.features import audio
from emofuse.paths import RunKey
from emofuse.training import sampling

SILENT = math.log(1e-6)  # of a spectrogram, ln(power + 1e-6)
FORMS = ("band", "clip", "fixed")

views = st.builds(
    Spectrogram,
    trim_db=st.sampled_from([None, 5.0, 20.0, 35.0]),
    normalise=st.sampled_from(FORMS),
    segments=st.integers(1, 5),
    frames=st.integers(1, 30),
)
seeds = st.integers(0, 2**32 - 1)


def some_sound(seed: int) -> Sound:
    """Up to 60 columns of up to 4 bands, of any level; its duration is at most half as long again, and half as short."""
    rng = np.random.default_rng(seed)
    columns = int(rng.integers(1, 60))
    levels = rng.normal(-5, 4, (columns, 1)) + rng.normal(0, 2, (columns, 4))
    return Sound(np.maximum(levels, SILENT).astype(np.float16), round(columns * rng.uniform(0.5, 1.5) * 8) / 8)


def trimmed(columns_TF: np.ndarray, trim_db: float) -> np.ndarray:
    """Column by column, from each end."""
    powers = [sum(math.exp(value) for value in column) for column in columns_TF.astype(float)]
    quiet = [10 * math.log10(power / max(powers)) < -trim_db for power in powers]
    first, end = 0, len(powers)
    while quiet[first]:
        first += 1
    while quiet[end - 1]:
        end -= 1
    return columns_TF[first:end]


def by_definition(sound: Sound, view: Spectrogram, shift: int = 0) -> np.ndarray:
    """The segments of a clip, column by column."""
    columns_TF, span = sound.columns_TF.astype(float), Fraction(sound.span)
    if view.trim_db is not None:
        columns_TF = trimmed(columns_TF, view.trim_db)
        span = Fraction(len(columns_TF))
    silent = np.full(columns_TF.shape[1], SILENT)
    if view.normalise == "band":
        deviation = np.maximum(columns_TF.std(0), 1e-3)
        normal, outside = (columns_TF - columns_TF.mean(0)) / deviation, 0 * silent
    elif view.normalise == "clip":
        deviation = max(columns_TF.std(), 1e-3)
        normal, outside = (columns_TF - columns_TF.mean()) / deviation, (silent - columns_TF.mean()) / deviation
    else:
        normal, outside = (columns_TF + 6) / 5, (silent + 6) / 5
    segments = []
    for number in range(view.segments):
        middle = (number + Fraction(1, 2)) * span / view.segments
        start = math.floor(middle - Fraction(view.frames, 2) + Fraction(1, 2)) + shift
        places = range(start, start + view.frames)
        segments.append([normal[place] if 0 <= place < len(normal) else outside for place in places])
    return np.array(segments).transpose(0, 2, 1)


@given(st.lists(seeds, min_size=1, max_size=4), views, st.data())
def test_batches_equal_the_definition(clips: list[int], view: Spectrogram, data: st.DataObject) -> None:
    """Any clips in any order, with any shifts, also far outside the clip, and never with sound of another clip."""
    sounds = [some_sound(seed) for seed in clips]
    indices = data.draw(st.lists(st.integers(0, len(clips) - 1), min_size=1, max_size=5))
    shifts = data.draw(st.none() | st.lists(st.integers(-100, 100), min_size=len(indices), max_size=len(indices)))
    read = Spectrograms(sounds, view)
    found = read.batch(indices, None if shifts is None else np.array(shifts))
    assert found.dtype == torch.float16
    assert found.shape[1:] == read.shape
    expected = [by_definition(sounds[i], view, shift) for i, shift in zip(indices, shifts or [0] * 5, strict=False)]
    np.testing.assert_allclose(found.float().numpy(), np.array(expected), rtol=2e-3, atol=5e-3)


@given(seeds, st.sampled_from(FORMS))
def test_a_single_segment_as_long_as_the_clip_is_the_clip(seed: int, normalise: str) -> None:
    sound = some_sound(seed)
    columns = len(sound.columns_TF)
    view = Spectrogram(normalise=normalise, segments=1, frames=columns)
    (whole,) = read_segments(Sound(sound.columns_TF, columns), view)
    (longer,) = read_segments(Sound(sound.columns_TF, columns), view.model_copy(update={"frames": columns + 10}))
    np.testing.assert_array_equal(longer[:, 5:-5], whole)
    values_FT = sound.columns_TF.T.astype(float)
    order = np.argsort(values_FT, axis=None, kind="stable") if normalise != "band" else None
    if order is not None:  # the same offset and scale for all bands
        assert (np.diff(whole.ravel()[order].astype(float)) >= 0).all()


def test_a_single_segment_is_the_middle_of_the_clip() -> None:
    counting = np.repeat(np.arange(400)[:, None], 2, axis=1).astype(np.float16)
    (segment,) = read_segments(Sound(counting, 400.0), Spectrogram(normalise="fixed", segments=1, frames=100))
    np.testing.assert_allclose(segment[0] * 5.0 - 6, np.arange(150, 250), atol=0.1)


def speech_like(seed: int = 0) -> np.ndarray:
    """Noise of a changing level, 1.5 seconds at half of the full scale."""
    rng = np.random.default_rng(seed)
    level = np.interp(np.arange(24000), np.linspace(0, 24000, 12), rng.uniform(0.05, 1, 12))
    return (level * rng.uniform(-0.5, 0.5, 24000)).astype(np.float32)


def heard(samples: np.ndarray) -> Sound:
    return Sound(audio.log_mel(samples, SMALL).astype(np.float16), audio.span(len(samples) / RATE, SMALL))


@pytest.mark.parametrize("normalise", FORMS)
def test_only_fixed_normalisation_keeps_the_level(normalise: str) -> None:
    view = Spectrogram(normalise=normalise, segments=1, frames=120)
    quiet, loud = (read_segments(heard(speech_like() * gain), view).astype(float) for gain in (0.5, 2))
    change = 2 * np.log(4) / 5 if normalise == "fixed" else 0
    np.testing.assert_allclose(loud - quiet, change, atol=0.02)


def test_normalising_bands_removes_their_levels_and_normalising_the_clip_keeps_them() -> None:
    samples = np.cumsum(speech_like()) / 50  # low sounds are louder
    by_band, by_clip = (
        read_segments(heard(samples.astype(np.float32)), Spectrogram(normalise=form, segments=1, frames=151))[0].astype(
            float
        )
        for form in ("band", "clip")
    )
    np.testing.assert_allclose(by_band.mean(1), 0, atol=2e-3)
    np.testing.assert_allclose(by_band.std(1), 1, atol=2e-3)
    assert by_clip[:4].mean() - by_clip[-4:].mean() > 1
    assert (by_clip.mean(), by_clip.std()) == (pytest.approx(0, abs=2e-3), pytest.approx(1, abs=2e-3))


def test_trimming_removes_only_quiet_ends() -> None:
    time = np.arange(3 * RATE) / RATE
    loud = ((time >= 1.0) & (time < 1.3)) | ((time >= 1.7) & (time < 2.0))
    samples = np.where(loud, 0.5, 0.0005) * np.sin(2 * np.pi * 500 * time)
    whole = heard(samples.astype(np.float32))
    assert len(whole.columns_TF) == 301
    tone = Spectrogram(trim_db=35.0, normalise="fixed", segments=1, frames=100)
    (segment,) = read_segments(whole, tone)
    assert not np.isclose(segment[:, 7:93], (SILENT + 6) / 5).all(0).any()
    (padded,) = read_segments(whole, tone.model_copy(update={"frames": 140}))
    outside = np.isclose(padded, (SILENT + 6) / 5, atol=0.01).all(0)
    assert outside[:12].all()
    assert outside[-12:].all()
    assert not outside[27:-27].any()  # the pause in the middle is kept


def test_segments_are_where_the_sound_is() -> None:
    time = np.arange(2 * RATE) / RATE
    samples = np.where((time >= 1.0) & (time < 1.5), np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)
    segments = read_segments(heard(samples), Spectrogram(segments=4, frames=20))
    assert segments.shape == (4, 32, 20)
    energy = segments.astype(float).mean((1, 2))
    assert energy.argmax() == 2
    assert energy[2] > 1.0 > max(energy[0], energy[1], energy[3])


# From files


def stored(folder: Path, sounds: list[np.ndarray]) -> pd.DataFrame:
    """Run the audio stage on some sounds, as shard 0 of the corpus `toy` in a folder. Returns their rows of clips.csv."""
    names = [f"{number:02d}.wav" for number in range(len(sounds))]
    archive = folder / "shard-0.zip"
    shards.write(archive, [(name, wave(samples)) for name, samples in zip(names, sounds, strict=True)])
    index = pd.DataFrame(
        [
            {"clip": name[:-4], "sound": name, "duration": str(len(samples) / RATE), "shard": "0", "status": "ok", "sha256": name}
            for name, samples in zip(names, sounds, strict=True)
        ]
    )  # fmt: skip
    place = folder / "data/toy/features/audio"
    audio.extract(index.to_dict("records"), archive, SMALL, place / "shard-0.npy", place / "shard-0.csv")
    return splits.join(index, {"audio": splits.feature_table("toy", "audio", [0], folder)})


def test_stored_clips_are_read_as_predict_reads_them(tmp_path: Path) -> None:
    """Each clip, although all are in one array, and some have no features."""
    sounds = [speech_like(1), np.zeros(8000, np.float32), speech_like(2)[:9000], speech_like(3)[:20000]]
    clips = stored(tmp_path, sounds)
    assert clips["usable"].tolist() == ["true", "false", "true", "true"]
    for view in (
        Spectrogram(segments=3, frames=40),
        Spectrogram(trim_db=20.0, normalise="clip", segments=1, frames=99),
    ):
        read = read_features(tmp_path / "data/toy", clips[clips["usable"] == "true"], "audio", view)
        for number, samples in zip((2, 0, 1), (sounds[3], sounds[0], sounds[2]), strict=True):
            np.testing.assert_array_equal(read.batch([number])[0].numpy(), read_segments(heard(samples), view))


def test_sound_is_read_from_disk_once_and_held_in_little_more_memory_than_its_size(tmp_path: Path) -> None:
    clips = stored(tmp_path, [speech_like(seed) for seed in range(30)])
    file = tmp_path / "data/toy/features/audio/shard-0.npy"
    tracemalloc.start()
    try:
        read = read_features(tmp_path / "data/toy", clips, "audio", Spectrogram(segments=3, frames=40))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read.nbytes == pytest.approx(file.stat().st_size, rel=0.02)
    assert peak < 1.5 * read.nbytes
    before = read.batch(range(30))
    with file.open("r+b") as stream:  # a mapped array would change
        stream.seek(200)
        stream.write(bytes(file.stat().st_size - 200))
    assert torch.equal(read.batch(range(30)), before)


def test_moved_segments_are_the_same() -> None:
    sounds = [some_sound(seed) for seed in range(3)]
    here, there = (Spectrograms(sounds, Spectrogram(segments=2, frames=9)) for _ in range(2))
    there.move(torch.device("cpu"))
    shifts = np.array([3, -20])
    assert torch.equal(here.batch([2, 0], shifts), there.batch([2, 0], shifts))


# Shifts


def test_shifts_are_reproducible_and_differ_between_epochs_folds_and_seeds() -> None:
    training = config.Training(shift_time=40)
    key = RunKey("toy", "kfold_3", "proposed", 1, 0)
    places = [(key, 1), (key, 2), (replace(key, fold=1), 1), (replace(key, seed=2), 1)]
    drawn = [sampling.epoch_shifts(2000, training, *place) for place in places]
    assert all(shifts is not None and set(shifts) == set(range(-40, 41)) for shifts in drawn)
    np.testing.assert_array_equal(drawn[0], sampling.epoch_shifts(2000, training, key, 1))
    assert len({shifts.tobytes() for shifts in drawn if shifts is not None}) == 4
    assert sampling.epoch_shifts(2000, config.Training(shift_time=0), key, 1) is None
