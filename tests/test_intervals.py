"""The simulation behind docs/statistics.md: its assumptions hold, and a smaller run of it gives the published table."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from conftest import ROOT

from emofuse.evaluation import statistics

sys.path.append(str(ROOT / "benchmarks"))

import intervals

PUBLISHED = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
STUDIES = 2000  # behind the published table


def published(design: intervals.Design) -> list[float]:
    """The row of a design in the published table, as fractions."""
    (line,) = (line for line in PUBLISHED.splitlines() if line.startswith(f"| {design} |"))
    return [float(cell) / 100 for cell in line.split("|")[5:-1]]


def test_the_table_has_every_design() -> None:
    assert f"{STUDIES:,} studies" in PUBLISHED
    assert intervals.HEADER in PUBLISHED
    for design in intervals.ALL:
        assert len(published(design)) == 5


def test_the_simulated_studies_are_as_stated() -> None:
    """The stated accuracy, and the standard deviation between actors for which margins are derived."""
    design = intervals.Design((5,) * 5, 3)
    folds = list(intervals.confusions(design, np.random.default_rng(1), 100))
    assert [fold.shape for fold in folds] == [(5, 3, 100, 2, 2, 2)] * 5
    shares = np.concatenate(folds)[..., 0, 0] / intervals.CLIPS
    assert shares.mean() == pytest.approx(intervals.accuracy(design), abs=0.01)
    between_actors = 100 * shares[:, 0].std(0, ddof=1).mean()
    assert between_actors == pytest.approx(statistics.ACTOR_SD, abs=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("design", [intervals.ALL[0], intervals.ALL[-3]], ids=str)
def test_a_smaller_run_agrees_with_the_published_table(design: intervals.Design) -> None:
    studies = 400
    for found, stated in zip(intervals.rates(design, studies, seed=2).values(), published(design), strict=True):
        variance = max(stated * (1 - stated), 0.01) * (1 / studies + 1 / STUDIES)
        assert found == pytest.approx(stated, abs=4 * variance**0.5)
