"""The ablations: variants compared with `proposed`, by modality, attention, fusion and loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from emofuse import config as parameters
from emofuse.evaluation import statistics
from emofuse.evaluation.text import SCORES_NOTE
from emofuse.report.load import CorpusResults, Method
from emofuse.report.table import NOT_RUN, Column, Table, frame
from emofuse.report.tables import scores
from emofuse.report.tables.published import VERDICT, VERDICTS_NOTE, verdict_on_variant, verdict_record
from emofuse.utils.text import NONE, percent

COMPARISON_NOTE = (
    "Difference: the variant's WAR minus that of proposed, in points, if both were tested with the same seeds on the same"
    " clips, with its 90 % confidence interval in brackets; both variants are resampled with the same actors and seeds."
    " p: two-sided permutation test that swaps the two variants' predictions actor by actor, in all folds"
    f" and seeds at once, for {statistics.EXCHANGES:,} random permutations, or for all of them with up to {statistics.EXACT}"
    " actors. It is corrected for all comparisons in the table by Holm's method; verdicts are not."
)
BASELINES_NOTE = (
    f"{', '.join(scores.PLAIN)}: plain networks, for comparison. paper_reading: the audio branch in the paper's literal"
    " reading."
)
BAYES_NOTE = "Bayes accuracy: the highest accuracy that any method can reach on these clips, computed exactly."
PAPER_NOTE = (
    "The paper's values for these rows were not available to us, because only its abstract was. Each row is compared with our"
    " own proposed network instead."
)


BASELINES = (*scores.PLAIN, "paper_reading")  # in every group


@dataclass(frozen=True)
class Group:
    """Variants that differ from `proposed` in one component of the method, which are compared with it and BASELINES."""

    title: str
    component: str  # the header of its column
    variants: tuple[str, ...]
    describe: Callable[[parameters.Run], str]  # the component of a variant


def _modalities(setup: parameters.Run) -> str:
    return " + ".join(sorted(setup.network.modalities))


def _fusion(setup: parameters.Run) -> str:
    if not isinstance(setup.network, parameters.Network):
        return setup.network.factory
    return setup.network.fusion if len(setup.network.modalities) == 2 else "none, one modality"


def _attention(setup: parameters.Run) -> str:
    """The form of each attention of the network."""
    if not isinstance(setup.network, parameters.Network):
        return setup.network.factory
    names: dict[str, list[str]] = defaultdict(list)
    for name, form in setup.network.attention.model_dump().items():
        if form != "none" and ("audio" if name == "audio_temporal" else "video") in setup.network.modalities:
            names[form].append(name)
    return "; ".join(f"{form}: {', '.join(attentions)}" for form, attentions in names.items()) or "none"


GROUPS = {
    "modality": Group("Modalities", "Modality", ("proposed", "audio_only", "video_only", *BASELINES), _modalities),
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
        _fusion,
    ),
    "loss": Group(
        "Loss",
        "Metric loss",
        ("proposed", "cross_entropy", "triplet", "polarity", "fixed_distance"),
        lambda setup: setup.loss.metric,
    ),
}  # fmt: skip


def modality(corpus: CorpusResults) -> Table:
    """Audio, video, or both."""
    return _comparison(corpus, "modality")


def attention(corpus: CorpusResults) -> Table:
    """The network without some of its attentions, and with VAANet's."""
    return _comparison(corpus, "attention")


def fusion(corpus: CorpusResults) -> Table:
    """Ways to combine audio and video."""
    return _comparison(corpus, "fusion")


def loss(corpus: CorpusResults) -> Table:
    """Metric losses added to the cross entropy."""
    return _comparison(corpus, "loss")


def members(corpus: CorpusResults, variants: Sequence[str]) -> list[Method]:
    """Some variants that the corpus runs, sorted by protocol and variant."""
    return sorted(
        (method for method in corpus.methods if method.variant in variants),
        key=lambda method: (list(corpus.clips).index(method.protocol), variants.index(method.variant)),
    )


