"""The weights that backbones start from, read from torchvision's files or from local ones."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from emofuse.models import pretrained
from emofuse.utils.errors import UserError
from emofuse.utils.stand_ins import stand_in

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from emofuse.config import CustomNetwork, Network


def load_pretrained(network: nn.Module, section: Network | CustomNetwork, files: Mapping[str, Path]) -> None:
    """Initialise the backbones of `network` for which `section` names weights.

    `files` maps each name of weights, torchvision's or a local path, to its file: .safetensors, or a file of torch.save
    with a state dict or a checkpoint that has one under "state_dict", with or without the prefix of DataParallel.
    Raises `UserError` for a file that is missing, does not contain weights, contains more than weights, or belongs to a
    different network.
    """
    if not section.starts_from:
        return
    for modality in section.modalities:
        backbone = getattr(section, modality)
        if backbone.weights == "none":
            continue
        file = files[backbone.weights]
        published = backbone.weights in backbone.published
        advice = f"run emofuse weights {backbone.weights}" if published else f"see network.{modality}.weights"
        try:
            pretrained.load(network.get_submodule(modality).trunk, modality, _read(file, advice))  # type: ignore[arg-type]
        except ValueError as error:
            raise UserError(
                f"{file}: does not fit network.{modality}, {backbone.backbone} of width {backbone.width}: {error};"
                f" change network.{modality}.weights"
            ) from None


def _read(file: Path, advice: str) -> dict[str, torch.Tensor]:
    """The tensors of a state dict, by name. `advice` is what to do about a missing or broken file."""
    if instead := stand_in(file, "the file"):
        raise UserError(f"{file}: {instead}; {advice}")
    try:
        content: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError:
        raise UserError(f"{file} is missing: {advice}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}; {advice}") from None
    except Exception as error:  # on arbitrary bytes, both readers raise a variety of exceptions
        if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
            raise UserError(
                f"{file}: contains more than weights, which could execute code; save only its state_dict"
            ) from None
        raise UserError(f"{file}: not a checkpoint, or a corrupted one; {advice}") from None
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    entries = content.items() if isinstance(content, Mapping) else ()
    state = {str(k).removeprefix("module."): v for k, v in entries if isinstance(v, torch.Tensor)}
    if not state:
        raise UserError(
            f"{file}: contains no weights; expected a state dict, or a checkpoint with one under state_dict"
        )
    return state
