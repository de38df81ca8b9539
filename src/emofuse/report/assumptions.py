"""The assumptions ledger: the value of each parameter for a corpus, whose choice it is, and why.

literature/assumptions.csv has one row per parameter: its path in params.yaml, one of SOURCES, and the reason. Values
are read from params.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from emofuse.config import leaves
from emofuse.report.literature import read_file
from emofuse.utils.errors import UserError

if TYPE_CHECKING:
    from emofuse.config import Params

LEDGER = Path("literature") / "assumptions.csv"

SOURCES = {
    "paper": "its abstract; the full text was not available to us",
    "sibling": "the abstract of another paper by the same authors",
    "third-party reading": "a public re-implementation (github.com/lol-m-Devil/Emotion_Recognition) by someone who"
    " evidently had the paper; indirect evidence of what it says",
    "VAANet": "the public code of the network that the paper evidently builds on (Zhao et al., AAAI 2020, arXiv 2003.00832)",
    "other": "named in the reason",
    "ours": "nothing is known about the paper's choice, or ours deliberately differs from the most likely one",
}

# Keys of a corpus that change its results, except for the sections of features and overrides.
CORPUS = (
    "modalities", "actors", "vocal", "labels", "sound", "demo", "table", "max_unusable", "protocols", "validation_actors",
    "split_seed", "seeds", "calibrated", "development",
)  # fmt: skip
KIND = {"vocal": "ravdess", "labels": "cremad", "sound": "cremad"}  # keys that only apply to one kind of corpus
# The sections of one kind of corpus, and their parameters that change results; None for all.
SECTIONS = {"demo": None, "table": {"metadata", "emotions"}}
# Parameters that do not apply under a `training.selection`.
UNUSED = {"last": ("training.patience", "validation_actors"), "nested": ("calibrated",)}
# Parameters, by the start of their path, that do not apply to a network without the modality.
NEEDS = {
    "video": (
        "network.video.", "network.attention.spatial", "network.attention.channel", "network.attention.temporal",
        "network.fusion", "training.crop", "training.flip", "training.brightness",
    ),
    "audio": (
        "network.audio.", "network.attention.audio_temporal", "network.fusion", "spectrogram.", "training.mask_",
        "training.shift_",
    ),
}  # fmt: skip


def read(corpus: str, variant: str, params: Params, root: Path) -> pd.DataFrame:
    """The parameters that apply to a variant of a corpus, and what each variant of the corpus changes, as text.

    Columns: `parameter`; `value`, as in params.yaml; `general_value`, which holds for other corpora; `source` and
    `reason` of the general value, "" for a parameter that the ledger does not list.
    """
    values = pd.DataFrame(
        [
            (parameter, written(value), written(general))
            for parameter, value, general in _values(corpus, variant, params)
        ],
        columns=["parameter", "value", "general_value"],
    )
    sources = ledger(root)[["parameter", "source", "reason"]]
    return values.merge(sources, on="parameter", how="left").fillna({"source": "", "reason": ""})


def ledger(root: Path) -> pd.DataFrame:
    """The rows of the ledger. Raises `UserError` for a source that is not one of SOURCES."""
    rows = read_file(root, LEDGER, ("parameter", "source", "reason"))
    for row in rows[~rows["source"].isin(list(SOURCES))].itertuples():
        raise UserError(
            f"{LEDGER}, {row.parameter}: unknown source {row.source!r}; expected one of {', '.join(SOURCES)}"
        )
    return rows


def written(value: Any) -> str:
    """A value as params.yaml has it, on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("...\n").strip()


def _values(name: str, variant: str, params: Params) -> Iterator[tuple[str, Any, Any]]:
    """Path, value and general value of the parameters that apply to a variant of a corpus."""
    corpus, run = params.corpus(name), params.run(name, variant)
    sections = [
        (key, getattr(run, key), getattr(params, key)) for key in ("network", "spectrogram", "loss", "training")
    ]
    sections += [(key, own, type(own)()) for key in ("faces", "audio") if (own := getattr(corpus, key))]
    absent = tuple(start for modality in NEEDS.keys() - set(run.network.modalities) for start in NEEDS[modality])
    absent += UNUSED[run.training.selection]
    for key, section, general in sections:
        general_values = dict(leaves(general.model_dump(), f"{key}."))
        for parameter, value in leaves(section.model_dump(), f"{key}."):
            if not parameter.startswith(absent):
                yield parameter, value, general_values.get(parameter, value)  # a factory has other parameters
    for key in (key for key in CORPUS if key not in absent):
        value = getattr(corpus, key)
        if key in SECTIONS:
            for parameter, own in leaves(value.model_dump(include=SECTIONS[key]) if value else {}, f"{key}."):
                yield parameter, own, own
        elif KIND.get(key, corpus.kind) == corpus.kind:
            yield key, value, value
    for listed in corpus.variants:
        changes = params.variants[listed].model_dump(exclude_defaults=True)
        yield f"variants.{listed}", changes, changes
