"""The assumptions ledger: what each parameter is for a corpus, whose choice that is, and why.

literature/assumptions.csv has a line a parameter: its path in params.yaml, a label of `SOURCES`, the reason. Values are
read from params.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from emofuse.config import leaves
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_table

if TYPE_CHECKING:
    from emofuse.config import Params

LEDGER = Path("literature") / "assumptions.csv"

SOURCES = {
    "paper": "its abstract; its body was not available to us",
    "sibling": "another paper of the same authors, by its abstract",
    "third-party reading": "a public re-implementation (github.com/lol-m-Devil/Emotion_Recognition) by someone who"
    " evidently had the paper; indirect evidence of what it says",
    "VAANet": "the network that the paper evidently builds on (Zhao et al., AAAI 2020, arXiv 2003.00832), by its public code",
    "other": "named in the reason",
    "ours": "nothing is known of the paper's choice, or ours differs from what is likeliest",
}

# Keys of a corpus that change its results, but for its features and overrides, which are sections of their own.
CORPUS = (
    "modalities", "actors", "vocal", "labels", "sound", "demo", "max_unusable", "protocols", "validation_actors",
    "split_seed", "seeds",
)  # fmt: skip
KIND = {"vocal": "ravdess", "labels": "cremad", "sound": "cremad"}  # keys that mean something for that kind alone
# What a network does not have, or is not trained with, without a modality: by the beginning of the parameter's path.
NEEDS = {
    "video": (
        "network.video.", "network.attention.spatial", "network.attention.channel", "network.attention.temporal",
        "network.fusion", "training.crop", "training.flip", "training.brightness",
    ),
    "audio": (
        "network.audio.", "network.attention.audio_temporal", "network.fusion", "training.mask_",
        "training.shift_bands", "training.stretch_time",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Assumption:
    """A parameter of a corpus, its value as params.yaml writes it, whose choice it is, and why.

    `general` is the value elsewhere, "" where this corpus sets none of its own; source and reason are of the
    general one. Both are "" for a parameter that the ledger does not know.
    """

    parameter: str
    value: str
    general: str
    source: str
    reason: str


def read(corpus: str, variant: str, params: Params, root: Path) -> tuple[Assumption, ...]:
    """Every parameter that a variant of a corpus goes by, and what each variant of the corpus changes."""
    ledger = {row["parameter"]: row for row in rows(root)}
    found = []
    for parameter, value, general in _values(corpus, variant, params):
        known = ledger.get(parameter, {})
        found.append(
            Assumption(
                parameter, written(value), "" if value == general else written(general),
                known.get("source", ""), known.get("reason", ""),
            )
        )  # fmt: skip
    return tuple(found)


def rows(root: Path) -> list[dict[str, str]]:
    """The lines of the ledger. Raises `UserError` for one whose source is not of `SOURCES`."""
    if not (root / LEDGER).is_file():
        raise UserError(f"{LEDGER} is missing: run emofuse in the folder that holds params.yaml and literature/")
    found = read_table(root / LEDGER, ("parameter", "source", "reason"))
    for row in found:
        if row["source"] not in SOURCES:
            raise UserError(
                f"{LEDGER}, {row['parameter']}: no source {row['source']!r}; there are {', '.join(SOURCES)}"
            )
    return found


def written(value: Any) -> str:
    """A value as params.yaml has it, on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("...\n").strip()


def _values(name: str, variant: str, params: Params) -> Iterator[tuple[str, Any, Any]]:
    """Path, value and general value of the parameters that concern a variant of a corpus."""
    corpus, run = params.corpus(name), params.run(name, variant)
    sections = [(key, getattr(run, key), getattr(params, key)) for key in ("network", "loss", "training")]
    sections += [(key, made, type(made)()) for key in ("faces", "audio") if (made := getattr(corpus, key))]
    absent = tuple(start for modality in NEEDS.keys() - set(run.network.modalities) for start in NEEDS[modality])
    for key, section, general in sections:
        elsewhere = dict(leaves(general.model_dump(), f"{key}."))
        for parameter, value in leaves(section.model_dump(), f"{key}."):
            if not parameter.startswith(absent):
                yield parameter, value, elsewhere[parameter]
    for key in CORPUS:
        value = getattr(corpus, key)
        if key == "demo":
            for parameter, number in leaves(value.model_dump() if value else {}, "demo."):
                yield parameter, number, number
        elif KIND.get(key, corpus.kind) == corpus.kind:
            yield key, value, value
    for listed in corpus.variants:
        changes = params.variants[listed].model_dump(exclude_defaults=True)
        yield f"variants.{listed}", changes, changes
