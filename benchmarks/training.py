"""What an epoch of training costs beside the bare network, and how long the network waits for data.

`python benchmarks/training.py [--rounds N] [--threads N]`, in the repository's root. The last lines are its figures, for
each of two networks, ravdess_audio's and the demo's (faces and sound), on features of their size made at random:

- epoch_over_bare: an epoch of `emofuse.training.train.train` (reading, augmentation, the whole loss, clipping of gradients,
  the moving average, validation on one batch, the checkpoint) over the bare network's forward pass, cross entropy,
  backward pass and step of the optimizer as many times, on tensors already in memory, the same batch. They take turns,
  round after round; it is the median of the rounds' ratios.
- waiting_share: of an epoch, what the network waits for the batches that are read ahead of it;
- waiting_share_cold: the same where no feature is in memory as an epoch begins, as with features larger than memory:
  pages are dropped before each epoch. cold_bytes_read says how much an epoch then reads from the disk.

On a GPU the same, of the GPU.
"""

from __future__ import annotations

import argparse
import csv
import gc
import mmap
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from emofuse import config, datasets
from emofuse.training import train
from emofuse.utils import gpu

EPOCHS, BATCHES = 4, 8  # the first epoch warms up
PROTOCOL = "kfold_2"


def make_features(data: Path, section: config.Corpus, clips: int, emotions: tuple[str, ...]) -> None:
    """A corpus of random features: `clips` to train on, a few to validate on."""
    rng = np.random.default_rng(0)
    total = clips + len(emotions)
    features, splits = data / "features", data / "splits" / PROTOCOL
    for folder in (features / "faces", features / "audio", splits):
        folder.mkdir(parents=True)
    if section.faces:
        made = section.faces
        shape = (total, made.snippets, made.frames, made.size, made.size, 3)
        np.save(features / "faces" / "shard-0.npy", rng.integers(0, 256, shape, np.uint8))
    if section.audio:
        shape = (total, section.audio.segments, section.audio.bands, section.audio.frames)
        np.save(features / "audio" / "shard-0.npy", rng.standard_normal(shape, np.float32).astype(np.float16))
    with (splits / "clips.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("clip", "shard", "faces_row", "audio_row", "emotion"))
        writer.writerows((n, 0, n, n, emotions[n % len(emotions)]) for n in range(total))
    with (splits / "folds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("fold", "part", "clip"))
        writer.writerows((0, "train" if n < clips else "val", n) for n in range(total))


class Clock:
    """When each epoch ended; what to do before the next is not counted."""

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        self.seconds: list[float] = []
        self._between, self._started = between, time.perf_counter()

    def resumed(self, history: Sequence[Mapping[str, float]]) -> None:
        raise AssertionError("there is no checkpoint")

    def epoch(self, row: Mapping[str, float]) -> None:
        self.seconds.append(time.perf_counter() - self._started)
        self._between()
        self._started = time.perf_counter()


def drop_pages(data: Path) -> None:
    """Make the system forget what it has read of the features."""
    for mapped in [thing for thing in gc.get_objects() if type(thing) is np.memmap]:
        if isinstance(mapped._mmap, mmap.mmap):  # type: ignore[attr-defined]
            mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    for file in data.glob("features/*/*.npy"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    """What this process has had read from the disk."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["read_bytes"])


def epochs(root: Path, run: config.Run, emotions: tuple[str, ...], device: torch.device, clock: Clock) -> float:
    """Train on the made features; the share of the time that the network waited for data."""
    (root / "checkpoint.pt").unlink(missing_ok=True)
    details = train.train(
        root / "data",
        PROTOCOL,
        0,
        1,
        run,
        emotions,
        root / "model.safetensors",
        root / "checkpoint.pt",
        "",
        {},
        clock,
        device,
    )
    return float(details["share_waiting_for_data"])


def bare(root: Path, run: config.Run, emotions: tuple[str, ...], device: torch.device) -> float:
    """Seconds of BATCHES bare steps."""
    part, _ = train.read_part(root / "data", PROTOCOL, 0, "train", run.network.modalities, emotions)
    network = train.build_network(run, emotions, part).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    size = run.training.emotions_per_batch * run.training.clips_per_emotion
    (batch,) = part.batches([np.arange(size)], device)
    inputs, started = batch.inputs(), 0.0
    for step in range(BATCHES + 2):
        if step == 2:
            _finish(device)
            started = time.perf_counter()
        with train.autocast(device, run.training.precision):
            scores, _ = network(inputs)
        loss = torch.nn.functional.cross_entropy(scores.float(), batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    _finish(device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(corpus: str, rounds: int, threads: int, device: torch.device) -> dict[str, float]:
    """The figures of a corpus's proposed network."""
    loaded = config.load()
    section, emotions = loaded.corpus(corpus), datasets.get(loaded.corpus(corpus).kind).emotions
    short = {"epochs": EPOCHS, "warmup_epochs": 1, "patience": EPOCHS, "threads": threads}
    run = config.overridden(loaded.run(corpus, "proposed"), {"training": short}, corpus)
    size = run.training.emotions_per_batch * run.training.clips_per_emotion
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir=".", prefix=".benchmark-") as name:
        root = Path(name)
        make_features(root / "data", section, size * BATCHES, emotions)
        ratios, shares = [], []
        for number in range(rounds):
            clock = Clock()
            shares.append(epochs(root, run, emotions, device, clock))
            warm, single = median(clock.seconds[1:]), bare(root, run, emotions, device)
            ratios.append(warm / single)
            print(f"{corpus}, round {number + 1}: an epoch {warm:.2f} s, bare {single:.2f} s", flush=True)
        os.sync()  # what is not on the disk yet cannot be dropped
        before = bytes_read()
        drop_pages(root / "data")
        cold = epochs(root, run, emotions, device, Clock(lambda: drop_pages(root / "data")))
        read = (bytes_read() - before) / EPOCHS
    return {
        f"{corpus}_epoch_over_bare": median(ratios),
        f"{corpus}_waiting_share": median(shares),
        f"{corpus}_waiting_share_cold": cold,
        f"{corpus}_cold_bytes_read": read,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="An epoch beside the bare network, and the waiting for data.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    figures = {}
    with gpu.device() as device:
        for corpus in ("ravdess_audio", "demo"):
            figures |= measure(corpus, options.rounds, options.threads, device)
    for name, value in figures.items():
        print(f"{name}: {value:,.0f}" if name.endswith("read") else f"{name}: {value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
