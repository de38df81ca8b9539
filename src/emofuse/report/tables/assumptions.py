"""The assumptions ledger as a table."""

from __future__ import annotations

from emofuse.report import assumptions as ledger
from emofuse.report.load import CorpusResults
from emofuse.report.table import Column, Row, Table
from emofuse.utils.text import NONE

NOTES = (
    "Parameters are given by their path in params.yaml. If this corpus overrides the general value, the CSV file gives the"
    " source and reason of the general value.",
    "Sources: " + "; ".join(f"{label}: {meaning}" for label, meaning in ledger.SOURCES.items()) + ".",
)


def _source(row: Row) -> str:
    return "ours" if row["value"] != row["general_value"] else row["source"] or NONE


def _reason(row: Row) -> str:
    reason = row["reason"] or NONE
    if row["value"] == row["general_value"]:
        return reason
    return f"Set for this corpus. In general {row['general_value']} ({row['source'] or NONE}): {reason}"


def assumptions(corpus: CorpusResults) -> Table:
    """Each parameter of the leading variant, whose choice it is, and why."""
    return Table(
        name="assumptions",
        title=f"Assumptions, {corpus.title}",
        frame=corpus.assumptions,
        columns=[
            Column("Parameter", "parameter", width=0.29),
            Column(f"Value for {corpus.leading[0].variant}", "value", width=0.15),
            Column("Source", _source, width=0.1),
            Column("Reason", _reason, width=0.3),
        ],
        notes=NOTES,
        warning=corpus.warning,
    )
