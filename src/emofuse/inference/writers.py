"""What was said of some videos: as lines for the terminal, as CSV and JSON for programs; the page is in `page`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emofuse.inference.bundle import Bundle, Ensemble
from emofuse.inference.predictor import Answer, Clip, Models, reasons
from emofuse.inference.windows import Place
from emofuse.utils.files import write_json, write_table, write_text

COLUMNS = ("file", "start", "end", "face", "variant", "emotion", "note")
WORDS = {"audio": "sound", "video": "faces"}


def write(clips: Sequence[Clip], models: Models, folder: Path) -> None:
    """Write predictions.csv and predictions.json, a row a face and window, and predictions.html for people."""
    from emofuse.inference import page  # with matplotlib, which a server does without

    bundle = models.bundle
    told = (row for clip in clips for row in rows(clip, bundle))
    write_table(folder / "predictions.csv", (*COLUMNS, *bundle.columns), told)
    write_json(
        folder / "predictions.json",
        {
            "models": bundle.model_dump(
                mode="json", exclude={"ensembles": {"__all__": {"models": {"__all__": {"made_from"}}}}}
            ),
            "videos": [_record(clip, bundle) for clip in clips],
        },
    )
    write_text(folder / "predictions.html", page.render(clips, models))


def rows(clip: Clip, bundle: Bundle) -> Iterator[dict[str, object]]:
    """The rows of predictions.csv: each answer with its probabilities, and each place without one with the reason."""
    empty: dict[str, object] = dict.fromkeys(("start", "end", "face", "variant", "emotion"), "")
    none = dict.fromkeys(bundle.columns, "")
    if clip.broken:
        yield {"file": clip.path, **empty, "note": clip.broken, **none}
        return
    told: list[tuple[Place, Answer | None]] = [(answer.place, answer) for answer in clip.answers]
    told += [(place, None) for place in clip.silent]
    for place, answer in sorted(told, key=lambda each: (each[0].start, each[0].face or 0)):
        where = {"file": clip.path, "start": place.start, "end": place.end, "face": place.face or ""}
        if answer is None:
            yield {**empty, **where, "note": f"no answer: {reasons(place, bundle)}", **none}
            continue
        chances = dict(zip(none, (f"{p:.6f}" for p in answer.probabilities), strict=True))
        said = {"variant": answer.ensemble.variant, "emotion": bundle.likeliest(answer.probabilities)}
        yield {**where, **said, "note": answer.why(bundle), **chances}


def lines(clip: Clip, bundle: Bundle) -> Iterator[str]:
    """What the terminal says of a video: a line a face, or why there is no answer."""
    if refusal := clip.refusal(bundle):
        yield f"{clip.path}: no answer: {refusal}"
    for face in clip.faces:
        said = clip.of(face)
        best = likeliest(clip.mean(face), bundle, 3)
        who = "" if face is None or len(clip.faces) == 1 else f" face {face},"
        windows = f", {len(said)} windows" if len(said) > 1 else ""
        yield f"{clip.path}:{who} {best} ({heard(said)}{windows})"


def likeliest(chances_C: NDArray[np.float64], bundle: Bundle, count: int) -> str:
    """The likeliest emotions, in words: "happy 83 %, surprised 9 %"."""
    order = np.argsort(-chances_C, kind="stable")[:count]
    return ", ".join(f"{bundle.emotions[place]} {100 * chances_C[place]:.0f} %" for place in order)


def heard(answers: Sequence[Answer]) -> str:
    """Who answered, from what: "faces and sound, by proposed, 3 models"."""
    asked: dict[int, Ensemble] = {id(answer.ensemble): answer.ensemble for answer in answers}
    return "; ".join(
        f"{' and '.join(WORDS[name] for name in sorted(ensemble.modalities, reverse=True))}, by {ensemble}"
        for ensemble in asked.values()
    )


def _record(clip: Clip, bundle: Bundle) -> dict[str, Any]:
    means = {face: clip.mean(face) for face in clip.faces}
    return {
        "file": str(clip.path),
        "no_answer": clip.refusal(bundle) or None,
        "faces": [
            {"face": face, "emotion": bundle.likeliest(mean), **_chances(mean, bundle)} for face, mean in means.items()
        ],
        "windows": [
            {
                "start": answer.place.start,
                "end": answer.place.end,
                "face": answer.place.face,
                "box": answer.place.box,
                "variant": answer.ensemble.variant,
                "note": answer.why(bundle),
                **_chances(answer.probabilities, bundle),
            }
            for answer in clip.answers
        ],
        "without_answer": [
            {"start": place.start, "end": place.end, "reason": reasons(place, bundle)} for place in clip.silent
        ],
    }


def _chances(chances_C: NDArray[np.float64], bundle: Bundle) -> dict[str, Any]:
    return {"probabilities": dict(zip(bundle.emotions, chances_C.round(6).tolist(), strict=True))}
