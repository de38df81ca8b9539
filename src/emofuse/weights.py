"""Pretrained weights: data/weights/<file>, from where their makers serve them or from a local folder."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from emofuse import remote
from emofuse.errors import UserError
from emofuse.files import atomic
from emofuse.published import Remote, registry

if TYPE_CHECKING:
    from emofuse.params import Network

log = logging.getLogger(__name__)

NAMES = ("resnet18", "r3d_18", "retinaface_resnet50", "retinaface_mobilenet0.25")
SETTING = "EMOFUSE_WEIGHTS_SOURCE"
FOLDER = PurePosixPath("data/weights")


def path(name: str) -> str:
    """Where the weights of that name lie, from the repository's root; `UserError` for no such name."""
    return str(FOLDER / _known(name).path)


def named(network: Network) -> set[str]:
    """What a network starts from: published weights by name, local files by their paths."""
    return {getattr(network, modality).weights for modality in network.modalities} - {"none"}


def local(network: Network) -> list[str]:
    """The local files that a network starts from, as params.yaml names them."""
    return sorted(named(network) - set(NAMES))


def files(network: Network, root: Path) -> dict[str, Path]:
    """What a network starts from → its file: published weights by name, a local file by its path from `root`."""
    return {name: root / (path(name) if name in NAMES else name) for name in named(network)}


def fetch(name: str, root: Path | str = ".") -> None:
    """Put the weights of that name at `path(name)` under `root`, checked, as their maker serves them.

    The environment variable EMOFUSE_WEIGHTS_SOURCE names a folder that has the file, under its own name,
    anywhere in it; else it is fetched. Raises `UserError` where the file cannot be had or is not what it
    should be.
    """
    known = _known(name)
    target = Path(root) / FOLDER / known.path
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
    if name not in NAMES:
        raise UserError(f"weights: there are none named {name!r}; there are {', '.join(NAMES)}")
    return registry()[name]
