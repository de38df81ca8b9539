"""What was said of some videos, as one self-contained page: probabilities, how they change, and what the networks attended to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emofuse.inference import writers as written
from emofuse.inference.bundle import Bundle
from emofuse.inference.predictor import Answer, Clip, Models, reasons
from emofuse.inference.windows import Sample
from emofuse.report import page
from emofuse.report.attention import Attended, normalised
from emofuse.report.figures.attention import draw_attention
from emofuse.report.figures.style import BLUE, COLOURS, COLUMN, MARKERS, STYLE, WIDTH, inline_svg

USUAL = 20  # silent windows that are listed; the rest are counted


def render(clips: Sequence[Clip], models: Models) -> str:
    """The page as HTML. Of a face the window is shown in which the models were the most certain."""
    bundle = models.bundle
    return page.fill(
        Path(__file__).parent / "predictions.html.j2",
        warning="Made clips: the models have learned from faces and voices drawn by a program."
        if bundle.kind == "demo"
        else "",
        bundle=bundle,
        ensembles=[str(ensemble) for ensemble in bundle.ensembles],
        answered=sum(not clip.refusal(bundle) for clip in clips),
        clips=[_clip(clip, number, models) for number, clip in enumerate(clips)],
    )


def _clip(clip: Clip, number: int, models: Models) -> dict[str, Any]:
    bundle = models.bundle
    shown: list[dict[str, Any]] = []
    for face in clip.faces:
        name = f"clip-{number}-face-{face or 0}"
        answers, mean = clip.of(face), clip.mean(face)
        drawn = {
            "bars": (
                _bars(mean, bundle),
                "The calibrated probability of each emotion, averaged over models and windows.",
            )
        }
        if len(answers) > 1:
            drawn["timeline"] = _timeline(answers, bundle), "The same in each window, at its middle."
        if face in clip.shown:
            sample, answer = clip.shown[face]
            if figure := _attention(sample, answer, models):
                drawn["attention"] = (
                    figure,
                    "What the networks weigh: 1 is each position's, snippet's or segment's weight if all had the same.",
                )
        shown.append(
            {
                "title": f"Face {face}" if face and len(clip.faces) > 1 else "",
                "emotion": bundle.likeliest(mean),
                "chance": f"{100 * mean.max():.0f}",
                "likeliest": written.likeliest(mean, bundle, 3),
                "heard": written.heard(answers),
                "notes": sorted({answer.why(bundle) for answer in answers} - {""}),
                "windows": len(answers),
                "drawings": [
                    (kind, Markup(inline_svg(figure, f"{name}-{kind}")), caption)
                    for kind, (figure, caption) in drawn.items()
                ],
            }
        )
    return {
        "name": str(clip.path),
        "refusal": clip.refusal(bundle),
        "faces": shown,
        "silent": [f"{place.start:.1f} to {place.end:.1f} s: {reasons(place, bundle)}" for place in clip.silent[:USUAL]]
        if clip.answers
        else [],
        "more": max(0, len(clip.silent) - USUAL),
    }


def _bars(chances_C: NDArray[np.float64], bundle: Bundle) -> Figure:
    with style.context(STYLE):
        figure = Figure(figsize=(COLUMN, 0.19 * len(chances_C) + 0.45), layout="constrained")
        axis = figure.subplots()
        bars = axis.barh(bundle.emotions, 100 * chances_C, color=BLUE, height=0.7)
        axis.bar_label(bars, [f"{100 * chance:.0f}" for chance in chances_C], padding=2, fontsize=6.5)
        axis.invert_yaxis()
        axis.set_xlim(0, 106)
        axis.set_xlabel("probability, %")
        return figure


def _timeline(answers: Sequence[Answer], bundle: Bundle) -> Figure:
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6), layout="constrained")
        axis = figure.subplots()
        middles = [(answer.place.start + answer.place.end) / 2 for answer in answers]
        chances_WC = 100 * np.stack([answer.probabilities for answer in answers])
        for place, emotion in enumerate(bundle.emotions):
            axis.plot(
                middles, chances_WC[:, place], label=emotion, color=COLOURS[place % len(COLOURS)], linewidth=1.2,
                marker=MARKERS[place % len(MARKERS)], markersize=3 if len(answers) < 80 else 0, markeredgewidth=0,
            )  # fmt: skip
        axis.set(xlabel="time, s", ylabel="probability, %", ylim=(0, 102), xlim=(0, answers[-1].place.end))
        axis.grid(axis="y")
        figure.legend(loc="outside right center", fontsize=7)
        return figure


def _attention(sample: Sample, answer: Answer, models: Models) -> Figure | None:
    """What the networks weigh of a sample, on average; None where they have no attention over positions or moments."""
    ensemble = answer.ensemble
    inputs = models.inputs(ensemble, [sample])
    video, audio = sample.features.get("video"), sample.features.get("audio")
    moments = next(iter(inputs.values())).shape[1]
    found = [normalised(network.attention_weights(inputs), moments) for network in models.networks(ensemble)]
    weights = {name: np.mean([each[name] for each in found], axis=0) for name in found[0]}
    if not weights:
        return None
    told = models.bundle.likeliest(answer.probabilities)
    clip = Attended(
        name=f"{sample.place.start:.1f} to {sample.place.end:.1f} s: {told}, {100 * answer.probabilities.max():.0f} %",
        weights=weights,
        faces=video[:, video.shape[1] // 2] if video is not None and "video" in ensemble.modalities else None,
        segments=audio.astype(float) if audio is not None and "audio" in ensemble.modalities else None,
    )
    with style.context(STYLE):
        return draw_attention(clip, clip.name, shown=True)
