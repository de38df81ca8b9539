"""Export models to a self-contained folder: weights, parameters, model card, torch.export programs and an MLflow model."""

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
from emofuse.inference import model_card
from emofuse.inference.bundle import Bundle, Ensemble, Model
from emofuse.utils.errors import UserError
from emofuse.utils.files import write_json, write_text

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of scores, which are of the order of 1; fused kernels round differently


def write(models: tuple[Bundle, Path], params: Params, folder: Path, factory: str | None = None) -> None:
    """Write a bundle, and the folder that its paths are relative to, to a new folder, atomically.

    data/bundle/ has bundle.json, the weights as safetensors, each network as a torch.export program (.pt2), checked against
    the network itself, and the weights of the face detector. README.md is the model card; the other files are MLflow's.
    `factory`: see `Bundle.check_factory`. Raises `UserError` if the models are from an export, if the folder exists or cannot
    be created, if torch cannot export a network, or if the output of a program differs from its network's.
    """
    bundle, root = models
    bundle.check_factory(factory)
    if (root / bundles.FILE).is_file():
        raise UserError(f"{root} is in an export already: copy the export's folder")
    try:
        folder.mkdir(parents=True)
        folder.rmdir()
    except FileExistsError:
        raise UserError(f"{folder} exists: choose a new folder, or delete it first") from None
    except OSError as error:
        raise UserError(f"cannot create {folder}: {error.strerror}; choose another folder") from None
    with tempfile.TemporaryDirectory(prefix=".emofuse-", dir=folder.parent) as name:
        inside = Path(name) / bundles.FOLDER
        inside.mkdir()
        renamed = _renamed(bundle)
        for old, new in zip(bundle.files(), renamed.files(), strict=True):
            (inside / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / old, inside / new)
        write_json(inside / bundles.FILE, renamed.model_dump(mode="json"))
        for ensemble in renamed.ensembles:
            for model, network in zip(ensemble.models, renamed.networks(ensemble, inside, factory), strict=True):
                _program(network, _example(renamed, ensemble), (inside / model.file).with_suffix(".pt2"))
                log.info("%s: exported; the program gives the same scores as the network", model.file)
        exported = Path(name) / "model"
        _mlflow(inside, exported, renamed)
        write_text(exported / "README.md", model_card.text(bundle, params, root))
        exported.chmod(0o755)
        exported.rename(folder)


def _renamed(bundle: Bundle) -> Bundle:
    """The bundle with the file names of the export."""

    def named(ensemble: Ensemble, model: Model) -> Model:
        return model.model_copy(update={"file": f"{ensemble.variant}/fold-{model.fold}.safetensors"})

    ensembles = tuple(
        ensemble.model_copy(update={"models": tuple(named(ensemble, model) for model in ensemble.models)})
        for ensemble in bundle.ensembles
    )
    detector = f"detector{Path(bundle.detector).suffix}" if bundle.detector else None
    return bundle.model_copy(update={"ensembles": ensembles, "detector": detector})


def _example(bundle: Bundle, ensemble: Ensemble) -> dict[str, torch.Tensor]:
    """Two random clips as inputs of an ensemble. With a single one, torch.export would fix the batch size to one."""
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(2, *shape, generator=generator) for name, shape in sorted(bundle.shapes(ensemble).items())}


def _program(network: nn.Module, example: dict[str, torch.Tensor], path: Path) -> None:
    """Export a network with a dynamic batch size, and compare its output with the network's."""
    size = torch.export.Dim("batch", min=1, max=1024)
    scores = _Scores(network)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # raised by torch.export itself
        try:
            program = torch.export.export(scores, (example,), dynamic_shapes=({name: {0: size} for name in example},))
        except Exception as error:  # of many types; ours can be exported, a factory's perhaps not
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{path.name}: torch.export cannot export this network ({reason[:300]}); see torch.export's documentation"
            ) from error
        torch.export.save(program, path)
        loaded = torch.export.load(path).module()
        for count in (1, 2, 3):
            clips = {name: batch.repeat(2, *[1] * (batch.dim() - 1))[:count] for name, batch in example.items()}
            difference = (loaded(clips) - scores(clips)).abs().max().item()
            if not difference <= TOLERANCE:
                raise UserError(
                    f"{path.name}: the torch.export program differs from its network by {difference:.2g}; please report this"
                )


class _Scores(nn.Module):
    """A network that returns only the scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        scores: torch.Tensor = self.network(inputs)[0]
        return scores


def _mlflow(inside: Path, folder: Path, bundle: Bundle) -> None:
    """Write the bundle as an MLflow model with a signature and an input example, without pickle files."""
    from emofuse import tracking

    tracking.configure()
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from emofuse.inference import mlflow_model

    columns = [ColSpec(DataType.string, name) for name in mlflow_model.TEXT_COLUMNS]
    columns += [ColSpec(DataType.double, name) for name in mlflow_model.number_columns(bundle)]
    mlflow.pyfunc.save_model(
        folder,
        loader_module="emofuse.inference.mlflow_model",
        data_path=inside,
        signature=ModelSignature(Schema([ColSpec(DataType.binary, "clip")]), Schema(list(columns))),
        input_example=mlflow_model.example(),
        pip_requirements=_requirements(),
        # A factory's package is not in the model; whoever serves it has it, and names the factory in EMOFUSE_FACTORY.
        metadata={
            f"factory of {each.variant}": f"{each.network.factory}, package {each.package}"
            for each in bundle.ensembles
            if each.network.factory
        }
        or None,
    )


def _requirements() -> Sequence[str]:
    return [
        f"emofuse=={version('emofuse')}",
        *(f"{name}=={version(name)}" for name in ("torch", "torchvision", "torchaudio", "av")),
    ]
