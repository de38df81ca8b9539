"""Records: the inputs, outputs, settings and code of each job, as JSON next to its outputs.

    {"stage": "train", "key": {"corpus": "demo", …}, "settings": {"network": {…}, …}, "code": SHA-256,
     "inputs": {path: SHA-256}, "outputs": {path: SHA-256},                                        ← hashed
     "hash": SHA-256 of the above, "commit": …, "environment": {…}, "finished": …, "details": {…}} ← not hashed

A bit-identical rerun has the same hash, regardless of when and where it ran. A record that is itself an input is therefore
compared by its hash.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Self

from emofuse.paths import RunKey
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_json, sha256, write_json

SUFFIX = "record.json"
LOCK = "requirements.lock"
FOLDERS = ("data", "models", "results")  # the folders of outputs
# The tracked files that results are made from. results/published and dvc.lock are tracked too, but change with every run.
SOURCES = ("src", "params.yaml", "corpora", "protocols", "literature", "requirements.lock")


@dataclass(frozen=True)
class Record:
    """The record of one job. `path` is that of the record itself, relative to the root of the repository."""

    path: str
    stage: str
    key: Mapping[str, Any]
    settings: Mapping[str, Mapping[str, Any]]
    code: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    commit: str | None = None
    dirty: bool | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    finished: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """The SHA-256 of the hashed part."""
        text = json.dumps(self._hashed(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def command(self) -> str:
        """The command that writes the outputs."""
        return " ".join(["emofuse", self.stage, *map(str, self.key.values())])

    @property
    def run(self) -> RunKey:
        """The run of a training or an evaluation, or the one that was applied to another corpus.

        Raises `UserError` if the key of the record is not that of a run.
        """
        key = dict(self.key)
        corpus = key.pop("source", key.get("corpus"))
        try:
            return RunKey(**{**key, "corpus": corpus})
        except TypeError:
            raise _invalid(self.path) from None

    def write(self, root: Path) -> None:
        """Write the record to its path."""
        alongside = {"commit": self.commit, "dirty": self.dirty, "environment": dict(self.environment)}
        alongside |= {"finished": self.finished, "details": dict(self.details)}
        write_json(root / self.path, {**self._hashed(), "hash": self.hash, **alongside})

    def _hashed(self) -> dict[str, Any]:
        names = ("stage", "key", "settings", "code", "inputs", "outputs")
        return {name: value if isinstance(value := getattr(self, name), str) else dict(value) for name in names}

    @classmethod
    def read(cls, root: Path, path: str) -> Self | None:
        """The record at a path; None if there is no file. Raises `UserError` if the file is not a valid record."""
        if not (root / path).is_file():
            return None
        found = read_json(root / path)
        try:
            stated = found.pop("hash")
            record = cls(path, **found)
            mappings = (record.key, record.settings, record.inputs, record.outputs, record.environment, record.details)
            hashes = (stated, record.stage, record.code, *record.inputs.values(), *record.outputs.values())
            intact = all(isinstance(each, dict) for each in mappings) and all(isinstance(each, str) for each in hashes)
            intact = intact and all(isinstance(each, dict) for each in record.settings.values())
            intact = intact and isinstance(record.commit, str | None)
            intact = intact and isinstance(record.details.get("accepted", {}), dict)
            intact = intact and all(map(_is_path, record.inputs)) and all(map(_is_result, record.outputs))
        except (TypeError, KeyError, AttributeError):
            raise _invalid(path) from None
        if not intact or record.hash != stated:
            raise _invalid(path)
        return record


def _invalid(path: str) -> UserError:
    return UserError(f"{path} is not a valid record (edited or damaged): delete it, and run its job again")


def _is_path(path: str) -> bool:
    short = len(path.encode()) < 256 or all(len(part.encode()) < 256 for part in path.split("/"))
    return short and path.isprintable()


def _is_result(path: str) -> bool:
    """Whether a path is in an output folder. Files that a record names as outputs may be overwritten or deleted."""
    parts = PurePosixPath(path).parts
    return _is_path(path) and len(parts) > 1 and parts[0] in FOLDERS and ".." not in parts


def find(root: Path, path: str) -> Record | None:
    """The record of the job that wrote a file: next to it, or `record.json` in its folder or the parent folder.

    The records of raw clips are in download/, next to raw/.
    """
    folder = Path(path).parent
    stem = path.rpartition(".")[0]
    if folder.name == "raw":
        stem = f"{folder.parent}/download/{Path(path).stem}"
    for place in (f"{stem}.{SUFFIX}", f"{folder}/{SUFFIX}", f"{folder.parent}/{SUFFIX}"):
        record = Record.read(root, place)
        if record and path in record.outputs:
            return record
    return None


def content(root: Path, path: str) -> str:
    """The SHA-256 of a file; for a record, that of its hashed part."""
    if path.endswith(SUFFIX) and (record := Record.read(root, path)):
        return record.hash
    return sha256(root / path)


def everything(root: Path) -> Iterator[Record]:
    """Every record of the working directory, without published ones."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob(f"*{SUFFIX}")):
            name = path.relative_to(root).as_posix()
            if not name.startswith("results/published/") and (record := Record.read(root, name)):
                yield record


def commit(root: Path, packages: Iterable[str] = ()) -> tuple[str | None, bool | None]:
    """The current commit, and whether SOURCES and packages of the user have uncommitted changes; None without git."""
    sources = [*SOURCES, *(path for name in packages for path in (name, f"{name}.py"))]
    # git refuses a repository of another user, as in a container; that this one is trusted shows in that its code is running.
    git = ["git", "-c", f"safe.directory={root.resolve()}"]
    try:
        head, changes = (
            subprocess.run([*git, *command], cwd=root, capture_output=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *sources])
        )
    except (OSError, subprocess.SubprocessError):
        return None, None
    return head.decode().strip(), bool(changes.strip())


def environment(root: Path) -> dict[str, Any]:
    """The software and hardware of this process. Device and settings of torch are included only if torch was used."""
    found: dict[str, Any] = {
        "lock": sha256(root / LOCK) if (root / LOCK).is_file() else None,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "torch": version("torch"),
    }
    if torch := sys.modules.get("torch"):
        found |= {
            "device": torch.cuda.get_device_name() if torch.cuda.is_initialized() else "cpu",
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
    return found
