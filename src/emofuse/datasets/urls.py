"""Published files: where they are, and their sizes and checksums as far as they are known (urls.csv).

The column `source` says where each line is from. A name with several lines has several addresses, in the order in which
to try them. A line of a corpus names no file: its address is that of the folder with the corpus's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from emofuse.utils.files import read_csv

URLS = Path(__file__).with_name("urls.csv")


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web.

    path: where to keep it, relative to the folder of downloads; addresses: in the order in which to try them; size in
    bytes, None if unknown; checksum: "md5:…" or "sha256:…", of which a prefix is enough, "" if unknown.
    """

    path: str
    addresses: tuple[str, ...]
    size: int | None = None
    checksum: str = ""


@cache
def addresses() -> dict[str, RemoteFile]:
    """The files in urls.csv by name."""
    files = {}
    for name, rows in read_csv(URLS).groupby("name", sort=False):
        first = rows.iloc[0]
        files[str(name)] = RemoteFile(
            first["file"], tuple(rows["address"]), int(first["bytes"] or 0) or None, first["checksum"]
        )
    return files
