"""Checkpoints: what an interrupted training resumes from, bit for bit on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from emofuse.utils.files import atomic

INTERVAL = 10.0  # seconds of training between checkpoints, which is what an interruption can cost


Parts = Mapping[str, torch.nn.Module | torch.optim.Optimizer]  # what has a state to save, by name


@dataclass
class Progress:
    """What a training has done so far."""

    history: list[dict[str, float]] = field(default_factory=list)  # one row per epoch
    best: dict[str, torch.Tensor] = field(default_factory=dict)  # the weights of the best epoch, on the CPU
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
        """Load the state of each part and return the progress; without a valid checkpoint, change nothing."""
        saved = torch.load(self.path, map_location="cpu", weights_only=True) if self.path.is_file() else {}
        if saved.get("identity") != self.identity:
            return Progress()
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        progress = Progress(**saved["progress"])
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
