"""What a number or a file was made from: the chain of jobs behind it, back to the clips."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import report
from emofuse.errors import UserError
from emofuse.provenance import VERIFIED, Chain
from emofuse.report.table import ranges

if TYPE_CHECKING:
    from emofuse.graph import Job
    from emofuse.params import Params
    from emofuse.report.table import Table

SHOWN = 3  # files of a stage that are listed


def trace(what: str, params: Params, root: Path) -> Iterator[str]:
    """The chain behind a file, or behind a cell of a table, line by line.

    A cell is <file>:<row>:<column>: the file of a table; the number of the row, from 1, or words of it; words of the
    column's heading. Raises `UserError` where there is no such thing, or several.
    """
    path, _, place = what.partition(":")
    path = _from_root(path, root)
    chain = Chain(params, root)
    if path not in chain.makers:
        raise UserError(
            f"{path}: no job makes that; name a file under data, models or results that params.yaml asks for"
        )
    last = chain.makers[path]
    if place:
        heads, said = _cell(path, place, last, params, root, chain)
        yield said
    yield from _jobs(heads if place else [last], chain)
    chain.hashes.save()


def _from_root(path: str, root: Path) -> str:
    try:
        return Path(path).resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise UserError(f"{path}: not a file of this repository") from None


def _cell(path: str, place: str, job: Job, params: Params, root: Path, chain: Chain) -> tuple[list[Job], str]:
    """The jobs behind a cell, and what it says."""
    stem = Path(path).stem
    if job.stage != "report" or stem not in report.TABLES:
        raise UserError(f"{path}: only tables have cells: results/<corpus>/tables/<table>.md:<row>:<column>")
    table = report.compute(str(job.arguments[0]), params, root)[1][stem]
    wanted_row, _, wanted_column = place.partition(":")
    rows = [number for number, cells in enumerate(table.rows) if _is_row(wanted_row, number, cells)]
    row = _only(rows, f"{path}: row {wanted_row!r}", [_words(cells[:4]) for cells in table.rows])
    columns = [number for number, head in enumerate(table.header) if _has(head, wanted_column)]
    exact = [number for number in columns if table.header[number].removesuffix(" %").lower() == wanted_column.lower()]
    column = _only(exact or columns, f"{path}: column {wanted_column!r}", list(table.header))
    origin = table.origins[row][column] if table.origins else ""
    if not origin:
        raise UserError(f"{path}: {_words(table.rows[row][:4])}, {table.header[column]}: not a number of a run")
    behind = [each for each in chain.jobs if each.stage == "evaluate" and _is_behind(each, origin, job)]
    return [each for each in behind if chain.fingerprint(each)] or behind, _said(table, row, column)


def _is_behind(job: Job, origin: str, report_job: Job) -> bool:
    corpus, protocol, variant, seed, fold = map(str, job.arguments)
    key = f"{protocol}/{variant}/seed-{seed}/fold-{fold}"
    return corpus == report_job.arguments[0] and (key == origin or key.startswith(f"{origin}/"))


def _is_row(wanted: str, number: int, cells: Sequence[str]) -> bool:
    return wanted == str(number + 1) or wanted in cells or (not wanted.isdigit() and _has(_words(cells), wanted))


def _only(found: Sequence[int], what: str, there: Sequence[str]) -> int:
    if len(found) != 1:
        many = [there[number] for number in found] if found else there
        shown = "; ".join(many[:6]) + ("; …" if len(many) > 6 else "")
        raise UserError(f"{what}: {'several fit' if found else 'none fits'}: {shown}")
    return found[0]


def _has(text: str, words: str) -> bool:
    return bool(words) and words.lower() in text.lower()


def _words(cells: Sequence[str]) -> str:
    return ", ".join(" ".join(cell.split()) for cell in cells)


def _said(table: Table, row: int, column: int) -> str:
    return f"{table.title}: {_words(table.rows[row][:4])}: {table.header[column]} {' '.join(table.rows[row][column].split())}"


def _jobs(heads: Sequence[Job], chain: Chain) -> Iterator[str]:
    """The jobs behind some, from them to the clips, stage by stage."""
    needed = set(heads)
    for job in reversed(chain.jobs):
        if job in needed:
            needed |= {chain.makers[path] for path in job.inputs if path in chain.makers}
    stages: dict[str, list[Job]] = {}
    for job in reversed(chain.jobs):
        if job in needed:
            stages.setdefault(job.stage, []).insert(0, job)
    for stage, jobs in stages.items():
        yield f"{stage}: {_commands(jobs)}"
        for state in dict.fromkeys(chain.own(job).state for job in jobs):
            found = [chain.own(job) for job in jobs if chain.own(job).state == state]
            reasons = list(dict.fromkeys(reason for each in found for reason in each.reasons))
            yield f"  {state}{f' ({len(found)} of {len(jobs)})' if len(found) < len(jobs) else ''}"
            if state != VERIFIED:
                yield from (f"    {reason}" for reason in reasons[:SHOWN])
        yield from _made_with(jobs, chain)
        files = [(path, digest) for job in jobs for path, digest in _outputs(job, chain)]
        yield from (f"  {digest or 'no hash recorded':.16} {path}" for path, digest in files[:SHOWN])
        if len(files) > SHOWN:
            yield f"  and {len(files) - SHOWN} files more"


def _commands(jobs: Sequence[Job]) -> str:
    """The command lines, those that differ in their last number as one."""
    groups: dict[str, list[int]] = {}
    for job in jobs:
        *first, last = (job.stage, *job.arguments)
        if isinstance(last, int):
            groups.setdefault(" ".join(map(str, first)), []).append(last)
        else:
            groups[str(job)] = []
    return "; ".join(f"emofuse {text}{' ' + ranges(numbers) if numbers else ''}" for text, numbers in groups.items())


def _made_with(jobs: Sequence[Job], chain: Chain) -> Iterator[str]:
    """The code, commits and environments that the jobs ran with."""
    recorded = [found for job in jobs if (found := chain.fingerprint(job))]
    codes = dict.fromkeys(stamp["code"][:16] for each in recorded for stamp in each["stamps"].values())
    commits = dict.fromkeys(
        f"{each['commit'][:12]}{' with changes' if each.get('dirty') else ''}"
        for each in recorded
        if each.get("commit")
    )
    environments = dict.fromkeys(
        ", ".join(
            f"{key} {value:.16}" if key == "lock" else f"{key} {value}" for key, value in each["environment"].items()
        )
        for each in recorded
    )
    for name, values in (("code", codes), ("commit", commits), ("environment", environments)):
        if values:
            yield f"  {name}: {'; '.join(re.sub(r'^$', 'unknown', value) for value in values)}"


def _outputs(job: Job, chain: Chain) -> list[tuple[str, str | None]]:
    recorded = chain.fingerprint(job)
    return [(path, recorded["outputs"].get(path) if recorded else chain.hashes.of(path)) for path in job.outputs]
