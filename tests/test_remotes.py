"""DVC's remotes, a folder, SSH and S3: pushed here, cloned and pulled there, nothing is left to do and the report is equal."""

from __future__ import annotations

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


# The tests pull from a folder anyway.
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


@pytest.mark.integration
def test_pushed_here_and_pulled_there(dvc_run: Path, remote: Remote, tmp_path: Path) -> None:
    here = micro.copied(dvc_run, tmp_path / "here")
    micro.run(here, "dvc", "remote", "add", "-d", "lab", remote.url)
    for name, value in remote.options.items():
        micro.run(here, "dvc", "remote", "modify", "lab", name, value)
    micro.run(here, "dvc", "push", "--remote", "lab", **remote.settings)
    micro.commit(here, "remote")
    there = tmp_path / "there" / "emofuse"
    there.parent.mkdir()
    micro.run(tmp_path, "git", "clone", "-q", str(here), str(there))
    assert not (there / "models").exists()
    micro.run(there, "dvc", "pull", "--remote", "lab", "--allow-missing", **remote.settings)
    micro.run(there, "emofuse", "adopt")
    assert micro.agrees(there, "snakemake")
    assert micro.ran(micro.run(there, "dvc", "repro", "--allow-missing", f"report@{micro.CORPUS}")) == set()
    assert micro.made(there) == micro.made(here)
    assert "stale" not in micro.run(there, "emofuse", "verify", micro.CORPUS)
