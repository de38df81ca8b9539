"""Results that are committed: written by `emofuse publish`, read by `emofuse compare`, `verify` and `adopt`.

results/published/<corpus>/ is laid out as the repository is: its results/<corpus>/tables/main.csv is a copy of the file of
that path. So the paths in its records hold within it, and `Chain` takes it for a working directory. It has every record
of the chain, back to the clips, and of the jobs' outputs those that are small and show nobody: no clips, features,
models or pictures.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from emofuse import paths
from emofuse.config import Params
from emofuse.datasets.shards import FOLDERS
from emofuse.paths import PUBLISHED
from emofuse.provenance.chain import Chain, State
from emofuse.provenance.records import SOURCES, SUFFIX, Record, commit, content, everything
from emofuse.report import run_files
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, read_table, write_table
from emofuse.utils.text import ranges

log = logging.getLogger(__name__)

LOG = f"{PUBLISHED}/test_evaluations.csv"
LOG_COLUMNS = ("date", "corpus", "commit", "reason", "folds", "covered", "record")
# Small outputs. The tables beside the features are left out with them: they may differ by the processor, too.
_PUBLISHED_FILE = re.compile(r"(models|results|data(?!/[^/]+/features/))/.+\.(csv|json|md|tex)")
# Columns that tell a table's rows apart, in any table that has them.
KEYS = (
    "protocol", "split", "method", "authors", "modality", "variant", "seed", "fold", "emotion", "config", "parameter",
)  # fmt: skip
LISTED = 3  # rows that a line names


def publish(corpus: str, why: str, params: Params, root: Path) -> Path:
    """`emofuse publish`: copy the report of a corpus, and all that it was made from, to results/published/<corpus>/.

    Appends a row to the log of test-set evaluations, which nothing else extends; what was published last adds none.
    The report may be of a part of the runs. Returns the folder.

    Raises `UserError` unless every file that is published is here and intact, every job back to the clips has a record
    and would do the same today, and all that results are made with is committed. The commit of the log then has the code
    and parameters of every job, whatever was committed when the jobs ran. Files that are not published (clips, features,
    models) may be absent. An earlier publication is replaced as a whole, or stays as it is.
    """
    why = " ".join(why.split())
    if not why:
        raise UserError("publish: --why is empty; say why the test clips were evaluated, for the log of evaluations")
    params.corpus(corpus)
    again = f"run `snakemake {corpus} --cores 8`, then publish"
    report = Record.read(root, _report(corpus))
    if report is None:
        raise UserError(f"results/{corpus}: there is no report to publish; {again}")
    head = _committed(root)
    chain = Chain(params, root)
    lineage = list(chain.back(report))
    evaluations = [record for record in lineage if record.stage == "evaluate"]
    if not evaluations:
        raise UserError(f"results/{corpus}: the report has no evaluated fold; {again}")
    recorded = [path for path in run_files(params, corpus, root) if path.endswith(SUFFIX)]
    if late := [path for path in recorded if path not in report.inputs]:
        raise UserError(f"{_first(late)}: not in the report, which is older; {again}")
    found = chain.whole(report)
    if found.state > State.UNCHECKABLE:
        cure = (
            again if found.state == State.STALE else f"`snakemake --force FILE --cores 8` makes a file again; {again}"
        )
        raise UserError(f"{found.state}: {_first(found.reasons)}; {cure}")
    if gaps := [why for record in lineage for why in chain.current(record).reasons]:
        raise UserError(f"{_first(gaps)}; fetch it with `dvc pull` and `emofuse adopt`, or {again}")
    files = {record.path for record in lineage}
    files |= {
        path for record in lineage for path in (*record.inputs, *record.outputs) if _PUBLISHED_FILE.fullmatch(path)
    }
    if missing := [path for path in sorted(files) if not (root / path).is_file()]:
        raise UserError(f"{_first(missing)}: not here; fetch it with `dvc pull` and `emofuse adopt`, or {again}")

    final = root / PUBLISHED / corpus
    last = next((row for row in reversed(_logged(root)) if row["corpus"] == corpus), None)
    is_logged = last is not None and last["record"] == report.hash
    published = None if not final.is_dir() or flaws(final) else Record.read(final, report.path)
    if published and published.hash == report.hash and last and is_logged:
        log.info("%s/%s: published already, on %s; nothing has changed", PUBLISHED, corpus, last["date"])
        return final
    _replace(final, files, root)
    if not is_logged:
        row = (
            datetime.now(UTC).isoformat(timespec="seconds"), corpus, head, why, len(evaluations), _covered(evaluations),
            report.hash,
        )  # fmt: skip
        write_table(root / LOG, LOG_COLUMNS, [*_logged(root), dict(zip(LOG_COLUMNS, row, strict=True))])
    return final


def flaws(folder: Path) -> list[str]:
    """What is wrong with a folder of published results: files that are missing, other than their jobs left them, or
    named by no record.
    """
    try:
        records = list(everything(folder))
    except UserError as error:
        return [str(error).partition(": delete")[0]]
    if not any(record.stage == "report" for record in records):
        return ["there is no record of a report"]
    made = {path for record in records for path in record.outputs}
    named = sorted({item for record in records for item in (*record.inputs.items(), *record.outputs.items())})
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    unrecorded = {
        path
        for record in records
        for path in record.inputs
        if re.match(f"(data|models)/{record.key.get('corpus')}/", path)
        and not path.endswith(SUFFIX)
        and path not in made
    }
    return [
        *(f"{path} is missing" for path, _ in named if _PUBLISHED_FILE.fullmatch(path) and path not in there),
        *(
            f"{path} is not what its job wrote"
            for path, digest in named
            if path in there and content(folder, path) != digest
        ),
        *(f"the record of {path} is missing" for path in sorted(unrecorded)),
        *(
            f"{path} is in no record"
            for path in sorted(there - dict(named).keys() - {record.path for record in records})
        ),
    ]


def check(corpus: str, params: Params, root: Path) -> Iterator[str]:
    """Whether the published results of a corpus are intact, and what has changed since, in lines; no lines without any.

    That older code produced them, or other parameters, is no mistake. Raises `UserError` in the end if a file is not what
    its job wrote, is missing or unknown, or if the log lacks a row for them.
    """
    name = f"{PUBLISHED}/{corpus}"
    folder = root / name
    if not folder.is_dir():
        return
    if found := flaws(folder):
        yield f"{name}: {State.CORRUPTED}"
        yield from (f"  {flaw}" for flaw in found)
        raise UserError(f"{name}: {_first(found)}; `git checkout -- {name}` restores what is committed")
    chain = Chain(params, folder)
    report = next(record for record in chain.records if record.stage == "report")
    commits = [row["commit"] for row in _logged(root) if (row["corpus"], row["record"]) == (corpus, report.hash)]
    if not commits:
        raise UserError(f"{LOG} has no row for {name}; `git checkout -- {PUBLISHED}` restores what is committed")
    changed = dict.fromkeys(record.stage for record in chain.back(report) if _has_changed(record, chain, root))
    since = f"produced by commit {commits[-1][:12]}; changed since then: {', '.join(reversed(changed))}"
    yield f"{name}: intact, {since if changed else 'up to date'}"


def compare(corpus: str, params: Params, root: Path) -> tuple[list[str], bool]:
    """`emofuse compare`: how the tables of a corpus here differ from the published ones, in lines; whether they agree.

    Cells that are numbers on both sides are compared as numbers, exactly. Raises `UserError` if there are no tables here,
    or none published.
    """
    params.corpus(corpus)
    folder = f"results/{corpus}/tables"
    sides = []
    for base, absent in (
        (root, f"{folder}: nothing has been run here; run `snakemake {corpus} --cores 8`"),
        (
            root / PUBLISHED / corpus,
            f"{PUBLISHED}/{corpus}: nothing is published; `emofuse publish {corpus} --why TEXT` publishes what was run here",
        ),
    ):
        tables = {path.stem: path for path in (base / folder).glob("[!.]*.csv")}
        if not tables:
            raise UserError(absent)
        sides.append(tables)
    here, published = sides
    lines, agree = [], True
    for name in dict.fromkeys((*paths.TABLES, *sorted(here), *sorted(published))):
        if name in here and name in published:
            found = _Comparison.of(here[name], published[name])
            lines += [f"{name}: {line}" for line in found.lines()]
            agree &= found.identical
        elif name in here or name in published:
            lines.append(f"{name}: only {'here' if name in here else 'published'}")
            agree = False
    return lines, agree


def install(source: Path, params: Params, root: Path) -> list[str]:
    """Copy published folds into models/ and results/, for `emofuse adopt results/published/<corpus>`.

    Takes those whose training and evaluation would do the same today, on the clips and splits that are here or, if there
    are none, on the published ones, which come along. The features here may have other bytes than the published folds read,
    if settings and code are the same: processors round differently. A fold that is trained here is left alone.

    An installed record says in its details where it was "adopted" from, and which hashes of features are "accepted".
    Returns the paths of the installed records of trainings and evaluations. Logs why other folds are not taken. Raises
    `UserError` if `source` is no intact folder of published results.
    """
    folder = root / source
    if not (folder / "results").is_dir():
        raise UserError(f"{source}: not a folder of published results; want {PUBLISHED}/<corpus>")
    if found := flaws(folder):
        raise UserError(f"{source}: {_first(found)}; `git checkout -- {source}` restores it")
    name = os.path.relpath(folder, root) if folder.resolve().is_relative_to(root.resolve()) else str(folder)
    installation = _Installation(Chain(params, folder), Chain(params, root))
    refused: Counter[str] = Counter()
    taken, left = [], 0
    for evaluation in (record for record in installation.published.records if record.stage == "evaluate"):
        if installation.is_here(evaluation):
            left += 1
        elif why := installation.refusal(evaluation):
            refused[why] += 1
        else:
            taken.append(evaluation)
    installed = [record for record in installation.published.back(*taken) if record.path in installation.taken]
    noted = [record for record in reversed(installed) if installation.install(record, name)]
    if left:
        log.info("%s: %d folds are here already", name, left)
    if noted:
        log.info("%s: %d jobs read features that differ in their bytes from those here; accepted", name, len(noted))
    for why, number in refused.items():
        log.warning("%s: %d folds not taken: %s", name, number, why)
    return sorted(record.path for record in installed if record.stage in ("train", "evaluate"))


class _Installation:
    """Compares published records with what is here, and installs them."""

    def __init__(self, published: Chain, here: Chain) -> None:
        self.published = published
        self.here = here
        self.taken: dict[str, Record] = {}  # published records that may be installed, by path
        self._refusals: dict[str, str | None] = {}

    def is_here(self, evaluation: Record) -> bool:
        """Whether a fold is trained here, or was taken from published results with its evaluation, and holds."""
        key = paths.RunKey.of(evaluation.key)
        own = Record.read(self.here.root, key.training_record)
        adopted = own is not None and "adopted" in own.details
        return self._holds(own) and (not adopted or self._holds(Record.read(self.here.root, key.evaluation_record)))

    def _holds(self, own: Record | None) -> bool:
        return (
            own is not None
            and self.here.lineage(own).state < State.STALE
            and self.here.intact(own).state == State.VERIFIED
        )

    def refusal(self, record: Record) -> str | None:
        """Why neither a published record can be installed nor its counterpart here stand for it; None if one can."""
        if record.path not in self._refusals:
            own = None if record.stage in ("train", "evaluate") else self._own(record.path)
            self._refusals[record.path] = self._unlike(own, record) if own else self._unfit(record)
        return self._refusals[record.path]

    def install(self, record: Record, origin: str) -> bool:
        """Write a record and its published outputs; whether it read features that differ from those here."""
        root = self.here.root
        now = {path: self._sha256(path) for path in record.inputs}
        accepted = {path: digest for path, digest in now.items() if digest != record.inputs[path]}
        kept = {name: value for name, value in record.details.items() if name != "accepted"}
        details: dict[str, Any] = {**kept, "adopted": {"from": origin}} | ({"accepted": accepted} if accepted else {})
        (root / record.path).unlink(missing_ok=True)  # while outputs change, nothing vouches for them
        for path, digest in record.outputs.items():
            if _PUBLISHED_FILE.fullmatch(path):
                with atomic(root / path) as temporary:
                    shutil.copyfile(self.published.root / path, temporary)
            elif self.here.sha256(path) not in (None, digest):
                (root / path).unlink()  # of a training that does not hold
        replace(record, details=details).write(root)
        return bool(accepted)

    def _own(self, path: str) -> Record | None:
        """The record here, unless it came from published results and has become stale."""
        own = Record.read(self.here.root, path)
        if own and "adopted" in own.details and self.here.current(own).state == State.STALE:
            return None
        return own

    def _unlike(self, own: Record, record: Record) -> str | None:
        """Why clips, features or splits here cannot stand for the published ones."""
        found = self.here.lineage(own)
        if found.state == State.STALE:
            return f"{found.reasons[0]}; run `snakemake`, then adopt again"
        changed = [path for path, digest in record.outputs.items() if own.outputs.get(path) != digest]
        if changed and record.stage not in FOLDERS.values():
            return f"{changed[0]} differs from the published one"
        return self._outdated(record) if changed else None

    def _unfit(self, record: Record) -> str | None:
        """Why a published record cannot be installed here; if it can, puts it into `taken`."""
        upstream = map(self.refusal, self.published.upstream(record))
        if why := next(filter(None, upstream), None) or self._outdated(record):
            return why
        for path, digest in record.inputs.items():
            now = self._sha256(path)
            if now is None:
                return f"{path} is not here"
            maker = self.published.maker(path)
            if now != digest and not (maker and maker.stage in FOLDERS.values()):
                return f"{path} differs from what the published results were made from"
        if record.stage not in ("train", "evaluate"):
            for path, digest in record.outputs.items():
                if not _PUBLISHED_FILE.fullmatch(path) and self.here.sha256(path) not in (None, digest):
                    return f"{path} is neither the published one nor has a record here: delete it, then adopt again"
        self.taken[record.path] = record
        return None

    def _outdated(self, record: Record) -> str | None:
        """How the settings and code of a published record differ from today's."""
        found = self.published.current(record)
        if found.state not in (State.STALE, State.LEFT_OVER):
            return None
        return found.reasons[0].replace(record.command, f"emofuse {record.stage}")  # a reason that folds share

    def _sha256(self, path: str) -> str | None:
        """The SHA-256 that a file has here, by its record, once all that is taken is installed."""
        published = self.published.maker(path)
        if published and published.path in self.taken:
            return published.outputs[path]
        own = self.here.maker(path)
        return own.outputs[path] if own else self.here.sha256(path)


