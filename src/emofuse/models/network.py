"""The complete network: branches, fusion, embedding and classifier."""

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
    """The faces and log-mel segments of a clip → embedding and emotion scores.

    There is one branch for each of `network.modalities`, and fusion if there are two. The fused vectors of the N moments
    are averaged or concatenated (`network.pooling`) to form the embedding.

    `moments` is N; faces are `face_size` × `face_size` pixels. ValueError if the network has video and `face_size` is None.
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
        """Scores (B, emotions) and embeddings (B, embedding_size).

        `inputs` contains, for each modality of the network, "video": faces (B, N, 3, T, H, W) in [0, 1], or "audio":
        segments (B, N, bands, frames).
        """
        vectors = [self.get_submodule(modality)(inputs[modality]) for modality in sorted(self.modalities)]
        moments_BND = self.fusion(*vectors) if len(vectors) == 2 else vectors[0]
        embedding_BE = moments_BND.flatten(1) if self.pooling == "flatten" else moments_BND.mean(1)
        return self.classifier(self.dropout(embedding_BE)), embedding_BE

    @torch.no_grad()
    def attention_weights(
        self, inputs: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
        """The weights of each attention in the network, computed in eval mode, by name.

        `inputs` as in `forward`. With S positions and M channels:

        | name | self-attention | gate |
        |---|---|---|
        | video.spatial | (B N, heads, S, S) | (B N, S) |
        | video.channel | (B N, heads, M, M) | (B N, M) |
        | video.temporal, audio.temporal | (B, heads, N, N) | (B, N) |

        and "fusion": A_a and A_v, (B, N, N) each, for cross-attention; (B, heads, 2 N, 2 N), audio before video, for
        self-attention. Each row of a self-attention sums to one. The channel weights are large (8 × 512 × 512 numbers per
        snippet), so pass only a few clips at a time.
        """
        weights: dict[str, Any] = {}

        def remember(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
            def hook(module: Any, arguments: tuple[torch.Tensor, ...]) -> None:
                weights[name] = module.weights(*arguments)

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
            for hook in hooks:
                hook.remove()
        return weights


def _fusion(network: Network) -> nn.Module:
    if network.fusion == "cross_attention":
        return CrossAttention(network.dimension)
    if network.fusion == "self_attention":
        return JointSelfAttention(network.dimension, network.heads, network.residual)
    return Concatenation()
