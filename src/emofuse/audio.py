"""Audio features: N log-mel segments of each clip, on the clock of its snippets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torchaudio

from emofuse.corpora import base
from emofuse.files import atomic, new_array, write_table
from emofuse.media import BrokenClip, read_audio

if TYPE_CHECKING:
    from emofuse.params import Audio

SILENCE = 1e-4  # −80 dB of full scale: the quietest recording of RAVDESS peaks 40 dB above it
FLOOR = 1e-6


@cache
def _mel(audio: Audio) -> torchaudio.transforms.MelSpectrogram:
    window = round(audio.window_ms * audio.sample_rate / 1000)
    if window > audio.fft:
        raise ValueError(f"a window of {window} samples does not fit an FFT of {audio.fft} points")
    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate=audio.sample_rate,
        n_fft=audio.fft,
        win_length=window,
        hop_length=round(audio.hop_ms * audio.sample_rate / 1000),
        window_fn=torch.hamming_window,
        n_mels=audio.bands,
        mel_scale="htk",
    )
    if not bool((mel.mel_scale.fb.sum(0) > 0).all()):
        raise ValueError(f"an FFT of {audio.fft} points leaves some of {audio.bands} mel bands empty")
    return mel


def log_mel(samples: np.ndarray, audio: Audio) -> np.ndarray:
    """The log-mel spectrogram of a clip, mean and variance normalised per band.

    `samples` float32 (samples,). Returns float32 (bands, time), one column every `hop_ms`, the first
    centred on the first sample; with `trim_db`, without the quiet at both ends.
    """
    with torch.inference_mode():
        power_FT = _mel(audio)(torch.from_numpy(samples))
        if audio.trim_db is not None:
            energy_T = power_FT.sum(0)
            loud = torch.nonzero(energy_T >= energy_T.max() * 10 ** (-audio.trim_db / 10))
            power_FT = power_FT[:, int(loud[0]) : int(loud[-1]) + 1]
        spectrogram_FT = torch.log(power_FT + FLOOR)
        spectrogram_FT -= spectrogram_FT.mean(1, keepdim=True)
        spectrogram_FT /= spectrogram_FT.std(1, keepdim=True, correction=0).clamp_min(1e-3)
    return spectrogram_FT.numpy()


def segments(spectrogram_FT: np.ndarray, duration: float, audio: Audio) -> np.ndarray:
    """Cut N segments: the clip's time falls in N equal slices, each segment is centred on its slice.

    `spectrogram_FT` (bands, time), `duration` of the clip in seconds. Segments overlap in a short clip
    and leave gaps in a long one; time outside the clip is zero, the mean of every band.
    Returns float32 (N, bands, frames).
    """
    bands, columns = spectrogram_FT.shape
    padded = np.pad(spectrogram_FT, ((0, 0), (audio.frames, audio.frames)))
    cut = np.empty((audio.segments, bands, audio.frames), np.float32)
    for index in range(audio.segments):
        centre = (index + 0.5) * duration / audio.segments * 1000 / audio.hop_ms
        start = math.floor(centre - audio.frames / 2 + 0.5)
        start = min(max(start, -audio.frames), columns) + audio.frames
        cut[index] = padded[:, start : start + audio.frames]
    return cut


def extract(
    rows: Sequence[Mapping[str, str]],
    archive: Path,
    audio: Audio,
    output: Path,
    table: Path,
    progress: Callable[[Sequence[Mapping[str, str]]], Sequence[Mapping[str, str]]] = lambda rows: rows,
) -> None:
    """Write the features of one shard.

    `rows` are the shard's usable rows of index.csv, `archive` its zip. Writes `output`, float16
    (clips, N, bands, frames), and `table`, clip, row, status: "ok" or why the clip has no features.
    """
    torch.set_num_threads(1)
    shape = (len(rows), audio.segments, audio.bands, audio.frames)
    told: list[tuple[str, int, str]] = []
    with atomic(output) as features_file:
        features = new_array(features_file, np.float16, shape)
        for number, row in enumerate(progress(rows)):
            try:
                samples = read_audio(base.read_member(archive, row["sound"]), audio.sample_rate)
                if np.abs(samples).max() < SILENCE:
                    raise BrokenClip("the sound track is silent")
                spectrogram_FT = log_mel(samples, audio)
                duration = float(row["duration"])
                if audio.trim_db is not None:
                    duration = spectrogram_FT.shape[1] * audio.hop_ms / 1000
                features[number] = segments(spectrogram_FT, duration, audio)
                status = "ok"
            except BrokenClip as error:
                status = str(error)
            told.append((row["clip"], number, status))
        features.flush()
    write_table(table, ("clip", "row", "status"), told)
