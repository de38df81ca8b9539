"""Train one fold: readable top to bottom, resumable, the test clips never opened."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from emofuse import datasets, paths
from emofuse.data.augmentation import augment, mixup
from emofuse.data.dataset import Features, to_input
from emofuse.datasets import shards
from emofuse.evaluation import metrics
from emofuse.models import pretrained
from emofuse.models.losses import EmotionLoss
from emofuse.models.network import EmotionNetwork
from emofuse.paths import RunKey
from emofuse.provenance.job import job
from emofuse.tracking import TrainingRun
from emofuse.utils import gpu
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, read_table, sweep, write_table
from emofuse.utils.prefetch import prefetched

if TYPE_CHECKING:
    from emofuse.config import Params, Run, Training

log = logging.getLogger(__name__)

HISTORY = (
    "epoch",
    "learning_rate",
    "train_loss",
    "train_cross_entropy",
    "train_metric",
    "val_loss",
    "val_war",
    "val_uar",
    "best",
)

CPU = torch.device("cpu")
CHECKPOINT_SECONDS = 10.0  # of work that a kill may cost; the result is the same
AHEAD = 2  # batches that are read while the network has the one before
RESIDENT = 0.5  # of a GPU's free memory that features may take

Row = Mapping[str, str]


class EpochLog(Protocol):
    """Whoever wants to hear of each epoch, such as a tracker: first of those before a resumption."""

    def resumed(self, history: Sequence[Mapping[str, float]]) -> None: ...

    def epoch(self, row: Mapping[str, float]) -> None: ...


@dataclass(frozen=True)
class Part:
    """The clips of one part of a fold: features by modality and labels (clips,)."""

    features: dict[str, Features]
    labels: np.ndarray

    def batches(self, order: Iterable[np.ndarray], device: torch.device) -> Iterator[Batch]:
        """The clips at each of some indices, on the device, read ahead of who asks."""

        def read(indices: np.ndarray) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
            stored = {name: features.batch(indices) for name, features in self.features.items()}
            pinned = device.type == "cuda"  # the copy to the GPU then goes on beside the network
            return indices, {n: x.pin_memory() if pinned and not x.is_cuda else x for n, x in stored.items()}

        for indices, stored in prefetched(read, order, threads=1, results=AHEAD):
            moved = {name: batch.to(device, non_blocking=True) for name, batch in stored.items()}
            yield Batch(moved, torch.from_numpy(self.labels[indices]).to(device))


@dataclass(frozen=True)
class Batch:
    """Some clips of a part: their features as stored, by modality, and their labels (batch,)."""

    stored: dict[str, torch.Tensor]
    labels: torch.Tensor

    def inputs(self) -> dict[str, torch.Tensor]:
        """What the network eats of them, unchanged by augmentation."""
        return {name: to_input(batch, name) for name, batch in self.stored.items()}


def read_part(
    folder: Path, protocol: str, fold: int, part: str, modalities: Sequence[str], emotions: Sequence[str]
) -> tuple[Part, list[Row]]:
    """The clips of a fold's part in the order of folds.csv, and their rows of clips.csv."""
    made, stage = folder / "splits" / protocol, f"emofuse splits {folder.name} {protocol}"
    clips: dict[str, Row] = {row["clip"]: row for row in read_table(made / "clips.csv", stage=stage)}
    folds = read_table(made / "folds.csv", stage=stage)
    names = [row["clip"] for row in folds if (row["fold"], row["part"]) == (str(fold), part)]
    if not names:
        raise UserError(f"{made / 'folds.csv'}: fold {fold} has no {part} clips")
    rows = [clips[name] for name in names]
    labels = np.array([emotions.index(row["emotion"]) for row in rows])
    return Part({modality: Features(folder, rows, modality) for modality in modalities}, labels), rows


def build_network(run: Run, emotions: Sequence[str], part: Part) -> EmotionNetwork:
    """The variant's network, sized for the features at hand."""
    shapes = {modality: features.shape for modality, features in part.features.items()}
    moments = next(iter(shapes.values()))[0]
    return EmotionNetwork(run.network, len(emotions), moments, shapes["video"][2] if "video" in shapes else None)


