"""The tables of variants beside `proposed`: modality, attention, fusion and loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emofuse.evaluation import statistics
from emofuse.report.load import CorpusResults, Run
from emofuse.report.table import NONE, NOT_RUN, Table, percent
from emofuse.report.tables import scores

if TYPE_CHECKING:
    from emofuse import config as parameters

COMPARISON_NOTE = (
    "Difference: the variant's WAR less that of proposed, in points, where both were tested on the same clips of the same"
    " folds; in brackets, its 95 % interval, both resampled with the same actors. p: two-sided permutation test; the two"
    " variants' predictions on an actor are exchanged, in all folds together, in"
    f" {statistics.EXCHANGES:,} random ways, or in every way for up to {statistics.EXACT} actors; corrected by Holm's"
    " method for all comparisons of the table."
)


@dataclass(frozen=True)
class Group:
    """Variants that differ from `proposed` in one part of the method, and what that part is in each."""

    title: str
    part: str  # the header of its column
    variants: tuple[str, ...]
    tell: Callable[[parameters.Run], str]


def _modalities(setup: parameters.Run) -> str:
    return " + ".join(sorted(setup.network.modalities))


def _attention(setup: parameters.Run) -> str:
    """The form of each attention that the network has."""
    names: dict[str, list[str]] = defaultdict(list)
    for name, form in setup.network.attention.model_dump().items():
        if form != "none" and ("audio" if name == "audio_temporal" else "video") in setup.network.modalities:
            names[form].append(name)
    return "; ".join(f"{form}: {', '.join(having)}" for form, having in names.items()) or "none"


GROUPS = {
    "modality": Group("Modalities", "Modality", ("proposed", "audio_only", "video_only"), _modalities),
    "attention": Group(
        "Attention",
        "Attention",
        (
            "proposed", "no_spatial_attention", "no_channel_attention", "no_temporal_attention", "no_attention",
            "gated_attention",
        ),
        _attention,
    ),
    "fusion": Group(
        "Fusion",
        "Fusion",
        ("proposed", "self_attention_fusion", "concat_fusion", "late_average_fusion"),
        lambda setup: setup.network.fusion if len(setup.network.modalities) == 2 else "none, one modality",
    ),
    "loss": Group(
        "Loss",
        "Metric loss",
        ("proposed", "cross_entropy", "triplet", "polarity", "fixed_distance"),
        lambda setup: setup.loss.metric,
    ),
}  # fmt: skip


def modality(corpus: CorpusResults) -> Table:
    """Audio, video and both."""
    return _comparison(corpus, "modality")


def attention(corpus: CorpusResults) -> Table:
    """The network without some of its attentions, and with the ancestor's."""
    return _comparison(corpus, "attention")


def fusion(corpus: CorpusResults) -> Table:
    """The ways to bring audio and video together."""
    return _comparison(corpus, "fusion")


def loss(corpus: CorpusResults) -> Table:
    """What stands beside the cross entropy."""
    return _comparison(corpus, "loss")


def members(corpus: CorpusResults, group: Group) -> list[Run]:
    """The runs of a group, by protocol and seed, in its order."""
    return sorted(
        (run for run in corpus.runs if run.variant in group.variants),
        key=lambda run: (list(corpus.clips).index(run.protocol), run.seed, group.variants.index(run.variant)),
    )


def _comparison(corpus: CorpusResults, name: str) -> Table:
    """The variants of a group beside `proposed`; on the demo, beside the best that any method can do."""
    group = GROUPS[name]
    runs = members(corpus, group)
    reference = {(run.protocol, run.seed): run for run in runs if run.variant == "proposed"}
    differences = [
        {} if run.variant == "proposed" or not reference else run.against(reference[run.protocol, run.seed])
        for run in runs
    ]
    tested = [place for place, found in enumerate(differences) if found]
    corrected = {
        metric: dict(zip(tested, statistics.holm([differences[place][metric].p for place in tested]), strict=True))
        for metric in statistics.METRICS
    }
    rows, records = [], []
    for place, (run, found) in enumerate(zip(runs, differences, strict=True)):
        row = [
            run.protocol, str(run.seed), run.variant, group.tell(run.setup),
            *(scores.spread(run.estimates[metric]) if run.folds else NOT_RUN for metric in statistics.METRICS),
            scores.gain(found["war"]) if found else NONE, scores.chance(corrected["war"].get(place)),
        ]  # fmt: skip
        record = scores.record(run) | {name: group.tell(run.setup)}
        for metric in statistics.METRICS:
            record |= scores.difference_record(metric, found.get(metric), ("mean", "low", "high", "p"))
            record[f"{metric}_difference_p_holm"] = corrected[metric].get(place)
        best = corpus.best(run)
        if best is not None:
            ratio = run.estimates["war"].mean / best if run.folds else None
            row += [percent(best), NOT_RUN if ratio is None else f"{ratio:.3f}"]
            record |= {"bayes": best, "war_over_bayes": ratio}
        rows.append(row)
        records.append(record)
    header = ["Protocol", "Seed", "Variant", group.part, *(f"{scores.NAMES[one]} %" for one in statistics.METRICS)]
    header += ["Difference", "p (Holm)", *(["Bayes accuracy %", "WAR / Bayes"] if corpus.bayes else [])]
    numeric = [False, True, False, False, *([True] * (len(header) - 4))]
    compared = [one for place in tested for one in (runs[place], reference[runs[place].protocol, runs[place].seed])]
    origins = [
        scores.origins(
            run, header, numeric, row,
            others={"Difference": [reference[run.protocol, run.seed]], "p (Holm)": compared} if found else None,
        )
        for run, row, found in zip(runs, rows, differences, strict=True)
    ]  # fmt: skip
    notes = [scores.SCORES_NOTE, COMPARISON_NOTE, *_absence_note(corpus), *scores.incomplete_note(runs)]
    if corpus.bayes:
        notes.append("Bayes accuracy: the best that any method can reach on these clips, by exact arithmetic.")
    if {run.variant for run in runs} <= {"proposed"}:
        others = ", ".join(group.variants[1:])
        rows, origins, notes = [], [], [f"Nothing to compare: params.yaml lists none of {others} for this corpus."]
        notes += [f"{group.part} of proposed: {group.tell(run.setup)}." for run in runs[:1]]
    return Table(
        name=name,
        title=f"{group.title}, {corpus.title}",
        header=header,
        numeric=numeric,
        rows=rows,
        records=records or [{"variant": NOT_RUN}],
        notes=notes,
        warning=corpus.warning,
        origins=origins,
    )


def _absence_note(corpus: CorpusResults) -> list[str]:
    """Why no value of the paper stands beside these rows."""
    if corpus.kind == "demo":
        return []
    return [
        "The paper's own values of these rows were not available to us, only its abstract was: each row is compared with"
        " our network as proposed."
    ]
