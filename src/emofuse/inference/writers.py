"""Predictions as lines for the terminal and as CSV and JSON files; `page` writes the HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.inference.bundle import Bundle, Ensemble
from emofuse.inference.predictor import Clip, Models, Prediction, reasons
from emofuse.inference.windows import Place
from emofuse.utils.console import shown
from emofuse.utils.files import write_csv, write_json, write_text

COLUMNS = ("file", "start", "end", "face", "variant", "calibration", "emotion", "note")
MODALITIES = {"audio": "sound", "video": "faces"}


def write(clips: Sequence[Clip], models: Models, folder: Path) -> None:
    """Write predictions.csv and predictions.json, with one entry per face and window, and predictions.html."""
    import pandas as pd

    from emofuse.inference import page  # imports matplotlib, which a server does not need

    bundle = models.bundle
    records = [row for clip in clips for row in rows(clip, bundle)]
    write_csv(folder / "predictions.csv", pd.DataFrame(records, columns=[*COLUMNS, *bundle.columns], dtype=object))
    described = bundle.model_dump(
        mode="json", exclude={"ensembles": {"__all__": {"models": {"__all__": {"made_from"}}}}}
    )
    videos = [_video(clip, bundle) for clip in clips]
    write_json(folder / "predictions.json", {"models": described, "videos": videos})
    write_text(folder / "predictions.html", page.render(clips, models))


def rows(clip: Clip, bundle: Bundle) -> Iterator[dict[str, object]]:
    """The rows of predictions.csv: the probabilities of each place, or the reason why there is no prediction."""
    empty: dict[str, object] = dict.fromkeys((*COLUMNS, *bundle.columns), "")
    if clip.broken:
        yield {**empty, "file": shown(clip.path), "note": clip.broken}
        return
    places: list[tuple[Place, Prediction | None]] = [(each.place, each) for each in clip.predictions]
    places += [(place, None) for place in clip.skipped]
    for place, prediction in sorted(places, key=lambda each: (each[0].start, each[0].face or 0)):
        row = {**empty, "file": shown(clip.path), "start": place.start, "end": place.end, "face": place.face or ""}
        if prediction is None:
            yield {**row, "note": f"no prediction: {reasons(place, bundle)}"}
            continue
        yield {
            **row,
            "variant": prediction.ensemble.variant,
            "calibration": prediction.ensemble.calibration,
            "emotion": bundle.most_likely(prediction.probabilities),
            "note": prediction.note(bundle),
            **{name: f"{p:.6f}" for name, p in zip(bundle.columns, prediction.probabilities, strict=True)},
        }


def lines(clip: Clip, bundle: Bundle) -> Iterator[str]:
    """The lines for the terminal: one per face, or why there is no prediction."""
    if failure := clip.failure(bundle):
        yield f"{shown(clip.path)}: no prediction: {failure}"
    for face in clip.faces:
        predictions = clip.of(face)
        best = most_likely(clip.mean(face), bundle, 3)
        label = "" if face is None or len(clip.faces) == 1 else f" face {face},"
        windows = f", {len(predictions)} windows" if len(predictions) > 1 else ""
        yield f"{shown(clip.path)}:{label} {best} ({sources(predictions)}{windows})"


def most_likely(probabilities_C: NDArray[np.float64], bundle: Bundle, count: int) -> str:
    """The most likely emotions as text: "happy 83 %, surprised 9 %"."""
    order = np.argsort(-probabilities_C, kind="stable")[:count]
    return ", ".join(f"{bundle.emotions[index]} {100 * probabilities_C[index]:.0f} %" for index in order)


def sources(predictions: Sequence[Prediction]) -> str:
    """The modalities and models behind predictions: "faces and sound, by proposed, 3 models, uncalibrated"."""
    ensembles: dict[int, Ensemble] = {id(each.ensemble): each.ensemble for each in predictions}
    return "; ".join(
        f"{' and '.join(MODALITIES[name] for name in sorted(ensemble.modalities, reverse=True))}, by {ensemble}"
        for ensemble in ensembles.values()
    )


def _video(clip: Clip, bundle: Bundle) -> dict[str, Any]:
    means = {face: clip.mean(face) for face in clip.faces}
    return {
        "file": shown(clip.path),
        "no_prediction": clip.failure(bundle) or None,
        "faces": [
            {"face": face, "emotion": bundle.most_likely(mean), "probabilities": _by_emotion(mean, bundle)}
            for face, mean in means.items()
        ],
        "windows": [
            {
                "start": prediction.place.start,
                "end": prediction.place.end,
                "face": prediction.place.face,
                "box": prediction.place.box,
                "variant": prediction.ensemble.variant,
                "note": prediction.note(bundle),
                "probabilities": _by_emotion(prediction.probabilities, bundle),
            }
            for prediction in clip.predictions
        ],
        "windows_without_prediction": [
            {"start": place.start, "end": place.end, "reason": reasons(place, bundle)} for place in clip.skipped
        ],
    }


def _by_emotion(probabilities_C: NDArray[np.float64], bundle: Bundle) -> dict[str, float]:
    return dict(zip(bundle.emotions, probabilities_C.round(6).tolist(), strict=True))
