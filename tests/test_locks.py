"""One run at a time in a folder: a second is refused, and a killed one does not block others."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import micro
import nolocks
import pytest
from conftest import ROOT
from filelock import Timeout

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


WITHOUT = pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int, below: Path = Path("/")) -> None:
    """File systems below a folder have no locks."""
    flock = fcntl.flock

    def fail(descriptor: int, operation: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_relative_to(below):
            raise OSError(number, os.strerror(number))
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", fail)


@WITHOUT
def test_without_locks_a_run_starts_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    without_locks(monkeypatch, number)
    locks.hold(tmp_path)
    locks.hold(tmp_path)
    assert caplog.messages == [f"{tmp_path}: its file system has no locks: start no second run in this folder"]


@WITHOUT
@pytest.mark.parametrize("content", ["", "12345\nsomewhere\n"])
@pytest.mark.timeout(60)
def test_an_old_lock_file_is_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, content: str
) -> None:
    """Such as filelock leaves where it locks by the existence of the file, with the id of its process."""
    path = tmp_path / "file.lock"
    path.write_text(content)
    without_locks(monkeypatch, number)
    for _ in range(2):
        with locks.locked(path):
            pass


@pytest.mark.timeout(60)
def test_without_locks_in_its_folder_processes_of_a_machine_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    (tmp_path / "local").mkdir()
    (tmp_path / "nfs").mkdir()
    without_locks(monkeypatch, errno.ENOLCK, tmp_path / "nfs")
    locks.hold(tmp_path / "nfs")
    assert caplog.messages[0].endswith("start no second run in this folder on another machine")
    monkeypatch.delenv(locks.HELD)
    with pytest.raises(UserError, match="another run is using this folder"):
        locks.hold(tmp_path / "nfs")
    with locks.locked(tmp_path / "nfs/file.lock"), pytest.raises(Timeout), locks.locked(tmp_path / "nfs/file.lock", 0):
        pass


@WITHOUT
def test_without_locks_a_resource_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    without_locks(monkeypatch, number)
    with locks.one_of(["a", "b"], tmp_path / "gpus", "GPUs") as index:
        assert index in (0, 1)
    (message,) = caplog.messages
    assert "set TMPDIR to a local folder" in message


def test_no_module_locks_by_itself() -> None:
    """filelock by default falls back to locks that outlive a killed process."""
    for path in (ROOT / "src").rglob("*.py"):
        assert path.name == "locks.py" or "filelock import" not in path.read_text(), path


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "number",
    [pytest.param(errno.ENOLCK, marks=pytest.mark.integration), pytest.param(errno.ENOSYS, marks=pytest.mark.slow)],
)
def test_a_run_on_a_file_system_without_locks(micro_run: Path, tmp_path: Path, number: int) -> None:
    folder = micro.copied(micro_run, tmp_path)
    micro.change(folder, lambda loaded: loaded["variants"]["audio_only"].update(loss={"margin": 0.3}))
    for file in folder.glob("mlflow.db*"):
        file.unlink()
    printed = micro.run(folder, *micro.SNAKEMAKE, **nolocks.settings(tmp_path, number))
    assert "its file system has no locks: start no second run in this folder" in printed
    assert {status for _, status in micro.runs(folder)} == {"FINISHED"}
    (folder / ".dvc/tmp/lock").unlink(missing_ok=True)
    micro.run(folder, "dvc", "config", "--local", "core.hardlink_lock", "true")
    micro.run(folder, "dvc", "status", f"source@{micro.CORPUS}", **nolocks.settings(tmp_path, number))
