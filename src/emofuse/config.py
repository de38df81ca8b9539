"""`params.yaml`, the only configuration, as typed, validated, immutable objects.

`load` reads the file; `Params.run` resolves what a variant is trained with; `Params.settings` gives the parameters that a
job depends on. Every mistake is a `UserError` of one line that starts with the path of the key.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from emofuse import datasets, paths
from emofuse.data.protocols import KFOLD, RANDOM, protocol_path, read_protocol
from emofuse.datasets.emotions import VALENCE_AROUSAL
from emofuse.datasets.shards import FOLDERS
from emofuse.paths import RunKey, TransferKey
from emofuse.utils import packages
from emofuse.utils.console import printable
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from emofuse.datasets.base import Actor

Modality = Literal["video", "audio"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
# The halves are of the training actors (`emofuse calibrate`).
CalibratedOn = Literal["validation actors", "inner halves"]

S = TypeVar("S", bound="Section")

LONGEST_NAME = 100  # characters; names become names of files and folders
# The keys of a corpus that determine its clips. Where the clips are fetched from (`source`) does not change them.
CLIPS = ("kind", "modalities", "actors", "shards", "vocal", "labels", "sound", "demo", "table")


class Section(BaseModel):
    """A mapping in params.yaml. Unknown keys and wrong types are errors; values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


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

    modalities: Annotated[list[Modality], Field(min_length=1, max_length=2)] = ["video", "audio"]

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


class Faces(Section):
    """N snippets × T face frames of each clip, cropped to a square."""

    detector: Literal["centre", "retinaface"] = "retinaface"
    body: Literal["resnet50", "mobilenet0.25"] = "resnet50"
    snippets: Count = Field(6, description="N")
    frames: Count = Field(16, description="T, frames of one snippet")
    size: Annotated[int, Field(ge=16)] = Field(112, description="side of a stored face crop, in pixels")
    margin: NotNegative = Field(0.2, description="margin around the face, as a fraction of its longer side")
    detect_size: Annotated[int, Field(ge=64)] = Field(
        96, description="shorter side of the detector's input, a whole frame or a close-up, in pixels"
    )
    score: Fraction = Field(0.7, description="minimum confidence of a face")

    @property
    def weights(self) -> str | None:
        """The file of the detector's weights; None if the detector has none."""
        return paths.weights(f"retinaface_{self.body}") if self.detector == "retinaface" else None


class Audio(Section):
    """The log-mel spectrogram of each clip, as it is stored."""

    sample_rate: Count = Field(16000, description="Hz")
    bands: Count = 256
    window_ms: Positive = 32.0
    hop_ms: Positive = 10.0
    fft: Count = Field(2048, description="points; too few leave mel bands empty")

    @model_validator(mode="after")
    def _fft_is_long_enough(self) -> Audio:
        window = self.window_ms * self.sample_rate / 1000
        if window > self.fft + 0.5:
            raise ValueError(f"fft: {self.fft} points are fewer than the {window:.0f} samples of a window")
        if self.fft > 2**20 or self.bands > self.fft:  # checked before a list of that length is created
            raise ValueError(f"fft: at most {2**20} points, and at least as many as bands")
        top = 2595 * math.log10(1 + self.sample_rate / 2 / 700)  # mel, by the formula of HTK
        edges = [700 * (10 ** (top * i / (self.bands + 1) / 2595) - 1) for i in range(self.bands + 2)]
        points = [edge * self.fft / self.sample_rate for edge in edges]
        if any(math.floor(low) + 1 >= high for low, high in zip(points, points[2:], strict=False)):
            raise ValueError(f"fft: {self.fft} points leave some of {self.bands} mel bands empty")
        return self


class Demo(Section):
    """The synthetic corpus."""

    seed: int = 1
    actors: Annotated[int, Field(ge=4, le=99)] = 24
    takes: Annotated[int, Field(ge=1, le=99)] = Field(4, description="clips per actor and emotion")
    emotions: Annotated[list[str], Field(min_length=2)] | None = Field(
        None, description="in the order of the class numbers; by default all eight"
    )

    @model_validator(mode="after")
    def _emotions_exist(self) -> Self:
        for emotion in self.emotions or ():
            if emotion not in VALENCE_AROUSAL:
                raise ValueError(f"emotions: there is no {emotion!r}; there are {', '.join(VALENCE_AROUSAL)}")
        if self.emotions and len(set(self.emotions)) != len(self.emotions):
            raise ValueError("emotions: an emotion is listed twice")
        return self


