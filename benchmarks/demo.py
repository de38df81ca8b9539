"""Accuracy on the synthetic corpus: WAR relative to the Bayes accuracy, and WAR after training on shuffled labels.

Run `make demo` first, then `python benchmarks/demo.py`. The last lines are the figures, `name: value`: the mean WAR over
the folds; its ratio to the Bayes accuracy for the same modalities; and, as a control that must stay at chance level, the
WAR of the proposed variant trained from scratch on the same folds after shuffling the emotions of all clips.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path
from statistics import mean

import pandas as pd

from emofuse import config, datasets, paths
from emofuse.datasets import demo
from emofuse.evaluation import evaluate
from emofuse.paths import RunKey
from emofuse.training import train
from emofuse.training.checkpoint import Checkpoint
from emofuse.training.model_file import write_model
from emofuse.utils.files import read_json

CORPUS = "demo"
SHUFFLED_VARIANT = "proposed"
MODALITIES = {"proposed": "audio_video", "audio_only": "audio", "video_only": "video"}


def shuffle_labels(protocol: str, seed: int, root: Path) -> None:
    """Copy the corpus's splits to `root` with shuffled emotions, and link its features."""
    data = root / "data" / CORPUS
    data.mkdir(parents=True)
    (data / "features").symlink_to(Path("data", CORPUS, "features").resolve())
    clips, folds = map(Path, paths.splits(CORPUS, protocol))
    (root / folds).parent.mkdir(parents=True)
    (root / folds).write_bytes(folds.read_bytes())
    frame = pd.read_csv(clips, dtype=str, keep_default_na=False)
    labels = frame["emotion"].tolist()
    random.Random(seed).shuffle(labels)
    frame.assign(emotion=labels).to_csv(root / clips, index=False, lineterminator="\n")


def shuffled_war(protocol: str, folds: list[int], seed: int, run: config.Run, emotions: tuple[str, ...]) -> float:
    """The mean WAR over the folds after training and testing on shuffled labels."""
    with tempfile.TemporaryDirectory() as name:
        root, wars = Path(name), []
        shuffle_labels(protocol, seed, root)
        for fold in folds:
            key = RunKey(CORPUS, protocol, SHUFFLED_VARIANT, seed, fold)
            progress, _ = train.train(key, run, emotions, root, Checkpoint(root / key.checkpoint, ""))
            write_model(root / key.model, progress.kept, emotions, run)
            train.write_history(root / key.history, progress)
            evaluate.evaluate(key, run, emotions, root)
            wars.append(float(read_json(root / key.metrics)["war"]))
    return mean(wars)


def main() -> int:
    params = config.load()
    section = params.corpus(CORPUS)
    assert section.demo is not None
    bayes = demo.bayes()
    emotions = datasets.get(section.kind).emotions
    ((protocol, folds),) = section.protocols.items()
    seed = section.seeds[0]
    figures = {}
    for variant in section.variants:
        keys = [RunKey(CORPUS, protocol, variant, seed, fold) for fold in folds]
        figures[f"{variant}_war"] = mean(read_json(Path(key.metrics))["war"] for key in keys)
        if variant in MODALITIES:
            figures[f"{variant}_war_over_bayes"] = figures[f"{variant}_war"] / bayes[MODALITIES[variant]]
    figures["shuffled_labels_war"] = shuffled_war(protocol, folds, seed, params.run(CORPUS, SHUFFLED_VARIANT), emotions)
    figures["chance_war"] = 1 / len(emotions)
    for name, value in figures.items():
        print(f"{name}: {value:.4f}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(main())