def _comparison(corpus: CorpusResults, name: str) -> Table:
    """The variants of a group compared with `proposed` and, for the demo, with the Bayes accuracy."""
    group = GROUPS[name]
    methods = members(corpus, tuple(dict.fromkeys((*group.variants, *BASELINES))))
    if {method.variant for method in methods} & set(group.variants) <= {"proposed"}:
        others = ", ".join(group.variants[1:])
        columns = []
        notes = [f"Nothing to compare: params.yaml lists none of {others} for this corpus."]
        notes += [f"{group.component} of proposed: {group.describe(method.setup)}." for method in methods[:1]]
    else:
        columns = _columns(corpus, name)
        notes = [
            *scores.plain_note(corpus),
            SCORES_NOTE,
            COMPARISON_NOTE,
            VERDICTS_NOTE,
            *([PAPER_NOTE] if corpus.in_paper else []),
        ]
        notes += [BASELINES_NOTE] if any(method.variant in BASELINES for method in methods) else []
        notes += [*scores.incomplete_note(methods), *([BAYES_NOTE] if corpus.bayes else [])]
    return Table(
        name=name,
        title=f"{group.title}, {corpus.title}",
        frame=_frame(corpus, name, methods) if methods else frame([{"variant": NOT_RUN}]),
        columns=columns,
        notes=notes,
        warning=corpus.warning,
    )


def _columns(corpus: CorpusResults, name: str) -> list[Column]:
    columns = [
        scores.PROTOCOL,
        scores.VARIANT,
        Column(GROUPS[name].component, name),
        *scores.columns(),
        scores.difference_column("Difference", "war_difference", "difference_runs", level="_90"),
        VERDICT,
        Column("p (Holm)", "war_difference_p_holm", scores.p_value, numeric=True, runs="p_runs"),
    ]
    if corpus.bayes:
        columns.append(Column("Bayes accuracy %", "bayes", percent, numeric=True))
        columns.append(Column("WAR / Bayes", "war_over_bayes", "{:.3f}".format, NOT_RUN, numeric=True, runs="runs"))
    return columns


def _frame(corpus: CorpusResults, name: str, methods: Sequence[Method]) -> pd.DataFrame:
    proposed = {method.protocol: method for method in methods if method.variant == "proposed"}
    rows = []
    for method in methods:
        row = scores.record(method) | {name: GROUPS[name].describe(method.setup)}
        reference = proposed.get(method.protocol)
        found = method.against(reference) if reference and reference is not method else {}
        for metric in statistics.METRICS:
            difference = f"{metric}_difference"
            row |= scores.difference_record(difference, found.get(metric), (*scores.DIFFERENCE, "p"))
            row[f"{difference}_p_holm"] = None
        row |= verdict_record(method, verdict_on_variant(found["war"], method) if found else NONE)
        row["difference_runs"] = f"{method.keys} {reference.keys}" if found and reference else None
        row |= _bayes(corpus, method)
        rows.append(row)
    table = frame(rows)
    compared = table["difference_runs"].notna()
    for metric in statistics.METRICS:
        corrected = statistics.holm(table.loc[compared, f"{metric}_difference_p"].tolist())
        table[f"{metric}_difference_p_holm"] = pd.Series(corrected, table.index[compared], dtype=float)
    # Holm's correction makes each p-value depend on every comparison of the table.
    everything = " ".join(table.loc[compared, "difference_runs"])
    table["p_runs"] = [" ".join(dict.fromkeys([*method.keys.split(), *everything.split()])) for method in methods]
    table["p_runs"] = table["p_runs"].where(compared)
    return table


def _bayes(corpus: CorpusResults, method: Method) -> dict[str, Any]:
    best = corpus.bayes_accuracy(method)
    if best is None:
        return {}
    return {"bayes": best, "war_over_bayes": method.estimates["war"].mean / best if method.complete else None}
