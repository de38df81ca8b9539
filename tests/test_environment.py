"""make and .venv: one that was not finished, was moved, or lost its interpreter is made anew; mistakes are one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import users
from conftest import ROOT

# A Python in name: it makes .venv, "installs" uv and emofuse, and fails or is killed where a file of that name is.
PYTHON = """#!/bin/sh
case "$*" in
    "-m venv --clear .venv")
        find .venv -mindepth 1 -delete 2>/dev/null; mkdir -p .venv/bin
        cp "$0" .venv/bin/python; cp "$0" .venv/bin/python3; echo "made by $0" >> log;;
    "-m pip"*)
        printf '#!/bin/sh\\nif [ -e fail ]; then exit 1; fi; if [ -e kill ]; then kill -9 $PPID; fi; UV >> log\\n' > .venv/bin/uv
        chmod +x .venv/bin/uv;;
    "-m emofuse.utils.user") touch .venv/installed;;
    "-I -c import emofuse") [ -e .venv/installed ];;
    *version_info*) VERSION;;
    *ensurepip*) VENV;;
    *) exit 9;;
esac
"""


def python(folder: Path, version: str = "true", venv: str = "true", uv: str = "echo uv") -> None:
    """A Python in its own folder; `version` and `venv` are commands that tell whether it is recent and has venv."""
    path = folder / "python3"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PYTHON.replace("VERSION", version).replace("VENV", venv).replace("UV", uv))
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "emofuse"
    folder.mkdir()
    for name in ("Makefile", "environment.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    python(tmp_path / "bin")
    return folder


def make(
    checkout: Path, *settings: str, status: int = 0, path: str = "", prefix: Sequence[str] = (), HOME: str = ""
) -> str:
    """The messages of `make .venv/.ready`; asserts whether it fails."""
    env = {"PATH": f"{path}{checkout.parent / 'bin'}:/usr/bin:/bin", "HOME": HOME or str(checkout.parent)}
    command = [*prefix, "make", ".venv/.ready", *settings]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == (status != 0), done
    return done.stderr


def change_lock_file(checkout: Path) -> None:
    """The same as changing it: .venv is older."""
    os.utime(checkout / ".venv/.ready", (0, 0))


def log(checkout: Path) -> list[str]:
    """What has been done since the last call: .venv made, or packages installed."""
    file = checkout / "log"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return ["make" if line.startswith("made") else line for line in lines]


WHOLE = ["make", "uv", "uv"]
UPDATE = ["uv", "uv"]


def test_it_is_made_once_and_updated_with_the_lock_file(checkout: Path) -> None:
    make(checkout)
    assert log(checkout) == WHOLE
    make(checkout)
    assert log(checkout) == []
    change_lock_file(checkout)
    make(checkout)
    assert log(checkout) == UPDATE


def test_an_old_python_is_one_line_and_the_next_make_uses_the_right_one(checkout: Path) -> None:
    python(checkout.parent / "old", version="false")
    printed = make(checkout, status=2, path=f"{checkout.parent}/old:")
    assert "make: python3 is older than Python 3.11; name a later one: make PYTHON=python3.11\n" in printed
    assert not (checkout / ".venv").exists()
    shutil.copytree(checkout.parent / "old", checkout / ".venv/bin")  # made by an earlier version of the Makefile
    make(checkout)
    assert log(checkout) == WHOLE


def test_an_activated_environment_does_not_make_itself(checkout: Path) -> None:
    python(checkout / ".venv/bin", version="false")
    make(checkout, path=f"{checkout}/.venv/bin:")
    assert log(checkout) == WHOLE


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["PYTHON=python3.99"], "make: python3.99: not found; install Python 3.11 or later with venv"),
        (["PYTHON=../novenv/python3"], "make: ../novenv/python3 has no venv; install it"),
    ],
)
def test_a_missing_python_is_one_line(checkout: Path, settings: list[str], message: str) -> None:
    python(checkout.parent / "novenv", venv="false")
    printed = make(checkout, *settings, status=2)
    assert printed.startswith(message)
    make(checkout)
    assert log(checkout) == WHOLE


@pytest.mark.parametrize("how", ["fail", "kill"])
def test_an_interrupted_one_is_made_anew(checkout: Path, how: str) -> None:
    (checkout / how).touch()
    make(checkout, status=2)
    (checkout / how).unlink()
    log(checkout)
    make(checkout)
    assert log(checkout) == WHOLE


def test_a_failed_update_keeps_it_and_an_interrupted_one_does_not(checkout: Path) -> None:
    make(checkout)
    for how, then in (("fail", UPDATE), ("kill", WHOLE)):
        change_lock_file(checkout)
        (checkout / how).touch()
        make(checkout, status=2)
        (checkout / how).unlink()
        log(checkout)
        make(checkout)
        assert log(checkout) == then, how


def test_a_moved_or_copied_checkout_gets_its_own(checkout: Path) -> None:
    make(checkout)
    copy = shutil.copytree(checkout, checkout.parent / "a copy")
    moved = checkout.rename(checkout.parent / "moved")
    for folder in (copy, moved):
        log(folder)
        make(folder)
        assert log(folder) == WHOLE
        make(folder)
        assert log(folder) == []


@pytest.mark.parametrize("how", ["dangling", "replaced"])
def test_without_its_interpreter_it_is_made_anew(checkout: Path, how: str) -> None:
    make(checkout)
    log(checkout)
    (checkout / ".venv/bin/python").unlink()
    (checkout / ".venv/bin/python3").unlink()
    if how == "dangling":
        (checkout / ".venv/bin/python").symlink_to("/nonexistent/python3.11")
        (checkout / ".venv/bin/python3").symlink_to("python")
    make(checkout)
    assert log(checkout) == WHOLE


@users.needed
def test_without_a_writable_home_packages_are_cached_inside(checkout: Path) -> None:
    python(checkout.parent / "bin", uv="echo $UV_CACHE_DIR")
    subprocess.run(["chown", "-R", str(users.UID), str(checkout)], check=True)
    make(checkout, HOME="/", prefix=users.nameless())
    assert log(checkout)[1:] == [f"{checkout}/.venv/.cache"] * 2


def test_every_python_of_the_environment_completes_the_user(tmp_path: Path) -> None:
    """What `make` installs: a line that works without the package, too."""
    from emofuse.utils import user

    (tmp_path / "emofuse-user.pth").write_text(user.START)
    program = f"import site; site.addsitedir({str(tmp_path)!r}); import os; print(os.environ.get('HOME'))"
    for source, home in ((ROOT / "src", True), (tmp_path, False)):
        env = {"PYTHONPATH": str(source), "PATH": os.environ["PATH"]}
        done = subprocess.run(
            [sys.executable, "-S", "-c", program], env=env, capture_output=True, text=True, check=True, cwd=tmp_path
        )
        assert done.stderr == ""
        assert (done.stdout.strip() != "None") == home
