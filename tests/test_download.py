"""Clips from folders, zips and the web become shards; what cannot is reported in one line."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT
from faulty_server import Server, serving
from test_corpora import VOTES, corpus

from emofuse import config, paths
from emofuse.config import Demo
from emofuse.data.download import clips, http, weights
from emofuse.datasets import cremad, ravdess, shards
from emofuse.datasets import urls as published
from emofuse.utils.errors import UserError

FIRST = "03-01-03-01-01-01-01.wav"
SECOND = "03-01-04-01-01-01-02.wav"
THIRD = "03-01-03-01-01-01-03.wav"
RECORD = "/records/1188976/files"
API = "/api/records/1188976"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(http, "BACKOFF", 0.001)
    with serving() as served:
        yield served


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
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
    return {name: shards.read_member(path, name) for name in shards.members(path)}


def leftovers(folder: Path) -> list[str]:
    """The names of all files other than locks."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


CLIPS = {f"Actor_01/{FIRST}": b"one", f"Actor_02/{SECOND}": b"two"}


DERIVED = (
    f"Actor_01/{FIRST[:-4]}_croppad.wav",
    f"Actor_01/{FIRST[:-4]} (1).wav",
    f"Actor_01/{FIRST[:-4]} copy.wav",
    f"Actor_01/Copy of {FIRST}",
    f"augmented/noise_{FIRST}",
    f"Actor_01/{FIRST[:-4]}.flac",
    f"wav_16k/Actor_01/{FIRST}",
    f"resampled/{FIRST}",
    f"frames/{FIRST[:-4]}/audio.wav",
)


