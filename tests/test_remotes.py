"""DVC's remotes, a folder, SSH and S3: pushed here, cloned and pulled there, nothing is left to do and the report is equal."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import micro
import pytest
import s3fs
import servers


@dataclass
class Remote:
    """Where DVC pushes to: its address, its other options, and the environment of one who may."""

    url: str
    options: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


# A folder is what tests/test_freshness.py pulls from, too.
@pytest.fixture(params=[pytest.param("folder", marks=pytest.mark.slow), "ssh", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    folder = tmp_path / "server"
    folder.mkdir()
    with ExitStack() as stack:
        if request.param == "folder":
            yield Remote(str(folder))
        elif request.param == "ssh":
            address, key, home = stack.enter_context(servers.ssh(folder))
            yield Remote(f"{address}{folder}/store", {"keyfile": str(key)}, {"HOME": str(home)})
        else:
            address, settings = stack.enter_context(servers.s3(folder))
            key, secret = settings["AWS_ACCESS_KEY_ID"], settings["AWS_SECRET_ACCESS_KEY"]
            s3fs.S3FileSystem(key=key, secret=secret, endpoint_url=address).mkdir("emofuse")
            yield Remote("s3://emofuse/dvc", {"endpointurl": address}, dict(settings))


def test_pushed_here_and_pulled_there(micro_run: Path, remote: Remote, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(micro_run, here, symlinks=True)
    micro.run(here, "dvc", "remote", "add", "-d", "lab", remote.url)
    for name, value in remote.options.items():
        micro.run(here, "dvc", "remote", "modify", "lab", name, value)
    micro.run(here, "dvc", "push", micro.PIPELINE, **remote.settings)
    micro.commit(here)
    micro.run(tmp_path, "git", "clone", "-q", str(here), str(there))
    assert not (there / "models").exists()
    micro.run(there, "dvc", "pull", micro.PIPELINE, **remote.settings)
    assert micro.agrees(there, "snakemake")
    assert micro.agrees(there, "dvc")
    assert micro.tables(there) == micro.tables(here)
    assert " stale" not in micro.run(there, "emofuse", "verify", "demo")
    if "endpointurl" in remote.options:  # once is enough: it is made of the same files
        micro.run(there, "emofuse", "report", "demo")
        assert micro.tables(there) == micro.tables(here)
