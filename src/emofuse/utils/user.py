"""The user's name and folders for users without an account or a writable home, as in containers.

torch, Snakemake and DVC end with a traceback if the operating system has no name for the user, and Snakemake does if it cannot
write to the user's cache. `make` has every Python of .venv call `complete` when it starts (see `install`), because Snakemake and
DVC need it before they read a file of this repository.
"""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")  # where getpass looks for the user's name
# The line may not fail if the package has been removed or moved.
START = "import sys; exec('try:\\n from emofuse.utils import user; user.complete()\\nexcept ImportError: pass')\n"


def complete() -> None:
    """Set USER, HOME, XDG_CACHE_HOME and MPLCONFIGDIR where they are needed and cannot be used as they are."""
    named, home = any(os.environ.get(name) for name in NAMES), Path(os.environ.get("HOME", ""))
    if not (named and home.is_absolute()):
        try:
            account = pwd.getpwuid(os.getuid())
        except KeyError:
            account = None
            if not named:
                os.environ["USER"] = f"uid-{os.getuid()}"
        if not home.is_absolute():
            home = Path(account.pw_dir if account else "/")
            os.environ["HOME"] = str(home)
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not _writable(cache if cache.is_absolute() else home / ".cache"):
        with suppress(OSError):  # without a temporary folder, the libraries' own messages are as good
            private = _private()
            os.environ["XDG_CACHE_HOME"] = str(private)
            os.environ.setdefault("MPLCONFIGDIR", str(private / "matplotlib"))


def _writable(folder: Path) -> bool:
    """Whether files can be created in a folder, or the folder itself."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)  # noqa: PTH112  # also if it may not be looked at


def _private() -> Path:
    """A folder of this user alone for caches in the temporary folder. Raises `OSError` if there is no temporary folder."""
    import tempfile

    folder = Path(tempfile.gettempdir(), f"emofuse-cache-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(0o700)
    found = folder.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700:
        return folder
    return Path(tempfile.mkdtemp(prefix="emofuse-cache-"))  # another user has created it


def install() -> None:
    """Have every Python of this environment call `complete` when it starts."""
    import sysconfig

    Path(sysconfig.get_path("purelib"), "emofuse-user.pth").write_text(START, encoding="utf-8")


if __name__ == "__main__":
    install()
