"""The table of calibration: whether the network is as often right as it is sure, before and after temperature scaling."""

from __future__ import annotations

from typing import Any

from emofuse.evaluation import calibration as measures
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NONE, NOT_RUN, Table, percent
from emofuse.report.tables import scores

HEADER = [
    "Protocol", "Seed", "Variant", "Temperature", "ECE %, as trained", "ECE %, calibrated", "NLL, as trained",
    "NLL, calibrated", "Clips",
]  # fmt: skip
NUMERIC = [False, True, False, *([True] * 6)]
MEASURES_NOTE = (
    "Of all tested clips of all folds, pooled. Confidence is the probability of the emotion that is predicted. ECE, the"
    f" expected calibration error: clips are put into {measures.BINS} bins of equal width by their confidence; of each"
    " bin, how far its accuracy is from its mean confidence; of that, the mean over clips. 0 where, of the clips told with"
    " 70 % confidence, 70 % are right. NLL: the negative log likelihood of the true emotion, in nats, mean over clips."
)
TEMPERATURE_NOTE = (
    "Calibrated by temperature scaling (Guo et al., ICML 2017, arXiv 1706.04599): what the softmax of a fold is taken of"
    " is divided by the temperature at which the NLL of the fold's validation clips is least; none of its test actors are"
    " among those. No prediction changes. Over 1, the network was surer than it was right; of several folds, the lowest and"
    " the highest."
)
BIAS_NOTE = (
    "The ECE of few clips is biased upwards: by chance, the accuracy of a small bin differs from its confidence even where"
    " the network is calibrated."
)


def calibration(corpus: CorpusResults) -> Table:
    """The temperature of each run, and its calibration error and likelihood as trained and at that temperature."""
    rows, records = [], []
    for run in corpus.runs:
        found = _measured(run) if run.folds else {}
        rows.append([run.protocol, str(run.seed), run.variant, *(_cells(found) if found else [*[NOT_RUN] * 5, NONE])])
        status = NOT_RUN if not found else "incomplete" if run.missing else "run"
        records.append({"protocol": run.protocol, "seed": run.seed, "variant": run.variant, "status": status} | found)
    return Table(
        name="calibration",
        title=f"Calibration, {corpus.title}",
        header=HEADER,
        numeric=NUMERIC,
        rows=rows,
        records=records,
        notes=[MEASURES_NOTE, TEMPERATURE_NOTE, BIAS_NOTE, *scores.incomplete_note(corpus.runs)],
        warning=corpus.warning,
        origins=[scores.origins(run, HEADER, NUMERIC, row) for run, row in zip(corpus.runs, rows, strict=True)],
    )


def _measured(run: Run) -> dict[str, Any]:
    temperatures = [fold.temperature for fold in run.folds]
    found: dict[str, Any] = {"temperature_low": min(temperatures), "temperature_high": max(temperatures)}
    for suffix, calibrated in (("", False), ("_calibrated", True)):
        chances = run.probabilities(calibrated)
        found[f"ece{suffix}"] = measures.expected_calibration_error(chances.max(1), run.right)
        found[f"nll{suffix}"] = measures.negative_log_likelihood(chances, run.labels)
    return found | {"clips": run.clips}


def _cells(found: dict[str, Any]) -> list[str]:
    temperatures = dict.fromkeys(f"{found[f'temperature_{end}']:.2f}" for end in ("low", "high"))
    return [
        " to ".join(temperatures), percent(found["ece"]), percent(found["ece_calibrated"]), f"{found['nll']:.3f}",
        f"{found['nll_calibrated']:.3f}", f"{found['clips']:,}",
    ]  # fmt: skip
