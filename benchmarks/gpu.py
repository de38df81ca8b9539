"""Training steps on a GPU: data from our features and from the peers' loaders, share of peak performance, bf16 and fp32.

Run `python benchmarks/gpu.py [--vaanet FOLDER] [--kateryna FOLDER] [--films FOLDER] [--clips N] [--rounds N] [--steps N]
[--curve FILE] [--tiny]` in the repository's root. Checkouts, films and requirements are those of peers.py. A GPU is
required, except with --tiny, which runs a few steps of a small network on small images: its results are meaningless, but
show that the benchmark works.

Network, loss, optimizer, batch size and precision are those of the ravdess corpus in params.yaml, with random weights.
Epochs alternate between these sources of data:

- memory: one batch on the GPU, used repeatedly, which gives the time of the bare step;
- resident: our features on the GPU as uint8, with augmentation, as in training if they fit;
- mapped: our features in the page cache, prefetched, as in training if they do not fit;
- vaanet, kateryna: their loaders, with as many workers as in their options;
- vaanet_all_cores: the former with one worker per core.

All batches have the same shapes: a peer's audio is cut to the size of our segments. The last lines are the results,
`name: value`: clips per second, and our speed (resident and mapped) divided by theirs, as medians over rounds; the FLOPs of
a step by torch's counter, times steps per second, divided by the measured peak, that of a large bf16 matrix product; and,
from training on the same batches in float32 (without TF32), in bfloat16, and in float32 with other random numbers in the
augmentation, the largest difference between losses averaged over 20 steps. The three curves are written to FILE.

The same network with r3d_18 and with r3d_101 as its 3D-CNN, in bfloat16 and in float32, gives `<backbone>_<precision>_…`:
clips per second on one batch in the GPU's memory, the share of the peak (of bf16, in both precisions), and the clips in a
batch, which is halved until it fits.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import peers
import torch
from common import print_figures
from peers import Film, Size
from torch.utils.flop_counter import FlopCounterMode

from emofuse import config
from emofuse.data.dataset import Part
from emofuse.models.build import Shapes
from emofuse.models.losses import EmotionLoss
from emofuse.models.network import EmotionNetwork
from emofuse.training.sampling import shuffled_batches
from emofuse.training.train import build_optimizer, learning_rate
from emofuse.utils import gpu

SMOOTH = 20  # steps
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
Feed = Callable[[], Iterable[Batch]]


class Learner:
    """Network, loss and optimizer, and the training step of `emofuse.training.train.train`."""

    def __init__(self, run: config.Run, shapes: Shapes, device: torch.device, precision: str) -> None:
        torch.manual_seed(1)
        self.training, self.device, self.precision = run.training, device, precision
        classes = peers.CLASSES
        self.network = EmotionNetwork(run.network, len(classes), shapes).to(device).train()
        self.criterion = EmotionLoss(classes, **run.loss.model_dump()).to(device)
        self.eye = torch.eye(len(classes), device=device)
        self.optimizer = build_optimizer(list(self.network.parameters()), self.criterion, run.training)
        for group in self.optimizer.param_groups:
            group["lr"] = run.training.learning_rate

    def step(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            scores, embeddings = self.network(inputs)
        loss = self.criterion(scores, embeddings, self.eye[labels])[0]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.training.gradient_clip)
        self.optimizer.step()
        return loss.detach()


# Sources of data


def our_feed(part: Part, size: Size, training: config.Training, device: torch.device) -> Feed:
    rng = np.random.default_rng(1)

    def feed() -> Iterator[Batch]:
        order = shuffled_batches(len(part.labels), size.batch, rng)
        yield from peers.augmented(part, order, training, device)

    return feed


def as_segments(sound: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Audio features of any shape as (B, *shape), cut or repeated, so that the network has the same work."""
    values = sound.flatten(1)
    size = int(np.prod(shape))
    return values.repeat(1, -(-size // values.shape[1]))[:, :size].reshape(-1, *shape)


def vaanet_feed(loader: Iterable, shape: Sequence[int], device: torch.device) -> Iterator[Batch]:
    for faces_BNCTHW, labels, sound, _ in loader:
        video = faces_BNCTHW.to(device).div_(255)  # as in its network
        yield {"video": video, "audio": as_segments(sound.to(device), shape)}, labels.to(device)


def kateryna_feed(loader: Iterable, size: Size, shape: Sequence[int], device: torch.device) -> Iterator[Batch]:
    for sound, faces_BCFHW, labels in loader:
        video = faces_BCFHW.to(device).unflatten(2, (size.snippets, size.frames)).transpose(1, 2)
        yield {"video": video, "audio": as_segments(sound.to(device), shape)}, labels.to(device)


def feeds(
    options: argparse.Namespace,
    clips: Sequence[Film],
    size: Size,
    training: config.Training,
    device: torch.device,
    work: Path,
) -> dict[str, Feed]:
    vaanet_files, ours = work / "vaanet_files", work / "ours"
    ours.mkdir()
    peers.prepare_ours(clips, size, ours)
    resident, mapped = (peers.read_ours(clips, size, ours) for _ in range(2))
    for features in resident.features.values():
        features.move(device)
    sources = {
        "resident": our_feed(resident, size, training, device),
        "mapped": our_feed(mapped, size, training, device),
    }
    first = next(iter(sources["resident"]()))
    sources["memory"] = lambda: itertools.repeat(first, len(clips) // size.batch)
    shape = resident.features["audio"].shape
    if options.vaanet:
        peers.prepare_vaanet(options.vaanet, clips, vaanet_files)
        for name, workers in (("vaanet", None), ("vaanet_all_cores", os.cpu_count())):
            loader = peers.vaanet(options.vaanet, vaanet_files, size, workers).feed()
            sources[name] = functools.partial(vaanet_feed, loader, shape, device)
    if options.kateryna:
        peers.prepare_kateryna(clips, ours, work / "kateryna")
        loader = peers.kateryna(options.kateryna, work / "kateryna", size).feed()
        sources["kateryna"] = functools.partial(kateryna_feed, loader, size, shape, device)
    return sources


# Measurements


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clips_per_second(learner: Learner, feed: Feed) -> float:
    """The speed of one epoch, from requesting its first batch to the end of its last step."""
    finish(learner.device)
    started, clips = time.perf_counter(), 0
    for inputs, labels in feed():
        learner.step(inputs, labels)
        clips += len(labels)
    finish(learner.device)
    return clips / (time.perf_counter() - started)


def speeds_of(learner: Learner, contenders: dict[str, Feed], rounds: int) -> dict[str, float]:
    """Clips per second of each source, and our speed divided by theirs."""
    speeds: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):  # the first is a warm-up
        for name, feed in contenders.items():
            speed = clips_per_second(learner, feed)
            if number:
                speeds[name].append(speed)
    figures = {f"{name}_clips_per_s": median(values) for name, values in speeds.items()}
    for peer in [name for name in contenders if name not in ("memory", "resident", "mapped")]:
        for own in ("resident", "mapped"):
            pairs = zip(speeds[own], speeds[peer], strict=True)
            figures[f"{own}_over_{peer}"] = median(ours / theirs for ours, theirs in pairs)
    return figures


def peak_flops(device: torch.device, side: int) -> float:
    """The highest FLOP per second of several bf16 products of side × side matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best, times = 0.0, 10
    for _ in range(10):
        finish(device)
        started = time.perf_counter()
        for _ in range(times):
            a @ b
        finish(device)
        best = max(best, 2 * side**3 * times / (time.perf_counter() - started))
    return best


def flops_of_step(learner: Learner, feed: Feed) -> float:
    """FLOPs per clip of a step, forward and backward."""
    inputs, labels = next(iter(feed()))
    with FlopCounterMode(display=False) as counter:
        learner.step(inputs, labels)
    return counter.get_total_flops() / len(labels)


def speeds_of_backbones(
    run: config.Run, size: Size, shapes: Shapes, feed: Feed, steps: int, peak_tflops: float
) -> dict[str, float]:
    """Clips per second of each 3D-CNN in each precision, on one batch, and the share of the peak."""
    inputs, labels = next(iter(feed()))
    device = labels.device
    figures: dict[str, float] = {}
    # On a CPU, torch 2.11 crashes in the backward pass of these in bfloat16.
    precisions = ("bfloat16", "float32") if device.type == "cuda" else ("float32",)
    for backbone, precision in itertools.product(("r3d_18", "r3d_101"), precisions):
        changed = config.overridden(
            run, {"network": {"video": {"backbone": backbone, "width": 64, "weights": "none"}}}, backbone
        )
        batch = size.batch
        while True:
            try:
                learner = Learner(changed, shapes, device, precision)
                clips = {name: values[:batch] for name, values in inputs.items()}
                with FlopCounterMode(display=False) as counter:
                    learner.step(clips, labels[:batch])
                learner.step(clips, labels[:batch])
                finish(device)
                started = time.perf_counter()
                for _ in range(steps):
                    learner.step(clips, labels[:batch])
                finish(device)
                break
            except torch.OutOfMemoryError:
                if batch == 1:
                    raise
                batch //= 2
            finally:
                learner = None  # type: ignore[assignment]
                if device.type == "cuda":
                    torch.cuda.empty_cache()
        speed = steps * batch / (time.perf_counter() - started)
        name = f"{backbone}_{precision}"
        figures |= {f"{name}_clips_per_s": speed, f"{name}_batch": batch}
        figures[f"{name}_share_of_peak"] = counter.get_total_flops() / batch * speed / 1e12 / peak_tflops
    return figures


def train_losses(learner: Learner, part: Part, size: Size, steps: int, seed: int) -> np.ndarray:
    """The loss of each step (steps,). `seed` is that of the augmentation; the batches are always the same."""
    rng = np.random.default_rng(1)
    endless = (batch for _ in itertools.count() for batch in shuffled_batches(len(part.labels), size.batch, rng))
    order = itertools.islice(endless, steps)
    torch.manual_seed(seed)
    losses = []
    for number, (inputs, labels) in enumerate(peers.augmented(part, order, learner.training, learner.device)):
        for group in learner.optimizer.param_groups:
            group["lr"] = learning_rate(number / steps * learner.training.epochs, learner.training)
        losses.append(learner.step(inputs, labels))
    return torch.stack(losses).float().cpu().numpy()


def curves(run: config.Run, size: Size, part: Part, device: torch.device, steps: int, file: Path) -> dict[str, float]:
    """Train in both precisions, write the curves, and return their differences."""
    torch.backends.cudnn.allow_tf32 = False  # true float32
    measured = {
        name: train_losses(Learner(run, part.shapes, device, precision), part, size, steps, seed)
        for name, precision, seed in (("float32", "float32", 1), ("bfloat16", "bfloat16", 1), ("other", "float32", 2))
    }
    torch.backends.cudnn.allow_tf32 = True
    width = min(SMOOTH, steps)
    smooth = {name: np.convolve(curve, np.full(width, 1 / width), "valid") for name, curve in measured.items()}
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("step", "float32", "bfloat16", "float32_other_augmentation"))
        writer.writerows(
            (n, *(f"{x:.5f}" for x in row)) for n, row in enumerate(zip(*measured.values(), strict=True), 1)
        )
    return {
        "float32_first_loss": smooth["float32"][0],
        "float32_last_loss": smooth["float32"][-1],
        "bfloat16_last_loss": smooth["bfloat16"][-1],
        "bfloat16_largest_difference": float(abs(smooth["bfloat16"] - smooth["float32"]).max()),
        "other_augmentation_largest_difference": float(abs(smooth["other"] - smooth["float32"]).max()),
    }


def measure(options: argparse.Namespace, device: torch.device, work: Path) -> dict[str, float]:
    size, run = peers.paper_size(), config.load().run("ravdess", "proposed")
    file = options.curve
    if options.tiny:
        size, small = Size(snippets=3, frames=4, side=32, batch=4), config.load().run("demo", "proposed")
        run, file = run.model_copy(update={"network": small.network}), file or work / "curve.csv"
        options.clips = options.steps = 2 * size.batch
    clips = peers.find_films(options.films, options.clips, work)[: options.clips]
    contenders = feeds(options, clips, size, run.training, device, work)
    part = peers.read_ours(clips, size, work / "ours")
    learner = Learner(run, part.shapes, device, "bfloat16")
    figures: dict[str, float] = {"clips": len(clips)}
    figures |= speeds_of(learner, contenders, options.rounds)
    figures["step_gflop_per_clip"] = flops_of_step(learner, contenders["memory"]) / 1e9
    figures["peak_tflops"] = peak_flops(device, 256 if options.tiny else 8192) / 1e12
    for name in contenders:
        spent = figures["step_gflop_per_clip"] * figures[f"{name}_clips_per_s"] / 1e3
        figures[f"{name}_share_of_peak"] = spent / figures["peak_tflops"]
    del learner
    steps = 2 if options.tiny else 10
    figures |= speeds_of_backbones(run, size, part.shapes, contenders["memory"], steps, figures["peak_tflops"])
    return figures | curves(run, size, part, device, options.steps, file or Path("benchmarks", "bf16_loss.csv"))


def main() -> int:
    parser = peers.arguments(clips=256)
    parser.description = (__doc__ or "").split("\n")[0]
    parser.add_argument("--rounds", type=int, default=3, help="measured epochs per source (3)")
    parser.add_argument("--steps", type=int, default=300, help="training steps in each precision (300)")
    parser.add_argument("--curve", type=Path, help="file for the loss curves (benchmarks/bf16_loss.csv)")
    parser.add_argument("--tiny", action="store_true", help="only check that it runs, also without a GPU")
    options = parser.parse_args()
    with gpu.device() as device, tempfile.TemporaryDirectory(prefix="emofuse-") as name:
        if device.type == "cpu" and not options.tiny:
            print("skipped: no GPU")
            return 0
        peers.need_librosa(options)
        print(torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU: the results are meaningless")
        figures = measure(options, device, Path(name))
    print_figures(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
