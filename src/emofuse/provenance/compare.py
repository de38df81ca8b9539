"""`emofuse compare`: the differences between local and published tables, cell by cell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import paths
from emofuse.config import Params
from emofuse.paths import PUBLISHED
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv

if TYPE_CHECKING:
    import pandas as pd

# Columns that identify a row, in every table that has them.
KEYS = (
    "trained_on", "protocol", "split", "method", "authors", "modality", "variant", "seed", "fold", "emotion", "config", "parameter",
)  # fmt: skip
LISTED = 3  # rows or cells named in one line


def compare(corpus: str, params: Params, root: Path) -> tuple[list[str], bool]:
    """`emofuse compare`: the differences between local and published tables, line by line, and whether all are equal.

    Numbers are compared by value, exactly. Raises `UserError` if either side has no tables.
    """
    params.corpus(corpus)
    folder = f"results/{corpus}/tables"
    local = {path.stem: path for path in (root / folder).glob("[!.]*.csv")}
    published = {path.stem: path for path in (root / PUBLISHED / corpus / folder).glob("[!.]*.csv")}
    if not local:
        raise UserError(f"{folder}: there are no local results; run `snakemake {corpus} --cores 8`")
    if not published:
        raise UserError(
            f"{PUBLISHED}/{corpus}: nothing is published; `emofuse publish {corpus} --why TEXT` publishes the local results"
        )
    lines, all_equal = [], True
    for name in dict.fromkeys((*paths.TABLES, *sorted(local), *sorted(published))):
        if name in local and name in published:
            differences, equal = _compare_tables(_table(local[name]), _table(published[name]))
            lines += [f"{name}: {line}" for line in differences]
            all_equal &= equal
        elif name in local or name in published:
            lines.append(f"{name}: only {'local' if name in local else 'published'}")
            all_equal = False
    return lines, all_equal


def _table(path: Path) -> pd.DataFrame:
    """A table of the report as text, indexed by unique row names, without rows of runs that are missing."""
    from emofuse.report.table import NOT_RUN

    table = read_csv(path)
    table = table[~(table == NOT_RUN).any(axis=1)]
    seen: Counter[str] = Counter()
    names = []
    for row in table.to_dict("records"):
        parts = [f"{key} {row[key]}" if key in ("seed", "fold") else str(row[key]) for key in KEYS if row.get(key)]
        name = ", ".join(parts) or "row"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return table.set_axis(names, axis=0)


def _compare_tables(local: pd.DataFrame, published: pd.DataFrame) -> tuple[list[str], bool]:
    """The differences between two tables, one line per kind of difference, and whether they are equal.

    Rows for which one side has no embeddings, because these are not published, are not compared.
    """
    import pandas as pd

    from emofuse.report.tables.compactness import NO_EMBEDDINGS

    lacking = {row for table in (local, published) for row in table.index[(table == NO_EMBEDDINGS).any(axis=1)]}
    local, published = (table[~table.index.isin(lacking)] for table in (local, published))
    lines = [f"{len(lacking)} rows not compared, because one side has no embeddings"] if lacking else []
    tables = {"local": local, "published": published}
    older = [side for side, table in tables.items() if "seed" in table]
    if len(older) == 1:
        return [f"not compared: the {older[0]} table is from older code, with a row for each seed"], False
    rows = local.index[local.index.isin(published.index)]
    columns = list(dict.fromkeys((*local, *published)))
    cells = pd.DataFrame({s: t.reindex(index=rows, columns=columns, fill_value="").stack() for s, t in tables.items()})
    cells = cells[(cells != "").any(axis=1)]
    cells.index = pd.Index([f"{row}: {column}" for row, column in cells.index], dtype=object)
    numbers = cells.map(_number)
    equal = (cells["local"] == cells["published"]) | (numbers["local"] == numbers["published"])
    if equal.all() and set(local.index) == set(published.index):
        return [*lines, *([f"identical, {len(cells)} cells"] if len(cells) or not lacking else [])], True
    different = cells[~equal]
    distances = (numbers["local"] - numbers["published"])[~equal].abs().dropna()
    texts = different[(different != "").all(axis=1)].drop(distances.index)
    if len(distances):
        example = _both(different.loc[[distances.idxmax()]])
        lines.append(f"{len(distances)} of {len(cells)} cells differ, by up to {distances.max():.6g} ({example})")
    if len(texts):
        lines.append(f"{len(texts)} of {len(cells)} cells differ in text ({_both(texts)})")
    for side, other in (("local", "published"), ("published", "local")):
        if only := sorted(set(tables[side].index) - set(tables[other].index)):
            lines.append(f"{len(only)} rows only {side}: {_listed(only)}")
        if only := list(different.index[different[other] == ""]):
            lines.append(f"{len(only)} cells only {side}: {_listed(only)}")
    return lines or ["both are empty"], False


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _both(cells: pd.DataFrame) -> str:
    """The first of some cells: its place and both values."""
    place, local, published = next(cells[["local", "published"]].itertuples(name=None))
    return f"{place}: {local} local, {published} published"


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names[:LISTED]) + ("; …" if len(names) > LISTED else "")
