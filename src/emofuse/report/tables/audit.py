"""The speaker-overlap audit: how much accuracy rises if test actors are also in the training part."""

from __future__ import annotations

from typing import Any

from emofuse.data.protocols import RANDOM
from emofuse.evaluation import statistics
from emofuse.evaluation.text import SCORES_NOTE
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Column, Table, count, frame
from emofuse.report.tables import scores
from emofuse.utils.text import NONE

COLUMNS = [
    scores.PROTOCOL,
    scores.VARIANT,
    Column("Split", "split"),
    *scores.columns(),
    scores.difference_column("WAR, difference", "war_difference", "difference_runs"),
    scores.difference_column("UAR, difference", "uar_difference", "difference_runs"),
    Column("Clips", lambda row: count(row["clips"]) if row["clips"] else NONE, numeric=True, runs="runs"),
]
AUDIT_NOTE = (
    "The same network, loss and training, with the seeds that both have, once with folds by actor and once with random folds."
    " For the random folds, each clip is swapped with a random clip of the same emotion, so that every part keeps its size but"
    " actors occur in all parts. Difference: random minus by actor, in points: how much speaker overlap inflates the score. In"
    " brackets, its 95 % confidence interval: actors are resampled within the folds by actor, and seeds, with the same weights"
    " on both sides. The interval of the random folds' own scores resamples all actors at once."
)


def audit(corpus: CorpusResults) -> Table:
    """How much speaker overlap between training and test inflates the scores."""
    pairs = [
        _with_common_seeds(by_actor, random)
        for random in corpus.random_methods
        for by_actor in corpus.methods
        if (by_actor.protocol, by_actor.variant) == (random.protocol.removeprefix(RANDOM), random.variant)
    ]
    if pairs:
        notes = [AUDIT_NOTE, SCORES_NOTE, *scores.incomplete_note(method for pair in pairs for method in pair)]
    else:
        notes = [f"Nothing to compare: params.yaml lists no {RANDOM} protocol for this corpus."]
    return Table(
        name="audit",
        title=f"Speaker overlap, {corpus.title}",
        frame=frame([row for pair in pairs for row in _records(*pair)] or [{"variant": NOT_RUN}]),
        columns=COLUMNS if pairs else [],
        notes=notes,
        warning=corpus.warning,
    )


def _with_common_seeds(by_actor: Method, random: Method) -> tuple[Method, Method]:
    """Both with the seeds that have results under both, or with all if there are none."""
    common = [seed for seed in random.seeds if seed in by_actor.seeds]
    return (by_actor.with_seeds(common), random.with_seeds(common)) if common else (by_actor, random)


def _records(by_actor: Method, random: Method) -> list[dict[str, Any]]:
    complete = by_actor.status == random.status == "run" and by_actor.seeds == random.seeds
    leak = statistics.leak(by_actor.tested, random.tested) if complete else {}
    rows = []
    for method, split in ((by_actor, "by actor"), (random, "at random")):
        row = scores.record(method) | {"split": split, "clips": method.clips}
        for metric in statistics.METRICS:
            found = leak.get(metric) if method is random else None
            row |= scores.difference_record(f"{metric}_difference", found, ("mean", "low", "high"))
        rows.append(row | {"difference_runs": f"{random.keys} {by_actor.keys}"})
    return rows
