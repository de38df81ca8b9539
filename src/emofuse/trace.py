"""What a number or a file was made from: the chain of jobs behind it, back to the clips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import report, verify
from emofuse.errors import UserError
from emofuse.provenance import Chain
from emofuse.report.table import ranges

if TYPE_CHECKING:
    from emofuse.graph import Job
    from emofuse.params import Params

SHOWN = 3  # files of a stage that are listed
LISTED = 12  # rows or columns, where none or several fit


def trace(what: str, params: Params, root: Path) -> Iterator[str]:
    """The chain behind a file, or behind a cell of a table, line by line.

    A cell is <file>:<row>:<column>: the file of a table; the number of the row, from 1, or its name, as `verify` prints
    it, or words of that; words of the column's heading. Raises `UserError` where there is no such thing, or several.
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
        heads, said = _cell(path, place, last, chain)
        yield from said
    yield from _jobs(heads if place else [last], chain)
    chain.hashes.save()


def _from_root(path: str, root: Path) -> str:
    try:
        return Path(path).resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise UserError(f"{path}: not a file of this repository") from None


def _cell(path: str, place: str, job: Job, chain: Chain) -> tuple[list[Job], list[str]]:
    """The jobs behind a cell, and what it says, with what is wrong with its table."""
    stem = Path(path).stem
    if job.stage != "report" or stem not in report.TABLES:
        raise UserError(f"{path}: only tables have cells: results/<corpus>/tables/<table>.md:<row>:<column>")
    corpus = str(job.arguments[0])
    table = report.compute(corpus, chain.params, chain.root)[1][stem]
    wanted_row, _, wanted_column = place.partition(":")
    names = [table.row_name(number) for number in range(len(table.rows))]
    rows = [int(wanted_row) - 1] if wanted_row.isdecimal() else _fitting(names, wanted_row)
    row = _only([number for number in rows if number in range(len(names))], f"{path}: row {wanted_row!r}", names)
    heads = [head.removesuffix(" %") for head in table.header]
    column = _only(_fitting(heads, wanted_column.removesuffix(" %")), f"{path}: column {wanted_column!r}", heads)
    origin = table.origins[row][column] if table.origins else ""
    if not origin:
        raise UserError(f"{path}: {names[row]}, {heads[column]}: not a number of a run")
    behind = verify.folds_behind(origin, corpus, chain)
    said = [f"{table.title}: {names[row]}: {table.header[column]} {' '.join(table.rows[row][column].split())}"]
    said += [f"  {reason}" for reason in verify.on_disk(table, corpus, chain).reasons]
    return [each for each in behind if chain.fingerprint(each)] or behind, said


def _fitting(names: Sequence[str], wanted: str) -> list[int]:
    """The places of those names that are what is wanted or, if none is, that have it in them."""
    wanted = wanted.lower()
    exact = [number for number, name in enumerate(names) if wanted == name.lower()]
    return exact or [number for number, name in enumerate(names) if wanted and wanted in name.lower()]


def _only(found: Sequence[int], what: str, there: Sequence[str]) -> int:
    if len(found) != 1:
        many = [there[number] for number in found] if found else there
        shown = "; ".join(many[:LISTED]) + ("; …" if len(many) > LISTED else "")
        raise UserError(f"{what}: {'several fit' if found else 'none fits; there are'}: {shown}")
    return found[0]


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
            reasons = dict.fromkeys(reason for each in found for reason in each.reasons)
            yield f"  {state}{f' ({len(found)} of {len(jobs)})' if len(found) < len(jobs) else ''}"
            yield from (f"    {line}" for line in verify.grouped(reasons))
        yield from _made_with(jobs, chain)
        recorded = (f"  recorded in {job.fingerprint}" for job in jobs if chain.fingerprint(job))
        yield from verify.grouped(recorded)
        files = [(path, digest) for job in jobs for path, digest in _outputs(job, chain)]
        yield from (f"  {digest or 'no hash recorded':.16} {path}" for path, digest in files[:SHOWN])
        if len(files) > SHOWN:
            yield f"  and {len(files) - SHOWN} more"


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
            f"{key} {str(value)[:16] if key == 'lock' else value}"
            for key, value in each["environment"].items()
            if value is not None
        )
        for each in recorded
    )
    for name, values in (("code", codes), ("commit", commits), ("environment", environments)):
        if values:
            yield f"  {name}: {'; '.join(value or 'unknown' for value in values)}"


def _outputs(job: Job, chain: Chain) -> list[tuple[str, str | None]]:
    recorded = chain.fingerprint(job)
    return [(path, recorded["outputs"].get(path) if recorded else chain.hashes.of(path)) for path in job.outputs]
