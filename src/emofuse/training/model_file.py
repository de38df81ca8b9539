"""The file of a trained model: its weights, and the emotions, network and spectrogram that they belong to (safetensors)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic, parse_json

if TYPE_CHECKING:
    from torch import nn

    from emofuse.config import CustomNetwork, Network, Spectrogram


class Setup(Protocol):
    """What a model file describes: the network, and how it reads sound."""

    @property
    def network(self) -> Network | CustomNetwork: ...

    @property
    def spectrogram(self) -> Spectrogram: ...


DISTANCE = "emotion_distance"  # the weights of a learned emotion distance, which is not part of the network


def describe(emotions: Sequence[str], run: Setup) -> dict[str, Any]:
    """What a model file says about its model: {"emotions", "network", "spectrogram"}."""
    sections = {key: getattr(run, key).model_dump(mode="json") for key in ("network", "spectrogram")}
    return {"emotions": list(emotions), **sections}


def write_model(path: Path, state: dict[str, torch.Tensor], emotions: Sequence[str], run: Setup) -> None:
    """Write the weights of a network, and of a learned emotion distance (`DISTANCE`)."""
    # A single key: safetensors writes several in arbitrary order.
    metadata = {"emofuse": json.dumps(describe(emotions, run))}
    with atomic(path) as temporary:
        save_file({name: value.contiguous() for name, value in state.items()}, temporary, metadata)


def read_model(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights in a model file, and its description (see `describe`).

    Raises `UserError` for a file that is missing or not a model of this project.
    """
    try:
        os.fsencode(path).decode()
        with safe_open(path, "pt") as model:
            description = parse_json((model.metadata() or {})["emofuse"])
            return {name: model.get_tensor(name) for name in model.keys()}, description  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run the train stage for it") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeError:
        raise UserError(f"{path}: safetensors reads only files whose path is UTF-8: rename the folder") from None
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a model of this project ({error}): delete it and train again") from None


def load_model(path: Path, state: dict[str, torch.Tensor], network: nn.Module) -> None:
    """Load the weights that `read_model` has read from a file. Raises `UserError` if they are those of another network.

    torch would convert other types of numbers, of which 8-bit ones need a scale that it does not know.
    """
    expected = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
    found = {name: (value.shape, value.dtype) for name, value in state.items() if name != DISTANCE}
    different = [name for name in expected | found if expected.get(name) != found.get(name)]
    if different:
        raise UserError(f"{path} is not a model of this network (see {different[0]}): train it or export it again")
    network.load_state_dict({name: state[name] for name in expected})
