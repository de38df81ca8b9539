"""The visual branch: 3D-CNN, spatial, channel and temporal attention."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.video.resnet import BasicBlock, Conv3DSimple, VideoResNet

from emofuse.model.attention import SelfAttention

BASE_WIDTH = 64
# Mean and standard deviation of torchvision's Kinetics-400 video models.
MEAN = (0.43216, 0.394666, 0.37645)
STD = (0.22803, 0.22145, 0.216989)


def _stem(width: int) -> type[nn.Sequential]:
    class Stem(nn.Sequential):
        """`BasicStem` of torchvision, of any width."""

        def __init__(self) -> None:
            super().__init__(
                nn.Conv3d(3, width, kernel_size=(3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(inplace=True),
            )

    return Stem


class Trunk(VideoResNet):
    """torchvision's `VideoResNet` of basic blocks up to its last feature map, of any width.

    Input (batch, 3, T, H, W), output (batch, channels, T', H', W'). The names of its weights are
    torchvision's, so its Kinetics weights fit where layers are [2, 2, 2, 2] and width is 64.
    """

    def __init__(self, layers: list[int], width: int) -> None:
        self._width = width
        super().__init__(BasicBlock, [Conv3DSimple] * 4, layers, _stem(width))
        self.channels: int = self.fc.in_features * width // BASE_WIDTH
        del self.avgpool, self.fc

    def _make_layer(self, block, conv_builder, planes, blocks, stride=1):  # type: ignore[no-untyped-def]
        if planes == BASE_WIDTH:
            self.inplanes = self._width
        return super()._make_layer(block, conv_builder, planes * self._width // BASE_WIDTH, blocks, stride)

    def forward(self, frames_BCTHW: torch.Tensor) -> torch.Tensor:
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(frames_BCTHW)))))


class VisualBranch(nn.Module):
    """N snippets of T face frames → N vectors.

    Per snippet: 3D-CNN, mean over its time, self-attention over the s positions (tokens of m channels),
    self-attention over the m channels (tokens of s positions), mean over positions. Then a projection
    m → d and self-attention over the N snippets. `positions` is s, at the face size that is fed.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, layers: list[int], width: int, positions: int, dimension: int, heads: int, residual: bool
    ) -> None:
        super().__init__()
        self.trunk = Trunk(layers, width)
        self.spatial = SelfAttention(self.trunk.channels, heads, residual)
        self.channel = SelfAttention(positions, heads, residual)
        self.project = nn.Linear(self.trunk.channels, dimension)
        self.temporal = SelfAttention(dimension, heads, residual)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1, 1), persistent=False)

    def forward(self, faces_BNCTHW: torch.Tensor) -> torch.Tensor:
        """Faces (batch, N, 3, T, H, W) in [0, 1] → X_v (batch, N, d)."""
        batch, snippets = faces_BNCTHW.shape[:2]
        maps = self.trunk((faces_BNCTHW.flatten(0, 1) - self.mean) / self.std)
        positions_XSM = maps.mean(2).flatten(2).transpose(1, 2)
        positions_XSM = self.spatial(positions_XSM)
        positions_XSM = self.channel(positions_XSM.transpose(1, 2)).transpose(1, 2)
        snippets_BNM = positions_XSM.mean(1).unflatten(0, (batch, snippets))
        return self.temporal(self.project(snippets_BNM))


def positions(size: int) -> int:
    """s, the positions of the last feature map of a face of `size` pixels: it is halved four times."""
    for _ in range(4):
        size = (size + 1) // 2
    return size * size
