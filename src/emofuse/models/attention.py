"""Spatial, channel and temporal attention, each as self-attention or as a gate.

The paper's abstract names these attentions without giving equations. `SelfAttention` follows a third-party
reimplementation of the paper (github.com/lol-m-Devil/Emotion_Recognition, attention_model.py), `Gate` follows VAANet, on
which the paper builds (Zhao et al., AAAI 2020, arXiv 2003.00832).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from emofuse.config import AttentionForm, Network


class SelfAttention(nn.Module):
    """Multi-head self-attention without biases: softmax(X W_q (X W_k)ᵀ / √k) X W_v W_o, with k = ⌈dimension / heads⌉.

    With `residual`, X + the same of LayerNorm(X). This is our addition: without it, a network that starts from random
    weights hardly trains. Input and output (B, tokens, dimension).
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
        """The softmax weights (B, heads, tokens, tokens); each row sums to one."""
        x_BND = self.norm(x_BND)
        query, key = self._split_heads(self.query(x_BND)), self._split_heads(self.key(x_BND))
        return (query @ key.transpose(-2, -1) / math.sqrt(self.head_dimension)).softmax(-1)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        normal_BND = self.norm(x_BND)
        query, key, value = (self._split_heads(layer(normal_BND)) for layer in (self.query, self.key, self.value))
        # Equals `weights @ value` without storing the weights: with 2048 channels, they are 4 million numbers per head.
        attended = F.scaled_dot_product_attention(query, key, value)
        out = self.out(attended.transpose(1, 2).flatten(2))
        return x_BND + out if self.residual else out

    def _split_heads(self, x_BNE: torch.Tensor) -> torch.Tensor:
        return x_BNE.unflatten(2, (self.heads, self.head_dimension)).transpose(1, 2)


class Gate(nn.Module):
    """VAANet's attention: token n is multiplied by a factor A[n].

    H = W tanh(BN(X v)), with v of (dimension,), W of (tokens, tokens), and a batch norm shared by all tokens.
    Without `relu`, A = tokens · softmax(H), which is VAANet's spatial gate and, on the transposed map, its channel gate.
    With `relu`, A = max(H + b, 0) with b initialised to 1, which is its temporal gate. As W depends on the token's
    position, the gate is not permutation-equivariant. Input and output (B, tokens, dimension).
    """

    def __init__(self, tokens: int, dimension: int, relu: bool) -> None:
        super().__init__()
        self.squeeze = nn.Linear(dimension, 1, bias=False)
        self.norm = nn.BatchNorm1d(1)
        self.mix = nn.Linear(tokens, tokens, bias=relu)
        self.relu = relu
        if relu:
            nn.init.ones_(self.mix.bias)

    def weights(self, x_BND: torch.Tensor) -> torch.Tensor:
        """A (B, tokens). Without `relu`, its mean over the tokens is one."""
        squeezed_B1N = self.norm(self.squeeze(x_BND).transpose(1, 2))
        scores_BN = self.mix(squeezed_B1N.tanh().squeeze(1))
        return scores_BN.relu() if self.relu else scores_BN.shape[1] * scores_BN.softmax(1)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        return x_BND * self.weights(x_BND).unsqueeze(2)


def attention(form: AttentionForm, network: Network, tokens: int, dimension: int, relu: bool = False) -> nn.Module:
    """Attention of the given form over (B, tokens, dimension); `relu` applies to gates over time."""
    if form == "gate":
        return Gate(tokens, dimension, relu)
    if form == "self_attention":
        return SelfAttention(dimension, network.heads, network.residual)
    return nn.Identity()
