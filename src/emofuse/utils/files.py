"""Reading and hashing files, and writing them atomically: a file is complete or it is not there."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse.utils.console import printable
from emofuse.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)
DEEPEST = 100  # levels of nesting in JSON and YAML
TOO_DEEP = "it is nested too deeply"
TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}(\.[^.]*|)")  # the name of the file, and its suffix once more


def unwritable(error: Exception) -> int | None:
    """The operating system's error number if a file cannot be written; safetensors and torch only have it in the message."""
    number = getattr(error, "errno", None)
    if message := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(message[1])
    elif "PytorchStreamWriter failed writing" in str(error):
        number = errno.ENOSPC
    return number if number in UNWRITABLE else None


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which is renamed to `path` if the block ends without an error.

    After a crash, `path` is the old file, or absent. An exception removes the temporary file; a full disk or a
    read-only folder is a `UserError` that names the file.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix, suffix = _shortened(f".{path.name}", 150), _shortened(path.suffix, 50)  # names have at most 255 bytes
        handle, name = tempfile.mkstemp(prefix=f"{prefix}.", suffix=suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        with suppress(OSError):  # on file systems without permissions, such as Windows' drives in WSL
            temporary.chmod(0o644)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except UserError:
        raise
    except Exception as error:
        filename = getattr(error, "filename", None)
        number = error.errno if isinstance(error, OSError) else unwritable(error)
        if filename not in (None, str(path.parent), str(temporary)):
            number = None
        if number is None:
            raise
        raise UserError(
            f"cannot write {path}: {os.strerror(number)}; free space or make it writable, and run again"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _shortened(name: str, size: int) -> str:
    """The start of a name, at most `size` bytes."""
    while len(os.fsencode(name)) > size:
        name = name[:-1]
    return name


def sweep(paths: Iterable[Path]) -> None:
    """Remove the temporary files that killed processes have left beside these files, which no process may be writing."""
    wanted = set(paths)
    for folder in {path.parent for path in wanted}:
        for file in folder.glob(".*") if folder.is_dir() else ():
            name = TEMPORARY.fullmatch(file.name)
            if name and folder / name[1] in wanted and Path(name[1]).suffix == name[2]:
                file.unlink(missing_ok=True)


@contextmanager
def array_file(path: Path | str, dtype: Any, shape: tuple[int, ...]) -> Iterator[Callable[[Any], None]]:
    """Write a .npy file of that type and shape atomically, piece by piece along its first axis.

    Yields a function that appends an item, an array of shape[1:], several of them, (n, *shape[1:]), or None for an item of
    zeros. shape[0] is the number of items to expect: disk space for them is allocated first, so that a full disk is noticed
    before the work. The file is not memory-mapped, because dirty pages of a map count as memory of the process.
    """
    import numpy as np

    kind = np.dtype(dtype)
    item = math.prod(shape[1:]) * kind.itemsize

    def write_header(stream: Any, items: int) -> int:
        """Write the header, which NumPy pads, so that its length does not depend on the number of items."""
        description = np.lib.format.dtype_to_descr(kind)
        stream.seek(0)
        np.lib.format.write_array_header_1_0(
            stream, {"descr": description, "fortran_order": False, "shape": (items, *shape[1:])}
        )
        return int(stream.tell())

    with atomic(path) as temporary, temporary.open("rb+") as stream:
        start = write_header(stream, shape[0])
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, start + shape[0] * item)

        def add(values: Any) -> None:
            if values is None:
                stream.seek(item, os.SEEK_CUR)
            else:
                stream.write(np.ascontiguousarray(values, kind).data)

        yield add
        end = stream.tell()
        stream.truncate(end)  # if the space was not allocated, zeros at the end are missing
        write_header(stream, (end - start) // item)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, keeping the order of keys; ValueError for NaN and infinities."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file that a stage wrote; `UserError` if it is missing or invalid."""
    try:
        return parse_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that writes it") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run its stage again") from None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; ValueError if it is invalid or nested too deeply."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    if _is_deep(value):
        raise ValueError(TOO_DEEP)
    return value


def _is_deep(value: Any) -> bool:
    """Whether a tree has more than DEEPEST levels. Branches that YAML's aliases share are counted once."""
    level = _containers([value])
    for _ in range(DEEPEST + 1):
        if not level:
            return False
        level = _containers(
            child for node in level for child in ([*node, *node.values()] if isinstance(node, dict) else node)
        )
    return True


def _containers(values: Iterable[Any]) -> list[Any]:
    return list({id(value): value for value in values if isinstance(value, dict | list | tuple)}.values())


def read_csv(path: Path | str, columns: Sequence[str] = (), stage: str = "the stage that writes it") -> pd.DataFrame:
    """Read a CSV file that `stage` wrote, with all columns as text and empty cells as "".

    Raises `UserError` if it is missing, is not a CSV file, lacks one of `columns`, or is truncated.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, index_col=False)
        with Path(path).open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            cut = stream.read() != b"\n"
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run {stage}") from None
    except ValueError as error:  # including pandas' own errors and UnicodeDecodeError
        raise UserError(f"{path} is not a CSV file ({str(error).strip()}): delete it and run its stage again") from None
    absent = [column for column in columns if column not in frame]
    if absent:
        raise UserError(f"{path}: no column {absent[0]}; run its stage again")
    if cut and len(frame) and frame.iloc[-1, -1] == "":  # pandas fills up short rows
        raise UserError(f"{path}: it is truncated; run its stage again")
    return frame


def write_csv(path: Path | str, frame: pd.DataFrame) -> None:
    """Write the columns of a frame, without its index, as a CSV file, atomically."""
    text = frame.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # in a file name; pandas would read it as the end of a line, but does not quote it
        text = frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the stage that writes it") from None


def read_yaml(path: Path | str, missing: str) -> Any:
    """The content of a YAML 1.2 file that a user wrote; DVC reads params.yaml with the same loader.

    Raises `UserError`, with the line number, for invalid YAML and for a key that is set twice. `missing` says what to do
    if there is no such file.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    try:
        text, depth = Path(path).read_text(encoding="utf-8"), 0
        for event in YAML(typ="safe").parse(text):  # before it is loaded: libyaml's loader may crash
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{path}: {TOO_DEEP}")
        value = YAML(typ="safe").load(text)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {missing}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # impossible dates, huge integers and the like raise more than YAMLError
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: not YAML: {where}{printable(' '.join(problem.split()))}") from None
    if _is_deep(value):  # through aliases
        raise UserError(f"{path}: {TOO_DEEP}")
    return value
