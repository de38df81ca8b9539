"""What the face stage costs beside bare decoding and beside a detector on every frame, and how much memory it takes.

`python benchmarks/faces.py [FOLDER] [--rounds N] [--clips N]`, in the repository's root. FOLDER holds `ravdess_av`,
`cremad` and `weights`; by default it is EMOFUSE_SHARED_DATA or ../shared/data. Everything runs in one thread on one
core. The last lines are its figures, `name: value`, milliseconds a clip, the same clips for all:

- bare: PyAV decodes every frame and converts it to RGB;
- stage: `emofuse.features.faces.extract` on mobilenet0.25, from the shard's zip to the crops on disk, the model loaded before;
- stage_resnet50: the same, and what mobilenet0.25 looks at resnet50 looks at, too;
- predict_jsons: the package's own detector, ResNet-50, on a frame at full size, times the frames of a clip. It is
  measured on a few frames. The weights, of which time does not depend, are random ones.

Bare and stage take turns, round after round; a ratio is the median over the rounds. The peaks of memory are those of
a process that does the stage on clips of both corpora in turn.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer release

import av
import numpy as np
import torch

from emofuse import config
from emofuse.datasets import shards
from emofuse.features import faces, media, retinaface

CORES = 8
CLIPS = {"ravdess": 1440, "cremad": 7442}
FILES = {"ravdess": "ravdess_av/Actor_*/01-*.mp4", "cremad": "cremad/VideoFlash/*.flv"}
TIMES = {"ravdess": 1, "cremad": 6}  # CREMA-D's are few and short: one measurement takes each six times
SECTION = config.Faces(body="mobilenet0.25")


class Shard:
    """A zip of some clips and rows of the index that name each as often as is wanted."""

    def __init__(self, folder: Path, files: Sequence[Path], clips: int) -> None:
        folder.mkdir()
        self.folder, self.files = folder, [files[number % len(files)] for number in range(clips)]
        members = sorted((file.name, file.read_bytes()) for file in files)
        shards.write(folder / "shard.zip", members)
        lengths = {file: f"{media.probe(file.read_bytes()).duration:.3f}" for file in files}
        self.rows = [{"clip": str(n), "file": f.name, "duration": lengths[f]} for n, f in enumerate(self.files)]


def bare(shard: Shard) -> int:
    """Decode every frame to RGB; returns how many there are."""
    frames = 0
    for file in shard.files:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                frame.to_ndarray(format="rgb24", threads=1)
                frames += 1
    return frames


def stage(shard: Shard, detect: Any) -> None:
    table = shard.folder / "shard.csv"
    faces.detector = lambda *_: detect
    faces.extract(shard.rows, shard.folder / "shard.zip", SECTION, shard.folder / "shard.npy", table)
    assert table.read_text().count(",ok,") == len(shard.rows), f"bad clips in {shard.folder}"


def seconds(function: Callable[..., object], *arguments: object) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def every_frame(shard: Shard, looks: int) -> float:
    """Seconds that the package's detector takes on one frame of the shard's clips, at full size."""
    with av.open(str(shard.files[0])) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    model = package_model(max(frame.shape[:2]))
    model.predict_jsons(frame)
    return median(seconds(model.predict_jsons, frame) for _ in range(looks))


def on_corpus(corpus: str, shard: Shard, small: Any, large: Any, rounds: int) -> dict[str, float]:
    def both(pictures: np.ndarray) -> Any:
        large(pictures)
        return small(pictures)

    clips, frames = len(shard.rows), bare(shard)
    stage(shard, small)
    turns = [(seconds(bare, shard), seconds(stage, shard, small)) for _ in range(rounds)]
    decoding, staging = (1000 * median(column) / clips for column in zip(*turns, strict=True))
    with_resnet50 = 1000 * seconds(stage, shard, both) / clips
    frame = 1000 * every_frame(shard, min(rounds, 3))
    peer = frame * frames / clips
    print(f"{corpus}: predict_jsons, {frame:.0f} ms a frame × {frames / clips:.1f} frames a clip = {peer:.0f} ms")
    hours = CLIPS[corpus] * staging / CORES / 3.6e6
    print(f"{corpus}: {CLIPS[corpus]:,} clips × {staging:.1f} ms / {CORES} cores = {hours:.4f} hours")
    return {
        f"bare_{corpus}_ms": decoding,
        f"stage_{corpus}_ms": staging,
        f"stage_resnet50_{corpus}_ms": with_resnet50,
        f"predict_jsons_{corpus}_ms": peer,
        f"face_stage_over_decode_{corpus}": median(ours / theirs for theirs, ours in turns),
        f"predict_jsons_over_stage_{corpus}": peer / staging,
        f"predict_jsons_over_stage_resnet50_{corpus}": peer / with_resnet50,
        f"hours_on_{CORES}_cores_{corpus}": hours,
    }


def package_model(longer_side: int) -> Any:
    """The package's own detector for pictures of that size, as it comes, with seeded random weights."""
    from retinaface.predict_single import Model

    warnings.simplefilter("ignore", UserWarning)  # it builds its body in torchvision's old way
    torch.manual_seed(1)
    model = Model(max_size=longer_side)
    model.eval()
    return model


def mobilenet(folder: Path) -> Any:
    return retinaface.Detector(SECTION.body, folder / "weights" / "mobilenet0.25_Final.pth", SECTION.score, "cpu")


def resnet50(folder: Path) -> Any:
    """It finds nothing: its weights are the random ones."""
    weights = folder / "resnet50.pth"
    torch.save(package_model(1280).model.state_dict(), weights)
    return retinaface.Detector("resnet50", weights, 1.0, "cpu")


def peak(clips: int, options: argparse.Namespace) -> float:
    """Peak memory, in MB, of a process that does the stage on that many clips."""
    command = [sys.executable, __file__, options.folder, "--peak-of", str(clips)]
    return float(subprocess.check_output(command, text=True))


def peak_of(clips: int, folder: Path) -> float:
    files = [file for pattern in FILES.values() for file in sorted(folder.glob(pattern))]
    with tempfile.TemporaryDirectory(prefix="emofuse-") as name:
        stage(Shard(Path(name) / "shard", files, clips), mobilenet(folder))
    # Not getrusage: it starts with the peak of the process that started this one.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("EMOFUSE_SHARED_DATA") or beside)
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--rounds", type=int, default=15, help="of bare decoding and stage in turn (15)")
    parser.add_argument("--clips", type=int, default=1000, help="the larger shard whose peak is measured (1000)")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(peak_of(options.peak_of, options.folder))
        return 0
    files = {corpus: sorted(options.folder.glob(pattern)) for corpus, pattern in FILES.items()}
    if not all(files.values()):
        sys.exit(f"{options.folder}: want ravdess_av, cremad and weights with their files there")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="emofuse-") as name:
        detectors = mobilenet(options.folder), resnet50(Path(name))
        for corpus, each in files.items():
            shard = Shard(Path(name) / corpus, each, TIMES[corpus] * len(each))
            figures |= on_corpus(corpus, shard, *detectors, options.rounds)
    for clips in (10, options.clips):
        figures[f"peak_mb_of_{clips}_clips"] = peak(clips, options)
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
