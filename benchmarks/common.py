"""What several benchmarks share: real clips, projections for whole corpora, peak memory, and the format of the figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CLIPS = {"ravdess": 1440, "cremad": 7442}  # number of clips in the whole corpus
CORES = 8  # that projections for a whole corpus assume


def shared_data() -> Path:
    """The folder with real clips and weights: EMOFUSE_SHARED_DATA, or shared/data next to the checkout."""
    return Path(os.environ.get("EMOFUSE_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def peak_memory_mb() -> float:
    """The peak resident memory of this process, in MB."""
    # Not getrusage(): its maximum starts at the peak of the parent process.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def print_figures(figures: Mapping[str, float]) -> None:
    for name, value in figures.items():
        print(f"{name}: {value:.4g}")