class Table(Section):
    """A corpus that is listed in a table, with what the model card says about it."""

    metadata: Annotated[str, Field(pattern=r"^corpora/[a-z][a-z0-9_]*/[a-z][a-z0-9_]*\.csv$")] = Field(
        description="the table of its clips, with the columns file, actor, emotion: corpora/<folder>/metadata.csv"
    )
    emotions: Annotated[list[Annotated[str, Field(pattern=r"^\w[\w -]*$", max_length=40)]], Field(min_length=2)] = (
        Field(description="in the order of the class numbers")
    )
    actors_known: bool = Field(
        True, description="false: the actors are groups of clips; that groups share no speaker cannot be checked"
    )
    people: str = Field("people about whom params.yaml says nothing", description="who is in the clips")
    licence: str = Field("other", description="of the models: an identifier of the Hugging Face Hub")
    terms: str = Field("clips whose terms params.yaml does not state.", description="citation, licence, requirements")

    @property
    def folder(self) -> str:
        """The name of the folders in corpora/ and protocols/."""
        return Path(self.metadata).parent.name

    @model_validator(mode="after")
    def _emotions_differ(self) -> Self:
        if len(set(self.emotions)) != len(self.emotions):
            raise ValueError("emotions: an emotion is listed twice")
        return self


class Corpus(Section):
    """A corpus: its clips, features, and the runs on it."""

    kind: Literal["ravdess", "cremad", "demo", "table"]
    title: str
    source: str | None = Field(
        None,
        description="where the clips are: a folder, a zip file or a URL; default: where they are published;"
        " EMOFUSE_<NAME>_SOURCE overrides it",
    )
    modalities: Annotated[list[Modality], Field(min_length=1, max_length=2)] = Field(
        ["video", "audio"], description="modalities of the clips; those that no variant uses are not extracted"
    )
    actors: Literal["all"] | Annotated[list[int | str], Field(min_length=2)] = "all"
    vocal: Annotated[list[Literal["speech", "song"]], Field(min_length=1)] = Field(
        ["speech"], description="RAVDESS only"
    )
    labels: Literal["intended", "perceived"] = Field("intended", description="CREMA-D only")
    sound: Literal["clip", "wav"] = Field(
        "clip", description="CREMA-D only: the audio track of the clip, or AudioWAV/; audio-only corpora use the latter"
    )
    demo: Demo | None = None
    table: Table | None = None
    development: bool = Field(
        False,
        description="whether recipes were or may be selected on its speakers (`emofuse search`); its results are then marked"
        " as optimistic",
    )
    show_faces: bool = Field(
        False,
        description="whether figures may show faces and spectrograms of clips; they are published with the results",
    )
    shards: Annotated[list[int], Field(min_length=1)] = [0, 1, 2, 3, 4, 5, 6, 7]
    faces: Faces | None = None
    audio: Audio | None = None
    max_unusable: Fraction = Field(0.05, description="maximum fraction of unusable clips")
    protocols: Annotated[dict[str, Annotated[list[int], Field(min_length=1)]], Field(min_length=1)] = Field(
        description="protocol: the folds to run; random_<protocol> has folds of the same sizes that share actors"
    )
    audit: Annotated[list[Name], Field(min_length=1)] = Field(
        ["proposed"],
        description="the variants to run under random_<protocol>, to show how much speaker overlap inflates accuracy",
    )
    validation_actors: Count = Field(
        4,
        description="number of validation actors, drawn from the training actors of each fold; with training.selection: last,"
        " they are trained on like the others",
    )
    split_seed: int = Field(1, description="seed of generated folds and of the choice of validation actors")
    seeds: Annotated[list[int], Field(min_length=1)] = [1]
    variants: Annotated[list[Name], Field(min_length=1)]
    calibrated: list[Name] = Field(
        ["proposed", "plain_audio", "plain_video", "plain_late_average"],
        description="with training.selection: last, the variants whose probabilities are calibrated: with the first seed, under"
        " protocols by actor, by two further trainings per fold (`emofuse calibrate`)",
    )
    across: dict[Name, Annotated[dict[str, Annotated[list[Name], Field(min_length=1)]], Field(min_length=1)]] = Field(
        {},
        description="other corpus: protocol of it: variants whose trained folds, of all seeds, are applied to this corpus"
        " (docs/across.md)",
    )
    network: dict[str, Any] = Field({}, description="overrides of the network for this corpus")
    spectrogram: dict[str, Any] = Field({}, description="overrides of the spectrogram for this corpus")
    loss: dict[str, Any] = Field({}, description="overrides of the loss for this corpus")
    training: dict[str, Any] = Field({}, description="overrides of the training for this corpus")

    @model_validator(mode="after")
    def _consistent(self) -> Corpus:
        if self.shards != list(range(len(self.shards))):
            raise ValueError(f"shards: expected consecutive numbers from 0; found {self.shards}")
        for modality, features in (("video", self.faces), ("audio", self.audio)):
            if (modality in self.modalities) != (features is not None):
                key = "faces" if modality == "video" else "audio"
                raise ValueError(f"{key}: required if and only if modalities contains {modality}")
        for kind in ("demo", "table"):
            if (self.kind == kind) != (getattr(self, kind) is not None):
                raise ValueError(f"{kind}: required if and only if kind is {kind}")
        if self.actors != "all" and self.table is None:
            for actor in self.actors:
                if isinstance(actor, str):
                    raise ValueError(f"actors: {printable(repr(actor))} is not a number")
        for key in ("seeds", "variants", "audit", "calibrated", "actors"):
            values = getattr(self, key)
            if values != "all" and len(set(values)) != len(values):
                raise ValueError(f"{key}: a value is listed twice")
        if "calibrated" in self.model_fields_set:  # its default has variants that not every corpus runs
            for variant in self.calibrated:
                if variant not in self.variants:
                    raise ValueError(f"calibrated: {variant} is not among the variants of this corpus; remove it")
        for protocol in self.protocols:
            if not re.fullmatch("[a-z][a-z0-9_]*", protocol) or len(protocol) > LONGEST_NAME:
                raise ValueError(
                    f"protocols: {protocol[:LONGEST_NAME]!r} is not a valid name; use up to {LONGEST_NAME} lower-case letters,"
                    " digits and _"
                )
            followed = protocol.removeprefix(RANDOM)
            if followed not in self.protocols:
                raise ValueError(f"protocols: {protocol} requires {followed}, which it is compared with; list both")
        return self

    @property
    def protocol_folder(self) -> str:
        """The folder of its protocol files in protocols/."""
        return self.table.folder if self.table else self.kind

    @property
    def clips(self) -> dict[str, Any]:
        """The parameters that determine its clips."""
        clips = self.model_dump(mode="json", include=set(CLIPS))
        if self.demo:
            clips["demo"] = self.demo.model_dump(mode="json", exclude_none=True)
        return clips | ({"table": {"metadata": self.table.metadata}} if self.table else {})

    @property
    def actors_known(self) -> bool:
        """Whether its actors are people, not just groups of clips."""
        return self.table is None or self.table.actors_known

    @property
    def tables(self) -> list[str]:
        """The files with its labels."""
        return [self.table.metadata] if self.table else []

    def shared_emotions(self, other: Corpus) -> tuple[str, ...]:
        """The emotions that another corpus has, too, in the order of this one."""
        return tuple(emotion for emotion in self.emotions if emotion in other.emotions)

    def shares_features(self, other: Corpus, modality: Modality) -> bool:
        """Whether the features of both corpora are made in the same way."""
        stage = FOLDERS[modality]
        return bool(getattr(self, stage) == getattr(other, stage))

    @property
    def classes(self) -> dict[str, Any]:
        """The emotions in the order of the class numbers, if params.yaml sets them."""
        chosen = self.table.emotions if self.table else self.demo.emotions if self.demo else None
        return {"emotions": list(chosen)} if chosen else {}

    @property
    def emotions(self) -> tuple[str, ...]:
        """The emotions in the order of the class numbers."""
        return tuple(self.classes.get("emotions") or datasets.get(self.kind).emotions)

    def variants_under(self, protocol: str) -> list[str]:
        """The variants to run under a protocol."""
        if protocol.startswith(RANDOM):
            return [variant for variant in self.variants if variant in self.audit]
        return self.variants

    def seeds_under(self, protocol: str) -> list[int]:
        """The seeds under a protocol: all, or the first one for random folds, whose only purpose is a comparison."""
        return self.seeds[:1] if protocol.startswith(RANDOM) else self.seeds

    def runs(self) -> Iterator[tuple[str, str, int, list[int]]]:
        """Protocol, variant, seed and folds of every run of the corpus."""
        for protocol, folds in self.protocols.items():
            for variant in self.variants_under(protocol):
                for seed in self.seeds_under(protocol):
                    yield protocol, variant, seed, folds


