"""Commands as a user without an account, as in containers."""

from __future__ import annotations

import os
import shutil

import pytest

UID = 12345
CAPABILITY = "+dac_read_search"  # to read what belongs to root, such as the folder of the tests; not to write

needed = pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setpriv") is None, reason="to run as another user, root and setpriv are required"
)


def nameless(*command: str) -> list[str]:
    """The command as a user without an account."""
    ids = [f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    return ["setpriv", *ids, f"--inh-caps={CAPABILITY}", f"--ambient-caps={CAPABILITY}", *command]
