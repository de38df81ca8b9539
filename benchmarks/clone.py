"""A copy of the working tree, for benchmarks that run in one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def copy_tree(folder: Path) -> None:
    """Put there what git tracks in the current folder, or would add."""
    listed = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines():
        if Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)
