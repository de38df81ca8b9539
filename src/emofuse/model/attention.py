"""Multi-head self-attention, and what the paper's abstract attends to with it.

Forms after the third-party reading of the paper (github.com/lol-m-Devil/Emotion_Recognition,
attention_model.py): softmax(Q Kᵀ / √k) V over heads, no biases. The residual path and the layer norm
before it are ours: without them a network that starts from random weights hardly trains.
"""

from __future__ import annotations

import math

import torch
from torch import nn


class SelfAttention(nn.Module):
    """softmax(X W_q (X W_k)ᵀ / √k) X W_v W_o over `heads` heads of k = ⌈dimension / heads⌉.

    With `residual`, X + the same of LayerNorm(X). Input and output (batch, tokens, dimension).
    """

    def __init__(self, dimension: int, heads: int, residual: bool) -> None:
        super().__init__()
        self.heads = heads
        self.head_dimension = math.ceil(dimension / heads)
        inner = heads * self.head_dimension
        self.norm = nn.LayerNorm(dimension) if residual else nn.Identity()
        self.query = nn.Linear(dimension, inner, bias=False)
        self.key = nn.Linear(dimension, inner, bias=False)
        self.value = nn.Linear(dimension, inner, bias=False)
        self.out = nn.Linear(inner, dimension, bias=False)
        self.residual = residual
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)

    def weights(self, x_BND: torch.Tensor) -> torch.Tensor:
        """The softmax weights (batch, heads, tokens, tokens); each row sums to one."""
        x_BND = self.norm(x_BND)
        query, key = self._split(self.query(x_BND)), self._split(self.key(x_BND))
        return (query @ key.transpose(-2, -1) / math.sqrt(self.head_dimension)).softmax(-1)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        attended = self.weights(x_BND) @ self._split(self.value(self.norm(x_BND)))
        out = self.out(attended.transpose(1, 2).flatten(2))
        return x_BND + out if self.residual else out

    def _split(self, x_BNE: torch.Tensor) -> torch.Tensor:
        return x_BNE.unflatten(2, (self.heads, self.head_dimension)).transpose(1, 2)
