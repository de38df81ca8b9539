"""The audio stage: the complete log-mel spectrogram of each clip, as it is. How a network reads it: data/spectrograms.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torchaudio

from emofuse import paths
from emofuse.datasets import shards
from emofuse.features.levels import FLOOR, SILENCE
from emofuse.features.media import BrokenClip, read_audio
from emofuse.provenance.job import job
from emofuse.utils.errors import UserError
from emofuse.utils.files import array_file, write_csv
from emofuse.utils.progress import Progress

if TYPE_CHECKING:
    from emofuse.config import Audio, Params

CLIPPED = 0.5, 0.85  # fraction of samples above a fraction of the peak: at most 0.1 in speech, 0.35 in a pure tone
TOGETHER = 16  # clips decoded one after the other, then transformed
BLOCK = 16  # mel bands per matrix product


@dataclass(frozen=True)
class _Bands:
    """Adjacent mel bands: the bins of the spectrum where their filters are not zero, and the filters, (bins, bands)."""

    bins: slice
    bands: slice
    filters: torch.Tensor


@cache
def _transforms(audio: Audio) -> tuple[torchaudio.transforms.Spectrogram, list[_Bands]]:
    """The complex short-time Fourier transform, and the mel filters.

    A mel filter is zero in most bins: products of blocks of bands with their bins take a fraction of the time of one
    product with the whole matrix.
    """
    fourier = torchaudio.transforms.Spectrogram(
        n_fft=audio.fft,
        win_length=round(audio.window_ms * audio.sample_rate / 1000),
        hop_length=round(audio.hop_ms * audio.sample_rate / 1000),
        window_fn=torch.hamming_window,
        power=None,
    )
    filters = torchaudio.functional.melscale_fbanks(
        audio.fft // 2 + 1, 0.0, audio.sample_rate / 2, audio.bands, audio.sample_rate
    )
    blocks = []
    for first in range(0, audio.bands, BLOCK):
        bands = slice(first, min(first + BLOCK, audio.bands))
        nonzero = torch.nonzero(filters[:, bands].sum(1))
        bins = slice(int(nonzero[0]), int(nonzero[-1]) + 1)
        blocks.append(_Bands(bins, bands, filters[bins, bands].contiguous()))
    return fourier, blocks


def log_mel(samples: np.ndarray, audio: Audio) -> np.ndarray:
    """The log-mel spectrogram of a clip: ln(power + FLOOR).

    `samples` is float32 (samples,). Returns float32 (columns, bands), one column every `hop_ms`, the first centred on the
    first sample.
    """
    with torch.inference_mode():
        fourier, blocks = _transforms(audio)
        spectrum_TF = fourier(torch.from_numpy(samples)).T
        power_TF = torch.from_numpy(np.abs(spectrum_TF.numpy()) ** 2)  # six times as fast as torch's abs()
        mel_TB = torch.empty(len(power_TF), audio.bands)
        for block in blocks:
            torch.mm(power_TF[:, block.bins], block.filters, out=mel_TB[:, block.bands])
        mel_TB.add_(FLOOR).log_()
    return mel_TB.numpy()


def span(duration: float, audio: Audio) -> float:
    """The duration of a clip, given in seconds, in columns."""
    return duration * 1000 / audio.hop_ms


def clip_sound(data: bytes, duration: float, audio: Audio) -> np.ndarray:
    """The sound of one clip, float32 (samples,).

    `data` is the file with its sound, `duration` the clip's duration in seconds. Raises `BrokenClip` for a sound track
    that cannot be decoded, is silent or clipped, or is shorter than half of the clip.
    """
    return usable(read_audio(data, audio.sample_rate), duration, audio)


def usable(samples: np.ndarray, duration: float, audio: Audio) -> np.ndarray:
    """The samples, unchanged, float32 (samples,); raises `BrokenClip` if they are silent, clipped or too short."""
    seconds = len(samples) / audio.sample_rate
    if seconds < duration / 2 or len(samples) <= audio.fft // 2:  # reflection padding needs half a window
        raise BrokenClip(f"the sound is too short: {seconds:.1f} of {duration:.1f} seconds")
    magnitude = np.abs(samples)
    peak = magnitude.max()
    if peak < SILENCE:
        raise BrokenClip("the sound track is silent")
    share = np.count_nonzero(magnitude > CLIPPED[1] * peak) / len(samples)
    if share > CLIPPED[0]:
        raise BrokenClip(f"the sound is clipped: {share:.0%} of its samples are at full level")
    return samples


def stage(params: Params, corpus: str, shard: int, root: Path = Path()) -> None:
    """`emofuse audio`: compute the log-mel spectrograms of one shard's clips, to data/<corpus>/features/audio/."""
    section = params.corpus(corpus).audio
    if section is None:
        raise UserError(f"corpora.{corpus}: it has no sound, so there are no audio features")
    shards.check(shard, corpus, params.corpus(corpus).shards)
    clips, index = paths.raw(corpus, shard), paths.index(corpus)
    output, table = paths.features(corpus, "audio", shard)
    key = {"corpus": corpus, "shard": shard}
    with job("audio", params, key, paths.record(output), [clips, index], [output, table], root):
        rows = shards.usable(root / index, shard)
        progress = partial(Progress, what=f"audio of {corpus}, shard {shard}")
        extract(rows, root / clips, section, root / output, root / table, progress)


def extract(
    rows: Sequence[Mapping[str, str]],
    archive: Path,
    audio: Audio,
    output: Path,
    table: Path,
    progress: Callable[[Sequence[Mapping[str, str]]], Iterable[Mapping[str, str]]] = lambda rows: rows,
) -> None:
    """Write the features of one shard, clip by clip.

    `rows` are the shard's usable rows of index.csv, `archive` is its zip. Writes `output`, the spectrograms of all clips one
    after the other, float16 (columns, bands), and `table`: clip, row (its first column), rows (the number of its columns),
    span (its duration in columns, which its sound may fall short of or exceed), status ("ok" or why it has no features).
    """
    torch.set_num_threads(1)
    lines: list[tuple[str, int, int, str, str]] = []
    sounds: list[np.ndarray | BrokenClip] = []
    first = 0
    spans = [span(float(row["duration"]), audio) for row in rows]
    with array_file(output, np.float16, (sum(map(int, spans)), audio.bands)) as add:
        for number, row in enumerate(progress(rows)):
            if not sounds:  # several at once: decoding and transforming in turn would evict each other's cache lines
                sounds = [_sound(following, archive, audio) for following in rows[number : number + TOGETHER]]
            sound = sounds.pop(0)
            columns, status = 0, str(sound)
            if not isinstance(sound, BrokenClip):
                spectrogram_TF = log_mel(sound, audio)
                columns, status = len(spectrogram_TF), "ok"
                add(spectrogram_TF)
            lines.append((row["clip"], first, columns, f"{spans[number]:.3f}", status))
            first += columns
    write_csv(table, pd.DataFrame(lines, columns=["clip", "row", "rows", "span", "status"]))


def _sound(row: Mapping[str, str], archive: Path, audio: Audio) -> np.ndarray | BrokenClip:
    try:
        return clip_sound(shards.read_member(archive, row["sound"]), float(row["duration"]), audio)
    except BrokenClip as error:
        return error
