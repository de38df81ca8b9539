"""`params.yaml` as typed, validated, immutable objects: the only configuration there is.

`load` reads the file, `Params.run` resolves what one variant of one corpus trains with. Every
mistake is one `UserError` line that starts with the key's path.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emofuse import paths
from emofuse.data.protocols import KFOLD, RANDOM, protocol_path, read_protocol
from emofuse.datasets.shards import FOLDERS
from emofuse.paths import RunKey
from emofuse.utils.console import printable
from emofuse.utils.errors import UserError

Modality = Literal["video", "audio"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

S = TypeVar("S", bound="Section")

LONGEST_NAME = 100  # characters: names become those of files and folders
# The keys of a corpus that decide which clips it has; where they come from (`source`) does not change what they are.
CLIPS = ("kind", "modalities", "actors", "shards", "vocal", "labels", "sound", "demo")


class Section(BaseModel):
    """A mapping of params.yaml: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Backbone(Section):
    """What the 3D-CNN and the 2D-CNN have in common."""

    width: Count = Field(64, description="channels of the first stage; 64 is the published one")
    weights: str = Field(
        "none", description="none, torchvision's by name, or a local file (.pth, .pt, .safetensors) of the same network"
    )
    frozen: Annotated[int, Field(ge=0, le=5)] = Field(
        0, description="of the five stages (stem, layer1 to layer4), how many keep their weights, from the input on"
    )

    published: ClassVar[dict[str, str]] = {}  # torchvision's weights → the backbone that they are of

    @model_validator(mode="after")
    def _weights_fit(self) -> Self:
        backbone: str = self.backbone  # type: ignore[attr-defined]
        if self.weights in self.published:
            if (backbone, self.width) != (self.published[self.weights], 64):
                raise ValueError(f"weights: {self.weights} is of {self.published[self.weights]} at width 64")
        elif self.weights != "none" and Path(self.weights).suffix not in (".pth", ".pt", ".safetensors"):
            known = ", ".join(["none", *self.published])
            raise ValueError(f"weights: want {known} or a file .pth, .pt or .safetensors; found {self.weights!r}")
        if self.frozen and self.weights == "none":
            raise ValueError("frozen: stages that start at random are of no use frozen; give weights")
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
        64, description="channels of the first stage, a multiple of 8; 64 is the published one"
    )

    published: ClassVar[dict[str, str]] = {"resnet18": "resnet18"}


AttentionForm = Literal["none", "self_attention", "gate"]


class Attention(Section):
    """The form of each attention: multi-head self-attention, VAANet's gate, or none."""

    spatial: AttentionForm = Field("self_attention", description="over the positions of a snippet")
    channel: AttentionForm = Field("self_attention", description="over the channels of a snippet")
    temporal: AttentionForm = Field("self_attention", description="over the snippets of a clip")
    audio_temporal: AttentionForm = Field("self_attention", description="over the segments of a clip's sound")


class Network(Section):
    """Sizes and parts of the network."""

    modalities: Annotated[list[Modality], Field(min_length=1, max_length=2)] = ["video", "audio"]
    video: VideoBackbone = VideoBackbone()
    audio: AudioBackbone = AudioBackbone()
    attention: Attention = Attention()
    dimension: Count = Field(512, description="d, the length of a snippet's and of a segment's vector")
    heads: Count = Field(8, description="heads of every self-attention")
    residual: bool = Field(True, description="each self-attention adds to its input instead of replacing it")
    fusion: Literal["cross_attention", "self_attention", "concat", "late_average"] = Field(
        "cross_attention", description="late_average has a classifier a modality and averages their probabilities"
    )
    pooling: Literal["flatten", "mean"] = Field("flatten", description="of the N fused vectors to the embedding")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="of the embedding before the classifier")

    @model_validator(mode="after")
    def _heads_divide(self) -> Network:
        if self.dimension % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide dimension {self.dimension}")
        if len(set(self.modalities)) != len(self.modalities):
            raise ValueError("modalities: a modality is named twice")
        return self

    @property
    def starts_from(self) -> dict[str, str]:
        """The weights that the backbones start from: published ones by name, local files by path → file."""
        names = {getattr(self, modality).weights for modality in self.modalities} - {"none"}
        return {name: paths.weights(name) if name in paths.WEIGHTS else name for name in sorted(names)}


