"""Train one variant on one fold. Test clips are never read."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from emofuse import paths
from emofuse.data.augmentation import augment, mixup
from emofuse.data.dataset import ALL_TRAINING, Part, make_resident, read_parts
from emofuse.datasets import shards
from emofuse.evaluation import metrics
from emofuse.models.build import build
from emofuse.models.losses import EmotionLoss
from emofuse.paths import RunKey
from emofuse.provenance.job import job
from emofuse.tracking import TrainingRun
from emofuse.training.averaging import AveragedNetwork
from emofuse.training.checkpoint import Checkpoint, Parts, Progress
from emofuse.training.initialisation import load_pretrained
from emofuse.training.model_file import DISTANCE, write_model
from emofuse.training.sampling import epoch_batches, epoch_shifts
from emofuse.utils import gpu
from emofuse.utils.errors import UserError
from emofuse.utils.files import sweep, write_csv

if TYPE_CHECKING:
    from emofuse.config import CustomNetwork, Network, Params, Run, Training

log = logging.getLogger(__name__)

CPU = torch.device("cpu")


class EpochLog(Protocol):
    """Receives each epoch as it ends, and first those before a resumption."""

    def resumed(self, history: Sequence[Mapping[str, float]]) -> None: ...

    def epoch(self, row: Mapping[str, float]) -> None: ...


def stage(params: Params, corpus: str, protocol: str, variant: str, seed: int, fold: int, root: Path = Path()) -> None:
    """`emofuse train`: train one variant on one fold, to models/<corpus>/<protocol>/<variant>/seed-<s>/fold-<f>.*."""
    key = RunKey(corpus, protocol, variant, seed, fold)
    run = params.planned(**key.asdict())
    inputs = job_inputs(params, corpus, protocol, run.network)
    with (
        job("train", params, key.asdict(), key.training_record, inputs, key.trained, root) as record,
        gpu.device() as device,
    ):
        parameters = {**run.model_dump(mode="json"), **key.asdict()}
        tags = {}
        if record.commit:
            tags = {"mlflow.source.git.commit": record.commit, "emofuse.dirty": str(record.dirty).lower()}
        emotions, checkpoint = params.corpus(corpus).emotions, Checkpoint(root / key.checkpoint, record.identity)
        sweep([checkpoint.path])
        with TrainingRun(key, parameters, tags, root / paths.splits(corpus, protocol)[0], root) as tracked:
            progress, details = train(key, run, emotions, root, checkpoint, tracked, device)
            write_model(root / key.model, progress.kept, emotions, run)
            write_history(root / key.history, progress)
            record.details |= details
    checkpoint.path.unlink(missing_ok=True)  # only now that the record exists


def job_inputs(params: Params, corpus: str, protocol: str, network: Network | CustomNetwork) -> list[str]:
    """The files that the training of a network reads: features, initial weights and splits."""
    features = chain.from_iterable(shards.features(corpus, params.corpus(corpus), network.modalities))
    return [*features, *network.starts_from.values(), *paths.splits(corpus, protocol)]


def train(
    key: RunKey,
    run: Run,
    emotions: Sequence[str],
    root: Path,
    checkpoint: Checkpoint,
    epoch_log: EpochLog | None = None,
    device: torch.device = CPU,
    actors: Container[str] | None = None,
) -> tuple[Progress, dict[str, Any]]:
    """Train one variant on one fold, and keep the weights that `training.selection` says.

    last: those of the last epoch, trained on all training actors, or on those of them in `actors`. nested: those of the
    epoch with the highest UAR on the fold's validation actors, which are not trained on.

    Features, splits and pretrained weights are read from their paths under `root`. Returns the finished progress and
    the details for the record. Resumes from a valid checkpoint, on a CPU to a bit-identical result. Raises `UserError`
    for missing files, and for a loss that is not finite, with the clips of the batch.
    """
    training = run.training
    torch.set_num_threads(training.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow; we read none
    names = (ALL_TRAINING,) if training.selection == "last" else ("train", "val")
    parts = read_parts(root, key, names, run, emotions, actors)
    train_part, *val_parts = parts
    make_resident(parts, device)

    seed = key.seed * 1000 + key.fold
    torch.manual_seed(seed)
    network = build(run.network, len(emotions), train_part.shapes, root, device)
    load_pretrained(network, run.network, {name: root / file for name, file in run.network.starts_from.items()})
    compiled = torch.compile(network) if training.compile and device.type == "cuda" else network
    criterion = EmotionLoss(emotions, **run.loss.model_dump()).to(device)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = build_optimizer(parameters, criterion, training)
    averaged = AveragedNetwork(network, training.average_decay)

    state: Parts = {
        "network": network, "averaged": averaged.network, "criterion": criterion, "optimizer": optimizer,
    }  # fmt: skip
    progress = checkpoint.restore(state)
    if progress.history:
        log.info("resumed after epoch %d of %d", len(progress.history), training.epochs)
        if epoch_log is not None:
            epoch_log.resumed(progress.history)

    one_hot = torch.eye(len(emotions), device=device)
    for epoch in range(len(progress.history), training.epochs):
        if val_parts and out_of_patience(progress.history, training.patience):
            break
        started = requested = time.monotonic()
        torch.manual_seed((seed * 10000 + epoch) * 2 + 1)  # so that a resumed epoch draws the same numbers
        network.train()
        batches = epoch_batches(train_part.labels, training, key, epoch)
        shifts = epoch_shifts(len(train_part.labels), training, key, epoch)
        losses: list[torch.Tensor] = []  # (3,) per batch: total, cross entropy, metric
        for number, batch in enumerate(train_part.batches(batches, device, shifts)):
            progress.seconds_waiting += time.monotonic() - requested
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(epoch + number / len(batches), training)
            inputs, targets = augment(batch.stored, training), one_hot[batch.labels]
            if training.mixup:
                inputs, targets = mixup(inputs, targets, training.mixup)
            with autocast(device, training.precision):
                scores, embeddings = compiled(inputs)
            loss, cross_entropy, metric = criterion(scores, embeddings, targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, training.gradient_clip)
            optimizer.step()
            averaged.update(epoch * len(batches) + number)
            losses.append(torch.stack([loss.detach(), cross_entropy.detach(), metric.detach()]))
            if number:  # the batch before: to read the loss of this one, the CPU would wait for the GPU
                require_finite(losses[-2], train_part, batches[number - 1], epoch)
            requested = time.monotonic()
        require_finite(losses[-1], train_part, batches[-1], epoch)

        row = {"epoch": epoch + 1, "learning_rate": learning_rate(epoch, training)}
        row |= zip(
            ("train_loss", "train_cross_entropy", "train_metric"), torch.stack(losses).mean(0).tolist(), strict=True
        )
        for val_part in val_parts:
            row |= validate(averaged.network, val_part, len(emotions), device)
        progress.history.append(row)
        if val_parts and kept_epoch(progress.history) == epoch + 1:
            progress.kept = weights(averaged.network, criterion)
        progress.seconds += time.monotonic() - started
        log_epoch(progress, training.epochs)
        if epoch_log is not None:
            epoch_log.epoch(row)
        checkpoint.save(state, progress)

    if not val_parts:
        progress.kept = weights(averaged.network, criterion)
    return progress, {
        "seconds": round(progress.seconds, 1),
        "seconds_per_epoch": round(progress.seconds / len(progress.history), 2),
        "share_waiting_for_data": round(progress.seconds_waiting / progress.seconds, 4),
        "epochs": len(progress.history),
        "kept_epoch": kept_epoch(progress.history),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": training.threads,
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in network.parameters()),
        "clips": {name: len(part.labels) for name, part in zip(("train", "val"), parts, strict=False)},
    }


def build_optimizer(
    parameters: Sequence[torch.nn.Parameter], criterion: EmotionLoss, training: Training
) -> torch.optim.AdamW:
    """AdamW for the parameters of a network and of its loss. Biases, norms and the loss have no weight decay."""
    decayed = [p for p in parameters if p.dim() > 1]
    others = [p for p in parameters if p.dim() <= 1] + list(criterion.parameters())
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}],
        fused=True,
    )


def learning_rate(step: float, training: Training) -> float:
    """Linear warm-up, then cosine annealing to zero; `step` in epochs."""
    if step < training.warmup_epochs:
        return training.learning_rate * (step + 0.01) / (training.warmup_epochs + 0.01)
    elapsed = (step - training.warmup_epochs) / (training.epochs - training.warmup_epochs)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * min(elapsed, 1)))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Mixed precision if configured, but only on a GPU: CPUs without bfloat16 are many times slower with it."""
    mixed = precision == "bfloat16" and device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16) if mixed else nullcontext()


