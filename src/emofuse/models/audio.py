"""The audio branch: 2D-CNN and temporal attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from emofuse.models.attention import attention
from emofuse.models.stages import BASE_WIDTH, Stages

if TYPE_CHECKING:
    from emofuse.config import Network

LAYERS = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2]}


class Trunk(Stages, ResNet):
    """torchvision's `ResNet` of basic blocks up to its last feature map, of any width, for one channel.

    Input (batch, 1, bands, time), output (batch, channels, bands', time'). The names of its weights are
    torchvision's; its ImageNet weights fit resnet18 of width 64, with the first convolution summed over
    colours (a grey picture gives the same map).
    """

    STEM = ("conv1", "bn1", "relu", "maxpool")

    def __init__(self, backbone: str, width: int) -> None:
        self._width = width
        super().__init__(BasicBlock, LAYERS[backbone])
        self.conv1 = nn.Conv2d(1, width, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.channels = 8 * width  # layer4 has eight times the first stage's
        del self.avgpool, self.fc

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[no-untyped-def]
        if planes == BASE_WIDTH:
            self.inplanes = self._width
        return super()._make_layer(block, planes * self._width // BASE_WIDTH, blocks, stride, dilate)


class AudioBranch(nn.Module):
    """N log-mel segments → N vectors: 2D-CNN, mean over its map, projection to d, temporal attention over N."""

    def __init__(self, network: Network, segments: int) -> None:
        super().__init__()
        self.trunk = Trunk(network.audio.backbone, network.audio.width)
        self.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # several times faster on a CPU
        self.trunk.freeze(network.audio.frozen)
        self.project = nn.Linear(self.trunk.channels, network.dimension)
        self.temporal = attention(network.attention.audio_temporal, network, segments, network.dimension, relu=True)

    def forward(self, segments_BNFT: torch.Tensor) -> torch.Tensor:
        """Segments (batch, N, bands, frames), normalised per clip and band → X_a (batch, N, d)."""
        batch, segments = segments_BNFT.shape[:2]
        maps = self.trunk(segments_BNFT.flatten(0, 1).unsqueeze(1))
        segments_BNM = maps.mean((2, 3)).unflatten(0, (batch, segments))
        return self.temporal(self.project(segments_BNM))
