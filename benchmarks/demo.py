"""Does the pipeline tell learning from luck? Learned WAR on the demo over its Bayes accuracy, and with labels shuffled.

Run `make demo` first, then `python benchmarks/demo.py`. The last lines are its figures, `name: value`: WAR as mean over
the folds, its ratio to the Bayes accuracy of the modalities it hears and sees, and the WAR of the proposed variant
trained from scratch on the same folds after the emotions of all clips were dealt out anew at random.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path
from statistics import mean

from emofuse import config, datasets, paths
from emofuse.datasets import demo
from emofuse.evaluation import evaluate
from emofuse.paths import RunKey
from emofuse.training import train
from emofuse.training.checkpoint import Checkpoint
from emofuse.training.model_file import write_model
from emofuse.utils.files import read_json, read_table, write_table

CORPUS = "demo"
SHUFFLED_VARIANT = "proposed"
HEARD = {"proposed": "audio_video", "audio_only": "audio", "video_only": "video"}


def shuffle_labels(protocol: str, seed: int, root: Path) -> None:
    """A copy of the corpus in `root` whose emotions were dealt out anew among the clips; the features are linked."""
    data = root / "data" / CORPUS
    data.mkdir(parents=True)
    (data / "features").symlink_to(Path("data", CORPUS, "features").resolve())
    clips, folds = map(Path, paths.splits(CORPUS, protocol))
    (root / folds).parent.mkdir(parents=True)
    (root / folds).write_bytes(folds.read_bytes())
    rows = read_table(clips)
    labels = [row["emotion"] for row in rows]
    random.Random(seed).shuffle(labels)
    dealt = ({**row, "emotion": label} for row, label in zip(rows, labels, strict=True))
    write_table(root / clips, list(rows[0]), dealt)


def shuffled_war(protocol: str, folds: list[int], seed: int, run: config.Run, emotions: tuple[str, ...]) -> float:
    """The mean WAR over the folds of a network trained and tested on labels that mean nothing."""
    with tempfile.TemporaryDirectory() as name:
        root, wars = Path(name), []
        shuffle_labels(protocol, seed, root)
        for fold in folds:
            key = RunKey(CORPUS, protocol, SHUFFLED_VARIANT, seed, fold)
            progress, _ = train.train(key, run, emotions, root, Checkpoint(root / key.checkpoint, ""))
            write_model(root / key.model, progress.best, emotions, run.network)
            train.write_history(root / key.history, progress)
            evaluate.evaluate(key, run, emotions, root)
            wars.append(float(read_json(root / key.metrics)["war"]))
    return mean(wars)


def main() -> int:
    loaded = config.load()
    section = loaded.corpus(CORPUS)
    assert section.demo is not None
    bayes = demo.bayes(section.demo)
    emotions = datasets.emotions(section.kind)
    ((protocol, folds),) = section.protocols.items()
    seed = section.seeds[0]
    figures = {}
    for variant in section.variants:
        keys = [RunKey(CORPUS, protocol, variant, seed, fold) for fold in folds]
        figures[f"{variant}_war"] = mean(read_json(Path(key.metrics))["war"] for key in keys)
        if variant in HEARD:
            figures[f"{variant}_war_over_bayes"] = figures[f"{variant}_war"] / bayes[HEARD[variant]]
    figures["shuffled_labels_war"] = shuffled_war(protocol, folds, seed, loaded.run(CORPUS, SHUFFLED_VARIANT), emotions)
    figures["chance_war"] = 1 / len(emotions)
    for name, value in figures.items():
        print(f"{name}: {value:.4f}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(main())
