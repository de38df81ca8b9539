"""Whether the tables hold: every cell of a corpus's tables, back to its clips, as far as that can be told here."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import graph, report
from emofuse.errors import UserError
from emofuse.files import read_table
from emofuse.provenance import NOT_RUN, STALE, STATES, UNCHECKABLE, VERIFIED, Chain, Finding, environment, worst
from emofuse.report.table import ranges

if TYPE_CHECKING:
    from emofuse.graph import Job
    from emofuse.report.table import Table


@dataclass(frozen=True)
class Row:
    """The numbers of one row of a table: how many are in each state, and why those are that are not verified."""

    table: str
    name: str
    cells: Mapping[str, int]
    reasons: tuple[str, ...]


def corpus(name: str, chain: Chain) -> list[Row]:
    """Every row of a corpus's tables that has a number of a run.

    A cell is "stale" where something in its chain has changed, or where the table on disk says otherwise than the
    predictions do; "not checkable here" where something of the chain is not here; else "verified". Raises `UserError`
    for a result file that is broken.
    """
    _, made = report.compute(name, chain.params, chain.root)
    rows = []
    for table in made.values():
        written = on_disk(table, name, chain)
        for number, origins in enumerate(table.origins):
            states: Counter[str] = Counter()
            reasons: dict[str, None] = {}
            for origin in filter(None, origins):
                behind = [chain.whole(job) for job in folds_behind(origin, name, chain)]
                cell = worst([found for found in (*behind, written) if found.state != NOT_RUN])
                states[cell.state] += 1
                reasons |= dict.fromkeys(cell.reasons)
            if states:
                rows.append(Row(table.name, table.row_name(number), states, tuple(reasons)))
    chain.hashes.save()
    return rows


def environments(name: str, chain: Chain) -> list[str]:
    """Which of a corpus's jobs ran in another environment than this one: a warning, since bits may differ then."""
    here = environment(chain.root)
    others: Counter[str] = Counter()
    for job in graph.of_corpus(chain.params, name):
        recorded = chain.fingerprint(job)
        ran_on = recorded["environment"] if recorded else {}
        differing = [
            key for key in ("lock", "python", "torch") if key in ran_on and key in here and ran_on[key] != here[key]
        ]
        if differing:
            others[", ".join(f"{key} {str(ran_on[key])[:16]}" for key in differing)] += 1
    return [f"{name}: {count} jobs ran in another environment than this: {what}" for what, count in others.items()]


def paper(chain: Chain) -> Finding:
    """Whether the paper's tables are what was made of what is here now; the numbers in them are their corpora's."""
    job = next(job for job in chain.jobs if job.stage == "paper")
    found = Finding(NOT_RUN) if len(chain.missing(job)) == len(job.outputs) else chain.own(job)
    chain.hashes.save()
    return found


def text(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """What a person reads of a corpus, line by line: the rows of tables in which all is well are left out."""
    said: set[str] = set()
    for table, of_table in groupby(rows, key=lambda row: row.table):
        group = list(of_table)
        yield f"results/{name}/tables/{table}: {_counts(group)}"
        if all(set(row.cells) == {VERIFIED} for row in group):
            continue
        for row in group:
            yield f"  {row.name}: {_counts([row])}"
            yield from (f"    {line}" for line in grouped(reason for reason in row.reasons if reason not in said))
            said |= set(row.reasons)
    total = sum(sum(row.cells.values()) for row in rows)
    yield f"{name}: {f'of {total} numbers {_counts(rows)}' if rows else NOT_RUN}"


def grouped(reasons: Iterable[str]) -> list[str]:
    """Lines that differ in one number alone, as one: fold-0–4."""
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for reason in reasons:
        parts = re.split(r"(\d+)", reason)
        alike.setdefault(tuple(parts[::2]), []).append(parts[1::2])
    lines = []
    for words, found in alike.items():
        columns = list(zip(*found, strict=True))
        varying = {column for column in columns if len(set(column)) > 1}
        if len(varying) == 1:
            together = ranges(map(int, varying.pop()))
            found = [[together if len(set(column)) > 1 else column[0] for column in columns]]
        lines += ["".join(map(str.__add__, words, (*numbers, ""))) for numbers in found]
    return lines


def folds_behind(origin: str, name: str, chain: Chain) -> list[Job]:
    """The evaluations of the folds that count in a number of that origin in a table of a corpus."""
    runs = tuple(f"{name}/{one}/" for one in origin.split())
    return [
        job
        for job in chain.jobs
        if job.stage == "evaluate" and f"{graph.fold_key(*job.arguments)}/".startswith(runs)  # type: ignore[arg-type]
    ]


def on_disk(table: Table, name: str, chain: Chain) -> Finding:
    """Whether a table's files say what the results give, and are those that the report wrote."""
    paths = [f"results/{name}/tables/{table.name}.{suffix}" for suffix in ("csv", "md", "tex")]
    here = {path: digest for path in paths if (digest := chain.hashes.of(path))}
    recorded = chain.fingerprint(chain.makers[paths[0]])
    reasons = _differences(table, paths[0], chain.root)
    if recorded and not reasons:
        wrote = recorded["outputs"]
        reasons = [
            f"{path} is not what `emofuse report {name}` wrote" for path in here if here[path] != wrote.get(path)
        ]
    if reasons:
        return Finding(STALE, tuple(reasons))
    if here and not recorded:
        return Finding(UNCHECKABLE, tuple(f"no fingerprint says what {path} was made from" for path in here))
    return Finding(VERIFIED)


def _counts(rows: Iterable[Row]) -> str:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.cells)
    return ", ".join(f"{total[state]} {state}" for state in STATES if total[state])


def _differences(table: Table, path: str, root: Path) -> list[str]:
    """Where the table on disk says otherwise than the results do; what cannot be computed here is no difference."""
    if not (root / path).is_file():
        return []
    again = "run `emofuse report` again"
    try:
        said = read_table(root / path)
    except UserError as error:
        return [str(error).replace(f"{root / path}", path)]
    made = list(csv.DictReader(table.csv().splitlines(keepends=True)))
    if len(said) != len(made):
        return [f"{path}: {len(said)} lines, where the results give {len(made)}; {again}"]
    return [
        f"{path}, line {number}: {key} {theirs[key]}, where the results give {ours[key]}; {again}"
        for number, (ours, theirs) in enumerate(zip(made, said, strict=True), 2)
        for key in ours
        if not ours.get("status", "").endswith("not here")
        if ours[key] and key in theirs and not _same(ours[key], theirs[key])
    ]


def _same(one: str, other: str) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-9, abs_tol=1e-12)
    except ValueError:
        return one == other
