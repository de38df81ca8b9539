"""What a variant is trained with: the sections network, spectrogram, loss and training, and their overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from emofuse import paths
from emofuse.config.section import (
    LONGEST_NAME,
    Count,
    Fraction,
    Modality,
    NotNegative,
    Positive,
    Section,
    leaves,
    validate,
)
from emofuse.utils import packages
from emofuse.utils.console import printable
from emofuse.utils.errors import UserError


class Backbone(Section):
    """Options shared by the 3D-CNN and the 2D-CNN."""

    width: Count = Field(64, description="channels of the first stage; 64 as published")
    weights: str = Field(
        "none", description="none, the name of torchvision weights, or a local file (.pth, .pt, .safetensors)"
    )
    frozen: Annotated[int, Field(ge=0, le=5)] = Field(
        0, description="number of frozen stages, counted from the input (stem, layer1 to layer4)"
    )

    published: ClassVar[dict[str, str]] = {}  # torchvision weights → their backbone

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        backbone: str = self.backbone  # type: ignore[attr-defined]
        if self.weights in self.published:
            if (backbone, self.width) != (self.published[self.weights], 64):
                raise ValueError(f"weights: {self.weights} fits only {self.published[self.weights]} with width 64")
        elif self.weights != "none" and Path(self.weights).suffix not in (".pth", ".pt", ".safetensors"):
            known = ", ".join(["none", *self.published])
            raise ValueError(f"weights: expected {known} or a file (.pth, .pt, .safetensors); found {self.weights!r}")
        if self.frozen and self.weights == "none":
            raise ValueError("frozen: randomly initialized stages cannot be frozen; set weights")
        return self


class VideoBackbone(Backbone):
    """The 3D-CNN (torchvision's `VideoResNet`)."""

    backbone: Literal["r3d_10", "r3d_18", "r3d_50", "r3d_101"] = "r3d_18"

    published: ClassVar[dict[str, str]] = {"r3d_18": "r3d_18"}


class AudioBackbone(Backbone):
    """The 2D-CNN (torchvision's `ResNet`)."""

    backbone: Literal["resnet10", "resnet18"] = "resnet18"
    # With 4 channels torch 2.11 writes past a buffer in the backward pass, and crashes (CPU with AVX2, oneDNN).
    width: Annotated[int, Field(ge=8, multiple_of=8)] = Field(
        64, description="channels of the first stage, a multiple of 8; 64 as published"
    )

    published: ClassVar[dict[str, str]] = {"resnet18": "resnet18"}


AttentionForm = Literal["none", "self_attention", "gate"]


class Attention(Section):
    """The type of each attention: multi-head self-attention, the gate of VAANet, or none."""

    spatial: AttentionForm = Field("self_attention", description="over the positions of a snippet")
    channel: AttentionForm = Field("self_attention", description="over the channels of a snippet")
    temporal: AttentionForm = Field("self_attention", description="over the snippets of a clip")
    audio_temporal: AttentionForm = Field("self_attention", description="over the audio segments of a clip")


class AnyNetwork(Section):
    """What is common to our network and to the user's."""

    modalities: Annotated[list[Modality], Field(min_length=1, max_length=2)] = Field(["video", "audio"])

    @model_validator(mode="after")
    def _modalities_differ(self) -> Self:
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError("modalities: a modality is listed twice")
        return self


class Network(AnyNetwork):
    """The architecture of the network."""

    video: VideoBackbone = VideoBackbone()
    audio: AudioBackbone = AudioBackbone()
    attention: Attention = Attention()
    dimension: Count = Field(512, description="d, the dimension of snippet and segment embeddings")
    heads: Count = Field(8, description="heads of each self-attention")
    residual: bool = Field(True, description="add the output of each self-attention to its input")
    fusion: Literal["cross_attention", "self_attention", "concat", "late_average"] = Field(
        "cross_attention", description="late_average: one classifier per modality, with averaged probabilities"
    )
    pooling: Literal["flatten", "mean"] = Field("flatten", description="how the N fused vectors become one embedding")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="dropout of the embedding before the classifier"
    )

    factory: ClassVar[None] = None
    package: ClassVar[None] = None

    @property
    def averages_modalities(self) -> bool:
        """Whether the modalities meet only in their probabilities, so that their moments need not be the same."""
        return self.fusion == "late_average"

    @model_validator(mode="after")
    def _heads_divide(self) -> Network:
        if self.dimension % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide the dimension, {self.dimension}")
        return self

    @property
    def starts_from(self) -> dict[str, str]:
        """The initial weights of the backbones: name of published weights, or path of a local file → file."""
        names = {getattr(self, modality).weights for modality in self.modalities} - {"none"}
        return {name: paths.weights(name) if name in paths.WEIGHTS else name for name in sorted(names)}


class CustomNetwork(AnyNetwork):
    """A network of the user, built by a function of a package in the folder of params.yaml, or installed.

    See docs/own-model.md, and `models.build` for what the function receives and returns.
    """

    factory: str = Field(description="package.module:function")
    options: dict[str, JsonValue] = Field({}, description="further arguments of the function, by name")

    starts_from: ClassVar[dict[str, str]] = {}  # a factory reads its own weights
    averages_modalities: ClassVar[bool] = False

    @model_validator(mode="after")
    def _has_names(self) -> Self:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", self.factory, re.ASCII):
            raise ValueError(f"factory: expected package.module:function; found {self.factory[:LONGEST_NAME]!r}")
        for name, _ in leaves(self.options):
            if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
                raise ValueError(f"options: {name!r} is not a valid name; use letters, digits, _ and -")
        return self

    @property
    def package(self) -> str:
        """The top-level package of the factory."""
        return packages.package(self.factory)


