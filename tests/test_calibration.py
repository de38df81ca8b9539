"""Calibration: fitting the temperature, applying it to probabilities, and the table and figure."""

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
Classified = tuple[NDArray[np.float64], NDArray[np.bool_]]


@st.composite
def scored(draw: st.DrawFn) -> Scored:
    """Logits and labels of some clips, correct and wrong, confident and not."""
    shape = draw(st.tuples(st.integers(1, 20), st.integers(2, 6)))
    eighths = draw(hnp.arrays(np.int64, shape, elements=st.integers(-40, 40)))
    labels = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    return torch.from_numpy(eighths / 8), labels


@st.composite
def classified(draw: st.DrawFn) -> Classified:
    """The confidence of some clips, on and between the edges of bins, and whether each is correct."""
    shares = st.floats(0, 1) | st.integers(0, BINS).map(lambda place: place / BINS)
    clips = draw(st.lists(st.tuples(shares, st.booleans()), min_size=1, max_size=40))
    return np.array([share for share, _ in clips]), np.array([right for _, right in clips])


@st.composite
def rounded(draw: st.DrawFn) -> NDArray[np.float64]:
    """Probabilities to 6 decimals, as in predictions.csv."""
    scores, _ = draw(scored())
    return scores.mul(draw(st.sampled_from([0.1, 1, 4]))).softmax(1).numpy().round(6)


def loss(scores: torch.Tensor, labels: NDArray[np.int64], temperature: float) -> float:
    return F.cross_entropy(scores / temperature, torch.from_numpy(labels)).item()


@given(scored())
def test_fitted_temperature_is_optimal(clips: Scored) -> None:
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
def test_temperature_is_invariant_to_shifted_logits(clips: Scored, added: float) -> None:
    scores, labels = clips
    assert calibration.temperature(scores + added, labels) == pytest.approx(
        calibration.temperature(scores, labels), rel=1e-6
    )


def test_known_temperature_is_recovered() -> None:
    generator = np.random.default_rng(0)
    scores = torch.from_numpy(generator.normal(0, 2, (20_000, 8)))
    labels = np.array([generator.choice(8, p=probabilities) for probabilities in scores.softmax(1).numpy()])
    assert calibration.temperature(2.5 * scores, labels) == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("size", [1, 1e4])
def test_temperature_is_limited(size: float) -> None:
    scores, labels = size * torch.eye(4), np.arange(4)
    assert calibration.temperature(scores, labels) == 1 / LIMIT  # all right: the surer the better
    assert calibration.temperature(scores, (labels + 1) % 4) == LIMIT  # all wrong


@given(rounded(), st.floats(1 / LIMIT, LIMIT))
def test_tempering_changes_no_prediction(probabilities: NDArray[np.float64], temperature: float) -> None:
    calibrated = tempered(probabilities, temperature)
    np.testing.assert_allclose(calibrated.sum(1), 1)
    assert (calibrated > 0).all()
    assert (calibrated.argmax(1) == probabilities.argmax(1)).all()


@given(scored(), st.floats(1 / LIMIT, LIMIT))
def test_tempering_probabilities_is_tempering_scores(clips: Scored, temperature: float) -> None:
    scores, labels = clips[0] / 4, clips[1]  # none as unlikely as what is rounded to nothing
    probabilities = scores.softmax(1)
    calibrated = tempered(probabilities.numpy(), temperature)
    np.testing.assert_allclose(calibrated, (scores / temperature).softmax(1).numpy(), rtol=1e-9)
    assert negative_log_likelihood(calibrated, labels) == pytest.approx(loss(scores, labels, temperature))


