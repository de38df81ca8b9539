"""Whether results hold: the one place where a record is compared with the parameters, code and files of now.

The stages ask before they read, `emofuse verify` and `emofuse trace` ask for people, `emofuse adopt` before it registers
files that came from elsewhere.
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
    """What has become of a job's outputs, the worst last."""

    VERIFIED = 0
    LEFT_OVER = 1  # params.yaml no longer asks for it
    UNCHECKABLE = 2  # something of it is not here
    STALE = 3  # made with other parameters, code or inputs than those of now
    CORRUPTED = 4  # not what the job wrote

    def __str__(self) -> str:
        words = {State.LEFT_OVER: "no longer asked for", State.UNCHECKABLE: "not checkable here"}
        return words.get(self, self.name.lower())


@dataclass(frozen=True)
class Finding:
    """A state and the reasons for it."""

    state: State
    reasons: tuple[str, ...] = ()

    @classmethod
    def worst(cls, findings: Iterable[Finding]) -> Finding:
        """The worst state of some, with all the reasons given for it."""
        found = list(findings)
        state = max((each.state for each in found), default=State.VERIFIED)
        return cls(state, tuple(dict.fromkeys(why for each in found if each.state == state for why in each.reasons)))


class Chain:
    """The records under `root`, compared with `params`, the code, and the files there. Nothing is asked twice."""

    def __init__(self, params: Params, root: Path) -> None:
        self.params = params
        self.root = root
        self._makers: dict[str, Record | None] = {}
        self._hashes: dict[str, str | None] = {}
        self._current: dict[str, Finding] = {}
        self._whole: dict[str, Finding] = {}

    @cached_property
    def records(self) -> list[Record]:
        """Every record, sorted by path."""
        found = list(everything(self.root))
        self._makers |= {path: record for record in found for path in record.outputs}
        return found

    def maker(self, path: str) -> Record | None:
        """The record of the job that wrote a file."""
        if path not in self._makers:
            self._makers[path] = find(self.root, path)
        return self._makers[path]

    def sha256(self, path: str) -> str | None:
        """The SHA-256 of a file as it is; None if it is not here."""
        if path not in self._hashes:
            self._hashes[path] = content(self.root, path) if (self.root / path).is_file() else None
        return self._hashes[path]

    def current(self, record: Record) -> Finding:
        """Whether a job would do the same today: the same parameters, code and inputs, by the records of those."""
        if record.path not in self._current:
            self._current[record.path] = self._compare(record)
        return self._current[record.path]

    def intact(self, record: Record) -> Finding:
        """Whether a job's outputs are what it wrote."""
        changed = [p for p, digest in record.outputs.items() if self.sha256(p) not in (None, digest)]
        if changed:
            return Finding(State.CORRUPTED, tuple(f"{path} is not what `{record.command}` wrote" for path in changed))
        absent = [path for path in record.outputs if self.sha256(path) is None and not is_excused(record, path)]
        if absent:
            return Finding(State.UNCHECKABLE, tuple(f"{path} is not here" for path in absent))
        return Finding(State.VERIFIED)

    def upstream(self, record: Record) -> list[Record]:
        """The records of the jobs whose outputs a job read."""
        found = (self.maker(path) for path in record.inputs)
        return list({maker.path: maker for maker in found if maker}.values())

    def lineage(self, record: Record) -> Finding:
        """`current`, for a job and all jobs before it."""
        return Finding.worst(self.current(each) for each in self.back(record))

    def whole(self, record: Record) -> Finding:
        """`current` and `intact`, for a job and all jobs before it."""
        if record.path not in self._whole:
            # What a job finds that, by the records, read its own output.
            self._whole[record.path] = Finding(State.CORRUPTED, (f"{record.path}: the job read what it wrote",))
            before = [self.whole(each) for each in self.upstream(record)]
            self._whole[record.path] = Finding.worst([self.current(record), self.intact(record), *before])
        return self._whole[record.path]

    def back(self, *records: Record) -> Iterator[Record]:
        """Some jobs and all jobs before them, each once, backwards."""
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
        makers = {maker.path: maker for path in paths if (maker := self.maker(path))}
        reasons = dict.fromkeys(
            reason
            for record in makers.values()
            if (found := self.lineage(record)).state == State.STALE
            for reason in found.reasons
        )
        if reasons:
            first, *others = reasons
            more = f" (and {len(others)} more: `emofuse verify` lists them)" if others else ""
            corpus = next(iter(makers.values())).key.get("corpus", "")
            raise UserError(
                f"stale: {first}{more}; run `snakemake {corpus} --cores 8`, which reruns what that concerns"
            )

    def _compare(self, record: Record) -> Finding:
        ran = f"`{record.command}` ran"
        try:
            settings = self.params.settings(record.stage, **record.key)
            digest = code.digest(record.stage, self.params.kind(record.key))
        except (UserError, KeyError, TypeError) as error:
            return Finding(State.LEFT_OVER, (f"params.yaml does not ask for `{record.command}`: {error}",))
        reasons = [f"{ran} with {difference}" for difference in differences(record.settings, settings)]
        if record.code != digest:
            reasons.append(f"{ran} with other code than today's")
        missing = []
        for path, digest in record.inputs.items():
            maker = self.maker(path)
            now = maker.outputs[path] if maker else self.sha256(path)
            if now is None:
                missing.append(f"{path} is not here, nor a record of it")
            elif now not in (digest, record.details.get("accepted", {}).get(path)):
                reasons.append(f"{path} has changed since `{record.command}` read it")
        if reasons:
            return Finding(State.STALE, tuple(reasons))
        return Finding(State.UNCHECKABLE if missing else State.VERIFIED, tuple(missing))


def is_excused(record: Record, path: str) -> bool:
    """Whether a file may be absent: models of published folds are not published with them."""
    return "adopted" in record.details and path.endswith(".safetensors")


def differences(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> Iterator[str]:
    """How the settings of a record differ from those of now, in words, one parameter each."""
    before, after = dict(leaves(recorded)), dict(leaves(current))
    for name in dict.fromkeys((*before, *after)):
        was, now = before.get(name), after.get(name)
        if was != now:
            yield f"{name} {_shown(was)}; params.yaml says {_shown(now)}"


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)
