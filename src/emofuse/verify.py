"""Whether the tables hold: every cell of a corpus's tables, back to its clips, as far as that can be told here."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import graph, report
from emofuse.provenance import NOT_RUN, STALE, UNCHECKABLE, VERIFIED, Chain, Finding, environment

if TYPE_CHECKING:
    from emofuse.params import Params
    from emofuse.report.table import Table

STATES = (STALE, UNCHECKABLE, VERIFIED)  # the worst first
SHOWN = 3  # reasons of a row


@dataclass(frozen=True)
class Row:
    """The numbers of one row of a table: how many are in each state, and why those are that are not verified."""

    table: str
    name: str
    cells: Mapping[str, int]
    reasons: tuple[str, ...]


def corpus(name: str, params: Params, root: Path) -> list[Row]:
    """Every row of a corpus's tables that has a number of a run.

    A cell is "stale" where something in its chain has changed, or where the table on disk says otherwise than the
    predictions do; "not checkable here" where something of the chain is not here; else "verified". Raises `UserError`
    for a result file that is broken.
    """
    chain = Chain(params, root)
    _, made = report.compute(name, params, root)
    jobs = {
        "/".join(_key(job.arguments)): job for job in chain.jobs if job.stage == "evaluate" and job.arguments[0] == name
    }
    findings = {key: chain.whole(job) for key, job in jobs.items()}
    written = next(job for job in chain.jobs if (job.stage, job.arguments) == ("report", (name,)))
    rows = []
    for table in made.values():
        differing = _differences(table, root / "results" / name / "tables" / f"{table.name}.csv")
        of_table = [Finding(STALE, (difference,)) for difference in differing] or [
            _of_table(chain, written, name, table)
        ]
        for cells, origins in zip(table.rows, table.origins, strict=False):
            states: Counter[str] = Counter()
            reasons: dict[str, None] = {}
            for origin in filter(None, origins):
                behind = [found for key, found in findings.items() if key == origin or key.startswith(f"{origin}/")]
                each = [found for found in (*behind, *of_table) if found.state != NOT_RUN]
                state = next(state for state in STATES if any(found.state == state for found in each))
                states[state] += 1
                if state != VERIFIED:
                    reasons |= dict.fromkeys(
                        reason for found in each if found.state == state for reason in found.reasons
                    )
            if states:
                rows.append(Row(table.name, _name(table, cells), states, tuple(reasons)))
    chain.hashes.save()
    return rows


def environments(name: str, params: Params, root: Path) -> list[str]:
    """Which of a corpus's jobs ran in another environment than this one: a warning, since bits may differ then."""
    chain = Chain(params, root)
    here = environment(root)
    others: Counter[str] = Counter()
    for job in graph.of_corpus(params, name):
        recorded = chain.fingerprint(job)
        ran_on = recorded["environment"] if recorded else {}
        differing = [key for key in ("lock", "python", "torch") if key in ran_on and ran_on[key] != here.get(key)]
        if differing:
            others[", ".join(f"{key} {str(ran_on[key])[:16]}" for key in differing)] += 1
    return [f"{name}: {count} jobs ran in another environment than this: {what}" for what, count in others.items()]


def text(name: str, rows: Sequence[Row]) -> Iterator[str]:
    """What a person reads of a corpus, line by line."""
    table = ""
    said: set[str] = set()
    for row in rows:
        if row.table != table:
            table = row.table
            yield f"results/{name}/tables/{table}"
        counts = ", ".join(f"{row.cells[state]} {state}" for state in STATES if row.cells.get(state))
        yield f"  {row.name}: {counts}"
        new = [reason for reason in row.reasons if reason not in said]
        said |= set(new)
        yield from (f"    {reason}" for reason in new[:SHOWN])
        if len(new) > SHOWN:
            yield f"    and {len(new) - SHOWN} more"
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row.cells)
    counts = ", ".join(f"{total[state]} {state}" for state in STATES if total[state]) or NOT_RUN
    yield f"{name}: of {sum(total.values())} numbers {counts}" if rows else f"{name}: {NOT_RUN}"


def _key(arguments: tuple[str | int, ...]) -> tuple[str, ...]:
    _, protocol, variant, seed, fold = map(str, arguments)
    return protocol, variant, f"seed-{seed}", f"fold-{fold}"


def _name(table: Table, cells: Sequence[str]) -> str:
    """What tells a row from the others: its words, and the seed and the fold."""
    shown = [
        " ".join(cell.split())
        for head, numeric, cell in zip(table.header, table.numeric, cells, strict=True)
        if (not numeric and head != "Verdict") or head in ("Seed", "Fold")
    ]
    return ", ".join(shown[:4])


def _of_table(chain: Chain, job: object, name: str, table: Table) -> Finding:
    """Whether the table's files are those that the report wrote."""
    recorded = chain.fingerprint(job)  # type: ignore[arg-type]
    paths = [f"results/{name}/tables/{table.name}.{suffix}" for suffix in ("md", "csv", "tex")]
    changed = [
        path for path in paths if recorded and chain.hashes.of(path) not in (None, recorded["outputs"].get(path))
    ]
    if changed:
        return Finding(STALE, tuple(f"{path} is not what `emofuse report {name}` wrote" for path in changed))
    return Finding(VERIFIED)


def _differences(table: Table, path: Path) -> list[str]:
    """Where the table on disk says otherwise than the results do; what cannot be computed here is no difference."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        said = list(csv.DictReader(stream))
    made = list(csv.DictReader(table.csv().splitlines(keepends=True)))
    again = "the table is not what the results give: run `emofuse report` again"
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