@pytest.mark.parametrize(
    "layout",
    [
        lambda root: folder_of(root, CLIPS),
        lambda root: folder_of(root, {FIRST: b"one", f"deep/er/{SECOND}": b"two", "readme.txt": b""}),
        lambda root: folder_of(root, {"a/All.zip": zipped(CLIPS)}),
        lambda root: folder_of(root, {"a.zip": zipped({f"x/{FIRST}": b"one"}), f"y/{SECOND}": b"two"}),
        lambda root: folder_of(root, {"All.zip": zipped(CLIPS)}) / "All.zip",
        # Copies and the files that file managers create do not matter.
        lambda root: folder_of(root, {**CLIPS, f"too/{FIRST}": b"one", f"__MACOSX/._{FIRST}": b"", f"._{FIRST}": b""}),
        # Zips in zips, compressed or not, backslashes, the names that wget gives, and a folder around it all.
        lambda root: folder_of(root, {"all.zip": zipped({"A.zip": zipped(CLIPS)}, zipfile.ZIP_STORED)}),
        lambda root: folder_of(root, {"all.zip": zipped({"x/A.ZIP": zipped(CLIPS)})}) / "all.zip",
        lambda root: folder_of(
            root, {"a.zip": zipped({"b.zip": zipped({"c.zip": zipped(CLIPS)}, zipfile.ZIP_STORED)})}
        ),
        lambda root: folder_of(root, {"all.zip": zipped({n.replace("/", "\\"): d for n, d in CLIPS.items()})}),
        # The same, unpacked on Linux.
        lambda root: folder_of(
            root,
            {n.replace("/", "\\"): d for n, d in CLIPS.items()} | {f"__MACOSX\\._{FIRST}": b"", "..\\..\\a.txt": b""},
        ),
        lambda root: folder_of(root, {"all.zip?download=1": zipped({f"RAVDESS/{n}": d for n, d in CLIPS.items()})}),
        # Derived copies and converted ones are not the clips.
        lambda root: folder_of(root, {**CLIPS, **dict.fromkeys(DERIVED, b"derived")}),
        # Other modalities and channels of the corpus are ignored.
        lambda root: folder_of(root, {**CLIPS, "01-01-03-01-01-01-01.mp4": b"", "03-02-03-01-01-01-01.wav": b""}),
    ],
)
def test_any_local_layout_gives_the_same_shards(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    source = layout(tmp_path / "source")
    for number in (0, 1):
        clips.download("voices", sounds(), number, str(source), tmp_path)
    assert contents(shard(tmp_path)) == CLIPS
    assert contents(shard(tmp_path, 1)) == {}
    shards.write(tmp_path / "expected.zip", CLIPS.items())
    assert shard(tmp_path).read_bytes() == (tmp_path / "expected.zip").read_bytes()


def test_absent_actors_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_of(tmp_path / "source", CLIPS)
    with caplog.at_level(logging.WARNING):
        clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert "no clip of actors 3–12" in caplog.text


def test_what_is_used_and_what_is_not_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = {
        "Actor_25/03-01-03-01-01-01-25.wav": b"",
        "Actor_26/YAF_back_angry.wav": b"",
        "TESS/OAF_back_sad.wav": b"",
    }
    files = {
        **CLIPS,
        **dict.fromkeys(DERIVED, b""),
        **others,
        "._a.wav": b"",
        "a.npy": b"",
        FIRST.replace("03-01", "03-02", 1): b"",
    }
    source = folder_of(tmp_path / "source", files)
    with caplog.at_level(logging.INFO):
        clips.download("voices", sounds(), 0, str(source), tmp_path)
    for counted in (
        "2 clips of 2 actors, out of 2 clips of 2 actors in the source; 1,440 clips of 24 actors are published",
        "ignored: 9 files derived from clips that are here, such as Actor_01/",
        "ignored: 1 file of speakers who are not in RAVDESS; data sets that mix corpora number those of TESS 25 and 26",
        "ignored: 2 files of TESS, such as",
        "ignored: 1 file of another type, such as a.npy",
        "ignored: 1 file of another modality or channel, such as",
        "ignored: 1 file hidden or added by file managers, such as ._a.wav",
    ):
        assert counted in caplog.text
    assert contents(shard(tmp_path)) == CLIPS


def test_copy_without_its_original_is_kept_for_the_index(tmp_path: Path) -> None:
    name = "Actor_03/03-01-03-01-01-01-03_croppad.wav"
    source = folder_of(tmp_path / "source", {**CLIPS, name: b"cropped"})
    clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert contents(shard(tmp_path)) == {**CLIPS, name: b"cropped"}


def test_converted_films_of_cremad_do_not_replace_the_published_ones(tmp_path: Path) -> None:
    files = {"VideoFlash/1001_DFA_ANG_XX.flv": b"flv", "VideoMP4/1001_DFA_ANG_XX.mp4": b"mp4"}
    clips.download("faces", corpus("cremad"), 0, str(folder_of(tmp_path / "source", files)), tmp_path)
    assert contents(shard(tmp_path, name="faces")) == {"VideoFlash/1001_DFA_ANG_XX.flv": b"flv"}


# ── links, and what cannot be read ───────────────────────────────────────────────────────────────────────────────────


def test_links_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_of(tmp_path / "source", {f"Actor_01/{FIRST}": b"one"})
    pool = folder_of(tmp_path / "pool", {f"second/{SECOND}": b"two"})
    folder_of(tmp_path, {"third.wav": b"three"})
    (source / "Actor_02").symlink_to(pool / "second")
    (source / "03-01-03-01-01-01-03.wav").symlink_to(tmp_path / "third.wav")
    (pool / "second" / "back").symlink_to(source)
    (pool / "second" / "pool").symlink_to("..")
    (source / "Actor_01" / "self").symlink_to(".")
    (source / "above").symlink_to(tmp_path)
    with caplog.at_level(logging.INFO):
        clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert contents(shard(tmp_path)) == {**CLIPS, "Actor_03/03-01-03-01-01-01-03.wav": b"three"}
    assert "files that are links to folders read anyway" in caplog.text


def unreadable_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "Actor_03").mkdir()
    listed = os.scandir

    def scandir(path: str):
        if str(path).endswith("Actor_03"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            unreadable_folder,
            "Actor_03 cannot be read: Permission denied; make it readable, or move it out of the source",
        ),
        (
            lambda source, _: (source / "Actor_03").symlink_to("/no/where"),
            "Actor_03 is a link to /no/where, which cannot",
        ),
        (lambda source, _: (source / "Actor_03").symlink_to("Actor_03"), "Too many levels of symbolic links"),
        (lambda source, _: (source / THIRD).symlink_to("/no/where"), f"{THIRD} is a link to /no/where, which cannot"),
        (lambda source, _: os.mkfifo(source / THIRD), "is neither a file nor a folder"),
        (lambda source, _: (source / f".{THIRD}.icloud").touch(), f"{THIRD} is in iCloud only; download it"),
        (lambda source, _: (source / f"{THIRD}.crdownload").touch(), f"{THIRD} is an unfinished download; finish it"),
        (lambda source, _: (source / "Actor_03.lnk").touch(), "Actor_03 is only a shortcut of Windows here; copy what"),
        (lambda source, _: (source / f"{THIRD}.gz").touch(), f"{THIRD}.gz is an archive that is not read"),
        (lambda source, _: (source / f"{THIRD}.dvc").touch(), f"{THIRD} is known to DVC but not here; run dvc pull"),
        (lambda source, _: (source / "Actor_03.zip.dvc").touch(), "Actor_03.zip is known to DVC but not here"),
        (lambda source, _: (source / "Actor_03.dvc").touch(), "Actor_03 is known to DVC but not here; run dvc pull"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path, pytest.MonkeyPatch], object], message: str
) -> None:
    source = folder_of(tmp_path / "source", CLIPS)
    spoil(source, monkeypatch)
    with pytest.raises(UserError) as error:
        clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert message in str(error.value)
    assert leftovers(tmp_path / "data") == []