class Loss(Section):
    """Cross entropy + weight × metric loss."""

    metric: Literal["none", "triplet", "polarity", "fixed", "learnable"] = Field(
        "learnable",
        description="none; the plain triplet loss; emotions of one polarity kept nearer; a margin times a fixed, or a"
        " learnable, distance between emotions",
    )
    weight: NotNegative = Field(0.2, description="of the metric loss beside the cross entropy")
    margin: Annotated[float, Field(gt=0, lt=1.9)] = Field(
        0.4, description="m, the margin between two emotions at the mean distance; the diameter is 2"
    )
    miner: Literal["all", "semihard", "hardest"] = Field(
        "all",
        description="which triplets of a batch count: all that violate their margin, those of them whose negative"
        " is not nearer than the positive, or each anchor's farthest positive and nearest negative",
    )
    start: Literal["valence_arousal", "flat"] = Field(
        "valence_arousal", description="where the learnable distances start: from valence and arousal, or all equal"
    )
    pull: NotNegative = Field(0.1, description="of the learnable distances towards where they started")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Training(Section):
    """How one fold is trained."""

    epochs: Count = 30
    warmup_epochs: Annotated[int, Field(ge=0)] = 2
    patience: Count = Field(10, description="epochs without a better validation UAR before it stops")
    sampling: Literal["balanced", "shuffled"] = Field(
        "balanced", description="batches of P emotions × K clips each, or of P × K clips as they come"
    )
    emotions_per_batch: Annotated[int, Field(ge=2)] = Field(8, description="P")
    clips_per_emotion: Annotated[int, Field(ge=2)] = Field(4, description="K")
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-2
    gradient_clip: Positive = 5.0
    average_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="of the moving average of the weights that is validated and kept; 0 keeps the last weights"
    )
    mixup: NotNegative = Field(0.0, description="alpha of the Beta distribution; 0 is off")
    crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="side of the random crop of a face, of the whole"
    )
    flip: Fraction = 0.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mask_bands: Fraction = Field(0.0, description="SpecAugment: widest mask over the mel bands")
    mask_time: Fraction = Field(0.0, description="SpecAugment: widest mask over a segment's time")
    shift_bands: Annotated[int, Field(ge=0)] = Field(
        0, description="largest random shift of the mel bands, a change of pitch"
    )
    stretch_time: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="largest random change of the time scale within a segment, a change of tempo"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the network's arithmetic on a GPU; a CPU always has float32"
    )
    compile: bool = Field(False, description="compile the network, on a GPU alone")
    threads: Count = Field(
        2, description="CPU threads of one training; results are equal bit for bit only at equal threads"
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> Training:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} leaves none of {self.epochs} epochs")
        return self


class Faces(Section):
    """N snippets × T face frames of each clip, cropped to a square."""

    detector: Literal["centre", "retinaface"] = "retinaface"
    body: Literal["resnet50", "mobilenet0.25"] = "resnet50"
    snippets: Count = Field(6, description="N")
    frames: Count = Field(16, description="T, frames of one snippet")
    size: Annotated[int, Field(ge=16)] = Field(112, description="side of a stored face, in pixels")
    margin: NotNegative = Field(0.2, description="added to the face's longer side, in all")
    detect_size: Annotated[int, Field(ge=64)] = Field(
        96, description="shorter side of what the detector sees, a whole frame or a close look, in pixels"
    )
    score: Fraction = Field(0.7, description="below it a detection is no face")

    @property
    def weights(self) -> str | None:
        """The file of the detector's weights; None for a detector without."""
        return paths.weights(f"retinaface_{self.body}") if self.detector == "retinaface" else None


class Audio(Section):
    """N log-mel segments of each clip, on the same clock as the snippets."""

    sample_rate: Count = Field(16000, description="Hz")
    bands: Count = 256
    window_ms: Positive = 32.0
    hop_ms: Positive = 10.0
    fft: Count = Field(2048, description="points; too few leave mel bands empty")
    segments: Count = Field(6, description="N")
    frames: Count = Field(64, description="spectrogram frames of one segment, hop_ms apart")
    trim_db: Positive | None = Field(
        None, description="cut what is quieter than the loudest frame by more than this from both ends; sound alone"
    )

    @model_validator(mode="after")
    def _fft_is_long_enough(self) -> Audio:
        window = self.window_ms * self.sample_rate / 1000
        if window > self.fft + 0.5:
            raise ValueError(f"fft: {self.fft} points are fewer than the {window:.0f} samples of a window")
        if self.fft > 2**20 or self.bands > self.fft:  # before a list as long is made
            raise ValueError(f"fft: want up to {2**20} points, and no more bands than points")
        top = 2595 * math.log10(1 + self.sample_rate / 2 / 700)  # of the mel scale, as HTK has it
        edges = [700 * (10 ** (top * i / (self.bands + 1) / 2595) - 1) for i in range(self.bands + 2)]
        points = [edge * self.fft / self.sample_rate for edge in edges]
        if any(math.floor(low) + 1 >= high for low, high in zip(points, points[2:], strict=False)):
            raise ValueError(f"fft: {self.fft} points leave some of {self.bands} mel bands empty")
        return self


