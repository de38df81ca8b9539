"""The corpora, one module per kind. `base.Dataset` says what a corpus has to implement."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emofuse.config import Corpus
    from emofuse.datasets.base import Dataset

KINDS = ("ravdess", "cremad", "demo")  # those with a fixed set of clips


def get(kind: str) -> Dataset:
    """The corpus of one of KINDS; ValueError for any other. Imports no other kind's module."""
    if kind not in KINDS:
        raise ValueError(f"no corpus of kind {kind!r}; there are {', '.join(KINDS)}")
    dataset: Dataset = importlib.import_module(f"emofuse.datasets.{kind}").DATASET
    return dataset


def of(corpus: Corpus, root: Path) -> Dataset:
    """The corpus of a section of params.yaml, which is in the folder `root`. `UserError` for an invalid table."""
    if corpus.table is None:
        return get(corpus.kind).configured(corpus)
    from emofuse.datasets.table import TableCorpus

    return TableCorpus(corpus.table, root)