class Overrides(Section):
    """A variant: its changes to the proposed network, spectrogram, loss and training."""

    network: dict[str, Any] = Field(
        {}, description="with factory, a network of your own: factory, options, modalities (docs/own-model.md)"
    )
    spectrogram: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    training: dict[str, Any] = {}


class Run(Section):
    """The resolved network, spectrogram, loss and training of one variant of one corpus."""

    network: Network | CustomNetwork
    spectrogram: Spectrogram
    loss: Loss
    training: Training


class Params(Section):
    """The content of params.yaml."""

    corpora: Annotated[dict[Name, Corpus], Field(min_length=1)]
    paper: list[Name] = Field(description="the corpora of the paper, in the order of its tables")
    variants: dict[Name, Overrides]
    network: Network = Network()
    spectrogram: Spectrogram = Spectrogram()
    loss: Loss = Loss()
    training: Training = Training()

    @property
    def proposed(self) -> Run:
        """The proposed network and how it is trained, before the overrides of a corpus."""
        return Run(network=self.network, spectrogram=self.spectrogram, loss=self.loss, training=self.training)

    def corpus(self, name: str) -> Corpus:
        """A corpus by name. Raises `UserError` if params.yaml has none of that name."""
        _check_known("corpora", "corpus", name, self.corpora)
        return self.corpora[name]

    def keys(self, corpus: str) -> list[RunKey]:
        """Every fold of every run of a corpus."""
        return [
            RunKey(corpus, protocol, variant, seed, fold)
            for protocol, variant, seed, folds in self.corpus(corpus).runs()
            for fold in folds
        ]

    def calibrated_on(self, key: RunKey) -> CalibratedOn | None:
        """What the temperature of a fold is fitted on; None if it has none, and its probabilities stay uncalibrated."""
        section = self.corpus(key.corpus)
        if self.run(key.corpus, key.variant).training.selection == "nested":
            return "validation actors"
        chosen = key.variant in section.calibrated and key.seed == section.seeds[0]
        return "inner halves" if chosen and not key.protocol.startswith(RANDOM) else None

    def transfers(self, corpus: str) -> list[TransferKey]:
        """Every fold of other corpora's runs that is applied to a corpus."""
        return [
            TransferKey(RunKey(source, protocol, variant, seed, fold), corpus)
            for source, protocols in self.corpus(corpus).across.items()
            for protocol, variants in protocols.items()
            for variant in variants
            for seed in self.corpus(source).seeds
            for fold in self.corpus(source).protocols[protocol]
        ]

    def kind(self, key: Mapping[str, Any]) -> str | None:
        """The kind of corpus that a job belongs to; None for jobs that belong to no corpus. `key` is the job's."""
        return self.corpus(key["corpus"]).kind if "corpus" in key else None

    def package(self, key: Mapping[str, Any]) -> str | None:
        """The package that a job runs besides ours: that of its variant's factory. `key` is the job's."""
        trained_on = key.get("source", key.get("corpus"))
        return self.run(trained_on, key["variant"]).network.package if "variant" in key else None

    def packages(self, corpus: str) -> list[str]:
        """The packages of the factories of a corpus's variants, and of the runs that are applied to it, sorted."""
        runs = {(corpus, variant) for variant in self.corpus(corpus).variants}
        runs |= {(key.run.corpus, key.run.variant) for key in self.transfers(corpus)}
        return sorted({name for run in runs if (name := self.run(*run).network.package)})

    def run(self, corpus: str, variant: str) -> Run:
        """What a variant is trained with: the proposed sections, overridden by the corpus, then by the variant.

        Raises `UserError` for a corpus or variant that params.yaml does not run.
        """
        _check_known(f"corpora.{corpus}.variants", "variant", variant, self.corpus(corpus).variants)
        return self._resolved[corpus, variant]

    def settings(self, stage: str, corpus: str = "", variant: str = "", **key: Any) -> dict[str, dict[str, Any]]:
        """The resolved parameters of a job, by section. Its outputs depend on no other parameters.

        `stage` and the other arguments are those of its command. Raises `UserError` for a job that params.yaml does not
        include.
        """
        if stage == "weights":
            return {}
        if stage == "paper":
            return {name: self.settings("report", name) for name in self.paper}
        section = self.corpus(corpus)
        match stage:
            case "download" | "index":
                return {"clips": section.clips}
            case "faces" | "audio":
                features: Section | None = getattr(section, stage)
                if features is None:
                    raise UserError(f"corpora.{corpus}: this corpus has no {stage}")
                return {stage: features.model_dump(mode="json")}
            case "splits":
                _check_known(f"corpora.{corpus}.protocols", "protocol", key["protocol"], section.protocols)
                keys = {"split_seed", "validation_actors", "max_unusable", "modalities"}
                return {"splits": section.model_dump(mode="json", include=keys)}
            case "train" | "calibrate" | "evaluate":
                run = self.planned(corpus, variant=variant, **key).model_dump(mode="json")
                run["classes"] = section.classes
                calibrated_on = self.calibrated_on(RunKey(corpus=corpus, variant=variant, **key))
                if stage == "calibrate" and calibrated_on != "inner halves":
                    raise UserError(
                        f"corpora.{corpus}.calibrated: {variant} with seed {key['seed']} under {key['protocol']} is not calibrated"
                        " by two further trainings; that is for training.selection: last, the variants listed there, the first"
                        " seed, and protocols by actor"
                    )
                if stage != "evaluate":
                    return run
                return {
                    "network": run["network"],
                    "spectrogram": run["spectrogram"],
                    "training": {"threads": run["training"]["threads"]},
                    "calibration": {"from": calibrated_on},
                    "classes": run["classes"],
                }
            case "transfer":
                applied = self.applied(corpus, variant=variant, **key)
                source = self.corpus(key["source"])
                stages = {modality: FOLDERS[modality] for modality in applied.network.modalities}
                return {
                    **applied.model_dump(mode="json", include={"network", "spectrogram"}),
                    "training": {"threads": applied.training.threads},
                    "features": {stage: getattr(source, stage).model_dump(mode="json") for stage in stages.values()},
                    "classes": {"emotions": list(source.emotions), "shared": list(source.shared_emotions(section))},
                    "clips": {"max_unusable": section.max_unusable},
                }
            case "report":
                return {
                    "corpus": section.model_dump(mode="json", exclude={"source"}),
                    "proposed": self.proposed.model_dump(mode="json"),
                    "variants": {name: self.variants[name].model_dump(mode="json") for name in section.variants},
                    "across": {
                        source: self.corpora[source].model_dump(
                            mode="json", include={"seeds", "protocols", "development"}
                        )
                        for source in section.across
                    },
                }
        raise KeyError(stage)

    def planned(self, corpus: str, protocol: str, variant: str, seed: int, fold: int) -> Run:
        """What a fold is trained with. Raises `UserError` for a fold that params.yaml does not include."""
        section, where = self.corpus(corpus), f"corpora.{corpus}"
        _check_known(f"{where}.protocols", "protocol", protocol, section.protocols)
        key = "audit" if protocol.startswith(RANDOM) else "variants"
        _check_known(f"{where}.{key}", "variant", variant, section.variants_under(protocol))
        _check_known(f"{where}.seeds", "seed", seed, section.seeds_under(protocol))
        _check_known(f"{where}.protocols.{protocol}", "fold", fold, section.protocols[protocol])
        return self.run(corpus, variant)

    def applied(self, corpus: str, source: str, protocol: str, variant: str, seed: int, fold: int) -> Run:
        """What a fold of `source`, which is applied to another corpus, is trained with.

        Raises `UserError` for one that params.yaml does not include.
        """
        where, across = f"corpora.{corpus}.across", self.corpus(corpus).across
        _check_known(where, "corpus", source, across)
        _check_known(f"{where}.{source}", "protocol", protocol, across[source])
        _check_known(f"{where}.{source}.{protocol}", "variant", variant, across[source][protocol])
        return self.planned(source, protocol, variant, seed, fold)

    @cached_property
    def _resolved(self) -> dict[tuple[str, str], Run]:
        return {
            (name, variant): _resolve(self, name, variant)
            for name, corpus in self.corpora.items()
            for variant in corpus.variants
        }


