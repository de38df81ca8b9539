"""Weights that a trunk starts from: torchvision's, or a local file of the same network."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from emofuse.models.backbones import HARA
from emofuse.utils.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from emofuse.config import Network
    from emofuse.models.network import EmotionNetwork

# The names of github.com/kenshohara/3D-ResNets-PyTorch → those of torchvision's VideoResNet, which already are so.
RENAMED = (
    (re.compile(r"^conv1\."), "stem.0."),
    (re.compile(r"^bn1\."), "stem.1."),
    (re.compile(r"^(layer\d\.\d+)\.conv(\d)\.weight$"), r"\1.conv\2.0.weight"),
    (re.compile(r"^(layer\d\.\d+)\.bn(\d)\."), r"\1.conv\2.1."),
)


def load(network: EmotionNetwork, section: Network, files: Mapping[str, Path]) -> None:
    """Put weights into the trunks of `network` that ask for them.

    `files` maps what `section` names, torchvision's weights or a local file, to its file: .safetensors, or
    what torch.save wrote, be it a state dict or a checkpoint that has one under "state_dict", with or without
    DataParallel's prefix. The classifier is dropped. Raises `UserError` for a missing file, for one that holds
    no weights or more than weights, and for those of another network.
    """
    for modality in section.modalities:
        backbone = getattr(section, modality)
        if backbone.weights == "none":
            continue
        file = files[backbone.weights]
        published = backbone.weights in backbone.published
        advice = f"run emofuse weights {backbone.weights}" if published else f"network.{modality}.weights names it"
        state = _read(file, advice)
        state = _video(state) if modality == "video" else _audio(state)
        trunk = network.get_submodule(modality).get_submodule("trunk")
        if difference := _difference(state, trunk.state_dict()):
            raise UserError(
                f"{file}: does not fit network.{modality}, {backbone.backbone} of width {backbone.width}: {difference}"
            )
        trunk.load_state_dict(state)


def _read(file: Path, advice: str) -> dict[str, torch.Tensor]:
    """The tensors of a state dict by name; `advice` is for a file that is missing or broken."""
    try:
        content: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError:
        raise UserError(f"{file} is missing: {advice}") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # bytes that are no checkpoint make the readers fail in any way
        if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
            raise UserError(
                f"{file}: holds more than weights, which could run code: save its state_dict alone"
            ) from None
        raise UserError(f"{file}: not a checkpoint, or a broken one: {advice}") from None
    if isinstance(content, Mapping):
        content = content.get("state_dict", content)
    entries = content.items() if isinstance(content, Mapping) else ()
    state = {str(k).removeprefix("module."): v for k, v in entries if isinstance(v, torch.Tensor)}
    if not state:
        raise UserError(f"{file}: holds no weights; want a state dict, or a checkpoint with one under state_dict")
    return state


def _video(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As the 3D trunk names them, for inputs as it has them."""
    first, classifier = state.get("conv1.weight"), state.get("fc.bias")
    if first is not None and first.shape[1:] == (3, 7, 7, 7) and classifier is not None and classifier.shape == (400,):
        # kenshohara's files of 2018, the only ones of 400 classes, were trained on pictures from 0 to 255 less
        # their mean; the later ones, as our trunk is fed, on [0, 1] less the mean, over the standard deviation.
        # (The two means are 3 to 4 of 255 apart, which is left.)
        state["conv1.weight"] = first * 255 * torch.tensor(HARA[1]).view(3, 1, 1, 1)
    renamed = {}
    for name, value in _without_classifier(state).items():
        for pattern, replacement in RENAMED:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    return renamed


def _audio(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With one input channel: the sum over the colours, as a grey picture has them equal."""
    state = _without_classifier(state)
    first = state.get("conv1.weight")
    if first is not None and first.dim() == 4:
        state["conv1.weight"] = first.sum(1, keepdim=True)
    return state


def _without_classifier(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def _difference(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str | None:
    """The first name or shape in which the weights found differ from those wanted."""
    for name, value in wanted.items():
        if name not in found:
            if name.endswith("num_batches_tracked"):  # unknown to the PyTorch of 2018, and used by none of our norms
                continue
            return f"it lacks {name}"
        if found[name].shape != value.shape:
            return f"{name} is {_shape(found[name])}, not {_shape(value)}"
    extra = next((name for name in found if name not in wanted), None)
    return None if extra is None else f"it has {extra} besides"


def _shape(tensor: torch.Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "one number"
