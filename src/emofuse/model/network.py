"""The whole network: branches, fusion, embedding, classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from emofuse.model.audio import AudioBranch
from emofuse.model.fusion import Concatenation, CrossAttention
from emofuse.model.visual import VisualBranch, positions

if TYPE_CHECKING:
    from emofuse.params import Network


class EmotionNetwork(nn.Module):
    """Faces and log-mel segments of a clip → embedding and emotion scores.

    A modality that `network.modalities` leaves out has no branch; with one branch there is nothing to
    fuse. The fused vectors of the N moments are averaged or laid end to end (`pooling`) to the embedding.

    `face_size` is the side of the faces that are fed, in pixels; `moments` is N.
    """

    def __init__(self, network: Network, emotions: int, moments: int, face_size: int | None) -> None:
        super().__init__()
        self.modalities = tuple(network.modalities)
        if "video" in self.modalities:
            if face_size is None:
                raise ValueError("a network with video needs the size of the faces")
            video = network.video
            self.video = VisualBranch(
                video.layers, video.width, positions(face_size), network.dimension, network.heads, network.residual
            )
        if "audio" in self.modalities:
            audio = network.audio
            self.audio = AudioBranch(audio.layers, audio.width, network.dimension, network.heads, network.residual)
        if len(self.modalities) == 2:
            self.fusion = CrossAttention(network.dimension) if network.fusion == "cross_attention" else Concatenation()
        self.pooling = network.pooling
        moment = network.dimension * len(self.modalities)
        self.embedding_size = moment * moments if network.pooling == "flatten" else moment
        self.dropout = nn.Dropout(network.dropout)
        self.classifier = nn.Linear(self.embedding_size, emotions)

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (batch, emotions) and embeddings (batch, embedding_size).

        `inputs` has, for each modality of the network, "video": faces (batch, N, 3, T, H, W) in [0, 1],
        "audio": segments (batch, N, bands, frames).
        """
        vectors = [self.get_submodule(modality)(inputs[modality]) for modality in sorted(self.modalities)]
        moments_BND = self.fusion(*vectors) if len(vectors) == 2 else vectors[0]
        embedding_BE = moments_BND.flatten(1) if self.pooling == "flatten" else moments_BND.mean(1)
        return self.classifier(self.dropout(embedding_BE)), embedding_BE
