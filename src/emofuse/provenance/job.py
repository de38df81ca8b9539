"""A job: checks what it reads, does its work, and writes its record."""

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
from emofuse.provenance.chain import Chain
from emofuse.provenance.records import FOLDERS, SUFFIX, Record, commit, content, environment, find
from emofuse.utils.errors import UserError
from emofuse.utils.files import sha256, sweep

if TYPE_CHECKING:
    from emofuse.config import Params


UNRECORDED = ("/search.csv", SUFFIX)  # files in the folders of outputs that are none


@dataclass
class Job:
    """A job in progress. What is put into `details` goes into its record, unhashed."""

    identity: str  # SHA-256 of all that decides its outputs
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
    """Run a job in this block, and write its record as the block ends.

    `key` are the arguments of its command by name; `record`, `inputs` and `outputs` are paths from `root`. Raises
    `UserError` for an input that is missing, corrupted or stale, or that changes while the job reads it.
    """
    settings = params.settings(stage, **key)
    digest = code.digest(stage, params.kind(key))
    read = {path: verified(root, path) for path in inputs}
    Chain(params, root).refuse(read)
    before = {path: _version(root / path) for path in read}
    decisive = json.dumps([stage, dict(key), settings, digest, read], sort_keys=True)
    running = Job(hashlib.sha256(decisive.encode()).hexdigest(), *commit(root))
    sweep(root / path for path in (*outputs, record))
    (root / record).unlink(missing_ok=True)  # while outputs change, nothing vouches for them
    yield running
    for path, version in before.items():
        if _version(root / path) != version:
            raise UserError(f"{path} changed while emofuse {stage} was reading it: run the same command again")
    Record(
        record,
        stage,
        key,
        settings,
        digest,
        read,
        {path: sha256(root / path) for path in outputs},
        running.commit,
        running.dirty,
        environment(root),
        datetime.now(UTC).isoformat(timespec="seconds"),
        running.details,
    ).write(root)


def verified(root: Path, path: str) -> str:
    """The SHA-256 of a file that a job is about to read.

    Raises `UserError` if it is missing, or is not what the job that wrote it left.
    """
    record = find(root, path)
    if not (root / path).is_file():
        raise UserError(f"{path} is missing: run `snakemake {path} --cores 2`")
    if not record and path.split("/")[0] in FOLDERS and not path.endswith(UNRECORDED):
        raise UserError(
            f"{path} has no record of the job that made it; `snakemake --force {path} --cores 2` makes it again"
        )
    digest = content(root, path)
    if record and record.outputs[path] != digest:
        raise UserError(
            f"{path} is corrupted: it is not what `{record.command}` wrote; `snakemake --force {path} --cores 2` makes it again"
        )
    return digest


def _version(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written; None if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino
