"""Models with everything needed to use them, from this repository, an exported folder or MLflow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator
from torch import nn

from emofuse import paths
from emofuse.config import (
    Audio,
    CalibratedOn,
    CustomNetwork,
    Faces,
    Modality,
    Name,
    Network,
    Params,
    Positive,
    Section,
    Spectrogram,
)
from emofuse.models.build import build
from emofuse.paths import RunKey
from emofuse.provenance import code
from emofuse.provenance.freshness import Chain
from emofuse.training.model_file import describe, load_model, read_model
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, read_json, sha256
from emofuse.utils.stand_ins import stand_in

FILE = "bundle.json"
FOLDER = "bundle"  # the folder of an export that holds it
HERE = Path()  # where the package of a factory is, unless it is installed
RUN = re.compile(
    r"(?:(.*/))?models/([a-z0-9_]+)/([a-z0-9_]+)/([a-z0-9_]+)/seed-(\d+)(?:/fold-(\d+)\.safetensors)?", re.S
)


class Model(Section):
    """The model of one fold: its file, relative to the bundle's folder, and its provenance."""

    fold: int
    file: str
    sha256: str
    temperature: Positive | None = Field(description="divides the scores before the softmax; null: uncalibrated")
    commit: str | None = Field(description="commit of the code that trained it, if recorded")
    made_from: dict[str, str] = Field(description="SHA-256 of the training inputs, from the training record")


