"""The exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class AveragedNetwork(Generic[M]):
    """A network whose weights and buffers follow those of another: average ← decay × average + (1 − decay) × value.

    The decay rises from 0 to `decay` over the first steps, so that the random initial weights are soon forgotten. With
    a decay of 0, `network` is the other network itself. This is not `torch.optim.swa_utils.AveragedModel`, which counts
    its steps in a tensor: a decay that depends on that count would make the CPU wait for the GPU in every step.
    """

    def __init__(self, source: M, decay: float) -> None:
        self.network: M = copy.deepcopy(source) if decay else source
        self.decay = decay
        pairs = list(zip(_tensors(self.network), _tensors(source), strict=True))
        self._averages = [average for average, _ in pairs if average.is_floating_point()]
        self._values = [value for _, value in pairs if value.is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]  # batch norms count their batches

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the other network after optimizer step number `step`, counted from 0."""
        if not self.decay:
            return
        torch._foreach_lerp_(self._averages, self._values, 1 - min(self.decay, step / (step + 10)))
        for average, value in self._copied:
            average.copy_(value)


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    """The parameters and buffers of a network, also those that modules share, each once."""
    return [*network.parameters(), *network.buffers()]
