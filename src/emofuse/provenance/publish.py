"""Committed results: written by `emofuse publish`, read by `emofuse compare`, `verify` and `adopt`.

results/published/<corpus>/ has the layout of the repository: its results/<corpus>/tables/main.csv is a copy of the file with
that path. The paths in its records are therefore valid within it, and `Chain` treats it like a working directory. It holds
every record of the chain, back to the clips, and those outputs that are small and show no people: no clips, features, models
or images.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse import paths
from emofuse.config import Params
from emofuse.datasets.shards import FOLDERS
from emofuse.paths import PUBLISHED
from emofuse.provenance.freshness import Chain, State
from emofuse.provenance.records import SOURCES, SUFFIX, Record, commit, content, everything
from emofuse.report import run_files
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, read_csv, write_csv
from emofuse.utils.text import ranges

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

LOG = f"{PUBLISHED}/test_evaluations.csv"
LOG_COLUMNS = ("date", "corpus", "commit", "reason", "folds", "covered", "record")
# Small outputs. The tables of the features are left out with them, because they too may differ between processors.
_PUBLISHED_FILE = re.compile(r"(models|results|data(?!/[^/]+/features/))/.+\.(csv|json|md|tex)")
# Columns that identify a row, in every table that has them.
KEYS = (
    "protocol", "split", "method", "authors", "modality", "variant", "seed", "fold", "emotion", "config", "parameter",
)  # fmt: skip
LISTED = 3  # rows or cells named in one line


def publish(corpus: str, why: str, params: Params, root: Path) -> Path:
    """`emofuse publish`: copy the report of a corpus and the chain behind it to results/published/<corpus>/.

    Appends a row to the log of test-set evaluations, unless the same report was published last. The report may cover only
    some of the runs. Returns the folder.

    Raises `UserError` unless every published file is present and intact, every job back to the clips has a record and is up
    to date, and code and parameters are committed. The commit in the log therefore has the code and parameters of every job,
    regardless of what was committed when the jobs ran. Files that are not published (clips, features, models) may be absent.
    An earlier publication is replaced atomically.
    """
    why = " ".join(why.split())
    if not why:
        raise UserError("publish: --why is empty; give the reason for evaluating the test clips, for the log")
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
        raise UserError(f"{_first(late)}: the report is older and does not include it; {again}")
    found = chain.whole(report)
    if found.state > State.UNCHECKABLE:
        rebuild = "" if found.state == State.STALE else "rebuild it with `snakemake --force FILE --cores 8`; "
        raise UserError(f"{found.state}: {_first(found.reasons)}; {rebuild}{again}")
    if gaps := [why for record in lineage for why in chain.current(record).reasons]:
        raise UserError(f"{_first(gaps)}; fetch it with `dvc pull` and `emofuse adopt`, or {again}")
    files = {record.path for record in lineage}
    files |= {
        path for record in lineage for path in (*record.inputs, *record.outputs) if _PUBLISHED_FILE.fullmatch(path)
    }
    if missing := [path for path in sorted(files) if not (root / path).is_file()]:
        raise UserError(f"{_first(missing)}: missing; fetch it with `dvc pull` and `emofuse adopt`, or {again}")

    final = root / PUBLISHED / corpus
    last = next((row for row in reversed(_logged(root)) if row["corpus"] == corpus), None)
    is_logged = last is not None and last["record"] == report.hash
    published = None if not final.is_dir() or flaws(final) else Record.read(final, report.path)
    if published and published.hash == report.hash and last and is_logged:
        log.info("%s/%s: already published on %s; nothing has changed", PUBLISHED, corpus, last["date"])
        return final
    _replace(final, files, root)
    if not is_logged:
        row = (
            datetime.now(UTC).isoformat(timespec="seconds"), corpus, head, why, str(len(evaluations)),
            _covered(evaluations), report.hash,
        )  # fmt: skip
        _write_log([*_logged(root), dict(zip(LOG_COLUMNS, row, strict=True))], root)
    return final


def flaws(folder: Path) -> list[str]:
    """The defects of a folder of published results: files that are missing, changed or without a record."""
    try:
        records = list(everything(folder))
    except UserError as error:
        return [str(error).partition(": delete")[0]]
    if not any(record.stage == "report" for record in records):
        return ["the record of the report is missing"]
    outputs = {path for record in records for path in record.outputs}
    named = sorted({item for record in records for item in (*record.inputs.items(), *record.outputs.items())})
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    unrecorded = {
        path
        for record in records
        for path in record.inputs
        if re.match(f"(data|models)/{record.key.get('corpus')}/", path)
        and not path.endswith(SUFFIX)
        and path not in outputs
    }
    return [
        *(f"{path} is missing" for path, _ in named if _PUBLISHED_FILE.fullmatch(path) and path not in present),
        *(
            f"{path} is not what its job wrote"
            for path, digest in named
            if path in present and content(folder, path) != digest
        ),
        *(f"the record of {path} is missing" for path in sorted(unrecorded)),
        *(
            f"{path} is in no record"
            for path in sorted(present - dict(named).keys() - {record.path for record in records})
        ),
    ]


def check(corpus: str, params: Params, root: Path) -> Iterator[str]:
    """Report whether the published results of a corpus, if any, are intact, and which stages have changed since.

    Results of older code or other parameters are not an error. Raises `UserError` at the end if a file is changed, missing or
    unknown, or if the log has no row for them.
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
    """The differences between two tables, one line per kind of difference, and whether they are equal."""
    import pandas as pd

    tables = {"local": local, "published": published}
    rows = local.index[local.index.isin(published.index)]
    columns = list(dict.fromkeys((*local, *published)))
    cells = pd.DataFrame({s: t.reindex(index=rows, columns=columns, fill_value="").stack() for s, t in tables.items()})
    cells = cells[(cells != "").any(axis=1)]
    cells.index = pd.Index([f"{row}: {column}" for row, column in cells.index], dtype=object)
    numbers = cells.map(_number)
    equal = (cells["local"] == cells["published"]) | (numbers["local"] == numbers["published"])
    if equal.all() and set(local.index) == set(published.index):
        return [f"identical, {len(cells)} cells"], True
    different = cells[~equal]
    distances = (numbers["local"] - numbers["published"])[~equal].abs().dropna()
    texts = different[(different != "").all(axis=1)].drop(distances.index)
    lines = []
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