@dataclass(frozen=True)
class _Comparison:
    """The rows of a table here and of the published one, by their keys; runs that were not run have no row."""

    here: dict[str, dict[str, str]]
    published: dict[str, dict[str, str]]

    @classmethod
    def of(cls, here: Path, published: Path) -> _Comparison:
        return cls(_rows(here), _rows(published))

    @cached_property
    def cells(self) -> list[tuple[str, str, str]]:
        """The place and both values of each cell that some side has, in rows of both."""
        return [
            (f"{key}: {column}", self.here[key].get(column, ""), self.published[key].get(column, ""))
            for key in self.here
            if key in self.published
            for column in dict.fromkeys((*self.here[key], *self.published[key]))
            if self.here[key].get(column) or self.published[key].get(column)
        ]

    @property
    def identical(self) -> bool:
        """Whether both have the same rows, with equal cells."""
        return self.here.keys() == self.published.keys() and all(_equal(ours, theirs) for _, ours, theirs in self.cells)

    def lines(self) -> list[str]:
        """The differences, one line a kind."""
        if self.identical:
            return [f"identical, {len(self.cells)} cells"]
        unequal = [cell for cell in self.cells if not _equal(*cell[1:])]
        numbers = [cell for cell in unequal if _number(cell[1]) is not None and _number(cell[2]) is not None]
        texts = [cell for cell in unequal if cell not in numbers and cell[1] and cell[2]]
        found = []
        if numbers:
            largest = max(numbers, key=lambda cell: abs(float(cell[1]) - float(cell[2])))
            difference = abs(float(largest[1]) - float(largest[2]))
            many = f"{len(numbers)} of {len(self.cells)} cells differ, by up to {difference:.6g}"
            found.append(f"{many} ({_both(*largest)})")
        if texts:
            found.append(f"{len(texts)} of {len(self.cells)} cells differ in words ({_both(*texts[0])})")
        for side, value, keys in (
            ("here", 1, self.here.keys() - self.published.keys()),
            ("published", 2, self.published.keys() - self.here.keys()),
        ):
            if keys:
                found.append(f"{len(keys)} rows only {side}: {_listed(sorted(keys))}")
            if only := [cell[0] for cell in unequal if cell[value] and not cell[3 - value]]:
                found.append(f"{len(only)} cells only {side}: {_listed(only)}")
        return found or ["no row on either side"]