class Demo(Section):
    """The made corpus."""

    seed: int = 1
    actors: Annotated[int, Field(ge=4, le=99)] = 24
    takes: Annotated[int, Field(ge=1, le=99)] = Field(4, description="clips of each actor and emotion")


class Corpus(Section):
    """A corpus: where its clips come from, its features, and what is run on it."""

    kind: Literal["ravdess", "cremad", "demo"]
    title: str
    source: str | None = Field(
        None,
        description="a local folder, a local zip, or an address; without one the clips come from where they are"
        " published; EMOFUSE_<NAME>_SOURCE overrides it",
    )
    modalities: Annotated[list[Modality], Field(min_length=1, max_length=2)] = Field(
        ["video", "audio"], description="of the clips; one that no variant uses is left out"
    )
    actors: Literal["all"] | Annotated[list[int], Field(min_length=2)] = "all"
    vocal: Annotated[list[Literal["speech", "song"]], Field(min_length=1)] = Field(
        ["speech"], description="RAVDESS only"
    )
    labels: Literal["intended", "perceived"] = Field("intended", description="CREMA-D only")
    sound: Literal["clip", "wav"] = Field(
        "clip", description="CREMA-D only: the clip's own sound track or AudioWAV/; without video always the latter"
    )
    demo: Demo | None = None
    shards: Annotated[list[int], Field(min_length=1)] = [0, 1, 2, 3, 4, 5, 6, 7]
    faces: Faces | None = None
    audio: Audio | None = None
    max_unusable: Fraction = Field(0.05, description="a larger share of unusable clips is an error")
    protocols: Annotated[dict[str, Annotated[list[int], Field(min_length=1)]], Field(min_length=1)] = Field(
        description="protocol: the folds of it to run; random_<protocol> has its sizes, but shares actors"
    )
    audit: Annotated[list[Name], Field(min_length=1)] = Field(
        ["proposed"],
        description="those of the variants to run under random_<protocol>, to show what shared actors are worth",
    )
    validation_actors: Count = Field(4, description="of each fold's training actors")
    split_seed: int = Field(1, description="of generated folds and of the choice of validation actors")
    seeds: Annotated[list[int], Field(min_length=1)] = [1]
    variants: Annotated[list[Name], Field(min_length=1)]
    network: dict[str, Any] = Field({}, description="overrides of the network for this corpus")
    loss: dict[str, Any] = Field({}, description="overrides of the loss for this corpus")
    training: dict[str, Any] = Field({}, description="overrides of the training for this corpus")

    @model_validator(mode="after")
    def _consistent(self) -> Corpus:
        if self.shards != list(range(len(self.shards))):
            raise ValueError(f"shards: must count up from 0, not {self.shards}")
        for modality, features in (("video", self.faces), ("audio", self.audio)):
            if (modality in self.modalities) != (features is not None):
                key = "faces" if modality == "video" else "audio"
                raise ValueError(f"{key}: goes with the modality {modality}, no more and no less")
        if self.faces and self.audio and self.faces.snippets != self.audio.segments:
            raise ValueError(
                f"audio.segments: {self.audio.segments} differs from faces.snippets {self.faces.snippets};"
                " segment i and snippet i must be the same moment"
            )
        if self.faces and self.audio and self.audio.trim_db is not None:
            raise ValueError("audio.trim_db: goes with sound alone; segment i and snippet i must be the same moment")
        if (self.kind == "demo") != (self.demo is not None):
            raise ValueError("demo: goes with kind demo, no more and no less")
        for key in ("seeds", "variants", "audit", "actors"):
            values = getattr(self, key)
            if values != "all" and len(set(values)) != len(values):
                raise ValueError(f"{key}: a value is listed twice")
        for protocol in self.protocols:
            if not re.fullmatch("[a-z][a-z0-9_]*", protocol) or len(protocol) > LONGEST_NAME:
                raise ValueError(
                    f"protocols: {protocol[:LONGEST_NAME]!r} is no name; want small letters, digits and _, up to"
                    f" {LONGEST_NAME}"
                )
            followed = protocol.removeprefix(RANDOM)
            if followed not in self.protocols:
                raise ValueError(f"protocols: {protocol} is there to compare {followed} with; list that too")
        return self

    def variants_under(self, protocol: str) -> list[str]:
        """The variants that are run under a protocol."""
        shared = protocol.startswith(RANDOM)
        return [variant for variant in self.variants if variant in self.audit or not shared]

    def runs(self) -> Iterator[tuple[str, str, int, list[int]]]:
        """Protocol, variant, seed and folds of every run of the corpus."""
        for protocol, folds in self.protocols.items():
            for variant in self.variants_under(protocol):
                for seed in self.seeds:
                    yield protocol, variant, seed, folds