def install(source: Path, params: Params, root: Path) -> list[str]:
    """Copy published folds into models/ and results/, for `emofuse adopt results/published/<corpus>`.

    A fold is installed if its training and evaluation have the current settings and code and were made from the local clips
    and splits, or if there are none, from the published ones, which are then installed too. The bytes of local features may
    differ if settings and code are the same, because processors round differently. Folds trained here are left alone.

    The details of an installed record say where it was "adopted" from, and which feature hashes are "accepted". Returns the
    paths of the installed records of trainings and evaluations, and logs why other folds are rejected. Raises `UserError` if
    `source` is not an intact folder of published results.
    """
    folder = root / source
    if not (folder / "results").is_dir():
        raise UserError(f"{source}: not a folder of published results; expected {PUBLISHED}/<corpus>")
    if found := flaws(folder):
        raise UserError(f"{source}: {_first(found)}; `git checkout -- {source}` restores it")
    name = os.path.relpath(folder, root) if folder.resolve().is_relative_to(root.resolve()) else str(folder)
    installation = _Installation(Chain(params, folder), Chain(params, root))
    rejected: Counter[str] = Counter()
    accepted, present = [], 0
    for evaluation in (record for record in installation.published.records if record.stage == "evaluate"):
        if installation.is_here(evaluation):
            present += 1
        elif why := installation.refusal(evaluation):
            rejected[why] += 1
        else:
            accepted.append(evaluation)
    installed = [record for record in installation.published.back(*accepted) if record.path in installation.installable]
    rounded = [record for record in reversed(installed) if installation.install(record, name)]
    if present:
        log.info("%s: %d folds already exist here", name, present)
    if rounded:
        log.info("%s: %d jobs read features whose bytes differ from the local ones; accepted", name, len(rounded))
    for why, number in rejected.items():
        log.warning("%s: %d folds not adopted: %s", name, number, why)
    return sorted(record.path for record in installed if record.stage in ("train", "evaluate"))


