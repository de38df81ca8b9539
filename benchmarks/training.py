"""How much an epoch of training costs compared with the bare network, and how long the network waits for data.

Run `python benchmarks/training.py [--rounds N] [--threads N]` in the repository's root. The last lines are the results, for
two networks, those of ravdess_audio and of the demo (video and audio), on random features of their sizes:

- epoch_over_bare: the time of an epoch of `emofuse.training.train.train` (reading, augmentation, the complete loss, gradient
  clipping, weight averaging), divided by that of the bare network: as many forward passes, cross
  entropies, backward passes and optimizer steps on one batch that is already in memory. Both are measured alternately; the
  result is the median over rounds.
- waiting_share: the share of an epoch in which the network waits for prefetched batches.
- waiting_share_cold: the same if no feature is in memory at the start of an epoch, as with features larger than memory:
  pages are dropped before each epoch. cold_bytes_read is what an epoch then reads from disk.

If there is a GPU, it is used.
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
from emofuse.data.dataset import read_parts
from emofuse.models.build import build
from emofuse.paths import RunKey
from emofuse.training import train
from emofuse.training.checkpoint import Checkpoint
from emofuse.utils import gpu

EPOCHS, BATCHES = 4, 8  # the first epoch warms up
KEY = RunKey("random", "kfold_2", "proposed", 1, 0)


def make_features(data: Path, section: config.Corpus, clips: int, emotions: tuple[str, ...]) -> None:
    """A corpus of random features: `clips` for training, a few that are not used."""
    rng = np.random.default_rng(0)
    total = clips + len(emotions)
    features, splits = data / "features", data / "splits" / KEY.protocol
    for folder in (features / "faces", features / "audio", splits):
        folder.mkdir(parents=True)
    if section.faces:
        faces = section.faces
        shape = (total, faces.snippets, faces.frames, faces.size, faces.size, 3)
        np.save(features / "faces" / "shard-0.npy", rng.integers(0, 256, shape, np.uint8))
    if section.audio:
        shape = (total, section.audio.segments, section.audio.bands, section.audio.frames)
        np.save(features / "audio" / "shard-0.npy", rng.standard_normal(shape, np.float32).astype(np.float16))
    with (splits / "clips.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("clip", "group", "usable", "shard", "faces_row", "audio_row", "emotion"))
        writer.writerows((n, n, "true", 0, n, n, emotions[n % len(emotions)]) for n in range(total))
    with (splits / "folds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("fold", "part", "clip"))
        writer.writerows((0, "train" if n < clips else "test", n) for n in range(total))


class Clock:
    """Measures the duration of each epoch; `between` is called between epochs and not counted."""

    def __init__(self, between: Callable[[], None] = lambda: None) -> None:
        self.seconds: list[float] = []
        self._between, self._started = between, time.perf_counter()

    def resumed(self, history: Sequence[Mapping[str, float]]) -> None:
        raise AssertionError("there should be no checkpoint")

    def epoch(self, row: Mapping[str, float]) -> None:
        self.seconds.append(time.perf_counter() - self._started)
        self._between()
        self._started = time.perf_counter()


def drop_pages(data: Path) -> None:
    """Drop the features from the page cache."""
    for mapped in [item for item in gc.get_objects() if type(item) is np.memmap]:
        if isinstance(mapped._mmap, mmap.mmap):  # type: ignore[attr-defined]
            mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
    for file in data.glob("features/*/*.npy"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    """Bytes that this process has read from disk."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["read_bytes"])


def waiting_share(root: Path, run: config.Run, emotions: tuple[str, ...], device: torch.device, clock: Clock) -> float:
    """Train on the random features; the share of time spent waiting for data."""
    (root / "checkpoint.pt").unlink(missing_ok=True)
    _, details = train.train(KEY, run, emotions, root, Checkpoint(root / "checkpoint.pt", ""), clock, device)
    return float(details["share_waiting_for_data"])


def bare(root: Path, run: config.Run, emotions: tuple[str, ...], device: torch.device) -> float:
    """Seconds of BATCHES steps of the bare network."""
    (part,) = read_parts(root, KEY, ["train"], run, emotions)
    network = build(run.network, len(emotions), part.shapes, root, device).train()
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
    """The results for the proposed network of a corpus."""
    loaded = config.load()
    section, emotions = loaded.corpus(corpus), datasets.get(loaded.corpus(corpus).kind).emotions
    short = {"epochs": EPOCHS, "warmup_epochs": 1, "threads": threads}
    run = config.overridden(loaded.run(corpus, "proposed"), {"training": short}, corpus)
    size = run.training.emotions_per_batch * run.training.clips_per_emotion
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir=".", prefix=".benchmark-") as name:
        root = Path(name)
        make_features(root / "data" / KEY.corpus, section, size * BATCHES, emotions)
        ratios, shares = [], []
        for number in range(rounds):
            clock = Clock()
            shares.append(waiting_share(root, run, emotions, device, clock))
            epoch, single = median(clock.seconds[1:]), bare(root, run, emotions, device)
            ratios.append(epoch / single)
            print(f"{corpus}, round {number + 1}: epoch {epoch:.2f} s, bare network {single:.2f} s", flush=True)
        os.sync()  # dirty pages cannot be dropped
        before = bytes_read()
        drop_pages(root / "data" / KEY.corpus)
        cold = waiting_share(root, run, emotions, device, Clock(lambda: drop_pages(root / "data" / KEY.corpus)))
        read = (bytes_read() - before) / EPOCHS
    return {
        f"{corpus}_epoch_over_bare": median(ratios),
        f"{corpus}_waiting_share": median(shares),
        f"{corpus}_waiting_share_cold": cold,
        f"{corpus}_cold_bytes_read": read,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description="The cost of an epoch compared with the bare network, and the time spent waiting for data."
    )
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
