"""Protocols: named folds. Published ones are files in protocols/, `kfold_<k>` deals actors into k generated folds."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from emofuse.utils.errors import UserError

KFOLD = re.compile(r"kfold_([0-9]{1,3})")
RANDOM = (
    "random_"  # before a protocol's name: folds of its sizes whose clips are drawn at random, so that actors are shared
)


def protocol_path(kind: str, protocol: str) -> Path | None:
    """Where the published protocol lies whose folds these are, from the repository's root; None for kfold_<k>."""
    followed = protocol.removeprefix(RANDOM)
    return None if KFOLD.fullmatch(followed) else Path("protocols") / kind / f"{followed}.csv"


def read_protocol(path: Path) -> dict[int, dict[str, list[int]]]:
    """A published protocol: fold → part ("test" or "val") → actors, from the columns fold, part, actor.

    Raises `UserError` for a file that is something else, and for a fold that tests nobody.
    """
    wanted = f"{path}: want a CSV file with the columns fold, part, actor"
    folds: dict[int, dict[str, list[int]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for line, row in enumerate(csv.DictReader(stream), start=2):
                fold, part, actor = row["fold"], row["part"], row["actor"]
                if part not in ("test", "val") or not fold.isdecimal() or not actor.isdecimal():
                    found = ",".join(map(str, (fold, part, actor)))
                    raise UserError(
                        f"{path}, line {line}: want fold, test or val, actor; found {found if found.isprintable() else repr(found)}"
                    )
                folds.setdefault(int(fold), {}).setdefault(part, []).append(int(actor))
    except (KeyError, AttributeError, ValueError, csv.Error):
        raise UserError(wanted) from None
    if not folds:
        raise UserError(wanted)
    if untested := [fold for fold, parts in folds.items() if "test" not in parts]:
        raise UserError(f"{path}: fold {untested[0]} has no test actor")
    return folds