def build_optimizer(
    learned: Sequence[torch.nn.Parameter], criterion: EmotionLoss, training: Training
) -> torch.optim.AdamW:
    """AdamW over the learned weights of a network and of its loss; biases, norms and the loss do not decay."""
    decayed = [p for p in learned if p.dim() > 1]
    others = [p for p in learned if p.dim() <= 1] + list(criterion.parameters())
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}],
        fused=True,
    )


def balanced_batches(
    labels: np.ndarray, emotions_per_batch: int, clips_per_emotion: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Batches of P emotions × K clips, as many as would hold every clip once.

    Each emotion's clips come in a fresh random order, begun again when it is through, so that every
    batch has K of each of its emotions however rare one is.
    """
    present = np.unique(labels)
    per_batch = min(emotions_per_batch, len(present))
    decks: dict[int, list[int]] = defaultdict(list)
    for _ in range(max(1, round(len(labels) / (per_batch * clips_per_emotion)))):
        batch: list[int] = []
        for emotion in rng.permutation(present)[:per_batch]:
            while len(deck := decks[emotion]) < clips_per_emotion:
                deck.extend(rng.permutation(np.flatnonzero(labels == emotion)).tolist())
            batch += deck[:clips_per_emotion]
            del deck[:clips_per_emotion]
        yield np.array(batch)


def shuffled_batches(clips: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Every clip once, in random order, in batches of about `size`."""
    yield from np.array_split(rng.permutation(clips), max(1, round(clips / size)))


def learning_rate(step: float, training: Training) -> float:
    """Linear warm-up, then half a cosine to zero; `step` in epochs."""
    if step < training.warmup_epochs:
        return training.learning_rate * (step + 0.01) / (training.warmup_epochs + 0.01)
    along = (step - training.warmup_epochs) / (training.epochs - training.warmup_epochs)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * min(along, 1)))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision where it was asked for, on a GPU: a CPU without bfloat16 is many times slower with it."""
    mixed = precision == "bfloat16" and device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()


@torch.no_grad()
def predict(
    network: EmotionNetwork, part: Part, device: torch.device, batch: int = 32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (clips, emotions) and embeddings (clips, embedding_size) of a part, float32, in its order."""
    network.eval()
    scores, embeddings = [], []
    places = np.arange(len(part.labels))
    for clips in part.batches((places[start : start + batch] for start in places[::batch]), device):
        score, embedding = network(clips.inputs())
        scores.append(score.float().cpu())
        embeddings.append(embedding.float().cpu())
    return torch.cat(scores), torch.cat(embeddings)


def stage(params: Params, corpus: str, protocol: str, variant: str, seed: int, fold: int, root: Path = Path()) -> None:
    """`emofuse train`: train one variant on one fold, to models/<corpus>/<protocol>/<variant>/seed-<s>/fold-<f>.*."""
    key = RunKey(corpus, protocol, variant, seed, fold)
    run = params.planned(**key.asdict())
    splits = paths.splits(corpus, protocol)
    inputs = [
        *chain.from_iterable(shards.features(corpus, params.corpus(corpus), run.network.modalities)),
        *run.network.starts_from.values(),
        *splits,
    ]
    with (
        job("train", params, key.asdict(), key.training_record, inputs, key.trained, root) as made,
        gpu.device() as device,
    ):
        parameters = {**run.model_dump(mode="json"), **key.asdict()}
        tags = (
            {"mlflow.source.git.commit": made.commit, "emofuse.dirty": str(made.dirty).lower()} if made.commit else {}
        )
        sweep([root / key.checkpoint])
        with TrainingRun(key, parameters, tags, root / splits[0], root) as live:
            made.details |= train(
                root / "data" / corpus,
                protocol,
                fold,
                seed,
                run,
                datasets.get(params.corpus(corpus).kind).emotions,
                root / key.model,
                root / key.checkpoint,
                made.identity,
                {name: root / file for name, file in run.network.starts_from.items()},
                live,
                device,
            )
    (root / key.checkpoint).unlink(missing_ok=True)  # not before there is a record


