"""Fusion of the N audio and the N video vectors of a clip."""

from __future__ import annotations

import math

import torch
from torch import nn

from emofuse.models.attention import SelfAttention


class CrossAttention(nn.Module):
    """Audio-video cross-attention, after Praveen, Granger and Cardinal (FG 2021) and the paper's abstract.

    C = (X_a W) X_vᵀ is (N, N), with audio in rows and video in columns. A_a is the softmax of C, and A_v that of Cᵀ, each
    over the index that is summed:
    X̂_a[j] = Σ_i A_a[i, j] X_a[i],  X̂_v[i] = Σ_j A_v[j, i] X_v[j],
    out = [tanh(X_a + X̂_a), tanh(X_v + X̂_v)].
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dimension, dimension))
        nn.init.xavier_normal_(self.weight)

    def weights(self, audio_BND: torch.Tensor, video_BND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A_a and A_v, both (B, N, N); each column sums to one."""
        correlation_BAV = audio_BND @ self.weight @ video_BND.transpose(1, 2)
        return correlation_BAV.softmax(1), correlation_BAV.transpose(1, 2).softmax(1)

    def forward(self, audio_BND: torch.Tensor, video_BND: torch.Tensor) -> torch.Tensor:
        """X_a and X_v, both (B, N, d) → (B, N, 2 d)."""
        audio_weights, video_weights = self.weights(audio_BND, video_BND)
        audio_hat = audio_weights.transpose(1, 2) @ audio_BND
        video_hat = video_weights.transpose(1, 2) @ video_BND
        return torch.cat([torch.tanh(audio_BND + audio_hat), torch.tanh(video_BND + video_hat)], dim=2)


class JointSelfAttention(SelfAttention):
    """Self-attention over the 2 N vectors [X_a; X_v]. The result is paired by moment again: (B, N, d) twice → (B, N, 2 d)."""

    def weights(self, *vectors_BND: torch.Tensor) -> torch.Tensor:
        """The softmax weights (B, heads, 2 N, 2 N), audio before video; each row sums to one."""
        return super().weights(torch.cat(vectors_BND, dim=1))

    def forward(self, *vectors_BND: torch.Tensor) -> torch.Tensor:
        return torch.cat(super().forward(torch.cat(vectors_BND, dim=1)).chunk(len(vectors_BND), dim=1), dim=2)


class Concatenation(nn.Module):
    """The vectors of both modalities, concatenated: (B, N, d) twice → (B, N, 2 d)."""

    def forward(self, audio_BND: torch.Tensor, video_BND: torch.Tensor) -> torch.Tensor:
        return torch.cat([audio_BND, video_BND], dim=2)


class LateAverage(nn.Module):
    """One linear classifier per modality; their probabilities are averaged.

    Input: the embeddings of audio and video, concatenated (B, audio_size + video_size). Output:
    log ½ (softmax(S_a) + softmax(S_v)), (B, emotions), whose softmax is the average.
    """

    def __init__(self, audio_size: int, video_size: int, emotions: int) -> None:
        super().__init__()
        self.sizes = audio_size, video_size
        self.audio = nn.Linear(audio_size, emotions)
        self.video = nn.Linear(video_size, emotions)

    def forward(self, embedding_BE: torch.Tensor) -> torch.Tensor:
        audio_BE, video_BE = embedding_BE.split(self.sizes, 1)
        scores = self.audio(audio_BE), self.video(video_BE)
        return torch.stack(scores).log_softmax(2).logsumexp(0) - math.log(2)
