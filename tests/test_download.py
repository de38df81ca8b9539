"""Clips from folders, zips and a web server to shards, and what is said where that fails."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import socket
import stat
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_corpora import corpus

from emofuse import download, remote, weights
from emofuse.corpora import base, cremad, ravdess
from emofuse.errors import UserError
from emofuse.params import Demo
from emofuse.remote import Remote

FIRST = "03-01-03-01-01-01-01.wav"
SECOND = "03-01-04-01-01-01-02.wav"
RECORD = "/records/1188976/files"


class Server(ThreadingHTTPServer):
    """Answers a path with its file, after the faults that are queued for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.asked: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        fault = self.server.faults[path].pop(0) if self.server.faults[path] else ""
        data = self.server.files.get(path)
        if fault.isdigit() or data is None:
            self.send_response(int(fault or 404))
            if fault == "429":
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "wrong":
            data = bytes(len(data))
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault in ("truncated", "silent") else data)
        if fault == "silent":
            threading.Event().wait(1)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    served = Server()
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.shutdown()
    thread.join()
    served.server_close()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def folder_of(root: Path, members: dict[str, bytes]) -> Path:
    for name, data in members.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def sounds(**changes: object):
    return corpus("ravdess", modalities=["audio"], shards=[0, 1], **changes)


def pictures(**changes: object):
    return corpus("ravdess", shards=[0, 1], **changes)


def shard(root: Path, number: int = 0, name: str = "voices") -> Path:
    return root / "data" / name / "raw" / f"shard-{number}.zip"


def contents(path: Path) -> dict[str, bytes]:
    return {name: base.read_member(path, name) for name in base.members(path)}


