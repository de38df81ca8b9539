"""The attention weights of a trained network for one test clip. Imports torch, so import this module lazily.

A report can be made without the features, which take tens of gigabytes; it then lacks this figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse import config as parameters
from emofuse import paths
from emofuse.data.dataset import input_shape, read_features, to_input
from emofuse.datasets.shards import FOLDERS
from emofuse.models.network import EmotionNetwork
from emofuse.report.embeddings import key
from emofuse.report.load import CorpusResults, Fold, Run
from emofuse.training.model_file import load_model, read_model
from emofuse.utils.files import read_csv


@dataclass(frozen=True)
class Attended:
    """A clip, its name, and its attention weights, normalised so that uniform attention is 1.

    `weights` has those of the following that the network has: "spatial" (N, rows, columns), over the positions of each
    snippet; "video", "audio", "fusion_video" and "fusion_audio" (N,), over snippets or segments. For self-attention, a
    token's weight is its average over all queries and heads; for a gate it is the gate.
    """

    name: str
    weights: dict[str, NDArray[np.float64]]
    faces: NDArray[np.uint8] | None  # (N, S, S, 3), the middle frame of each snippet
    segments: NDArray[np.float64] | None  # (N, bands, frames), log-mel


def attend(corpus: CorpusResults, run: Run, fold: Fold, model: Path) -> Attended | None:
    """The weights of the first correctly classified test clip of a fold; None if its features are missing."""
    clips = corpus.root / paths.splits(corpus.name, run.protocol)[0]
    if not clips.is_file():
        return None
    tested = read_csv(corpus.root / key(corpus, run, fold).predictions, ("clip", "emotion", "predicted"))
    correct = (tested["emotion"] == tested["predicted"]).to_numpy()
    clip = tested.iloc[int(correct.argmax())]  # the first clip if none is correct
    found = read_csv(clips, ("clip", "shard"))
    rows = found[found["clip"] == clip["clip"]]
    state, described = read_model(model)
    network = parameters.Network.model_validate(described["network"])
    spectrogram = parameters.Spectrogram.model_validate(described["spectrogram"])
    shards = [
        corpus.root / paths.features(corpus.name, FOLDERS[modality], shard)[0]
        for shard in rows["shard"]
        for modality in network.modalities
    ]
    if not shards or not all(shard.is_file() for shard in shards):
        return None
    data = corpus.root / "data" / corpus.name
    stored = {modality: read_features(data, rows, modality, spectrogram).batch([0]) for modality in network.modalities}
    video, audio = stored.get("video"), stored.get("audio")
    shapes = {str(name): input_shape(tuple(batch.shape[1:]), name) for name, batch in stored.items()}
    trained = EmotionNetwork(network, len(described["emotions"]), shapes)
    load_model(model, state, trained)
    weights = trained.attention_weights({modality: to_input(batch, modality) for modality, batch in stored.items()})
    return Attended(
        name=f"{clip['clip']}: {clip['emotion']}, predicted as {clip['predicted']}",
        weights=normalised(weights),
        faces=None if video is None else video[0, :, video.shape[2] // 2].numpy(),
        segments=None if audio is None else audio[0].double().numpy(),
    )


def normalised(
    found: dict[str, torch.Tensor | tuple[torch.Tensor, torch.Tensor]],
) -> dict[str, NDArray[np.float64]]:
    """The output of `EmotionNetwork.attention_weights` for one clip, in the form of `Attended.weights`.

    Rounded, so that the drawing does not depend on the last bits.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, value in found.items():
        if isinstance(value, tuple):  # cross-attention: column j of A are the weights of the sum for moment j
            for modality, columns in zip(("audio", "video"), value, strict=True):
                weights[f"fusion_{modality}"] = columns.shape[1] * columns[0].mean(1)
        elif name != "video.channel":
            tokens = value.shape[-1]
            weights[name] = tokens * value.mean((1, 2)) if value.dim() == 4 else value
    named = {"audio.temporal": "audio", "video.temporal": "video"}
    normal: dict[str, NDArray[np.float64]] = {}
    for name, weight in weights.items():
        values = weight.double().numpy().round(3)
        if name == "video.spatial":
            side = round(values.shape[1] ** 0.5)
            normal["spatial"] = values.reshape(-1, side, side)
        elif name == "fusion":
            normal["fusion_audio"], normal["fusion_video"] = np.split(values.reshape(-1), 2)
        else:
            normal[named.get(name, name)] = values.reshape(-1)
    return normal
