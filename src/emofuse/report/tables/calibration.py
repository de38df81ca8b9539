"""The calibration table: calibration error and likelihood before and after temperature scaling."""

from __future__ import annotations

from typing import Any

import pandas as pd

from emofuse.evaluation import calibration as measures
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Column, Row, Table, count, frame
from emofuse.report.tables import scores
from emofuse.utils.text import percent

MEASURES_NOTE = (
    "With the first seed, over all test clips of all folds, pooled. Confidence is the probability of the predicted emotion. ECE, the expected"
    f" calibration error: clips are grouped by confidence into {measures.BINS} bins of equal width; ECE is the absolute"
    " difference between accuracy and mean confidence in each bin, averaged over clips. It is 0 if, for example, 70 % of the"
    " clips predicted with 70 % confidence are correct. NLL: negative log-likelihood of the true emotion, in nats, averaged"
    " over clips."
)
TEMPERATURE_NOTE = (
    "Calibrated by temperature scaling (Guo et al., ICML 2017, arXiv 1706.04599): the logits of a fold are divided by the"
    " temperature that minimises the NLL of its validation clips, which include none of its test actors. Predictions do not"
    " change. A temperature above 1 means that the network was overconfident. For several folds, the range is given."
)
BIAS_NOTE = (
    "With few clips, ECE is biased upwards: the accuracy of a small bin differs from its confidence by chance, even if the"
    " network is calibrated."
)


def _temperature(row: Row) -> str:
    if pd.isna(row["temperature_low"]):
        return NOT_RUN
    return " to ".join(dict.fromkeys(f"{row[f'temperature_{end}']:.2f}" for end in ("low", "high")))


COLUMNS = [
    scores.PROTOCOL,
    scores.SEED,
    scores.VARIANT,
    Column("Temperature", _temperature, numeric=True, runs="runs"),
    Column("ECE %, uncalibrated", "ece", percent, NOT_RUN, numeric=True, runs="runs"),
    Column("ECE %, calibrated", "ece_calibrated", percent, NOT_RUN, numeric=True, runs="runs"),
    Column("NLL, uncalibrated", "nll", "{:.3f}".format, NOT_RUN, numeric=True, runs="runs"),
    Column("NLL, calibrated", "nll_calibrated", "{:.3f}".format, NOT_RUN, numeric=True, runs="runs"),
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
    temperatures = [fold.temperature for fold in run.folds]
    row |= {"temperature_low": min(temperatures), "temperature_high": max(temperatures)}
    for suffix, calibrated in (("", False), ("_calibrated", True)):
        probabilities = run.probabilities(calibrated)
        row[f"ece{suffix}"] = measures.expected_calibration_error(probabilities.max(1), run.correct)
        row[f"nll{suffix}"] = measures.negative_log_likelihood(probabilities, run.labels)
    return row | {"clips": run.clips, "runs": run.key()}
