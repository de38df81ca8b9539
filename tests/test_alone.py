"""Two Snakemakes in one folder get in each other's way, and so do two of one job; a killed one is in nobody's."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emofuse import alone as locks
from emofuse.alone import alone
from emofuse.errors import UserError
from emofuse.files import atomic
from emofuse.graph import Job

JOB = Job("download", ("demo", 0), (), (), ("data/demo/raw/shard-0.zip",))


def test_a_second_one_is_refused_until_the_first_has_ended_however(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from emofuse.alone import alone;"
        " alone(Path(sys.argv[1])); print('at work', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdout.readline() == "at work\n"
    with pytest.raises(UserError, match="another Snakemake is at work in this folder"):
        alone(tmp_path)
    alone(tmp_path.parent)  # in another folder it may
    first.send_signal(signal.SIGKILL)
    first.wait()
    alone(tmp_path)


def test_of_a_killed_job_nothing_is_left_when_it_has_run_again(tmp_path: Path) -> None:
    output, other = tmp_path / JOB.outputs[0], tmp_path / "data/demo/raw/shard-1.zip"
    program = "import os, signal, sys; from emofuse.files import atomic\nwith atomic(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    for path in (output, tmp_path / JOB.fingerprint, other):
        assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == -signal.SIGKILL
    assert len([path for path in tmp_path.rglob(".*") if path.is_file()]) == 3
    with locks.at(JOB, tmp_path), atomic(output) as temporary:
        assert [path for path in output.parent.iterdir() if path.name.startswith(".shard-0")] == [temporary]
        temporary.write_bytes(b"whole")
    (left,) = [path for path in tmp_path.rglob(".*.*") if path.is_file() and ".emofuse" not in path.parts]
    assert left.name.startswith(".shard-1.zip."), "of another job, which may be at work on it"


def test_a_job_is_done_by_one_process_at_a_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    begun, may_end, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with locks.at(JOB, tmp_path):
            begun.set()
            assert may_end.wait(60)
            order.append("first")

    worker = threading.Thread(target=first)
    worker.start()
    assert begun.wait(60)
    second = threading.Thread(target=lambda: _enter(tmp_path, order))
    second.start()
    second.join(0.5)
    assert order == []
    may_end.set()
    worker.join(60)
    second.join(60)
    assert order == ["first", "second"]
    assert "waiting: another process is at work on `emofuse download demo 0`" in caplog.text


def _enter(root: Path, order: list[str]) -> None:
    with locks.at(JOB, root):
        order.append("second")