def _check_known(where: str, what: str, value: object, known: Iterable[object]) -> None:
    if value not in known:
        raise UserError(f"{where}: there is no {what} {value!r}; there are {', '.join(map(str, known))}")


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
            section = _validate(kind, _merge(base, changes[name], here), here)
        sections[name] = section
    return Run(**sections)


def _resolve(params: Params, corpus_name: str, variant: str) -> Run:
    corpus = params.corpora[corpus_name]
    run = params.proposed
    for where, layer in ((f"corpora.{corpus_name}", corpus), (f"variants.{variant}", params.variants[variant])):
        run = overridden(run, {section: getattr(layer, section) for section in Run.model_fields}, where)
    check_fits(run, corpus_name, corpus, f"corpora.{corpus_name}.variants: {variant}")
    return run


def check_fits(run: Run, name: str, corpus: Corpus, where: str) -> None:
    """Raise `UserError` if a run cannot be trained on a corpus of that name. `where` starts the message.

    Unless the modalities are averaged late, segment i and snippet i must cover the same moment of a clip.
    """
    if missing := sorted(set(run.network.modalities) - set(corpus.modalities)):
        raise UserError(f"{where} needs {', '.join(missing)}, which {name} lacks")
    if len(run.network.modalities) == 1 or run.network.averages_modalities or corpus.faces is None:
        return
    reason = "segment i and snippet i must cover the same moment"
    if run.spectrogram.segments != corpus.faces.snippets:
        raise UserError(
            f"{where}: spectrogram.segments: {run.spectrogram.segments} differs from faces.snippets"
            f" {corpus.faces.snippets}; {reason}"
        )
    if run.spectrogram.trim_db is not None:
        raise UserError(f"{where}: spectrogram.trim_db: only for sound alone; {reason}")


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


