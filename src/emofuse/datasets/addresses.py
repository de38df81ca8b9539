"""What is published where: addresses.csv.

Each of its lines says where it is from. A name with several lines has several addresses, the first to be asked first.
The line of a corpus has no file: its addresses are those of the folder that the corpus's files are in.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

REGISTRY = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Remote:
    """A file on the web.

    path: where it is kept, under the folder of archives; addresses: the first is asked first; size in bytes,
    None where unknown; checksum "md5:…" or "sha256:…", of which the start is enough, "" where none is known.
    """

    path: str
    addresses: tuple[str, ...]
    size: int | None = None
    checksum: str = ""


@cache
def registry() -> dict[str, Remote]:
    """The files whose address is known, by name."""
    known: dict[str, Remote] = {}
    with (REGISTRY / "addresses.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            first = Remote(row["file"], (), int(row["bytes"] or 0) or None, row["checksum"])
            found = known.get(row["name"], first)
            known[row["name"]] = replace(found, addresses=(*found.addresses, row["address"]))
    return known
