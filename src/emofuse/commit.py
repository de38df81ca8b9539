"""The commit that is checked out: which code and parameters a result was made with, for people."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

MADE_WITH = ("src", "params.yaml", "protocols", "requirements.lock")


def checked_out(root: Path) -> dict[str, Any]:
    """The hash of the `commit`, and whether what results are made with is `dirty`: changed since. {} without git.

    Results and locks are tracked too, and change as they are made: they are not asked.
    """
    try:
        commit, changes = (
            subprocess.run(["git", *command], cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *MADE_WITH])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit.strip(), "dirty": bool(changes.strip())}
