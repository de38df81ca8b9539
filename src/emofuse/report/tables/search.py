"""The table of configurations that were compared on a development corpus."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from emofuse.report.assumptions import written
from emofuse.report.load import CorpusResults
from emofuse.report.table import NOT_RUN, Column, Table, duration, frame
from emofuse.utils.text import percent, ranges

SEARCH_NOTE = (
    "Means over folds, each trained to the last epoch and then scored on its test actors. This is a development corpus: recipes"
    " are selected by these scores, so they are optimistic, and actors of a corpus whose results are reported are never used"
    " like this. Overrides: what a configuration changes in its base, a variant as it was at that time. The recipe that"
    " params.yaml adopts is chosen by a person and need not be the one with the highest UAR; compare only configurations with"
    " the same folds and seed."
)
COLUMNS = [
    Column("Configuration", "config", width=0.14),
    Column("Overrides", "overrides", width=0.3),
    Column("Protocol", "protocol", width=0.1),
    Column("Seed", "seed", numeric=True, width=0.06),
    Column("Folds", "folds", width=0.06),
    Column("Epochs", "epochs", numeric=True, width=0.08),
    Column("WAR %", "war", percent, numeric=True, width=0.08),
    Column("UAR %", "uar", percent, numeric=True, width=0.08),
    Column("Time", "seconds", duration, numeric=True, width=0.09),
]


def search(corpus: CorpusResults) -> Table:
    """The configurations that were compared on a development corpus; the CSV file has every fold."""
    tried = [_row(rows) for _, rows in corpus.search.groupby(["config", "overrides", "protocol", "seed"], sort=False)]
    absent = dict.fromkeys(("overrides", "protocol", "seed", "folds", "epochs", "war", "uar", "seconds"))
    return Table(
        name="search",
        title=f"Configurations compared on a development corpus, {corpus.title}",
        frame=corpus.search if tried else frame([{"config": NOT_RUN}]),
        columns=COLUMNS,
        notes=[SEARCH_NOTE],
        warning=corpus.warning,
        display=frame(tried or [{"config": NOT_RUN} | absent]),
    )


def _row(rows: pd.DataFrame) -> dict[str, Any]:
    """A configuration, from its rows of all folds."""
    numbers = rows[["war", "uar", "seconds"]].astype(float)
    return {
        "config": rows["config"].iat[0],
        "overrides": written(json.loads(str(rows["overrides"].iat[0]))),
        "protocol": rows["protocol"].iat[0],
        "seed": rows["seed"].iat[0],
        "folds": ranges(map(int, rows["fold"])),
        "epochs": "/".join(dict.fromkeys(rows["epochs"])),
        "war": float(numbers["war"].mean()),
        "uar": float(numbers["uar"].mean()),
        "seconds": float(numbers["seconds"].sum()),
    }
