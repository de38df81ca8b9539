"""An exported folder as an MLflow model: the bytes of video files in, one row per face and window out."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from emofuse.inference import bundle, predictor, writers
from emofuse.inference.bundle import Bundle

TEXT_COLUMNS = ("variant", "calibration", "emotion", "note")


def number_columns(described: Bundle) -> list[str]:
    """The numeric columns of the output."""
    return ["row", "start", "end", "face", *described.columns]


class Served:
    """The model that MLflow calls."""

    def __init__(self, folder: Path) -> None:
        factory = os.environ.get("EMOFUSE_FACTORY") or None  # `mlflow models serve` has no option for it
        self._models = predictor.Models(*bundle.read(folder), factory=factory)

    def predict(self, clips: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The rows of predictions.csv for clips, whose column `clip` has the bytes of a file.

        `row` is the number of the clip in the input; absent values are NaN or "".
        """
        rows: list[dict[str, object]] = []
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for number, data in enumerate(clips["clip"]):
                paths.append(Path(folder) / str(number))
                paths[-1].write_bytes(data)
            for number, clip in enumerate(predictor.predict(paths, self._models)):
                rows += [{"row": number, **row} for row in writers.rows(clip, self._models.bundle)]
        table = pd.DataFrame(rows)
        columns = number_columns(self._models.bundle)
        table[columns] = table[columns].apply(pd.to_numeric).astype(float)
        return table[[*TEXT_COLUMNS, *columns]]


def _load_pyfunc(path: str) -> Served:
    """The entry point of a loader module, defined by MLflow."""
    return Served(Path(path))


def example() -> pd.DataFrame:
    """An example input: a clip of the synthetic corpus."""
    from emofuse.config import Demo
    from emofuse.datasets import demo

    clip = demo.encode(Demo(actors=4, takes=1), 1, "angry", 1)
    return pd.DataFrame({"clip": [clip]})
