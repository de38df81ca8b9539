"""Files from a web server that fails in every way that real ones do."""

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
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web import Server, serving

from emofuse.data.download import connection
from emofuse.data.download import http as remote
from emofuse.datasets import addresses as registry
from emofuse.datasets.addresses import Remote
from emofuse.utils.errors import UserError

CONTENT = random.Random(1).randbytes(1_000_000)
OTHER = random.Random(2).randbytes(1_000_000)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.001)
    monkeypatch.setattr(connection, "LOOK", 0.01)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as served:
        served.files["/file"] = CONTENT
        yield served


def at(*servers: Server, size: int | None = None, checksum: str = "") -> Remote:
    return Remote("file", tuple(f"{server.address}/file" for server in servers), size, checksum)


def known(*servers: Server) -> Remote:
    return at(*servers, size=len(CONTENT), checksum=f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")


def fetch(file: Remote, folder: Path) -> bytes:
    (path,) = remote.fetch([file], folder, "EMOFUSE_X_SOURCE")
    assert path == folder / "file"
    assert sorted(folder.iterdir()) == [path]
    return path.read_bytes()


def break_off(file: Remote, server: Server, folder: Path) -> None:
    """Fetch half of a file."""
    server.faults["/file"] = ["truncated", "404"]
    with pytest.raises(UserError):
        remote.fetch([file], folder, "X")
    assert (folder / ".file.part").stat().st_size > len(CONTENT) // 3


def out_of_reach() -> socket.socket:
    """A port of 127.0.0.1 at which nobody listens, taken as long as the socket is open."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken


@pytest.mark.parametrize(
    ("fault", "validator"),
    [("truncated", "etag"), ("truncated", "date"), ("truncated", ""), ("reset", "etag"), ("silent", "etag")],
)
def test_what_broke_off_goes_on_from_where_it_was(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, validator: str
) -> None:
    if fault == "silent":
        monkeypatch.setattr(remote, "SILENCE", 1.0)
    server.validator = validator
    server.faults["/file"] = [fault, fault]
    assert fetch(known(server), tmp_path) == CONTENT
    assert len(server.asked) == 3
    if fault != "reset":  # which takes with it what was on its way
        assert server.sent < len(CONTENT) + 4 * remote.BLOCK
        assert all(int(headers["Range"][6:-1]) >= len(CONTENT) // 3 for headers in server.headers[1:])


def test_a_host_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.faults["/file"] = ["truncated", "truncated 700000"]
    assert fetch(at(server), tmp_path) == CONTENT
    assert server.sent > 2 * len(CONTENT)


@pytest.mark.parametrize("validator", ["etag", "date", "weak", ""])
def test_two_versions_of_a_file_are_never_mixed(server: Server, tmp_path: Path, validator: str) -> None:
    server.validator = validator
    break_off(at(server), server, tmp_path)
    server.files["/file"] = OTHER
    assert fetch(at(server), tmp_path) == OTHER
    break_off(known(server), server, tmp_path)
    server.files["/file"] = CONTENT
    assert fetch(known(server), tmp_path) == CONTENT


def test_a_file_that_became_shorter_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    break_off(at(server), server, tmp_path)
    server.files["/file"] = CONTENT[:10]
    (tmp_path / ".file.version").unlink()
    checksum = f"md5:{hashlib.md5(CONTENT[:10]).hexdigest()}"
    assert fetch(at(server, checksum=checksum), tmp_path) == CONTENT[:10]


def test_a_killed_process_leaves_no_file_and_is_gone_on_from(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = ["silent"]
    program = (
        "import sys; from pathlib import Path; from emofuse.data import remote; from emofuse.datasets.addresses import Remote;"
        "remote.fetch([Remote('file', (sys.argv[1],))], Path(sys.argv[2]), 'X')"
    )
    child = subprocess.Popen([sys.executable, "-c", program, f"{server.address}/file", str(tmp_path)])
    part = tmp_path / ".file.part"
    while not (part.exists() and part.stat().st_size > 400_000):
        assert child.poll() is None
        time.sleep(0.01)
    assert not (tmp_path / "file").exists()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert fetch(at(server), tmp_path) == CONTENT
    assert int(server.headers[-1]["Range"][6:-1]) > 400_000


def test_a_process_killed_before_it_checked_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.part").write_bytes(CONTENT)
    assert fetch(known(server), tmp_path) == CONTENT
    assert server.asked == []


CUTS = st.lists(st.tuples(st.sampled_from(["truncated", "reset"]), st.integers(1, 300_000)), max_size=8)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=CUTS, ranges=st.booleans(), validator=st.sampled_from(["etag", "weak", "date", ""]))
def test_whatever_breaks_off_the_file_is_whole_or_absent(
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
        assert len(cuts) >= remote.TRIES


@pytest.mark.parametrize(
    ("faults", "tries", "reason"),
    [
        (["404"], 1, "the host answers 404 Not Found"),
        (["403"], 1, "the host answers 403 Forbidden"),
        (["503"] * 9, remote.TRIES, "the host answers 503 Service Unavailable"),
        (["429 0"] * 9, remote.TRIES, "the host answers 429 Too Many Requests"),
        (["429 3600"], 1, "the host answers 429 Too Many Requests and asks to wait 3600 s"),
        (["truncated 0"] * 9, remote.TRIES, "the connection broke before the end"),
        (["reset 0"] * 9, remote.TRIES, "the connection broke before the end"),
        (["silent 0"] * 9, 2, "the host falls silent"),
        (["wrong"] * 9, remote.TRIES, "what it sends is something else: its sha256 is"),
        (["long"] * 9, remote.TRIES, "what it sends is something else: it has 1,000,004 bytes, not 1,000,000"),
    ],
)
def test_a_fault_that_stays_is_one_line_and_no_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[str], tries: int, reason: str
) -> None:
    if faults[0].startswith("silent"):
        monkeypatch.setattr(remote, "SILENCE", 1.0)
        monkeypatch.setattr(remote, "TRIES", 2)
    server.faults["/file"] = faults
    with pytest.raises(UserError) as error:
        fetch(known(server), tmp_path)
    assert str(error.value).startswith(f"{server.address}/file: {reason}")
    assert f"put it at {tmp_path / 'file'}, or set EMOFUSE_X_SOURCE to a local copy" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.asked) == tries
    assert not (tmp_path / "file").exists()


def test_a_host_that_sends_something_new_each_time_is_not_given_up(server: Server, tmp_path: Path) -> None:
    server.faults["/file"] = ["truncated 90000"] * 2 * remote.TRIES
    assert fetch(known(server), tmp_path) == CONTENT


def test_nothing_but_the_length_is_needed_to_refuse_a_file(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = CONTENT * 20
    with pytest.raises(UserError, match="it has 20,000,000 bytes, not 1,000,000"):
        fetch(known(server), tmp_path)
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize("form", ["seconds", "date", "neither"])
def test_a_busy_host_is_left_alone_as_long_as_it_asks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append))
    wait = {"seconds": "120", "date": formatdate(time.time() + 120, usegmt=True), "neither": "soon"}[form]
    server.faults["/file"] = [f"429 {wait}", f"503 {wait}"]
    assert fetch(at(server), tmp_path) == CONTENT
    assert len(pauses) == 2
    assert all((100 < pause <= 120) == (form != "neither") for pause in pauses)


def test_the_pauses_grow(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(remote, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pauses.append))
    server.faults["/file"] = ["500"] * (remote.TRIES - 1)
    fetch(at(server), tmp_path)
    assert len(pauses) == remote.TRIES - 1
    assert all(later > sooner for sooner, later in pairwise(pauses))


def many(*servers: Server, count: int = 20) -> list[Remote]:
    files = []
    for number in range(count):
        data = bytes([number]) * 1000
        for server in servers:
            server.files[f"/{number}"] = data
        addresses = tuple(f"{server.address}/{number}" for server in servers)
        files.append(Remote(str(number), addresses, 1000, f"md5:{hashlib.md5(data).hexdigest()}"))
    return files


def test_small_files_by_the_thousand_share_a_connection(server: Server, tmp_path: Path) -> None:
    paths = remote.fetch(many(server), tmp_path, "X")
    assert [path.read_bytes()[:1] for path in paths] == [bytes([number]) for number in range(20)]
    assert len(server.asked) == 20
    assert server.connections == 1
    assert len(list(tmp_path.iterdir())) == 20


def test_many_processes_make_two_connections_to_a_host(server: Server, tmp_path: Path) -> None:
    for number in range(4):
        server.files[f"/{number}"] = b"content"
        server.faults[f"/{number}"] = ["paired"]
    program = (
        "import sys; from pathlib import Path; from emofuse.data import remote; from emofuse.datasets.addresses import Remote;"
        "remote.fetch([Remote('file', (sys.argv[1],))], Path(sys.argv[2]), 'X')"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", program, f"{server.address}/{number}", str(tmp_path / str(number))])
        for number in range(4)
    ]
    assert [child.wait() for child in children] == [0] * 4
    assert server.most_paired == connection.CONNECTIONS == 2
    assert {path.read_bytes() for path in tmp_path.glob("*/file")} == {b"content"}


def test_parallel_jobs_fetch_a_shared_file_once(server: Server, tmp_path: Path) -> None:
    jobs = [threading.Thread(target=remote.fetch, args=([known(server)], tmp_path, "X")) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert fetch(known(server), tmp_path) == CONTENT
    assert server.asked == ["/file"]


def test_what_one_host_lacks_another_has(server: Server, tmp_path: Path) -> None:
    with serving() as mirror:
        files = many(mirror, server)
        del mirror.files["/3"]
        mirror.files["/5"] = b"version https://git-lfs.github.com/spec/v1\n"
        mirror.faults["/7"] = ["wrong"] * 9
        mirror.faults["/9"] = ["truncated 500"]
        paths = remote.fetch(files, tmp_path, "X")
        assert [path.read_bytes()[:1] for path in paths] == [bytes([number]) for number in range(20)]
        assert server.asked == ["/3", "/5", "/7"]


def test_a_host_that_refuses_file_after_file_is_left(server: Server, tmp_path: Path) -> None:
    with serving() as mirror:
        files = many(mirror, server)
        mirror.files.clear()
        remote.fetch(files, tmp_path, "X")
        assert mirror.asked == ["/0", "/1", "/2"]
        assert len(server.asked) == 20


def test_a_dead_host_costs_one_file_its_time(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = many(server)
    with out_of_reach() as taken, caplog.at_level(logging.INFO):
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
        files = [Remote(f.path, (f"{dead}/{f.path}", *f.addresses), f.size, f.checksum) for f in files]
        remote.fetch(files, tmp_path, "X")
    assert len(server.asked) == 20
    assert caplog.text.count("the host cannot be reached; trying again") == remote.TRIES - 1
    assert f"the host cannot be reached; asking {server.address[7:]} from now on" in caplog.text


def test_where_no_address_has_a_file_one_line_names_all(server: Server, tmp_path: Path) -> None:
    server.files.clear()
    with out_of_reach() as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/file"
        with pytest.raises(UserError) as error:
            remote.fetch([Remote("file", (dead, f"{server.address}/file"))], tmp_path, "EMOFUSE_X_SOURCE")
    assert str(error.value) == (
        f"{dead}: the host cannot be reached; {server.address}/file: the host answers 404 Not Found."
        f" Fetch it by hand and put it at {tmp_path / 'file'}, or set EMOFUSE_X_SOURCE to a local copy"
        " (a folder, or the zips)"
    )


@pytest.mark.parametrize("address", ["http://", "nonsense", "ftp://127.0.0.1/file"])
def test_no_address_at_all_is_one_line(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match="not an address that can be fetched"):
        remote.fetch([Remote("file", (address,))], tmp_path, "X")


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_disk_without_room_is_one_line_before_anything_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(UserError, match=r"0\.0 GB are needed there and 0\.0 GB are free; free some"):
        fetch(at(server, size=size), tmp_path / "not" / "yet")
    assert not list(tmp_path.rglob("*part"))
    assert len(server.asked) == (size is None)


def test_a_disk_that_runs_full_is_one_line_and_what_was_fetched_stays(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    break_off(at(server), server, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(remote, "_version", full)
        with pytest.raises(UserError, match=r"cannot fetch to .*: No space left on device; free space"):
            fetch(at(server), tmp_path)
    assert fetch(at(server), tmp_path) == CONTENT
    assert int(server.headers[-1]["Range"][6:-1]) > len(CONTENT) // 3


def test_a_folder_that_cannot_be_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "archives").write_text("a file")
    with pytest.raises(UserError, match=r"cannot fetch to .*archives.*: Not a directory"):
        fetch(at(server), tmp_path / "archives")


def test_a_file_that_is_not_what_it_should_be_is_fetched_again(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"wrong")
    assert fetch(known(server), tmp_path) == CONTENT
    assert "file is not the file it should be: it has 5 bytes, not 1,000,000; fetching it again" in caplog.text
    assert fetch(known(server), tmp_path) == CONTENT
    assert len(server.asked) == 1


def test_a_log_gets_lines_and_a_terminal_a_bar(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "TELL", -1.0)
    with caplog.at_level(logging.INFO):
        fetch(known(server), tmp_path / "log")
    assert "fetching: 1 of 1 MB" in caplog.text
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


def test_the_registry_says_where_each_line_is_from() -> None:
    lines = (registry.REGISTRY / "addresses.csv").read_text().splitlines()
    assert all(line.split(",", 5)[5] for line in lines)
    assert all(address.startswith("https://") for file in registry.registry().values() for address in file.addresses)
    assert [address.split("/")[2] for address in registry.registry()["cremad"].addresses] == [
        "gitlab.com",
        "media.githubusercontent.com",
    ]


def test_the_clips_of_cremad_are_those_of_its_lfs_pointers(shared_data: Path) -> None:
    pointers = {}
    for line in (shared_data / "cremad" / "lfs_pointer_index.csv").read_text().splitlines()[1:]:
        path, size, checksum = line.split(",")
        pointers[path] = size, checksum
    lines = [line.split(",") for line in (registry.REGISTRY / "cremad_files.csv").read_text().splitlines()[1:]]
    listed = {f"VideoFlash/{clip}.flv": (size, checksum) for clip, size, checksum, *_ in lines}
    listed |= {f"AudioWAV/{clip}.wav": (size, checksum) for clip, _, _, size, checksum in lines}
    assert len(listed) == 2 * 7442
    assert listed == pointers