def _validate(model: type[S], value: Any, where: str = "") -> S:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(_first_line(error, value, where)) from None


def _first_line(error: ValidationError, value: Any, where: str) -> str:
    """The first mistake in `value` as `key.path: problem`, with the number of the others."""
    mistakes: dict[
        tuple[Any, ...], list[tuple[tuple[Any, ...], ErrorDetails]]
    ] = {}  # path of a union, or of one mistake
    for number, found in enumerate(error.errors()):
        path, union = _path(found, value)
        mistakes.setdefault(union if union is not None else (*path, number), []).append((path, found))
    union, alternatives = next(iter(mistakes.items()))
    path, first = _nearest(union, alternatives)
    message = re.sub(r"^Value error, | after validation| or instance of \w+", "", first["msg"])
    keys = [where] * bool(where) + [printable(str(part)) for part in path]
    if first["type"] == "value_error" and re.match(r"[a-z_.]+: ", message):  # our own validators name the key first
        key, message = message.split(": ", 1)
        keys.append(key)
    if first["type"] == "extra_forbidden":
        message = "no such parameter"
    elif first["type"] not in ("value_error", "missing"):
        message += f" (found {repr(first['input'])[:200]})"
    others = len(mistakes) - 1
    return f"{'.'.join(keys) or 'params.yaml'}: {message}" + (f" (and {others} more)" if others else "")


