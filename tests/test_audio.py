"""Log-mel segments: the right size, the right moment, and a reason for every clip without them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from emofuse import audio
from emofuse.corpora import base
from emofuse.media import write_clip
from emofuse.params import Audio

SMALL = Audio(bands=32, fft=1024, segments=4, frames=20)


def clip_bytes(folder: Path, samples: np.ndarray) -> bytes:
    path = folder / "clip.mp4"
    frames = np.zeros((round(len(samples) / 16000 * 25), 32, 32, 3), np.uint8)
    write_clip(path, frames, 25, samples, 16000)
    return path.read_bytes()


def test_the_segments_are_where_the_sound_is() -> None:
    time = np.arange(2 * 16000) / 16000
    samples = np.where((time >= 1.0) & (time < 1.5), np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)
    cut = audio.segments(audio.log_mel(samples, SMALL), 2.0, SMALL)
    assert cut.shape == (4, 32, 20)
    energy = cut.mean((1, 2))
    assert energy.argmax() == 2
    assert energy[2] > 1.0 > max(energy[0], energy[1], energy[3])


def test_every_band_has_mean_zero_and_variance_one() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32)
    spectrogram = audio.log_mel(samples, SMALL)
    np.testing.assert_allclose(spectrogram.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(spectrogram.std(1), 1, atol=1e-2)


def test_a_louder_clip_has_the_same_features() -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32)
    np.testing.assert_allclose(audio.log_mel(samples, SMALL), audio.log_mel(samples * 4, SMALL), atol=2e-2)


def test_a_segment_outside_a_short_clip_is_padded() -> None:
    spectrogram = np.ones((32, 5), np.float32)
    cut = audio.segments(spectrogram, 0.05, SMALL)
    assert cut.shape == (4, 32, 20)
    assert set(np.unique(cut)) == {0.0, 1.0}


def test_an_fft_too_short_for_the_bands_is_refused() -> None:
    with pytest.raises(ValueError, match="mel bands empty"):
        audio.log_mel(np.zeros(16000, np.float32), Audio(bands=256, fft=512, window_ms=32.0))


def test_each_clip_has_a_row_and_a_bad_one_its_reason(tmp_path: Path) -> None:
    tone = (0.3 * np.sin(np.arange(16000) * 0.3)).astype(np.float32)
    members = {
        "a.mp4": clip_bytes(tmp_path, tone),
        "b.mp4": clip_bytes(tmp_path, np.zeros(16000, np.float32)),
        "c.mp4": b"",
        "d.mp4": b"not a clip at all",
    }
    archive = tmp_path / "shard-0.zip"
    base.write_shard(archive, sorted(members.items()))
    rows = [{"clip": name[0], "sound": name, "duration": "1.0"} for name in sorted(members)]
    audio.extract(rows, archive, SMALL, tmp_path / "shard-0.npy", tmp_path / "shard-0.csv")
    table = list(csv.DictReader(io.StringIO((tmp_path / "shard-0.csv").read_text())))
    assert [row["status"] for row in table][:3] == ["ok", "the sound track is silent", "empty file"]
    assert table[3]["status"].startswith("cannot be decoded")
    features = np.load(tmp_path / "shard-0.npy", mmap_mode="r")
    assert features.shape == (4, 4, 32, 20)
    assert features.dtype == np.float16
    assert np.isfinite(features).all()
    assert features[0].any()
    assert not features[1:].any()


def test_trimming_cuts_the_quiet_ends_only() -> None:
    time = np.arange(3 * 16000) / 16000
    loud = ((time >= 1.0) & (time < 1.3)) | ((time >= 1.7) & (time < 2.0))
    samples = np.where(loud, 0.5, 0.0005) * np.sin(2 * np.pi * 500 * time)
    whole = audio.log_mel(samples.astype(np.float32), SMALL)
    trimmed = audio.log_mel(samples.astype(np.float32), SMALL.model_copy(update={"trim_db": 35.0}))
    assert whole.shape[1] == 301
    assert trimmed.shape[1] == pytest.approx(100, abs=14)
