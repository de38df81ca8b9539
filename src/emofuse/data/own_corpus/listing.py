"""What `emofuse corpus` finds out about the files of a folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from emofuse.datasets.base import actor_named
from emofuse.datasets.emotions import standard
from emofuse.utils.errors import UserError

Row = dict[str, str]  # column of metadata.csv → cell
Maps = Mapping[str, Mapping[str, str]]  # field of a name → code → what it means; "" to leave clips with the code out

COLUMNS = {"sentence": "statement", "take": "repetition"}  # common names of columns → those of metadata.csv
LEFT_OUT = "left out by --map"


@dataclass
class Listing:
    """The rows of metadata.csv; the files that are not in it, by reason; and, from EmoBox, the folds of its protocol.

    folds: fold → "test" or "val" → actors.
    """

    rows: list[Row] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    folds: dict[int, dict[str, list[str]]] = field(default_factory=dict)
    actors_known: bool = True


def read_maps(options: list[str]) -> dict[str, dict[str, str]]:
    """The maps in options such as `emotion:01=neutral,02=sad`. Raises `UserError` for anything else."""
    maps: dict[str, dict[str, str]] = defaultdict(dict)
    for option in options:
        name, colon, pairs = option.partition(":")
        for pair in pairs.split(","):
            code, equals, meaning = pair.partition("=")
            if not (name and colon and code.strip() and equals):
                raise UserError(
                    f"--map {option}: expected <field>:<code>=<meaning>,…, such as emotion:01=neutral,02=sad"
                )
            if maps[name].setdefault(code.strip(), meaning.strip()) != meaning.strip():
                raise UserError(f"--map: {name} {code.strip()} has two meanings; keep one")
    return dict(maps)


def interpreted(fields: Mapping[str, str], maps: Maps) -> Row | str:
    """The columns of a clip, given the fields of its name; or why the clip is not listed."""
    row = {}
    for name, code in fields.items():
        meaning = code
        if name in maps:
            if code not in maps[name]:
                return f"with the {name} {code}, which --map does not mention"
            meaning = maps[name][code]
            if not meaning:
                return LEFT_OUT
        if name == "emotion":
            meaning = standard(meaning)
        elif name == "actor":
            meaning = str(actor_named(meaning))  # 01 and 1 are one actor
        row[COLUMNS.get(name, name)] = meaning
    return row
