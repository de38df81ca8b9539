"""Files are written atomically, and damaged ones are reported in one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emofuse.utils.errors import UserError
from emofuse.utils.files import DEEPEST, array_file, atomic, read_csv, read_json, read_yaml, write_csv, write_json


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.text('a,"\n\r é1', max_size=4), st.sampled_from(["", "NA", "null", "007", "1e3"])), min_size=1
    )
)
def test_csv_cells_are_read_as_they_were_written(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    frame = pd.DataFrame([("x", *row) for row in rows], columns=["first", "text", "value"])
    write_csv(tmp_path / "table.csv", frame)
    assert read_csv(tmp_path / "table.csv", ["value"]).values.tolist() == frame.values.tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "table.csv is missing: run emofuse index"),
        (b"", "is not a CSV file"),
        (b"\xff\xfe\n", "is not a CSV file"),
        (b"a,b\n1,2\n3,4,5\n", "is not a CSV file"),
        (b'a,b\n1,"2', "is not a CSV file"),
        (b"a,c\n1,2\n", "no column b"),
        (b"a,b\n1,2\n3", "it is truncated"),
    ],
)
def test_damaged_csv_file_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_csv(path, ("a", "b"), "emofuse index")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_failure_keeps_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic(path) as temporary:
            temporary.write_text("new")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("expected", [0, 3, 7, 10**6])
def test_an_array_file_has_what_was_written_however_much_was_expected(tmp_path: Path, expected: int) -> None:
    pieces = [np.arange(6.0).reshape(2, 3), np.array([7, 8, 9]), None, np.zeros((0, 3)), np.full((4, 3), 0.1)]
    with array_file(tmp_path / "a.npy", np.float16, (expected, 3)) as add:
        for piece in pieces:
            add(piece)
    whole = np.concatenate([pieces[0], [pieces[1]], np.zeros((1, 3)), pieces[4]]).astype(np.float16)
    for mode in (None, "r"):
        found = np.load(tmp_path / "a.npy", mmap_mode=mode)
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, whole)
    np.save(tmp_path / "b.npy", whole)
    assert (tmp_path / "a.npy").stat().st_size == (tmp_path / "b.npy").stat().st_size
    assert np.load(tmp_path / "b.npy").shape == (8, 3)


@pytest.mark.parametrize(("expected", "written"), [(1000, 0), (1, 1000)])
def test_an_array_that_does_not_fit_on_the_disk_is_one_line(tmp_path: Path, expected: int, written: int) -> None:
    """Before anything is written, if its size was expected. The disk is one whose files have at most 5,000 bytes."""
    program = f"""
import resource, signal, sys
import numpy as np
from emofuse.utils.errors import UserError
from emofuse.utils.files import array_file
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
done = 0
try:
    with array_file({str(tmp_path / "a.npy")!r}, np.float16, ({expected}, 10)) as add:
        for done in range(1, {written} + 1):
            add(np.zeros(10))
except UserError as error:
    print(done, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    number, message = done.stdout.split(" ", 1)
    assert (int(number) > 0) == (written > 0)
    assert (
        message == f"cannot write {tmp_path / 'a.npy'}: File too large; free space or make it writable, and run again\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_importing_files_does_not_import_pandas() -> None:
    program = "import sys, emofuse.utils.files; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("levels", [DEEPEST + 1, 900, 100_000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a": ', "}"), ('[{"a": ', "}]")])
def test_deeply_nested_json_and_yaml_is_one_line(tmp_path: Path, levels: int, start: str, end: str) -> None:
    path = tmp_path / "deep"
    path.write_text(start * levels + "1" + end * levels)
    for read in (read_json, lambda path: read_yaml(path, "")):
        with pytest.raises(UserError, match="nested too deeply") as error:
            read(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["&a [*a]", "&a {b: *a}"])
def test_yaml_that_contains_itself_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(UserError, match="nested too deeply"):
        read_yaml(tmp_path / "file", "")


def test_nesting_of_ordinary_depth_is_read(tmp_path: Path) -> None:
    value: object = 1
    for _ in range(DEEPEST - 1):
        value = [value, {"a": 1}]
    write_json(tmp_path / "file", value)
    assert read_json(tmp_path / "file") == value


def test_a_file_system_without_permissions_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    with atomic(tmp_path / "a") as partial:
        partial.write_text("text")
    assert (tmp_path / "a").read_text() == "text"


@pytest.mark.parametrize("name", ["a" * 255, "é" * 120 + ".json", "a." + "j" * 200, "\udcff.json", "a\nb\x1b"])
def test_any_name_that_the_file_system_accepts_can_be_written(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / name, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "reason"), [("a" * 256, "File name too long"), ("folder", "Is a directory"), ("file/a", "File exists")]
)
def test_a_place_where_nothing_can_be_written_is_one_line(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"^cannot write {tmp_path / name}: {reason}"):
        write_json(tmp_path / name, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
