"""The audio stage compared with bare decoding and with librosa, its peak memory, and how its features are read.

Run `python benchmarks/audio.py [FOLDER] [--clips N]` in the repository's root. It needs librosa, which is not a
dependency of the project: `uv pip install librosa`. FOLDER contains `ravdess_speech_16k` (the 1,440 recordings),
`ravdess_av` and `cremad`; the default is EMOFUSE_SHARED_DATA or ../shared/data. Everything runs on one core, and the
contenders alternate shard by shard. The last lines are the figures, `name: value`, in milliseconds per clip:

- bare: PyAV decodes each file and resamples it, frame by frame, to one array of samples at 16 kHz;
- stage: `emofuse.features.audio.extract`, from the shard's zip to the features on disk;
- log_mel: only the spectrogram, from samples in memory;
- librosa: `librosa.load` and the spectrogram;
- librosa_log_mel: only `feature.melspectrogram` and `power_to_db`, from samples in memory;
- segments_stage: what the stage did until November 2026, when it stored the segments of one view, normalised and cut.

Features are complete spectrograms. These figures compare them with the segments that were stored before, for the views of
the proposed variants: `mb_per_clip` and `segments_mb_per_clip`, their size on disk; `open_ms`, per clip, once per training:
reading, normalising; `batch_ms` and `segments_batch_ms`, the time to gather a batch of 32 clips, in milliseconds, the files
in the page cache.

The parameters are those of ravdess_audio or, for figures marked 256_bands, those of ravdess and cremad. `film` refers to
the audio tracks of the original mp4 (RAVDESS) and flv files (CREMA-D).
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import av
import numpy as np
import torch
from common import CLIPS, CORES, peak_memory_mb, print_figures, shared_data

from emofuse import config
from emofuse.data.spectrograms import Sound, Spectrograms
from emofuse.datasets import shards
from emofuse.features import audio, media
from emofuse.utils.files import array_file, read_csv

RATE = 16000
SHARDS = 8


class Shard:
    """A zip with `copies` copies of each clip, and the corresponding rows of the index."""

    def __init__(self, folder: Path, files: Sequence[Path], copies: int = 1) -> None:
        self.folder, self.files = folder, files
        folder.mkdir()
        members = sorted((f"{copy:04d}-{file.name}", file) for copy in range(copies) for file in files)
        shards.write(folder / "shard.zip", ((name, file.read_bytes()) for name, file in members))
        durations = {file: f"{media.probe(file.read_bytes()).duration:.3f}" for file in files}
        self.rows = [{"clip": name, "sound": name, "duration": durations[file]} for name, file in members]

    @cached_property
    def samples(self) -> list[np.ndarray]:
        return [media.read_audio(file.read_bytes(), RATE) for file in self.files]


Contender = Callable[[Shard], None]


def bare(shard: Shard) -> None:
    for file in shard.files:
        with av.open(str(file)) as container:
            resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
            frames = (*container.decode(container.streams.audio[0]), None)
            np.concatenate([block.to_ndarray() for frame in frames for block in resampler.resample(frame)], axis=1)


def stage(section: config.Audio, shard: Shard) -> None:
    table = shard.folder / "shard.csv"
    audio.extract(shard.rows, shard.folder / "shard.zip", section, shard.folder / "shard.npy", table)
    assert table.read_text().count(",ok\n") == len(shard.rows), f"unusable clips in {shard.files[0].parent}"


def segments(spectrogram_TF: np.ndarray, span: float, view: config.Spectrogram) -> np.ndarray:
    """Normalised per band, and cut: as the stage did it, float32 (N, bands, frames)."""
    if view.trim_db is not None:
        energy_T = np.exp(spectrogram_TF).sum(1)
        loud = np.flatnonzero(energy_T >= energy_T.max() * 10 ** (-view.trim_db / 10))
        spectrogram_TF = spectrogram_TF[loud[0] : loud[-1] + 1]
        span = len(spectrogram_TF)
    normal_FT = ((spectrogram_TF - spectrogram_TF.mean(0)) / spectrogram_TF.std(0)).T
    cut = np.zeros((view.segments, len(normal_FT), view.frames), np.float32)
    for number in range(view.segments):
        start = math.floor((number + 0.5) * span / view.segments - view.frames / 2 + 0.5)
        first, end = max(start, 0), min(start + view.frames, normal_FT.shape[1])
        cut[number, :, first - start : end - start] = normal_FT[:, first:end]
    return cut


def segments_stage(section: config.Audio, view: config.Spectrogram, shard: Shard) -> None:
    shape = (len(shard.rows), view.segments, section.bands, view.frames)
    with array_file(shard.folder / "segments.npy", np.float16, shape) as add:
        for first in range(0, len(shard.rows), audio.TOGETHER):
            rows = shard.rows[first : first + audio.TOGETHER]
            sounds = [audio._sound(row, shard.folder / "shard.zip", section) for row in rows]
            for row, sound in zip(rows, sounds, strict=True):
                assert not isinstance(sound, media.BrokenClip)
                add(segments(audio.log_mel(sound, section), audio.span(float(row["duration"]), section), view))


def log_mel(section: config.Audio, shard: Shard) -> None:
    for samples in shard.samples:
        audio.log_mel(samples, section)


def librosa_log_mel(section: config.Audio, shard: Shard, load: bool = False) -> None:
    import librosa

    for samples, file in zip(shard.samples, shard.files, strict=True):
        power = librosa.feature.melspectrogram(
            y=librosa.load(file, sr=RATE)[0] if load else samples,
            sr=RATE,
            n_fft=section.fft,
            win_length=round(section.window_ms * RATE / 1000),
            hop_length=round(section.hop_ms * RATE / 1000),
            window="hamming",
            n_mels=section.bands,
            htk=True,
        )
        librosa.power_to_db(power)


def milliseconds_per_clip(contenders: dict[str, Contender], shards: Sequence[Shard]) -> dict[str, float]:
    """The mean time of each contender over all shards. The contenders alternate, after a warm-up on the first shard."""
    for contender in contenders.values():
        contender(shards[0])
    seconds: dict[str, float] = defaultdict(float)
    for shard in shards:
        _ = shard.samples  # decoded now, outside the measurement
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender(shard)
            seconds[name] += time.perf_counter() - start
        del shard.samples
    clips = sum(len(shard.rows) for shard in shards)
    return {name: 1000 * total / clips for name, total in seconds.items()}


def measure_recordings(shards: Sequence[Shard]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for suffix, corpus in (("", "ravdess_audio"), ("_256_bands", "ravdess")):
        section, view = audio_section(corpus), config.load().run(corpus, "proposed").spectrogram
        times = milliseconds_per_clip(
            {
                "bare": bare,
                "stage": partial(stage, section),
                "segments_stage": partial(segments_stage, section, view),
                "log_mel": partial(log_mel, section),
                "librosa": partial(librosa_log_mel, section, load=True),
                "librosa_log_mel": partial(librosa_log_mel, section),
            },
            shards,
        )
        figures |= {f"{name}{suffix}_ms": value for name, value in times.items()}
        figures[f"stage{suffix}_over_bare"] = times["stage"] / times["bare"]
        figures[f"librosa{suffix}_over_stage"] = times["librosa"] / times["stage"]
        figures[f"librosa_log_mel{suffix}_over_log_mel"] = times["librosa_log_mel"] / times["log_mel"]
        figures[f"stage{suffix}_over_segments_stage"] = times["stage"] / times["segments_stage"]
        figures |= {f"{name}{suffix}": value for name, value in reading(shards, view).items()}
    return figures


def reading(shards: Sequence[Shard], view: config.Spectrogram, rounds: int = 30) -> dict[str, float]:
    """Size and speed of the features that the stages have just written, and of the segments: medians of batches of 32."""
    stored = [np.load(shard.folder / "segments.npy", mmap_mode="r") for shard in shards]
    old = [clip for array in stored for clip in array]
    sizes = {
        name: sum((shard.folder / file).stat().st_size for shard in shards) / len(old) / 1e6
        for name, file in (("mb_per_clip", "shard.npy"), ("segments_mb_per_clip", "segments.npy"))
    }
    start = time.perf_counter()
    sounds = []
    for shard in shards:
        array = np.load(shard.folder / "shard.npy", mmap_mode="r")
        for row in read_csv(shard.folder / "shard.csv").itertuples():
            sounds.append(Sound(array[int(row.row) : int(row.row) + int(row.rows)], float(row.span)))
    clips = Spectrograms(sounds, view)
    opened = time.perf_counter() - start
    readers: dict[str, Callable[[np.ndarray], torch.Tensor]] = {
        "batch_ms": clips.batch,
        "segments_batch_ms": lambda indices: torch.from_numpy(np.stack([old[i] for i in indices])),
    }
    generator = np.random.default_rng(1)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        indices = generator.integers(0, len(old), 32)
        for name, read in readers.items():
            start = time.perf_counter()
            found = read(indices)
            seconds[name].append(time.perf_counter() - start)
            assert found.shape == (32, *clips.shape)
    return {
        **sizes,
        "open_ms": 1000 * opened / len(old),
        **{name: 1000 * median(values) for name, values in seconds.items()},
    }


def measure_films(corpus: str, shard: Shard, repetitions: int) -> dict[str, float]:
    """The figures of a corpus's original files, and a projection for the whole corpus."""
    times = milliseconds_per_clip({"bare": bare, "stage": partial(stage, audio_section(corpus))}, [shard] * repetitions)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import emofuse.features.audio"], check=True)
    startup = time.perf_counter() - start
    projected = CLIPS[corpus] / CORES * times["stage"] / 1000 + startup
    print(
        f"{corpus}: {CLIPS[corpus]:,} clips / {CORES} cores × {times['stage']:.1f} ms + {startup:.1f} s start-up"
        f" = {projected:.1f} s"
    )
    return {
        f"{corpus}_film_bare_ms": times["bare"],
        f"{corpus}_film_stage_ms": times["stage"],
        f"{corpus}_film_stage_over_bare": times["stage"] / times["bare"],
        f"{corpus}_on_{CORES}_cores_s": projected,
    }