def _rows(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a table by what names them; of several with one name, the later ones are numbered."""
    from emofuse.report.table import NOT_RUN

    found: dict[str, dict[str, str]] = {}
    seen: Counter[str] = Counter()
    for row in read_table(path):
        if NOT_RUN in row.values():
            continue
        named = [f"{key} {row[key]}" if key in ("seed", "fold") else row[key] for key in KEYS if row.get(key)]
        name = ", ".join(named) or "row"
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} ({seen[name]})"] = row
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _equal(ours: str, theirs: str) -> bool:
    return ours == theirs or (_number(ours) is not None and _number(ours) == _number(theirs))


def _both(place: str, ours: str, theirs: str) -> str:
    return f"{place}: {ours} here, {theirs} published"


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names[:LISTED]) + ("; …" if len(names) > LISTED else "")


def _first(reasons: Iterable[str]) -> str:
    """The first reason, with the number of the others."""
    first, *others = dict.fromkeys(reasons)
    return f"{first} (and {len(others)} more)" if others else first


def _report(corpus: str) -> str:
    return paths.record_in(f"results/{corpus}")


def _committed(root: Path) -> str:
    """The commit that is checked out. Raises `UserError` if what results are made with is not all in it."""
    head, dirty = commit(root)
    if head is None:
        raise UserError("publish: not a git repository with a commit; the log names the commit that made the results")
    if dirty:
        raise UserError(f"publish: uncommitted changes in {', '.join(SOURCES)}: commit them, then publish")
    return head


def _logged(root: Path) -> list[dict[str, str]]:
    return read_table(root / LOG, LOG_COLUMNS) if (root / LOG).is_file() else []


def _covered(evaluations: Iterable[Record]) -> str:
    """The protocols, variants, seeds and folds of some evaluations, in short."""
    groups: defaultdict[str, list[paths.RunKey]] = defaultdict(list)
    for key in sorted(paths.RunKey.of(dict(record.key)) for record in evaluations):
        groups[key.protocol].append(key)
    return "; ".join(
        f"{protocol}: {', '.join(dict.fromkeys(key.variant for key in keys))},"
        f" seeds {ranges(key.seed for key in keys)}, folds {ranges(key.fold for key in keys)}"
        for protocol, keys in groups.items()
    )


def _replace(final: Path, files: Iterable[str], root: Path) -> None:
    """Copy files of a repository to a folder of the same layout, in place of what was there.

    A crash leaves the old folder, or the new one; between the two renames, the old one as `.<name>.old`.
    """
    new, old = (final.with_name(f".{final.name}.{which}") for which in ("new", "old"))
    if old.is_dir() and not final.exists():
        old.rename(final)
    try:
        shutil.rmtree(new, ignore_errors=True)
        for path in files:
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, new / path)
        if changed := flaws(new):
            raise UserError(f"{_first(changed)}: it changed while it was published; run the same command again")
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        try:
            new.rename(final)
        except BaseException:
            if old.exists():
                old.rename(final)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _has_changed(record: Record, chain: Chain, root: Path) -> bool:
    """Whether a published job would do something else today, or reads a file of the repository that has changed."""
    if chain.current(record).state in (State.STALE, State.LEFT_OVER):
        return True
    ours = [path for path in record.inputs if not chain.maker(path) and not (chain.root / path).is_file()]
    return any((root / path).is_file() and content(root, path) != record.inputs[path] for path in ours)
