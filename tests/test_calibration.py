"""Calibration: the temperature, what it does to probabilities, and the table and figure of it."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from test_report import RAVDESS, make_params, parse, quick, write_clips, write_csv, write_fold

from emofuse.config import Params
from emofuse.evaluation import calibration
from emofuse.evaluation.calibration import (
    BINS,
    LIMIT,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
    tempered,
)
from emofuse.report import figures, load, tables

Scored = tuple[torch.Tensor, NDArray[np.int64]]
Told = tuple[NDArray[np.float64], NDArray[np.bool_]]


@st.composite
def scored(draw: st.DrawFn) -> Scored:
    """Scores and labels of some clips, right and wrong, sure and unsure."""
    shape = draw(st.tuples(st.integers(1, 20), st.integers(2, 6)))
    eighths = draw(hnp.arrays(np.int64, shape, elements=st.integers(-40, 40)))
    labels = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    return torch.from_numpy(eighths / 8), labels


@st.composite
def told(draw: st.DrawFn) -> Told:
    """The confidence of some clips, on and between the edges of bins, and whether each was told right."""
    shares = st.floats(0, 1) | st.integers(0, BINS).map(lambda place: place / BINS)
    clips = draw(st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=40))
    return np.array([share for share, _ in clips]), np.array([right for _, right in clips])


@st.composite
def rounded(draw: st.DrawFn) -> NDArray[np.float64]:
    """Probabilities as predictions.csv has them: to 6 decimals."""
    scores, _ = draw(scored())
    return scores.mul(draw(st.sampled_from([0.1, 1, 4]))).softmax(1).numpy().round(6)


def loss(scores: torch.Tensor, labels: NDArray[np.int64], temperature: float) -> float:
    return F.cross_entropy(scores / temperature, torch.from_numpy(labels)).item()


@given(scored())
def test_no_temperature_is_better_on_the_clips_that_it_was_fitted_on(clips: Scored) -> None:
    found = calibration.temperature(*clips)
    assert 1 / LIMIT <= found <= LIMIT
    others = (1.0, 1 / LIMIT, LIMIT, max(0.99 * found, 1 / LIMIT), min(1.01 * found, LIMIT))
    assert all(loss(*clips, found) <= loss(*clips, other) + 1e-12 for other in others)


@given(scored(), st.floats(0.1, 10))
def test_the_temperature_scales_with_the_scores(clips: Scored, factor: float) -> None:
    scores, labels = clips
    found, scaled = calibration.temperature(scores, labels), calibration.temperature(factor * scores, labels)
    expected = min(max(factor * found, 1 / LIMIT), LIMIT)
    if found == LIMIT:  # the best may be beyond it
        assert scaled >= expected * (1 - 1e-6)
    elif found == 1 / LIMIT:
        assert scaled <= expected * (1 + 1e-6)
    else:
        assert scaled == pytest.approx(expected, rel=1e-6)


@given(scored(), st.floats(-100, 100))
def test_what_is_added_to_all_scores_of_a_clip_changes_nothing(clips: Scored, added: float) -> None:
    scores, labels = clips
    assert calibration.temperature(scores + added, labels) == pytest.approx(
        calibration.temperature(scores, labels), rel=1e-6
    )


def test_the_temperature_that_scores_were_made_with_is_found() -> None:
    generator = np.random.default_rng(0)
    scores = torch.from_numpy(generator.normal(0, 2, (20_000, 8)))
    labels = np.array([generator.choice(8, p=chances) for chances in scores.softmax(1).numpy()])
    assert calibration.temperature(2.5 * scores, labels) == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("size", [1, 1e4])
def test_without_a_best_temperature_it_is_the_limit(size: float) -> None:
    scores, labels = size * torch.eye(4), np.arange(4)
    assert calibration.temperature(scores, labels) == 1 / LIMIT  # all right: the surer the better
    assert calibration.temperature(scores, (labels + 1) % 4) == LIMIT  # all wrong


@given(rounded(), st.floats(1 / LIMIT, LIMIT))
def test_tempering_changes_no_prediction(chances: NDArray[np.float64], temperature: float) -> None:
    made = tempered(chances, temperature)
    np.testing.assert_allclose(made.sum(1), 1)
    assert (made > 0).all()
    assert (made.argmax(1) == chances.argmax(1)).all()


@given(scored(), st.floats(1 / LIMIT, LIMIT))
def test_tempering_probabilities_is_tempering_scores(clips: Scored, temperature: float) -> None:
    scores, labels = clips[0] / 4, clips[1]  # none as unlikely as what is rounded to nothing
    chances = scores.softmax(1)
    made = tempered(chances.numpy(), temperature)
    np.testing.assert_allclose(made, (scores / temperature).softmax(1).numpy(), rtol=1e-9)
    assert negative_log_likelihood(made, labels) == pytest.approx(loss(scores, labels, temperature))


def bin_by_bin(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """ECE as equation 3 of Guo et al. writes it."""
    error = 0.0
    for place in range(BINS):
        edges = np.linspace(0, 1, BINS + 1)[place : place + 2]
        inside = [
            index
            for index, value in enumerate(confidence)
            if edges[0] < value <= edges[1] or (place == 0 and value == 0)
        ]
        if inside:
            accuracy = sum(right[index] for index in inside) / len(inside)
            sure = sum(confidence[index] for index in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(accuracy - sure)
    return error


@given(told())
def test_the_calibration_error_is_as_defined(clips: Told) -> None:
    found = expected_calibration_error(*clips)
    assert 0 <= found <= 1
    assert found == pytest.approx(bin_by_bin(*clips))
    bins = reliability(*clips)
    assert bins.clips.sum() == len(clips[0])
    assert (np.isnan(bins.accuracy) == (bins.clips == 0)).all()
    edges = np.arange(BINS + 1) / BINS
    there = bins.clips > 0
    assert (bins.confidence[there] >= edges[:-1][there] - 1e-9).all()
    assert (bins.confidence[there] <= edges[1:][there] + 1e-9).all()


@given(st.sets(st.integers(0, 10), min_size=1))
def test_there_is_no_error_where_bins_are_as_right_as_they_are_sure(tenths: set[int]) -> None:
    confidence = np.repeat([right / 10 for right in tenths], 10)
    right = np.concatenate([np.arange(10) < right for right in tenths])
    assert expected_calibration_error(confidence, right) == pytest.approx(0, abs=1e-12)


def test_all_sure_and_all_wrong_is_the_whole_error() -> None:
    assert expected_calibration_error(np.ones(5), np.zeros(5, dtype=bool)) == 1


# --- the table and the figure


@pytest.fixture
def project(tmp_path: Path) -> tuple[Params, Path]:
    """A demo of two folds whose network says 90 % and is right with 70 %, and at its temperatures about as much."""
    params = make_params(tmp_path)
    generator = np.random.default_rng(1)
    clips = [
        (f"{actor}-{emotion}-{take}", actor, emotion) for actor in range(8) for emotion in RAVDESS for take in "ab"
    ]
    write_clips(tmp_path, "demo", "kfold_3", clips)
    for fold in range(2):
        tested = [clip for clip in clips if clip[1] // 4 == fold]
        write_fold(tmp_path, ("demo", "kfold_3", "proposed", 1), fold, RAVDESS, tested, 0.7)
        folder = tmp_path / f"results/demo/runs/kfold_3/proposed/seed-1/fold-{fold}"
        rows = list(csv.DictReader((folder / "predictions.csv").open()))
        for row in rows:
            sure = generator.uniform(0.8, 0.999)
            row |= {f"p_{emotion}": f"{(1 - sure) / 7:.6f}" for emotion in RAVDESS}
            row[f"p_{row['predicted']}"] = f"{sure:.6f}"
        write_csv(folder / "predictions.csv", rows)  # type: ignore[arg-type]
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics["calibration"]["temperature"] = (1.4, 1.8)[fold]
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return params, tmp_path


def by_hand(root: Path, calibrated: bool) -> tuple[float, float]:
    """ECE and NLL of the two folds, from their files."""
    confidence, right, surprise = [], [], []
    for fold in range(2):
        folder = root / f"results/demo/runs/kfold_3/proposed/seed-1/fold-{fold}"
        temperature = json.loads((folder / "metrics.json").read_text())["calibration"]["temperature"]
        for row in csv.DictReader((folder / "predictions.csv").open()):
            powers = {e: float(row[f"p_{e}"]) ** (1 / temperature if calibrated else 1) for e in RAVDESS}
            whole = sum(powers.values())
            confidence.append(powers[row["predicted"]] / whole)
            right.append(row["predicted"] == row["emotion"])
            surprise.append(-math.log(powers[row["emotion"]] / whole))
    return bin_by_bin(np.array(confidence), np.array(right)), sum(surprise) / len(surprise)


def test_each_fold_is_calibrated_by_its_own_temperature(project: tuple[Params, Path]) -> None:
    params, root = project
    made = tables.calibration(load.read("demo", params, root))
    first, *others = parse(made)
    assert (first["variant"], first["status"], first["clips"]) == ("proposed", "incomplete", "128")
    assert (float(first["temperature_low"]), float(first["temperature_high"])) == (1.4, 1.8)
    for suffix, calibrated in (("", False), ("_calibrated", True)):
        error, surprise = by_hand(root, calibrated)
        assert float(first[f"ece{suffix}"]) == pytest.approx(error)
        assert float(first[f"nll{suffix}"]) == pytest.approx(surprise)
    assert float(first["ece"]) > float(first["ece_calibrated"])
    row = dict(zip(made.header, made.rows[0], strict=True))
    assert row["Temperature"] == "1.40 to 1.80"
    assert row["ECE %, uncalibrated"] == f"{100 * float(first['ece']):.1f}"
    assert row["NLL, calibrated"] == f"{float(first['nll_calibrated']):.3f}"
    assert {row["status"] for row in others} == {"not run"}
    assert made.rows[1][3:] == ["not run"] * 5 + ["–"]
    notes = " ".join(made.notes)
    for said in ("arXiv 1706.04599", "validation clips", "biased upwards", "lacks fold 2"):
        assert said in notes


def test_one_temperature_is_no_range(project: tuple[Params, Path]) -> None:
    params, root = project
    read = load.read("demo", params, root)
    alone = replace(read.runs[0], folds=read.runs[0].folds[:1])
    assert tables.calibration(replace(read, runs=(alone,))).rows[0][3] == "1.40"


def test_the_figure_has_the_bins_that_have_clips(project: tuple[Params, Path]) -> None:
    params, root = project
    read = load.read("demo", params, root)
    above, below = figures.calibration(read).axes
    diagonal, trained, calibrated = above.lines
    assert np.array_equal(*np.transpose(diagonal.get_xydata()))
    run = read.runs[0]
    for line, steps, at in ((trained, below.patches[0], False), (calibrated, below.patches[1], True)):
        chances = run.probabilities(at)
        counts = steps.get_data().values
        assert counts.sum() == len(chances) == 128
        assert len(line.get_xdata()) == (counts > 0).sum() < BINS
        # What is drawn, weighted by the clips, is the whole accuracy and the whole confidence.
        weights = counts[counts > 0] / 128
        assert (weights * line.get_ydata()).sum() == pytest.approx(100 * run.correct.mean())
        assert (weights * line.get_xdata()).sum() == pytest.approx(100 * chances.max(1).mean())
    assert min(trained.get_xdata()) > 80 > min(calibrated.get_xdata())


def test_each_leading_run_has_its_panel(project: tuple[Params, Path]) -> None:
    params, root = project
    read = load.read("demo", params, root)
    runs = tuple(replace(read.runs[0], seed=seed) for seed in (1, 2, 3))
    drawn = figures.calibration(replace(read, runs=(*runs, read.runs[1])))
    assert [axis.get_title("left") for axis in drawn.axes[::2]] == [f"proposed, seed {seed}" for seed in (1, 2, 3)]


def test_without_a_run_there_is_nothing_to_calibrate(tmp_path: Path) -> None:
    read = load.read("demo", make_params(tmp_path), tmp_path)
    assert [text.get_text() for text in figures.calibration(read).texts] == ["not run"]


def test_the_page_shows_table_and_figure_in_one_section(project: tuple[Params, Path]) -> None:
    _, html = quick("demo", *project)
    section = html.split('<section id="calibration">')[1].split("</section>")[0]
    assert 'id="figure-calibration" role="img" aria-label="Reliability diagram' in section
    assert 'id="table-calibration"' in section
    assert 'href="#kfold_3/proposed/seed-1">1.40 to 1.80</a>' in section
    assert '<a href="#calibration">' in html
