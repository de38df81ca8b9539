"""The video and the audio branch: a backbone and its attentions, from a clip's N snippets or segments to N vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from emofuse.models.attention import attention
from emofuse.models.backbones import ResNet2d, ResNet3d

if TYPE_CHECKING:
    from emofuse.config import Network


def projection(channels: int, dimension: int) -> nn.Module:
    """A linear map to d dimensions, where the backbone has another number of channels."""
    return nn.Linear(channels, dimension) if channels != dimension else nn.Identity()


class VideoBranch(nn.Module):
    """N snippets of T face frames → N vectors.

    For each snippet: 3D-CNN, mean over time, spatial attention (tokens are the S positions, with M channels), channel
    attention (tokens are the M channels, with S positions), mean over positions, and a projection to d dimensions. Then
    temporal attention over the N snippets. Faces are `face_size` × `face_size` pixels.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Network, snippets: int, face_size: int) -> None:
        super().__init__()
        forms = network.attention
        self.trunk = ResNet3d(network.video.backbone, network.video.width)
        self.trunk.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # faster, also on a CPU
        self.trunk.freeze(network.video.frozen)
        positions, channels = self.trunk.positions(face_size), self.trunk.channels
        self.spatial = attention(forms.spatial, network, positions, channels)
        self.channel = attention(forms.channel, network, channels, positions)
        self.project = projection(channels, network.dimension)
        self.temporal = attention(forms.temporal, network, snippets, network.dimension, relu=True)
        mean, std = self.trunk.normalisation
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)

    def forward(self, faces_BNCTHW: torch.Tensor) -> torch.Tensor:
        """Faces (B, N, 3, T, H, W) in [0, 1] → X_v (B, N, d)."""
        batch, snippets = faces_BNCTHW.shape[:2]
        maps = self.trunk((faces_BNCTHW.flatten(0, 1) - self.mean) / self.std)
        positions_XSM = maps.mean(2).flatten(2).transpose(1, 2)  # X = B N
        positions_XSM = self.spatial(positions_XSM)
        positions_XSM = self.channel(positions_XSM.transpose(1, 2)).transpose(1, 2)
        snippets_BNM = positions_XSM.mean(1).unflatten(0, (batch, snippets))
        return self.temporal(self.project(snippets_BNM))


class AudioBranch(nn.Module):
    """N log-mel segments → N vectors: 2D-CNN, mean over its map, projection to d dimensions, temporal attention."""

    def __init__(self, network: Network, segments: int) -> None:
        super().__init__()
        self.trunk = ResNet2d(network.audio.backbone, network.audio.width)
        self.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # several times faster on a CPU
        self.trunk.freeze(network.audio.frozen)
        self.project = projection(self.trunk.channels, network.dimension)
        self.temporal = attention(network.attention.audio_temporal, network, segments, network.dimension, relu=True)

    def forward(self, segments_BNFT: torch.Tensor) -> torch.Tensor:
        """Segments (B, N, bands, frames) → X_a (B, N, d)."""
        batch, segments = segments_BNFT.shape[:2]
        maps = self.trunk(segments_BNFT.flatten(0, 1).unsqueeze(1))
        segments_BNM = maps.mean((2, 3)).unflatten(0, (batch, segments))
        return self.temporal(self.project(segments_BNM))