def _path(found: ErrorDetails, value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...] | None]:
    """The path of a mistake in `value`, and that of the union in which it is, None if it is in none.

    Pydantic's own path also has the alternative of a union that was tried, such as `list[int]`, and "[key]".
    """
    path: list[Any] = []
    union = None
    for part in found["loc"]:
        try:
            value = value[part]
        except (LookupError, TypeError):
            if found["type"] != "missing" and part != "[key]":
                union = tuple(path) if union is None else union
            elif part != "[key]":
                path.append(part)
        else:
            path.append(part)
    return tuple(path), union


def _nearest(
    union: tuple[Any, ...], alternatives: list[tuple[tuple[Any, ...], ErrorDetails]]
) -> tuple[tuple[Any, ...], ErrorDetails]:
    """The mistake in the alternative that the user must have meant: the one of the right type, if there is one."""
    for path, found in alternatives:
        if path != union or not (found["type"].endswith("_type") or found["type"] == "literal_error"):
            return path, found
    path, first = alternatives[0]
    start = "Input should be "
    kinds = " or ".join(dict.fromkeys(found["msg"].removeprefix(start) for _, found in alternatives))
    return path, {**first, "msg": start + kinds}


def load(path: Path | str = "params.yaml") -> Params:
    """Read and validate params.yaml.

    Raises `UserError`, one line that starts with the path of the key, for a missing file, invalid YAML, unknown keys, wrong
    types, and values that are impossible or contradict each other.
    """
    path = Path(path)
    tree = read_yaml(path, missing="run emofuse in the folder that holds params.yaml")
    _check_size(tree, path)
    params = _validate(Params, tree)
    _check_names(params)
    for variant, changes in params.variants.items():
        overridden(params.proposed, changes.model_dump(), f"variants.{variant}")
    for name, corpus in params.corpora.items():
        listed = _listed_actors(f"corpora.{name}", corpus, path.parent)
        for protocol, folds in corpus.protocols.items():
            _check_folds(f"corpora.{name}", corpus, protocol, folds, listed, path.parent)
        _check_emotions(params, name)
    _check_packages(params, path.parent)
    params = params.model_copy(update={"corpora": {name: _without_unused(params, name) for name in params.corpora}})
    for name in params.corpora:
        _check_across(params, name)
    return params


