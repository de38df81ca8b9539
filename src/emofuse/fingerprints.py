"""Where a job's fingerprint lies, and what it holds; `emofuse.provenance` writes them and judges by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emofuse.errors import UserError
from emofuse.files import read_json

_NAMES = {
    "download": "{}/download/shard-{}",
    "index": "{}/index",
    "faces": "{}/faces/shard-{}",
    "audio": "{}/audio/shard-{}",
    "splits": "{}/splits/{}",
    "train": "{}/train/{}/{}/seed-{}/fold-{}",
    "evaluate": "{}/evaluate/{}/{}/seed-{}/fold-{}",
    "track": "{}/track",
    "report": "{}/report",
    "paper": "paper",
}
STAGES = tuple(_NAMES)


def path(stage: str, *arguments: str | int) -> str:
    """The path of the fingerprint of `emofuse <stage> <arguments>`, from the repository's root."""
    return f"provenance/{_NAMES[stage].format(*arguments)}.json"


def read(root: Path, stage: str, *arguments: str | int) -> dict[str, Any] | None:
    """What a job left: {"command", "inputs", "outputs", "stamps", "environment", …}; None where it left nothing.

    Raises `UserError` for a file that is something else.
    """
    name = path(stage, *arguments)
    if not (root / name).is_file():
        return None
    found = read_json(root / name)
    if not _is_fingerprint(found):
        raise UserError(f"{name} is not a fingerprint: delete it and run its stage again")
    return dict(found)


def _is_fingerprint(found: Any) -> bool:
    match found:
        case {"inputs": dict(inputs), "outputs": dict(outputs), "stamps": dict(stamps), "environment": dict()}:
            hashes = (*inputs.values(), *outputs.values(), found.get("commit"))
            return all(isinstance(digest, str | None) for digest in hashes) and all(map(_is_stamp, stamps.values()))
    return False


def _is_stamp(found: Any) -> bool:
    match found:
        case {"params": dict(), "code": str()}:
            return True
    return False
