"""The same training once more, and with other numbers of threads: which bits stay, and how far the others go.

Run `snakemake data/demo/kfold_3/folds.csv` first, then `python benchmarks/threads.py [--threads N …]`: the proposed network
on the first fold of the demo, with the first number of threads twice, with each of the others once. The last lines are the
figures, `name: value`: whether the first two models are the same bits; for each other number the largest difference of a
weight and of a test clip's probability, and how many of the test clips are told differently.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from demo_trainings import CORPUS, DATA, train
from safetensors.numpy import load_file

from emofuse import corpora, evaluation, params
from emofuse.files import read_table

FOLD, SEED = 0, 1


def trained(loaded: params.Params, threads: int, folder: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The weights of a training, and the probabilities of its test clips (clips, emotions)."""
    folder.mkdir()
    section = loaded.corpus(CORPUS)
    (protocol,) = section.protocols
    run = params.overridden(loaded.run(CORPUS, "proposed"), {"training": {"threads": threads}}, "threads")
    emotions = corpora.emotions(section.kind)
    model = train(DATA, protocol, FOLD, SEED, run, emotions, folder)
    evaluation.evaluate(DATA, (CORPUS, protocol, "threads", SEED, FOLD), run, emotions, model, folder / "scores", {})
    rows = read_table(folder / "scores" / "predictions.csv")
    return load_file(model), np.array([[float(row[f"p_{emotion}"]) for emotion in emotions] for row in rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, *range(2, 1 + (os.cpu_count() or 1))])
    options = parser.parse_args()
    first, *others = options.threads
    loaded = params.load()
    with tempfile.TemporaryDirectory() as name:
        weights, told = trained(loaded, first, Path(name, "first"))
        again, _ = trained(loaded, first, Path(name, "again"))
        figures: dict[str, float] = {
            "same_threads_same_bits": float(all((weights[key] == again[key]).all() for key in weights))
        }
        for threads in others:
            other, said = trained(loaded, threads, Path(name, str(threads)))
            figures[f"threads_{threads}_largest_weight_difference"] = max(
                float(abs(weights[key].astype(np.float64) - other[key]).max())
                for key in weights
                if weights[key].dtype.kind == "f"  # batch norm counts its batches
            )
            figures[f"threads_{threads}_largest_probability_difference"] = float(abs(told - said).max())
            figures[f"threads_{threads}_clips_told_differently"] = int((told.argmax(1) != said.argmax(1)).sum())
            figures[f"threads_{threads}_test_clips"] = len(told)
    for key, value in figures.items():
        print(f"{key}: {value:.6g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
