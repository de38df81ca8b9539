"""Result files in the format of training and evaluation, without any training."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from emofuse import paths
from emofuse.config import Params
from emofuse.paths import RunKey
from emofuse.provenance.records import Record
from emofuse.utils.files import sha256

EMOTIONS = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
CURVES = ["learning_rate", "train_loss", "train_cross_entropy", "train_metric", "val_loss", "val_war", "val_uar"]
EPOCHS = 4
FOLDS = 3
VARIANTS = ["proposed", "audio_only"]
SETTINGS = {"network": {"modalities": ["audio"], "video": {"width": 64}}, "training": {"epochs": EPOCHS}}
KEYS = [RunKey("demo", "kfold_3", variant, 1, fold) for variant in VARIANTS for fold in range(FOLDS)]


def params() -> Params:
    """Parameters whose planned runs are KEYS."""
    section = {
        "kind": "demo",
        "title": "demo",
        "demo": {},
        "faces": {"detector": "centre", "snippets": 3},
        "audio": {},
        "spectrogram": {"segments": 3},
        "protocols": {"kfold_3": list(range(FOLDS))},
        "variants": VARIANTS,
    }
    variants = {"proposed": {}, "audio_only": {"network": {"modalities": ["audio"]}}}
    return Params.model_validate({"corpora": {"demo": section}, "paper": [], "variants": variants})


def history(war: float = 0.6, epochs: int = EPOCHS) -> list[dict[str, float]]:
    """The epochs of a training; `war` distinguishes trainings."""
    return [
        {"epoch": epoch, **{name: war * epoch / (place + 3) for place, name in enumerate(CURVES)}}
        for epoch in range(1, epochs + 1)
    ]


def train(root: Path, key: RunKey, war: float = 0.6) -> None:
    """Write the files of a trained fold."""
    clips = root / paths.splits(key.corpus, key.protocol)[0]
    clips.parent.mkdir(parents=True, exist_ok=True)
    clips.write_text("clip,actor,emotion\na,1,calm\nb,2,sad\n")
    model, curves = root / key.model, root / key.history
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_text(f"a model with {war}")
    with curves.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["epoch", *CURVES, "kept"])
        writer.writerows([*row.values(), str(row["epoch"] == 2).lower()] for row in history(war))
    outputs = {path: sha256(root / path) for path in key.trained}
    record = Record(key.training_record, "train", key.asdict(), SETTINGS, "code", {}, outputs)
    unhashed = {"commit": "c" * 40, "dirty": False, "details": {"seconds": 12.5}}
    Record(**{**vars(record), **unhashed}).write(root)


def evaluate(root: Path, key: RunKey, war: float = 0.6) -> None:
    """Write the files of the evaluation of a trained fold."""
    size = len(EMOTIONS)
    metrics = {
        **key.asdict(),
        "emotions": EMOTIONS,
        "actors": [1, 2],
        "clips": 10 * size,
        "war": war,
        "uar": war - 0.01,
        "macro_f1": war - 0.02,
        "recall": {**dict.fromkeys(EMOTIONS, war), "calm": None},
        "confusion": [[8 if row == column else int(column < 2) for column in range(size)] for row in range(size)],
        "validation": {"war": war, "uar": war},
        "calibration": {"temperature": 1.5, "clips": 20, "from": "validation actors"},
    }
    (root / key.results).mkdir(parents=True, exist_ok=True)
    (root / key.metrics).write_text(json.dumps(metrics))
    (root / key.predictions).write_text("clip,actor,emotion,predicted\na,1,calm,sad\n")
    inputs = {path: sha256(root / path) for path in key.trained}
    outputs = {path: sha256(root / path) for path in (key.metrics, key.predictions)}
    Record(key.evaluation_record, "evaluate", key.asdict(), {"network": {}}, "code", inputs, outputs).write(root)


def write(root: Path, keys: list[RunKey] = KEYS) -> None:
    """Write the files of trained and evaluated folds with WAR 0.5, 0.55, 0.6 and so on."""
    for number, key in enumerate(keys):
        train(root, key, 0.5 + number / 20)
        evaluate(root, key, 0.5 + number / 20)
