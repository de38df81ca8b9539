"""DVC remotes (folder, SSH, S3): after a push, a clone and a pull, nothing has to be rerun and the report is the same."""

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
    """A DVC remote: its address, other options, and the environment variables for access."""

    url: str
    options: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)


# Other tests already pull from a folder.
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
def test_results_pushed_to_a_remote_are_complete_in_a_clone(dvc_run: Path, remote: Remote, tmp_path: Path) -> None:
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
    assert micro.outputs(there) == micro.outputs(here)
    assert "stale" not in micro.run(there, "emofuse", "verify", micro.CORPUS)
