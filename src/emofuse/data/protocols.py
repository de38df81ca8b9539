"""Protocols are named sets of folds: published ones are files in protocols/, `kfold_<k>` assigns actors to k folds."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from emofuse.datasets.base import Actor, actor_named
from emofuse.utils.errors import UserError

KFOLD = re.compile(r"kfold_([0-9]{1,3})")
RANDOM = "random_"  # prefix of a protocol's name: the same sizes, but random clips, so that folds share actors


def protocol_path(folder: str, protocol: str) -> Path | None:
    """The file of a published protocol in a folder of protocols/, relative to the repository's root; None for kfold_<k>."""
    base = protocol.removeprefix(RANDOM)
    return None if KFOLD.fullmatch(base) else Path("protocols") / folder / f"{base}.csv"


def read_protocol(path: Path) -> dict[int, dict[str, list[Actor]]]:
    """Read a published protocol: fold → part ("test" or "val") → actors, from the columns fold, part, actor.

    Raises `UserError` for any other file, and for a fold without test actors.
    """
    # params.yaml is checked against it whenever Snakemake starts, when importing pandas would take too long.
    expected = f"{path}: expected a CSV file with the columns fold, part, actor"
    folds: dict[int, dict[str, list[Actor]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for line, row in enumerate(csv.DictReader(stream), start=2):
                fold, part, actor = row["fold"], row["part"], row["actor"]
                if part not in ("test", "val") or not fold.isdecimal() or not actor:
                    found = ",".join(map(str, (fold, part, actor)))
                    raise UserError(
                        f"{path}, line {line}: expected fold, test or val, actor; found {found if found.isprintable() else repr(found)}"
                    )
                folds.setdefault(int(fold), {}).setdefault(part, []).append(actor_named(actor))
    except (KeyError, AttributeError, ValueError, csv.Error):
        raise UserError(expected) from None
    if not folds:
        raise UserError(expected)
    if untested := [fold for fold, parts in folds.items() if "test" not in parts]:
        raise UserError(f"{path}: fold {untested[0]} has no test actor")
    return folds
