"""The ledger of what was assumed."""

from __future__ import annotations

from emofuse.report import assumptions as ledger
from emofuse.report.load import CorpusResults
from emofuse.report.table import NONE, Table


def assumptions(corpus: CorpusResults) -> Table:
    """The ledger: each parameter of the leading variant, whose choice it is, and why."""
    rows = []
    for row in corpus.assumptions:
        source, reason = row.source or NONE, row.reason or NONE
        if row.general:
            source, reason = "ours", f"Set for this corpus; in general {row.general} ({source}): {reason}"
        rows.append([row.parameter, row.value, source, reason])
    variant = corpus.leading[0].variant
    return Table(
        name="assumptions",
        title=f"What was assumed, {corpus.title}",
        header=["Parameter", f"Value for {variant}", "Source", "Reason"],
        numeric=[False] * 4,
        rows=rows,
        records=[
            {
                "parameter": row.parameter, "value": row.value, "general_value": row.general or row.value,
                "source": row.source, "reason": row.reason,
            }
            for row in corpus.assumptions
        ],
        notes=[
            "Parameters by their path in params.yaml. Where this corpus has its own value, the CSV file gives the source and"
            " reason of the general one.",
            "Sources: " + "; ".join(f"{label}: {meaning}" for label, meaning in ledger.SOURCES.items()) + ".",
        ],
        warning=corpus.warning,
        widths=(0.29, 0.15, 0.1, 0.3),
    )  # fmt: skip
