"""Pretrained weights: data/weights/<file>, from where their makers serve them or from a local folder."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import paths
from emofuse.data.download import http as remote
from emofuse.datasets.addresses import Remote, registry
from emofuse.provenance.job import job
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic

if TYPE_CHECKING:
    from emofuse.config import Params

log = logging.getLogger(__name__)

SETTING = "EMOFUSE_WEIGHTS_SOURCE"


def stage(params: Params, name: str, root: Path = Path()) -> None:
    """`emofuse weights`: fetch pretrained weights to data/weights/, checked by hash."""
    _known(name)
    target = paths.weights(name)
    with job("weights", params, {"name": name}, paths.record(target), [], [target], root):
        fetch(name, root)


def fetch(name: str, root: Path | str = ".") -> None:
    """Put the weights of that name at `paths.weights(name)` under `root`, checked, as their maker serves them.

    The environment variable EMOFUSE_WEIGHTS_SOURCE names a folder that has the file, under its own name,
    anywhere in it; else it is fetched. Raises `UserError` where the file cannot be had or is not what it
    should be.
    """
    known = _known(name)
    target = Path(root) / paths.weights(name)
    source = os.environ.get(SETTING)
    if not source:
        remote.fetch([known], target.parent, SETTING)
        return
    found = next((file for file in sorted(Path(source).rglob(known.path)) if file.is_file()), None)
    if found is None:
        raise UserError(
            f"{SETTING}: there is no {known.path} in {source}; put it there, or unset {SETTING} to fetch it"
        )
    try:
        remote.check_file(found, known)
    except remote.WrongBytes as error:
        raise UserError(f"{found}: not the weights {name}: {error}; replace it, or unset {SETTING}") from None
    with atomic(target) as partial:
        shutil.copyfile(found, partial)
    log.info("%s: copied from %s", target, found)


def _known(name: str) -> Remote:
    if name not in paths.WEIGHTS:
        raise UserError(f"weights: there are none named {name!r}; there are {', '.join(paths.WEIGHTS)}")
    return registry()[name]
