"""`emofuse trace`: the jobs behind a number or a file, back to the clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from emofuse import paths, report
from emofuse.paths import PUBLISHED
from emofuse.provenance import code
from emofuse.provenance.freshness import Chain
from emofuse.provenance.records import Record
from emofuse.provenance.verify import grouped
from emofuse.utils.errors import UserError
from emofuse.utils.text import ranges

SHOWN = 3  # output files listed per stage
LISTED = 12  # rows or columns listed if none or several match


def trace(target: str, chain: Chain) -> Iterator[str]:
    """The jobs behind a file or a table cell, line by line.

    A cell is given as <file>:<row>:<column>. The row is its number, from 1, or its name or part of it; the column is part of
    its heading. Raises `UserError` if nothing or more than one thing matches.
    """
    path, _, place = target.partition(":")
    try:
        path = Path(path).resolve().relative_to(chain.root.resolve()).as_posix()
    except ValueError:
        raise UserError(f"{path}: not a file of this repository") from None
    record = chain.producer(path)
    if record is None:
        corpus, _, local = path.removeprefix(f"{PUBLISHED}/").partition("/")
        if path.startswith(f"{PUBLISHED}/") and local:
            adopting = f"`emofuse adopt {PUBLISHED}/{corpus}` and `snakemake {corpus} --cores 8`"
            raise UserError(f"{path}: published files are traced in their own place, {local}, after {adopting}")
        raise UserError(f"{path} has no record; name a file that a job wrote in data, models or results")
    heads = [record]
    if place:
        heads, summary = _cell(path, place, record, chain)
        yield summary
    by_stage: defaultdict[str, list[Record]] = defaultdict(list)
    for each in chain.back(*heads):
        by_stage[each.stage].append(each)
    for stage in reversed(code.STAGES):
        if stage in by_stage:
            yield from _stage(sorted(by_stage[stage], key=lambda record: record.path), chain)


def _cell(path: str, place: str, record: Record, chain: Chain) -> tuple[list[Record], str]:
    """The evaluations behind a cell, and the cell as text."""
    stem = Path(path).stem
    if record.stage != "report" or stem not in paths.TABLES:
        raise UserError(f"{path}: not a table; expected results/<corpus>/tables/<table>.md:<row>:<column>")
    corpus = str(record.key["corpus"])
    table = report.compute(corpus, chain.params, chain.root)[1][stem]
    wanted_row, _, wanted_column = place.partition(":")
    names = [table.row_name(number) for number in range(len(table.rows))]
    rows = [int(wanted_row) - 1] if wanted_row.isdecimal() else _matching(names, wanted_row)
    row = _only([number for number in rows if number in range(len(names))], f"{path}: row {wanted_row!r}", names)
    heads = [head.removesuffix(" %") for head in table.header]
    column = _only(_matching(heads, wanted_column.removesuffix(" %")), f"{path}: column {wanted_column!r}", heads)
    runs = table.runs(row, column)
    if not runs:
        raise UserError(f"{path}: {names[row]}, {heads[column]}: this cell does not come from a run")
    folders = tuple(f"results/{corpus}/runs/{run}/" for run in runs.split())
    behind = [each for each in chain.records if each.path.startswith(folders)]
    cell = " ".join(table.rows[row][column].split())
    return behind, f"{table.title}: {names[row]}: {table.header[column]} {cell}"


def _matching(names: Sequence[str], wanted: str) -> list[int]:
    """The indices of the names that equal `wanted` or, if there are none, that contain it."""
    wanted = wanted.lower()
    exact = [number for number, name in enumerate(names) if wanted == name.lower()]
    return exact or [number for number, name in enumerate(names) if wanted and wanted in name.lower()]


def _only(found: Sequence[int], what: str, available: Sequence[str]) -> int:
    if len(found) != 1:
        many = [available[number] for number in found] if found else available
        shown = "; ".join(many[:LISTED]) + ("; …" if len(many) > LISTED else "")
        raise UserError(f"{what}: {'several match' if found else 'none matches; there are'}: {shown}")
    return found[0]


def _stage(records: Sequence[Record], chain: Chain) -> Iterator[str]:
    yield f"{records[0].stage}: {_commands(records)}"
    states: defaultdict[str, list[str]] = defaultdict(list)
    numbers: defaultdict[str, int] = defaultdict(int)
    for record in records:
        finding = max(chain.current(record), chain.intact(record), key=lambda found: found.state)
        numbers[str(finding.state)] += 1
        states[str(finding.state)] += finding.reasons
    for state, reasons in states.items():
        yield f"  {state}{f' ({numbers[state]} of {len(records)})' if len(states) > 1 else ''}"
        yield from (f"    {line}" for line in grouped(dict.fromkeys(reasons)))
    yield f"  code: {'; '.join(dict.fromkeys(record.code[:16] for record in records))}"
    commits = dict.fromkeys(
        f"{record.commit[:12]}{' with uncommitted changes' if record.dirty else ''}"
        for record in records
        if record.commit
    )
    if commits:
        yield f"  commit: {'; '.join(commits)}"
    environments = dict.fromkeys(
        ", ".join(
            f"{name} {str(value)[:16] if name == 'lock' else value}" for name, value in record.environment.items()
        )
        for record in records
    )
    yield f"  environment: {'; '.join(environments)}"
    yield from grouped(f"  recorded in {record.path}" for record in records)
    files = [item for record in records for item in record.outputs.items()]
    yield from (f"  {digest[:16]} {path}" for path, digest in files[:SHOWN])
    if len(files) > SHOWN:
        yield f"  and {len(files) - SHOWN} more"


def _commands(records: Sequence[Record]) -> str:
    """The commands; those that differ only in their last number are combined."""
    groups: dict[str, list[int]] = {}
    for record in records:
        first, _, last = record.command.rpartition(" ")
        if last.isdigit():
            groups.setdefault(first, []).append(int(last))
        else:
            groups[record.command] = []
    return "; ".join(f"{text}{' ' + ranges(numbers) if numbers else ''}" for text, numbers in groups.items())
