"""Reads result files into the objects that tables and figures are made from.

Scores are computed from the predictions, not taken from metrics.json: if the two disagree, that is an error.
Whether a fold matches the clips and splits on disk has already been checked against its records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emofuse import datasets, paths
from emofuse.data import exclusion_counts
from emofuse.data.protocols import RANDOM
from emofuse.datasets.base import Actor, Published, actor_named, sorted_actors
from emofuse.evaluation import calibration, metrics, statistics
from emofuse.evaluation.text import ACTORS_UNKNOWN, DEVELOPMENT
from emofuse.paths import RunKey
from emofuse.provenance.records import Record
from emofuse.report import assumptions, human_baseline, literature, transfers
from emofuse.report.human_baseline import HumanBaseline
from emofuse.report.transfers import Transfer
from emofuse.utils.errors import UserError
from emofuse.utils.files import parse_json, read_csv, read_json

if TYPE_CHECKING:
    from emofuse import config as parameters
    from emofuse.config import Params

PAPER = Path("literature") / "paper.csv"
EVALUATE_AGAIN = "run the evaluate stage of this fold again"
HISTORY = ("epoch", "train_cross_entropy")  # columns of a history that figures show
VALIDATION = ("val_loss", "val_uar")  # with training.selection: nested, also these


@dataclass(frozen=True)
class FoldCounts:
    """The test clips of one fold, counted by actor, true emotion and predicted emotion."""

    fold: int
    emotions: tuple[str, ...]
    actors: NDArray[Any]  # (A,), sorted, numbers or names: the test actors
    confusions: NDArray[np.int64]  # (A, classes, classes): one matrix per actor

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
        """The number of test clips."""
        return int(self.confusions.sum())

    def same_clips(self, other: FoldCounts) -> bool:
        """Whether another variant was tested on as many clips of each emotion by each actor."""
        tested = [(fold.emotions, fold.actors.tolist(), fold.confusions.sum(2).tolist()) for fold in (self, other)]
        return tested[0] == tested[1]


@dataclass(frozen=True)
class Fold(FoldCounts):
    """An evaluated fold of a run."""

    labels: NDArray[np.int16]  # (clips,): index in `emotions` of each test clip's emotion
    correct: NDArray[np.bool_]  # (clips,): whether it was predicted
    probabilities: NDArray[np.float64]  # (clips, classes), uncalibrated, to 6 decimals
    temperature: float | None  # None: uncalibrated
    validation: dict[str, float] | None  # war and uar of the kept epoch; None without validation actors
    history: pd.DataFrame  # columns HISTORY, perhaps VALIDATION, one row per epoch; empty if the history is not on disk
    training: Record | None  # the record of its training; None if it is not on disk


@dataclass(frozen=True)
class Run:
    """A variant under a protocol with one seed, over the folds that have results."""

    protocol: str
    variant: str
    seed: int
    setup: parameters.Run  # the variant's network, loss and training parameters on this corpus
    planned: tuple[int, ...]
    folds: tuple[Fold, ...]

    def key(self, fold: int | None = None) -> str:
        """Identifies the run, or one of its folds: its folder under results/<corpus>/runs."""
        return f"{self.protocol}/{self.variant}/seed-{self.seed}" + ("" if fold is None else f"/fold-{fold}")

    @property
    def missing(self) -> tuple[int, ...]:
        """The folds that params.yaml plans and that have no result."""
        evaluated = {fold.fold for fold in self.folds}
        return tuple(fold for fold in self.planned if fold not in evaluated)

    @property
    def status(self) -> str:
        """ "run", "incomplete" or "not run"."""
        return "not run" if not self.folds else "incomplete" if self.missing else "run"

    @property
    def labels(self) -> NDArray[np.int64]:
        """The index of the true emotion of each test clip (clips,), pooled over folds."""
        return np.concatenate([fold.labels for fold in self.folds]).astype(np.int64)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test clip was correctly classified (clips,), pooled over folds."""
        return np.concatenate([fold.correct for fold in self.folds])

    @property
    def is_calibrated(self) -> bool:
        """Whether each of its folds has a temperature."""
        return all(fold.temperature is not None for fold in self.folds)

    def probabilities(self, calibrated: bool) -> NDArray[np.float64]:
        """The predicted probabilities (clips, classes), pooled over folds; calibrated by each fold's temperature, or not."""
        return np.concatenate(
            [
                calibration.tempered(fold.probabilities, (fold.temperature or 1) if calibrated else 1)
                for fold in self.folds
            ]
        )

    @property
    def clips(self) -> int:
        """The number of test clips of all folds."""
        return sum(fold.clips for fold in self.folds)


