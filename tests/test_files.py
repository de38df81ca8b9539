"""Files are written atomically, and damaged ones are reported in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, read_csv, write_csv


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.text('a,"\n é1', max_size=4), st.sampled_from(["", "NA", "null", "007", "1e3"])), min_size=1)
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


def test_importing_files_does_not_import_pandas() -> None:
    program = "import sys, emofuse.utils.files; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
