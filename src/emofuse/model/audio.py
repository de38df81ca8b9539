"""The audio branch: 2D-CNN and temporal attention."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from emofuse.model.attention import SelfAttention

BASE_WIDTH = 64


class Trunk(ResNet):
    """torchvision's `ResNet` of basic blocks up to its last feature map, of any width, for one channel.

    Input (batch, 1, bands, time), output (batch, channels, bands', time'). The names of its weights are
    torchvision's; its ImageNet weights fit where layers are [2, 2, 2, 2] and width is 64, with the
    first convolution summed over colours (a grey picture gives the same map).
    """

    def __init__(self, layers: list[int], width: int) -> None:
        self._width = width
        super().__init__(BasicBlock, layers)
        self.conv1 = nn.Conv2d(1, width, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.channels: int = self.fc.in_features * width // BASE_WIDTH
        del self.avgpool, self.fc

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[no-untyped-def]
        if planes == BASE_WIDTH:
            self.inplanes = self._width
        return super()._make_layer(block, planes * self._width // BASE_WIDTH, blocks, stride, dilate)

    def forward(self, spectrograms_BCFT: torch.Tensor) -> torch.Tensor:
        maps = self.maxpool(self.relu(self.bn1(self.conv1(spectrograms_BCFT))))
        return self.layer4(self.layer3(self.layer2(self.layer1(maps))))


class AudioBranch(nn.Module):
    """N log-mel segments → N vectors: 2D-CNN, mean over its map, projection to d, self-attention over N."""

    def __init__(self, layers: list[int], width: int, dimension: int, heads: int, residual: bool) -> None:
        super().__init__()
        self.trunk = Trunk(layers, width)
        self.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # several times faster on a CPU
        self.project = nn.Linear(self.trunk.channels, dimension)
        self.temporal = SelfAttention(dimension, heads, residual)

    def forward(self, segments_BNFT: torch.Tensor) -> torch.Tensor:
        """Segments (batch, N, bands, frames), normalised per clip and band → X_a (batch, N, d)."""
        batch, segments = segments_BNFT.shape[:2]
        maps = self.trunk(segments_BNFT.flatten(0, 1).unsqueeze(1))
        segments_BNM = maps.mean((2, 3)).unflatten(0, (batch, segments))
        return self.temporal(self.project(segments_BNM))
