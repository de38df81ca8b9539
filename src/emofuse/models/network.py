"""The complete network: branches, fusion, embedding and classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    are averaged or concatenated (`network.pooling`) to form the embedding. With late average, the modalities may have
    different numbers of moments, and the embedding is that of the audio, then that of the video.

    `shapes` has the shape of one clip for each modality: "video" (N, 3, T, H, W), "audio" (N, bands, frames).
    """

    def __init__(self, network: Network, emotions: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.modalities = tuple(network.modalities)
        moments = {modality: shapes[modality][0] for modality in sorted(self.modalities)}
        if "video" in moments:
            self.video = VideoBranch(network, moments["video"], shapes["video"][-1])
        if "audio" in moments:
            self.audio = AudioBranch(network, moments["audio"])
        both = len(self.modalities) == 2
        self.late = both and network.averages_modalities
        if both and not self.late:
            self.fusion = _fusion(network)
        self.pooling = network.pooling
        sizes = [network.dimension * (n if network.pooling == "flatten" else 1) for n in moments.values()]
        self.embedding_size = sum(sizes)
        self.dropout = nn.Dropout(network.dropout)
        self.classifier: nn.Module = (
            LateAverage(sizes[0], sizes[1], emotions) if self.late else nn.Linear(self.embedding_size, emotions)
        )

    def forward(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, emotions) and embeddings (B, embedding_size).

        `inputs` contains, for each modality of the network, "video": faces (B, N, 3, T, H, W) in [0, 1], or "audio":
        segments (B, N, bands, frames).
        """
        vectors = [self.get_submodule(modality)(inputs[modality]) for modality in sorted(self.modalities)]
        if len(vectors) == 2 and not self.late:
            vectors = [self.fusion(*vectors)]
        pooled = [each_BND.flatten(1) if self.pooling == "flatten" else each_BND.mean(1) for each_BND in vectors]
        embedding_BE = torch.cat(pooled, 1)
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