def peak_of_stage(shard: Shard) -> float:
    """The peak memory, in MB, of a process that runs the stage on a shard with the parameters of ravdess."""
    return float(subprocess.check_output([sys.executable, __file__, "--peak-of", shard.folder], text=True))


def run_stage_for_peak(folder: Path) -> float:
    """The child process of `peak_of_stage`."""
    archive = folder / "shard.zip"
    rows = [{"clip": name, "sound": name, "duration": "3.5"} for name in shards.members(archive)]
    audio.extract(rows, archive, audio_section("ravdess"), folder / "shard.npy", folder / "shard.csv")
    return peak_memory_mb()


def audio_section(corpus: str) -> config.Audio:
    section = config.load().corpus(corpus).audio
    assert section is not None
    return section


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=shared_data(), help="real clips")
    parser.add_argument("--clips", type=int, default=1440, help="number of recordings to use (default: all 1440)")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(run_stage_for_peak(options.peak_of))
        return 0
    try:
        import librosa  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("librosa is not installed (only this benchmark needs it): uv pip install librosa")
    recordings = sorted(options.folder.glob("ravdess_speech_16k/Actor_*/*.flac"))
    films = {
        "ravdess": sorted(options.folder.glob("ravdess_av/Actor_*/01-*.mp4")),
        "cremad": sorted(options.folder.glob("cremad/VideoFlash/*.flv")),
    }
    if not (recordings and all(films.values())):
        sys.exit(f"{options.folder}: clips are missing; it must contain ravdess_speech_16k, ravdess_av and cremad")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    selected = recordings[:: max(1, len(recordings) // options.clips)]
    shards = [selected[k * len(selected) // SHARDS : (k + 1) * len(selected) // SHARDS] for k in range(SHARDS)]
    figures: dict[str, float] = {"recordings": len(selected)}
    with tempfile.TemporaryDirectory(prefix="emofuse-") as name:
        folder = Path(name)
        figures |= measure_recordings([Shard(folder / str(k), files) for k, files in enumerate(shards)])
        for corpus, files in films.items():
            repetitions = max(1, min(options.clips, 200) // len(files))
            figures |= measure_films(corpus, Shard(folder / corpus, files), repetitions)
        for clips in (10, 1000):
            shard = Shard(folder / f"peak-{clips}", recordings[:10], clips // 10)
            figures[f"peak_mb_of_{clips}_clips"] = peak_of_stage(shard)
    print_figures(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