def _check_size(tree: Any, path: Path) -> None:
    """Raise `UserError` for huge integers, and for aliases of aliases that would expand to more than fits in memory."""
    waiting = [tree]
    for _ in range(100_000):
        if not waiting:
            return
        value = waiting.pop()
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{path}: a number has more than 63 bits")
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
    raise UserError(f"{path}: too large; aliases (&, *) may expand to more than they seem")


def _check_names(params: Params) -> None:
    """Raise `UserError` for a name that cannot be used, or that is referred to but not defined."""
    if "published" in params.corpora:
        raise UserError("corpora.published: results/published holds committed results; choose another name")
    for name in (*params.corpora, *params.variants):
        if len(name) > LONGEST_NAME:
            raise UserError(f"{name[:LONGEST_NAME]}…: names have at most {LONGEST_NAME} characters; shorten it")
    for name in params.paper:
        if name not in params.corpora:
            raise UserError(f"paper: there is no corpus {name!r} under corpora")
    for name, corpus in params.corpora.items():
        for key in ("variants", "audit"):
            for variant in getattr(corpus, key):
                if variant not in params.variants:
                    raise UserError(f"corpora.{name}.{key}: there is no variant {variant!r} under variants")


def _check_packages(params: Params, root: Path) -> None:
    """Raise `UserError` for a variant whose factory is in a package that is missing."""
    for name, corpus in params.corpora.items():
        for variant in corpus.variants:
            network = params.run(name, variant).network
            if network.package:
                try:
                    packages.find(network.package, root)
                except UserError as error:
                    raise UserError(
                        f"corpora.{name}.variants: {variant}: network.factory {network.factory}: {error}"
                    ) from None


def _listed_actors(corpus_path: str, corpus: Corpus, root: Path) -> Sequence[Actor] | None:
    """The actors in a corpus's table, if it has one. Raises `UserError` if params.yaml names others."""
    if corpus.table is None:
        return None
    listed = datasets.of(corpus, root).actors
    if corpus.actors != "all" and (unknown := [actor for actor in corpus.actors if actor not in listed]):
        raise UserError(f"{corpus_path}.actors: there is no actor {unknown[0]} in {corpus.table.metadata}; remove it")
    return listed


def _check_emotions(params: Params, name: str) -> None:
    """Raise `UserError` for a loss that needs to know more about an emotion than its name."""
    emotions = params.corpora[name].classes.get("emotions", ())
    if unknown := next((emotion for emotion in emotions if emotion not in VALENCE_AROUSAL), None):
        for variant in params.corpora[name].variants:
            loss = params.run(name, variant).loss
            placed = loss.metric == "fixed" or (loss.metric == "learnable" and loss.start == "valence_arousal")
            if placed or loss.metric == "polarity":
                remedy = f"set corpora.{name}.loss.start: flat" if loss.metric == "learnable" else "remove the variant"
                raise UserError(
                    f"corpora.{name}.table.emotions: {unknown} has no known valence and arousal, which {variant} needs;"
                    f" {remedy} (known are {', '.join(VALENCE_AROUSAL)})"
                )