def bin_by_bin(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """ECE as in equation 3 of Guo et al."""
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


@given(classified())
def test_calibration_error_matches_its_definition(clips: Classified) -> None:
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
def test_calibrated_bins_have_no_error(tenths: set[int]) -> None:
    confidence = np.repeat([right / 10 for right in tenths], 10)
    right = np.concatenate([np.arange(10) < right for right in tenths])
    assert expected_calibration_error(confidence, right) == pytest.approx(0, abs=1e-12)


def test_confident_and_wrong_is_the_maximum_error() -> None:
    assert expected_calibration_error(np.ones(5), np.zeros(5, dtype=bool)) == 1


# --- the table and the figure


@pytest.fixture
def project(tmp_path: Path) -> tuple[Params, Path]:
    """A demo of two folds whose network is 90 % confident and 70 % accurate, and roughly calibrated by its temperatures."""
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
    """ECE and NLL of the two folds, computed from their files."""
    confidence, right, losses = [], [], []
    for fold in range(2):
        folder = root / f"results/demo/runs/kfold_3/proposed/seed-1/fold-{fold}"
        temperature = json.loads((folder / "metrics.json").read_text())["calibration"]["temperature"]
        for row in csv.DictReader((folder / "predictions.csv").open()):
            powers = {e: float(row[f"p_{e}"]) ** (1 / temperature if calibrated else 1) for e in RAVDESS}
            whole = sum(powers.values())
            confidence.append(powers[row["predicted"]] / whole)
            right.append(row["predicted"] == row["emotion"])
            losses.append(-math.log(powers[row["emotion"]] / whole))
    return bin_by_bin(np.array(confidence), np.array(right)), sum(losses) / len(losses)


def test_each_fold_uses_its_own_temperature(project: tuple[Params, Path]) -> None:
    params, root = project
    shown = tables.calibration(load.read("demo", params, root))
    first, *others = parse(shown)
    assert (first["variant"], first["status"], first["clips"]) == ("proposed", "incomplete", "128")
    assert (float(first["temperature_low"]), float(first["temperature_high"])) == (1.4, 1.8)
    for suffix, calibrated in (("", False), ("_calibrated", True)):
        error, losses = by_hand(root, calibrated)
        assert float(first[f"ece{suffix}"]) == pytest.approx(error)
        assert float(first[f"nll{suffix}"]) == pytest.approx(losses)
    assert float(first["ece"]) > float(first["ece_calibrated"])
    row = dict(zip(shown.header, shown.rows[0], strict=True))
    assert row["Temperature"] == "1.40 to 1.80"
    assert row["ECE %, uncalibrated"] == f"{100 * float(first['ece']):.1f}"
    assert row["NLL, calibrated"] == f"{float(first['nll_calibrated']):.3f}"
    assert {row["status"] for row in others} == {"not run"}
    assert shown.rows[1][3:] == ["not run"] * 5 + ["–"]
    notes = " ".join(shown.notes)
    for said in ("arXiv 1706.04599", "half of the training actors", "biased upwards", "without fold 2"):
        assert said in notes


def test_single_temperature_is_not_a_range(project: tuple[Params, Path]) -> None:
    params, root = project
    read = load.read("demo", params, root)
    alone = replace(read.planned[0], folds=read.planned[0].folds[:1])
    assert tables.calibration(replace(read, methods=(load.Method((alone,)),))).rows[0][3] == "1.40"


def test_runs_without_a_temperature_are_marked_as_uncalibrated(project: tuple[Params, Path]) -> None:
    params, root = project
    read = load.read("demo", params, root)
    run = read.methods[0].first
    without = replace(run, folds=tuple(replace(fold, temperature=None) for fold in run.folds))
    alone = replace(read, methods=(replace(read.methods[0], runs=(without,)),))
    shown = tables.calibration(alone)
    row = dict(zip(shown.header, shown.rows[0], strict=True))
    both = tables.calibration(read)
    same = dict(zip(both.header, both.rows[0], strict=True))
    assert row["Temperature"] == "uncalibrated"
    for measure in ("ECE %", "NLL"):
        assert row[f"{measure}, uncalibrated"] == same[f"{measure}, uncalibrated"]
        assert row[f"{measure}, calibrated"] == "–"
    drawn = figures.calibration(alone)
    assert [len(axis.lines) for axis in drawn.axes[:1]] == [2]  # the diagonal, and the probabilities as they are
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["uncalibrated", "ideal"]


def test_figure_shows_the_bins_that_have_clips(project: tuple[Params, Path]) -> None:
    params, root = project
    read = load.read("demo", params, root)
    above, below = figures.calibration(read).axes
    diagonal, trained, calibrated = above.lines
    assert np.array_equal(*np.transpose(diagonal.get_xydata()))
    run = read.planned[0]
    for line, steps, at in ((trained, below.patches[0], False), (calibrated, below.patches[1], True)):
        probabilities = run.probabilities(at)
        counts = steps.get_data().values
        assert counts.sum() == len(probabilities) == 128
        assert len(line.get_xdata()) == (counts > 0).sum() < BINS
        # What is drawn, weighted by the clips, is the whole accuracy and the whole confidence.
        weights = counts[counts > 0] / 128
        assert (weights * line.get_ydata()).sum() == pytest.approx(100 * run.correct.mean())
        assert (weights * line.get_xdata()).sum() == pytest.approx(100 * probabilities.max(1).mean())
    assert min(trained.get_xdata()) > 80 > min(calibrated.get_xdata())


def test_table_and_figure_show_the_first_seed(project: tuple[Params, Path]) -> None:
    params, root = project
    read = load.read("demo", params, root)
    runs = tuple(replace(read.planned[0], seed=seed) for seed in (1, 2, 3))
    several = replace(read, methods=(load.Method(runs), read.methods[1]))
    assert [axis.get_title("left") for axis in figures.calibration(several).axes[::2]] == ["proposed, seed 1"]
    assert [row[1:3] for row in tables.calibration(several).rows] == [
        ["1", "proposed\n(incomplete)"],
        ["1", "audio_only"],
    ]


def test_figure_without_runs(tmp_path: Path) -> None:
    read = load.read("demo", make_params(tmp_path), tmp_path)
    assert [text.get_text() for text in figures.calibration(read).texts] == ["not run"]


def test_page_has_table_and_figure_in_one_section(project: tuple[Params, Path]) -> None:
    _, html = quick("demo", *project)
    section = html.split('<section id="calibration">')[1].split("</section>")[0]
    assert 'id="figure-calibration" role="img" aria-label="Reliability diagram' in section
    assert 'id="table-calibration"' in section
    assert 'href="#kfold_3/proposed/seed-1">1.40 to 1.80</a>' in section
    assert '<a href="#calibration">' in html
