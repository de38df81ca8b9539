"""The table of configurations that were evaluated on validation actors."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from emofuse.report.assumptions import written
from emofuse.report.load import CorpusResults
from emofuse.report.table import NOT_RUN, Column, Table, duration, frame
from emofuse.utils.text import percent, ranges

SEARCH_NOTE = (
    "Means over folds, on validation actors only: no test clip influences the choice. Overrides: what a configuration changes"
    " in its base, a variant as it was at that time. The configuration that params.yaml adopts is chosen by a person and need"
    " not be the one with the highest UAR."
)
COLUMNS = [
    Column("Configuration", "config", width=0.14),
    Column("Overrides", "overrides", width=0.3),
    Column("Folds", "folds", width=0.06),
    Column("Epochs", "epochs", numeric=True, width=0.08),
    Column("Validation WAR %", "val_war", percent, numeric=True, width=0.09),
    Column("Validation UAR %", "val_uar", percent, numeric=True, width=0.09),
    Column("Time", "seconds", duration, numeric=True, width=0.09),
    Column("", "best", width=0.07),
]


def search(corpus: CorpusResults) -> Table:
    """The configurations that were evaluated on validation actors, and the best of them; the CSV file has every fold."""
    tried = [_row(rows) for _, rows in corpus.search.groupby(["config", "overrides"], sort=False)]
    absent = {"config": NOT_RUN} | dict.fromkeys(("overrides", "folds", "epochs", "val_war", "val_uar", "seconds"))
    return Table(
        name="search",
        title=f"Configurations evaluated on validation actors, {corpus.title}",
        frame=corpus.search if tried else frame([{"config": NOT_RUN}]),
        columns=COLUMNS,
        notes=[SEARCH_NOTE],
        warning=corpus.warning,
        display=frame(tried or [absent | {"best": ""}]),
    )


def _row(rows: pd.DataFrame) -> dict[str, Any]:
    """A configuration, from its rows of all folds."""
    stopped = rows["finished"] != "true" if "finished" in rows else pd.Series(False, rows.index)
    numbers = rows[["val_war", "val_uar", "seconds"]].astype(float)
    return {
        "config": rows["config"].iat[0],
        "overrides": written(json.loads(str(rows["overrides"].iat[0]))),
        "folds": ranges(map(int, rows["fold"])),
        "epochs": "/".join(dict.fromkeys(rows["epochs"] + stopped.map({True: ", stopped", False: ""}))),
        "val_war": float(numbers["val_war"].mean()),
        "val_uar": float(numbers["val_uar"].mean()),
        "seconds": float(numbers["seconds"].sum()),
        "best": "highest UAR" if (rows["best"] == "true").any() else "",
    }
