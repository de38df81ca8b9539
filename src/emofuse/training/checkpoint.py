"""Checkpoints: what an interrupted training resumes from, bit for bit on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from emofuse.utils.errors import UserError
from emofuse.utils.files import atomic

INTERVAL = 10.0  # seconds of training between checkpoints, which is what an interruption can cost


Parts = Mapping[str, torch.nn.Module | torch.optim.Optimizer]  # what has a state to save, by name


@dataclass
class Progress:
    """What a training has done so far."""

    history: list[dict[str, float]] = field(default_factory=list)  # one row per epoch
    # The weights to keep, on the CPU: those of the best epoch so far or, without validation, none before the last.
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    seconds_waiting: float = 0.0  # for data


class Checkpoint:
    """The checkpoint of a training in a file.

    `identity` stands for everything that determines the result. A checkpoint with a different identity is ignored.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self._saved_at = 0.0

    def restore(self, parts: Parts) -> Progress:
        """Load the state of each part and return the progress; without a valid checkpoint, change nothing.

        Raises `UserError` for a file that is not a checkpoint, or not one of these parts.
        """
        if not self.path.is_file():
            return Progress()
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if saved["identity"] != self.identity:
                return Progress()
            for name, part in parts.items():
                _load(part, saved["parts"][name])
            progress = _progress(saved["progress"])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # on other contents, torch raises a variety of exceptions
            raise UserError(
                f"{self.path} is damaged, or not a checkpoint of this training; delete it, and the training starts again"
            ) from error
        self._saved_at = progress.seconds
        return progress

    def save(self, parts: Parts, progress: Progress) -> None:
        """Write a checkpoint, unless the last one is less than INTERVAL old."""
        if progress.seconds - self._saved_at < INTERVAL:
            return
        self._saved_at = progress.seconds
        states = {name: part.state_dict() for name, part in parts.items()}
        with atomic(self.path) as temporary:
            torch.save({"identity": self.identity, "parts": states, "progress": vars(progress)}, temporary)


def _load(part: torch.nn.Module | torch.optim.Optimizer, state: Any) -> None:
    """Load a state. Raises an exception for one of another part, and for types that torch would convert."""
    if isinstance(part, torch.nn.Module):
        types = {name: value.dtype for name, value in part.state_dict().items()}
        if {name: value.dtype for name, value in state.items()} != types:
            raise TypeError
        part.load_state_dict(state)
        return
    if _fixed(state) != _fixed(part.state_dict()):
        raise TypeError
    part.load_state_dict(state)
    for parameter, moments in part.state.items():
        if any(moment.dim() and moment.shape != parameter.shape for moment in moments.values()):
            raise TypeError


def _fixed(optimizer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of an optimizer that do not change during the training."""
    return [{name: value for name, value in group.items() if name != "lr"} for group in optimizer["param_groups"]]


def _progress(saved: Any) -> Progress:
    """The progress in a checkpoint. Raises an exception if anything in it is of another type."""
    progress = Progress(**saved)
    rows, weights = progress.history, progress.kept
    valid = [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    scores = ("val_loss", "val_uar") if weights else ()  # without validation, no epoch is kept before the last
    valid &= all(isinstance(row[name], float) for row in rows for name in ("train_loss", *scores))
    valid &= all(("val_uar" in row) == bool(weights) for row in rows)
    valid &= all(isinstance(value, torch.Tensor) for value in weights.values())
    if not valid:
        raise TypeError
    progress.seconds, progress.seconds_waiting = float(progress.seconds), float(progress.seconds_waiting)
    return progress
