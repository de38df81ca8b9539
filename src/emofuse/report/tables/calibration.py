"""The calibration table: calibration error and likelihood without and with temperature scaling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from emofuse.evaluation import calibration as measures
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Column, Row, Table, count, frame
from emofuse.report.tables import scores
from emofuse.utils.text import NONE, percent

MEASURES_NOTE = (
    "With the first seed, over all test clips of all folds, pooled. Confidence is the probability of the predicted emotion. ECE, the expected"
    f" calibration error: clips are grouped by confidence into {measures.BINS} bins of equal width; ECE is the absolute"
    " difference between accuracy and mean confidence in each bin, averaged over clips. It is 0 if, for example, 70 % of the"
    " clips predicted with 70 % confidence are correct. NLL: negative log-likelihood of the true emotion, in nats, averaged"
    " over clips."
)
TEMPERATURE_NOTE = (
    "Calibrated by temperature scaling (Guo et al., ICML 2017, arXiv 1706.04599): the logits of a fold are divided by the"
    " temperature that minimises an NLL in which its test actors have no part. With training.selection: last, this is the NLL"
    " of its training clips, each predicted by a network that was trained in the same way on the half of the training actors"
    " without its own; with nested, that of its validation clips. Predictions do not change. A temperature above 1 means that"
    " the network was overconfident. For several folds, the range is given. Uncalibrated: a run without a temperature"
    " (corpora.<name>.calibrated says which have one)."
)
BIAS_NOTE = (
    "With few clips, ECE is biased upwards: the accuracy of a small bin differs from its confidence by chance, even if the"
    " network is calibrated."
)


def _temperature(row: Row) -> str:
    if pd.isna(row["temperature_low"]):
        return NOT_RUN if row["status"] == NOT_RUN else "uncalibrated"
    return " to ".join(dict.fromkeys(f"{row[f'temperature_{end}']:.2f}" for end in ("low", "high")))


def _calibrated(name: str, write: Callable[[float], str]) -> Callable[[Row], str]:
    """The text of a cell with a measure of the calibrated probabilities, which not every run has."""

    def text(row: Row) -> str:
        if row["status"] == NOT_RUN:
            return NOT_RUN
        return NONE if pd.isna(row[name]) else write(row[name])

    return text


COLUMNS = [
    scores.PROTOCOL,
    scores.SEED,
    scores.VARIANT,
    Column("Temperature", _temperature, numeric=True, runs="runs"),
    Column("ECE %, uncalibrated", "ece", percent, NOT_RUN, numeric=True, runs="runs"),
    Column("ECE %, calibrated", _calibrated("ece_calibrated", percent), numeric=True, runs="runs"),
    Column("NLL, uncalibrated", "nll", "{:.3f}".format, NOT_RUN, numeric=True, runs="runs"),
    Column("NLL, calibrated", _calibrated("nll_calibrated", "{:.3f}".format), numeric=True, runs="runs"),
    Column("Clips", "clips", count, numeric=True, runs="runs"),
]
MEASURED = ("temperature_low", "temperature_high", "ece", "nll", "ece_calibrated", "nll_calibrated", "clips")


def calibration(corpus: CorpusResults) -> Table:
    """The temperature of each variant, and its calibration error and likelihood without and with that temperature."""
    return Table(
        name="calibration",
        title=f"Calibration, {corpus.title}",
        frame=frame(_record(method) for method in corpus.methods),
        columns=COLUMNS,
        notes=[MEASURES_NOTE, TEMPERATURE_NOTE, BIAS_NOTE, *scores.incomplete_note(corpus.methods)],
        warning=corpus.warning,
    )


def _record(method: Method) -> dict[str, Any]:
    run = method.first
    row: dict[str, Any] = {"protocol": run.protocol, "seed": run.seed, "variant": run.variant, "status": run.status}
    if not run.folds:
        return row | dict.fromkeys((*MEASURED, "runs"))
    row |= dict.fromkeys(MEASURED)
    temperatures = [fold.temperature for fold in run.folds if fold.temperature is not None]
    if run.is_calibrated:
        row |= {"temperature_low": min(temperatures), "temperature_high": max(temperatures)}
    for suffix, calibrated in (("", False), ("_calibrated", True))[: 1 + run.is_calibrated]:
        probabilities = run.probabilities(calibrated)
        row[f"ece{suffix}"] = measures.expected_calibration_error(probabilities.max(1), run.correct)
        row[f"nll{suffix}"] = measures.negative_log_likelihood(probabilities, run.labels)
    return row | {"clips": run.clips, "runs": run.key()}