class Overrides(Section):
    """A variant: what it changes of the proposed network, loss and training."""

    network: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    training: dict[str, Any] = {}


class Run(Section):
    """What one variant of one corpus is trained with, resolved."""

    network: Network
    loss: Loss
    training: Training


class Params(Section):
    """The whole of params.yaml."""

    corpora: Annotated[dict[Name, Corpus], Field(min_length=1)]
    paper: list[Name] = Field(description="the corpora of the paper, in the order of its tables")
    variants: dict[Name, Overrides]
    network: Network = Network()
    loss: Loss = Loss()
    training: Training = Training()

    def corpus(self, name: str) -> Corpus:
        """The corpus of that name; `UserError` where params.yaml has none."""
        if name not in self.corpora:
            raise UserError(f"corpora: there is no corpus {name!r}; params.yaml has {', '.join(self.corpora)}")
        return self.corpora[name]

    def keys(self, corpus: str) -> list[RunKey]:
        """Every fold of every run that is asked for of a corpus."""
        return [
            RunKey(corpus, protocol, variant, seed, fold)
            for protocol, variant, seed, folds in self.corpus(corpus).runs()
            for fold in folds
        ]

    def kind(self, key: Mapping[str, Any]) -> str | None:
        """The kind of the corpus in the key of a job; None for a job of no corpus."""
        return self.corpus(key["corpus"]).kind if "corpus" in key else None

    def run(self, corpus: str, variant: str) -> Run:
        """Network, loss and training of a variant: the proposed ones, the corpus's overrides, the variant's."""
        if variant not in self.variants:
            raise UserError(f"variants: there is no variant {variant!r}; params.yaml has {', '.join(self.variants)}")
        return self._resolved[corpus, variant]

    def settings(self, stage: str, corpus: str = "", variant: str = "", **key: Any) -> dict[str, dict[str, Any]]:
        """The resolved parameters of a job, by section: its outputs depend on no others.

        `stage` is that of the command, the other arguments are its key. Raises `UserError` for a job that params.yaml
        does not ask for.
        """
        if stage == "weights":
            return {}
        if stage == "paper":
            return {name: self.settings("report", name) for name in self.paper}
        section = self.corpus(corpus)
        match stage:
            case "download" | "index":
                return {"clips": section.model_dump(mode="json", include=set(CLIPS))}
            case "faces" | "audio":
                made: Section | None = getattr(section, stage)
                if made is None:
                    raise UserError(f"corpora.{corpus}: it has no {stage}")
                return {stage: made.model_dump(mode="json")}
            case "splits":
                self._known_protocol(corpus, **key)
                keys = {"split_seed", "validation_actors", "max_unusable", "modalities"}
                return {"splits": section.model_dump(mode="json", include=keys)}
            case "train" | "evaluate":
                self.planned(corpus, variant=variant, **key)
                run = self.run(corpus, variant).model_dump(mode="json")
                if stage == "train":
                    return run
                return {"network": run["network"], "training": {"threads": run["training"]["threads"]}}
            case "report":
                return {
                    "corpus": section.model_dump(mode="json", exclude={"source"}),
                    "proposed": self.model_dump(mode="json", include={"network", "loss", "training"}),
                    "variants": {name: self.variants[name].model_dump(mode="json") for name in section.variants},
                }
        raise KeyError(stage)

    def _known_protocol(self, corpus: str, protocol: str) -> None:
        protocols = self.corpus(corpus).protocols
        if protocol not in protocols:
            raise UserError(
                f"corpora.{corpus}.protocols: there is no protocol {protocol}; there are {_list(protocols)}"
            )

    def planned(self, corpus: str, protocol: str, variant: str, seed: int, fold: int) -> Run:
        """What a run trains with. Raises `UserError` for a run that params.yaml does not ask for."""
        section = self.corpus(corpus)
        self._known_protocol(corpus, protocol)
        where = f"corpora.{corpus}"
        for what, value, known, key in (
            (
                "variant",
                variant,
                section.variants_under(protocol),
                "audit" if protocol.startswith(RANDOM) else "variants",
            ),
            ("seed", seed, section.seeds, "seeds"),
            ("fold", fold, section.protocols[protocol], f"protocols.{protocol}"),
        ):
            if value not in known:
                raise UserError(f"{where}.{key}: there is no {what} {value}; there are {_list(known)}")
        return self.run(corpus, variant)

    @cached_property
    def _resolved(self) -> dict[tuple[str, str], Run]:
        return {
            (name, variant): _resolve(self, name, variant)
            for name, corpus in self.corpora.items()
            for variant in corpus.variants
        }


