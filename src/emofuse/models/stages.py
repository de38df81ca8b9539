"""What the trunks of both branches share: five stages, of which the first may be frozen."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import nn

BASE_WIDTH = 64  # channels of the published networks' first stage


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
