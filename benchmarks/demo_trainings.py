"""Trainings on the demo's features, for the benchmarks that compare them."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from emofuse import evaluation, params, training
from emofuse.files import read_json, read_table, write_table

CORPUS = "demo"
DATA = Path("data", CORPUS)


def train(
    data: Path, protocol: str, fold: int, seed: int, run: params.Run, emotions: tuple[str, ...], folder: Path
) -> Path:
    """Train on a fold from scratch; the model, in `folder`."""
    stamp, model = folder / "stamp.json", folder / "model.safetensors"
    stamp.write_text("{}")
    training.train(data, protocol, fold, seed, run, emotions, model, folder / "checkpoint.pt", [stamp], {})
    return model


def war(data: Path, protocol: str, fold: int, seed: int, run: params.Run, emotions: tuple[str, ...]) -> float:
    """The WAR of one training on the fold's test clips."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = train(data, protocol, fold, seed, run, emotions, folder)
        key = (CORPUS, protocol, "benchmark", seed, fold)
        evaluation.evaluate(data, key, run, emotions, model, folder / "scores", {})
        return float(read_json(folder / "scores" / "metrics.json")["war"])


def shuffle_labels(data: Path, protocol: str, seed: int, to: Path) -> None:
    """A copy of the corpus in `to` whose emotions were dealt out anew among the clips; the features are linked."""
    for stage in ("faces", "audio"):
        (to / stage).symlink_to((data / stage).resolve())
    (to / protocol).mkdir()
    (to / protocol / "folds.csv").write_bytes((data / protocol / "folds.csv").read_bytes())
    rows = read_table(data / protocol / "clips.csv")
    labels = [row["emotion"] for row in rows]
    random.Random(seed).shuffle(labels)
    dealt = ({**row, "emotion": label} for row, label in zip(rows, labels, strict=True))
    write_table(to / protocol / "clips.csv", list(rows[0]), dealt)
