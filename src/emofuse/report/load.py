"""Result files as plain objects: what the tables and figures are made from.

The scores come from the predictions, not from `metrics.json`; where the two disagree, that is an error and not a number.
Whether a fold belongs to the clips and folds on disk was checked by the records before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emofuse import paths
from emofuse.data import exclusions as reasons
from emofuse.data.protocols import RANDOM
from emofuse.evaluation import calibration, metrics, statistics
from emofuse.paths import RunKey
from emofuse.provenance.records import Record
from emofuse.report import assumptions, human_baseline, literature
from emofuse.report.assumptions import Assumption
from emofuse.report.human_baseline import Listeners
from emofuse.report.literature import PublishedResult
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_json, read_table

if TYPE_CHECKING:
    from emofuse import config as parameters
    from emofuse.config import Corpus, Params

PUBLISHED = Path("literature") / "paper.csv"
AGAIN = "run the evaluate stage of this fold again"


@dataclass(frozen=True)
class FoldCounts:
    """What the test clips of one fold were taken for."""

    fold: int
    emotions: tuple[str, ...]
    actors: NDArray[np.int64]  # (A,), sorted: those of the test part
    confusions: NDArray[np.int64]  # (A, classes, classes): one matrix an actor

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """(classes, classes), over all actors of the fold."""
        return np.asarray(self.confusions.sum(0))

    @cached_property
    def scores(self) -> dict[str, float]:
        """war, uar and macro_f1 of the fold."""
        return {metric: float(value) for metric, value in metrics.scores(self.confusion).items()}

    @property
    def clips(self) -> int:
        """How many clips were tested."""
        return int(self.confusions.sum())

    def same_clips(self, other: FoldCounts) -> bool:
        """Whether another variant was tested on as many clips of each emotion by each actor."""
        tested = [(fold.emotions, fold.actors.tolist(), fold.confusions.sum(2).tolist()) for fold in (self, other)]
        return tested[0] == tested[1]


@dataclass(frozen=True)
class Fold(FoldCounts):
    """One fold of a run, evaluated."""

    labels: NDArray[np.int64]  # (clips,): the place of each test clip's emotion in `emotions`
    right: NDArray[np.bool_]  # (clips,): whether it was predicted
    probabilities: NDArray[np.float64]  # (clips, classes), as trained, to 6 decimals
    temperature: float  # fitted on the validation clips
    validation: dict[str, float]  # war, uar of the epoch that was kept
    history: list[dict[str, float]]  # one row an epoch; empty where the models are not here
    training: Record | None  # the record of its training; None where that is not here


@dataclass(frozen=True)
class Run:
    """One row of a table: a variant under a protocol with a seed, over the folds that were run."""

    protocol: str
    variant: str
    seed: int
    setup: parameters.Run  # the variant's network, loss and training on this corpus
    planned: tuple[int, ...]
    folds: tuple[Fold, ...]

    def key(self, fold: int | None = None) -> str:
        """Names the run, or a fold of it: its folder under results/<corpus>."""
        return f"{self.protocol}/{self.variant}/seed-{self.seed}" + ("" if fold is None else f"/fold-{fold}")

    @property
    def modality(self) -> str:
        """ "audio", "video" or "audio_video": what the variant's network has on this corpus."""
        return "_".join(sorted(self.setup.network.modalities))

    @property
    def missing(self) -> tuple[int, ...]:
        """The folds that params.yaml asks for and that have no result."""
        there = {fold.fold for fold in self.folds}
        return tuple(fold for fold in self.planned if fold not in there)

    @cached_property
    def estimates(self) -> dict[str, statistics.Estimate]:
        """Each score over the folds; empty where there is none."""
        return statistics.estimates(*self.tested) if self.folds else {}

    @cached_property
    def recalls(self) -> list[statistics.Estimate]:
        """The recall of each emotion, pooled over the folds, and last their mean; empty where there is none."""
        return statistics.recalls(*self.tested) if self.folds else []

    @property
    def tested(self) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """The actors of each fold, and the confusion matrix of each of them: what `statistics` takes."""
        return [fold.actors for fold in self.folds], [fold.confusions for fold in self.folds]

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """(classes, classes), pooled: every tested clip of every fold counted once."""
        return np.asarray(sum(fold.confusion for fold in self.folds))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The true emotion of each tested clip (clips,), pooled over the folds."""
        return np.concatenate([fold.labels for fold in self.folds])

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Whether each of them was told right (clips,)."""
        return np.concatenate([fold.right for fold in self.folds])

    def probabilities(self, calibrated: bool) -> NDArray[np.float64]:
        """What each emotion of each of them was given (clips, classes): as trained, or at its fold's temperature."""
        return np.concatenate(
            [calibration.tempered(fold.probabilities, fold.temperature if calibrated else 1) for fold in self.folds]
        )

    @cached_property
    def actors(self) -> set[int]:
        """Everyone who was tested in some fold."""
        return {int(actor) for fold in self.folds for actor in fold.actors}

    @property
    def clips(self) -> int:
        """How many clips were tested, over all folds."""
        return sum(fold.clips for fold in self.folds)

    def against(self, other: Run) -> dict[str, statistics.Difference]:
        """Each score less that of `other`; empty where the two were not tested on the same clips of the same folds."""
        if not self.folds or [fold.fold for fold in self.folds] != [fold.fold for fold in other.folds]:
            return {}
        pairs = list(zip(self.folds, other.folds, strict=True))
        if not all(fold.same_clips(theirs) for fold, theirs in pairs):
            return {}
        both = [np.stack([fold.confusions, theirs.confusions], axis=1) for fold, theirs in pairs]
        return statistics.differences([fold.actors for fold in self.folds], both)