def overridden(run: Run, changes: Mapping[str, Any], where: str) -> Run:
    """`run` with the overrides of some of its parameters laid over it, checked; `where` is for messages."""
    resolved: dict[str, Any] = {}
    for section in Run.model_fields:
        base: Section = getattr(run, section)
        if changes.get(section):
            here = f"{where}.{section}"
            base = _validate(type(base), _merge(base.model_dump(), changes[section], here), here)
        resolved[section] = base
    return Run(**resolved)


def _resolve(params: Params, corpus_name: str, variant: str) -> Run:
    corpus = params.corpora[corpus_name]
    run = Run(network=params.network, loss=params.loss, training=params.training)
    for where, layer in ((f"corpora.{corpus_name}", corpus), (f"variants.{variant}", params.variants[variant])):
        run = overridden(run, {section: getattr(layer, section) for section in Run.model_fields}, where)
    missing = set(run.network.modalities) - set(corpus.modalities)
    if missing:
        raise UserError(
            f"corpora.{corpus_name}.variants: {variant} needs {', '.join(sorted(missing))}, which {corpus_name} lacks"
        )
    return run


def _merge(base: dict[str, Any], changes: dict[str, Any], where: str) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping; a key that `base` lacks is an error."""
    merged = dict(base)
    for key, value in changes.items():
        if key not in base:
            raise UserError(f"{where}.{_plain(key)}: no such parameter; there are {', '.join(base)}")
        merged[key] = (
            _merge(base[key], value, f"{where}.{key}")
            if isinstance(base[key], dict) and isinstance(value, dict)
            else value
        )
    return merged


def _validate(model: type[S], value: Any, where: str) -> S:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(_first_line(error, where)) from None


def _first_line(error: ValidationError, where: str = "") -> str:
    """The first mistake as `key.path: what`, with the number of the others."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    path = [where] if where else []
    path += [
        _plain(part)
        for part in first["loc"]
        if not (isinstance(part, str) and ("[" in part or part == "literal['all']"))
    ]
    if first["type"] == "value_error" and re.match(r"[a-z_.]+: ", message):
        key, message = message.split(": ", 1)
        path.append(key)
    if first["type"] == "extra_forbidden":
        message = "no such parameter"
    elif first["type"] != "value_error" and first["type"] != "missing":
        message += f" (found {repr(first['input'])[:200]})"
    others = error.error_count() - 1
    return f"{'.'.join(path) or 'params.yaml'}: {message}" + (f" (and {others} more)" if others else "")


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _plain(key: object) -> str:
    """A key as it can stand in a message of one line."""
    text = str(key)
    return text if text.isprintable() else repr(text)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that a key named twice is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    pairs = loader.construct_pairs(node, deep=True)
    for key, number in Counter(key for key, _ in pairs).items():
        if number > 1:
            raise UserError(f"{_plain(key)}: named twice in params.yaml, line {node.start_mark.line + 1} and after")
    return dict(pairs)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# PyYAML reads 1e-3 as text; YAML 1.2, and everyone else, as a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def load(path: Path | str = "params.yaml") -> Params:
    """Read and check params.yaml.

    Raises `UserError`, one line that starts with the key's path, for a missing file, broken YAML,
    an unknown key, a wrong type, or a value that is impossible by itself or beside the others.
    """
    path = Path(path)
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run emofuse in the folder that holds params.yaml") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    # What PyYAML makes of a date that is none, a mapping's key that is a list, and the like is all but YAMLError.
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: not YAML: {printable(problem)}") from None
    _check_size(tree, path)
    try:
        params = Params.model_validate(tree)
    except ValidationError as error:
        raise UserError(_first_line(error)) from None
    if "published" in params.corpora:
        raise UserError("corpora.published: results/published is for results that are committed; choose another name")
    for name in (*params.corpora, *params.variants):
        if len(name) > LONGEST_NAME:
            raise UserError(f"{name[:LONGEST_NAME]}…: a name has up to {LONGEST_NAME} characters; shorten it")
    for name in params.paper:
        if name not in params.corpora:
            raise UserError(f"paper: there is no corpus {name!r} under corpora")
    for name, corpus in params.corpora.items():
        for key in ("variants", "audit"):
            for variant in getattr(corpus, key):
                if variant not in params.variants:
                    raise UserError(f"corpora.{name}.{key}: there is no variant {variant!r} under variants")
        for protocol, folds in corpus.protocols.items():
            _check_folds(name, corpus, protocol, folds, path.parent)
    proposed = Run(network=params.network, loss=params.loss, training=params.training)
    for variant, overrides in params.variants.items():
        overridden(proposed, overrides.model_dump(), f"variants.{variant}")
    return params.model_copy(update={"corpora": {name: _needed(params, name) for name in params.corpora}})


