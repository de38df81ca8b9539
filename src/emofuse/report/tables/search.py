"""The table of configurations that were tried on validation actors."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np

from emofuse.report.assumptions import written
from emofuse.report.load import CorpusResults
from emofuse.report.table import NONE, NOT_RUN, Table, duration, percent
from emofuse.utils.text import ranges

SEARCH_NOTE = (
    "Means over the folds tried, on validation actors only: no test clip was looked at to choose. Base: the variant whose"
    " values of that time the overrides change. Which of them params.yaml follows is a person's choice, and need not be the"
    " one with the highest UAR."
)


def search(corpus: CorpusResults) -> Table:
    """The configurations that were tried on validation actors, and which did best; raw rows in the CSV."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in corpus.search:
        groups[row["config"], row["overrides"]].append(row)
    rows = [
        [
            config,
            written(json.loads(overrides)),
            ranges(int(row["fold"]) for row in tried),
            "/".join(dict.fromkeys(row["epochs"] + _stopped(row) for row in tried)),
            percent(float(np.mean([float(row["val_war"]) for row in tried]))),
            percent(float(np.mean([float(row["val_uar"]) for row in tried]))),
            duration(sum(float(row["seconds"]) for row in tried)),
            "highest UAR" if any(row["best"] == "true" for row in tried) else "",
        ]
        for (config, overrides), tried in groups.items()
    ]
    return Table(
        name="search",
        title=f"Configurations tried on validation actors, {corpus.title}",
        header=["Configuration", "Overrides", "Folds", "Epochs", "Validation WAR %", "Validation UAR %", "Time", ""],
        numeric=[False, False, False, True, True, True, True, False],
        rows=rows or [[NOT_RUN, *([NONE] * 6), ""]],
        records=[dict(row) for row in corpus.search] or [{"config": NOT_RUN}],
        notes=[SEARCH_NOTE],
        warning=corpus.warning,
        widths=(0.14, 0.3, 0.06, 0.08, 0.09, 0.09, 0.09, 0.07) if rows else (),
    )


def _stopped(row: dict[str, str]) -> str:
    return "" if row.get("finished", "true") == "true" else ", stopped"