@pytest.mark.parametrize("name", ["readme.txt", f"{FIRST[:-4]} (1).wav", "01-01-03-01-01-01-01.mp4"])
def test_unreadable_file_that_is_not_needed_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    source = folder_of(tmp_path / "source", CLIPS)
    (source / name).symlink_to("/no/where")
    clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert contents(shard(tmp_path)) == CLIPS
    assert f"skipped: {source / name} is a link to /no/where" in caplog.text


# ── archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def deflate64(content: bytes) -> bytes:
    """A zip as Windows' Explorer writes it from 2 GB on."""
    import inflate64

    packer = inflate64.Deflater()
    packed = packer.deflate(content) + packer.flush()
    archive = bytearray(zipped({FIRST: packed}, zipfile.ZIP_STORED))
    for signature, method in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        at = archive.index(signature) + method
        struct.pack_into("<H", archive, at, 9)
        struct.pack_into("<I", archive, at + 6, zlib.crc32(content))
        struct.pack_into("<I", archive, at + 14, len(content))
    return bytes(archive)


def test_deflate64_is_read(tmp_path: Path) -> None:
    content = b"sound" * 50_000 + bytes(range(256))
    source = folder_of(tmp_path / "source", {"all.zip": deflate64(content)})
    clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert contents(shard(tmp_path)) == {f"Actor_01/{FIRST}": content}
    damaged = bytearray(deflate64(content))
    damaged[100] ^= 255
    folder_of(source, {"all.zip": bytes(damaged)})
    with pytest.raises(UserError, match=f"all.zip: {FIRST} cannot be read"):
        clips.download("voices", sounds(), 0, str(source), tmp_path)


def marked(archive: bytes, flags: int = 0, method: int | None = None) -> bytes:
    """A zip whose members claim to be encrypted or compressed by some method."""
    changed = bytearray(archive)
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        struct.pack_into("<H", changed, changed.index(signature) + at, flags)
        if method is not None:
            struct.pack_into("<H", changed, changed.index(signature) + at + 2, method)
    return bytes(changed)


def linked(name: str) -> bytes:
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, "/etc")
    return buffer.getvalue()


