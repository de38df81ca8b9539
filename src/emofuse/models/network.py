"""The whole network: branches, fusion, embedding, classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from emofuse.models.branches import AudioBranch, VideoBranch
from emofuse.models.fusion import Concatenation, CrossAttention, JointSelfAttention, LateAverage

if TYPE_CHECKING:
    from emofuse.config import Network


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
            self.video = VideoBranch(network, moments, face_size)
        if "audio" in self.modalities:
            self.audio = AudioBranch(network, moments)
        both = len(self.modalities) == 2
        if both:
            self.fusion = _fusion(network)
        self.pooling = network.pooling
        pooled = moments if network.pooling == "flatten" else 1
        self.embedding_size = pooled * network.dimension * len(self.modalities)
        self.dropout = nn.Dropout(network.dropout)
        self.classifier: nn.Module = (
            LateAverage(network.dimension, pooled, emotions)
            if both and network.fusion == "late_average"
            else nn.Linear(self.embedding_size, emotions)
        )

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (batch, emotions) and embeddings (batch, embedding_size).

        `inputs` has, for each modality of the network, "video": faces (batch, N, 3, T, H, W) in [0, 1],
        "audio": segments (batch, N, bands, frames).
        """
        vectors = [self.get_submodule(modality)(inputs[modality]) for modality in sorted(self.modalities)]
        moments_BND = self.fusion(*vectors) if len(vectors) == 2 else vectors[0]
        embedding_BE = moments_BND.flatten(1) if self.pooling == "flatten" else moments_BND.mean(1)
        return self.classifier(self.dropout(embedding_BE)), embedding_BE

    @torch.no_grad()
    def attention_weights(
        self, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
        """What the attentions of the network weigh, in eval mode, by the attention's name.

        For `inputs` as `forward` has them, with b = batch × N, s positions and m channels:

        | name | self-attention | gate |
        |---|---|---|
        | video.spatial | (b, heads, s, s) | (b, s) |
        | video.channel | (b, heads, m, m) | (b, m) |
        | video.temporal, audio.temporal | (batch, heads, N, N) | (batch, N) |

        and "fusion": A_a and A_v, (batch, N, N) each, of cross-attention; (batch, heads, 2 N, 2 N), audio
        before video, of self-attention. Rows of a self-attention sum to one. What the network lacks is left
        out. The channel weights are large, 8 × 512 × 512 numbers a snippet: ask for a few clips at a time.
        """
        found: dict[str, Any] = {}

        def remember(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
            def hook(module: Any, arguments: tuple[torch.Tensor, ...]) -> None:
                found[name] = module.weights(*arguments)

            return hook

        hooks = [
            module.register_forward_pre_hook(remember(name))
            for name, module in self.named_modules()
            if hasattr(module, "weights")
        ]
        training = self.training
        try:
            self.eval()(inputs)
        finally:
            self.train(training)
            for registered in hooks:
                registered.remove()
        return found


def _fusion(network: Network) -> nn.Module:
    if network.fusion == "cross_attention":
        return CrossAttention(network.dimension)
    if network.fusion == "self_attention":
        return JointSelfAttention(network.dimension, network.heads, network.residual)
    return Concatenation()
