"""Coverage of the confidence intervals, and the false-positive rate of the tests, on simulated actors and seeds.

Run it with `python benchmarks/intervals.py`; it prints the table of docs/statistics.md, in a few minutes on one core. Two
variants of equal quality are trained with each seed on each fold and tested on the clips of its actors. The probability
that a clip is classified correctly is logistic in the sum of normally distributed effects:

- of the actor, of the actor with a variant, and of the clip, which all seeds share;
- of the training: one variant with one seed on one fold;
- of the actor with a training.

The effect sizes are assumptions. None is from our own scores.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emofuse.evaluation import statistics

MEAN = 0.4  # logits: an accuracy of about 58 %
SLOPE = 0.22  # by how much accuracy changes per logit at that mean, on average over the other effects
# Accuracy varies between actors by about 12.5 points, as the margins assume, of which 6 to 7 are chance with 60 clips. For
# comparison: the released folds of HiCMAE on CREMA-D, of 18 or 19 actors, vary by 1.9 points; that is 8 between actors.
ACTOR = 0.105 / SLOPE
ACTOR_VARIANT = 0.05 / SLOPE  # half of that, for how differently two variants treat the same actor
TRAINING = 0.02 / SLOPE  # trainings that differ only in the seed vary by one to three points on test sets of this size
ACTOR_TRAINING = 0.04 / SLOPE
CLIP = 1.0
CLIPS = 60  # per actor, as in RAVDESS

Effects = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """Folds of so many actors, seeds, and the standard deviation between trainings, in points."""

    folds: tuple[int, ...]
    seeds: int
    training: float = 2.0

    def __str__(self) -> str:
        sizes = " + ".join(
            f"{self.folds.count(size)} × {size}" for size in sorted(set(self.folds), reverse=True)
        )  # fmt: skip
        return f"{sum(self.folds)} | {sizes} | {self.seeds} | {self.training:.0f}"


ALL = (
    [Design(folds, seeds) for folds in ((2,) * 5, (5,) * 2, (2,) * 12, (5, 5, 5, 5, 4)) for seeds in (3, 1)]
    + [Design((5, 5, 5, 5, 4), 3, training) for training in (0.0, 4.0)]
    + [Design((2,) * 5, 3, 4.0)]
)
HEADER = (
    "| actors | folds | seeds | training, points | score, 90 % | score, 95 % | difference, 90 % | difference, 95 % |"
    " permutation test, 5 % |"
)


def confusions(design: Design, generator: np.random.Generator, studies: int) -> Iterator[NDArray[np.int64]]:
    """Confusion matrices (A, S, studies, 2, 1 + 1, 1 + 1) of both variants on each fold: right and wrong."""
    seeds = design.seeds
    for actors in design.folds:

        def effect(sd: float, *shape: int) -> Effects:
            return sd * generator.standard_normal(shape)

        logits = MEAN + effect(ACTOR, actors, 1, studies, 1) + effect(ACTOR_VARIANT, actors, 1, studies, 2)
        logits = logits + effect(design.training / 100 / SLOPE, 1, seeds, studies, 2)
        logits = logits + effect(ACTOR_TRAINING, actors, seeds, studies, 2)
        clips = effect(CLIP, CLIPS, actors, 1, studies, 1)
        right = np.zeros(logits.shape, dtype=np.int64)
        for clip in clips:
            right += generator.random(logits.shape) < 1 / (1 + np.exp(-logits - clip))
        counts = np.zeros((*right.shape, 2, 2), dtype=np.int64)
        counts[..., 0, 0], counts[..., 0, 1] = right, CLIPS - right
        yield counts


def accuracy(design: Design) -> float:
    """The mean accuracy over all actors, clips and trainings, from the distribution of the sum of the effects."""
    sd = np.sqrt(ACTOR**2 + ACTOR_VARIANT**2 + (design.training / 100 / SLOPE) ** 2 + ACTOR_TRAINING**2 + CLIP**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float((weights / (1 + np.exp(-MEAN - sd * nodes))).sum() / weights.sum())


def rates(design: Design, studies: int, seed: int = 1, batch: int = 50) -> dict[str, float]:
    """The share of simulated studies whose intervals cover the truth, and whose test finds a difference."""
    generator = np.random.default_rng(seed)
    first = np.cumsum((0, *design.folds))
    actors = [start + np.arange(size) for start, size in zip(first, design.folds, strict=False)]
    drawn = statistics.draw(actors, design.seeds)
    assert drawn is not None
    truth = accuracy(design)
    found: dict[str, list[float]] = {
        name: [] for name in ("score_90", "score_95", "difference_90", "difference_95", "p")
    }
    for start in range(0, studies, batch):
        folds = list(confusions(design, generator, min(batch, studies - start)))
        wars = statistics.resampled(actors, folds, drawn)["war"]  # (resamples, studies, variants)
        for name, spread, true in (("score", wars[..., 0], truth), ("difference", wars[..., 0] - wars[..., 1], 0.0)):
            ends = statistics.intervals(spread)
            for level, (low, high) in ((95, ends[:2]), (90, ends[2:])):
                found[f"{name}_{level}"] += ((low <= true) & (true <= high)).tolist()
        found["p"] += (statistics.permutation_test(actors, folds, exchanges=1000)["war"] <= 0.05).tolist()
    return {name: float(np.mean(values)) for name, values in found.items()}


def row(design: Design, measured: dict[str, float]) -> str:
    """A row of the table."""
    return f"| {design} | " + " | ".join(f"{100 * value:.1f}" for value in measured.values()) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies per row")
    options = parser.parse_args()
    print(HEADER)
    print("|" + "--:|" * HEADER.count("|", 1))
    for each in ALL:
        print(row(each, rates(each, options.studies)), flush=True)
