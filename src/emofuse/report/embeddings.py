"""Measures of what a network has learned: how its embeddings cluster, and its distances between emotions.

Embeddings and models are not in git: a missing file is None. A file that belongs to another evaluation is a `UserError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from emofuse.evaluation import statistics
from emofuse.paths import RunKey
from emofuse.report.load import EVALUATE_AGAIN, CorpusResults, Fold, Run
from emofuse.utils.errors import UserError
from emofuse.utils.files import parse_json, read_csv

MEASURES = ("intra", "inter", "ratio", "silhouette_emotion", "silhouette_actor")


@dataclass(frozen=True)
class Embedded:
    """The test clips of a fold: unit embeddings (clips, E), and the emotion and actor of each clip."""

    unit: NDArray[np.float64]
    emotions: NDArray[np.str_]
    actors: NDArray[Any]

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        """The Euclidean distances between the clips (clips, clips), 0 to 2, as in the metric losses."""
        squared = 2 - 2 * self.unit @ self.unit.T
        np.fill_diagonal(squared, 0)
        return np.asarray(np.sqrt(squared.clip(0)))


def key(corpus: CorpusResults, run: Run, fold: Fold) -> RunKey:
    """Identifies a fold of a run."""
    return RunKey(corpus.name, run.protocol, run.variant, run.seed, fold.fold)


def read(corpus: CorpusResults, run: Run, fold: Fold) -> Embedded | None:
    """The L2-normalised embeddings of a fold. Raises `UserError` if they do not match its predictions."""
    run_key = key(corpus, run, fold)
    name, path = Path(run_key.results), corpus.root / run_key.embeddings
    if not path.is_file():
        return None
    clips = read_csv(corpus.root / run_key.predictions, ("actor", "emotion"))
    try:
        with safe_open(path, "np") as stored:
            values = stored.get_tensor("embeddings").astype(np.float64)
    except SafetensorError as error:
        raise UserError(f"{name / path.name} is broken ({error}); {EVALUATE_AGAIN}") from None
    if values.ndim != 2 or len(values) != len(clips) or not np.isfinite(values).all():
        raise UserError(
            f"{name}: embeddings.safetensors does not have one row of numbers per row of predictions.csv; {EVALUATE_AGAIN}"
        )
    return Embedded(
        values / np.linalg.norm(values, axis=1, keepdims=True).clip(1e-12),
        clips["emotion"].to_numpy(np.str_),
        statistics.actor_array(clips["actor"]),
    )


def measure(distances: NDArray[np.float64], emotions: NDArray[np.str_], actors: NDArray[Any]) -> dict[str, float]:
    """The MEASURES of some clips, from their distances (clips, clips); NaN if undefined, such as for a single emotion.

    `intra` and `inter` are the mean distances over all pairs of clips of the same emotion, and of different emotions.
    Silhouettes (Rousseeuw, J. Comput. Appl. Math. 20, 1987, pages 53-65) are scikit-learn's, on the same distances.
    """
    pairs = np.triu_indices(len(distances), 1)
    same = emotions[pairs[0]] == emotions[pairs[1]]
    between = distances[pairs]
    intra = float(between[same].mean()) if same.any() else np.nan
    inter = float(between[~same].mean()) if not same.all() else np.nan
    return {
        "intra": intra,
        "inter": inter,
        "ratio": intra / inter if inter else np.nan,
        "silhouette_emotion": _silhouette(distances, emotions),
        "silhouette_actor": _silhouette(distances, actors),
    }


def _silhouette(distances: NDArray[np.float64], labels: NDArray[np.str_] | NDArray[np.int64]) -> float:
    from sklearn.metrics import silhouette_score  # takes a second to import, and most reports have no embeddings

    if not 2 <= len(np.unique(labels)) < len(labels):
        return np.nan
    return float(silhouette_score(distances, labels, metric="precomputed"))


def compactness(seeds: Sequence[Sequence[Embedded]]) -> dict[str, statistics.Estimate]:
    """The MEASURES of a variant, from the folds of each seed: mean, standard deviations, 95 % confidence interval.

    Every seed has the same folds and clips. The interval is the mean ± t standard errors. Their squares are the sum of two
    variances: that between seeds, divided by their number, and the jackknife's over actors. For the latter, each actor is
    left out of its fold in turn, and the variances (n - 1) / n Σ (x_a - x̄)² of the folds' n actors are summed (Efron and
    Stein, Ann. Stat. 9, 1981, pages 586-596). t is Student's with the degrees of freedom of Satterthwaite (Biometrics
    Bulletin 2, 1946, pages 110-114). The bootstrap of `statistics` does not apply: these are means over pairs of clips, and
    an actor drawn twice would form pairs with itself. There is no interval if there are too few actors. A measure that is
    undefined in some fold is NaN.
    """
    from scipy.stats import t

    by_fold = list(zip(*seeds, strict=True))
    whole_FSM = np.array(
        [[_values(clips, np.ones(len(clips.actors), dtype=bool)) for clips in fold] for fold in by_fold]
    )
    variances = []
    freedom = 0
    for fold in by_fold:
        actors = fold[0].actors
        names = np.unique(actors)
        left = np.array([np.mean([_values(clips, actors != name) for clips in fold], axis=0) for name in names])
        variances.append((len(names) - 1) * left.var(0) if len(names) > 1 else np.full(len(MEASURES), np.nan))
        freedom += len(names) - 1
    of_actors = np.sum(variances, axis=0) / len(by_fold) ** 2
    several = len(seeds) > 1
    of_seeds = whole_FSM.mean(0).var(0, ddof=1) / len(seeds) if several else np.zeros(len(MEASURES))
    found = {}
    for place, name in enumerate(MEASURES):
        mean, sd_folds = statistics.mean_sd(whole_FSM[:, :, place].mean(1).tolist())
        _, sd_seeds = statistics.mean_sd(whole_FSM[:, :, place].mean(0).tolist())
        parts = [(of_actors[place], freedom)] + ([(of_seeds[place], len(seeds) - 1)] if several else [])
        variance = sum(part for part, _ in parts)
        known = freedom > 0 and not np.isnan(variance)
        degrees = variance**2 / sum(part**2 / free for part, free in parts) if known and variance > 0 else freedom
        reach = float(t.ppf(0.975, degrees) * np.sqrt(variance)) if known else np.nan
        low, high = (None, None) if np.isnan(reach) else (mean - reach, mean + reach)
        found[name] = statistics.Estimate(mean, sd_folds, sd_seeds, low, high)
    return found


def _values(clips: Embedded, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    found = measure(clips.distances[np.ix_(kept, kept)], clips.emotions[kept], clips.actors[kept])
    return np.array([found[name] for name in MEASURES])


def model(corpus: CorpusResults, run: Run, fold: Fold) -> Path | None:
    """The weights with which a fold was evaluated; None if the file is missing."""
    weights = corpus.root / key(corpus, run, fold).model
    return weights if weights.is_file() else None


def emotion_distances(corpus: CorpusResults, run: Run) -> NDArray[np.float64]:
    """The distances between emotions (folds, C, C) of the folds whose models are on disk and have them.

    Emotions are in the order of the folds; the mean off the diagonal is 1.
    """
    found = []
    for fold in run.folds:
        path = model(corpus, run, fold)
        if path is None:
            continue
        try:
            with safe_open(path, "np") as stored:
                named = parse_json((stored.metadata() or {})["emofuse"])["emotions"]
                if "emotion_distance" in stored.keys():  # noqa: SIM118
                    matrix = stored.get_tensor("emotion_distance").astype(np.float64)
                    order = [named.index(emotion) for emotion in fold.emotions]
                    found.append(matrix[np.ix_(order, order)])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not an emofuse model ({error}): delete it and train again") from None
    size = len(run.folds[0].emotions) if run.folds else 0
    return np.array(found).reshape(-1, size, size)


def classical_map(distances: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Classical multidimensional scaling to (points, 2), and the share of the variance that it explains.

    Half the squared distances, centred by row and column, are the points' negative inner products; the map consists of
    their two principal axes. The share is that of the two largest eigenvalues in all positive ones: 1 if the distances fit
    a plane (Torgerson, Psychometrika 17, 1952, pages 401-419).
    """
    squared = np.square(distances)
    centred = squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean()
    values, axes = np.linalg.eigh(-centred / 2)
    values, axes = values[::-1].clip(0), axes[:, ::-1]
    return axes[:, :2] * np.sqrt(values[:2]), float(values[:2].sum() / values.sum()) if values.any() else 1.0


def aligned(points: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (n, 2) centred, rotated and mirrored, but not scaled, to match others best (orthogonal Procrustes)."""
    centred = points - points.mean(0)
    left, _, right = np.linalg.svd(centred.T @ (target - target.mean(0)))
    return np.asarray(centred @ left @ right)
