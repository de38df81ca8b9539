"""Apply a trained fold to the clips of another corpus, which has never been trained on.

The features are those of the corpus that the model was trained on. Where the other corpus has the same, they are read;
otherwise they are computed from its clips, for this job alone. Probabilities are those that `emofuse predict` gives: calibrated
with the temperature of the fold, or uncalibrated if it has none.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from emofuse import paths
from emofuse.data.dataset import Features, Part, read_features
from emofuse.data.splits import feature_table, join, usable_clips
from emofuse.datasets import shards
from emofuse.datasets.base import actor_named, sorted_actors
from emofuse.datasets.shards import FOLDERS
from emofuse.evaluation import calibration, metrics
from emofuse.evaluation.evaluate import trained_network
from emofuse.features import audio, faces
from emofuse.paths import RunKey, TransferKey
from emofuse.provenance.job import job
from emofuse.training.train import CPU, predict
from emofuse.utils import gpu
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, read_json, write_csv, write_json

if TYPE_CHECKING:
    from emofuse.config import Modality, Params

log = logging.getLogger(__name__)


def stage(
    params: Params, source: str, protocol: str, variant: str, seed: int, fold: int, corpus: str, root: Path = Path()
) -> None:
    """`emofuse transfer`: apply a fold of `source` to `corpus`, to results/<corpus>/runs/across/<source>/…/fold-<f>/."""
    key = TransferKey(RunKey(source, protocol, variant, seed, fold), corpus)
    params.applied(**key.asdict())  # raises for a fold that params.yaml does not include
    inputs = [*_features(key, params), paths.index(corpus), paths.index(source), *key.run.trained, key.run.metrics]
    with job("transfer", params, key.asdict(), key.record, inputs, key.scored, root), gpu.device() as device:
        transfer(key, params, root, device)


def _features(key: TransferKey, params: Params) -> Iterator[str]:
    """The features to read and, if some are computed, the clips and the weights of the face detector."""
    source, target = params.corpus(key.run.corpus), params.corpus(key.corpus)
    clips: dict[str, None] = {}
    for modality in params.run(key.run.corpus, key.run.variant).network.modalities:
        if source.shares_features(target, modality):
            yield from (file for pair in shards.features(key.corpus, target, [modality]) for file in pair)
        else:
            clips |= dict.fromkeys(paths.raw(key.corpus, shard) for shard in target.shards)
            if modality == "video" and source.faces and source.faces.weights:
                clips[source.faces.weights] = None
    yield from clips


def transfer(key: TransferKey, params: Params, root: Path, device: torch.device = CPU) -> None:
    """Predict the clips of the other corpus whose emotion both have, and write predictions.csv and metrics.json.

    predictions.csv has the probabilities of all emotions of the model, calibrated if the fold has a temperature;
    metrics.json has the scores of this model alone, restricted to the shared emotions, and how many clips were left out
    and why. Raises `UserError` for missing files, for a model of another network, and if too many or all clips are
    unusable.
    """
    run = params.applied(**key.asdict())
    source, target = params.corpus(key.run.corpus), params.corpus(key.corpus)
    emotions, shared = source.emotions, source.shared_emotions(target)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with ExitStack() as stack:
        places = dict.fromkeys(run.network.modalities, root)  # where the features are, in the folders of the repository
        for modality in run.network.modalities:
            if not source.shares_features(target, modality):
                places[modality] = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emofuse-")))
                _extract(modality, key, params, places[modality], root)
        clips = _clips(key, places, params, root)
        left_out = clips["left out"]
        rows = clips[left_out == ""]
        if rows.empty:
            raise UserError(f"{key.corpus}: none of its usable clips is of an emotion that {key.run.corpus} has")
        labels = np.array([shared.index(emotion) for emotion in rows["emotion"]])
        features: dict[str, Features] = {
            name: read_features(place / "data" / key.corpus, rows, name, run.spectrogram)
            for name, place in places.items()
        }
        part = Part(rows, features, labels)
        torch.set_num_threads(run.training.threads)
        network = trained_network(key.run, run, emotions, part, root, device)
        scores, _ = predict(network, part, device)
    calibrated = read_json(root / key.run.metrics)["calibration"]
    temperature = float(calibrated["temperature"]) if calibrated else None
    probabilities = (scores.double() / (temperature or 1)).softmax(1).numpy()
    confusion = metrics.confusion(
        labels, calibration.restricted(probabilities, emotions, shared).argmax(1), len(shared)
    )

    predictions = rows[["clip", "actor", "emotion"]].reset_index(drop=True)
    columns = [f"p_{emotion}" for emotion in emotions]
    predictions[columns] = pd.DataFrame(probabilities).map("{:.6g}".format).to_numpy()
    write_csv(root / key.predictions, predictions)
    write_json(
        root / key.metrics,
        {
            **key.asdict(),
            "emotions": list(emotions),
            "shared": list(shared),
            "actors": list(sorted_actors(map(actor_named, predictions["actor"].unique()))),
            "clips": len(predictions),
            "left_out": {str(why): int(number) for why, number in left_out[left_out != ""].value_counts().items()},
            **{name: float(value) for name, value in metrics.scores(confusion).items()},
            "confusion": confusion.tolist(),
            "temperature": temperature,
        },
    )


def _extract(modality: Modality, key: TransferKey, params: Params, place: Path, root: Path) -> None:
    """Compute the features of all clips of the target, as those of the source are made, in the folders of `place`."""
    source, target = params.corpus(key.run.corpus), params.corpus(key.corpus)
    for shard in target.shards:
        rows, archive = shards.usable(root / paths.index(key.corpus), shard), root / paths.raw(key.corpus, shard)
        array, table = (place / file for file in paths.features(key.corpus, FOLDERS[modality], shard))
        log.info(
            "%s of %s as in %s, shard %d: %d clips", FOLDERS[modality], key.corpus, key.run.corpus, shard, len(rows)
        )
        if modality == "audio":
            assert source.audio is not None, "as params.yaml requires"
            audio.extract(rows, archive, source.audio, array, table)
        else:
            assert source.faces is not None, "as params.yaml requires"
            weights = root / source.faces.weights if source.faces.weights else None
            faces.extract(rows, archive, source.faces, array, table, weights)


def _clips(key: TransferKey, places: dict[Modality, Path], params: Params, root: Path) -> pd.DataFrame:
    """The usable clips of the target with the rows of their features, and in the column "left out" why one is not used."""
    source, target = params.corpus(key.run.corpus), params.corpus(key.corpus)
    index, theirs = (read_csv(root / paths.index(name)) for name in (key.corpus, key.run.corpus))
    tables = {
        FOLDERS[modality]: feature_table(key.corpus, FOLDERS[modality], target.shards, place)
        for modality, place in places.items()
    }
    clips = join(index, tables)
    where = f"{paths.index(key.corpus)}, or look for a broken clip among those whose features cannot be computed"
    usable = usable_clips(key.corpus, clips, target.max_unusable, where)
    why = pd.Series("", usable.index)
    for emotion in set(target.emotions) - set(source.shared_emotions(target)):
        why[usable["emotion"] == emotion] = f"emotion: {emotion}"
    why[usable["group"].isin(theirs["sha256"])] = f"the same recording is in {key.run.corpus}"
    return usable.assign(**{"left out": why})
