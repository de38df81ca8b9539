"""Messages on the terminal: file names and messages of libraries in them cannot move the cursor or add lines."""

from __future__ import annotations

import io
import logging
import os
import sys


def printable(text: str) -> str:
    """Text on one line, with control characters and bytes of names that are not UTF-8 escaped."""
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    is_byte = 0xDC80 <= ord(character) <= 0xDCFF  # how Python represents bytes of names that it cannot decode
    return f"\\x{ord(character) - 0xDC00:02x}" if is_byte else ascii(character)[1:-1]


def shown(path: os.PathLike[str] | str) -> str:
    """A path as text that any file can hold: bytes of its name that are not UTF-8 become `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def complain(error: Exception) -> None:
    """Print an error as one line on stderr."""
    print(f"emofuse: error: {printable(str(error))}", file=sys.stderr)


def start() -> None:
    """Log to stderr, one line per message; characters that the terminal's encoding lacks are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None if it is closed
            stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it reports the creation of its cache


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return printable(text) if record.name.startswith("emofuse") else text


def finish() -> None:
    """Write out what has been printed. Raises `OSError` if it cannot be, once: what remains is dropped."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it exits
        raise
