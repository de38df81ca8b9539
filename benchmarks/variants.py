"""Fusions and losses on the demo over several seeds: is a difference more than the luck of one training?

Run `make demo` first (its features are enough: `snakemake data/demo/kfold_3/folds.csv`), then `python
benchmarks/variants.py [--seeds N] [--jobs N] [VARIANT …]`. Each variant is trained from scratch with each seed on each fold,
one thread each, and scored on the fold's test clips. The last lines are the figures, `name: value`: of each variant the WAR,
mean over seeds of the mean over folds, and its ratio to the Bayes accuracy; of each but the first, which is `proposed` unless named otherwise, the
difference of WAR to it and the 95 % interval of that: Student's t over the seeds, each seed beside itself. The interval is
of other seeds on the same clips, not of other corpora.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed

import numpy as np
from demo_trainings import CORPUS, DATA, war
from scipy import stats

from emofuse import corpora, params
from emofuse.corpora import demo

PROPOSED = "proposed"
VARIANTS = [
    PROPOSED, "concat_fusion", "self_attention_fusion", "late_average_fusion", "cross_entropy", "triplet", "polarity",
    "fixed_distance",
]  # fmt: skip


def variant_war(loaded: params.Params, variant: str, seed: int, fold: int) -> float:
    """The WAR of one training of a variant."""
    corpus = loaded.corpora[CORPUS]
    overrides = loaded.variants[variant].model_dump()
    run = params.overridden(loaded.run(CORPUS, PROPOSED), overrides, f"variants.{variant}")
    (protocol,) = corpus.protocols
    return war(DATA, protocol, fold, seed, run, corpora.emotions(corpus.kind))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("variants", nargs="*", default=VARIANTS)
    options = parser.parse_args()
    loaded = params.load()
    section = loaded.corpus(CORPUS)
    assert section.demo is not None
    best = demo.bayes(section.demo)["audio_video"]
    seeds, ((_, folds),) = range(1, 1 + options.seeds), section.protocols.items()
    scored: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with ProcessPoolExecutor(options.jobs) as pool:
        jobs = {
            pool.submit(variant_war, loaded, variant, seed, fold): (variant, seed)
            for variant in options.variants
            for seed in seeds
            for fold in folds
        }
        for done, job in enumerate(as_completed(jobs), 1):
            variant, seed = jobs[job]
            scored[variant][seed].append(job.result())
            if len(scored[variant][seed]) == len(folds):
                print(
                    f"{done} of {len(jobs)}: {variant}, seed {seed}: {np.mean(scored[variant][seed]):.4f}", flush=True
                )
    means = {variant: np.array([np.mean(scored[variant][seed]) for seed in seeds]) for variant in options.variants}
    first = options.variants[0]
    figures: dict[str, float] = {}
    for variant, values in means.items():
        figures |= {f"{variant}_war": values.mean(), f"{variant}_war_over_bayes": values.mean() / best}
        if variant != first:
            difference = values - means[first]
            half = stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
            figures[f"{variant}_difference"] = difference.mean()
            figures[f"{variant}_difference_low"] = difference.mean() - half
            figures[f"{variant}_difference_high"] = difference.mean() + half
    for name, value in figures.items():
        print(f"{name}: {value:.4f}")
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(main())
