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
    kinds = {"inputs": dict, "outputs": dict, "stamps": dict, "environment": dict}
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        raise UserError(f"{name} is not a fingerprint: delete it and run its stage again")
    return found
