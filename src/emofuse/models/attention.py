"""The attentions of the paper's abstract, spatial, channel and temporal, each in one of two forms.

The abstract names them without an equation. `SelfAttention` is the form of the third-party reading of the paper
(github.com/lol-m-Devil/Emotion_Recognition, attention_model.py), `Gate` that of the paper's ancestor VAANet.
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
    """softmax(X W_q (X W_k)ᵀ / √k) X W_v W_o over `heads` heads of k = ⌈dimension / heads⌉, without biases.

    With `residual`, X + the same of LayerNorm(X): ours, without which a network that starts from random
    weights hardly trains. Input and output (batch, tokens, dimension).
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
        normal_BND = self.norm(x_BND)
        query, key, value = (self._split(layer(normal_BND)) for layer in (self.query, self.key, self.value))
        # The product with `weights`, but they are never held: 2048 channels have 4 million of them a head.
        attended = F.scaled_dot_product_attention(query, key, value)
        out = self.out(attended.transpose(1, 2).flatten(2))
        return x_BND + out if self.residual else out

    def _split(self, x_BNE: torch.Tensor) -> torch.Tensor:
        return x_BNE.unflatten(2, (self.heads, self.head_dimension)).transpose(1, 2)


class Gate(nn.Module):
    """A factor a token, after VAANet (Zhao et al., AAAI 2020, arXiv 2003.00832): out[n] = A[n] X[n].

    H = W tanh(BN(X v)), with v of (dimension,), one batch norm for all tokens, W of (tokens, tokens).
    A = tokens · softmax(H), VAANet's spatial gate over positions and, of the transposed map, its channel
    gate. With `relu`, A = max(H + b, 0), b starting at 1, its temporal gate. W knows tokens by their place.
    Input and output (batch, tokens, dimension).
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
        """A (batch, tokens), of mean one over the tokens unless `relu`."""
        squeezed_B1N = self.norm(self.squeeze(x_BND).transpose(1, 2))
        scores_BN = self.mix(squeezed_B1N.tanh().squeeze(1))
        return scores_BN.relu() if self.relu else scores_BN.shape[1] * scores_BN.softmax(1)

    def forward(self, x_BND: torch.Tensor) -> torch.Tensor:
        return x_BND * self.weights(x_BND).unsqueeze(2)


def attention(form: AttentionForm, network: Network, tokens: int, dimension: int, relu: bool = False) -> nn.Module:
    """Attention of that form over (batch, tokens, dimension); `relu` is for a gate over time."""
    if form == "gate":
        return Gate(tokens, dimension, relu)
    if form == "self_attention":
        return SelfAttention(dimension, network.heads, network.residual)
    return nn.Identity()
