"""Committed results: written by `emofuse publish`, read by `emofuse compare`, `verify` and `adopt`.

results/published/<corpus>/ has the layout of the repository: its results/<corpus>/tables/main.csv is a copy of the file with
that path. The paths in its records are therefore valid within it, and `Chain` treats it like a working directory. It holds
every record of the chain, back to the clips, and those outputs that are small and show no people: no clips, features, models
or images.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from emofuse import paths
from emofuse.config import Params
from emofuse.paths import PUBLISHED
from emofuse.provenance.freshness import Chain, State
from emofuse.provenance.records import SOURCES, SUFFIX, Record, commit, content, everything
from emofuse.report import run_files
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, write_csv
from emofuse.utils.text import ranges

log = logging.getLogger(__name__)

LOG = f"{PUBLISHED}/test_evaluations.csv"
LOG_COLUMNS = ("date", "corpus", "commit", "reason", "folds", "covered", "record")
# Small outputs. The tables of the features are left out with them, because they too may differ between processors.
PUBLISHED_FILE = re.compile(r"(models|results|data(?!/[^/]+/features/))/.+\.(csv|json|md|tex)")


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
    head = _committed(root, params.packages(corpus))
    chain = Chain(params, root)
    lineage = list(chain.back(report))
    tested = [record for record in lineage if record.key.get("corpus") == corpus]
    evaluations = [record for record in tested if record.stage in ("evaluate", "transfer")]
    if not evaluations:
        raise UserError(f"results/{corpus}: the report has no evaluated fold; {again}")
    recorded = [path for path in run_files(params, corpus, root) if path.endswith(SUFFIX)]
    if late := [path for path in recorded if path not in report.inputs]:
        raise UserError(f"{first(late)}: the report is older and does not include it; {again}")
    found = chain.whole(report)
    if found.state > State.UNCHECKABLE:
        rebuild = "" if found.state == State.STALE else "rebuild it with `snakemake --force FILE --cores 8`; "
        raise UserError(f"{found.state}: {first(found.reasons)}; {rebuild}{again}")
    if gaps := [why for record in lineage for why in chain.current(record).reasons]:
        raise UserError(f"{first(gaps)}; fetch it with `dvc pull` and `emofuse adopt`, or {again}")
    files = {record.path for record in lineage}
    files |= {
        path for record in lineage for path in (*record.inputs, *record.outputs) if PUBLISHED_FILE.fullmatch(path)
    }
    if missing := [path for path in sorted(files) if not (root / path).is_file()]:
        raise UserError(f"{first(missing)}: missing; fetch it with `dvc pull` and `emofuse adopt`, or {again}")

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
        if re.match(f"(data|models)/({record.key.get('corpus')}|{record.key.get('source')})/", path)
        and not path.endswith(SUFFIX)
        and path not in outputs
    }
    return [
        *(f"{path} is missing" for path, _ in named if PUBLISHED_FILE.fullmatch(path) and path not in present),
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
        raise UserError(f"{name}: {first(found)}; `git checkout -- {name}` restores what is committed")
    chain = Chain(params, folder, root)
    report = next(record for record in chain.records if record.stage == "report")
    commits = [row["commit"] for row in _logged(root) if (row["corpus"], row["record"]) == (corpus, report.hash)]
    if not commits:
        raise UserError(f"{LOG} has no row for {name}; `git checkout -- {PUBLISHED}` restores what is committed")
    changed = dict.fromkeys(record.stage for record in chain.back(report) if _has_changed(record, chain, root))
    since = f"produced by commit {commits[-1][:12]}; changed since then: {', '.join(reversed(changed))}"
    yield f"{name}: intact, {since if changed else 'up to date'}"


def first(reasons: Iterable[str]) -> str:
    """The first reason, with the number of the others."""
    first, *others = dict.fromkeys(reasons)
    return f"{first} (and {len(others)} more)" if others else first


def _report(corpus: str) -> str:
    return paths.record_in(f"results/{corpus}")


def _committed(root: Path, packages: Sequence[str]) -> str:
    """The current commit. Raises `UserError` if code, parameters or packages of the user have uncommitted changes."""
    head, dirty = commit(root, packages)
    if head is None:
        raise UserError("publish: this is not a git repository with a commit, which the log of evaluations refers to")
    if dirty:
        raise UserError(
            f"publish: uncommitted changes in {', '.join([*SOURCES, *packages])}: commit them, then publish"
        )
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
    for record in evaluations:
        across = f"across {record.run.corpus}, " if record.stage == "transfer" else ""
        groups[across + record.run.protocol].append(record.run)
    return "; ".join(
        f"{what}: {', '.join(dict.fromkeys(key.variant for key in sorted(keys)))},"
        f" seeds {ranges(key.seed for key in keys)}, folds {ranges(key.fold for key in keys)}"
        for what, keys in sorted(groups.items())
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
            raise UserError(f"{first(changed)}: it changed during publication; run the same command again")
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
