"""Published weights as the backbones name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch

from emofuse.models.backbones import HARA, FreezableResNet
from emofuse.utils.tensors import require_floats

if TYPE_CHECKING:
    State = dict[str, torch.Tensor]

# Names in github.com/kenshohara/3D-ResNets-PyTorch → names in torchvision's VideoResNet. The latter match no pattern.
RENAMED = (
    (re.compile(r"^conv1\."), "stem.0."),
    (re.compile(r"^bn1\."), "stem.1."),
    (re.compile(r"^(layer\d\.\d+)\.conv(\d)\.weight$"), r"\1.conv\2.0.weight"),
    (re.compile(r"^(layer\d\.\d+)\.bn(\d)\."), r"\1.conv\2.1."),
)


def load(backbone: FreezableResNet, modality: Literal["video", "audio"], state: State) -> None:
    """Load the state dict of a published classifier, without its last layer. ValueError if it is of another network.

    For video, networks of torchvision's or kenshohara's layout, for audio, networks of torchvision's.
    """
    require_floats(state)
    state = _video(state) if modality == "video" else _audio(state)
    if difference := _difference(state, backbone.state_dict()):
        raise ValueError(difference)
    backbone.load_state_dict(state)


def _video(state: State) -> State:
    first, classifier = state.get("conv1.weight"), state.get("fc.bias")
    if first is not None and first.shape[1:] == (3, 7, 7, 7) and classifier is not None and classifier.shape == (400,):
        # kenshohara's files of 2018, the only ones with 400 classes, expect pixels from 0 to 255 minus their mean. Later
        # files expect what our backbone receives: [0, 1], minus the mean, divided by the standard deviation. The two
        # means differ by 3 to 4 of 255, which is neglected.
        state = state | {"conv1.weight": first * 255 * torch.tensor(HARA[1]).view(3, 1, 1, 1)}
    renamed = {}
    for name, value in _without_classifier(state).items():
        for pattern, replacement in RENAMED:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    return renamed


def _audio(state: State) -> State:
    """For one input channel: the sum over the colours, which is equivalent for grey images."""
    state = _without_classifier(state)
    first = state.get("conv1.weight")
    if first is not None and first.dim() == 4:
        state["conv1.weight"] = first.sum(1, keepdim=True)
    return state


def _without_classifier(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def _difference(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> str | None:
    """The first difference in names or shapes."""
    for name, value in expected.items():
        if name not in found:
            if name.endswith("num_batches_tracked"):  # unknown to PyTorch in 2018, and not used by our norms
                continue
            return f"it lacks {name}"
        if found[name].shape != value.shape:
            return f"{name} is {_shape(found[name])}, not {_shape(value)}"
    extra = next((name for name in found if name not in expected), None)
    return None if extra is None else f"it also has {extra}"


def _shape(tensor: torch.Tensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "a scalar"