def require_finite(losses: torch.Tensor, part: Part, batch: np.ndarray, epoch: int) -> None:
    """Raise `UserError` if the total loss of a batch, the first of `losses`, is not finite."""
    loss = losses[0].item()
    if not math.isfinite(loss):
        clips = ", ".join(part.clips["clip"].iloc[batch])
        raise UserError(f"the loss is {loss} in epoch {epoch + 1}; lower training.learning_rate, or check {clips}")


@torch.no_grad()
def predict(network: nn.Module, part: Part, device: torch.device, batch: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (clips, emotions) and embeddings (clips, embedding_size) of a part, float32 on the CPU, in its order."""
    network.eval()
    scores, embeddings = [], []
    indices = np.arange(len(part.labels))
    for clips in part.batches((indices[start : start + batch] for start in indices[::batch]), device):
        score, embedding = network(clips.inputs())
        scores.append(score.float().cpu())
        embeddings.append(embedding.float().cpu())
    return torch.cat(scores), torch.cat(embeddings)


def scores_of(
    weights: Mapping[str, torch.Tensor], run: Run, emotions: Sequence[str], part: Part, root: Path, device: torch.device
) -> torch.Tensor:
    """The scores (clips, emotions) that a network with these weights, as `train` keeps them, gives the clips of a part."""
    network = build(run.network, len(emotions), part.shapes, root, device)
    network.load_state_dict({name: value for name, value in weights.items() if name != DISTANCE})
    return predict(network, part, device)[0]


def validate(network: nn.Module, part: Part, emotions: int, device: torch.device) -> dict[str, float]:
    """Cross entropy, WAR and UAR on the validation clips."""
    scores, _ = predict(network, part, device)
    confusion = metrics.confusion(part.labels, scores.argmax(1).numpy(), emotions)
    found = metrics.scores(confusion)
    loss = F.cross_entropy(scores, torch.from_numpy(part.labels)).item()
    return {"val_loss": loss, "val_war": float(found["war"]), "val_uar": float(found["uar"])}


def weights(network: nn.Module, criterion: EmotionLoss) -> dict[str, torch.Tensor]:
    """A copy, on the CPU, of the weights of a network and of the emotion distance, if its loss has one."""
    copied = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
    if criterion.distance is not None:
        copied[DISTANCE] = criterion.distance().detach().cpu()
    return copied


def kept_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch whose weights are kept: without validation scores, the last one; otherwise the one with the highest
    validation UAR and, among equals, the lowest validation loss.
    """
    if "val_uar" not in history[0]:
        return len(history)
    return int(max(history, key=lambda row: (row["val_uar"], -row["val_loss"]))["epoch"])


def out_of_patience(history: Sequence[Mapping[str, float]], patience: int) -> bool:
    """Whether the last `patience` epochs brought no better one."""
    return bool(history) and len(history) - kept_epoch(history) >= patience


def log_epoch(progress: Progress, epochs: int) -> None:
    """Log the last epoch and the time left."""
    done, last = len(progress.history), progress.history[-1]
    per_epoch = progress.seconds / done
    validated = ""
    if "val_uar" in last:
        validated = f", validation loss {last['val_loss']:.3f}, validation UAR {100 * last['val_uar']:.1f} %"
    log.info(
        "epoch %d/%d: training loss %.3f%s; %.1f s per epoch, at most %.0f s left",
        done, epochs, last["train_loss"], validated, per_epoch, per_epoch * (epochs - done),
    )  # fmt: skip


def write_history(path: Path, progress: Progress) -> None:
    """Write the epochs of a training as CSV; `kept` is true for the epoch whose weights were kept."""
    import pandas as pd

    history = pd.DataFrame(progress.history)
    history["kept"] = (history["epoch"] == kept_epoch(progress.history)).map({True: "true", False: "false"})
    write_csv(path, history)
