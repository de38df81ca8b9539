"""Score a trained fold on its test clips. Of the stages of a fold, this is the first that reads them.

The temperature that calibrates the probabilities is fitted on the validation clips if there are any (`training.selection:
nested`), or comes from `emofuse calibrate`. Runs without either are uncalibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from emofuse import paths, tracking
from emofuse.data.dataset import Part, read_parts
from emofuse.datasets import shards
from emofuse.datasets.base import actor_named, sorted_actors
from emofuse.evaluation import calibration, metrics
from emofuse.models.build import build
from emofuse.paths import RunKey
from emofuse.provenance.job import job
from emofuse.training.model_file import describe, load_model, read_model
from emofuse.training.train import CPU, predict
from emofuse.utils import gpu
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, read_csv, read_json, write_csv, write_json

if TYPE_CHECKING:
    from emofuse.config import CalibratedOn, Params, Run


def stage(params: Params, corpus: str, protocol: str, variant: str, seed: int, fold: int, root: Path = Path()) -> None:
    """`emofuse evaluate`: score a trained fold, to results/<corpus>/runs/<protocol>/<variant>/seed-<s>/fold-<f>/."""
    key = RunKey(corpus, protocol, variant, seed, fold)
    run = params.planned(**key.asdict())
    section = params.corpus(corpus)
    features = chain.from_iterable(shards.features(corpus, section, run.network.modalities))
    calibrated_on = params.calibrated_on(key)
    halves = [key.calibration] if calibrated_on == "inner halves" else []
    inputs = [*features, *paths.splits(corpus, protocol), *key.trained, *halves]
    with job("evaluate", params, key.asdict(), key.evaluation_record, inputs, key.scored, root), gpu.device() as device:
        evaluate(key, run, section.emotions, root, device, calibrated_on)
    tracking.evaluated(key, root)


def evaluate(
    key: RunKey,
    run: Run,
    emotions: Sequence[str],
    root: Path,
    device: torch.device = CPU,
    calibrated_on: CalibratedOn | None = None,
) -> None:
    """Predict the test clips of a fold and write predictions.csv, embeddings.safetensors and metrics.json.

    The probabilities in predictions.csv are not calibrated; the temperature that does so, if there is one, is in
    metrics.json. `calibrated_on` is as in `Params.calibrated_on`. Raises `UserError` for missing files, and for a model of
    another network.
    """
    import pandas as pd

    torch.set_num_threads(run.training.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    (test,) = read_parts(root, key, ["test"], run, emotions)
    network = trained_network(key, run, emotions, test, root, device)
    scores, embeddings = predict(network, test, device)
    probabilities = scores.double().softmax(1)
    predicted = probabilities.argmax(1).numpy()
    confusion = metrics.confusion(test.labels, predicted, len(emotions))
    clips_of_emotion = confusion.sum(1)
    history = read_csv(root / key.history, ["kept"])
    kept = history[history["kept"] == "true"].iloc[0]
    fitted: dict[str, Any] | None = None
    if calibrated_on == "validation actors":
        (val,) = read_parts(root, key, ["val"], run, emotions)
        val_scores, _ = predict(network, val, device)
        fitted = {"temperature": calibration.temperature(val_scores, val.labels), "clips": len(val.labels)}
    elif calibrated_on == "inner halves":
        fitted = {name: read_json(root / key.calibration)[name] for name in ("temperature", "clips")}

    predictions = test.clips[["clip", "actor", "emotion"]].reset_index(drop=True)
    predictions["predicted"] = [emotions[index] for index in predicted]
    columns = [f"p_{emotion}" for emotion in emotions]
    predictions[columns] = pd.DataFrame(probabilities.numpy()).map("{:.6f}".format).to_numpy()
    write_csv(root / key.predictions, predictions)
    with atomic(root / key.embeddings) as temporary:
        save_file({"embeddings": embeddings}, temporary)
    write_json(
        root / key.metrics,
        {
            **key.asdict(),
            "emotions": list(emotions),
            "actors": list(sorted_actors(map(actor_named, predictions["actor"].unique()))),
            "clips": len(predictions),
            **{name: float(value) for name, value in metrics.scores(confusion).items()},
            "recall": {
                emotion: confusion[i, i] / clips_of_emotion[i] if clips_of_emotion[i] else None
                for i, emotion in enumerate(emotions)
            },
            "confusion": confusion.tolist(),
            "validation": {name: float(kept[f"val_{name}"]) for name in ("war", "uar")} if "val_uar" in kept else None,
            "calibration": {**fitted, "from": calibrated_on} if fitted else None,
        },
    )


def trained_network(
    key: RunKey, run: Run, emotions: Sequence[str], part: Part, root: Path, device: torch.device
) -> nn.Module:
    """The trained network of a fold, sized for the features of a part, on the device.

    Raises `UserError` for a missing file, and for a model of another network.
    """
    state, description = read_model(root / key.model)
    if description != describe(emotions, run):
        raise UserError(
            f"{root / key.model} was trained with another network or spectrogram than params.yaml has for {key.variant}:"
            " train again"
        )
    network = build(run.network, len(emotions), part.shapes, root, device)
    load_model(root / key.model, state, network)
    return network