class Loss(Section):
    """The loss: cross entropy + weight × metric loss."""

    metric: Literal["none", "triplet", "polarity", "fixed", "learnable"] = Field(
        "learnable",
        description="none; triplet: one margin for all emotions; polarity: a smaller margin within the same polarity;"
        " fixed, learnable: the margin is scaled by the distance between the emotions",
    )
    weight: NotNegative = Field(0.2, description="weight of the metric loss")
    margin: Annotated[float, Field(gt=0, lt=1.9)] = Field(
        0.4, description="m, the margin between two emotions at mean distance; embeddings are at most 2 apart"
    )
    miner: Literal["all", "semihard", "hardest"] = Field(
        "all",
        description="which triplets of a batch are used: all: those that violate their margin; semihard: those of them whose"
        " negative is no closer than the positive; hardest: each anchor's farthest positive and closest negative",
    )
    start: Literal["valence_arousal", "flat"] = Field(
        "valence_arousal", description="initial distances: from valence and arousal, or all equal"
    )
    pull: NotNegative = Field(
        0.1, description="penalty that pulls the learnable distances towards their initial values"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Spectrogram(Section):
    """How a network reads the log-mel spectrogram of a clip: N segments of it."""

    trim_db: Positive | None = Field(
        None, description="trim both ends to within this many dB of the loudest column; only for sound alone"
    )
    normalise: Literal["band", "clip", "fixed"] = Field(
        "band",
        description="band: mean 0 and variance 1 in each band of a clip; clip: in the clip as a whole, which keeps the shape of"
        " the spectrum; fixed: the same offset and scale for all clips, which keeps the level, too",
    )
    segments: Count = Field(6, description="N, each centred on one of N equal slices of the clip")
    frames: Count = Field(
        64,
        description="columns per segment, hop_ms apart; segments longer than a slice overlap, shorter ones leave gaps",
    )


class Training(Section):
    """How one fold is trained."""

    selection: Literal["last", "nested"] = Field(
        "last",
        description="last: train on all training actors and keep the weights of the last epoch; nested: hold out validation"
        " actors among this fold's own training actors, and keep the epoch with the highest UAR on them",
    )
    epochs: Count = 30
    warmup_epochs: Annotated[int, Field(ge=0)] = 2
    patience: Count = Field(
        10, description="selection: nested only; epochs without a better validation UAR before training stops"
    )
    sampling: Literal["balanced", "shuffled"] = Field(
        "balanced", description="balanced: batches of P emotions × K clips; shuffled: batches of P × K random clips"
    )
    emotions_per_batch: Annotated[int, Field(ge=2)] = Field(8, description="P")
    clips_per_emotion: Annotated[int, Field(ge=2)] = Field(4, description="K")
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-2
    gradient_clip: Positive = 5.0
    average_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="decay of the moving average of the weights, which is what is validated and kept; 0: no average",
    )
    mixup: NotNegative = Field(0.0, description="alpha of the Beta distribution; 0: off")
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="side of the random crop, as a fraction of the face"
    )
    flip: Fraction = 0.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mask_bands: Fraction = Field(0.0, description="SpecAugment: maximum fraction of masked mel bands")
    mask_time: Fraction = Field(0.0, description="SpecAugment: maximum fraction of masked frames of a segment")
    shift_bands: Annotated[int, Field(ge=0)] = Field(
        0, description="maximum random shift by mel bands, a change of pitch"
    )
    shift_time: Annotated[int, Field(ge=0)] = Field(
        0, description="maximum random shift of the segments in time, by spectrogram columns"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision on a GPU; a CPU always computes in float32"
    )
    compile: bool = Field(False, description="compile the network; GPU only")
    threads: Count = Field(
        2, description="CPU threads per training; results are bit-identical only with the same number"
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> Training:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} must be less than epochs, {self.epochs}")
        return self


class Overrides(Section):
    """A variant: its changes to the proposed network, spectrogram, loss and training."""

    network: dict[str, Any] = Field(
        {}, description="with factory, a network of your own: factory, options, modalities (docs/own-model.md)"
    )
    spectrogram: dict[str, Any] = Field({})
    loss: dict[str, Any] = Field({})
    training: dict[str, Any] = Field({})


class Run(Section):
    """The resolved network, spectrogram, loss and training of one variant of one corpus."""

    network: Network | CustomNetwork
    spectrogram: Spectrogram
    loss: Loss
    training: Training


def overridden(run: Run, changes: Mapping[str, Any], where: str) -> Run:
    """A run with some parameters replaced, validated. `where` is the path of the changes, for messages.

    `changes` maps sections (network, spectrogram, loss, training) to nested mappings of parameters. A network with a `factory` takes
    only the modalities from the network that it replaces.
    """
    sections: dict[str, Any] = {}
    for name in Run.model_fields:
        section: Section = getattr(run, name)
        if changes.get(name):
            here, kind, base = f"{where}.{name}", type(section), section.model_dump()
            if name == "network" and "factory" in changes[name]:
                kind, base = CustomNetwork, {"modalities": base["modalities"], "factory": None, "options": {}}
            section = validate(kind, _merge(base, changes[name], here), here)
        sections[name] = section
    return Run(**sections)


def _merge(base: dict[str, Any], changes: dict[str, Any], where: str) -> dict[str, Any]:
    """`base` updated with `changes`, recursively. Raises `UserError` for a key that `base` lacks."""
    merged = dict(base)
    for key, value in changes.items():
        if key not in base:
            raise UserError(f"{where}.{printable(str(key))}: no such parameter; there are {', '.join(base)}")
        both = isinstance(base[key], dict) and isinstance(value, dict)
        if both and key == "options":  # of a factory, which may have any
            merged[key] = {**base[key], **value}
        else:
            merged[key] = _merge(base[key], value, f"{where}.{key}") if both else value
    return merged