LAST_OF_SEVERAL = zipped({"n.txt": b""}).replace(b"PK\5\6\0\0", b"PK\5\6\3\0")
USELESS = {
    "notes.zip": (b"no zip", "notes.zip is not a readable zip file"),
    "copy.zip": (zipped(CLIPS)[:-40], "copy.zip is not a readable zip file"),
    "page.zip": (b"\n<!doctype html>", "it is a web page"),
    "pointer.zip": (b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
    "empty.zip": (b"", "it is empty"),
    "really.zip": (b"Rar!\x1a\x07\x01\0", "it is a rar archive: unpack it"),
    "parts.zip": (LAST_OF_SEVERAL, "join them with zip -s 0 parts.zip --out joined.zip"),
    "parts.z01": (b"PK\7\x08", "parts.z01 is an archive that is not read"),
    "all.zip.001": (b"PK", "all.zip.001 is a part of a split archive; join the parts"),
    "all.zip.part": (b"PK", "all.zip.part is not a readable zip file"),
    "nested.zip": (zipped({"inner.zip": b"no zip"}), "nested.zip:inner.zip is not a readable zip file"),
    "old.rar": (b"", "old.rar is an archive that is not read, only zips and zips in zips are; unpack it"),
    "old.7z": (b"", "old.7z is an archive that is not read"),
    "old.tar.gz": (b"", "old.tar.gz is an archive that is not read"),
    "secret.zip": (marked(zipped({"n.txt": b""}), flags=1), "secret.zip: n.txt is encrypted; unpack the zip"),
    "rare.zip": (marked(zipped({"n.txt": b""}), method=98), "n.txt is compressed by a rare method, 98"),
    "link.zip": (linked("latest"), "link.zip: member 'latest' is a link"),
    "leads.zip": (zipped({"../n.txt": b""}), "member '../n.txt' leads out of the folder"),
    "clips.csv.gz": (b"", "clips.csv.gz is an archive that is not read"),
    "notes - Shortcut.lnk": (
        b"",
        "notes is only a shortcut of Windows here; copy what it leads to, or remove notes - S",
    ),
    f"{FIRST}.part": (b"", f"{FIRST} is an unfinished download"),
    "models.dvc": (b"", "models is known to DVC but not here"),
    "films.zip": (zipped({"01-01-03-01-01-01-05.mp4": b""})[:-40], "films.zip is not a readable zip file"),
}


@pytest.mark.parametrize("name", USELESS)
def test_archive_that_is_not_needed_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    data, message = USELESS[name]
    source = folder_of(tmp_path / "source", {**CLIPS, f"too/{name}": data})
    clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert contents(shard(tmp_path)) == CLIPS
    assert "skipped: " in caplog.text
    assert message in caplog.text


def test_absent_actors_may_be_in_what_was_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_of(tmp_path / "source", {**CLIPS, "more.7z": b""})
    clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert "no clip of actors 3–12; they may be in what was skipped: more.7z" in caplog.text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("more.zip", zipped({THIRD: b"three"})[:-40], "nowhere else, such as Actor_03/03-01-03-01-01-01-03"),
        # Of which only the list of files of the zip in it is left.
        (
            "more.zip",
            zipped({"b.zip": zipped({THIRD: b"3"})}, zipfile.ZIP_STORED)[:-60],
            "clips in it are nowhere else",
        ),
        ("more.zip", marked(zipped({THIRD: b"three"}), flags=1), f"{THIRD} is encrypted; unpack the zip with another"),
        ("more.zip", marked(zipped({THIRD: b"three"}), method=98), "compressed by a rare method, 98; unpack the zip"),
        ("more.zip", linked(THIRD), "is a link; do not trust this zip"),
        ("more.zip", marked(zipped({"Actor_03.zip": b""}), flags=1), "Actor_03.zip is encrypted; unpack the zip"),
        ("more.zip", linked("Actor_03"), "by its name, it has clips that are nowhere else"),
        ("Actor_03.7z", b"", "unpack it and put its files here; by its name, it has clips that are nowhere else"),
        ("Actor_03/all.rar", b"", "unpack it and put its files here; by its name"),
        ("Audio_Speech_Actors_01-24.zip", b"<html>", "it is a web page, not the zip: download it with a browser"),
        ("Audio_Speech_Actors_01-24 (1).zip", b"version https://git-lfs.github.com/spec/v1", "run `git lfs pull`"),
    ],
    # The bytes contain the time, so as names they could differ between processes that run the tests.
    ids=[
        "truncated", "inner", "encrypted", "method", "link", "encrypted inner", "linked folder", "7z", "rar", "page", "pointer",
    ],
)  # fmt: skip
def test_unreadable_archive_with_clips_is_an_error_that_names_it(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    source = folder_of(tmp_path / "source", {**CLIPS, name: data})
    with pytest.raises(UserError) as error:
        clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert message in str(error.value)
    assert name in str(error.value)
    assert leftovers(tmp_path / "data") == []


def test_zip_that_contains_itself_ends(tmp_path: Path) -> None:
    content = zipped(CLIPS)
    for _ in range(8):
        content = zipped({"again.zip": content}, zipfile.ZIP_STORED)
    with pytest.raises(UserError, match="it contains no clip of voices"):
        clips.download("voices", sounds(), 0, str(folder_of(tmp_path / "source", {"a.zip": content})), tmp_path)


@pytest.mark.parametrize("name", ["all.7z", "all.rar", "all.tar.gz", f"{FIRST}.xz"])
def test_other_archive_as_a_source_is_one_line(tmp_path: Path, name: str) -> None:
    source = folder_of(tmp_path / "source", {name: b"archive"}) / name
    with pytest.raises(UserError, match="is an archive that is not read, only zips and zips in zips are; unpack it"):
        clips.download("voices", sounds(), 0, str(source), tmp_path)


def test_other_file_as_a_source_is_one_line(tmp_path: Path) -> None:
    folder_of(tmp_path, {FIRST: b"one", "clips.csv": b""})
    os.mkfifo(tmp_path / "pipe.zip")  # opening it would wait
    for name in (FIRST, "clips.csv", "pipe.zip"):
        with pytest.raises(UserError, match=f"^corpora.voices.source .*{name} is neither a folder nor a zip; give a"):
            clips.download("voices", sounds(), 0, str(tmp_path / name), tmp_path)


# ── pointers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def test_pointers_of_git_lfs_are_not_clips(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_of(tmp_path / "source", {**CLIPS, f"Actor_01/{FIRST}": POINTER})
    clips.download("voices", sounds(), 0, str(source), tmp_path)  # the index reports single ones
    assert "1 of 2 clips were not fetched" in caplog.text
    folder_of(source, {f"Actor_02/{SECOND}": POINTER})
    with pytest.raises(
        UserError,
        match=r"a pointer of Git LFS, not the clip: run `git lfs pull` in the repository that it comes from \(and so are 1 more\)",
    ):
        clips.download("voices", sounds(), 0, str(source), tmp_path)


def test_table_of_votes_that_is_not_one_has_a_reason(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", {"1001_DFA_ANG_XX.flv": b"clip", "tabulatedVotes.csv": POINTER})
    section = corpus("cremad", labels="perceived")
    with pytest.raises(UserError, match="it is a pointer of Git LFS, not the table: run `git lfs pull`"):
        clips.download("faces", section, 0, str(source), tmp_path)
    (source / "tabulatedVotes.csv").rename(source / "tabulatedVotes.xlsx")
    with pytest.raises(UserError, match=r"add it to the source, as \.csv instead of .*tabulatedVotes\.xlsx"):
        clips.download("faces", section, 0, str(source), tmp_path)
    folder_of(source, {"tabulatedvotes (1).csv": VOTES, "other/tabulatedVotes (2).csv": VOTES.replace(b'"', b"")})
    clips.download("faces", section, 0, str(source), tmp_path)
    assert "1001_DFA_ANG_XX,9" not in contents(shard(tmp_path, name="faces"))[cremad.VOTES].decode()
    folder_of(source, {"other/tabulatedVotes (2).csv": VOTES.replace(b"1,5,0", b"1,6,0")})
    with pytest.raises(UserError, match="two files differ"):
        clips.download("faces", section, 0, str(source), tmp_path)


def test_shards_divide_only_the_requested_actors(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", CLIPS)
    for number in (0, 1):
        clips.download("voices", sounds(actors=[2, 1]), number, str(source), tmp_path)
    assert shards.members(shard(tmp_path, 1)) == [f"Actor_02/{SECOND}"]


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
        ({}, {"wrong-name.wav": b""}, "it contains no clip of voices"),
        ({}, {f"a/{FIRST}": b"one", f"b/{FIRST}": b"other"}, "two files differ"),
        ({}, {f"wav_16k/{FIRST}": b"one", f"wav_8k/{FIRST}": b"other"}, "two files differ"),
        ({}, {f"{FIRST[:-4]}_croppad.wav": b""}, "no clip of voices (1 file with wrong names, such as 03-01"),
        ({}, {"train.parquet": b""}, "no clip of voices (1 file of another type, such as train.parquet)"),
        ({}, {"all.zip": b"no zip"}, "all.zip is not a readable zip file"),
        ({}, {"all.zip": zipped({f"../{FIRST}": b""})}, "leads out of the folder"),
        ({}, {"all.zip": zipped({f"/tmp/{FIRST}": b""})}, "leads out of the folder"),
        ({}, {"all.zip": zipped({f"a\\..\\..\\{FIRST}": b""})}, "leads out of the folder"),
        ({}, {"all.zip": zipped({f"C:/{FIRST}": b""})}, "leads out of the folder"),
    ],
)
def test_unusable_source_is_one_line(tmp_path: Path, changes: dict, files: dict, message: str) -> None:
    source = folder_of(tmp_path / "source", files)
    with pytest.raises(UserError) as error:
        clips.download("voices", sounds(**changes), 0, str(source), tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert leftovers(tmp_path / "data") == []


def test_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "all.zip"
    link = zipfile.ZipInfo(FIRST)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="is a link"):
        clips.download("voices", sounds(), 0, str(source), tmp_path)


def test_damaged_member_is_refused_and_leaves_no_shard(tmp_path: Path) -> None:
    source = tmp_path / "all.zip"
    shards.write(source, [(FIRST, b"sound" * 100)])
    source.write_bytes(source.read_bytes().replace(b"soundsound", b"soundSOUND", 1))
    with pytest.raises(UserError, match=f"{FIRST} cannot be read"):
        clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert leftovers(tmp_path / "data") == []


def test_error_about_a_missing_source_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no /no/such/folder") as error:
        clips.download("voices", sounds(), 0, "/no/such/folder", tmp_path)
    assert "EMOFUSE_VOICES_SOURCE" in str(error.value)


def test_files_with_wrong_names_are_kept_for_the_index(tmp_path: Path) -> None:
    files = {**CLIPS, "smile.wav": b"?", "Actor_24/smile.wav": b"!"}
    source = folder_of(tmp_path / "source", files)
    for number in (0, 1):
        clips.download("voices", sounds(), number, str(source), tmp_path)
    assert contents(shard(tmp_path)) == {**CLIPS, "smile.wav": b"?"}
    assert contents(shard(tmp_path, 1)) == {"Actor_24/smile.wav": b"!"}


def test_perceived_labels_need_the_votes(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", {"1001_DFA_ANG_XX.flv": b"clip"})
    with pytest.raises(UserError, match="its labels are in the corpus's table processedResults"):
        clips.download("faces", corpus("cremad", labels="perceived"), 0, str(source), tmp_path)
    clips.download("faces", corpus("cremad"), 0, str(source), tmp_path)
    assert shards.members(shard(tmp_path, name="faces")) == ["VideoFlash/1001_DFA_ANG_XX.flv"]


def test_copy_of_another_edition_is_used_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder_of(tmp_path / "source", {"1001_DFA_ANG_XX.flv": b"clip"})
    with caplog.at_level(logging.WARNING):
        clips.download("faces", corpus("cremad"), 0, str(source), tmp_path)
    assert "1 of 1 files differ from the published ones" in caplog.text


def test_demo_corpus_is_generated(tmp_path: Path) -> None:
    section = corpus("demo", demo=Demo(actors=4, takes=1), shards=[0, 1, 2, 3])
    clips.download("toy", section, 3, None, tmp_path)
    names = shards.members(shard(tmp_path, 3, "toy"))
    assert sum(name.startswith("Actor_04/") and name.endswith(".mp4") for name in names) == 8


def metadata(*archives: tuple[str, bytes]) -> bytes:
    """The metadata of a Zenodo record, as far as needed."""
    files = [{"key": n, "size": len(d), "checksum": f"md5:{hashlib.md5(d).hexdigest()}"} for n, d in archives]
    return json.dumps({"id": 1188976, "files": files}).encode()


def films_of(server: Server) -> dict[str, bytes]:
    """Serve a Zenodo record with a video archive per actor."""
    archives = {}
    for actor in ravdess.ACTORS:
        clip = zipped({f"Actor_{actor:02d}/{kind}-01-03-01-01-01-{actor:02d}.mp4": b"clip" for kind in ("01", "02")})
        archives[f"Video_Speech_Actor_{actor:02d}.zip"] = clip
    server.files |= {f"{RECORD}/{name}": data for name, data in archives.items()}
    server.files[API] = metadata(*archives.items())
    return archives


def publish(monkeypatch: pytest.MonkeyPatch, kind: str, *bases: str) -> None:
    """Change the addresses at which a corpus is published."""
    known = {**published.addresses(), kind: published.RemoteFile("", bases)}
    for module in (clips, ravdess, cremad):
        monkeypatch.setattr(module, "addresses", lambda: known)


def test_archives_are_downloaded_once_and_verified_against_the_record(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = films_of(server)
    publish(monkeypatch, "ravdess", server.address + RECORD)
    server.faults[f"{RECORD}/Video_Speech_Actor_01.zip"] = ["truncated", "wrong", "503"]
    for _ in range(2):
        clips.download("films", pictures(), 0, None, tmp_path)
    found = contents(shard(tmp_path, name="films"))
    assert found == {f"Actor_{a:02d}/01-01-03-01-01-01-{a:02d}.mp4": b"clip" for a in range(1, 13)}
    kept = tmp_path / "data" / "films" / "archives"
    assert {path.name for path in kept.iterdir()} == {"record-1188976.json", *list(archives)[:12]}
    assert (kept / "record-1188976.json").read_bytes() == server.files[API]
    assert server.requested.count(API) == 1
    assert server.requested.count(f"{RECORD}/Video_Speech_Actor_01.zip") == 4
    assert len(server.requested) == 1 + 4 + 11


def test_checksums_of_the_first_download_remain_valid(server: Server, tmp_path: Path) -> None:
    archives = films_of(server)
    clips.download("films", pictures(), 0, server.address + RECORD, tmp_path)
    path = f"{RECORD}/Video_Speech_Actor_24.zip"
    server.files[path] = b"PK" + archives["Video_Speech_Actor_24.zip"]
    server.files[API] = metadata(("Video_Speech_Actor_24.zip", server.files[path]))
    with pytest.raises(UserError, match=r"the server sends something else: it has \d+ bytes, not \d+"):
        clips.download("films", pictures(), 1, server.address + RECORD, tmp_path)
    assert not shard(tmp_path, 1, "films").exists()


@pytest.mark.parametrize(
    ("answer", "warning"),
    [
        (metadata(("another.zip", b"")), "the record has no checksum of Video_Speech_Actor_01.zip"),
        (b"{}", f"{API} lists no files"),
        (b"<html>", "is not valid JSON"),
        (None, f"{API}: the server answers 404 Not Found"),
    ],
)
def test_record_without_checksums_is_a_warning(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, answer: bytes | None, warning: str
) -> None:
    films_of(server)
    del server.files[API]
    if answer is not None:
        server.files[API] = answer
    with caplog.at_level(logging.WARNING):
        clips.download("films", pictures(), 0, server.address + RECORD, tmp_path)
    assert len(shards.members(shard(tmp_path, name="films"))) == 12
    assert caplog.text.count(warning) == 1


def test_songs_are_downloaded_if_requested(server: Server, tmp_path: Path) -> None:
    for channel, number in (("Speech", "01"), ("Song", "02")):
        for actor in (17, 18):
            clip = zipped({f"Actor_{actor}/01-{number}-03-01-01-01-{actor}.mp4": channel.encode()})
            server.files[f"{RECORD}/Video_{channel}_Actor_{actor}.zip"] = clip
    del server.files[f"{RECORD}/Video_Song_Actor_18.zip"]  # who sings nothing
    section = corpus("ravdess", shards=[0], actors=[17, 18], vocal=["speech", "song"])
    clips.download("films", section, 0, server.address + RECORD, tmp_path)
    assert sorted(contents(shard(tmp_path, name="films")).values()) == [b"Song", b"Speech", b"Speech"]


def test_archive_downloaded_by_hand_is_used(server: Server, tmp_path: Path) -> None:
    archives = films_of(server)
    folder_of(tmp_path / "data" / "films" / "archives", {**archives, "record-1188976.json": server.files[API]})
    clips.download("films", pictures(), 1, server.address + RECORD, tmp_path)
    assert len(shards.members(shard(tmp_path, 1, "films"))) == 12
    assert server.requested == []


def test_local_archives_that_differ_from_the_record_are_used_with_a_warning(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archives = films_of(server)
    publish(monkeypatch, "ravdess", server.address + RECORD)
    archives["Video_Speech_Actor_02.zip"] = zipped({"mine/01-01-03-01-01-01-02.mp4": b"my own"})
    source = folder_of(tmp_path / "source", archives)
    with caplog.at_level(logging.WARNING):
        clips.download("films", pictures(), 0, str(source), tmp_path)
    assert contents(shard(tmp_path, name="films"))["Actor_02/01-01-03-01-01-01-02.mp4"] == b"my own"
    assert caplog.text.count("is not the archive that the corpus publishes") == 1
    assert "Video_Speech_Actor_02.zip is not the archive" in caplog.text
    assert server.requested == [API]


def test_local_zip_of_the_recordings_is_compared_with_its_published_checksum(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = folder_of(tmp_path / "source", {"Audio_Speech_Actors_01-24.zip": zipped(CLIPS)})
    with caplog.at_level(logging.WARNING):
        clips.download("voices", sounds(), 0, str(source), tmp_path)
    assert contents(shard(tmp_path)) == CLIPS
    assert "Audio_Speech_Actors_01-24.zip is not the archive that the corpus publishes: it has" in caplog.text


def test_source_can_be_the_address_of_a_zip(server: Server, tmp_path: Path) -> None:
    server.files["/mine.zip"] = zipped(CLIPS)
    clips.download("voices", sounds(), 0, f"{server.address}/mine.zip", tmp_path)
    assert contents(shard(tmp_path)) == CLIPS


@pytest.mark.parametrize("kind", ["outside", "link"])
def test_untrustworthy_download_is_refused(server: Server, tmp_path: Path, kind: str) -> None:
    member = zipfile.ZipInfo(f"../{FIRST}" if kind == "outside" else FIRST)
    member.external_attr = ((stat.S_IFLNK if kind == "link" else stat.S_IFREG) | 0o777) << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(member, "/etc/passwd")
    server.files["/mine.zip"] = buffer.getvalue()
    with pytest.raises(UserError, match="do not trust this zip"):
        clips.download("voices", sounds(), 0, f"{server.address}/mine.zip", tmp_path)
    assert leftovers(tmp_path) == ["mine.zip"]


def test_archive_of_the_recordings_is_verified_against_its_published_checksum(server: Server, tmp_path: Path) -> None:
    path = f"{RECORD}/Audio_Speech_Actors_01-24.zip"
    server.files[path] = zipped(CLIPS)
    with pytest.raises(UserError, match=r"it has .* bytes, not 208,468,073") as error:
        clips.download("voices", sounds(), 0, server.address + RECORD, tmp_path)
    assert server.requested == [path] * http.TRIES
    assert str(tmp_path / "data/voices/archives/Audio_Speech_Actors_01-24.zip") in str(error.value)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "folder"), [("ravdess", "Audio_Speech_Actors_01-24.zip"), ("cremad", "AudioWAV/1001_DFA_ANG_XX.wav")]
)
def test_audio_only_work_never_downloads_video(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, folder: str
) -> None:
    """It is enough to remove the other variants from params.yaml."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["corpora"][name]["variants"] = ["audio_only"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
    shutil.copytree(ROOT / "protocols", tmp_path / "protocols")
    shutil.copytree(ROOT / "corpora", tmp_path / "corpora")
    section = config.load(tmp_path / "params.yaml").corpus(name)
    publish(monkeypatch, name, server.address)
    with pytest.raises(UserError, match="404"):
        clips.download(name, section, 0, None, tmp_path)
    assert server.requested == [f"/{folder}"]


def test_unreachable_host_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BACKOFF", 0.001)
    with serving() as gone:
        address = gone.address
    with pytest.raises(UserError) as error:
        clips.download("films", pictures(), 0, address, tmp_path)
    archive = tmp_path / "data/films/archives/Video_Speech_Actor_01.zip"
    assert str(error.value) == (
        f"{address}/Video_Speech_Actor_01.zip?download=1: the server cannot be reached."
        f" Download it by hand and put it at {archive}, or set EMOFUSE_FILMS_SOURCE to a local copy (a folder, or the zips)"
    )


def test_disk_must_have_space_for_the_whole_corpus_before_the_download_starts(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = films_of(server)
    whole = sum(map(len, archives.values()))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2 * whole - 1))
    with pytest.raises(UserError, match=r"GB are needed but .* GB are free; free some space"):
        clips.download("films", pictures(), 0, server.address + RECORD, tmp_path)
    assert server.requested == [API]
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2 * whole))
    clips.download("films", pictures(), 0, server.address + RECORD, tmp_path)


def test_real_cremad_clips_come_from_the_mirror_or_else_the_official_host(
    server: Server, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sorted((shared_data / "cremad" / "VideoFlash").glob("*.flv"))
    lines = cremad.FILES.read_text().splitlines(keepends=True)
    stems = {clip.stem for clip in real}
    (tmp_path / "files.csv").write_text("".join(line for line in lines if line[:15] in {"clip,flv_bytes,", *stems}))
    monkeypatch.setattr(cremad, "FILES", tmp_path / "files.csv")
    section = corpus("cremad", shards=list(range(8)))
    server.files = {f"/{host}/VideoFlash/{clip.name}": clip.read_bytes() for clip in real for host in ("m", "o")}
    # A host without the content sends a Git LFS pointer instead of the clip.
    server.files[f"/m/VideoFlash/{real[0].name}"] = b"version https://git-lfs.github.com/spec/v1\n"
    del server.files[f"/m/VideoFlash/{real[1].name}"]
    publish(monkeypatch, "cremad", f"{server.address}/m", f"{server.address}/o")
    clips.download("faces", section, 0, None, tmp_path)
    assert contents(shard(tmp_path, name="faces")) == {f"VideoFlash/{c.name}": c.read_bytes() for c in real}
    assert [path for path in server.requested if path.startswith("/o/")] == [
        f"/o/VideoFlash/{c.name}" for c in real[:2]
    ]
    # With a single host, that is an error.
    with pytest.raises(UserError, match="not 265,922"):
        clips.download("more_faces", section, 0, f"{server.address}/m/", tmp_path)
    assert not shard(tmp_path, name="more_faces").exists()


def test_weights_come_from_a_folder_or_the_web_and_are_verified(
    server: Server, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "retinaface_mobilenet0.25"
    target = tmp_path / paths.weights(name)
    real = (shared_data / "weights" / target.name).read_bytes()
    monkeypatch.setenv(weights.SETTING, str(shared_data))
    weights.fetch(name, tmp_path)
    assert target.read_bytes() == real
    monkeypatch.setenv(weights.SETTING, str(folder_of(tmp_path / "mine", {target.name: real[:-1]})))
    with pytest.raises(UserError, match=f"{target.name}: not the weights {name}"):
        weights.fetch(name, tmp_path)
    link = tmp_path / "linked" / "folder"
    link.parent.mkdir()
    link.symlink_to(shared_data / "weights")
    monkeypatch.setenv(weights.SETTING, str(link.parent))
    weights.fetch(name, tmp_path)
    link.unlink()
    for spoil, message in (
        (lambda file: file.write_bytes(POINTER), "it is a pointer of Git LFS, not the weights: run `git lfs pull`"),
        (lambda file: file.symlink_to("/no/where"), "cannot be read: No such file or directory"),
    ):
        spoil(link.parent / target.name)
        with pytest.raises(UserError, match=message):
            weights.fetch(name, tmp_path)
        (link.parent / target.name).unlink()
    monkeypatch.setenv(weights.SETTING, "/no/where")
    with pytest.raises(UserError, match="there is no folder /no/where"):
        weights.fetch(name, tmp_path)
    monkeypatch.setenv(weights.SETTING, str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"there is no resnet18-f37072fd\.pth in"):
        weights.fetch("resnet18", tmp_path)
    monkeypatch.delenv(weights.SETTING)
    target.unlink()
    server.files["/weights"] = real
    known = published.RemoteFile(target.name, (f"{server.address}/weights",), len(real), "sha256:2979b33f")
    monkeypatch.setattr(weights, "addresses", lambda: {name: known})
    weights.fetch(name, tmp_path)
    assert target.read_bytes() == real


def test_all_weights_have_a_path_and_an_address() -> None:
    assert paths.weights("resnet18") == "data/weights/resnet18-f37072fd.pth"
    for name, file in paths.WEIGHTS.items():
        known = published.addresses()[name]
        assert known.addresses
        assert known.path == file
    with pytest.raises(UserError, match="weights: there are none named 'resnet50'"):
        weights.fetch("resnet50")