@dataclass(frozen=True)
class Clips:
    """Who and what was there, from the clips.csv of a protocol."""

    usable: int
    unusable: dict[str, int]  # reason: clips, the commonest first, as `reasons.by_kind` has it
    actors: tuple[int, ...]  # with a usable clip

    @property
    def total(self) -> int:
        """All clips of the corpus as it is on disk."""
        return self.usable + sum(self.unusable.values())


@dataclass(frozen=True)
class Published:
    """A value of literature/paper.csv, in %."""

    corpus: str
    variant: str
    metric: str
    value: float
    authors: str
    year: int
    doi: str
    evidence: str
    note: str


@dataclass(frozen=True)
class CorpusResults:
    """All that a report of one corpus says."""

    root: Path  # of the repository: embeddings and models are big, and read where they are asked for
    name: str
    title: str
    kind: str
    modalities: tuple[str, ...]
    runs: tuple[Run, ...]  # under folds by actor
    shared: tuple[Run, ...]  # under random_ protocols, where actors are on all sides
    clips: dict[str, Clips | None]  # by protocol; None where clips.csv is not here
    whole: tuple[tuple[int, ...], int] | None  # actors and clips of the whole corpus, where it has a fixed size
    published: tuple[Published, ...]
    literature: tuple[PublishedResult, ...]  # what others report on these clips
    listeners: Listeners
    comparable: bool  # the paper's task: both modalities, speech, intended labels
    bayes: dict[str, float] | None  # of the demo
    search: tuple[dict[str, str], ...]
    assumptions: tuple[Assumption, ...]  # of the leading variant

    @property
    def warning(self) -> str:
        """What must stand first wherever the numbers are shown; empty for real clips."""
        if self.kind != "demo":
            return ""
        return (
            "These numbers say nothing about the paper: the demo's faces and voices are drawn by a program,"
            " to show that the whole chain runs and learns what there is to learn."
        )

    @property
    def planned(self) -> tuple[Run, ...]:
        """All runs that params.yaml asks for."""
        return (*self.runs, *self.shared)

    @property
    def leading(self) -> list[Run]:
        """The runs of the variant that the report opens with."""
        variant = leading([run.variant for run in self.runs])
        return [run for run in self.runs if run.variant == variant]

    def best(self, run: Run) -> float | None:
        """The accuracy that no method can pass with the modalities of a run; known of the demo alone."""
        return self.bayes[run.modality] if self.bayes else None

    def is_whole(self, run: Run) -> bool:
        """Whether a run tested the whole corpus: every actor, and all but 1 % of its clips (some are broken)."""
        if self.whole is None or run.missing:
            return False
        actors, clips = self.whole
        return run.actors == set(actors) and run.clips >= 0.99 * clips


