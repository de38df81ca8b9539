"""The corpora: what their clips are called and what the names say. One module a kind: ravdess, cremad, demo.

Each module has EMOTIONS, in the order in which classes are numbered, and parse(stem) -> Clip. Those of
published corpora also have ACTORS, member(path, corpus) and remote(bases, actors, corpus), which say which
files belong to the corpus and where they are served; a module may have its own entries(names, read, corpus)
where one file is not one clip.
"""

from __future__ import annotations

import importlib
from types import ModuleType

KINDS = ("ravdess", "cremad", "demo")


def reader(kind: str) -> ModuleType:
    """The module that knows a kind of corpus; ValueError for no such kind."""
    if kind not in KINDS:
        raise ValueError(f"no corpus of kind {kind!r}; there are {', '.join(KINDS)}")
    return importlib.import_module(f"emofuse.datasets.{kind}")


def emotions(kind: str) -> tuple[str, ...]:
    """A kind's emotions, in the order in which classes are numbered."""
    return tuple(reader(kind).EMOTIONS)
