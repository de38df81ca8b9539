"""What the audio stage costs beside bare decoding and beside librosa, and how much memory it takes.

`python benchmarks/audio.py [FOLDER] [--clips N]`, in the repository's root; librosa is not among the project's
packages: `uv pip install librosa` first. FOLDER holds `ravdess_speech_16k` (the 1,440 recordings), `ravdess_av` and
`cremad`; by default it is EMOFUSE_SHARED_DATA or ../shared/data. Everything runs on one core, the contenders in turn
on one of the corpus's eight shards after another. The last lines are its figures, `name: value`, milliseconds a clip:

- bare: each file decoded by PyAV and resampled, frame by frame, to one array of samples at 16 kHz;
- stage: `emofuse.features.audio.extract`, from the shard's zip to the features on disk; log_mel: the spectrogram alone, of
  samples that are there;
- librosa: `librosa.load` and what follows; librosa_log_mel: `feature.melspectrogram` and `power_to_db`, of samples
  that are there;

with the parameters of ravdess_audio and, where it says 256_bands, with those of ravdess and cremad. `film` are the
sound tracks of the original mp4 (RAVDESS) and flv files (CREMA-D).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import av
import numpy as np

from emofuse import config
from emofuse.datasets import shards
from emofuse.features import audio, media

RATE = 16000
CORES = SHARDS = 8
CLIPS = {"ravdess": 1440, "cremad": 7442}


class Shard:
    """A zip of some clips, each as often as `copies` says, and their rows of the index."""

    def __init__(self, folder: Path, files: Sequence[Path], copies: int = 1) -> None:
        self.folder, self.files = folder, files
        folder.mkdir()
        members = sorted((f"{copy:04d}-{file.name}", file) for copy in range(copies) for file in files)
        shards.write(folder / "shard.zip", ((name, file.read_bytes()) for name, file in members))
        lengths = {file: f"{media.probe(file.read_bytes()).duration:.3f}" for file in files}
        self.rows = [{"clip": name, "sound": name, "duration": lengths[file]} for name, file in members]

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
    assert table.read_text().count(",ok\n") == len(shard.rows), f"bad clips among {shard.files[0].parent}"


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


def in_turn(contenders: dict[str, Contender], shards: Sequence[Shard]) -> dict[str, float]:
    """Milliseconds a clip of each contender, over all shards, one after the other on each."""
    for contender in contenders.values():
        contender(shards[0])
    seconds: dict[str, float] = defaultdict(float)
    for shard in shards:
        _ = shard.samples
        for name, contender in contenders.items():
            started = time.perf_counter()
            contender(shard)
            seconds[name] += time.perf_counter() - started
        del shard.samples
    return {name: 1000 * spent / sum(len(shard.rows) for shard in shards) for name, spent in seconds.items()}


def on_recordings(shards: Sequence[Shard]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for suffix, corpus in (("", "ravdess_audio"), ("_256_bands", "ravdess")):
        section = section_of(corpus)
        spent = in_turn(
            {
                "bare": bare,
                "stage": partial(stage, section),
                "log_mel": partial(log_mel, section),
                "librosa": partial(librosa_log_mel, section, load=True),
                "librosa_log_mel": partial(librosa_log_mel, section),
            },
            shards,
        )
        figures |= {f"{name}{suffix}_ms": value for name, value in spent.items()}
        figures[f"stage{suffix}_over_bare"] = spent["stage"] / spent["bare"]
        figures[f"librosa{suffix}_over_stage"] = spent["librosa"] / spent["stage"]
        figures[f"librosa_log_mel{suffix}_over_log_mel"] = spent["librosa_log_mel"] / spent["log_mel"]
    return figures


def on_films(corpus: str, shard: Shard, times: int) -> dict[str, float]:
    """The figures of one corpus's films, and what the whole corpus would take."""
    spent = in_turn({"bare": bare, "stage": partial(stage, section_of(corpus))}, [shard] * times)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import emofuse.features.audio"], check=True)
    start = time.perf_counter() - started
    whole = CLIPS[corpus] / CORES * spent["stage"] / 1000 + start
    print(
        f"{corpus}: {CLIPS[corpus]:,} clips / {CORES} cores × {spent['stage']:.1f} ms + {start:.1f} s to start"
        f" = {whole:.1f} s"
    )
    return {
        f"{corpus}_film_bare_ms": spent["bare"],
        f"{corpus}_film_stage_ms": spent["stage"],
        f"{corpus}_film_stage_over_bare": spent["stage"] / spent["bare"],
        f"{corpus}_on_{CORES}_cores_s": whole,
    }


def peak(shard: Shard) -> float:
    """Peak memory, in MB, of a process that does the stage on a shard, with the parameters of ravdess."""
    return float(subprocess.check_output([sys.executable, __file__, "--peak-of", shard.folder], text=True))


def peak_of(folder: Path) -> float:
    archive = folder / "shard.zip"
    rows = [{"clip": name, "sound": name, "duration": "3.5"} for name in shards.members(archive)]
    audio.extract(rows, archive, section_of("ravdess"), folder / "shard.npy", folder / "shard.csv")
    # Not getrusage: it starts with the peak of the process that started this one.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def section_of(corpus: str) -> config.Audio:
    section = config.load().corpus(corpus).audio
    assert section is not None
    return section


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("EMOFUSE_SHARED_DATA") or beside)
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--clips", type=int, default=1440, help="so many of the recordings (all of them)")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(peak_of(options.peak_of))
        return 0
    try:
        import librosa  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("librosa is not installed, and nothing but this benchmark needs it: uv pip install librosa")
    recordings = sorted(options.folder.glob("ravdess_speech_16k/Actor_*/*.flac"))
    films = {
        "ravdess": sorted(options.folder.glob("ravdess_av/Actor_*/01-*.mp4")),
        "cremad": sorted(options.folder.glob("cremad/VideoFlash/*.flv")),
    }
    if not (recordings and all(films.values())):
        sys.exit(f"{options.folder}: want ravdess_speech_16k, ravdess_av and cremad with their clips there")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    chosen = recordings[:: max(1, len(recordings) // options.clips)]
    shards = [chosen[k * len(chosen) // SHARDS : (k + 1) * len(chosen) // SHARDS] for k in range(SHARDS)]
    figures: dict[str, float] = {"recordings": len(chosen)}
    with tempfile.TemporaryDirectory(prefix="emofuse-") as name:
        folder = Path(name)
        figures |= on_recordings([Shard(folder / str(k), files) for k, files in enumerate(shards)])
        for corpus, files in films.items():
            times = max(1, min(options.clips, 200) // len(files))
            figures |= on_films(corpus, Shard(folder / corpus, files), times)
        for clips in (10, 1000):
            figures[f"peak_mb_of_{clips}_clips"] = peak(Shard(folder / f"peak-{clips}", recordings[:10], clips // 10))
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
