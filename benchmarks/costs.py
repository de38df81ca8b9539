"""What a clip costs each stage on this machine: the measured pieces from which `emofuse plan` works out hours.

`python benchmarks/costs.py [FOLDER] [--corpora NAME …] [--rounds N] [--write]`, in the repository's root. FOLDER holds
`ravdess_av`, `ravdess_speech_16k`, `cremad` and `weights`; by default it is EMOFUSE_SHARED_DATA or ../shared/data. Index,
faces and sound are the stages themselves on those real clips, on the demo's own; trainings and evaluations are steps on
random features of each corpus's size, the whole step of the training loop, on the GPU where there is one. On a CPU a batch
of large features has two clips. ResNet-50 looks at what mobilenet0.25 looks at, with random weights where its own are not
in data/weights: time does not depend on them. What has no clips at hand is left out, and so on a GPU is what it does not do.

The last lines are its figures, milliseconds a clip. `--write` puts them into src/emofuse/registry/costs.csv, in the place of
those of the same hardware.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import logging
import os
import platform
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch

from emofuse import corpora, params, plan, training
from emofuse.augmentation import augment, mixup
from emofuse.losses import EmotionLoss

CLIPS = {"ravdess": "ravdess_av", "ravdess_audio": "ravdess_speech_16k", "cremad": "cremad", "demo": ""}
LARGE = 2**20  # bytes of a clip's features
Row = tuple[str, plan.Piece, float, int]  # corpus, piece, seconds a clip, bytes of a model


def hardware(device: torch.device) -> str:
    """The name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores"


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def features(name: str, loaded: params.Params, folder: Path, rounds: int) -> Iterator[Row]:
    """Index, faces and sound of a corpus on the real clips at hand."""
    from emofuse import audio, download, faces, index
    from emofuse.files import read_table

    section = loaded.corpora[name]
    source = folder / CLIPS[name] if CLIPS[name] else None
    if source and not source.is_dir():
        print(f"{name}: no clips in {source}: index, faces and audio not measured", file=sys.stderr)
        return
    if section.demo:
        section = section.model_copy(update={"demo": section.demo.model_copy(update={"actors": 4, "takes": 1})})
    section = section.model_copy(update={"shards": [0]})
    own = plan.pieces(section)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        place = root / "data" / name
        download.run(name, section, 0, str(source) if source else None, root)
        index.build(name, section, root)
        rows = [row for row in read_table(place / "index.csv") if row["status"] == "ok"][:64]
        archive = place / "raw" / "shard-0.zip"
        work: dict[str, Callable[[], object]] = {"index": lambda: index.build(name, section, root)}
        if section.faces:
            cut = section.faces
            detect = detector(folder, cut) if cut.detector == "retinaface" else None

            def look() -> None:
                with mock.patch.object(faces, "detector", return_value=detect):
                    faces.extract(rows, archive, cut, root / "f.npy", root / "f.csv")

            work["faces"] = look
        if section.audio:
            heard = section.audio
            work["audio"] = lambda: audio.extract(rows, archive, heard, root / "a.npy", root / "a.csv")
        for stage, do in work.items():
            clips = len(read_table(place / "index.csv")) if stage == "index" else len(rows)
            yield name, own[stage], median(seconds(do) for _ in range(rounds)) / clips, 0


def detector(folder: Path, section: params.Faces) -> Any:
    """What the corpus's faces are found by, or what takes as long."""
    import faces as benchmark  # benchmarks/faces.py

    from emofuse import retinaface, weights

    here = Path(weights.path(f"retinaface_{section.body}"))
    if here.is_file():
        return retinaface.Detector(section.body, here, section.score, "cpu")
    with tempfile.TemporaryDirectory() as name:
        small, large = benchmark.mobilenet(folder), benchmark.resnet50(Path(name))

    def both(pictures: np.ndarray) -> Any:
        large(pictures)
        return small(pictures)

    return both if section.body == "resnet50" else small


def networks(
    name: str, loaded: params.Params, device: torch.device, rounds: int, done: set[plan.Piece]
) -> Iterator[Row]:
    """A step of training and a pass of evaluation of each network of a corpus that was not measured for another."""
    section = loaded.corpora[name]
    for variant in section.variants:
        run = loaded.run(name, variant)
        own = plan.pieces(section, run)
        if own["train"] not in done:
            done.add(own["train"])
            shapes = {modality: plan.shape(section, modality) for modality in run.network.modalities}
            train, evaluate, size = one_network(run, shapes, corpora.emotions(section.kind), device, rounds)
            yield name, own["train"], train, size
            yield name, own["evaluate"], evaluate, 0


