"""The speaker-overlap audit: how much accuracy rises if test actors are also in the training part."""

from __future__ import annotations

from typing import Any

from emofuse.data.protocols import RANDOM
from emofuse.evaluation import statistics
from emofuse.evaluation.text import SCORES_NOTE
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NOT_RUN, Column, Table, count, frame
from emofuse.report.tables import scores
from emofuse.utils.text import NONE

COLUMNS = [
    scores.PROTOCOL,
    scores.VARIANT,
    scores.SEED,
    Column("Split", "split"),
    *scores.columns(),
    scores.difference_column("WAR, difference", "war_difference", "difference_runs"),
    scores.difference_column("UAR, difference", "uar_difference", "difference_runs"),
    Column("Clips", lambda row: count(row["clips"]) if row["clips"] else NONE, numeric=True, runs="runs"),
]
AUDIT_NOTE = (
    "The same network, loss, training and seed, once with folds by actor and once with random folds. For the random folds,"
    " each clip is swapped with a random clip of the same emotion, so that every part keeps its size but actors occur in all"
    " parts. Difference: random minus by actor, in points: how much speaker overlap inflates the score. In brackets, its"
    " 95 % confidence interval: actors are resampled within the folds by actor, with the same weights on both sides. The"
    " interval of the random folds' own scores resamples all actors at once."
)


def audit(corpus: CorpusResults) -> Table:
    """How much speaker overlap between training and test inflates the scores."""
    pairs = [
        (run, random)
        for random in corpus.random_runs
        for run in corpus.runs
        if (run.protocol, run.variant, run.seed) == (random.protocol.removeprefix(RANDOM), random.variant, random.seed)
    ]
    if pairs:
        notes = [AUDIT_NOTE, SCORES_NOTE, *scores.incomplete_note(run for pair in pairs for run in pair)]
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


def _records(by_actor: Run, random: Run) -> list[dict[str, Any]]:
    complete = by_actor.status == random.status == "run"
    leak = statistics.leak(by_actor.tested, random.tested) if complete else {}
    rows = []
    for run, split in ((by_actor, "by actor"), (random, "at random")):
        row = scores.record(run) | {"split": split, "clips": run.clips}
        for metric in statistics.METRICS:
            row |= scores.difference_record(f"{metric}_difference", leak.get(metric) if run is random else None)
        rows.append(row | {"difference_runs": f"{random.key()} {by_actor.key()}"})
    return rows
