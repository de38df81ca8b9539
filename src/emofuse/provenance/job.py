"""A job: verify the inputs, run, write the record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse.provenance import code
from emofuse.provenance.freshness import Chain
from emofuse.provenance.records import FOLDERS, SUFFIX, Record, commit, content, environment, find
from emofuse.utils.errors import UserError
from emofuse.utils.files import sha256, sweep

if TYPE_CHECKING:
    from emofuse.config import Params


UNRECORDED = ("/search.csv", SUFFIX)  # files in output folders that are not outputs of a job


@dataclass
class Job:
    """A job in progress. `details` are added to its record, unhashed."""

    identity: str  # SHA-256 of everything that determines the outputs
    commit: str | None
    dirty: bool | None
    details: dict[str, Any] = field(default_factory=dict)


@contextmanager
def job(
    stage: str,
    params: Params,
    key: Mapping[str, Any],
    record: str,
    inputs: Iterable[str],
    outputs: Collection[str],
    root: Path,
) -> Iterator[Job]:
    """Run a job in this block, and write its record at the end of the block.

    `key` has the arguments of its command by name; `record`, `inputs` and `outputs` are paths relative to `root`. Raises
    `UserError` for an input that is missing, corrupted or stale, or that changes while the job runs.
    """
    settings = params.settings(stage, **key)
    package = params.package(key)
    digest = code.digest(stage, params.kind(key), package, root)
    hashes = {path: verified(root, path) for path in inputs}
    Chain(params, root).refuse(hashes)
    versions = {path: _version(root / path) for path in hashes}
    identity = json.dumps([stage, dict(key), settings, digest, hashes], sort_keys=True)
    running = Job(hashlib.sha256(identity.encode()).hexdigest(), *commit(root, [package] if package else []))
    sweep(root / path for path in (*outputs, record))
    (root / record).unlink(missing_ok=True)  # outputs that are being written have no record
    yield running
    for path, version in versions.items():
        if _version(root / path) != version:
            raise UserError(f"{path} changed while emofuse {stage} was running: run the same command again")
    Record(
        record,
        stage,
        key,
        settings,
        digest,
        hashes,
        {path: sha256(root / path) for path in outputs},
        running.commit,
        running.dirty,
        environment(root),
        datetime.now(UTC).isoformat(timespec="seconds"),
        running.details,
    ).write(root)


def verified(root: Path, path: str) -> str:
    """The SHA-256 of a file that a job is about to read.

    Raises `UserError` if it is missing, or has changed since the job that wrote it.
    """
    record = find(root, path)
    if not (root / path).is_file():
        raise UserError(f"{path} is missing: run `snakemake {path} --cores 2`")
    if not record and path.split("/")[0] in FOLDERS and not path.endswith(UNRECORDED):
        raise UserError(
            f"{path} has no record of the job that wrote it; rebuild it with `snakemake --force {path} --cores 2`"
        )
    digest = content(root, path)
    if record and record.outputs[path] != digest:
        raise UserError(
            f"{path} is corrupted: it is not what `{record.command}` wrote; rebuild it with `snakemake --force {path} --cores 2`"
        )
    return digest


def _version(path: Path) -> tuple[int, int, int] | None:
    """Size, modification time and inode, which change when a file is written; None if it is absent."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
