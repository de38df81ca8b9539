"""The calibration of a fold whose network is trained on all training actors, so that no other clips are left for it.

The same recipe is trained on each of two halves of the training actors and predicts the other half. One temperature is fitted
to these predictions; test clips are never read. A network that has seen half of the actors is less accurate than that of the
fold, so this temperature tends to be too high, and the probabilities too cautious, rather than the opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emofuse.data.dataset import ALL_TRAINING, part_clips, read_parts
from emofuse.data.splits import drawn
from emofuse.datasets.base import Actor, actor_named, sorted_actors
from emofuse.evaluation.calibration import temperature
from emofuse.paths import RunKey
from emofuse.provenance.job import job
from emofuse.training.checkpoint import Checkpoint
from emofuse.training.train import CPU, job_inputs, scores_of, train
from emofuse.utils import gpu
from emofuse.utils.errors import UserError
from emofuse.utils.files import sweep, write_json

if TYPE_CHECKING:
    import pandas as pd

    from emofuse.config import Params, Run


def stage(params: Params, corpus: str, protocol: str, variant: str, seed: int, fold: int, root: Path = Path()) -> None:
    """`emofuse calibrate`: fit the temperature of a fold, to models/<corpus>/…/fold-<f>.calibration.json."""
    key = RunKey(corpus, protocol, variant, seed, fold)
    run = params.planned(**key.asdict())
    inputs, outputs = job_inputs(params, corpus, protocol, run.network), [key.calibration]
    with (
        job("calibrate", params, key.asdict(), key.calibration_record, inputs, outputs, root) as record,
        gpu.device() as device,
    ):
        checkpoints = [
            Checkpoint(root / path, f"{record.identity} {path}") for path in (key.half_checkpoint(n) for n in range(2))
        ]
        sweep(checkpoint.path for checkpoint in checkpoints)
        found, record.details["seconds"] = calibrate(
            key, run, params.corpus(corpus).emotions, root, checkpoints, device
        )
        write_json(root / key.calibration, {**key.asdict(), **found})
    for checkpoint in checkpoints:  # only now that the record exists
        checkpoint.path.unlink(missing_ok=True)


def calibrate(
    key: RunKey,
    run: Run,
    emotions: Sequence[str],
    root: Path,
    checkpoints: Sequence[Checkpoint],
    device: torch.device = CPU,
) -> tuple[dict[str, Any], float]:
    """Train on each half of the training actors, predict the other, and fit one temperature to all predictions.

    `checkpoints` has one for each half. Returns `temperature`, the number of `clips` and the actors of the `halves`; and
    the seconds that both trainings took. Raises `UserError` as `train` does, and for a single training actor.
    """
    (clips,) = part_clips(root, key, [ALL_TRAINING])
    halves = halved(clips, key)
    scores, labels, seconds = [], [], 0.0
    for half, other, checkpoint in zip(halves, reversed(halves), checkpoints, strict=True):
        progress, details = train(key, run, emotions, root, checkpoint, device=device, actors=half)
        (part,) = read_parts(root, key, [ALL_TRAINING], run, emotions, other)
        scores.append(scores_of(progress.kept, run, emotions, part, root, device))
        labels.append(part.labels)
        seconds += details["seconds"]
    found = {
        "temperature": temperature(torch.cat(scores), np.concatenate(labels)),
        "clips": len(clips),
        "halves": [list(sorted_actors(map(actor_named, half))) for half in halves],
    }
    return found, round(seconds, 1)


def halved(clips: pd.DataFrame, key: RunKey) -> tuple[list[str], list[str]]:
    """The actors of some clips in two halves, drawn at random, each gender spread as evenly as possible."""
    genders: dict[Actor, str] = dict(zip(clips["actor"], clips["gender"], strict=True))
    if len(genders) < 2:
        raise UserError(
            f"{key}: there is one training actor, so its training cannot be halved; set corpora.{key.corpus}.calibrated: []"
        )
    first = set(drawn(genders, len(genders) // 2, f"halves {key.protocol} {key.fold}"))
    one, other = ([str(actor) for actor in genders if (actor in first) == is_first] for is_first in (True, False))
    return one, other
