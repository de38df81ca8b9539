"""Some models and all that it takes to use them: those of this repository, of an exported folder, or of MLflow."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from emofuse import datasets
from emofuse.config import Audio, Faces, Modality, Name, Network, Params, Positive, Section
from emofuse.models.network import EmotionNetwork
from emofuse.paths import RunKey
from emofuse.provenance.chain import Chain
from emofuse.training.model_file import read_model
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_json, read_table, sha256

FILE = "bundle.json"
FOLDER = "bundle"  # of an export, in which it lies
RUN = re.compile(r"models/([a-z0-9_]+)/([a-z0-9_]+)/([a-z0-9_]+)/seed-(\d+)(?:/fold-(\d+)\.safetensors)?")


class Model(Section):
    """One fold's model: its file, from the bundle's folder, and what it was made from."""

    fold: int
    file: str
    sha256: str
    temperature: Positive = Field(description="what its scores are divided by before they are probabilities")
    commit: str | None = Field(description="of the code that trained it, where that is recorded")
    made_from: dict[str, str] = Field(description="SHA-256 of what it was trained on, from the record of its training")


class Ensemble(Section):
    """The models of a variant, of one network and several folds, whose probabilities are averaged."""

    variant: Name
    network: Network
    models: Annotated[tuple[Model, ...], Field(min_length=1, strict=False)]

    @property
    def modalities(self) -> frozenset[Modality]:
        """What a clip must have."""
        return frozenset(self.network.modalities)

    def __str__(self) -> str:
        return f"{self.variant}, {len(self.models)} {'model' if len(self.models) == 1 else 'models'}"


class Bundle(Section):
    """What is asked: first the ensemble that was asked for, then those that do with less than it."""

    format: Literal[1] = 1
    emofuse: str
    corpus: str
    title: str
    kind: str
    protocol: str
    seed: int
    emotions: Annotated[tuple[str, ...], Field(min_length=2, strict=False)]
    window: Positive = Field(description="seconds, the median clip's: what a longer video is cut into")
    longest: Positive = Field(description="seconds, the longest clip's: what is no longer is asked as a whole")
    faces: Faces | None
    audio: Audio | None
    detector: str | None = Field(description="the file of RetinaFace's weights, from the bundle's folder")
    ensembles: Annotated[tuple[Ensemble, ...], Field(min_length=1, strict=False)]

    @property
    def modalities(self) -> frozenset[Modality]:
        """What any of its ensembles looks at or listens to."""
        return frozenset().union(*(ensemble.modalities for ensemble in self.ensembles))

    @property
    def columns(self) -> list[str]:
        """What a table calls the probabilities of the emotions."""
        return [f"p_{emotion}" for emotion in self.emotions]

    def likeliest(self, chances_C: NDArray[np.float64]) -> str:
        """The likeliest emotion, of probabilities (emotions,)."""
        return self.emotions[chances_C.argmax()]

    def answering(self, there: frozenset[Modality]) -> Ensemble | None:
        """The first ensemble that can do with what a clip has."""
        return next((ensemble for ensemble in self.ensembles if ensemble.modalities <= there), None)

    def files(self) -> list[str]:
        """Every file that it needs, from its folder."""
        models = [model.file for ensemble in self.ensembles for model in ensemble.models]
        return [*models, *([self.detector] if self.detector else [])]

    def networks(self, ensemble: Ensemble, folder: Path) -> list[EmotionNetwork]:
        """The networks of an ensemble, in eval mode. Raises `UserError` for a file that is not the one it should be."""
        return [self._network(ensemble, model, folder) for model in ensemble.models]

    def _network(self, ensemble: Ensemble, model: Model, folder: Path) -> EmotionNetwork:
        path = folder / model.file
        if sha256(path) != model.sha256:
            raise UserError(f"{path} is not the model that was scored: run the evaluate stage again, or export again")
        state, described = read_model(path)
        state.pop("emotion_distance", None)
        if described != {"emotions": list(self.emotions), "network": ensemble.network.model_dump(mode="json")}:
            raise UserError(f"{path} is of another network than {ensemble.variant}'s: train or export it again")
        moments = self.faces.snippets if self.faces else self.audio.segments if self.audio else 1
        network = EmotionNetwork(ensemble.network, len(self.emotions), moments, self.faces.size if self.faces else None)
        network.load_state_dict(state)
        return network.eval()


def find(address: str | None, root: Path) -> tuple[Bundle, Path]:
    """The models at an address, and the folder that their files are named from.

    An address is a run of this repository (models/<corpus>/<protocol>/<variant>/seed-<s>), one fold's model in it, a
    folder that `emofuse export` wrote, or one of MLflow's (models:/<name>/<version>, runs:/…). Raises `UserError` where
    there is none.
    """
    if address is None:
        raise UserError(f"--model: say which models; {_known(root)}")
    if re.match(r"[a-z-]+:/", address):
        from emofuse import tracking

        return read(tracking.download(address, root))
    place = Path(address)
    if _lies_in(place):
        return read(place)
    inside = place.absolute().is_relative_to(root.absolute())
    if run := RUN.fullmatch((place.absolute().relative_to(root.absolute()) if inside else place).as_posix()):
        from emofuse import config as parameters

        corpus, protocol, variant, seed, fold = run.groups()
        key = (corpus, protocol, variant, int(seed))
        return of_run(parameters.load(root / "params.yaml"), key, int(fold) if fold else None, root)
    raise UserError(f"--model {address}: neither a run of models/ nor a folder of emofuse export; {_known(root)}")


def _lies_in(place: Path) -> Path | None:
    """The folder of the bundle itself; None where there is none."""
    folders = (place, place / FOLDER, place / "data" / FOLDER)
    return next((folder for folder in folders if (folder / FILE).is_file()), None)


def _known(root: Path) -> str:
    runs = sorted({str(path.parent.relative_to(root)) for path in root.glob("models/*/*/*/seed-*/fold-*.safetensors")})
    return f"there are {', '.join(runs)}" if runs else "there is none in models/: train first, or dvc pull"


def read(folder: Path) -> tuple[Bundle, Path]:
    """The bundle that `export` wrote to a folder. Raises `UserError` where it is broken, or names files elsewhere."""
    place = _lies_in(folder)
    if place is None:
        raise UserError(f"{folder}: there is no {FILE} in it: want a folder that emofuse export wrote")
    folder, path = place, place / FILE
    try:
        bundle = Bundle.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise UserError(f"{path}: {where}: {first['msg']}; export the models again") from None
    for file in bundle.files():
        if not (folder / file).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path} names {file}, which is not in its folder; do not trust it")
    return bundle, folder


def of_run(params: Params, run: tuple[str, str, str, int], fold: int | None, root: Path) -> tuple[Bundle, Path]:
    """The models of a run (corpus, protocol, variant, seed), or of one of its folds, and those of the corpus's variants of
    fewer modalities that were trained on the same folds.

    Raises `UserError` for what was not run, or is stale.
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
        which = "none of its folds" if fold is None else f"no fold-{fold}"
        key = RunKey(name, protocol, variant, seed, planned[protocol, variant, seed][0] if fold is None else fold)
        adopted = (root / key.training_record).is_file()  # of published results, which come without models
        remedy = f"`snakemake {key.model} --cores 8` trains it" if adopted else _known(root)
        raise UserError(f"models/{name}/{protocol}/{variant}/seed-{seed}: {which} is here; {remedy}")
    chain = Chain(params, root)
    wanted = set(params.run(name, variant).network.modalities)
    ensembles = [_ensemble(chain, [RunKey(name, protocol, variant, seed, each) for each in folds])]
    for other in corpus.variants_under(protocol):
        modalities = set(params.run(name, other).network.modalities)
        keys = [RunKey(name, protocol, other, seed, each) for each in folds]
        known = any(ensemble.modalities == modalities for ensemble in ensembles)
        if modalities < wanted and not known and all((root / key.model).is_file() for key in keys):
            ensembles.append(_ensemble(chain, keys))
    durations = [float(row["duration"]) for row in read_table(root / f"data/{name}/index.csv") if row["status"] == "ok"]
    uses_faces = any("video" in ensemble.modalities for ensemble in ensembles)
    return Bundle(
        emofuse=__version__,
        corpus=name,
        title=corpus.title,
        kind=corpus.kind,
        protocol=protocol,
        seed=seed,
        emotions=datasets.get(corpus.kind).emotions,
        window=round(statistics.median(durations), 3),
        longest=max(durations),
        faces=corpus.faces if uses_faces else None,
        audio=corpus.audio if any("audio" in ensemble.modalities for ensemble in ensembles) else None,
        detector=corpus.faces.weights if corpus.faces and uses_faces else None,
        ensembles=tuple(ensembles),
    ), root


def _ensemble(chain: Chain, keys: Sequence[RunKey]) -> Ensemble:
    chain.refuse([key.metrics for key in keys])
    models = []
    for key in keys:
        scored, trained = read_json(chain.root / key.metrics), chain.maker(key.model)
        try:
            temperature = float(scored["calibration"]["temperature"])
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{key.metrics}: no calibration; run the evaluate stage of this fold again") from None
        if trained is None:
            raise UserError(f"{key.model}: no record says how it was trained; run `snakemake {key.model} --cores 2`")
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
    network = chain.params.run(keys[0].corpus, keys[0].variant).network
    return Ensemble(variant=keys[0].variant, network=network, models=tuple(models))
