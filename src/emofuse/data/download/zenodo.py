"""Checksums that Zenodo publishes for the files of a record."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from emofuse.data.download.http import fetch
from emofuse.datasets.urls import RemoteFile
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_json

log = logging.getLogger(__name__)

_ADDRESS = re.compile(r"(https?://[^/]+)/records?/([0-9]+)/files/")


def with_checksums(files: Sequence[RemoteFile], archives: Path, setting: str) -> list[RemoteFile]:
    """The files with their sizes and checksums; those without, from the Zenodo record that they belong to, if any."""
    unknown = [file for file in files if not file.checksum]
    published = read_record(unknown[0].addresses[0], archives, setting) if unknown else {}
    if published and (absent := [file.path for file in unknown if file.path not in published]):
        log.warning("the record has no checksum of %s", ", ".join(absent))
    complete = []
    for file in files:
        if not file.checksum and file.path in published:
            size, checksum = published[file.path]
            file = replace(file, size=size, checksum=checksum)
        complete.append(file)
    return complete


def read_record(address: str, archives: Path, setting: str) -> dict[str, tuple[int, str]]:
    """The size and checksum of each file of the Zenodo record that an address belongs to; {} for other addresses.

    The record is kept beside the archives, so that later downloads are held to the checksums of the first. Without
    it, the checksums within the zips still reveal damage.
    """
    match = _ADDRESS.match(address)
    if match is None:
        return {}
    host, number = match.groups()
    metadata = RemoteFile(f"record-{number}.json", (f"{host}/api/records/{number}",))
    try:
        (path,) = fetch([metadata], archives, setting)
        return {
            file["key"]: (int(file["size"]), file["checksum"])
            for file in read_json(path)["files"]
            if file["checksum"].startswith(("md5:", "sha256:"))
        }
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        (archives / metadata.path).unlink(missing_ok=True)
        reason = error if isinstance(error, UserError) else f"{metadata.addresses[0]} lists no files"
        log.warning("the published checksums are not available: %s", reason)
        return {}
