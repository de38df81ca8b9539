"""Checks of tensors that were read from files."""

from __future__ import annotations

from collections.abc import Mapping

import torch

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def require_floats(state: Mapping[str, torch.Tensor]) -> None:
    """ValueError for weights in other numbers than floats of 16 bits and more: 8-bit ones need scales that torch ignores."""
    for name, value in state.items():
        if value.layout != torch.strided or value.is_meta:
            raise ValueError(f"{name} is not stored as a plain array")
        if value.dtype not in FLOATS and not name.endswith("num_batches_tracked"):
            raise ValueError(
                f"{name} has numbers of type {str(value.dtype).removeprefix('torch.')}, not floats of 16 bits or more"
            )
