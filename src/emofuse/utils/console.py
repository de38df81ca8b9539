"""Messages on the terminal: file names and messages of libraries in them cannot move the cursor or add lines."""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    """Text on one line, with control characters escaped."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def complain(error: Exception) -> None:
    """Print an error as one line on stderr."""
    print(f"emofuse: error: {printable(str(error))}", file=sys.stderr)