def _check_size(tree: Any, path: Path) -> None:
    """`UserError` for numbers that no parameter has, and where aliases of aliases stand for more than memory holds."""
    waiting = [tree]
    for _ in range(100_000):
        if not waiting:
            return
        value = waiting.pop()
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{path}: a number has more than 63 bits")
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
    raise UserError(f"{path}: too large, as aliases (&, *) may make it")


def _needed(params: Params, name: str) -> Corpus:
    """A corpus without the modality that no variant of it uses: nothing of that is fetched or computed."""
    corpus = params.corpora[name]
    used = {modality for variant in corpus.variants for modality in params.run(name, variant).network.modalities}
    unused = {FOLDERS[modality]: None for modality in corpus.modalities if modality not in used}
    return corpus.model_copy(
        update={"modalities": [modality for modality in corpus.modalities if modality in used], **unused}
    )


def _check_folds(name: str, corpus: Corpus, protocol: str, folds: list[int], root: Path) -> None:
    where = f"corpora.{name}.protocols.{protocol}"
    if len(set(folds)) != len(folds):
        raise UserError(f"{where}: a fold is listed twice")
    if generated := KFOLD.fullmatch(protocol.removeprefix(RANDOM)):
        number = int(generated[1])
        if number < 2:
            raise UserError(f"{where}: {number} fold(s) leave nothing to train on")
        available = list(range(number))
        if corpus.actors != "all" and number > len(corpus.actors):
            raise UserError(f"{where}: {number} folds of {len(corpus.actors)} actors leave some empty")
    elif path := protocol_path(corpus.kind, protocol):
        if not (root / path).is_file():
            known = sorted(file.stem for file in (root / path).parent.glob("*.csv"))
            raise UserError(
                f"{where}: no such protocol; there are kfold_<k>, {', '.join(known)}, and random_ before any of them"
            )
        published = read_protocol(root / path)
        available = sorted(published)
        if corpus.actors != "all":
            present = set(corpus.actors)
            empty = [fold for fold in folds if fold in published and not present & set(published[fold]["test"])]
            if empty:
                raise UserError(
                    f"{where}: none of corpora.{name}.actors is in the test part of fold {empty[0]}; leave it out"
                )
    for fold in folds:
        if fold not in available:
            raise UserError(
                f"{where}: there is no fold {fold}; {protocol} has {len(available)}, {available[0]} to {available[-1]}"
            )


def leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings, by their paths: `network.audio.width`, 32."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def schema() -> str:
    """The JSON schema of params.yaml, as text."""
    value = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
    return json.dumps(value, indent=2) + "\n"