@dataclass(frozen=True)
class Method:
    """A variant under a protocol, over its seeds and folds: one row of most tables.

    Seeds and folds are crossed. If some are missing, the numbers are those of `complete`.
    """

    runs: tuple[Run, ...]  # one per planned seed

    @property
    def protocol(self) -> str:
        """The name of the protocol."""
        return self.runs[0].protocol

    @property
    def variant(self) -> str:
        """The name of the variant."""
        return self.runs[0].variant

    @property
    def setup(self) -> parameters.Run:
        """The variant's network, loss and training parameters on this corpus."""
        return self.runs[0].setup

    @property
    def modality(self) -> str:
        """ "audio", "video" or "audio_video": the modalities of the variant's network on this corpus."""
        return "_".join(sorted(self.setup.network.modalities))

    @property
    def missing(self) -> dict[int, tuple[int, ...]]:
        """The planned folds that have no result, by seed."""
        return {run.seed: run.missing for run in self.runs if run.missing}

    @property
    def status(self) -> str:
        """ "run", "incomplete" or "not run"."""
        return "not run" if not self.complete else "incomplete" if self.missing else "run"

    @cached_property
    def complete(self) -> tuple[Run, ...]:
        """The runs of the seeds that share the most results, with the folds that all of them have."""
        best: tuple[Run, ...] = ()
        for candidate in self.runs:
            folds = {fold.fold for fold in candidate.folds}
            alike = tuple(
                replace(run, folds=tuple(fold for fold in run.folds if fold.fold in folds))
                for run in self.runs
                if folds <= {fold.fold for fold in run.folds}
            )
            if len(folds) * len(alike) > sum(len(run.folds) for run in best):
                best = alike
        return best

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of `complete`."""
        return tuple(run.seed for run in self.complete)

    @property
    def first(self) -> Run:
        """The first run that has results, for what is shown of one seed; the first one planned if none has."""
        return next((run for run in self.runs if run.folds), self.runs[0])

    @property
    def folds(self) -> tuple[Fold, ...]:
        """The folds of `complete`, as its first seed has them: for what is the same with every seed, such as clips."""
        return self.complete[0].folds if self.complete else ()

    @property
    def keys(self) -> str:
        """The keys of the runs of `complete`, separated by spaces."""
        return " ".join(run.key() for run in self.complete)

    def with_seeds(self, seeds: Sequence[int]) -> Method:
        """The same with only some of its planned seeds."""
        return Method(tuple(run for run in self.runs if run.seed in seeds))

    @cached_property
    def tested(self) -> tuple[list[NDArray[Any]], list[NDArray[np.int64]]]:
        """The actors of each fold (A,), and their confusion matrices under each seed: the arguments of `statistics`."""
        by_fold = list(zip(*(run.folds for run in self.complete), strict=True))
        return [fold.actors for fold in self.folds], [
            np.stack([fold.confusions for fold in seeds], axis=1) for seeds in by_fold
        ]

    @cached_property
    def estimates(self) -> dict[str, statistics.Estimate]:
        """Each score over seeds and folds; empty without results."""
        return statistics.estimates(*self.tested) if self.complete else {}

    @cached_property
    def recalls(self) -> list[statistics.Estimate]:
        """The recall of each emotion, pooled over folds, followed by their mean; empty without results."""
        return statistics.recalls(*self.tested) if self.complete else []

    @property
    def margin(self) -> float | None:
        """The margin of equivalence in points that its test actors can establish; None if a fold has only one."""
        return statistics.margin(tuple(len(fold.actors) for fold in self.folds))

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """(classes, classes), pooled over seeds and folds: each test clip is counted once per seed."""
        return np.asarray(sum(fold.confusion for run in self.complete for fold in run.folds))

    @cached_property
    def actors(self) -> set[Actor]:
        """The actors of all test folds."""
        return {actor for fold in self.folds for actor in fold.actors.tolist()}

    @property
    def clips(self) -> int:
        """The number of test clips of all folds."""
        return sum(fold.clips for fold in self.folds)

    def same_tests(self, other: Method) -> bool:
        """Whether both were tested with the same seeds on the same folds and clips."""
        extents = [(method.seeds, [fold.fold for fold in method.folds]) for method in (self, other)]
        return extents[0] == extents[1] and all(
            ours.same_clips(theirs)
            for one, two in zip(self.complete, other.complete, strict=True)
            for ours, theirs in zip(one.folds, two.folds, strict=True)
        )

    def against(self, other: Method) -> dict[str, statistics.Estimate]:
        """Each score minus that of `other`; empty without results, and unless both were tested on the same."""
        if not self.complete or not self.same_tests(other):
            return {}
        actors, confusions = self.tested
        return statistics.differences(
            actors, [np.stack(both, axis=2) for both in zip(confusions, other.tested[1], strict=True)]
        )


@dataclass(frozen=True)
class Clips:
    """The clips of a corpus on disk, counted from the clips.csv of a protocol."""

    usable: int
    unusable: dict[str, int]  # reason → clips, most frequent first, as `exclusion_counts.by_kind` groups them
    actors: tuple[Actor, ...]  # with at least one usable clip
    replaced: tuple[int, int] = (0, 0)  # crops of another frame, because their own shows no face, and clips with them

    @property
    def total(self) -> int:
        """All clips on disk."""
        return self.usable + sum(self.unusable.values())


@dataclass(frozen=True)
class CorpusResults:
    """Everything that the report of a corpus is made from."""

    root: Path  # of the repository: embeddings and models are large and are read on demand
    name: str
    title: str
    kind: str
    show_faces: bool
    actors_known: bool
    development: bool  # recipes were selected on its speakers
    modalities: tuple[str, ...]
    methods: tuple[Method, ...]  # under actor-independent protocols
    random_methods: tuple[Method, ...]  # under random_ protocols, which share actors between training and test
    across: tuple[Transfer, ...]  # models of other corpora, applied to this one
    clips: dict[str, Clips | None]  # by protocol; None if its clips.csv is not on disk
    whole: Published | None  # the extent of the published corpus, if it has a fixed size
    paper: pd.DataFrame  # rows of literature/paper.csv for this corpus; values in %
    literature: pd.DataFrame  # published results on these clips, see `literature.read`
    humans: HumanBaseline
    comparable: bool  # with the paper: both modalities, speech, intended labels
    bayes: dict[str, float] | None  # Bayes accuracy by modality; demo only
    search: pd.DataFrame  # scores of configurations, development corpora only; one row per configuration and fold
    assumptions: pd.DataFrame  # of the leading variant, see `assumptions.read`

    @property
    def warning(self) -> str:
        """What must precede the numbers wherever they are shown, or ""."""
        warnings = []
        if self.development:
            warnings.append(DEVELOPMENT)
        if not self.actors_known:
            warnings.append(ACTORS_UNKNOWN)
        if self.kind == "demo":
            warnings.append(
                "These numbers say nothing about the paper: the demo's faces and voices are synthetic. They only show that"
                " the pipeline works end to end and that the network learns what can be learned from these clips."
            )
        return " ".join(warnings)

    @property
    def in_paper(self) -> bool:
        """Whether the paper has results on clips of this kind."""
        return self.kind not in ("demo", "table")

    @property
    def planned(self) -> tuple[Run, ...]:
        """All runs that params.yaml plans."""
        return tuple(run for method in (*self.methods, *self.random_methods) for run in method.runs)

    @property
    def leading(self) -> list[Method]:
        """The variant that opens the report, under each protocol."""
        variant = leading([method.variant for method in self.methods])
        return [method for method in self.methods if method.variant == variant]

    def bayes_accuracy(self, method: Method) -> float | None:
        """The highest accuracy that is possible with the modalities of a variant; known for the demo only."""
        return self.bayes[method.modality] if self.bayes else None

    def is_whole(self, method: Method) -> bool:
        """Whether all was run and the whole corpus tested: all actors, and at least 99 % of the clips (a few are broken)."""
        if self.whole is None or method.missing:
            return False
        return method.actors == set(self.whole.actors) and method.clips >= 0.99 * self.whole.clips


def read(corpus_name: str, params: Params, root: Path) -> CorpusResults:
    """Everything under `root` that the report of a corpus needs. Missing results are not an error.

    Raises `UserError` if a file is broken or contradicts another.
    """
    corpus = params.corpus(corpus_name)
    runs: dict[tuple[str, str], list[Run]] = {}
    for protocol, variant, seed, folds in corpus.runs():
        found = _folds(root, [RunKey(corpus_name, protocol, variant, seed, fold) for fold in folds])
        run = Run(protocol, variant, seed, params.run(corpus_name, variant), tuple(folds), found)
        runs.setdefault((protocol, variant), []).append(run)
    methods = [Method(tuple(seeds)) for seeds in runs.values()]
    dataset = datasets.of(corpus, root)
    both = set(corpus.modalities) == {"audio", "video"}
    return CorpusResults(
        root=root,
        name=corpus_name,
        title=corpus.title,
        kind=corpus.kind,
        show_faces=corpus.show_faces,
        actors_known=corpus.actors_known,
        development=corpus.development,
        modalities=tuple(corpus.modalities),
        methods=tuple(method for method in methods if not method.protocol.startswith(RANDOM)),
        random_methods=tuple(method for method in methods if method.protocol.startswith(RANDOM)),
        across=transfers.read(corpus_name, params, root),
        clips={protocol: _clips(root / paths.splits(corpus_name, protocol)[0]) for protocol in corpus.protocols},
        whole=dataset.published(corpus),
        paper=_paper(root, corpus_name),
        literature=literature.read(corpus, root),
        humans=human_baseline.read(corpus, root),
        comparable=both and corpus.vocal == ["speech"] and corpus.labels == "intended",
        bayes=dataset.bayes_accuracy(corpus),
        search=_search(root / paths.search(corpus_name)),
        assumptions=assumptions.read(corpus_name, leading(corpus.variants), params, root),
    )


def leading(variants: Sequence[str]) -> str:
    """`proposed`, or the first variant of a corpus without it."""
    return "proposed" if "proposed" in variants else variants[0]


def _folds(root: Path, keys: Sequence[RunKey]) -> tuple[Fold, ...]:
    return tuple(_fold(root, key) for key in keys if (root / key.metrics).is_file())


def _fold(root: Path, key: RunKey) -> Fold:
    metrics = read_json(root / key.metrics)
    try:
        emotions = tuple(metrics["emotions"])
        stated = np.asarray(metrics["confusion"], dtype=np.int64)
        validation, temperature = metrics["validation"], metrics["calibration"]
        if validation is not None:
            validation = {name: float(validation[name]) for name in ("war", "uar")}
        if temperature is not None:
            temperature = float(temperature["temperature"])
            if not 0 < temperature < np.inf:
                raise ValueError(f"temperature {temperature}")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{key.metrics}: missing or invalid value ({error!r}); {EVALUATE_AGAIN}") from None
    who, labels, predicted, probabilities = _predictions(root, key.predictions, emotions)
    actors, confusions = statistics.actor_confusions(who, labels, predicted, len(emotions))
    if not len(labels) or not np.array_equal(confusions.sum(0), stated):
        raise UserError(f"{key.results}: predictions.csv and metrics.json contradict each other; {EVALUATE_AGAIN}")
    return Fold(
        fold=key.fold,
        emotions=emotions,
        actors=actors,
        confusions=confusions,
        labels=labels.astype(np.int16),
        correct=predicted == labels,
        probabilities=probabilities,
        temperature=temperature,
        validation=validation,
        history=_history(root / key.history),
        training=Record.read(root, key.training_record),
    )


def _predictions(
    root: Path, file: str, emotions: Sequence[str]
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The actor, true emotion and predicted emotion of each test clip (clips,), and the probabilities (clips, classes)."""
    columns = [f"p_{emotion}" for emotion in emotions]
    frame = read_csv(root / file, ("actor", "emotion", "predicted", *columns), "the evaluate stage of this fold")
    try:
        actors = statistics.actor_array(frame["actor"])
        labels, predicted = (_indices(frame[name], emotions) for name in ("emotion", "predicted"))
        probabilities = np.ascontiguousarray(frame[columns].to_numpy(np.float64))
    except ValueError as error:
        raise UserError(f"{file}: invalid actor, emotion or probability: {error}; {EVALUATE_AGAIN}") from None
    if not (np.abs(probabilities.sum(1) - 1) < 1e-4).all() or (probabilities < 0).any():
        raise UserError(f"{file}: the probabilities of a clip do not add up to 1; {EVALUATE_AGAIN}")
    if not (probabilities[np.arange(len(frame)), predicted] == probabilities.max(1)).all():
        raise UserError(f"{file}: a predicted emotion is not the most probable one; {EVALUATE_AGAIN}")
    return actors, labels, predicted, probabilities


