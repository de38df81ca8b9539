"""Downloads from a web server that fails in the ways that real ones do."""

from __future__ import annotations

import hashlib
import io
import logging
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace

import pytest
from faulty_server import Server, serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emofuse.data.download import http
from emofuse.datasets import cremad, urls
from emofuse.datasets.urls import RemoteFile
from emofuse.utils import locks, progress
from emofuse.utils.errors import UserError

CONTENT = random.Random(1).randbytes(1_000_000)
OTHER = random.Random(2).randbytes(1_000_000)
FETCH = (
    "import sys; from pathlib import Path; from emofuse.data.download import http;"
    " from emofuse.datasets.urls import RemoteFile;"
    " http.fetch([RemoteFile('file', (sys.argv[1],))], Path(sys.argv[2]), 'X')"
)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACKOFF", 0.001)
    monkeypatch.setattr(locks, "POLL", 0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as served:
        served.files["/file"] = CONTENT
        yield served


def at(*servers: Server, size: int | None = None, checksum: str = "") -> RemoteFile:
    """The file at these servers, with what is known of it."""
    return RemoteFile("file", tuple(f"{server.address}/file" for server in servers), size, checksum)


def known(*servers: Server) -> RemoteFile:
    """The file with its size and checksum."""
    return at(*servers, size=len(CONTENT), checksum=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


def fetch(file: RemoteFile, folder: Path) -> bytes:
    (path,) = http.fetch([file], folder, "EMOFUSE_X_SOURCE")
    assert path == folder / "file"
    assert sorted(folder.iterdir()) == [path]
    return path.read_bytes()


def interrupt(file: RemoteFile, server: Server, folder: Path) -> None:
    """Download half of a file."""
    server.faults["/file"] = ["truncated", "404"]
    with pytest.raises(UserError):
        http.fetch([file], folder, "X")
    assert (folder / ".file.part").stat().st_size > len(CONTENT) // 3


def offset(headers: dict[str, str]) -> int:
    return int(headers["Range"].removeprefix("bytes=").removesuffix("-"))


def unreachable() -> socket.socket:
    """A port of 127.0.0.1 at which nobody listens, reserved while the socket is open."""
    reserved = socket.socket()
    reserved.bind(("127.0.0.1", 0))
    return reserved


@pytest.mark.parametrize(
    ("fault", "validator"),
    [("truncated", "etag"), ("truncated", "date"), ("truncated", ""), ("reset", "etag"), ("silent", "etag")],
)
def test_interrupted_download_resumes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, validator: str
) -> None:
    if fault == "silent":
        monkeypatch.setattr(http, "READ_TIMEOUT", 1.0)
    server.validator = validator
    server.faults["/file"] = [fault, fault]
    assert fetch(known(server), tmp_path) == CONTENT
    assert len(server.requested) == 3
    if fault != "reset":  # a reset discards what was in transit
        assert server.sent < len(CONTENT) + 4 * http.BLOCK
        assert all(offset(headers) >= len(CONTENT) // 3 for headers in server.headers[1:])


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.faults["/file"] = ["truncated", "truncated 700000"]
    assert fetch(at(server), tmp_path) == CONTENT
    assert server.sent > 2 * len(CONTENT)


@pytest.mark.parametrize("validator", ["etag", "date", "weak", ""])
def test_two_versions_of_a_file_are_never_mixed(server: Server, tmp_path: Path, validator: str) -> None:
    server.validator = validator
    interrupt(at(server), server, tmp_path)
    server.files["/file"] = OTHER
    assert fetch(at(server), tmp_path) == OTHER
    interrupt(known(server), server, tmp_path)
    server.files["/file"] = CONTENT
    assert fetch(known(server), tmp_path) == CONTENT


def test_file_that_has_become_shorter_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    interrupt(at(server), server, tmp_path)
    server.files["/file"] = CONTENT[:10]
    (tmp_path / ".file.validator").unlink()
    checksum = f"md5:{hashlib.md5(CONTENT[:10]).hexdigest()}"
    assert fetch(at(server, checksum=checksum), tmp_path) == CONTENT[:10]


def test_killed_process_leaves_no_file_and_its_download_is_resumed(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = ["silent"]
    child = subprocess.Popen([sys.executable, "-c", FETCH, f"{server.address}/file", str(tmp_path)])
    part = tmp_path / ".file.part"
    while not (part.exists() and part.stat().st_size > 400_000):
        assert child.poll() is None
        time.sleep(0.01)
    assert not (tmp_path / "file").exists()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert fetch(at(server), tmp_path) == CONTENT
    assert offset(server.headers[-1]) > 400_000


def test_complete_partial_file_is_verified_without_a_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(CONTENT)
    assert fetch(known(server), tmp_path) == CONTENT
    assert server.requested == []


CUTS = st.lists(st.tuples(st.sampled_from(["truncated", "reset"]), st.integers(1, 300_000)), max_size=8)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=CUTS, ranges=st.booleans(), validator=st.sampled_from(["etag", "weak", "date", ""]))
def test_file_is_complete_or_absent_whatever_breaks(
    server: Server, tmp_path_factory: pytest.TempPathFactory, cuts: list, ranges: bool, validator: str
) -> None:
    server.ranges, server.validator = ranges, validator
    server.files["/file"] = CONTENT[:300_000]
    server.faults["/file"] = [f"{fault} {after}" for fault, after in cuts]
    folder = tmp_path_factory.mktemp("any")
    try:
        assert fetch(at(server), folder) == CONTENT[:300_000]
    except UserError:
        assert not (folder / "file").exists()
        assert len(cuts) >= http.TRIES


@pytest.mark.parametrize(
    ("faults", "requests", "reason"),
    [
        (["404"], 1, "the server answers 404 Not Found"),
        (["403"], 1, "the server answers 403 Forbidden"),
        (["503"] * 9, http.TRIES, "the server answers 503 Service Unavailable"),
        (["429 0"] * 9, http.TRIES, "the server answers 429 Too Many Requests"),
        (["truncated 0"] * 9, http.TRIES, "the connection broke off"),
        (["reset 0"] * 9, http.TRIES, "the connection broke off"),
        (["silent 0"] * 9, 2, "no data for 1 seconds"),
        (["wrong"] * 9, http.TRIES, "the server sends something else: its sha256 is"),
        (["long"] * 9, http.TRIES, "the server sends something else: it has 1,000,004 bytes, not 1,000,000"),
    ],
)
def test_persistent_fault_is_one_line_and_no_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[str], requests: int, reason: str
) -> None:
    if faults[0].startswith("silent"):
        monkeypatch.setattr(http, "READ_TIMEOUT", 1.0)
        monkeypatch.setattr(http, "TRIES", 2)
    server.faults["/file"] = faults
    with pytest.raises(UserError) as error:
        fetch(known(server), tmp_path)
    assert str(error.value).startswith(f"{server.address}/file: {reason}")
    assert f"put it at {tmp_path / 'file'}, or set EMOFUSE_X_SOURCE to a local copy" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.requested) == requests
    assert not (tmp_path / "file").exists()


