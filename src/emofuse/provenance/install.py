"""Published folds in place of trainings, for `emofuse adopt results/published/<corpus>`."""

from __future__ import annotations

import logging
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from emofuse.config import Params
from emofuse.datasets.shards import FOLDERS
from emofuse.paths import PUBLISHED
from emofuse.provenance.freshness import Chain, State
from emofuse.provenance.publish import PUBLISHED_FILE, first, flaws
from emofuse.provenance.records import Record
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic

log = logging.getLogger(__name__)

TESTED = ("evaluate", "transfer")
FOLDS = ("train", "calibrate", *TESTED)  # the stages that are replaced; those before them make the data


def install(source: Path, params: Params, root: Path) -> list[str]:
    """Copy published folds into models/ and results/, for `emofuse adopt results/published/<corpus>`.

    They are those of the corpus and, with what they predict for it, those of other corpora that are applied to it.

    A fold is installed if its training and evaluation have the current settings and code and were made from the local clips
    and splits, or if there are none, from the published ones, which are then installed too. The bytes of local features may
    differ if settings and code are the same, because processors round differently. Folds trained here are left alone.

    The details of an installed record say where it was "adopted" from, and which feature hashes are "accepted". Returns the
    paths of the installed records of folds, and logs why other folds are rejected. Raises `UserError` if
    `source` is not an intact folder of published results.
    """
    folder = root / source
    if not (folder / "results").is_dir():
        raise UserError(f"{source}: not a folder of published results; expected {PUBLISHED}/<corpus>")
    if found := flaws(folder):
        raise UserError(f"{source}: {first(found)}; `git checkout -- {source}` restores it")
    name = os.path.relpath(folder, root) if folder.resolve().is_relative_to(root.resolve()) else str(folder)
    installation = _Installation(Chain(params, folder, root), Chain(params, root))
    rejected: Counter[str] = Counter()
    accepted, present = [], 0
    for tested in (record for record in installation.published.records if record.stage in TESTED):
        if installation.is_here(tested):
            present += 1
        elif why := installation.refusal(tested):
            rejected[why] += 1
        else:
            accepted.append(tested)
    installed = [record for record in installation.published.back(*accepted) if record.path in installation.installable]
    rounded = [record for record in reversed(installed) if installation.install(record, name)]
    if present:
        log.info("%s: %d folds already exist here", name, present)
    if rounded:
        log.info("%s: %d jobs read features whose bytes differ from the local ones; accepted", name, len(rounded))
    for why, number in rejected.items():
        log.warning("%s: %d folds not adopted: %s", name, number, why)
    return sorted(record.path for record in installed if record.stage in FOLDS)


class _Installation:
    """Compares published records with local ones, and installs them."""

    def __init__(self, published: Chain, here: Chain) -> None:
        self.published = published
        self.here = here
        self.installable: dict[str, Record] = {}  # published records by path
        self._refusals: dict[str, str | None] = {}

    def is_here(self, record: Record) -> bool:
        """Whether a fold has been trained here, or adopted with its evaluation or transfer, and is still valid."""
        own = Record.read(self.here.root, record.run.training_record)
        adopted = own is not None and "adopted" in own.details
        tested = record.path if record.stage == "transfer" else record.run.evaluation_record
        return self._is_valid(own) and (not adopted or self._is_valid(Record.read(self.here.root, tested)))

    def _is_valid(self, own: Record | None) -> bool:
        return (
            own is not None
            and self.here.lineage(own).state < State.STALE
            and self.here.intact(own).state == State.VERIFIED
        )

    def refusal(self, record: Record) -> str | None:
        """Why a published record can neither be installed nor be replaced by its local counterpart; None if it can."""
        if record.path not in self._refusals:
            replaced = record.stage in FOLDS and not self.is_here(record)
            own = None if replaced else self._own(record.path)
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
            if PUBLISHED_FILE.fullmatch(path):
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
        if record.stage not in FOLDS:
            for path, digest in record.outputs.items():
                if not PUBLISHED_FILE.fullmatch(path) and self.here.sha256(path) not in (None, digest):
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
