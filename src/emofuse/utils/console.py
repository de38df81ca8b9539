"""What is printed for people: file names, messages of libraries and the like cannot move the cursor or break a line."""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    """Text of one line, with what a terminal would obey written out."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def complain(error: Exception) -> None:
    """Print a user's mistake as the one line that it is."""
    print(f"emofuse: error: {printable(str(error))}", file=sys.stderr)