def test_server_that_sends_new_bytes_each_time_is_not_given_up(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = ["truncated 90000"] * 2 * http.TRIES
    assert fetch(known(server), tmp_path) == CONTENT


def test_wrong_length_is_refused_before_the_content(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = CONTENT * 20
    with pytest.raises(UserError, match="it has 20,000,000 bytes, not 1,000,000"):
        fetch(known(server), tmp_path)
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_respected_up_to_a_limit(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(http, "LONGEST_WAIT", 2)
    wait = {"seconds": "120", "date": formatdate(time.time() + 120, usegmt=True)}[form]
    server.faults["/file"] = [f"429 {wait}"]
    started = time.monotonic()
    assert fetch(at(server), tmp_path) == CONTENT
    assert 2 <= time.monotonic() - started < 60


def many(*servers: Server, count: int = 20) -> list[RemoteFile]:
    files = []
    for number in range(count):
        data = bytes([number]) * 1000
        for server in servers:
            server.files[f"/{number}"] = data
        where = tuple(f"{server.address}/{number}" for server in servers)
        files.append(RemoteFile(str(number), where, 1000, f"md5:{hashlib.md5(data).hexdigest()}"))
    return files


def test_many_small_files_share_a_connection(server: Server, tmp_path: Path) -> None:
    paths = http.fetch(many(server), tmp_path, "X")
    assert [path.read_bytes()[:1] for path in paths] == [bytes([number]) for number in range(20)]
    assert len(server.requested) == 20
    assert server.connections == 1
    assert len(list(tmp_path.iterdir())) == 20


def test_parallel_processes_share_two_connections_to_a_host(server: Server, tmp_path: Path) -> None:
    for number in range(4):
        server.files[f"/{number}"] = b"content"
        server.faults[f"/{number}"] = ["paired"]
    children = [
        subprocess.Popen([sys.executable, "-c", FETCH, f"{server.address}/{number}", str(tmp_path / str(number))])
        for number in range(4)
    ]
    assert [child.wait() for child in children] == [0] * 4
    assert server.most_paired == http.CONNECTIONS == 2
    assert {path.read_bytes() for path in tmp_path.glob("*/file")} == {b"content"}


def test_parallel_jobs_download_a_shared_file_once(server: Server, tmp_path: Path) -> None:
    jobs = [threading.Thread(target=http.fetch, args=([known(server)], tmp_path, "X")) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert fetch(known(server), tmp_path) == CONTENT
    assert server.requested == ["/file"]


def test_second_address_has_what_the_first_lacks(server: Server, tmp_path: Path) -> None:
    with serving() as mirror:
        files = many(mirror, server)
        del mirror.files["/3"]
        mirror.files["/5"] = b"version https://git-lfs.github.com/spec/v1\n"
        mirror.faults["/7"] = ["wrong"] * 9
        mirror.faults["/9"] = ["truncated 500"]
        paths = http.fetch(files, tmp_path, "X")
        assert [path.read_bytes()[:1] for path in paths] == [bytes([number]) for number in range(20)]
        assert server.requested == ["/3", "/5", "/7"]


def test_host_that_lacks_file_after_file_is_no_longer_tried_first(server: Server, tmp_path: Path) -> None:
    with serving() as mirror:
        files = many(mirror, server)
        mirror.files.clear()
        http.fetch(files, tmp_path, "X")
        assert mirror.requested == ["/0", "/1", "/2"]
        assert len(server.requested) == 20


def test_unreachable_host_delays_only_one_file(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = many(server)
    with unreachable() as reserved, caplog.at_level(logging.INFO):
        dead = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        files = [RemoteFile(f.path, (f"{dead}/{f.path}", *f.addresses), f.size, f.checksum) for f in files]
        http.fetch(files, tmp_path, "X")
    assert len(server.requested) == 20
    assert caplog.text.count("the server cannot be reached") == 1


def test_error_names_all_addresses(server: Server, tmp_path: Path) -> None:
    server.files.clear()
    with unreachable() as reserved:
        dead = f"http://127.0.0.1:{reserved.getsockname()[1]}/file"
        with pytest.raises(UserError) as error:
            http.fetch([RemoteFile("file", (dead, f"{server.address}/file"))], tmp_path, "EMOFUSE_X_SOURCE")
    assert str(error.value) == (
        f"{dead}: the server cannot be reached; {server.address}/file: the server answers 404 Not Found."
        f" Download it by hand and put it at {tmp_path / 'file'}, or set EMOFUSE_X_SOURCE to a local copy"
        " (a folder, or the zips)"
    )


@pytest.mark.parametrize("address", ["http://", "nonsense", "ftp://127.0.0.1/file"])
def test_invalid_address_is_one_line(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match="this address cannot be downloaded"):
        http.fetch([RemoteFile("file", (address,))], tmp_path, "X")


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_disk_without_space_is_one_line_before_anything_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(UserError, match=r"0\.0 GB are needed but 0\.0 GB are free; free some space"):
        fetch(at(server, size=size), tmp_path / "not" / "yet")
    assert not list(tmp_path.rglob("*part"))
    assert len(server.requested) == (size is None)


def test_full_disk_is_one_line_and_the_partial_file_stays(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    interrupt(at(server), server, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(progress.Meter, "advance", full)
        with pytest.raises(UserError, match=r"cannot download to .*: No space left on device; free some space"):
            fetch(at(server), tmp_path)
    assert fetch(at(server), tmp_path) == CONTENT
    assert offset(server.headers[-1]) > len(CONTENT) // 3


def test_impossible_folder_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archives").write_text("a file")
    with pytest.raises(UserError, match=r"cannot download to .*archives.*: Not a directory"):
        fetch(at(server), tmp_path / "archives")


def test_file_with_wrong_content_is_downloaded_again(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"wrong")
    assert fetch(known(server), tmp_path) == CONTENT
    assert "file is not the published file; downloading it again" in caplog.text
    assert fetch(known(server), tmp_path) == CONTENT
    assert len(server.requested) == 1


def test_progress_is_lines_in_a_log_and_a_bar_on_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", -1.0)
    with caplog.at_level(logging.INFO):
        fetch(known(server), tmp_path / "log")
    assert "downloading: 1 MB of 1 MB" in caplog.text
    caplog.clear()

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with caplog.at_level(logging.INFO):
        fetch(known(server), tmp_path / "terminal")
    assert "1.0/1.0 MB" in terminal.getvalue()
    assert "MB" not in caplog.text


def test_addresses_have_sources_and_use_https() -> None:
    lines = urls.URLS.read_text().splitlines()
    assert all(line.split(",", 5)[5] for line in lines)
    assert all(address.startswith("https://") for file in urls.addresses().values() for address in file.addresses)
    assert [address.split("/")[2] for address in urls.addresses()["cremad"].addresses] == [
        "gitlab.com",
        "media.githubusercontent.com",
    ]


def test_files_of_cremad_are_those_of_its_lfs_pointers(shared_data: Path) -> None:
    pointers = {}
    for line in (shared_data / "cremad" / "lfs_pointer_index.csv").read_text().splitlines()[1:]:
        path, size, checksum = line.split(",")
        pointers[path] = size, checksum
    lines = [line.split(",") for line in cremad.FILES.read_text().splitlines()[1:]]
    listed = {f"VideoFlash/{clip}.flv": (size, checksum) for clip, size, checksum, *_ in lines}
    listed |= {f"AudioWAV/{clip}.wav": (size, checksum) for clip, _, _, size, checksum in lines}
    assert len(listed) == 2 * 7442
    assert listed == pointers
