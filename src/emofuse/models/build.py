"""The network of a run: ours, or one that a factory of the user builds.

A factory is called as `build(shapes, classes, **options)`. `shapes` has the shape of one clip for each modality of the
network: "video" (N, 3, T, H, W), faces in [0, 1]; "audio" (N, bands, frames), log-mel. It returns a module that maps a
batch, {"video": (B, N, 3, T, H, W), "audio": (B, N, bands, frames)}, to scores (B, classes) and embeddings (B, E).
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emofuse import config
from emofuse.models.network import EmotionNetwork
from emofuse.utils import packages
from emofuse.utils.errors import UserError

CPU = torch.device("cpu")
Shapes = Mapping[str, tuple[int, ...]]

RESERVED = "emotion_distance"  # in a model file, the weights of the loss


def build(
    section: config.Network | config.CustomNetwork,
    emotions: int,
    shapes: Shapes,
    root: Path,
    device: torch.device = CPU,
) -> nn.Module:
    """The network of a section with random weights, from torch's random numbers, on the device.

    `root` is where the package of a factory may be. Only for a factory is anything imported, and tried out with random
    clips. Raises `UserError` if that fails.
    """
    if isinstance(section, config.CustomNetwork):
        return _custom(section, emotions, shapes, root, device)
    return EmotionNetwork(section, emotions, shapes).to(device)


def _custom(
    section: config.CustomNetwork, emotions: int, shapes: Shapes, root: Path, device: torch.device
) -> nn.Module:
    name = f"network.factory {section.factory}"
    with _explained(f"{name} failed", section.package, root):
        factory = packages.load(section.factory, root)
        network = factory(dict(shapes), emotions, **copy.deepcopy(section.options))
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} returned {_described(network)}; expected a torch.nn.Module")
    with _explained(f"{name}: its network failed on random clips", section.package, root):
        _try_out(network.to(device), emotions, shapes, device, name)
    return network.train()


def _try_out(network: nn.Module, emotions: int, shapes: Shapes, device: torch.device, name: str) -> None:
    """Raise `UserError` if a network does not predict two clips and one, or cannot be trained. It stays as it is."""
    generator = torch.Generator().manual_seed(1)
    clips = {modality: torch.rand(2, *shape, generator=generator).to(device) for modality, shape in shapes.items()}
    first = {modality: batch[:1].clone() for modality, batch in clips.items()}
    network.eval()
    with torch.no_grad():  # lazy modules get their shapes
        scores, embeddings = _outputs(network, clips, 2, emotions, name)
        alone, embedding = _outputs(network, first, 1, emotions, name)
    if embedding.shape[1] != embeddings.shape[1] or not torch.allclose(alone[0], scores[0], rtol=0.01, atol=0.001):
        raise UserError(f"{name}: the scores of a clip depend on the other clips of its batch, also in eval mode")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"{name}: its network has no trainable parameters")
    for key, value in network.state_dict().items():
        if key == RESERVED or not isinstance(value, torch.Tensor):
            reason = "is a reserved name" if key == RESERVED else "is not a tensor"
            raise UserError(f"{name}: {key} in the state_dict of its network {reason}")
    trained = copy.deepcopy(network).train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
        scores, embeddings = _outputs(trained, clips, 2, emotions, f"{name}, in train mode")
        if not scores.requires_grad:
            raise UserError(f"{name}: the scores of its network do not depend on trainable parameters")
        (scores.sum() + embeddings.sum()).backward()


def _outputs(
    network: nn.Module, clips: dict[str, torch.Tensor], count: int, emotions: int, name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The scores and embeddings of some clips. Raises `UserError` if they are something else."""
    outputs: Any = network(dict(clips))
    pair: Any = outputs if isinstance(outputs, tuple) and len(outputs) == 2 else (None, None)
    shapes = [
        tuple(each.shape) if isinstance(each, torch.Tensor) and each.dtype == torch.float32 else () for each in pair
    ]
    if shapes[0] != (count, emotions) or len(shapes[1]) != 2 or shapes[1][0] != count or not shapes[1][1]:
        raise UserError(
            f"{name}: its network returned {_described(outputs)} for {count} clip{'s' * (count > 1)}; expected scores"
            f" ({count}, {emotions}) and embeddings ({count}, E), both float32"
        )
    scores: torch.Tensor = pair[0]
    embeddings: torch.Tensor = pair[1]
    if not (scores.isfinite().all() and embeddings.isfinite().all()):
        raise UserError(f"{name}: its network returned numbers that are not finite for random clips")
    return scores, embeddings


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_described, value[:4]))}{', …' * (len(value) > 4)})"
    return f"an object of type {type(value).__name__}" if value is not None else "None"


@contextmanager
def _explained(what: str, package: str, root: Path) -> Iterator[None]:
    """Raise whatever the user's code raises as one line, with the last line of their package that ran."""
    try:
        yield
    except UserError as error:
        raise error if str(error).startswith("network.factory") else UserError(f"{what}: {error}") from None
    except (Exception, SystemExit) as error:
        theirs = {str(path) for _, path in packages.files(package, root)}
        ran = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in theirs]
        place = f" ({Path(ran[-1].filename).name}, line {ran[-1].lineno})" if ran else ""
        message = (str(error).strip().splitlines() or [""])[0][:300]
        raise UserError(f"{what}: {type(error).__name__}{message and f': {message}'}{place}") from error