class _Installation:
    """Compares published records with local ones, and installs them."""

    def __init__(self, published: Chain, here: Chain) -> None:
        self.published = published
        self.here = here
        self.installable: dict[str, Record] = {}  # published records by path
        self._refusals: dict[str, str | None] = {}

    def is_here(self, evaluation: Record) -> bool:
        """Whether a fold has been trained here, or adopted with its evaluation, and is still valid."""
        key = evaluation.run
        own = Record.read(self.here.root, key.training_record)
        adopted = own is not None and "adopted" in own.details
        return self._is_valid(own) and (
            not adopted or self._is_valid(Record.read(self.here.root, key.evaluation_record))
        )

    def _is_valid(self, own: Record | None) -> bool:
        return (
            own is not None
            and self.here.lineage(own).state < State.STALE
            and self.here.intact(own).state == State.VERIFIED
        )

    def refusal(self, record: Record) -> str | None:
        """Why a published record can neither be installed nor be replaced by its local counterpart; None if it can."""
        if record.path not in self._refusals:
            own = None if record.stage in ("train", "evaluate") else self._own(record.path)
            self._refusals[record.path] = self._why_different(own, record) if own else self._why_not_installable(record)
        return self._refusals[record.path]

    def install(self, record: Record, origin: str) -> bool:
        """Write a record and its published outputs. Returns whether it read features that differ from the local ones."""
        root = self.here.root
        now = {path: self._sha256(path) for path in record.inputs}
        accepted = {path: digest for path, digest in now.items() if digest != record.inputs[path]}
        kept = {name: value for name, value in record.details.items() if name != "accepted"}
        details: dict[str, Any] = {**kept, "adopted": {"from": origin}} | ({"accepted": accepted} if accepted else {})
        (root / record.path).unlink(missing_ok=True)  # outputs that are being written have no record
        for path, digest in record.outputs.items():
            if _PUBLISHED_FILE.fullmatch(path):
                with atomic(root / path) as temporary:
                    shutil.copyfile(self.published.root / path, temporary)
            elif self.here.sha256(path) not in (None, digest):
                (root / path).unlink()  # from a training that is no longer valid
        replace(record, details=details).write(root)
        return bool(accepted)

    def _own(self, path: str) -> Record | None:
        """The local record, unless it was adopted and has become stale."""
        own = Record.read(self.here.root, path)
        if own and "adopted" in own.details and self.here.current(own).state == State.STALE:
            return None
        return own

    def _why_different(self, own: Record, record: Record) -> str | None:
        """Why local clips, features or splits cannot replace the published ones; None if they can."""
        found = self.here.lineage(own)
        if found.state == State.STALE:
            return f"{found.reasons[0]}; run `snakemake`, then adopt again"
        changed = [path for path, digest in record.outputs.items() if own.outputs.get(path) != digest]
        if changed and record.stage not in FOLDERS.values():
            return f"{changed[0]} differs from the published one"
        return self._outdated(record) if changed else None

    def _why_not_installable(self, record: Record) -> str | None:
        """Why a published record cannot be installed; if it can, adds it to `installable` and returns None."""
        upstream = map(self.refusal, self.published.upstream(record))
        if why := next(filter(None, upstream), None) or self._outdated(record):
            return why
        for path, digest in record.inputs.items():
            now = self._sha256(path)
            if now is None:
                return f"{path} is absent"
            producer = self.published.producer(path)
            if now != digest and not (producer and producer.stage in FOLDERS.values()):
                return f"{path} differs from what the published results were made from"
        if record.stage not in ("train", "evaluate"):
            for path, digest in record.outputs.items():
                if not _PUBLISHED_FILE.fullmatch(path) and self.here.sha256(path) not in (None, digest):
                    return f"{path} differs from the published file and has no record: delete it, then adopt again"
        self.installable[record.path] = record
        return None

    def _outdated(self, record: Record) -> str | None:
        """How the settings or code of a published record differ from the current ones; None if they do not."""
        found = self.published.current(record)
        if found.state not in (State.STALE, State.LEFT_OVER):
            return None
        return found.reasons[0].replace(
            record.command, f"emofuse {record.stage}"
        )  # so that all folds have the same reason

    def _sha256(self, path: str) -> str | None:
        """The SHA-256 of a local file, according to its record, after the installation."""
        published = self.published.producer(path)
        if published and published.path in self.installable:
            return published.outputs[path]
        own = self.here.producer(path)
        return own.outputs[path] if own else self.here.sha256(path)


def _first(reasons: Iterable[str]) -> str:
    """The first reason, with the number of the others."""
    first, *others = dict.fromkeys(reasons)
    return f"{first} (and {len(others)} more)" if others else first


def _report(corpus: str) -> str:
    return paths.record_in(f"results/{corpus}")


def _committed(root: Path) -> str:
    """The current commit. Raises `UserError` if code or parameters have uncommitted changes."""
    head, dirty = commit(root)
    if head is None:
        raise UserError("publish: this is not a git repository with a commit, which the log of evaluations refers to")
    if dirty:
        raise UserError(f"publish: uncommitted changes in {', '.join(SOURCES)}: commit them, then publish")
    return head


def _logged(root: Path) -> list[dict[str, str]]:
    """The rows of the log of test-set evaluations."""
    return read_csv(root / LOG, LOG_COLUMNS).to_dict("records") if (root / LOG).is_file() else []  # type: ignore[return-value]


def _write_log(rows: list[dict[str, str]], root: Path) -> None:
    import pandas as pd

    write_csv(root / LOG, pd.DataFrame(rows, columns=list(LOG_COLUMNS)))


def _covered(evaluations: Iterable[Record]) -> str:
    """A summary of the protocols, variants, seeds and folds of some evaluations."""
    groups: defaultdict[str, list[paths.RunKey]] = defaultdict(list)
    for key in sorted(record.run for record in evaluations):
        groups[key.protocol].append(key)
    return "; ".join(
        f"{protocol}: {', '.join(dict.fromkeys(key.variant for key in keys))},"
        f" seeds {ranges(key.seed for key in keys)}, folds {ranges(key.fold for key in keys)}"
        for protocol, keys in groups.items()
    )


def _replace(final: Path, files: Iterable[str], root: Path) -> None:
    """Replace a folder by copies of files of the repository.

    A crash leaves the old or the new folder; between the two renames, the old one is called `.<name>.old`.
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
            raise UserError(f"{_first(changed)}: it changed during publication; run the same command again")
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
    """Whether settings, code, or tracked files that a published job read have changed."""
    if chain.current(record).state in (State.STALE, State.LEFT_OVER):
        return True
    tracked = [path for path in record.inputs if not chain.producer(path) and not (chain.root / path).is_file()]
    return any((root / path).is_file() and content(root, path) != record.inputs[path] for path in tracked)
