"""Fingerprints: what every artefact was made from, and whether that still holds.

A job ends by writing one, as JSON: its `inputs` and `outputs` with their SHA-256, its `stamps` (resolved parameters and
code hash of its stage), the `environment` and the `commit`. A `Chain` holds them against what is on disk, in params.yaml
and in the code: the same truth for both engines. DVC goes by hashes anyway; Snakemake goes by times, and `settle` makes
those say the same.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from emofuse import commit, fingerprints, graph, stamps
from emofuse.errors import UserError
from emofuse.files import sha256, write_json, write_text
from emofuse.graph import Job
from emofuse.params import Params, leaves

VERIFIED = "verified"
STALE = "stale"
UNCHECKABLE = "not checkable here"
STATES = (STALE, UNCHECKABLE, VERIFIED)  # of what has run, the worst first
NOT_RUN = "not run"
LOCK = "requirements.lock"
CACHE = ".emofuse/hashes.json"
LONG_AGO = 1_000_000_000  # ns since 1970: Snakemake takes 0 for no time at all


@dataclass(frozen=True)
class Finding:
    """What became of a job, one of the states above, and why."""

    state: str
    reasons: tuple[str, ...] = ()


def worst(findings: Sequence[Finding]) -> Finding:
    """The worst of some states, and all that is said for it."""
    state = next(state for state in STATES if any(found.state == state for found in findings))
    reasons = dict.fromkeys(reason for found in findings if found.state == state for reason in found.reasons)
    return Finding(state, tuple(reasons))


class Hashes:
    """SHA-256 of files under `root`, of which those that have not changed are not read again.

    A file is taken for unchanged while its size, times and inode are. They are kept for the next process; where that
    fails, it costs the time to read the files.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known = self._read()
        self._new: dict[str, list[Any]] = {}

    def of(self, path: str) -> str | None:
        """The hash of a file, by its path from the root; None where it is not there."""
        status = self._status(path)
        if status is None:
            return None
        known = self._new.get(path) or self._known.get(path)
        if known is None or known[:-1] != status:
            try:
                known = self._new[path] = [*status, sha256(self._root / path)]
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}); it has to be a readable file") from None
        return str(known[-1])

    def time(self, path: str) -> int | None:
        """When a file was last changed, in ns since 1970; None where it is not there."""
        status = self._status(path)
        return status[1] if status else None

    def set_time(self, path: str, when: int) -> None:
        """Set a file's time without forgetting its hash."""
        digest = self.of(path)
        try:
            os.utime(self._root / path, ns=(when, when))
        except OSError as error:
            raise UserError(f"cannot set the time of {path}: {error.strerror}; work in a copy that is yours") from None
        self._new[path] = [*(self._status(path) or ()), digest]

    def save(self) -> None:
        """Keep what was found."""
        if self._new:
            with suppress(UserError):
                write_text(self._root / CACHE, json.dumps(self._read() | self._new))

    def _status(self, path: str) -> list[int] | None:
        try:
            found = os.stat(f"{self._root}/{path}")  # noqa: PTH116 - asked some 50,000 times as Snakemake starts
        except (FileNotFoundError, NotADirectoryError):
            return None
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]

    def _read(self) -> dict[str, list[Any]]:
        try:
            known = json.loads((self._root / CACHE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        entries = known.items() if isinstance(known, dict) else ()
        return {path: entry for path, entry in entries if isinstance(entry, list)}


@contextmanager
def recorded(job: Job, params: Params, root: Path) -> Iterator[None]:
    """Run a job in this block, and write its fingerprint as it ends.

    Raises `UserError` where an input has changed meanwhile: what came of it was made of neither.
    """
    chain = Chain(params, root)
    hashes, made_with = chain.hashes, chain.stamps(job)
    inputs = {path: hashes.of(path) for path in job.inputs}  # None: missing, as the stage will say
    code = commit.checked_out(root)
    yield
    for path, before in inputs.items():
        if hashes.of(path) != before:
            raise UserError(f"{path} has changed while `emofuse {job}` read it: run that again")
    write_json(
        root / job.fingerprint,
        {
            "command": f"emofuse {job}",
            "inputs": inputs,
            "outputs": {path: hashes.of(path) for path in job.outputs},
            "stamps": made_with,
            "environment": environment(root),
            **code,
        },
    )
    hashes.of(job.fingerprint)
    hashes.save()


def environment(root: Path) -> dict[str, Any]:
    """What this process ran on; the device and how torch was set only where it was used."""
    made: dict[str, Any] = {
        "lock": sha256(root / LOCK) if (root / LOCK).is_file() else None,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": version("torch"),
    }
    if torch := sys.modules.get("torch"):
        made |= {
            "device": torch.cuda.get_device_name() if torch.cuda.is_initialized() else "cpu",
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
    return made


class Chain:
    """The jobs of params.yaml, and what their fingerprints are worth under `root`."""

    def __init__(self, params: Params, root: Path) -> None:
        self.params = params
        self.root = root
        self.hashes = Hashes(root)
        self._stamps: dict[str, dict[str, dict[str, Any]]] = {}
        self._fingerprints: dict[Job, dict[str, Any] | None] = {}
        self._own: dict[Job, Finding] = {}
        self._whole: dict[Job, Finding] = {}

    @cached_property
    def jobs(self) -> list[Job]:
        """Every job, each after those that it depends on."""
        return list(graph.jobs(self.params))

    @cached_property
    def makers(self) -> dict[str, Job]:
        """Output → the job that makes it."""
        return {path: job for job in self.jobs for path in (*job.outputs, job.fingerprint)}

    def fingerprint(self, job: Job) -> dict[str, Any] | None:
        """What the job left; None where it left nothing. Raises `UserError` for a broken file."""
        if job not in self._fingerprints:
            self._fingerprints[job] = fingerprints.read(self.root, job.stage, *job.arguments)
        return self._fingerprints[job]

    def missing(self, job: Job) -> list[str]:
        """Which of a job's outputs are not here."""
        return [path for path in job.outputs if self.hashes.of(path) is None]

    def outdated(self, job: Job) -> bool:
        """Whether what a job left has to be made again: stale, there in part, or without a fingerprint.

        Of a job that left nothing this says nothing: it is for whoever needs its outputs.
        """
        missing = self.missing(job)
        in_part = 0 < len(missing) < len(job.outputs)
        unsaid = len(missing) < len(job.outputs) and self.fingerprint(job) is None
        return in_part or unsaid or self.own(job).state == STALE

    def own(self, job: Job) -> Finding:
        """Whether a job's outputs are what it made of the inputs, parameters and code that are here now."""
        if job not in self._own:
            self._own[job] = self._look(job)
        return self._own[job]

    def whole(self, job: Job) -> Finding:
        """As `own`, for the job and all that it depends on, back to the clips: the worst state, and why."""
        if job not in self._whole:
            own = self.own(job)
            findings = [own]
            for maker in dict.fromkeys(self.makers[path] for path in job.inputs if path in self.makers):
                found = self.whole(maker)
                findings.append(Finding(UNCHECKABLE, found.reasons) if found.state == NOT_RUN else found)
            self._whole[job] = own if own.state == NOT_RUN else worst(findings)
        return self._whole[job]

    def stamps(self, job: Job) -> dict[str, dict[str, Any]]:
        """The stamps of a job as params.yaml and the code have them now: path → {"params", "code"}."""
        for corpus in {path.split("/")[1] for path in job.stamps} - self._stamps.keys():
            self._stamps[corpus] = stamps.current(corpus, self.params, self.root)
        return {path: self._stamps[path.split("/")[1]][path] for path in job.stamps}

    def _look(self, job: Job) -> Finding:
        missing = self.missing(job)
        recorded = self.fingerprint(job)
        if recorded is None:
            if len(missing) == len(job.outputs):
                return Finding(NOT_RUN, (f"`emofuse {job}` has not run",))
            return Finding(UNCHECKABLE, (f"no fingerprint says what {job.outputs[0]} was made from",))
        reasons = [
            f"`emofuse {job}` ran {difference}"
            for path, stamp in self.stamps(job).items()
            for difference in _differences(recorded["stamps"].get(path), stamp)
        ]
        read, wrote, reads = recorded["inputs"], recorded["outputs"], set(job.inputs)
        reasons += [f"`emofuse {job}` did not read {path}, as it would now" for path in job.inputs if path not in read]
        reasons += [f"`emofuse {job}` read {path}, as it would not now" for path in read if path not in reads]
        reasons += [f"`emofuse {job}` did not write {path}" for path in job.outputs if path not in wrote]
        absent = []
        for path in (path for path in job.inputs if path in read):
            now = self.hashes.of(path)
            if now is None:
                absent.append(path)
                now = self._said(path)
            if now not in (None, read[path]):
                reasons.append(f"{path} has changed since `emofuse {job}` read it")
        reasons += [
            f"{path} is not what `emofuse {job}` wrote"
            for path in job.outputs
            if path in wrote and self.hashes.of(path) not in (None, wrote[path])
        ]
        if reasons:
            return Finding(STALE, tuple(dict.fromkeys(reasons)))
        if missing or absent:
            return Finding(UNCHECKABLE, tuple(f"{path} is not here" for path in (*missing, *absent)))
        return Finding(VERIFIED)

    def _said(self, path: str) -> str | None:
        """The hash of a file that is not here, as the job that made it wrote down."""
        recorded = self.fingerprint(self.makers[path]) if path in self.makers else None
        return recorded["outputs"].get(path) if recorded else None


def refuse_stale(jobs: Iterable[Job], chain: Chain) -> None:
    """Raises `UserError`, with the reasons, if one of these jobs, or what it depends on, is out of date."""
    reasons = dict.fromkeys(
        reason for job in jobs if (found := chain.whole(job)).state == STALE for reason in found.reasons
    )
    if reasons:
        first, *others = reasons
        more = f" (and {len(others)} more: `emofuse verify` lists them)" if others else ""
        raise UserError(f"a number would be stale: {first}{more}; run `snakemake`, which makes anew what that concerns")


def settle(params: Params, root: Path) -> None:
    """Make files' times say what their fingerprints do, for Snakemake, which runs what is older than its inputs.

    What is up to date is made no older than its inputs, as it may be where another engine ran it or fetched it from a
    cache; what is not is made older. A job none of whose outputs is here is left to whoever needs them.
    """
    chain = Chain(params, root)
    now = time.time_ns()
    for job in chain.jobs:
        times = {path: chain.hashes.time(path) for path in (*job.outputs, job.fingerprint)}
        here = [path for path, when in times.items() if when is not None]
        if not here:
            continue
        oldest = min(times[path] or 0 for path in here)
        if chain.outdated(job):
            if oldest != LONG_AGO:
                chain.hashes.set_time(here[-1], LONG_AGO)
            continue
        newest = max((chain.hashes.time(path) or 0 for path in (*job.inputs, *job.stamps)), default=0)
        if oldest < newest:
            for path in here:
                chain.hashes.set_time(path, max(now, newest))
    chain.hashes.save()


def _differences(recorded: Any, current: Mapping[str, Any]) -> Iterator[str]:
    """How a stamp of a fingerprint differs from that of now, in words."""
    if recorded == current:
        return
    if not isinstance(recorded, dict) or not isinstance(recorded.get("params"), dict):
        yield "without the parameters that it has now"
        return
    before, after = dict(leaves(recorded["params"])), dict(leaves(current["params"]))
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) != after.get(name):
            was, is_now = (json.dumps(values.get(name), ensure_ascii=False) for values in (before, after))
            yield f"with {name} {was}, params.yaml says {is_now}"
    if recorded.get("code") != current["code"]:
        yield "with other code than it has now"
