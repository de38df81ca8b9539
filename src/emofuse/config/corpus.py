"""A corpus: its clips, features and runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from emofuse import datasets, paths
from emofuse.config.section import LONGEST_NAME, Count, Fraction, Modality, Name, NotNegative, Positive, Section
from emofuse.data.protocols import RANDOM
from emofuse.datasets.emotions import VALENCE_AROUSAL
from emofuse.datasets.shards import FOLDERS
from emofuse.utils.console import printable

# The keys of a corpus that determine its clips. Where the clips are fetched from (`source`) does not change them.
CLIPS = ("kind", "modalities", "actors", "shards", "vocal", "labels", "sound", "demo", "table")


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
    shards: Annotated[list[int], Field(min_length=1)] = Field([0, 1, 2, 3, 4, 5, 6, 7])
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
    seeds: Annotated[list[int], Field(min_length=1)] = Field([1])
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
