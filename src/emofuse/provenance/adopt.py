"""`emofuse adopt`: register outputs that were made elsewhere and came by `dvc pull`, `dvc checkout` or a copy.

Snakemake decides from its own metadata what to rerun, and considers files without metadata up to date. Outputs from elsewhere
are therefore verified by their records first, and only those that hold are registered.
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
from emofuse.provenance.freshness import Chain, State
from emofuse.provenance.install import install
from emofuse.provenance.records import FOLDERS, SUFFIX, Record
from emofuse.provenance.verify import grouped
from emofuse.utils.errors import UserError

BATCH = 1000  # targets per command line


def adopt(params: Params, root: Path, source: Path | None = None) -> Iterator[str]:
    """Register outputs that hold with Snakemake, and remove the records of all others, so that their jobs run again.

    `source` is a folder of published results whose folds are installed first. Yields a summary, line by line. Raises
    `UserError` for an invalid record, and if Snakemake cannot register the files.
    """
    if source is not None:
        _features_first(source, params, root)
        installed = install(source, params, root)
        yield f"{source}: {len(installed)} records of published folds installed"
    chain = Chain(params, root)
    findings = {record.path: chain.whole(record) for record in chain.records}
    partial = {record.path for record in chain.records if _is_partial(record, params)}
    good = (State.VERIFIED, State.UNCHECKABLE)
    adopted = [path for path, found in findings.items() if found.state in good and path not in partial]
    for start in range(0, len(adopted), BATCH):
        _register(adopted[start : start + BATCH], root)
    for path in findings.keys() - set(adopted):
        (root / path).unlink()
    yield f"adopted: {_jobs(len(adopted))}"
    for state, fate in (
        (State.CORRUPTED, "will rerun"),
        (State.STALE, "will rerun"),
        (State.LEFT_OVER, "not adopted"),
    ):
        rejected = [found for found in findings.values() if found.state == state]
        if rejected:
            yield f"{state}, {fate}: {_jobs(len(rejected))}"
            yield from (
                f"  {line}" for line in grouped(dict.fromkeys(why for found in rejected for why in found.reasons))
            )


def _jobs(number: int) -> str:
    return f"{number} {'job' if number == 1 else 'jobs'}"


def _is_partial(record: Record, params: Params) -> bool:
    """Whether a report lacks folds of params.yaml; Snakemake only makes reports of all folds."""
    if record.stage != "report" or record.key["corpus"] not in params.corpora:
        return False
    corpus = str(record.key["corpus"])
    records = [key.evaluation_record for key in params.keys(corpus)] + [key.record for key in params.transfers(corpus)]
    return not all(path in record.inputs for path in records)


def _features_first(source: Path, params: Params, root: Path) -> None:
    """Raise `UserError` if folds that are not published have to be trained here and the features are still missing.

    Features are inputs of the adopted trainings too: if they were made afterwards, Snakemake would repeat those trainings.
    """
    corpus = source.name
    folds = [key.metrics for key in params.keys(corpus)] + [key.metrics for key in params.transfers(corpus)]
    missing = [metrics for metrics in folds if not any((base / metrics).is_file() for base in (root, root / source))]
    if missing and not all((root / table).is_file() for _, table in shards.features(corpus, params.corpus(corpus))):
        raise UserError(
            f"{source} lacks {len(missing)} folds, which must be trained here: run `snakemake {corpus}_splits --cores 8`"
            " first, then adopt again"
        )


def refuse_links(corpus: str, root: Path) -> None:
    """Raise `UserError` for folders of outputs that are links out of the repository, which DVC refuses without a remedy."""
    for folder in (name for top in FOLDERS for name in (top, f"{top}/{corpus}")):
        if (root / folder).exists() and not (root / folder).resolve().is_relative_to(root.resolve()):
            raise UserError(
                f"{folder} is a link to {(root / folder).resolve()}, and DVC versions nothing outside the repository: mount it"
                " there instead (mount --bind), or move the repository (docs/cluster.md); Snakemake alone works with links"
            )


def refuse_unregistered(root: Path) -> None:
    """Raise `UserError` if there are outputs without Snakemake metadata, as in a fresh clone or a copied folder."""
    record = unregistered(root)
    if record:
        remote = subprocess.run(["dvc", "remote", "list"], cwd=root, capture_output=True, text=True, check=False).stdout
        command = "make pull" if remote.strip() else "emofuse adopt"
        raise UserError(
            f"{record}: Snakemake has no metadata for this job (fresh clone, copied folder, or stage run by hand): run `{command}`,"
            " which registers the outputs that are still valid"
        )


def unregistered(root: Path) -> str | None:
    """The path of a record without Snakemake metadata, whose job Snakemake did not run here; None if there is none.

    Snakemake has no public function for this. Its metadata is a file per output, named by the base64 of the output's path.
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
    """Have Snakemake write metadata for the jobs of these records and all jobs upstream."""
    touch = ("--touch", "--forceall", "--cores", "1", "--quiet", "all", "--")
    command = [sys.executable, "-m", "snakemake", *touch, *paths]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise UserError(f"Snakemake could not register {paths[0]} and others: {output[-1].strip()}")
