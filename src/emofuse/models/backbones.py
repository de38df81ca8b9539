"""The backbones: residual networks of five stages, of which the first may be frozen."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Self

import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models.video import resnet as video_resnet

BASE_WIDTH = 64  # channels of the published networks' first stage
LAYERS_2D = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2]}
LAYERS_3D = {"r3d_10": [1, 1, 1, 1], "r3d_18": [2, 2, 2, 2], "r3d_50": [3, 4, 6, 3], "r3d_101": [3, 4, 23, 3]}
BOTTLENECKS = ("r3d_50", "r3d_101")  # in the layout of github.com/kenshohara/3D-ResNets-PyTorch

# Mean and standard deviation of the pictures, in [0, 1], that the published weights were trained on.
TORCHVISION = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
HARA = ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))


class Stages(nn.Module):
    """A residual network as five stages, the stem and layer1 to layer4, run one after the other.

    The first `frozen` of them keep their weights: they have no gradients, and their batch norms stay in
    eval mode when the network is put in train mode, so that the statistics stay too.
    """

    STEM: ClassVar[tuple[str, ...]]  # the names of the first stage's modules, in the order in which they run

    frozen = 0
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def freeze(self, stages: int) -> None:
        """Freeze the first `stages` stages."""
        self.frozen = stages
        for module in self._split()[0]:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._split()[0]:
            module.eval()
        return self

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        frozen, trained = self._split()
        with torch.no_grad():
            for module in frozen:
                maps = module(maps)
        for module in trained:
            maps = module(maps)
        return maps

    def _split(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The modules of the frozen stages, and those of the others."""
        stem = [self.get_submodule(name) for name in self.STEM]
        modules = [*stem, self.layer1, self.layer2, self.layer3, self.layer4]
        cut = len(modules) - (5 - self.frozen) if self.frozen else 0
        return modules[:cut], modules[cut:]


class ResNet2d(Stages, resnet.ResNet):
    """torchvision's `ResNet` of basic blocks up to its last feature map, of any width, for one channel.

    Input (batch, 1, bands, time), output (batch, channels, bands', time'). The names of its weights are
    torchvision's; its ImageNet weights fit resnet18 of width 64, with the first convolution summed over
    colours (a grey picture gives the same map).
    """

    STEM = ("conv1", "bn1", "relu", "maxpool")

    def __init__(self, backbone: str, width: int) -> None:
        self._width = width
        super().__init__(resnet.BasicBlock, LAYERS_2D[backbone])
        self.conv1 = nn.Conv2d(1, width, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.channels = 8 * width  # layer4 has eight times the first stage's
        del self.avgpool, self.fc

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[no-untyped-def]
        if planes == BASE_WIDTH:
            self.inplanes = self._width
        return super()._make_layer(block, planes * self._width // BASE_WIDTH, blocks, stride, dilate)


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


class ResNet3d(Stages, video_resnet.VideoResNet):
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
        block, stem = (video_resnet.Bottleneck, pooled_stem) if bottlenecks else (video_resnet.BasicBlock, basic_stem)
        super().__init__(block, [video_resnet.Conv3DSimple] * 4, LAYERS_3D[backbone], partial(stem, width))
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