def train(
    folder: Path,
    protocol: str,
    fold: int,
    seed: int,
    run: Run,
    emotions: Sequence[str],
    output: Path,
    checkpoint: Path,
    identity: str,
    weights: Mapping[str, Path],
    live: EpochLog | None = None,
    device: torch.device = CPU,
) -> dict[str, Any]:
    """Train one variant on one fold and keep the epoch with the best validation UAR.

    `folder` is data/<corpus>; `output` the model, beside which goes its history (.csv); `weights` maps what
    `run.network` names as weights to their files. Returns how it went, for the record. All that is needed to go on is
    kept in `checkpoint` after an epoch: a killed run resumes from it, to the same result bit for bit on a CPU, if
    `identity` is what it was; else it starts anew. Raises `UserError` for missing features and for a loss that is not a
    number, with the batch's clips.
    """
    training = run.training
    torch.set_num_threads(training.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    train_part, train_rows = read_part(folder, protocol, fold, "train", run.network.modalities, emotions)
    val_part, _ = read_part(folder, protocol, fold, "val", run.network.modalities, emotions)
    if device.type == "cuda":
        _make_resident([*train_part.features.values(), *val_part.features.values()], device)

    torch.manual_seed(seed * 1000 + fold)
    network = build_network(run, emotions, train_part)
    pretrained.load(network, run.network, weights)
    network.to(device)
    forward = torch.compile(network) if training.compile and device.type == "cuda" else network
    criterion = EmotionLoss(emotions, **run.loss.model_dump()).to(device)
    learned = [p for p in network.parameters() if p.requires_grad]
    optimizer = build_optimizer(learned, criterion, training)
    # What is validated and kept: the network, or the moving average of its weights.
    kept = copy.deepcopy(network) if training.average_decay else network
    best: dict[str, torch.Tensor] = {}
    history: list[dict[str, float]] = []
    seconds = waited = 0.0

    if checkpoint.is_file():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        if saved["identity"] == identity:
            network.load_state_dict(saved["network"])
            kept.load_state_dict(saved["kept"])
            criterion.load_state_dict(saved["criterion"])
            optimizer.load_state_dict(saved["optimizer"])
            best, history, seconds, waited = saved["best"], saved["history"], saved["seconds"], saved["waited"]
            log.info("resumed after epoch %d of %d", len(history), training.epochs)
            if live is not None:
                live.resumed(history)
        del saved

    averages, values = list(kept.state_dict().values()), list(network.state_dict().values())
    eye = torch.eye(len(emotions), device=device)
    saved_at = seconds
    for epoch in range(len(history), training.epochs):
        if _patience_over(history, training.patience):
            break
        started = time.monotonic()
        torch.manual_seed(((seed * 1000 + fold) * 10000 + epoch) * 2 + 1)
        network.train()
        order = _order(train_part.labels, training, seed, fold, epoch)
        losses: list[torch.Tensor] = []  # (3,) a batch: total, cross entropy, metric
        asked = time.monotonic()
        for number, batch in enumerate(train_part.batches(order, device)):
            waited += time.monotonic() - asked
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch + number / len(order), training)
            inputs, targets = augment(batch.stored, training), eye[batch.labels]
            if training.mixup:
                inputs, targets = mixup(inputs, targets, training.mixup)
            with autocast(device, training.precision):
                scores, embeddings = forward(inputs)
            loss, cross_entropy, metric = criterion(scores, embeddings, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, training.gradient_clip)
            optimizer.step()
            if kept is not network:
                _average(averages, values, training.average_decay, epoch * len(order) + number)
            losses.append(torch.stack([loss.detach(), cross_entropy.detach(), metric.detach()]))
            # The loss before this one: a GPU that is asked for the last one has to finish its work first.
            _refuse_nan(losses, max(number - 1, 0), order, train_rows, epoch)
            asked = time.monotonic()
        _refuse_nan(losses, len(order) - 1, order, train_rows, epoch)

        val_scores, _ = predict(kept, val_part, device)
        counts = metrics.confusion(val_part.labels, val_scores.argmax(1).numpy(), len(emotions))
        val = {name: float(value) for name, value in metrics.scores(counts).items()}
        train_loss, train_cross_entropy, train_metric = torch.stack(losses).mean(0).tolist()
        history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": learning_rate(epoch, training),
                "train_loss": train_loss,
                "train_cross_entropy": train_cross_entropy,
                "train_metric": train_metric,
                "val_loss": F.cross_entropy(val_scores, torch.from_numpy(val_part.labels)).item(),
                "val_war": val["war"],
                "val_uar": val["uar"],
            }
        )
        if best_epoch(history) == epoch + 1:
            best = {name: value.detach().cpu().clone() for name, value in kept.state_dict().items()}
            if criterion.distance is not None:
                best["emotion_distance"] = criterion.distance().detach().cpu()
        seconds += time.monotonic() - started
        left = seconds / len(history) * (training.epochs - len(history))
        log.info(
            "epoch %d/%d: loss %.3f, validation loss %.3f, UAR %.1f %%; %.1f s an epoch, at most %.0f s left",
            epoch + 1, training.epochs, train_loss, history[-1]["val_loss"], 100 * val["uar"], seconds / len(history), left,
        )  # fmt: skip
        if live is not None:
            live.epoch(history[-1])
        if seconds - saved_at < CHECKPOINT_SECONDS:
            continue
        saved_at = seconds
        with atomic(checkpoint) as temporary:
            torch.save(
                {
                    "identity": identity,
                    "network": network.state_dict(),
                    "kept": kept.state_dict(),
                    "criterion": criterion.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "best": best,
                    "history": history,
                    "seconds": seconds,
                    "waited": waited,
                },
                temporary,
            )

    with atomic(output) as temporary:
        save_file(
            {name: value.contiguous() for name, value in best.items()},
            temporary,
            # One key: safetensors writes several in no fixed order.
            {"emofuse": json.dumps({"emotions": list(emotions), "network": run.network.model_dump(mode="json")})},
        )
    best_row = best_epoch(history)
    write_table(
        output.with_suffix(".csv"),
        HISTORY,
        ({**row, "best": str(row["epoch"] == best_row).lower()} for row in history),
    )
    return {
        "seconds": round(seconds, 1),
        "seconds_per_epoch": round(seconds / len(history), 2),
        "share_waiting_for_data": round(waited / seconds, 4),
        "epochs": len(history),
        "best_epoch": best_row,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": training.threads,
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in network.parameters()),
        "clips": {"train": len(train_part.labels), "val": len(val_part.labels)},
    }


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch with the best validation UAR; of equals, the one with the lower validation loss."""
    return int(max(history, key=lambda row: (row["val_uar"], -row["val_loss"]))["epoch"])


def _patience_over(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    return bool(history) and len(history) - best_epoch(history) >= patience


def _make_resident(features: Sequence[Features], device: torch.device) -> None:
    """Move features to the GPU, once and for all epochs, where they fit beside the network."""
    free, _ = torch.cuda.mem_get_info(device)
    if sum(modality.nbytes for modality in features) <= RESIDENT * free:
        for modality in features:
            modality.move(device)


def _order(labels: np.ndarray, training: Training, seed: int, fold: int, epoch: int) -> list[np.ndarray]:
    """The indices of an epoch's batches."""
    # Every epoch draws from its own generator, so that a resumed run draws what an unbroken one would.
    rng = np.random.default_rng([seed, fold, epoch])
    if training.sampling == "shuffled":
        return list(shuffled_batches(len(labels), training.emotions_per_batch * training.clips_per_emotion, rng))
    return list(balanced_batches(labels, training.emotions_per_batch, training.clips_per_emotion, rng))


def _refuse_nan(
    losses: Sequence[torch.Tensor], number: int, order: Sequence[np.ndarray], rows: Sequence[Row], epoch: int
) -> None:
    loss = losses[number][0].item()
    if not math.isfinite(loss):
        clips = ", ".join(rows[i]["clip"] for i in order[number])
        raise UserError(f"the loss is {loss} in epoch {epoch + 1}; lower training.learning_rate, or look at {clips}")


@torch.no_grad()
def _average(averages: Sequence[torch.Tensor], values: Sequence[torch.Tensor], decay: float, step: int) -> None:
    """average ← decay × average + (1 − decay) × value, with a decay that grows from 0 in the first steps."""
    pairs = list(zip(averages, values, strict=True))
    smooth = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([a for a, _ in smooth], [v for _, v in smooth], 1 - min(decay, step / (step + 10)))
    for average, value in pairs:  # batch norm counts its batches
        if not average.is_floating_point():
            average.copy_(value)
