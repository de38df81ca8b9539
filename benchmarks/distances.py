"""Does the proposed loss find which of the demo's emotions are alike? Learned distances against planted ones.

Run `make demo` first (its features are enough: `snakemake data/demo/kfold_3/folds.csv`), then `python
benchmarks/distances.py [--seeds N]`. The proposed network of the demo is trained with each seed on each fold, its emotion
distances learned from a flat start and without a pull, so that they know nothing but the clips; then once more on labels
dealt out anew at random among the clips, the control.

The planted distance of two emotions is the mean over sight and sound of 1 − Σ_cue √(P(cue | one) P(cue | other)), one minus
the Bhattacharyya coefficient of their cues (`emofuse.corpora.demo`). Of the joint cues it would be degenerate: the
coefficient is then the product of both, zero for all but 4 of the 28 pairs.

The last lines are the figures, `name: value`, ρ being Spearman's rank correlation over the 28 pairs of emotions:

- learned_rho: of the learned distances with the planted ones, the mean over the runs, and its 95 % interval: Student's t
  over the seeds' means over the folds, so of other seeds on the same clips, not of other corpora;
- learned_mantel_p: of the distances averaged over all runs: in what share of all 8! ways to swap the emotions' names ρ is
  at least as high (Mantel's test, one-sided, exact);
- learned_valence_arousal_*: the same with the distances of valence and arousal, which nothing in the demo follows;
- shuffled_*: of what was learned from labels that mean nothing;
- planted_valence_arousal_rho: what the two have in common; planted_highest_rho: the highest ρ that distances all different
  from each other can have with the planted ones, of which many are equal;
- distance_alike_in_*: the mean learned distance (1 on average) of emotions that share cues of both modalities, one, or none.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from demo_trainings import CORPUS, DATA, shuffle_labels, train
from safetensors.torch import load_file
from scipy import stats

from emofuse import corpora, params
from emofuse.corpora import demo
from emofuse.losses import VALENCE_AROUSAL

VARIANT = "proposed"
LOSS = {"loss": {"metric": "learnable", "start": "flat", "pull": 0.0}}


def overlap(tables: dict[str, dict[str, int]], one: str, other: str) -> float:
    """The Bhattacharyya coefficient of two emotions' cues: 1 where they are alike, 0 where they share none."""
    return sum((count * tables[other].get(cue, 0)) ** 0.5 for cue, count in tables[one].items()) / demo.DRAWS


def learn(data: Path, protocol: str, fold: int, seed: int, run: params.Run, emotions: tuple[str, ...]) -> np.ndarray:
    """The emotion distances of one trained model, (C, C)."""
    with tempfile.TemporaryDirectory() as name:
        model = train(data, protocol, fold, seed, run, emotions, Path(name))
        return load_file(model)["emotion_distance"].numpy().astype(float)


def rho(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation of two matrices' entries above the diagonal."""
    above = np.triu_indices(len(one), 1)
    return float(stats.spearmanr(one[above], other[above]).statistic)


def mantel(one: np.ndarray, other: np.ndarray) -> float:
    """The share of all ways to rename the emotions of `one` in which ρ is at least as high as it is."""
    above = np.triu_indices(len(one), 1)
    first, second = np.zeros_like(one), stats.rankdata(other[above])
    first[above] = stats.rankdata(one[above])
    first += first.T
    orders = np.array(list(itertools.permutations(range(len(one)))))
    products = first[orders[:, above[0]], orders[:, above[1]]] @ (second - second.mean())
    return float(np.mean(products >= products[0] - 1e-6))


def correlations(name: str, learned: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """ρ of the learned distances, (seeds, folds, C, C), with `truth`: mean, interval over the seeds, Mantel's p."""
    seeds = np.array([np.mean([rho(matrix, truth) for matrix in folds]) for folds in learned])
    half = stats.t.ppf(0.975, len(seeds) - 1) * seeds.std(ddof=1) / len(seeds) ** 0.5
    average = learned.mean((0, 1))
    return {
        f"{name}_rho": seeds.mean(),
        f"{name}_rho_low": seeds.mean() - half,
        f"{name}_rho_high": seeds.mean() + half,
        f"{name}_average_rho": rho(average, truth),
        f"{name}_mantel_p": mantel(average, truth),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(1, 1 + parser.parse_args().seeds)
    torch.set_num_threads(1)
    loaded = params.load()
    section = loaded.corpus(CORPUS)
    run = params.overridden(loaded.run(CORPUS, VARIANT), LOSS, "benchmarks/distances.py")
    emotions = corpora.emotions(section.kind)
    ((protocol, folds),) = section.protocols.items()

    alike = np.array([[[overlap(t, a, b) for b in emotions] for a in emotions] for t in (demo.VISUAL, demo.VOCAL)])
    planted = 1 - alike.mean(0)
    places = np.array([VALENCE_AROUSAL[emotion] for emotion in emotions])
    valence_arousal = np.linalg.norm(places[:, None] - places, axis=2)

    learned, shuffled = [], []
    for seed in seeds:
        learned.append([learn(DATA, protocol, fold, seed, run, emotions) for fold in folds])
        with tempfile.TemporaryDirectory() as name:
            shuffle_labels(DATA, protocol, seed, Path(name))
            shuffled.append([learn(Path(name), protocol, fold, seed, run, emotions) for fold in folds])
        both = [np.mean([rho(matrix, planted) for matrix in runs[-1]]) for runs in (learned, shuffled)]
        print(f"seed {seed}: rho {both[0]:.3f}, labels shuffled {both[1]:.3f}", flush=True)

    above = np.triu_indices(len(emotions), 1)
    shared = (alike > 0).sum(0)[above]
    average = np.mean(learned, (0, 1))[above]
    untied = 2 * stats.rankdata(planted[above], "min") + stats.rankdata(average) / len(average)
    figures = {
        **correlations("learned", np.array(learned), planted),
        **correlations("learned_valence_arousal", np.array(learned), valence_arousal),
        **correlations("shuffled", np.array(shuffled), planted),
        "planted_valence_arousal_rho": rho(planted, valence_arousal),
        "planted_highest_rho": float(stats.spearmanr(untied, planted[above]).statistic),
        "distance_alike_in_both": average[shared == 2].mean(),
        "distance_alike_in_one": average[shared == 1].mean(),
        "distance_alike_in_none": average[shared == 0].mean(),
    }
    for first, second, value in sorted(zip(*above, average, strict=True), key=lambda pair: pair[2]):
        print(f"{emotions[first]}-{emotions[second]}: learned {value:.3f}, planted {planted[first, second]:.3f}")
    for name, value in figures.items():
        print(f"{name}: {value:.4f}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(main())
