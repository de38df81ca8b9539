"""Reads what models of other corpora predict for the clips of a corpus: the content of the table `across`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emofuse.evaluation import statistics
from emofuse.evaluation.calibration import restricted
from emofuse.paths import RunKey, TransferKey
from emofuse.provenance.records import Record
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, read_json

if TYPE_CHECKING:
    from emofuse.config import Corpus, Params

AGAIN = "run the transfer stage of this fold again"


@dataclass(frozen=True)
class Transferred:
    """One fold's model applied to the corpus."""

    key: TransferKey
    clips: tuple[str, ...]
    actors: NDArray[Any]  # (clips,), numbers or names
    labels: NDArray[np.int64]  # (clips,): index of the true emotion among the shared ones
    probabilities: NDArray[np.float64]  # (clips, shared), restricted to the shared emotions; calibrated if the model is
    left_out: dict[str, int]  # why usable clips of the corpus are not among them → how many
    record: Record | None


@dataclass(frozen=True)
class Transfer:
    """A variant of another corpus, with all of its seeds and folds that have results: one row of the table."""

    source: str
    relation: str  # what both corpora are, if their speakers may be the same; "" if nothing suggests it
    development: bool  # whether recipes were selected on the speakers of `source`
    protocol: str
    variant: str
    shared: tuple[str, ...]
    planned: tuple[RunKey, ...]
    folds: tuple[Transferred, ...]

    @property
    def missing(self) -> tuple[RunKey, ...]:
        """The planned folds that have no result."""
        done = {fold.key.run for fold in self.folds}
        return tuple(key for key in self.planned if key not in done)

    @property
    def status(self) -> str:
        """ "run", "incomplete" or "not run"."""
        return "not run" if not self.folds else "incomplete" if self.missing else "run"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds with results."""
        return tuple(dict.fromkeys(fold.key.run.seed for fold in self.folds))

    @property
    def runs(self) -> tuple[str, ...]:
        """The results by seed: their folders in results/<corpus>/runs."""
        return tuple(dict.fromkeys(fold.key.group for fold in self.folds))

    @cached_property
    def estimates(self) -> dict[str, statistics.Estimate]:
        """Each score, with intervals over actors and seeds; empty without results."""
        if not self.folds:
            return {}
        by_seed = []
        for seed in self.seeds:
            models = [fold for fold in self.folds if fold.key.run.seed == seed]
            predicted = np.mean([model.probabilities for model in models], axis=0).argmax(1)
            first = models[0]
            by_seed.append(statistics.actor_confusions(first.actors, first.labels, predicted, len(self.shared)))
        confusions = np.stack([confusions for _, confusions in by_seed], axis=1)
        return statistics.estimates([by_seed[0][0]], [confusions])


def read(corpus: str, params: Params, root: Path) -> tuple[Transfer, ...]:
    """The models of other corpora that params.yaml applies to a corpus, in its order.

    Missing results are not an error. Raises `UserError` if a file is broken or contradicts another.
    """
    target = params.corpus(corpus)
    found = []
    for source, protocols in target.across.items():
        section = params.corpus(source)
        for protocol, variants in protocols.items():
            for variant in variants:
                keys = [
                    key
                    for key in params.transfers(corpus)
                    if (key.run.corpus, key.run.protocol, key.run.variant) == (source, protocol, variant)
                ]
                shared = section.shared_emotions(target)
                folds = tuple(_fold(root, key, shared) for key in keys if (root / key.metrics).is_file())
                for fold in folds[1:]:
                    if fold.clips != folds[0].clips:
                        raise UserError(
                            f"{fold.key.predictions} has other clips than {folds[0].key.predictions}; {AGAIN}"
                        )
                found.append(
                    Transfer(
                        source=source,
                        relation=_relation(target, section),
                        development=section.development,
                        protocol=protocol,
                        variant=variant,
                        shared=shared,
                        planned=tuple(key.run for key in keys),
                        folds=folds,
                    )
                )
    return tuple(found)


def _relation(target: Corpus, source: Corpus) -> str:
    if target.table and source.table:
        return f"listed in corpora/{target.table.folder}" if target.table.folder == source.table.folder else ""
    return f"of kind {target.kind}" if target.kind == source.kind else ""


def _fold(root: Path, key: TransferKey, shared: Sequence[str]) -> Transferred:
    stated = read_json(root / key.metrics)
    try:
        emotions = list(stated["emotions"])
        left_out = {str(why): int(number) for why, number in stated["left_out"].items()}
        columns = [f"p_{emotion}" for emotion in emotions]
        frame = read_csv(
            root / key.predictions, ("clip", "actor", "emotion", *columns), "the transfer stage of this fold"
        )
        labels = np.array([list(shared).index(emotion) for emotion in frame["emotion"]], dtype=np.int64)
        probabilities = np.ascontiguousarray(frame[columns].to_numpy(np.float64))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{key.results}: missing or invalid value ({error!r}); {AGAIN}") from None
    if not len(labels) or (probabilities < 0).any() or not (np.abs(probabilities.sum(1) - 1) < 1e-4).all():
        raise UserError(f"{key.predictions}: the probabilities of a clip do not add up to 1; {AGAIN}")
    return Transferred(
        key=key,
        clips=tuple(frame["clip"]),
        actors=statistics.actor_array(frame["actor"]),
        labels=labels,
        probabilities=restricted(probabilities, emotions, shared),
        left_out=left_out,
        record=Record.read(root, key.record),
    )