class Ensemble(Section):
    """Models of one variant, trained on different folds; their probabilities are averaged."""

    variant: Name
    network: Network | CustomNetwork
    spectrogram: Spectrogram
    package: str | None = Field(None, description="digest of the package of the network's factory, if it has one")
    calibrated_on: CalibratedOn | None = Field(None, description="what the temperatures were fitted on; null: none are")
    models: Annotated[tuple[Model, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _temperatures_are_explained(self) -> Self:
        if any((model.temperature is None) != (self.calibrated_on is None) for model in self.models):
            raise ValueError("calibrated_on: required if and only if the models have temperatures")
        return self

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that a clip must have."""
        return frozenset(self.network.modalities)

    @property
    def calibration(self) -> str:
        """Whether the probabilities are calibrated, and on what."""
        if self.calibrated_on is None:
            return "uncalibrated"
        return f"calibrated on {self.calibrated_on}{' of the training actors' if self.calibrated_on == 'inner halves' else ''}"

    def __str__(self) -> str:
        return (
            f"{self.variant}, {len(self.models)} {'model' if len(self.models) == 1 else 'models'}, {self.calibration}"
        )


class Bundle(Section):
    """The requested ensemble, then ensembles that need fewer modalities, and how inputs are made."""

    format: Literal[2] = 2
    emofuse: str
    corpus: str
    title: str
    kind: str
    protocol: str
    seed: int
    emotions: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    window: Positive = Field(
        description="seconds; the median clip duration, the length of the windows of a longer video"
    )
    longest: Positive = Field(description="seconds; the maximum clip duration, up to which a video is one window")
    faces: Faces | None
    audio: Audio | None
    detector: str | None = Field(description="the weights of RetinaFace, relative to the bundle's folder")
    ensembles: Annotated[tuple[Ensemble, ...], Field(min_length=1, strict=False)]

    @property
    def modalities(self) -> frozenset[Modality]:
        """The modalities that any of the ensembles uses."""
        return frozenset().union(*(ensemble.modalities for ensemble in self.ensembles))

    @property
    def columns(self) -> list[str]:
        """The column names of the probabilities."""
        return [f"p_{emotion}" for emotion in self.emotions]

    def most_likely(self, probabilities_C: NDArray[np.float64]) -> str:
        """The most likely emotion, given probabilities (emotions,)."""
        return self.emotions[probabilities_C.argmax()]

    def ensemble_for(self, available: frozenset[Modality]) -> Ensemble | None:
        """The first ensemble that needs no modalities other than the available ones; None if there is none."""
        return next((ensemble for ensemble in self.ensembles if ensemble.modalities <= available), None)

    def files(self) -> list[str]:
        """Every file of the bundle, relative to its folder."""
        models = [model.file for ensemble in self.ensembles for model in ensemble.models]
        return [*models, *([self.detector] if self.detector else [])]

    def shapes(self, ensemble: Ensemble) -> dict[str, tuple[int, ...]]:
        """The shape of an ensemble's input for one clip, by modality."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.faces and "video" in ensemble.modalities:
            shapes["video"] = (self.faces.snippets, 3, self.faces.frames, self.faces.size, self.faces.size)
        if self.audio and "audio" in ensemble.modalities:
            shapes["audio"] = (ensemble.spectrogram.segments, self.audio.bands, ensemble.spectrogram.frames)
        return shapes

    def check_factory(self, factory: str | None) -> None:
        """Raise `UserError` unless the user has named the factory of these models, if they have one.

        What a model file names is never imported without that, and only from HERE, not from where the models are.
        """
        others = [(each, each.network) for each in self.ensembles if isinstance(each.network, CustomNetwork)]
        if factory and not others:
            raise UserError(f"--factory {factory}: these models need none; leave it out, and unset EMOFUSE_FACTORY")
        for ensemble, network in others:
            name = network.factory
            if not factory:
                raise UserError(
                    f"{ensemble.variant} is a network of {name}, which is not part of the models: if you know that code"
                    f" and want it to run, add --factory {name}, or set EMOFUSE_FACTORY"
                )
            if factory != name:
                raise UserError(f"--factory {factory}: {ensemble.variant} is a network of {name}")
            if code.of_package(network.package, HERE) != ensemble.package:
                raise UserError(
                    f"--factory {factory}: the package {network.package} here is not the version with which"
                    f" {ensemble.variant} was trained; use that version, or train again"
                )

    def networks(self, ensemble: Ensemble, folder: Path, factory: str | None) -> list[nn.Module]:
        """The networks of an ensemble, in eval mode. `factory` as in `check_factory`.

        Raises `UserError` for a file whose hash or network differs.
        """
        self.check_factory(factory)
        return [self._network(ensemble, model, folder) for model in ensemble.models]

    def _network(self, ensemble: Ensemble, model: Model, folder: Path) -> nn.Module:
        path = folder / model.file
        if sha256(path) != model.sha256:
            raise UserError(
                f"{path} is not the model that was evaluated: run the evaluate stage again, or export it again"
            )
        state, described = read_model(path)
        if described != describe(self.emotions, ensemble):
            raise UserError(
                f"{path} has another network or spectrogram than the variant {ensemble.variant}: train it or export it"
                " again"
            )
        network = build(ensemble.network, len(self.emotions), self.shapes(ensemble), HERE)
        load_model(path, state, network)
        return network.eval()


def find(address: str | None, root: Path) -> tuple[Bundle, Path]:
    """The models at an address, and the folder that their paths are relative to.

    An address is a run (models/<corpus>/<protocol>/<variant>/seed-<s> in this repository, which is `root`, or in another one),
    one fold's model in it, a folder that `emofuse export` wrote, or an MLflow address (models:/<name>/<version>, runs:/…).
    Raises `UserError` if there are none.
    """
    if address is None:
        raise UserError(f"--model is missing: name the models to use; {_known(root)}")
    if re.match(r"[a-z-]+:/", address):
        from emofuse import tracking

        return read(tracking.download(address, root))
    place = Path(address)
    if _bundle_folder(place):
        return read(place)
    if run := RUN.fullmatch(place.as_posix()) or RUN.fullmatch(place.absolute().as_posix()):
        from emofuse import config as parameters

        above, corpus, protocol, variant, seed, fold = run.groups()
        repository = Path(above) if above else root
        key = (corpus, protocol, variant, int(seed))
        return of_run(parameters.load(repository / "params.yaml"), key, int(fold) if fold else None, repository)
    raise UserError(f"--model {address}: neither a run of models/ nor a folder of emofuse export; {_known(root)}")


def _bundle_folder(place: Path) -> Path | None:
    """The folder in `place` that holds the bundle; None if there is none."""
    folders = (place, place / FOLDER, place / "data" / FOLDER)
    return next((folder for folder in folders if (folder / FILE).is_file()), None)


def _known(root: Path) -> str:
    runs = sorted({str(path.parent.relative_to(root)) for path in root.glob("models/*/*/*/seed-*/fold-*.safetensors")})
    return f"there are {', '.join(runs)}" if runs else "models/ is empty: train first, or run `make pull`"


def read(folder: Path) -> tuple[Bundle, Path]:
    """Read a bundle written by `export`. Raises `UserError` if it is invalid, or names files outside its folder."""
    place = _bundle_folder(folder)
    if place is None:
        raise UserError(f"{folder}: {FILE} is missing; expected a folder written by emofuse export")
    folder, path = place, place / FILE
    try:
        bundle = Bundle.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UserError(f"{path}: {where}: {first['msg']}; export the models again") from None
    for file in bundle.files():
        if not (folder / file).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path} names {file}, which is outside its folder: do not trust it")
        if instead := stand_in(folder / file, "the file"):
            raise UserError(f"{folder / file}: {instead}")
    return bundle, folder


def of_run(params: Params, run: tuple[str, str, str, int], fold: int | None, root: Path) -> tuple[Bundle, Path]:
    """The models of a run (corpus, protocol, variant, seed), or of one of its folds.

    Variants with fewer modalities that were trained on the same folds are included, for clips that lack a modality, unless
    they need a factory that the run does not. Raises `UserError` if the run is not in params.yaml, has not been trained, or
    is stale.
    """
    from emofuse import __version__

    name, protocol, variant, seed = run
    corpus = params.corpus(name)
    planned = {(p, v, s): folds for p, v, s, folds in corpus.runs()}
    if (protocol, variant, seed) not in planned:
        raise UserError(
            f"models/{'/'.join(map(str, run[:3]))}/seed-{seed}: params.yaml has no such run; {_known(root)}"
        )
    folds = [
        each
        for each in planned[protocol, variant, seed]
        if fold in (None, each) and (root / RunKey(name, protocol, variant, seed, each).model).is_file()
    ]
    if not folds:
        which = "none of its models" if fold is None else f"no model of fold {fold}"
        key = RunKey(name, protocol, variant, seed, planned[protocol, variant, seed][0] if fold is None else fold)
        adopted = (root / key.training_record).is_file()  # published results come without models
        remedy = f"`snakemake {key.model} --cores 8` trains it" if adopted else _known(root)
        raise UserError(f"models/{name}/{protocol}/{variant}/seed-{seed}: {which} is here; {remedy}")
    chain = Chain(params, root)
    wanted = set(params.run(name, variant).network.modalities)
    ensembles = [_ensemble(chain, [RunKey(name, protocol, variant, seed, each) for each in folds])]
    for other in corpus.variants_under(protocol):
        modalities = set(params.run(name, other).network.modalities)
        keys = [RunKey(name, protocol, other, seed, each) for each in folds]
        known = any(ensemble.modalities == modalities for ensemble in ensembles)
        usable = params.run(name, other).network.factory in (None, params.run(name, variant).network.factory)
        if modalities < wanted and not known and usable and all((root / key.model).is_file() for key in keys):
            ensembles.append(_ensemble(chain, keys))
    clips = read_csv(root / paths.index(name), ("duration", "status"))
    durations = clips["duration"][clips["status"] == "ok"].astype(float)
    uses_faces = any("video" in ensemble.modalities for ensemble in ensembles)
    return Bundle(
        emofuse=__version__,
        corpus=name,
        title=corpus.title,
        kind=corpus.kind,
        protocol=protocol,
        seed=seed,
        emotions=corpus.emotions,
        window=round(float(durations.median()), 3),
        longest=float(durations.max()),
        faces=corpus.faces if uses_faces else None,
        audio=corpus.audio if any("audio" in ensemble.modalities for ensemble in ensembles) else None,
        detector=corpus.faces.weights if corpus.faces and uses_faces else None,
        ensembles=tuple(ensembles),
    ), root


def _ensemble(chain: Chain, keys: Sequence[RunKey]) -> Ensemble:
    chain.refuse([key.metrics for key in keys])
    models = []
    for key in keys:
        scored, trained = read_json(chain.root / key.metrics), chain.producer(key.model)
        try:
            calibrated = scored["calibration"]
            temperature = None if calibrated is None else float(calibrated["temperature"])
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{key.metrics}: the calibration is missing; run the evaluate stage of this fold again"
            ) from None
        if trained is None:
            raise UserError(f"{key.model}: it has no training record; run `snakemake {key.model} --cores 2`")
        models.append(
            Model(
                fold=key.fold,
                file=key.model,
                sha256=trained.outputs[key.model],
                temperature=temperature,
                commit=trained.commit,
                made_from=dict(trained.inputs),
            )
        )
    run = chain.params.run(keys[0].corpus, keys[0].variant)
    package = code.of_package(run.network.package, chain.root) if run.network.package else None
    return Ensemble(
        variant=keys[0].variant,
        network=run.network,
        spectrogram=run.spectrogram,
        package=package,
        calibrated_on=chain.params.calibrated_on(keys[0]),
        models=tuple(models),
    )
