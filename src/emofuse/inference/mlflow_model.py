"""An exported folder as MLflow serves it: a clip's bytes in, a row for each face and window out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from emofuse.inference import bundle as bundles
from emofuse.inference import predictor as answers
from emofuse.inference import writers as written

TEXTS = ("variant", "emotion", "note")


def numbers(bundle: bundles.Bundle) -> list[str]:
    """The columns of numbers."""
    return ["row", "start", "end", "face", *bundle.columns]


class Served:
    """What MLflow calls: `predict` of a table whose column `clip` has the bytes of a video file in each row."""

    def __init__(self, folder: Path) -> None:
        self._models = answers.Models(*bundles.read(folder))

    def predict(self, clips: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The rows of predictions.csv, with the number of the clip's row for its file; what is absent is NaN or empty."""
        made: list[dict[str, object]] = []
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for number, data in enumerate(clips["clip"]):
                paths.append(Path(folder) / str(number))
                paths[-1].write_bytes(data)
            for number, clip in enumerate(answers.ask(paths, self._models)):
                made += [{"row": number, **row} for row in written.rows(clip, self._models.bundle)]
        table = pd.DataFrame(made)
        columns = numbers(self._models.bundle)
        table[columns] = table[columns].apply(pd.to_numeric).astype(float)
        return table[[*TEXTS, *columns]]


def _load_pyfunc(path: str) -> Served:
    """What MLflow asks a loader module for."""
    return Served(Path(path))


def example() -> pd.DataFrame:
    """A clip to try it with: one of the made corpus."""
    from emofuse.config import Demo
    from emofuse.datasets import demo

    clip = demo.encode(Demo(actors=4, takes=1), 1, "angry", 1)
    return pd.DataFrame({"clip": [clip]})
