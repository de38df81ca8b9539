"""The protocol audit: the same model under folds by actor and under folds in which actors are on all sides."""

from __future__ import annotations

from emofuse.data.protocols import RANDOM
from emofuse.evaluation import statistics
from emofuse.report.load import CorpusResults
from emofuse.report.table import NONE, NOT_RUN, Table
from emofuse.report.tables import scores

GAINS = ("WAR, difference", "UAR, difference")
HEADER = [
    "Protocol", "Variant", "Seed", "Split", *(f"{scores.NAMES[metric]} %" for metric in statistics.METRICS),
    *GAINS, "Clips",
]  # fmt: skip
NUMERIC = [False, False, True, False, *([True] * 6)]
AUDIT_NOTE = (
    "The same network, loss, training and seed under folds by actor, and under folds in which each clip has changed places"
    " with another of its emotion, drawn at random, so that every part keeps its size and the actors are on all sides. Difference: at"
    " random less by actor, in points: what the network gains by knowing the voices and faces it is tested on. In"
    " brackets, its 95 % interval: actors are drawn within the folds by actor, and count as often on both sides; for the"
    " figures at random alone, from all actors at once, for all folds together."
)


def audit(corpus: CorpusResults) -> Table:
    """What it is worth to test on actors who were trained on."""
    pairs = []
    for shared in corpus.shared:
        followed = shared.protocol.removeprefix(RANDOM)
        key = (followed, shared.variant, shared.seed)
        pairs += [(run, shared) for run in corpus.runs if (run.protocol, run.variant, run.seed) == key]
    rows, records, origins = [], [], []
    for apart, shared in pairs:
        whole = apart.folds and shared.folds and not apart.missing and not shared.missing
        leak = statistics.leak(apart.tested, shared.tested) if whole else {}
        for run, split in ((apart, "by actor"), (shared, "at random")):
            more = leak if run is shared else {}
            row = [
                run.protocol, run.variant, str(run.seed), split,
                *(scores.spread(run.estimates[metric]) if run.folds else NOT_RUN for metric in statistics.METRICS),
                *(scores.gain(more[metric]) if more else NONE for metric in ("war", "uar")),
                f"{run.clips:,}" if run.folds else NONE,
            ]  # fmt: skip
            rows.append(row)
            origins.append(scores.origins(run, HEADER, NUMERIC, row, others={name: [apart] for name in GAINS}))
            record = scores.record(run) | {"split": split, "clips": run.clips}
            for metric in statistics.METRICS:
                record |= scores.difference_record(metric, more.get(metric), ("mean", "low", "high"))
            records.append(record)
    notes = [AUDIT_NOTE, scores.SCORES_NOTE, *scores.incomplete_note(run for pair in pairs for run in pair)]
    if not pairs:
        notes = [f"Nothing to compare: params.yaml lists no {RANDOM} protocol for this corpus."]
    return Table(
        name="audit",
        title=f"What shared actors are worth, {corpus.title}",
        header=HEADER,
        numeric=NUMERIC,
        rows=rows,
        records=records or [{"variant": NOT_RUN}],
        notes=notes,
        warning=corpus.warning,
        origins=origins,
    )
