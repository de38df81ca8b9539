"""The face stage compared with bare decoding and with detection in every frame, and its peak memory.

Run `python benchmarks/faces.py [FOLDER] [--rounds N] [--clips N]` in the repository's root. FOLDER contains `ravdess_av`,
`cremad` and `weights`; the default is EMOFUSE_SHARED_DATA or ../shared/data. Everything runs in one thread on one core.
The last lines are the figures, `name: value`, in milliseconds per clip, on the same clips:

- bare: PyAV decodes every frame and converts it to RGB;
- stage: `emofuse.features.faces.extract` with mobilenet0.25, from the shard's zip to the crops on disk, without loading
  the model;
- stage_resnet50: the same, with resnet50 also run on every image that mobilenet0.25 is run on;
- predict_jsons: the retinaface package's own detector, ResNet-50, on one frame at full size, times the frames of a clip.
  It is measured on a few frames, with random weights, which do not affect its time.

Bare and stage alternate; a ratio is the median over the rounds. Peak memory is that of a process that runs the stage on
clips of both corpora.
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
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise it looks for a newer release on the network

import av
import numpy as np
import torch
from common import CLIPS, CORES, peak_memory_mb, print_figures, shared_data

from emofuse import config
from emofuse.datasets import base
from emofuse.features import faces, media, retinaface

FILES = {"ravdess": "ravdess_av/Actor_*/01-*.mp4", "cremad": "cremad/VideoFlash/*.flv"}
REPETITIONS = {"ravdess": 1, "cremad": 6}  # of each clip per measurement: CREMA-D's are few and short
SECTION = config.Faces(body="mobilenet0.25")


class Shard:
    """A zip of `files`, and an index of `clips` rows that refer to them in turn."""

    def __init__(self, folder: Path, files: Sequence[Path], clips: int) -> None:
        folder.mkdir()
        self.folder, self.files = folder, [files[number % len(files)] for number in range(clips)]
        members = sorted((file.name, file.read_bytes()) for file in files)
        base.write_shard(folder / "shard.zip", members)
        durations = {file: f"{media.probe(file.read_bytes()).duration:.3f}" for file in files}
        self.rows = [{"clip": str(n), "file": f.name, "duration": durations[f]} for n, f in enumerate(self.files)]


def bare(shard: Shard) -> int:
    """Decode every frame to RGB. Returns the number of frames."""
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
    assert table.read_text().count(",ok,") == len(shard.rows), f"unusable clips in {shard.folder}"


def seconds(function: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def package_detector_seconds(shard: Shard, repetitions: int) -> float:
    """The time that the package's own detector takes for one frame of the shard's clips at full size."""
    with av.open(str(shard.files[0])) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    model = package_model(max(frame.shape[:2]))
    model.predict_jsons(frame)
    return median(seconds(model.predict_jsons, frame) for _ in range(repetitions))


def measure_corpus(corpus: str, shard: Shard, mobilenet: Any, resnet50: Any, rounds: int) -> dict[str, float]:
    def both(images: np.ndarray) -> Any:
        resnet50(images)
        return mobilenet(images)

    clips, frames = len(shard.rows), bare(shard)
    stage(shard, mobilenet)
    pairs = [(seconds(bare, shard), seconds(stage, shard, mobilenet)) for _ in range(rounds)]
    bare_ms, stage_ms = (1000 * median(column) / clips for column in zip(*pairs, strict=True))
    resnet50_ms = 1000 * seconds(stage, shard, both) / clips
    frame_ms = 1000 * package_detector_seconds(shard, min(rounds, 3))
    package_ms = frame_ms * frames / clips
    print(
        f"{corpus}: predict_jsons, {frame_ms:.0f} ms per frame × {frames / clips:.1f} frames per clip"
        f" = {package_ms:.0f} ms"
    )
    hours = CLIPS[corpus] * stage_ms / CORES / 3.6e6
    print(f"{corpus}: {CLIPS[corpus]:,} clips × {stage_ms:.1f} ms / {CORES} cores = {hours:.4f} hours")
    return {
        f"bare_{corpus}_ms": bare_ms,
        f"stage_{corpus}_ms": stage_ms,
        f"stage_resnet50_{corpus}_ms": resnet50_ms,
        f"predict_jsons_{corpus}_ms": package_ms,
        f"face_stage_over_decode_{corpus}": median(staging / decoding for decoding, staging in pairs),
        f"predict_jsons_over_stage_{corpus}": package_ms / stage_ms,
        f"predict_jsons_over_stage_resnet50_{corpus}": package_ms / resnet50_ms,
        f"hours_on_{CORES}_cores_{corpus}": hours,
    }


def package_model(longer_side: int) -> Any:
    """The package's own detector for images of that size, with random weights from a fixed seed."""
    from retinaface.predict_single import Model

    warnings.simplefilter("ignore", UserWarning)  # it uses a deprecated argument of torchvision
    torch.manual_seed(1)
    model = Model(max_size=longer_side)
    model.eval()
    return model


def mobilenet_detector(folder: Path) -> Any:
    return retinaface.Detector(SECTION.body, folder / "weights" / "mobilenet0.25_Final.pth", SECTION.score, "cpu")


def resnet50_detector(folder: Path) -> Any:
    """A detector with random weights, and a threshold so high that it detects nothing."""
    weights = folder / "resnet50.pth"
    torch.save(package_model(1280).model.state_dict(), weights)
    return retinaface.Detector("resnet50", weights, 1.0, "cpu")


def peak_of_stage(clips: int, folder: Path) -> float:
    """The peak memory, in MB, of a process that runs the stage on that many clips."""
    return float(subprocess.check_output([sys.executable, __file__, folder, "--peak-of", str(clips)], text=True))


def run_stage_for_peak(clips: int, folder: Path) -> float:
    """The child process of `peak_of_stage`."""
    files = [file for pattern in FILES.values() for file in sorted(folder.glob(pattern))]
    with tempfile.TemporaryDirectory(prefix="emofuse-") as name:
        stage(Shard(Path(name) / "shard", files, clips), mobilenet_detector(folder))
    return peak_memory_mb()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=shared_data(), help="real clips and weights")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of bare decoding and the stage (default: 15)")
    parser.add_argument("--clips", type=int, default=1000, help="size of the larger shard for memory (default: 1000)")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print(run_stage_for_peak(options.peak_of, options.folder))
        return 0
    files = {corpus: sorted(options.folder.glob(pattern)) for corpus, pattern in FILES.items()}
    if not all(files.values()):
        sys.exit(f"{options.folder}: clips are missing; it must contain ravdess_av, cremad and weights")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="emofuse-") as name:
        detectors = mobilenet_detector(options.folder), resnet50_detector(Path(name))
        for corpus, clips in files.items():
            shard = Shard(Path(name) / corpus, clips, REPETITIONS[corpus] * len(clips))
            figures |= measure_corpus(corpus, shard, *detectors, options.rounds)
    for count in (10, options.clips):
        figures[f"peak_mb_of_{count}_clips"] = peak_of_stage(count, options.folder)
    print_figures(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
