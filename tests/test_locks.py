"""One run at a time in a folder: a second is refused, and a killed one does not block others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emofuse.utils import locks
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, sweep

HOLD = (
    "import sys; from pathlib import Path; from emofuse.utils import locks;"
    " locks.hold(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def outermost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(locks.HELD, raising=False)


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_second_run_is_refused_until_the_first_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = holder(tmp_path)
    with pytest.raises(UserError, match=rf"another run is using this folder \(process {first.pid}\)"):
        locks.hold(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    locks.hold(other)
    monkeypatch.delenv(locks.HELD)
    first.send_signal(signal.SIGKILL)
    first.wait()
    locks.hold(tmp_path)


def test_jobs_of_the_run_that_holds_the_lock_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = holder(tmp_path)
    monkeypatch.setenv(locks.HELD, str(tmp_path.resolve()))
    locks.hold(tmp_path)
    first.kill()
    first.wait()


@pytest.mark.skipif(os.getuid() == 0 and not Path("/proc").is_dir(), reason="root may write anywhere")
def test_folder_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".snakemake").write_text("a file, where the folder of the lock should be")
    with pytest.raises(UserError, match="cannot lock"):
        locks.hold(tmp_path)


def test_only_temporary_files_of_killed_processes_are_swept(tmp_path: Path) -> None:
    kill = "import os, signal, sys; from emofuse.utils.files import atomic\nwith atomic(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    for name in ("shard-0.zip", "shard-1.zip"):
        done = subprocess.run([sys.executable, "-c", kill, str(tmp_path / name)], check=False)
        assert done.returncode == -signal.SIGKILL
    (tmp_path / ".hidden").touch()
    sweep([tmp_path / "shard-0.zip"])
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    assert left[0] == ".hidden"
    assert left[1].startswith(".shard-1.zip.")
    with atomic(tmp_path / "shard-0.zip") as temporary:
        temporary.write_bytes(b"whole")
    assert (tmp_path / "shard-0.zip").read_bytes() == b"whole"
