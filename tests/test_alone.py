"""Two Snakemakes in one folder get in each other's way; a killed one is in nobody's."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emofuse.alone import alone
from emofuse.errors import UserError


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
