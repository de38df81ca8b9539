"""Copy the working tree, for benchmarks that run in a clone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def copy_tree(folder: Path) -> None:
    """Copy to `folder` all files of the current folder that git tracks or would add."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    for name in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if Path(name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(name, folder / name)
