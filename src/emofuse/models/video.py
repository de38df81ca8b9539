"""The visual branch: 3D-CNN, spatial, channel and temporal attention."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from torchvision.models.video.resnet import BasicBlock, Bottleneck, Conv3DSimple, VideoResNet

from emofuse.models.attention import attention
from emofuse.models.stages import BASE_WIDTH, Stages

if TYPE_CHECKING:
    from emofuse.config import Network

LAYERS = {"r3d_10": [1, 1, 1, 1], "r3d_18": [2, 2, 2, 2], "r3d_50": [3, 4, 6, 3], "r3d_101": [3, 4, 23, 3]}
BOTTLENECKS = ("r3d_50", "r3d_101")  # in the layout of github.com/kenshohara/3D-ResNets-PyTorch

# Mean and standard deviation of the pictures, in [0, 1], that the published weights were trained on.
TORCHVISION = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
HARA = ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))


def basic_stem(width: int) -> nn.Sequential:
    """`BasicStem` of torchvision, of any width."""
    return nn.Sequential(
        nn.Conv3d(3, width, kernel_size=(3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def pooled_stem(width: int) -> nn.Sequential:
    """The stem of Hara, Kataoka, Satoh, CVPR 2018 (conv1_t_size 7, conv1_t_stride 1), of any width."""
    return nn.Sequential(
        nn.Conv3d(3, width, kernel_size=7, stride=(1, 2, 2), padding=3, bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool3d(kernel_size=3, stride=2, padding=1),
    )


class Trunk(Stages, VideoResNet):
    """torchvision's `VideoResNet` up to its last feature map, of any width.

    r3d_10 and r3d_18 have basic blocks and torchvision's stem; r3d_50 and r3d_101 have bottlenecks and the
    stem of kenshohara's 3D-ResNets-PyTorch, whose blocks are torchvision's: stride at the 3×3×3 convolution,
    shortcuts of type B. Input (batch, 3, T, H, W), output (batch, channels, T', H', W'). The names of its
    weights are torchvision's. At width 64 its Kinetics weights fit r3d_18, and kenshohara's the bottlenecks.
    """

    STEM = ("stem",)

    def __init__(self, backbone: str, width: int) -> None:
        self._width = width
        bottlenecks = backbone in BOTTLENECKS
        block, stem = (Bottleneck, pooled_stem) if bottlenecks else (BasicBlock, basic_stem)
        super().__init__(block, [Conv3DSimple] * 4, LAYERS[backbone], partial(stem, width))
        self.channels = 8 * width * block.expansion  # layer4 has eight times the first stage's
        self.halvings = 5 if bottlenecks else 4
        self.normalisation = HARA if bottlenecks else TORCHVISION
        del self.avgpool, self.fc

    def positions(self, size: int) -> int:
        """s, the positions of the last feature map of a face of `size` pixels."""
        for _ in range(self.halvings):
            size = (size + 1) // 2
        return size * size

    def _make_layer(self, block, conv_builder, planes, blocks, stride=1):  # type: ignore[no-untyped-def]
        if planes == BASE_WIDTH:
            self.inplanes = self._width
        return super()._make_layer(block, conv_builder, planes * self._width // BASE_WIDTH, blocks, stride)


class VisualBranch(nn.Module):
    """N snippets of T face frames → N vectors.

    Per snippet: 3D-CNN, mean over its time, spatial attention over the s positions (tokens of m channels),
    channel attention over the m channels (tokens of s positions), mean over positions. Then a projection
    m → d and temporal attention over the N snippets. `face_size`, of the faces that are fed, gives s.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Network, snippets: int, face_size: int) -> None:
        super().__init__()
        forms = network.attention
        self.trunk = Trunk(network.video.backbone, network.video.width)
        self.trunk.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # faster on a CPU too
        self.trunk.freeze(network.video.frozen)
        positions, channels = self.trunk.positions(face_size), self.trunk.channels
        self.spatial = attention(forms.spatial, network, positions, channels)
        self.channel = attention(forms.channel, network, channels, positions)
        self.project = nn.Linear(channels, network.dimension)
        self.temporal = attention(forms.temporal, network, snippets, network.dimension, relu=True)
        mean, std = self.trunk.normalisation
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1, 1), persistent=False)

    def forward(self, faces_BNCTHW: torch.Tensor) -> torch.Tensor:
        """Faces (batch, N, 3, T, H, W) in [0, 1] → X_v (batch, N, d)."""
        batch, snippets = faces_BNCTHW.shape[:2]
        maps = self.trunk((faces_BNCTHW.flatten(0, 1) - self.mean) / self.std)
        positions_XSM = maps.mean(2).flatten(2).transpose(1, 2)
        positions_XSM = self.spatial(positions_XSM)
        positions_XSM = self.channel(positions_XSM.transpose(1, 2)).transpose(1, 2)
        snippets_BNM = positions_XSM.mean(1).unflatten(0, (batch, snippets))
        return self.temporal(self.project(snippets_BNM))