def _indices(names: pd.Series[str], emotions: Sequence[str]) -> NDArray[np.int64]:
    """The index in `emotions` of each name. Raises `ValueError` for an unknown one."""
    indices = pd.Index(emotions).get_indexer(pd.Index(names))
    if (indices < 0).any():
        raise ValueError(repr(names[indices < 0].iat[0]))
    return np.asarray(indices, dtype=np.int64)


def _history(path: Path) -> pd.DataFrame:
    """The HISTORY and VALIDATION of a fold's training, as numbers; empty if it is not on disk."""
    if not path.is_file():
        return pd.DataFrame(columns=list(HISTORY), dtype=np.float64)
    try:
        history = read_csv(path, HISTORY)
        return (
            history[[*HISTORY, *(name for name in VALIDATION if name in history)]].replace("", "nan").astype(np.float64)
        )
    except ValueError as error:
        raise UserError(f"{path}: not a training history: {error}; run the train stage of this fold again") from None


def _clips(path: Path) -> Clips | None:
    if not path.is_file():
        return None
    frame = read_csv(path, ("actor", "usable", "reason")).reindex(
        columns=["actor", "usable", "reason", "replaced"], fill_value=""
    )
    usable = frame["usable"] == "true"
    replaced = pd.to_numeric(frame.loc[usable, "replaced"], errors="coerce").fillna(0)
    return Clips(
        usable=int(usable.sum()),
        unusable=exclusion_counts.by_kind(frame.loc[~usable, "reason"]),
        actors=sorted_actors(map(actor_named, frame.loc[usable, "actor"].unique())),
        replaced=(int(replaced.sum()), int((replaced > 0).sum())),
    )


def _paper(root: Path, corpus: str) -> pd.DataFrame:
    """The paper's own results on a corpus; `value` in %."""
    texts = ("corpus", "variant", "metric", "authors", "doi", "evidence", "note")
    frame = literature.read_file(root, PAPER, (*texts, "value", "year"))
    try:
        frame = frame.astype({"value": np.float64, "year": np.int64})
    except ValueError as error:
        raise UserError(f"{PAPER}: {error}") from None
    return frame[frame["corpus"] == corpus]


def _search(path: Path) -> pd.DataFrame:
    columns = ["config", "overrides", "protocol", "seed", "fold", "epochs", "war", "uar", "seconds"]
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    frame = read_csv(path, columns)
    for row in frame.to_dict("records"):
        try:
            if not all(0 <= float(row[key]) <= 1 for key in ("war", "uar")):
                raise ValueError("war and uar must be fractions, 0 to 1")
            float(row["seconds"])
            int(row["seed"])
            int(row["fold"])
            parse_json(row["overrides"])
        except ValueError as error:
            raise UserError(f"{path}, configuration {row['config']}: {error}") from None
    return frame
