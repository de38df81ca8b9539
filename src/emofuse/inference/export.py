"""Models as one folder that stands alone: weights, parameters, card, a program of each network, and MLflow's form of it all."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from emofuse.config import Params
from emofuse.inference import bundle as bundles
from emofuse.inference import model_card as card
from emofuse.inference.bundle import Bundle, Ensemble, Model
from emofuse.models.network import EmotionNetwork
from emofuse.utils.errors import UserError
from emofuse.utils.files import write_json, write_text

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of scores, which are of the order of 1: fused kernels round otherwise


def write(models: tuple[Bundle, Path], params: Params, folder: Path) -> None:
    """Write a bundle of this repository, with the folder that its files are named from, to `folder`, whole or not at all.

    data/bundle/ has bundle.json, the weights as safetensors, each network as a program of torch.export (.pt2) that was held
    against the network itself, and the detector's weights; README.md is the model card; the rest is MLflow's.
    Raises `UserError` where the folder is there already, or where a program says other than its network.
    """
    bundle, root = models
    if folder.exists():
        raise UserError(f"{folder} is there already: name a new folder, or delete it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        inside = Path(name) / bundles.FOLDER
        inside.mkdir()
        moved = _moved(bundle)
        for old, new in zip(bundle.files(), moved.files(), strict=True):
            (inside / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / old, inside / new)
        write_json(inside / bundles.FILE, moved.model_dump(mode="json"))
        for ensemble in moved.ensembles:
            for model, network in zip(ensemble.models, moved.networks(ensemble, inside), strict=True):
                _program(network, _example(moved, ensemble), (inside / model.file).with_suffix(".pt2"))
                log.info("%s: exported, the same scores as the network's", model.file)
        made = Path(name) / "made"
        _mlflow(inside, made, moved)
        write_text(made / "README.md", card.text(bundle, params, root))
        made.chmod(0o755)
        made.rename(folder)


def _moved(bundle: Bundle) -> Bundle:
    """The bundle with the names that its files have in the folder."""

    def named(ensemble: Ensemble, model: Model) -> Model:
        return model.model_copy(update={"file": f"{ensemble.variant}/fold-{model.fold}.safetensors"})

    ensembles = tuple(
        ensemble.model_copy(update={"models": tuple(named(ensemble, model) for model in ensemble.models)})
        for ensemble in bundle.ensembles
    )
    detector = f"detector{Path(bundle.detector).suffix}" if bundle.detector else None
    return bundle.model_copy(update={"ensembles": ensembles, "detector": detector})


def _example(bundle: Bundle, ensemble: Ensemble) -> dict[str, torch.Tensor]:
    """Two made clips, as the networks of an ensemble eat them; of one, torch.export would take the batch for always one."""
    generator = torch.Generator().manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {}
    if bundle.faces:
        shapes["video"] = (2, bundle.faces.snippets, 3, bundle.faces.frames, bundle.faces.size, bundle.faces.size)
    if bundle.audio:
        shapes["audio"] = (2, bundle.audio.segments, bundle.audio.bands, bundle.audio.frames)
    return {name: torch.rand(shapes[name], generator=generator) for name in sorted(ensemble.modalities)}


def _program(network: EmotionNetwork, example: dict[str, torch.Tensor], path: Path) -> None:
    """Export a network, with a batch of any size, and hold what it says against the network itself."""
    size = torch.export.Dim("batch", min=1, max=1024)
    scores = _Scores(network)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of its own making
        program = torch.export.export(scores, (example,), dynamic_shapes=({name: {0: size} for name in example},))
        torch.export.save(program, path)
        read = torch.export.load(path).module()
        for count in (1, 2, 3):
            clips = {name: batch.repeat(2, *[1] * (batch.dim() - 1))[:count] for name, batch in example.items()}
            away = (read(clips) - scores(clips)).abs().max().item()
            if not away <= TOLERANCE:
                raise UserError(
                    f"{path.name}: the program of torch.export says other than its network, by {away:.2g}; report this"
                )


class _Scores(nn.Module):
    """A network that gives scores alone."""

    def __init__(self, network: EmotionNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        scores: torch.Tensor = self.network(inputs)[0]
        return scores


def _mlflow(inside: Path, folder: Path, bundle: Bundle) -> None:
    """Write the bundle as a model of MLflow, with signature and an example; no pickle is in it."""
    from emofuse import tracking

    tracking.configure()
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from emofuse.inference import mlflow_model as served

    columns = [ColSpec(DataType.string, name) for name in served.TEXTS]
    columns += [ColSpec(DataType.double, name) for name in served.numbers(bundle)]
    mlflow.pyfunc.save_model(
        folder,
        loader_module="emofuse.inference.mlflow_model",
        data_path=inside,
        signature=ModelSignature(Schema([ColSpec(DataType.binary, "clip")]), Schema(list(columns))),
        input_example=served.example(),
        pip_requirements=_requirements(),
    )


def _requirements() -> Sequence[str]:
    return [
        f"emofuse=={version('emofuse')}",
        *(f"{name}=={version(name)}" for name in ("torch", "torchvision", "torchaudio", "av")),
    ]