def leftovers(folder: Path) -> list[str]:
    """Files that are no locks, under any name."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock-"))


CLIPS = {f"Actor_01/{FIRST}": b"one", f"Actor_02/{SECOND}": b"two"}


@pytest.mark.parametrize(
    "layout",
    [
        lambda root: folder_of(root, CLIPS),
        lambda root: folder_of(root, {FIRST: b"one", f"deep/er/{SECOND}": b"two", "readme.txt": b""}),
        lambda root: folder_of(root, {"a/All.zip": zipped(CLIPS)}),
        lambda root: folder_of(root, {"a.zip": zipped({f"x/{FIRST}": b"one"}), f"y/{SECOND}": b"two"}),
        lambda root: folder_of(root, {"All.zip": zipped(CLIPS)}) / "All.zip",
        # Copies, and what file managers leave behind, change nothing.
        lambda root: folder_of(root, {**CLIPS, f"too/{FIRST}": b"one", f"__MACOSX/._{FIRST}": b"", f"._{FIRST}": b""}),
        # Other modalities and channels of the same corpus are none of this one's clips.
        lambda root: folder_of(root, {**CLIPS, "01-01-03-01-01-01-01.mp4": b"", "03-02-03-01-01-01-01.wav": b""}),
    ],
)
def test_any_local_layout_gives_the_same_shards(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    source = layout(tmp_path / "source")
    for number in (0, 1):
        download.run("voices", sounds(), number, str(source), tmp_path)
    assert contents(shard(tmp_path)) == CLIPS
    assert contents(shard(tmp_path, 1)) == {}
    base.write_shard(tmp_path / "expected.zip", CLIPS.items())
    assert shard(tmp_path).read_bytes() == (tmp_path / "expected.zip").read_bytes()


def test_absent_actors_of_all_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_of(tmp_path / "source", CLIPS)
    with caplog.at_level(logging.WARNING):
        download.run("voices", sounds(), 0, str(source), tmp_path)
    assert "no clip of actors 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 is there" in caplog.text


def test_named_actors_are_dealt_among_themselves(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", CLIPS)
    for number in (0, 1):
        download.run("voices", sounds(actors=[2, 1]), number, str(source), tmp_path)
    assert base.members(shard(tmp_path, 1)) == [f"Actor_02/{SECOND}"]


@pytest.mark.parametrize(
    ("changes", "files", "message"),
    [
        ({"actors": [1, 3]}, CLIPS, "corpora.voices.actors: no clip of 3 in"),
        ({"actors": [1, 30]}, CLIPS, "corpora.voices.actors: there is no actor 30; there are 1 to 24"),
        (
            {},
            {"readme.txt": b""},
            "see corpora.voices in params.yaml and EMOFUSE_VOICES_SOURCE",
        ),
        ({}, {"wrong-name.wav": b""}, "no clip of voices is there"),
        ({}, {f"a/{FIRST}": b"one", f"b/{FIRST}": b"other"}, "two files differ"),
        ({}, {FIRST: b"one", FIRST.replace("wav", "flac"): b"other"}, "two files differ"),
        ({}, {"all.zip": b"no zip"}, "all.zip is not a zip file"),
        ({}, {"all.zip": zipped({f"../{FIRST}": b""})}, "leaves the folder"),
        ({}, {"all.zip": zipped({f"/tmp/{FIRST}": b""})}, "leaves the folder"),
        ({}, {"all.zip": zipped({f"a\\..\\..\\{FIRST}": b""})}, "leaves the folder"),
        ({}, {"all.zip": zipped({f"C:/{FIRST}": b""})}, "leaves the folder"),
    ],
)
def test_an_unusable_source_is_one_line(tmp_path: Path, changes: dict, files: dict, message: str) -> None:
    source = folder_of(tmp_path / "source", files)
    with pytest.raises(UserError) as error:
        download.run("voices", sounds(**changes), 0, str(source), tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert leftovers(tmp_path / "data") == []


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "all.zip"
    link = zipfile.ZipInfo(FIRST)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        download.run("voices", sounds(), 0, str(source), tmp_path)


def test_a_damaged_member_is_refused_and_leaves_no_shard(tmp_path: Path) -> None:
    source = tmp_path / "all.zip"
    base.write_shard(source, [(FIRST, b"sound" * 100)])
    source.write_bytes(source.read_bytes().replace(b"soundsound", b"soundSOUND", 1))
    with pytest.raises(UserError, match=f"{FIRST} cannot be read"):
        download.run("voices", sounds(), 0, str(source), tmp_path)
    assert leftovers(tmp_path / "data") == []


@pytest.mark.parametrize(("source", "message"), [(None, "there is none"), ("/no/such/folder", "there is no /no/such")])
def test_a_missing_source_names_the_setting(tmp_path: Path, source: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        download.run("voices", sounds(), 0, source, tmp_path)
    assert "EMOFUSE_VOICES_SOURCE" in str(error.value)


def test_wrong_names_go_along(tmp_path: Path) -> None:
    files = {**CLIPS, "smile.wav": b"?", "Actor_24/smile.wav": b"!"}
    source = folder_of(tmp_path / "source", files)
    for number in (0, 1):
        download.run("voices", sounds(), number, str(source), tmp_path)
    assert contents(shard(tmp_path)) == {**CLIPS, "smile.wav": b"?"}
    assert contents(shard(tmp_path, 1)) == {"Actor_24/smile.wav": b"!"}


def test_perceived_labels_need_the_votes(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", {"1001_DFA_ANG_XX.flv": b"clip"})
    with pytest.raises(UserError, match=r"corpora\.faces\.labels: perceived needs the corpus's table"):
        download.run("faces", corpus("cremad", labels="perceived"), 0, str(source), tmp_path)
    download.run("faces", corpus("cremad"), 0, str(source), tmp_path)
    assert base.members(shard(tmp_path, name="faces")) == ["VideoFlash/1001_DFA_ANG_XX.flv"]


def test_a_copy_of_another_edition_is_used_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_of(tmp_path / "source", {"1001_DFA_ANG_XX.flv": b"clip"})
    with caplog.at_level(logging.WARNING):
        download.run("faces", corpus("cremad"), 0, str(source), tmp_path)
    assert "1 of 1 files are not those that the corpus publishes" in caplog.text


def test_the_demo_is_made(tmp_path: Path) -> None:
    section = corpus("demo", demo=Demo(actors=4, takes=1), shards=[0, 1, 2, 3])
    download.run("toy", section, 3, None, tmp_path)
    names = base.members(shard(tmp_path, 3, "toy"))
    assert sum(name.startswith("Actor_04/") and name.endswith(".mp4") for name in names) == 8


def test_archives_come_from_the_web_once_and_are_held_to_the_record(server: Server, tmp_path: Path) -> None:
    clip, other = "Actor_01/01-01-03-01-01-01-01.mp4", "Actor_01/02-01-03-01-01-01-01.mp4"
    for actor in ravdess.ACTORS:
        stem = clip.replace("01.mp4", f"{actor:02d}.mp4")
        server.files[f"{RECORD}/Video_Speech_Actor_{actor:02d}.zip"] = zipped({stem: b"clip", other: b"silent"})
    first = server.files[f"{RECORD}/Video_Speech_Actor_01.zip"]
    listed = {
        "key": "Video_Speech_Actor_01.zip",
        "size": len(first),
        "checksum": f"md5:{hashlib.md5(first).hexdigest()}",
    }
    server.files["/api/records/1188976"] = json.dumps({"files": [listed]}).encode()
    server.faults[f"{RECORD}/Video_Speech_Actor_01.zip"] = ["truncated", "wrong", "503"]
    for _ in range(2):
        download.run("films", pictures(), 0, server.address + RECORD, tmp_path)
    assert len(base.members(shard(tmp_path, name="films"))) == 12
    assert contents(shard(tmp_path, name="films"))[clip] == b"clip"
    archives = tmp_path / "data" / "films" / "archives"
    assert (archives / "Video_Speech_Actor_01.zip").read_bytes() == first
    assert server.asked.count("/api/records/1188976") == 1
    assert server.asked.count(f"{RECORD}/Video_Speech_Actor_01.zip") == 4
    assert server.asked.count(f"{RECORD}/Video_Speech_Actor_02.zip") == 1
    assert f"{RECORD}/Video_Speech_Actor_13.zip" not in server.asked
    assert len(leftovers(archives)) == 13


def test_an_archive_put_by_hand_is_used(server: Server, tmp_path: Path) -> None:
    folder_of(
        tmp_path / "data" / "films" / "archives",
        {
            f"Video_Speech_Actor_{actor:02d}.zip": zipped({f"01-01-03-01-01-01-{actor:02d}.mp4": b"clip"})
            for actor in ravdess.ACTORS
        },
    )
    download.run("films", pictures(), 1, server.address, tmp_path)
    assert len(base.members(shard(tmp_path, 1, "films"))) == 12
    assert server.asked == []


def test_one_zip_can_be_an_address(server: Server, tmp_path: Path) -> None:
    server.files["/mine.zip"] = zipped(CLIPS)
    download.run("voices", sounds(), 0, f"{server.address}/mine.zip", tmp_path)
    assert contents(shard(tmp_path)) == CLIPS


def test_the_recordings_archive_is_held_to_its_published_checksum(server: Server, tmp_path: Path) -> None:
    path = f"{RECORD}/Audio_Speech_Actors_01-24.zip"
    server.files[path] = zipped(CLIPS)
    with pytest.raises(UserError, match=r"it has .* bytes, not 208,468,073") as error:
        download.run("voices", sounds(), 0, server.address + RECORD, tmp_path)
    assert len(server.asked) == remote.TRIES
    assert str(tmp_path / "data/voices/archives/Audio_Speech_Actors_01-24.zip") in str(error.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("faults", "tries", "reason"),
    [
        (["404"], 1, "the host answers 404 Not Found"),
        (["403"], 1, "the host answers 403 Forbidden"),
        (["503"] * 9, remote.TRIES, "the host answers 503 Service Unavailable"),
        (["429"] * 9, remote.TRIES, "the host answers 429 Too Many Requests"),
        (["truncated"] * 9, remote.TRIES, "the connection broke before the end"),
        (["wrong"] * 9, remote.TRIES, "what it sends is something else: its sha256 is"),
        (["silent"] * 9, remote.TRIES, "the host falls silent"),
    ],
)
def test_a_fault_that_stays_is_one_line_and_no_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: list[str], tries: int, reason: str
) -> None:
    monkeypatch.setattr(remote, "SILENCE", 0.2)
    server.files["/file"] = b"content" * 1000
    server.faults["/file"] = faults
    known = Remote("file", f"{server.address}/file", 7000, f"sha256:{hashlib.sha256(b'content' * 1000).hexdigest()}")
    with pytest.raises(UserError) as error:
        remote.fetch(known, tmp_path / "file", "EMOFUSE_X_SOURCE")
    assert reason in str(error.value)
    assert f"put it at {tmp_path / 'file'}, or set EMOFUSE_X_SOURCE to a local copy" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.asked) == tries
    assert leftovers(tmp_path) == []


def test_a_host_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.01)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError) as error:
            download.run("films", pictures(), 0, address, tmp_path)
    archive = tmp_path / "data/films/archives/Video_Speech_Actor_01.zip"
    assert str(error.value) == (
        f"{address}/Video_Speech_Actor_01.zip?download=1: the host cannot be reached."
        f" Fetch it by hand and put it at {archive}, or set EMOFUSE_FILMS_SOURCE to a local copy"
    )


def test_parallel_jobs_fetch_a_shared_file_once(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = b"content" * 100_000
    known = Remote("file", f"{server.address}/file")
    jobs = [threading.Thread(target=remote.fetch, args=(known, tmp_path / "file", "X")) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert (tmp_path / "file").read_bytes() == server.files["/file"]
    assert server.asked == ["/file"]


def test_what_a_killed_process_left_is_cleared(server: Server, tmp_path: Path) -> None:
    server.files["/file.zip"] = b"content"
    (tmp_path / ".file.zip.abc123.zip").write_bytes(b"cont")
    remote.fetch(Remote("file.zip", f"{server.address}/file.zip"), tmp_path / "file.zip", "X")
    assert leftovers(tmp_path) == ["file.zip"]


def test_a_file_that_is_not_what_it_should_be_is_fetched_again(server: Server, tmp_path: Path) -> None:
    server.files["/file"] = b"right"
    (tmp_path / "file").write_bytes(b"wrong")
    known = Remote("file", f"{server.address}/file", 5, f"md5:{hashlib.md5(b'right').hexdigest()}")
    remote.fetch(known, tmp_path / "file", "X")
    assert (tmp_path / "file").read_bytes() == b"right"


def test_real_cremad_clips_come_from_a_mirror_and_are_checked(
    server: Server, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = sorted((shared_data / "cremad" / "VideoFlash").glob("*.flv"))
    lines = (cremad.REGISTRY / "cremad.csv").read_text().splitlines(keepends=True)
    stems = {clip.stem for clip in clips}
    (tmp_path / "cremad.csv").write_text("".join(line for line in lines if line[:15] in {"clip,flv_bytes,", *stems}))
    monkeypatch.setattr(cremad, "REGISTRY", tmp_path)
    section = corpus("cremad", shards=list(range(8)))
    server.files = {f"/base/VideoFlash/{clip.name}": clip.read_bytes() for clip in clips}
    download.run("faces", section, 0, f"{server.address}/base/", tmp_path)
    assert contents(shard(tmp_path, name="faces")) == {f"VideoFlash/{c.name}": c.read_bytes() for c in clips}
    # A pointer of Git LFS, as a host without the content sends, is refused.
    server.files[f"/base/VideoFlash/{clips[0].name}"] = b"version https://git-lfs.github.com/spec/v1\n"
    with pytest.raises(UserError, match="not 265,922"):
        download.run("more_faces", section, 0, f"{server.address}/base", tmp_path)
    assert not shard(tmp_path, name="more_faces").exists()


def test_weights_come_from_a_folder_or_the_web_and_are_checked(
    server: Server, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "retinaface_mobilenet0.25"
    target = tmp_path / weights.path(name)
    real = (shared_data / "weights" / target.name).read_bytes()
    monkeypatch.setenv(weights.SETTING, str(shared_data))
    weights.fetch(name, tmp_path)
    assert target.read_bytes() == real
    monkeypatch.setenv(weights.SETTING, str(folder_of(tmp_path / "mine", {target.name: real[:-1]})))
    with pytest.raises(UserError, match=f"{target.name}: not the weights {name}"):
        weights.fetch(name, tmp_path)
    monkeypatch.setenv(weights.SETTING, str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"there is no resnet18-f37072fd\.pth in"):
        weights.fetch("resnet18", tmp_path)
    monkeypatch.delenv(weights.SETTING)
    target.unlink()
    server.files["/weights"] = real
    known = Remote(target.name, f"{server.address}/weights", len(real), "sha256:2979b33f")
    monkeypatch.setattr(remote, "registry", lambda: {name: known})
    weights.fetch(name, tmp_path)
    assert target.read_bytes() == real


def test_every_weights_name_has_a_path_and_an_address() -> None:
    assert weights.path("resnet18") == "data/weights/resnet18-f37072fd.pth"
    for name in weights.NAMES:
        assert remote.registry()[name].address.startswith("https://")
    with pytest.raises(UserError, match="weights: there are none named 'resnet50'"):
        weights.path("resnet50")


def test_a_record_without_checksums_stops_nothing(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.files[f"{RECORD}/Video_Speech_Actor_01.zip"] = zipped({"01-01-03-01-01-01-01.mp4": b"clip"})
    server.files["/api/records/1188976"] = b'{"files": []}'
    section = corpus("ravdess", shards=[0, 1], actors=[1, 2])
    with caplog.at_level(logging.WARNING):
        download.run("films", section, 0, server.address + RECORD, tmp_path)
    assert len(base.members(shard(tmp_path, name="films"))) == 1
    assert "Video_Speech_Actor_01.zip: no published checksum could be had (it is not in the record)" in caplog.text
