"""Users without an account, a home or a temporary folder, as in containers: commands work, or name the variable to set."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import micro
import pytest
import users
from conftest import ROOT

from emofuse import cli
from emofuse.provenance.records import commit
from emofuse.utils import user

VARIABLES = (*user.NAMES, "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TMPDIR")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without an account; a folder for temporary files."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: str(path).startswith(str(tmp_path)))  # root may write anywhere
    return tmp_path


def test_a_user_without_an_account_gets_a_name_and_folders(nobody: Path) -> None:
    user.complete()
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert os.environ["HOME"] == "/"


@pytest.mark.parametrize("home", ["{}/file", "{}/file/below", "/proc/nothing", "relative", ""])
def test_an_unwritable_home_is_replaced_by_a_private_cache(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    (nobody / "file").touch()
    monkeypatch.setenv("HOME", home.format(nobody))
    user.complete()
    cache = Path(os.environ["XDG_CACHE_HOME"])
    assert cache == nobody / f"emofuse-cache-{os.getuid()}"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert os.environ["MPLCONFIGDIR"] == str(cache / "matplotlib")


def test_the_folder_of_another_user_is_not_used(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc")
    (nobody / f"emofuse-cache-{os.getuid()}").symlink_to(nobody)
    user.complete()
    assert Path(os.environ["XDG_CACHE_HOME"]).lstat().st_mode & 0o777 == 0o700
    assert os.environ["XDG_CACHE_HOME"] != str(nobody / f"emofuse-cache-{os.getuid()}")


def test_what_is_set_and_works_is_kept(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOGNAME", "ada"), ("HOME", str(nobody)), ("XDG_CACHE_HOME", str(nobody / "a/b"))):
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    user.complete()
    assert dict(os.environ) == before


def test_no_temporary_folder_is_one_line(
    nobody: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp', '/usr/tmp', '/']")

    monkeypatch.setattr("tempfile.gettempdir", none)
    monkeypatch.setattr(cli.config, "schema", none)
    assert cli.main(["schema"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "set TMPDIR to a folder" in line


def as_nobody(folder: Path, *command: str, **settings: str) -> str:
    """The output of a command that such a user runs in a folder of their own, with what `make` installs."""
    hook = folder.parent / "hook"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(user.START)
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    env |= {"PATH": f"{micro.BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": f"{hook}:{folder / 'src'}"}
    env |= {micro.SOURCE: str(micro.source(folder)), "MLFLOW_DISABLE_TELEMETRY": "true", **settings}
    done = subprocess.run(
        users.nameless(*command), cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@users.needed
@pytest.mark.integration
def test_every_engine_works_without_an_account(micro_run: Path, tmp_path: Path) -> None:
    """With an unwritable home, and without one."""
    folder = micro.copied(micro_run, tmp_path)
    subprocess.run(["chown", "-R", str(users.UID), str(tmp_path)], check=True)
    assert "Nothing to be done" in as_nobody(folder, "snakemake", micro.CORPUS, "-n", HOME="/")
    assert "Nothing to be done" in as_nobody(folder, "snakemake", micro.CORPUS, "-n")
    as_nobody(folder, "dvc", "status", f"source@{micro.CORPUS}", HOME="/")
    as_nobody(folder, "dvc", "status", f"source@{micro.CORPUS}")
    clip, model = next(micro.source(folder).rglob("*.mp4")), f"models/{micro.CORPUS}/kfold_3/proposed/seed-1"
    printed = as_nobody(folder, "emofuse", "predict", str(clip), "--model", model, HOME="/nonexistent")
    assert "faces and sound, by proposed" in printed


@users.needed
def test_the_commit_is_known_in_a_repository_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").touch()
    micro.commit(tmp_path)
    subprocess.run(["chown", "-R", str(users.UID), str(tmp_path)], check=True)
    head, dirty = commit(tmp_path)
    assert head is not None
    assert len(head) == 40
    assert dirty is False


def test_data_as_a_link_is_one_line_for_dvc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "emofuse"
    folder.mkdir()
    for name in ("protocols", "corpora"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "params.yaml", folder)
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(folder)
    for name in ("data", "models/demo"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(tmp_path / "scratch")
        assert cli.main(["source", "demo"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{name} is a link to {tmp_path / 'scratch'}, and DVC versions nothing outside the repository" in line
        (folder / name).unlink()


@pytest.mark.integration
def test_snakemake_works_with_data_as_a_link_and_dvc_with_a_mount(dvc_run: Path, tmp_path: Path) -> None:
    folder, scratch = micro.copied(dvc_run, tmp_path), tmp_path / "scratch"
    (folder / "data").rename(scratch)
    (folder / "data").symlink_to(scratch)
    assert micro.agrees(folder, "snakemake")
    micro.change(folder, lambda loaded: loaded["variants"]["audio_only"].update(loss={"margin": 0.3}))
    assert "DVC versions nothing outside the repository" in micro.run(folder, *micro.DVC, status=None)
    micro.run(folder, *micro.SNAKEMAKE)
    (folder / "data").unlink()
    (folder / "data").mkdir()
    if subprocess.run(["mount", "--bind", str(scratch), str(folder / "data")], check=False).returncode:
        pytest.skip("mounting is not permitted")
    try:
        assert micro.agrees(folder, "dvc")
    finally:
        subprocess.run(["umount", str(folder / "data")], check=True)