def read(corpus_name: str, params: Params, root: Path) -> CorpusResults:
    """Everything under `root` that the report of a corpus needs; what is not there is absent, not an error.

    Raises `UserError` for a file that is broken or contradicts itself.
    """
    corpus = params.corpus(corpus_name)
    runs = tuple(
        Run(
            protocol, variant, seed, params.run(corpus_name, variant), tuple(folds),
            _folds(root, corpus_name, protocol, variant, seed, folds),
        )
        for protocol, variant, seed, folds in corpus.runs()
    )  # fmt: skip
    bayes = None
    if corpus.demo is not None:
        from emofuse.datasets import demo

        bayes = demo.bayes(corpus.demo)
    both = set(corpus.modalities) == {"audio", "video"}
    return CorpusResults(
        root=root,
        name=corpus_name,
        title=corpus.title,
        kind=corpus.kind,
        modalities=tuple(corpus.modalities),
        runs=tuple(run for run in runs if not run.protocol.startswith(RANDOM)),
        shared=tuple(run for run in runs if run.protocol.startswith(RANDOM)),
        clips={protocol: _clips(root / paths.splits(corpus_name, protocol)[0]) for protocol in corpus.protocols},
        whole=_whole(corpus),
        published=tuple(value for value in _published(root / PUBLISHED) if value.corpus == corpus_name),
        literature=literature.read(corpus, root),
        listeners=human_baseline.read(corpus, root),
        comparable=both and corpus.vocal == ["speech"] and corpus.labels == "intended",
        bayes=bayes,
        search=tuple(_search(root / paths.search(corpus_name))),
        assumptions=assumptions.read(corpus_name, leading(corpus.variants), params, root),
    )


def leading(variants: Sequence[str]) -> str:
    """`proposed`, or the first variant of a corpus that has none of that name."""
    return "proposed" if "proposed" in variants else variants[0]


def _whole(corpus: Corpus) -> tuple[tuple[int, ...], int] | None:
    """Actors and clips of the corpus as it is published, whatever part of it is here."""
    if corpus.kind == "ravdess":
        speech, song = "speech" in corpus.vocal, "song" in corpus.vocal
        # Actor 18 did not sing.
        actors = tuple(actor for actor in range(1, 25) if speech or actor != 18)
        return actors, 1440 * speech + 1012 * song
    return (tuple(range(1001, 1092)), 7442) if corpus.kind == "cremad" else None


def _folds(root: Path, corpus: str, protocol: str, variant: str, seed: int, folds: list[int]) -> tuple[Fold, ...]:
    keys = [RunKey(corpus, protocol, variant, seed, fold) for fold in folds]
    return tuple(_fold(root, key) for key in keys if (root / key.metrics).is_file())


def _fold(root: Path, key: RunKey) -> Fold:
    metrics = read_json(root / key.metrics)
    try:
        emotions = tuple(metrics["emotions"])
        validation = {key: float(metrics["validation"][key]) for key in ("war", "uar")}
        stated = np.asarray(metrics["confusion"], dtype=np.int64)
        temperature = float(metrics["calibration"]["temperature"])
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature {temperature}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{key.metrics}: {error!r} is missing or wrong; {AGAIN}") from None
    who, labels, predicted, probabilities = _predictions(root, Path(key.predictions), emotions)
    actors, confusions = statistics.actor_confusions(who, labels, predicted, len(emotions))
    if not len(labels) or not np.array_equal(confusions.sum(0), stated):
        raise UserError(f"{key.results}: predictions.csv and metrics.json do not tell the same; {AGAIN}")
    return Fold(
        fold=key.fold,
        emotions=emotions,
        actors=actors,
        confusions=confusions,
        labels=labels,
        right=predicted == labels,
        probabilities=probabilities,
        temperature=temperature,
        validation=validation,
        history=read_history(root / key.history) if (root / key.history).is_file() else [],
        training=Record.read(root, key.training_record),
    )


