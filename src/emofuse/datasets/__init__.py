"""The corpora, one module per kind. `base.Dataset` says what a corpus has to implement."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emofuse.datasets.base import Dataset

KINDS = ("ravdess", "cremad", "demo")


def get(kind: str) -> Dataset:
    """The corpus of a kind; ValueError if there is none. Imports no other kind's module."""
    if kind not in KINDS:
        raise ValueError(f"no corpus of kind {kind!r}; there are {', '.join(KINDS)}")
    dataset: Dataset = importlib.import_module(f"emofuse.datasets.{kind}").DATASET
    return dataset
