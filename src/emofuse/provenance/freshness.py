"""Staleness: the one place where a record is compared with the current parameters, code and files.

It is used by the stages before they read files, by `emofuse verify` and `emofuse trace`, and by `emofuse adopt` before it
registers files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from emofuse.config import Params, leaves
from emofuse.provenance import code
from emofuse.provenance.records import Record, content, everything, find
from emofuse.utils.errors import UserError


class State(IntEnum):
    """The state of a job's outputs, in order of severity."""

    VERIFIED = 0
    LEFT_OVER = 1  # no longer in params.yaml
    UNCHECKABLE = 2  # some files are absent
    STALE = 3  # made with other parameters, code or inputs
    CORRUPTED = 4  # changed since the job wrote them

    def __str__(self) -> str:
        names = {State.LEFT_OVER: "no longer in params.yaml", State.UNCHECKABLE: "not checkable here"}
        return names.get(self, self.name.lower())


@dataclass(frozen=True)
class Finding:
    """A state and the reasons for it."""

    state: State
    reasons: tuple[str, ...] = ()

    @classmethod
    def worst(cls, findings: Iterable[Finding]) -> Finding:
        """The worst state of several findings, with all its reasons."""
        found = list(findings)
        state = max((each.state for each in found), default=State.VERIFIED)
        return cls(state, tuple(dict.fromkeys(why for each in found if each.state == state for why in each.reasons)))


class Chain:
    """The records under `root`, compared with `params`, the code and the files. Each result is computed once.

    `repository` is where packages of the user may be, if `root` is a folder of published results.
    """

    def __init__(self, params: Params, root: Path, repository: Path | None = None) -> None:
        self.params = params
        self.root = root
        self.repository = repository or root
        self._producers: dict[str, Record | None] = {}
        self._hashes: dict[str, str | None] = {}
        self._current: dict[str, Finding] = {}
        self._whole: dict[str, Finding] = {}

    @cached_property
    def records(self) -> list[Record]:
        """Every record, sorted by path."""
        found = list(everything(self.root))
        self._producers |= {path: record for record in found for path in record.outputs}
        return found

    def producer(self, path: str) -> Record | None:
        """The record of the job that wrote a file."""
        if path not in self._producers:
            self._producers[path] = find(self.root, path)
        return self._producers[path]

    def sha256(self, path: str) -> str | None:
        """The current SHA-256 of a file; None if it is absent."""
        if path not in self._hashes:
            self._hashes[path] = content(self.root, path) if (self.root / path).is_file() else None
        return self._hashes[path]

    def current(self, record: Record) -> Finding:
        """Whether a job would run with the same parameters, code and inputs today. Inputs are compared by their records."""
        if record.path not in self._current:
            self._current[record.path] = self._compare(record)
        return self._current[record.path]

    def intact(self, record: Record) -> Finding:
        """Whether a job's outputs are unchanged since it wrote them."""
        changed = [p for p, digest in record.outputs.items() if self.sha256(p) not in (None, digest)]
        if changed:
            return Finding(State.CORRUPTED, tuple(f"{path} is not what `{record.command}` wrote" for path in changed))
        absent = [path for path in record.outputs if self.sha256(path) is None and not is_excused(record, path)]
        if absent:
            return Finding(State.UNCHECKABLE, tuple(f"{path} is absent" for path in absent))
        return Finding(State.VERIFIED)

    def upstream(self, record: Record) -> list[Record]:
        """The records of the jobs that wrote the inputs of a job."""
        producers = (self.producer(path) for path in record.inputs)
        return list({producer.path: producer for producer in producers if producer}.values())

    def lineage(self, record: Record) -> Finding:
        """`current` for a job and all jobs upstream of it."""
        return Finding.worst(self.current(each) for each in self.back(record))

    def whole(self, record: Record) -> Finding:
        """`current` and `intact` for a job and all jobs upstream of it."""
        if record.path not in self._whole:
            # Found again only if, according to the records, a job read its own output.
            self._whole[record.path] = Finding(State.CORRUPTED, (f"{record.path}: the job read its own output",))
            upstream = [self.whole(each) for each in self.upstream(record)]
            self._whole[record.path] = Finding.worst([self.current(record), self.intact(record), *upstream])
        return self._whole[record.path]

    def back(self, *records: Record) -> Iterator[Record]:
        """These jobs and all jobs upstream of them, each once, from the last to the first."""
        waiting = list(records)
        seen: set[str] = set()
        while waiting:
            record = waiting.pop(0)
            if record.path not in seen:
                seen.add(record.path)
                yield record
                waiting += self.upstream(record)

    def refuse(self, paths: Iterable[str]) -> None:
        """Raise `UserError`, with the reason and what to run, if one of these files is stale."""
        producers = {record.path: record for path in paths if (record := self.producer(path))}
        reasons = dict.fromkeys(
            reason
            for record in producers.values()
            if (found := self.lineage(record)).state == State.STALE
            for reason in found.reasons
        )
        if reasons:
            first, *others = reasons
            more = f" (and {len(others)} more: `emofuse verify` lists them)" if others else ""
            corpus = next(iter(producers.values())).key.get("corpus", "")
            raise UserError(f"stale: {first}{more}; run `snakemake {corpus} --cores 8`, which reruns the affected jobs")

    def _compare(self, record: Record) -> Finding:
        ran = f"`{record.command}` ran"
        try:
            settings = self.params.settings(record.stage, **record.key)
            kind, package = self.params.kind(record.key), self.params.package(record.key)
        except (UserError, KeyError, TypeError) as error:
            return Finding(State.LEFT_OVER, (f"params.yaml no longer includes `{record.command}`: {error}",))
        try:
            digest = code.digest(record.stage, kind, package, self.repository)
        except UserError as error:  # about the user's package
            return Finding(State.STALE, (str(error),))
        reasons = [f"{ran} with {difference}" for difference in differences(record.settings, settings)]
        if record.code != digest:
            reasons.append(f"{ran} with other code")
        missing = []
        for path, digest in record.inputs.items():
            producer = self.producer(path)
            now = producer.outputs[path] if producer else self.sha256(path)
            if now is None:
                missing.append(f"{path} and its record are absent")
            elif now not in (digest, record.details.get("accepted", {}).get(path)):
                reasons.append(f"{path} has changed since `{record.command}` read it")
        if reasons:
            return Finding(State.STALE, tuple(reasons))
        return Finding(State.UNCHECKABLE if missing else State.VERIFIED, tuple(missing))


def is_excused(record: Record, path: str) -> bool:
    """Whether a file may be absent: published folds come without their models."""
    return "adopted" in record.details and path.endswith(".safetensors")


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    """The differences between recorded and current settings, one per parameter, as text."""
    before, after = dict(leaves(recorded)), dict(leaves(current))
    for name in dict.fromkeys((*before, *after)):
        was, now = before.get(name), after.get(name)
        if was != now:
            yield f"{name} {_text(was)}; params.yaml has {_text(now)}"


def _text(value: Any) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)