def _predictions(
    root: Path, file: Path, emotions: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Of each test clip: its actor, its emotion, the predicted one (clips,), and their probabilities (clips, classes)."""
    chances = [f"p_{emotion}" for emotion in emotions]
    rows = read_table(root / file, ("actor", "emotion", "predicted", *chances))
    index = {emotion: position for position, emotion in enumerate(emotions)}
    try:
        actors = np.array([int(row["actor"]) for row in rows], dtype=np.int64)
        labels = np.array([index[row["emotion"]] for row in rows], dtype=np.int64)
        predicted = np.array([index[row["predicted"]] for row in rows], dtype=np.int64)
        probabilities = np.array([[float(row[name]) for name in chances] for row in rows]).reshape(-1, len(emotions))
    except (KeyError, ValueError) as error:
        raise UserError(f"{file}: no actor, emotion or probability: {error}; {AGAIN}") from None
    if not (np.abs(probabilities.sum(1) - 1) < 1e-4).all() or (probabilities < 0).any():
        raise UserError(f"{file}: the probabilities of a clip do not add up to 1; {AGAIN}")
    if not (probabilities[np.arange(len(rows)), predicted] == probabilities.max(1)).all():
        raise UserError(f"{file}: an emotion is predicted that is not the likeliest; {AGAIN}")
    return actors, labels, predicted, probabilities


def read_history(path: Path) -> list[dict[str, float]]:
    """The epochs of a fold's training, `best` as 1.0 or 0.0; an empty field is NaN."""
    try:
        return [
            {key: float(value == "true") if key == "best" else float(value or "nan") for key, value in row.items()}
            for row in read_table(path, ("epoch", "train_cross_entropy", "val_loss", "val_uar", "best"))
        ]
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not a history of training: {error}; run the train stage of this fold again") from None


def _clips(path: Path) -> Clips | None:
    if not path.is_file():
        return None
    rows = read_table(path, ("actor", "usable", "reason"))
    usable = [row for row in rows if row["usable"] == "true"]
    return Clips(
        usable=len(usable),
        unusable=reasons.by_kind(row["reason"] for row in rows if row["usable"] != "true"),
        actors=tuple(sorted({int(row["actor"]) for row in usable})),
    )


def _published(path: Path) -> list[Published]:
    if not path.is_file():
        raise UserError(f"{PUBLISHED} is missing: run emofuse in the folder that holds params.yaml and literature/")
    texts = ("corpus", "variant", "metric", "authors", "doi", "evidence", "note")
    rows = read_table(path, (*texts, "value", "year"))
    try:
        return [
            Published(value=float(row["value"]), year=int(row["year"]), **{key: row[key] for key in texts})
            for row in rows
        ]
    except ValueError as error:
        raise UserError(f"{PUBLISHED}: {error}") from None


def _search(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    rows = read_table(path, ("config", "overrides", "fold", "epochs", "val_war", "val_uar", "seconds", "best"))
    for row in rows:
        try:
            if not all(0 <= float(row[key]) <= 1 for key in ("val_war", "val_uar")):
                raise ValueError("val_war and val_uar are fractions, 0 to 1")
            float(row["seconds"])
            int(row["fold"])
            json.loads(row["overrides"])
        except ValueError as error:
            raise UserError(f"{path}, configuration {row['config']}: {error}") from None
    return rows
