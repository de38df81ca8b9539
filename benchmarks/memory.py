"""How much faster a training on a CPU is if it keeps the memory that it frees (emofuse.utils.memory).

Run `python benchmarks/memory.py [--rounds N]` in the repository's root. The results are the time of a few training steps of
the proposed network of ravdess_audio and of javased, on one thread and one batch in memory, with freed memory kept over with
it returned to the kernel. Each measurement is a process of its own, in turn; the result is the median over rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch
from training import KEY, bare, make_features

from emofuse import config
from emofuse.utils import memory


def seconds(corpus: str, folder: Path, kept: bool) -> float:
    """The time of the training steps."""
    if kept:
        memory.keep_freed()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as in a training
    params = config.load()
    return bare(folder, params.run(corpus, "proposed"), params.corpus(corpus).emotions, torch.device("cpu"))


def main() -> int:
    parser = argparse.ArgumentParser(description="A training that keeps freed memory over one that returns it.")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for corpus in ("ravdess_audio", "javased"):
        section, ratios = config.load().corpus(corpus), []
        with tempfile.TemporaryDirectory(dir=".", prefix=".benchmark-") as name:
            make_features(Path(name) / "data" / KEY.corpus, section, 64, section.emotions)
            for number in range(rounds):
                measured = []
                for kept in (True, False):
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                        measured.append(process.submit(seconds, corpus, Path(name), kept).result())
                print(
                    f"{corpus}, round {number + 1}: kept {measured[0]:.2f} s, returned {measured[1]:.2f} s", flush=True
                )
                ratios.append(measured[0] / measured[1])
        print(f"{corpus}_kept_over_returned: {median(ratios):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
