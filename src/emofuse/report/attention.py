"""One test clip through a trained network: what its attentions weigh. Imports torch: import it where it is used.

The features are no declared input of the report, though one clip of them is read: the model is, and it was made from
them. So a report can be made again, without this figure, where tens of gigabytes of features are not kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from emofuse import config as parameters
from emofuse.data.dataset import Features, to_input
from emofuse.datasets.shards import FOLDERS
from emofuse.models.network import EmotionNetwork
from emofuse.report.embeddings import key
from emofuse.report.load import CorpusResults, Fold, Run
from emofuse.training.model_file import read_model
from emofuse.utils.files import read_csv, read_table


@dataclass(frozen=True)
class Attended:
    """A clip, what it is called, and the weights that it gets: 1 is what each would get if all got the same.

    `weights` has what the network has of "spatial" (N, rows, columns), over the positions of each snippet, and "video",
    "audio", "fusion_video" and "fusion_audio" (N,), over the snippets or segments. Of a self-attention it is the
    weight that a token gets from all tokens and heads on average; of a gate the gate.
    """

    name: str
    weights: dict[str, NDArray[np.float64]]
    faces: NDArray[np.uint8] | None  # (N, S, S, 3), the middle frame of each snippet
    segments: NDArray[np.float64] | None  # (N, bands, frames), log-mel


def attend(corpus: CorpusResults, run: Run, fold: Fold, model: Path) -> Attended | None:
    """The first test clip of a fold that was told right, by the fold's model; None where its features are not here."""
    data = corpus.root / "data" / corpus.name
    clips = data / "splits" / run.protocol / "clips.csv"
    if not clips.is_file():
        return None
    tested = read_table(corpus.root / key(corpus, run, fold).predictions, ("clip", "emotion", "predicted"))
    clip = next((row for row in tested if row["emotion"] == row["predicted"]), tested[0])
    rows = read_csv(clips, ("clip", "shard"))
    rows = rows[rows["clip"] == clip["clip"]]
    state, described = read_model(model)
    network = parameters.Network.model_validate(described["network"])
    shards = [
        data / "features" / FOLDERS[modality] / f"shard-{shard}.npy"
        for shard in rows["shard"]
        for modality in network.modalities
    ]
    if not shards or not all(shard.is_file() for shard in shards):
        return None
    stored = {modality: Features(data, rows, modality).batch([0]) for modality in network.modalities}
    moments = next(iter(stored.values())).shape[1]
    video, audio = stored.get("video"), stored.get("audio")
    trained = EmotionNetwork(network, len(described["emotions"]), moments, None if video is None else video.shape[3])
    state.pop("emotion_distance", None)
    trained.load_state_dict(state)
    found = trained.attention_weights({modality: to_input(batch, modality) for modality, batch in stored.items()})
    return Attended(
        name=f"{clip['clip']}: {clip['emotion']}, told as {clip['predicted']}",
        weights=received(found, moments),
        faces=None if video is None else video[0, :, video.shape[2] // 2].numpy(),
        segments=None if audio is None else audio[0].double().numpy(),
    )


def received(
    found: dict[str, torch.Tensor | tuple[torch.Tensor, torch.Tensor]], moments: int
) -> dict[str, NDArray[np.float64]]:
    """What each token of one clip gets of `EmotionNetwork.attention_weights`, as `Attended.weights` has it.

    Rounded, so that the last bits of the arithmetic do not change the drawing.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, given in found.items():
        if isinstance(given, tuple):  # cross-attention: column j of A says what goes into moment j
            for modality, columns in zip(("audio", "video"), given, strict=True):
                weights[f"fusion_{modality}"] = moments * columns[0].mean(1)
        elif name != "video.channel":
            tokens = given.shape[-1]
            weights[name] = tokens * given.mean((1, 2)) if given.dim() == 4 else given
    named = {"audio.temporal": "audio", "video.temporal": "video"}
    made: dict[str, NDArray[np.float64]] = {}
    for name, weight in weights.items():
        values = weight.double().numpy().round(3)
        if name == "video.spatial":
            side = round(values.shape[1] ** 0.5)
            made["spatial"] = values.reshape(-1, side, side)
        elif name == "fusion":
            made["fusion_audio"], made["fusion_video"] = np.split(values.reshape(-1), 2)
        else:
            made[named.get(name, name)] = values.reshape(-1)
    return made
