"""The file of a trained model: its weights, and the emotions and the network that they belong to (safetensors)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic

if TYPE_CHECKING:
    from emofuse.config import Network


def describe(emotions: Sequence[str], network: Network) -> dict[str, Any]:
    """What a model file says about its model: {"emotions", "network"}."""
    return {"emotions": list(emotions), "network": network.model_dump(mode="json")}


def write_model(path: Path, state: dict[str, torch.Tensor], emotions: Sequence[str], network: Network) -> None:
    """Write the weights of a network; those of a learned emotion distance are "emotion_distance"."""
    # A single key: safetensors writes several in arbitrary order.
    metadata = {"emofuse": json.dumps(describe(emotions, network))}
    with atomic(path) as temporary:
        save_file({name: value.contiguous() for name, value in state.items()}, temporary, metadata)


def read_model(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights in a model file, and its description (see `describe`).

    Raises `UserError` for a file that is missing or not a model of this project.
    """
    try:
        with safe_open(path, "pt") as model:
            description = json.loads((model.metadata() or {})["emofuse"])
            return {name: model.get_tensor(name) for name in model.keys()}, description  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the train stage for it") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a model of this project ({error}): delete it and train again") from None
