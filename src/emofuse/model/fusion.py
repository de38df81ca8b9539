"""Fusion of the N audio and the N video vectors of a clip."""

from __future__ import annotations

import torch
from torch import nn


class CrossAttention(nn.Module):
    """A-V cross-attention, after Praveen, Granger, Cardinal, FG 2021, and the paper's abstract.

    C = (X_a W) X_vᵀ, of shape (N, N): rows audio, columns video. A_a is the softmax of C, A_v that of Cᵀ,
    each over the index that is summed:
    X̂_a[j] = Σ_i A_a[i, j] X_a[i],  X̂_v[i] = Σ_j A_v[j, i] X_v[j];
    out = [tanh(X_a + X̂_a), tanh(X_v + X̂_v)].
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dimension, dimension))
        nn.init.xavier_normal_(self.weight)

    def weights(self, audio_BND: torch.Tensor, video_BND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A_a and A_v, both (batch, N, N); each of their columns sums to one."""
        correlation_BAV = audio_BND @ self.weight @ video_BND.transpose(1, 2)
        return correlation_BAV.softmax(1), correlation_BAV.transpose(1, 2).softmax(1)

    def forward(self, audio_BND: torch.Tensor, video_BND: torch.Tensor) -> torch.Tensor:
        """X_a, X_v (batch, N, d) → (batch, N, 2 d)."""
        audio_weights, video_weights = self.weights(audio_BND, video_BND)
        audio_hat = audio_weights.transpose(1, 2) @ audio_BND
        video_hat = video_weights.transpose(1, 2) @ video_BND
        return torch.cat([torch.tanh(audio_BND + audio_hat), torch.tanh(video_BND + video_hat)], dim=2)


class Concatenation(nn.Module):
    """No fusion but side by side: (batch, N, d) twice → (batch, N, 2 d)."""

    def forward(self, audio_BND: torch.Tensor, video_BND: torch.Tensor) -> torch.Tensor:
        return torch.cat([audio_BND, video_BND], dim=2)