def _check_across(params: Params, name: str) -> None:
    """Raise `UserError` for models of other corpora that do not exist, or that cannot be applied to this one."""
    corpus, where = params.corpora[name], f"corpora.{name}.across"
    for source_name, protocols in corpus.across.items():
        here = f"{where}.{source_name}"
        if source_name == name:
            raise UserError(f"{here}: this is the corpus itself, which its protocols test; name another one")
        _check_known(where, "corpus", source_name, params.corpora)
        source = params.corpora[source_name]
        for protocol, variants in protocols.items():
            if protocol.startswith(RANDOM):
                raise UserError(
                    f"{here}: under {printable(protocol)}, training and validation share actors; name a protocol by actor"
                )
            _check_known(here, "protocol", protocol, source.protocols)
            for variant in variants:
                _check_known(f"{here}.{protocol}", "variant", variant, source.variants)
                needed = params.run(source_name, variant).network.modalities
                if missing := [modality for modality in needed if modality not in corpus.modalities]:
                    raise UserError(
                        f"{here}.{protocol}: {variant} needs {', '.join(missing)}, which {name} lacks, or which none of its"
                        " variants uses"
                    )
            if len(set(variants)) != len(variants):
                raise UserError(f"{here}.{protocol}: a variant is listed twice")
        if len(shared := source.shared_emotions(corpus)) < 2:
            raise UserError(
                f"{here}: at least two emotions must be the same; of {', '.join(source.emotions)} ({source_name}), {name} has"
                f" {', '.join(shared) or 'none'}"
            )


def _check_folds(
    corpus_path: str, corpus: Corpus, protocol: str, folds: list[int], listed: Sequence[Actor] | None, root: Path
) -> None:
    """Raise `UserError` for folds that the protocol does not have, or that would be empty."""
    where = f"{corpus_path}.protocols.{protocol}"
    if len(set(folds)) != len(folds):
        raise UserError(f"{where}: a fold is listed twice")
    if generated := KFOLD.fullmatch(protocol.removeprefix(RANDOM)):
        number = int(generated[1])
        if number < 2:
            raise UserError(f"{where}: {number} fold(s) leave no training data")
        actors = listed if corpus.actors == "all" else corpus.actors
        if actors is not None and number > len(actors):
            raise UserError(f"{where}: {number} folds of {len(actors)} actors leave some empty")
        available = list(range(number))
    elif path := protocol_path(corpus.protocol_folder, protocol):
        if not (root / path).is_file():
            known = sorted(file.stem for file in (root / path).parent.glob("*.csv"))
            raise UserError(
                f"{where}: no such protocol; there are kfold_<k>, {', '.join(known)}, each also with the prefix random_"
            )
        published = read_protocol(root / path)
        available = sorted(published)
        if corpus.table and listed and (unknown := _tested(published) - set(listed)):
            raise UserError(
                f"{path}: actor {min(map(str, unknown))} is not in {corpus.table.metadata}; correct one of them"
            )
        if corpus.actors != "all":
            for fold in folds:
                if fold in published and not set(corpus.actors) & set(published[fold]["test"]):
                    raise UserError(
                        f"{where}: none of {corpus_path}.actors is in the test part of fold {fold}; remove the fold"
                    )
    for fold in folds:
        if fold not in available:
            raise UserError(
                f"{where}: there is no fold {fold}; {protocol} has {len(available)}, {available[0]} to {available[-1]}"
            )


def _tested(protocol: Mapping[int, Mapping[str, Sequence[Actor]]]) -> set[Actor]:
    """Every actor that a protocol names."""
    return {actor for parts in protocol.values() for actors in parts.values() for actor in actors}


def _without_unused(params: Params, name: str) -> Corpus:
    """A corpus without the modality that none of its variants uses, so that nothing is fetched or computed for it."""
    corpus = params.corpora[name]
    used = {modality for variant in corpus.variants for modality in params.run(name, variant).network.modalities}
    unused = {FOLDERS[modality]: None for modality in corpus.modalities if modality not in used}
    modalities = [modality for modality in corpus.modalities if modality in used]
    return corpus.model_copy(update={"modalities": modalities, **unused})


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings with their paths, such as `network.audio.width`, 32."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def schema() -> str:
    """The JSON schema of params.yaml, as text."""
    value = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
    return json.dumps(value, indent=2) + "\n"