def one_network(
    run: params.Run,
    shapes: dict[str, tuple[int, ...]],
    emotions: tuple[str, ...],
    device: torch.device,
    rounds: int,
) -> tuple[float, float, int]:
    """Seconds a clip of training and of evaluation, on features of such shapes, and the bytes of the model."""
    settings = run.training
    torch.set_num_threads(settings.threads)
    stored = sum(np.prod(shape) * plan.BYTES[modality] for modality, shape in shapes.items())
    batch = min(settings.emotions_per_batch, len(emotions)) * settings.clips_per_emotion
    if stored > LARGE and device.type == "cpu":
        batch = 2
    rng = np.random.default_rng(0)
    made = {
        modality: torch.from_numpy(
            rng.integers(0, 256, (batch, *shape), np.uint8)
            if modality == "video"
            else rng.standard_normal((batch, *shape), np.float32).astype(np.float16)
        )
        for modality, shape in shapes.items()
    }
    labels = torch.arange(batch) % len(emotions)
    part = training.Part({m: _Stored(x) for m, x in made.items()}, labels.numpy())  # type: ignore[misc]
    network = training.build_network(run, emotions, part).to(device)
    criterion = EmotionLoss(emotions, **run.loss.model_dump()).to(device)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimizer = training.build_optimizer(learned, criterion, settings)
    there = {modality: x.to(device) for modality, x in made.items()}
    targets = torch.eye(len(emotions), device=device)[labels.to(device)]

    def step() -> None:
        network.train()
        inputs, wanted = augment(there, settings), targets
        if settings.mixup:
            inputs, wanted = mixup(inputs, wanted, settings.mixup)
        with training.autocast(device, settings.precision):
            scores, embeddings = network(inputs)
        loss, _, _ = criterion(scores, embeddings, wanted)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, settings.gradient_clip)
        optimizer.step()
        loss.item()

    def score() -> None:
        training.predict(network, part, device)

    step()
    score()
    train, evaluate = (median(seconds(do) for _ in range(rounds)) / batch for do in (step, score))
    return train, evaluate, sum(value.numel() * value.element_size() for value in network.state_dict().values())


class _Stored:
    """Features of some clips in memory, as `emofuse.features.Features` has them on disk."""

    def __init__(self, stored: torch.Tensor) -> None:
        self._stored = stored
        self.shape = tuple(stored.shape[1:])

    def batch(self, indices: np.ndarray) -> torch.Tensor:
        return self._stored[torch.as_tensor(indices)]


def write(machine: str, device: torch.device, rows: list[Row]) -> None:
    """Put the figures into the table, in the place of those of the same hardware."""
    kept = []
    if plan.COSTS.is_file():
        with plan.COSTS.open(newline="", encoding="utf-8") as stream:
            again = {(piece.stage, piece.of) for _, piece, *_ in rows}
            for row in csv.DictReader(stream):
                if row["hardware"] != machine or (row["stage"], row["of"]) not in again:
                    kept.append(tuple(row[column] for column in plan.COLUMNS))
    today = datetime.date.today().isoformat()
    new = [(machine, device.type, p.stage, p.of, f"{value:.4g}", str(size or ""), today) for _, p, value, size in rows]
    with plan.COSTS.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(plan.COLUMNS)
        writer.writerows([*kept, *new])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("EMOFUSE_SHARED_DATA") or beside)
    parser.add_argument("folder", nargs="?", type=Path, default=default)
    parser.add_argument("--corpora", nargs="+", default=list(CLIPS), choices=list(CLIPS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="into the table that `emofuse plan` reads")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    loaded, rows, done = params.load(), [], set[plan.Piece]()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name in options.corpora:
        if device.type == "cpu":
            rows += list(features(name, loaded, options.folder, options.rounds))
        rows += list(networks(name, loaded, device, options.rounds, done))
    machine = hardware(device)
    print(machine)
    for name, piece, value, _ in rows:
        print(f"{name} {piece.stage} {piece.of}, ms a clip: {1000 * value:.4g}")
    if options.write:
        write(machine, device, rows)


if __name__ == "__main__":
    main()
