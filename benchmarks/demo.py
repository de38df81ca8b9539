"""Does the pipeline tell learning from luck? Learned WAR on the demo over its Bayes accuracy, and with labels shuffled.

Run `make demo` first, then `python benchmarks/demo.py`. The last lines are its figures, `name: value`: WAR as mean over
the folds, its ratio to the Bayes accuracy of the modalities it hears and sees, and the WAR of the proposed variant
trained from scratch on the same folds after the emotions of all clips were dealt out anew at random.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from statistics import mean

from demo_trainings import CORPUS, DATA, shuffle_labels, war

from emofuse import corpora, params
from emofuse.corpora import demo
from emofuse.files import read_json

SHUFFLED_VARIANT = "proposed"
HEARD = {"proposed": "audio_video", "audio_only": "audio", "video_only": "video"}


def shuffled_war(protocol: str, folds: list[int], seed: int, run: params.Run, emotions: tuple[str, ...]) -> float:
    """The mean WAR over the folds of a network trained and tested on labels that mean nothing."""
    with tempfile.TemporaryDirectory() as name:
        shuffle_labels(DATA, protocol, seed, Path(name))
        return mean(war(Path(name), protocol, fold, seed, run, emotions) for fold in folds)


def main() -> int:
    loaded = params.load()
    section = loaded.corpus(CORPUS)
    assert section.demo is not None
    bayes = demo.bayes(section.demo)
    emotions = corpora.emotions(section.kind)
    ((protocol, folds),) = section.protocols.items()
    seed = section.seeds[0]
    figures = {}
    for variant in section.variants:
        base = Path("results", CORPUS, protocol, variant, f"seed-{seed}")
        figures[f"{variant}_war"] = mean(read_json(base / f"fold-{fold}" / "metrics.json")["war"] for fold in folds)
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
