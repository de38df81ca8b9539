"""The section of params.yaml for a new corpus, in a size for a laptop."""

from __future__ import annotations

import re
from collections.abc import Sequence

import yaml

FEATURES = {
    "video": "    faces: {detector: retinaface, body: mobilenet0.25, snippets: 3, frames: 8, size: 64}\n",
    "audio": "    audio: {bands: 64, window_ms: 25.0, fft: 512}\n",
}
SECTION = """\
  {name}:
    kind: table
    title: {name}
    source: {source}
    table:
      metadata: {metadata}
      emotions: {emotions}
{unknown}{modalities}{features}    shards: {shards}
    protocols:
      {protocol}: {folds}
    validation_actors: {validation}
    seeds: [1]
    variants: [{variants}]
    # Small enough for a laptop; without these lines, the network is that of the paper.
    network:
      {one_modality}video: {{backbone: r3d_10, width: 16, weights: none}}
      audio: {{backbone: resnet10, width: 32, weights: none}}
      dimension: 128
      dropout: 0.3
    {spectrogram}{loss}training:
      epochs: 30
      warmup_epochs: 3
      emotions_per_batch: {classes}
      clips_per_emotion: 3
      learning_rate: 2.0e-3
      weight_decay: 0.05
      average_decay: 0.98
      mixup: 0.3
      threads: 1
"""


def text(
    name: str,
    source: str,
    metadata: str,
    emotions: Sequence[str],
    modalities: Sequence[str],
    actors: int,
    clips: int,
    protocol: tuple[str, Sequence[int]],
    actors_known: bool,
    known_emotions: bool,
) -> str:
    """The section, as text with the indentation of params.yaml.

    `actors` is the smallest number of training actors of a fold; `protocol` is the name and the folds.
    """
    both = len(modalities) == 2
    return SECTION.format(
        name=name,
        source=_written(source),
        metadata=metadata,
        emotions=_written(list(emotions)),
        unknown="" if actors_known else "      actors_known: false\n",
        modalities="" if both else f"    modalities: [{modalities[0]}]\n",
        features="".join(FEATURES[modality] for modality in ("video", "audio") if modality in modalities),
        shards=list(range(max(1, min(8, clips // 120, actors)))),
        spectrogram="spectrogram: {segments: 3, frames: 90}\n    " if "audio" in modalities else "",
        protocol=protocol[0],
        folds=list(protocol[1]),
        validation=max(1, actors // 5),
        variants="proposed, audio_only, video_only" if both else "proposed, cross_entropy",
        one_modality="" if both else f"modalities: [{modalities[0]}]\n      ",
        loss=""
        if known_emotions
        else "loss: {start: flat}  # the emotions' valence and arousal are not all known\n    ",
        classes=min(8, len(emotions)),
    )


def _written(value: str | list[str]) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.removesuffix("...\n").strip()


def inserted(params: str, section: str) -> str | None:
    """params.yaml with another section at the end of `corpora`; None if it is not written as one key per line."""
    lines = params.splitlines(keepends=True)
    start = next((n for n, line in enumerate(lines) if re.match(r"corpora:\s*(#.*)?$", line)), None)
    if start is None:
        return None
    end = next((n for n in range(start + 1, len(lines)) if re.match(r"[^\s#]", lines[n])), len(lines))
    while end > start + 1 and re.match(r"(#|\s*$)", lines[end - 1]):  # comments about what follows
        end -= 1
    first = next((line for line in lines[start + 1 : end] if re.match(r"\s*[^\s#]", line)), "  x")
    indent = re.match(r" *", first)[0]  # type: ignore[index]
    own = "".join(f"{indent[2:]}{line}" if line.strip() else line for line in section.splitlines(keepends=True))
    before = "".join(lines[:end])
    return f"{before.rstrip()}\n\n{own}{'' if end == len(lines) else chr(10)}{''.join(lines[end:]).lstrip(chr(10))}"
