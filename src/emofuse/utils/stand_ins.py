"""Files that stand for content which was not fetched, such as pointers of Git LFS."""

from __future__ import annotations

import re
from pathlib import Path

_START = 512  # bytes that are enough to recognise one
_KINDS = (  # how it begins, what it is, and what to do
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "a pointer of Git LFS",
        "run `git lfs pull` in the repository that it comes from",
    ),
    (
        re.compile(rb"/annex/objects/"),
        "a pointer of git-annex",
        "run `git annex get` in the repository that it comes from",
    ),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html)", re.IGNORECASE),
        "a web page",
        "download it with a browser, which can log in or confirm",
    ),
)


def stand_in(content: bytes | Path, what: str) -> str:
    """What content, or a file, is instead of `what` it stands for ("the clip"), and what to do; "" if it is none."""
    if isinstance(content, Path):
        try:
            with content.open("rb") as stream:
                content = stream.read(_START)
        except OSError:  # whoever reads it reports that
            return ""
    return next((f"{kind}, not {what}: {do}" for start, kind, do in _KINDS if start.match(content)), "")
