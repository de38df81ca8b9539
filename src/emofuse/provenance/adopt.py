"""`emofuse adopt`: take over outputs that came from elsewhere, by `dvc pull`, `dvc checkout` or a copy of a folder.

Snakemake decides what to rerun by its own metadata, and takes files without metadata for up to date whatever they were
made with. So files that came from elsewhere are checked by their records first, and only those that hold are registered.
"""

from __future__ import annotations

import os
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

from emofuse.config import Params
from emofuse.datasets import shards
from emofuse.provenance import publish
from emofuse.provenance.chain import Chain, State
from emofuse.provenance.records import FOLDERS, SUFFIX, Record
from emofuse.provenance.verify import grouped
from emofuse.utils.errors import UserError

BATCH = 1000  # targets of one command line


def adopt(params: Params, root: Path, source: Path | None = None) -> Iterator[str]:
    """Register with Snakemake what holds, and remove the records of what does not, so that its jobs run again.

    `source` is a folder of published results whose folds are installed first. Yields what was done, line by line. Raises
    `UserError` for a broken record, and if Snakemake cannot register the files.
    """
    if source is not None:
        _features_first(source, params, root)
        installed = publish.install(source, params, root)
        yield f"{source}: {len(installed)} records of published folds installed"
    chain = Chain(params, root)
    findings = {record.path: chain.whole(record) for record in chain.records}
    partial = {record.path for record in chain.records if _is_partial(record, params)}
    held = [
        path
        for path, found in findings.items()
        if found.state in (State.VERIFIED, State.UNCHECKABLE) and path not in partial
    ]
    for start in range(0, len(held), BATCH):
        _register(held[start : start + BATCH], root)
    for path in findings.keys() - set(held):
        (root / path).unlink()  # so that its job runs
    yield f"adopted: {_jobs(len(held))}"
    for state, fate in (
        (State.CORRUPTED, "will rerun"),
        (State.STALE, "will rerun"),
        (State.LEFT_OVER, "not taken over"),
    ):
        lost = [found for found in findings.values() if found.state == state]
        if lost:
            yield f"{state}, {fate}: {_jobs(len(lost))}"
            yield from (f"  {line}" for line in grouped(dict.fromkeys(why for found in lost for why in found.reasons)))


def _jobs(number: int) -> str:
    return f"{number} {'job' if number == 1 else 'jobs'}"


def _is_partial(record: Record, params: Params) -> bool:
    """Whether a report was made before all folds that params.yaml asks for were there; Snakemake's always have them all."""
    if record.stage != "report" or record.key["corpus"] not in params.corpora:
        return False
    corpus = str(record.key["corpus"])
    return not all(key.evaluation_record in record.inputs for key in params.keys(corpus))


def _features_first(source: Path, params: Params, root: Path) -> None:
    """Raise `UserError` if folds that are not published have to be trained here and there are no features yet.

    Features are inputs of the adopted trainings too: if they were made later, Snakemake would train those again.
    """
    corpus = source.name
    missing = [
        key for key in params.keys(corpus) if not any((base / key.metrics).is_file() for base in (root, root / source))
    ]
    if missing and not all((root / table).is_file() for _, table in shards.features(corpus, params.corpus(corpus))):
        raise UserError(
            f"{source} lacks {len(missing)} folds, which have to be trained here: run `snakemake {corpus}_splits --cores 8`"
            " first, then adopt again"
        )


def refuse_unregistered(root: Path) -> None:
    """Raise `UserError` if there are outputs that Snakemake knows nothing of: a fresh clone, or a copied folder."""
    record = unregistered(root)
    if record:
        remote = subprocess.run(["dvc", "remote", "list"], cwd=root, capture_output=True, text=True, check=False).stdout
        command = "make pull" if remote.strip() else "emofuse adopt"
        raise UserError(
            f"{record}: Snakemake has no metadata of this job (a fresh clone, a copied folder, or a stage run by hand): run"
            f" `{command}`, which takes over what still holds"
        )


def unregistered(root: Path) -> str | None:
    """A record that Snakemake knows nothing of, if there is any: its job was not run by Snakemake here.

    Snakemake has no public call for this; it keeps a file per output, named by the base64 of the output's path.
    """
    known = root / ".snakemake"
    for folder in FOLDERS:
        for path, folders, files in os.walk(root / folder):
            relative = os.path.relpath(path, root)
            if relative == "results":
                folders[:] = [name for name in folders if name != "published"]
            for name in files:
                if name.endswith(SUFFIX) and not name.startswith("."):
                    parts = _encoded(f"{relative}/{name}")
                    if not any((known / kind / parts).exists() for kind in ("metadata", "incomplete")):
                        return f"{relative}/{name}"
    return None


def _encoded(path: str, longest: int = 254) -> str:
    encoded = urlsafe_b64encode(path.encode()).decode()
    *first, last = (encoded[start : start + longest] for start in range(0, len(encoded), longest))
    return "/".join([*(f"@{part}" for part in first), last])


def _register(paths: list[str], root: Path) -> None:
    """Have Snakemake write metadata for some records' jobs, and for all jobs before them."""
    touch = ("--touch", "--forceall", "--cores", "1", "--quiet", "all", "--")
    command = [sys.executable, "-m", "snakemake", *touch, *paths]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise UserError(f"Snakemake could not register {paths[0]} and others: {said[-1].strip()}")
