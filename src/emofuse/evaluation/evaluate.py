"""Score a trained fold on its test clips: the only stage that opens them.

The temperature that calibrates its probabilities is fitted on the validation clips.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emofuse import datasets, paths, tracking
from emofuse.datasets import shards
from emofuse.evaluation import calibration, metrics
from emofuse.paths import RunKey
from emofuse.provenance.job import job
from emofuse.training.train import CPU, build_network, predict, read_part
from emofuse.utils import gpu
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, read_table, write_json, write_table

if TYPE_CHECKING:
    from emofuse.config import Params, Run


def read_model(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights of a model that `train` wrote, and its {"emotions", "network"}.

    Raises `UserError` where it is missing or not one of ours.
    """
    try:
        with safe_open(path, "pt") as model:
            described = json.loads((model.metadata() or {})["emofuse"])
            return {name: model.get_tensor(name) for name in model.keys()}, described  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the train stage for it") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a model of ours ({error}): delete it and train again") from None


def stage(params: Params, corpus: str, protocol: str, variant: str, seed: int, fold: int, root: Path = Path()) -> None:
    """`emofuse evaluate`: score a trained fold on its test clips, to results/<corpus>/runs/<protocol>/<variant>/seed-<s>/fold-<f>/."""
    key = RunKey(corpus, protocol, variant, seed, fold)
    run = params.planned(**key.asdict())
    inputs = [
        *chain.from_iterable(shards.features(corpus, params.corpus(corpus), run.network.modalities)),
        *paths.splits(corpus, protocol),
        *key.trained,
    ]
    with job("evaluate", params, key.asdict(), key.evaluation_record, inputs, key.scored, root), gpu.device() as device:
        evaluate(key, run, datasets.get(params.corpus(corpus).kind).emotions, root, device)
    tracking.evaluated(key, root)


def evaluate(key: RunKey, run: Run, emotions: Sequence[str], root: Path, device: torch.device = CPU) -> None:
    """Predict the test clips of a fold and write predictions.csv, embeddings.safetensors and metrics.json.

    The probabilities of predictions.csv are as trained; metrics.json has the temperature to calibrate them with.
    """
    folder, model, output = root / "data" / key.corpus, root / key.model, root / key.results
    protocol, fold, variant = key.protocol, key.fold, key.variant
    torch.set_num_threads(run.training.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    part, rows = read_part(folder, protocol, fold, "test", run.network.modalities, emotions)
    state, described = read_model(model)
    state.pop("emotion_distance", None)
    if described != {"emotions": list(emotions), "network": run.network.model_dump(mode="json")}:
        raise UserError(f"{model} was trained with another network than params.yaml has for {variant}: train again")
    network = build_network(run, emotions, part)
    network.load_state_dict(state)
    scores, embeddings = predict(network.to(device), part, device)
    val_part, _ = read_part(folder, protocol, fold, "val", run.network.modalities, emotions)
    val_scores, _ = predict(network, val_part, device)
    probabilities = scores.double().softmax(1)
    predicted = probabilities.argmax(1).numpy()

    counts = metrics.confusion(part.labels, predicted, len(emotions))
    occurs = counts.sum(1)
    history = read_table(model.with_suffix(".csv"), ("best", "val_war", "val_uar"))
    best = next(row for row in history if row["best"] == "true")
    write_table(
        output / "predictions.csv",
        ("clip", "actor", "emotion", "predicted", *(f"p_{emotion}" for emotion in emotions)),
        (
            (row["clip"], row["actor"], row["emotion"], emotions[choice], *(f"{p:.6f}" for p in chances))
            for row, choice, chances in zip(rows, predicted, probabilities.tolist(), strict=True)
        ),
    )
    with atomic(output / "embeddings.safetensors") as temporary:
        save_file({"embeddings": embeddings}, temporary)
    write_json(
        output / "metrics.json",
        {
            **key.asdict(),
            "emotions": list(emotions),
            "actors": sorted({int(row["actor"]) for row in rows}),
            "clips": len(rows),
            **{name: float(value) for name, value in metrics.scores(counts).items()},
            "recall": {emotion: counts[i, i] / occurs[i] if occurs[i] else None for i, emotion in enumerate(emotions)},
            "confusion": counts.tolist(),
            "validation": {"war": float(best["val_war"]), "uar": float(best["val_uar"])},
            "calibration": {
                "temperature": calibration.temperature(val_scores, val_part.labels),
                "clips": len(val_part.labels),
            },
        },
    )
