"""The convolutional backbones: torchvision's 2D and 3D ResNets, of any width, whose first stages can be frozen.

Both end with the feature map of layer4. Their weights are named as torchvision's, whose published weights they accept at
width 64.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Self

import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models.video import resnet as video_resnet

BASE_WIDTH = 64  # channels of the first stage of torchvision's networks
BLOCKS = {  # in layer1 to layer4
    "resnet10": [1, 1, 1, 1],
    "resnet18": [2, 2, 2, 2],
    "r3d_10": [1, 1, 1, 1],
    "r3d_18": [2, 2, 2, 2],
    "r3d_50": [3, 4, 6, 3],
    "r3d_101": [3, 4, 23, 3],
}
BOTTLENECKS = ("r3d_50", "r3d_101")

# Mean and standard deviation of the images, in [0, 1], on which the published weights were trained: torchvision's, and
# those of github.com/kenshohara/3D-ResNets-PyTorch.
TORCHVISION = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
HARA = ((0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737))


class FreezableResNet(nn.Module):
    """A residual network as five stages in sequence: the stem and layer1 to layer4.

    Frozen stages have no gradients, and their batch norms stay in eval mode, so that running statistics do not change.
    """

    STEM: ClassVar[tuple[str, ...]]  # the modules of the first stage, in sequence

    frozen = 0
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def freeze(self, stages: int) -> None:
        """Freeze the first `stages` of the five stages."""
        self.frozen = stages
        for module in self._frozen_and_trained()[0]:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self._frozen_and_trained()[0]:
            module.eval()
        return self

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        frozen, trained = self._frozen_and_trained()
        with torch.no_grad():
            for module in frozen:
                maps = module(maps)
        for module in trained:
            maps = module(maps)
        return maps

    def _frozen_and_trained(self) -> tuple[list[nn.Module], list[nn.Module]]:
        stem = [self.get_submodule(name) for name in self.STEM]
        modules = [*stem, self.layer1, self.layer2, self.layer3, self.layer4]
        cut = len(modules) - (5 - self.frozen) if self.frozen else 0
        return modules[:cut], modules[cut:]


class ResNet2d(FreezableResNet, resnet.ResNet):
    """torchvision's `ResNet` of basic blocks, for images with one channel.

    Input (B, 1, F, T), output (B, channels, F', T'). torchvision's ImageNet weights fit resnet18 of width 64 if the first
    convolution is summed over the colours, which gives the same map for a grey image.
    """

    STEM = ("conv1", "bn1", "relu", "maxpool")

    def __init__(self, backbone: str, width: int) -> None:
        self._width = width
        super().__init__(resnet.BasicBlock, BLOCKS[backbone])
        self.conv1 = nn.Conv2d(1, width, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(width)
        self.channels = 8 * width
        del self.avgpool, self.fc

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[no-untyped-def]
        if planes == BASE_WIDTH:
            self.inplanes = self._width
        return super()._make_layer(block, planes * self._width // BASE_WIDTH, blocks, stride, dilate)


class ResNet3d(FreezableResNet, video_resnet.VideoResNet):
    """torchvision's `VideoResNet`, and its variant by Hara, Kataoka and Satoh (CVPR 2018, arXiv 1711.09577).

    r3d_10 and r3d_18 have basic blocks and torchvision's stem. r3d_50 and r3d_101 have bottlenecks and the stem of
    github.com/kenshohara/3D-ResNets-PyTorch, whose blocks equal torchvision's (stride at the 3×3×3 convolution, shortcuts
    of type B). Input (B, 3, T, H, W), output (B, channels, T', H', W'), with H' W' = `positions(H)` for square images.
    """

    STEM = ("stem",)

    def __init__(self, backbone: str, width: int) -> None:
        self._width = width
        bottlenecks = backbone in BOTTLENECKS
        block, stem = (video_resnet.Bottleneck, pooled_stem) if bottlenecks else (video_resnet.BasicBlock, basic_stem)
        super().__init__(block, [video_resnet.Conv3DSimple] * 4, BLOCKS[backbone], partial(stem, width))
        self.channels = 8 * width * block.expansion
        self.halvings = 5 if bottlenecks else 4
        self.normalisation = HARA if bottlenecks else TORCHVISION
        del self.avgpool, self.fc

    def positions(self, size: int) -> int:
        """The number of positions of the last feature map, for images of size × size pixels."""
        for _ in range(self.halvings):
            size = (size + 1) // 2
        return size * size

    def _make_layer(self, block, conv_builder, planes, blocks, stride=1):  # type: ignore[no-untyped-def]
        if planes == BASE_WIDTH:
            self.inplanes = self._width
        return super()._make_layer(block, conv_builder, planes * self._width // BASE_WIDTH, blocks, stride)


def basic_stem(width: int) -> nn.Sequential:
    """torchvision's `BasicStem`, of any width."""
    return nn.Sequential(
        nn.Conv3d(3, width, kernel_size=(3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def pooled_stem(width: int) -> nn.Sequential:
    """The stem of 3D-ResNets-PyTorch (conv1_t_size 7, conv1_t_stride 1), of any width."""
    return nn.Sequential(
        nn.Conv3d(3, width, kernel_size=7, stride=(1, 2, 2), padding=3, bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool3d(kernel_size=3, stride=2, padding=1),
    )
