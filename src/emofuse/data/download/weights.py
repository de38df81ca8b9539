"""The weights stage: pretrained weights from where their authors publish them, or from a local folder."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from emofuse import paths
from emofuse.data.download import http, sources
from emofuse.datasets.urls import RemoteFile, addresses
from emofuse.provenance.job import job
from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic
from emofuse.utils.stand_ins import stand_in

if TYPE_CHECKING:
    from emofuse.config import Params

log = logging.getLogger(__name__)

SETTING = "EMOFUSE_WEIGHTS_SOURCE"


def stage(params: Params, name: str, root: Path = Path()) -> None:
    """`emofuse weights`: download pretrained weights to data/weights/ and verify them."""
    _published(name)
    target = paths.weights(name)
    with job("weights", params, {"name": name}, paths.record(target), [], [target], root):
        fetch(name, root)


def fetch(name: str, root: Path | str = ".") -> None:
    """Get the weights of that name to `paths.weights(name)` under `root`, and verify them.

    If the environment variable EMOFUSE_WEIGHTS_SOURCE names a folder, they are copied from the file of the published
    name anywhere in it. Raises `UserError` if the file cannot be had or is another one.
    """
    file = _published(name)
    target = Path(root) / paths.weights(name)
    source = os.environ.get(SETTING)
    if not source:
        http.fetch([file], target.parent, SETTING)
        return
    if not Path(source).is_dir():
        raise UserError(
            f"{SETTING}: there is no folder {source}; give another, or unset {SETTING} to download the weights"
        )
    found = min(
        (Path(entry.path) for entry, _ in sources.walk(Path(source), []) if entry.name == file.path), default=None
    )
    if found is None:
        raise UserError(
            f"{SETTING}: there is no {file.path} in {source} or its folders, except hidden ones; put it there, or unset {SETTING} to download it"
        )
    try:
        with found.open("rb") as stream:
            if instead := stand_in(stream.read(512), "the weights"):
                raise http.WrongContent(f"it is {instead}")
        http.verify_file(found, file)
    except http.WrongContent as error:
        raise UserError(f"{found}: not the weights {name}: {error}; replace it, or unset {SETTING}") from None
    except OSError as error:
        raise UserError(f"{found} cannot be read: {error.strerror}; restore it, or unset {SETTING}") from None
    with atomic(target) as partial:
        shutil.copyfile(found, partial)
    log.info("%s: copied from %s", target, found)


def _published(name: str) -> RemoteFile:
    if name not in paths.WEIGHTS:
        raise UserError(f"weights: there are none named {name!r}; there are {', '.join(paths.WEIGHTS)}")
    return addresses()[name]
