"""The tables of a report, from its results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emofuse import metrics
from emofuse.report import assumptions as ledger
from emofuse.report import embeddings, statistics
from emofuse.report.literature import PublishedResult
from emofuse.report.results import CorpusResults, Published, Run
from emofuse.report.table import NONE, NOT_RUN, Table, duration, percent, points, ranges

if TYPE_CHECKING:
    from emofuse import params as parameters

NAMES = {"war": "WAR", "uar": "UAR", "macro_f1": "Macro-F1"}

SCORES_NOTE = (
    "Mean ± standard deviation over folds; in brackets, the 95 % interval of that mean from"
    f" {statistics.RESAMPLES:,} resamples of the actors within their folds. WAR is accuracy, UAR the mean recall."
)
COMPARISON_NOTE = (
    "Difference: the variant's WAR less that of proposed, in points, where both were tested on the same clips of the same"
    " folds; in brackets, its 95 % interval, both resampled with the same actors. p: two-sided permutation test; the two"
    " variants' predictions on an actor are exchanged, in all folds together, in"
    f" {statistics.EXCHANGES:,} random ways, or in every way for up to {statistics.EXACT} actors; corrected by Holm's"
    " method for all comparisons of the table."
)
RULE_NOTE = (
    "Verdict: reproduced if the whole corpus was tested and the interval lies within ±2 points of the paper's value;"
    " below or above if the interval lies wholly outside of that; else inconclusive."
    " Not comparable if only part of the corpus was tested, or another task."
)


def spread(estimate: statistics.Estimate) -> str:
    """Mean ± sd, and the interval on the next line."""
    mean = percent(estimate.mean) + (f" ± {percent(estimate.sd)}" if estimate.sd is not None else "")
    return mean + (f"\n[{percent(estimate.low)}, {percent(estimate.high)}]" if estimate.low is not None else "")


def gain(difference: statistics.Difference) -> str:
    """A difference in points, and its interval on the next line."""
    mean = points(100 * difference.mean)
    if difference.low is None or difference.high is None:
        return mean
    return f"{mean}\n[{points(100 * difference.low)}, {points(100 * difference.high)}]"


def chance(p: float | None) -> str:
    """A p-value."""
    return NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def published(corpus: CorpusResults, run: Run) -> Published | None:
    """The paper's WAR for this row, where it has one."""
    return next((value for value in corpus.published if value.metric == "war" and value.variant == run.variant), None)


def judge(corpus: CorpusResults, run: Run) -> str:
    """The verdict on a row, by the rule that `RULE_NOTE` prints; `–` for a variant of which the paper says nothing."""
    if not run.folds:
        return NOT_RUN
    if not corpus.published:
        return "not comparable"
    value = published(corpus, run)
    if value is None:
        return NONE
    war = run.estimates["war"]
    if not (corpus.comparable and corpus.is_whole(run)) or war.low is None or war.high is None:
        return "not comparable"
    return statistics.verdict(100 * war.low, 100 * war.high, value.value)


def _record(run: Run) -> dict[str, Any]:
    status = NOT_RUN if not run.folds else "incomplete" if run.missing else "run"
    record: dict[str, Any] = {"protocol": run.protocol, "variant": run.variant, "seed": run.seed, "status": status}
    for metric in statistics.METRICS:
        estimate = run.estimates.get(metric)
        for key in ("mean", "sd", "low", "high"):
            record[f"{metric}_{key}"] = getattr(estimate, key) if estimate else None
    return record


def _main_row(corpus: CorpusResults, run: Run) -> tuple[list[str], dict[str, Any]]:
    value = published(corpus, run)
    verdict = judge(corpus, run)
    folds = str(len(run.folds)) if not run.missing else f"{len(run.folds)} of {len(run.planned)}"
    difference = None
    if value and verdict not in (NOT_RUN, "not comparable", NONE):
        difference = 100 * run.estimates["war"].mean - value.value
    row = [
        run.protocol, run.variant, str(run.seed),
        *(spread(run.estimates[metric]) if run.folds else NOT_RUN for metric in statistics.METRICS),
        f"{value.value:.2f}" if value else NONE,
        NONE if difference is None else points(difference),
        verdict,
        *([f"{run.clips:,}", str(len(run.actors))] if run.folds else [NONE, NONE]),
        folds, duration(run.seconds),
    ]  # fmt: skip
    record = _record(run) | {
        "paper_war_percent": value.value if value else None,
        "difference_points": difference,
        "verdict": verdict,
        "clips": run.clips,
        "actors": len(run.actors),
        "folds": len(run.folds),
        "folds_planned": len(run.planned),
        "seconds": run.seconds,
    }
    return row, record


MAIN_HEADER = [
    "Protocol", "Variant", "Seed", "WAR %", "UAR %", "Macro-F1 %", "Paper's WAR %", "Difference", "Verdict",
    "Clips", "Actors", "Folds", "Training time",
]  # fmt: skip
MAIN_NUMERIC = [False, False, True, True, True, True, True, True, False, True, True, True, True]


def _source_notes(corpora: Sequence[CorpusResults]) -> list[str]:
    """Where the paper's values come from and what is not known of them."""
    values = [(corpus, value) for corpus in corpora for value in corpus.published]
    sources: dict[tuple[str, int, str, str], None] = {
        (value.authors, value.year, value.doi, value.evidence): None for _, value in values
    }
    notes = [f"Paper: {authors} {year}, doi {doi}; {evidence}." for authors, year, doi, evidence in sources]
    return notes + [f"{corpus.title}, {value.variant}: {value.note}." for corpus, value in values if value.note]


def _time_note(runs: Iterable[Run]) -> list[str]:
    """What the training times were measured on, as the records of the folds say."""
    machines = sorted(
        {
            f"{fold.record.get('device', 'unknown device')}, {fold.record.get('threads', '?')} thread(s)"
            for run in runs
            for fold in run.folds
            if fold.record
        }
    )
    return [f"Training time: the sum over folds, measured ({'; '.join(machines)})."] if machines else []


def _incomplete_note(runs: Iterable[Run]) -> list[str]:
    """Which of the runs lack which folds."""
    lacking = [
        f"{run.variant} (seed {run.seed}, {run.protocol}) lacks fold {ranges(run.missing)}"
        for run in runs
        if run.folds and run.missing
    ]
    return [f"Incomplete, over the folds that were run: {'; '.join(lacking)}."] if lacking else []


def main(corpus: CorpusResults) -> Table:
    """Each protocol, variant and seed: scores beside the paper's value, with the verdict."""
    made = [_main_row(corpus, run) for run in corpus.runs]
    notes = [SCORES_NOTE, RULE_NOTE if corpus.published else _incomparable(corpus)]
    return Table(
        name="main",
        title=f"Main result, {corpus.title}",
        header=MAIN_HEADER,
        numeric=MAIN_NUMERIC,
        rows=[row for row, _ in made],
        records=[record for _, record in made],
        notes=[*notes, *_incomplete_note(corpus.runs), *_time_note(corpus.runs), *_source_notes([corpus])],
        warning=corpus.warning,
    )


def _incomparable(corpus: CorpusResults) -> str:
    why = "made clips" if corpus.kind == "demo" else " and ".join(corpus.modalities) + " alone, of a corpus with both"
    if len(corpus.modalities) == 2 and corpus.kind != "demo":
        why = "not one of the paper's corpora"
    return f"Verdict: not comparable with the paper ({why})."


def paper(corpora: Sequence[CorpusResults]) -> Table:
    """The main table over the paper's corpora."""
    made = [(corpus, *_main_row(corpus, run)) for corpus in corpora for run in corpus.runs]
    return Table(
        name="paper",
        title="Main result, the paper's corpora",
        header=["Corpus", *MAIN_HEADER],
        numeric=[False, *MAIN_NUMERIC],
        rows=[[corpus.title, *row] for corpus, row, _ in made],
        records=[{"corpus": corpus.name} | record for corpus, _, record in made],
        notes=[
            SCORES_NOTE,
            RULE_NOTE,
            *_time_note(run for corpus in corpora for run in corpus.runs),
            *_source_notes(corpora),
        ],
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


def _of(corpus: CorpusResults, group: Group) -> list[Run]:
    """The runs of a group, by protocol and seed, in its order."""
    return sorted(
        (run for run in corpus.runs if run.variant in group.variants),
        key=lambda run: (list(corpus.clips).index(run.protocol), run.seed, group.variants.index(run.variant)),
    )


def _comparison(corpus: CorpusResults, name: str) -> Table:
    """The variants of a group beside `proposed`; on the demo, beside the best that any method can do."""
    group = GROUPS[name]
    runs = _of(corpus, group)
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
            *(spread(run.estimates[metric]) if run.folds else NOT_RUN for metric in statistics.METRICS),
            gain(found["war"]) if found else NONE, chance(corrected["war"].get(place)),
        ]  # fmt: skip
        record = _record(run) | {name: group.tell(run.setup)}
        for metric in statistics.METRICS:
            for key in ("mean", "low", "high", "p"):
                column = f"{metric}_difference" + ("" if key == "mean" else f"_{key}")
                record[column] = getattr(found[metric], key) if found else None
            record[f"{metric}_difference_p_holm"] = corrected[metric].get(place)
        best = corpus.best(run)
        if best is not None:
            ratio = run.estimates["war"].mean / best if run.folds else None
            row += [percent(best), NOT_RUN if ratio is None else f"{ratio:.3f}"]
            record |= {"bayes": best, "war_over_bayes": ratio}
        rows.append(row)
        records.append(record)
    header = ["Protocol", "Seed", "Variant", group.part, *(f"{NAMES[metric]} %" for metric in statistics.METRICS)]
    header += ["Difference", "p (Holm)", *(["Bayes accuracy %", "WAR / Bayes"] if corpus.bayes else [])]
    notes = [SCORES_NOTE, COMPARISON_NOTE, *_incomplete_note(runs)]
    if corpus.bayes:
        notes.append("Bayes accuracy: the best that any method can reach on these clips, by exact arithmetic.")
    if {run.variant for run in runs} <= {"proposed"}:
        others = ", ".join(group.variants[1:])
        rows, notes = [], [f"Nothing to compare: params.yaml lists none of {others} for this corpus."]
        notes += [f"{group.part} of proposed: {group.tell(run.setup)}." for run in runs[:1]]
    return Table(
        name=name,
        title=f"{group.title}, {corpus.title}",
        header=header,
        numeric=[False, True, False, False, *([True] * (len(header) - 4))],
        rows=rows,
        records=records or [{"variant": NOT_RUN}],
        notes=notes,
        warning=corpus.warning,
    )


COMPACTNESS_HEADER = [
    "Protocol", "Seed", "Variant", "Metric loss", "Intra-emotion", "Inter-emotion", "Intra / inter",
    "Silhouette, emotion", "Silhouette, actor", "Folds",
]  # fmt: skip
COMPACTNESS_NOTE = (
    "Of the test embeddings of each fold, L2-normalised: the mean Euclidean distance (0 to 2) over all pairs of clips of one"
    " emotion (intra) and of two (inter), and the first over the second: the smaller, the more compact. Silhouette"
    " (−1 to 1): 1 where clips lie close to their own kind and far from every other, 0 where kinds lie one upon the"
    " other; that by actor says whether clips gather by who speaks."
)
COMPACTNESS_INTERVAL_NOTE = (
    "Here the 95 % interval of the mean over folds is the jackknife's, which leaves out each actor of a fold in turn: of"
    " actors drawn with replacement, as in the other tables, some would make pairs with themselves."
)
NO_EMBEDDINGS = "embeddings not here"


def compactness(corpus: CorpusResults) -> Table:
    """How close the clips of an emotion lie together, by metric loss, and whether clips gather by emotion or by actor."""
    group = GROUPS["loss"]
    runs = _of(corpus, group)
    rows, records = [], []
    for run in runs:
        read = [embeddings.read(corpus, run, fold) for fold in run.folds]
        here = [clips for clips in read if clips is not None]
        found = embeddings.compactness(here) if here else {}
        absent = NO_EMBEDDINGS if run.folds else NOT_RUN
        rows.append([
            run.protocol, str(run.seed), run.variant, group.tell(run.setup),
            *(_apart(found[measure]) if found else absent for measure in embeddings.MEASURES),
            str(len(here)) if len(here) == len(run.planned) else f"{len(here)} of {len(run.planned)}",
        ])  # fmt: skip
        records.append(
            {
                "protocol": run.protocol, "variant": run.variant, "seed": run.seed, "loss": group.tell(run.setup),
                "status": absent if not here else "incomplete" if len(here) < len(run.planned) else "run",
                "folds": len(here),
            }
            | {
                f"{measure}_{key}": getattr(found[measure], key) if found else None
                for measure in embeddings.MEASURES
                for key in ("mean", "sd", "low", "high")
            }
        )  # fmt: skip
    notes = [COMPACTNESS_NOTE, COMPACTNESS_INTERVAL_NOTE]
    if any(NO_EMBEDDINGS in row for row in rows):
        notes.append("The embeddings are not in git: dvc pull fetches them, where a remote has them.")
    return Table(
        name="compactness",
        title=f"Compactness of the embeddings, {corpus.title}",
        header=COMPACTNESS_HEADER,
        numeric=[False, True, False, False, *([True] * 6)],
        rows=rows,
        records=records or [{"variant": NOT_RUN}],
        notes=notes,
        warning=corpus.warning,
    )


def _apart(estimate: statistics.Estimate) -> str:
    """A distance or a silhouette: mean ± sd, and the interval on the next line."""
    if np.isnan(estimate.mean):
        return NONE
    mean = number(estimate.mean) + (f" ± {number(estimate.sd)}" if estimate.sd is not None else "")
    if estimate.low is None or estimate.high is None:
        return mean
    return f"{mean}\n[{number(estimate.low)}, {number(estimate.high)}]"


def number(value: float) -> str:
    """A number that is no percentage."""
    return f"{value:z.3f}".replace("-", "−")


LITERATURE_HEADER = [
    "Method", "Modality", "WAR %", "UAR %", "Comparable", "Protocol", "Pre-training", "Figure from",
]  # fmt: skip


def literature(corpus: CorpusResults) -> Table:
    """Published results: first those that may be compared with ours, ours among them, then the others with the reason."""
    variants = {corpus.leading[0].variant, *GROUPS["modality"].variants}
    ours = [run for run in corpus.runs if run.variant in variants]
    made = [_own_row(corpus, run) for run in ours] + [_published_row(result) for result in corpus.literature]
    modalities = list(dict.fromkeys(record["modality"] for _, record in made[: len(ours)]))
    shown = [(row, record) for row, record in made if record["modality"] in modalities]
    shown.sort(
        key=lambda one: (one[1]["incomparable"] != "", modalities.index(one[1]["modality"]), -(one[1]["war"] or 0))
    )
    remarks: dict[str, list[str]] = defaultdict(list)
    for result in corpus.literature:
        if result.note and result.modality in modalities:
            remarks[result.note].append(f"{result.method} ({result.authors} {result.year})")
    notes = [LITERATURE_NOTE, SCORES_NOTE, *_absence_notes(corpus, modalities)]
    notes += [f"{'; '.join(methods)}: {remark}." for remark, methods in remarks.items()]
    if corpus.kind == "demo":
        shown, notes = [], ["Made clips: nothing is published on them."]
    return Table(
        name="literature",
        title=f"Published results, {corpus.title}",
        header=LITERATURE_HEADER,
        numeric=[False, False, True, True, False, False, False, False],
        rows=[row for row, _ in shown],
        records=[record for _, record in shown] or [{"method": "none published"}],
        notes=notes,
        warning=corpus.warning,
        widths=(0.14, 0.06, 0.06, 0.06, 0.11, 0.11, 0.08, 0.1),
    )


LITERATURE_NOTE = (
    "Comparable: the same corpus with all its clips, but for a few broken ones, the same modality, labels and emotions,"
    " no actor both trained and tested on; in order of WAR. Then the others, each with the reason why not. Pre-training is no part of this rule. Second-hand:"
    " read where others quote it; what was read where is in the CSV file."
)


def _own_row(corpus: CorpusResults, run: Run) -> tuple[list[str], dict[str, Any]]:
    why, shared = "", run.protocol.startswith("random_")
    if shared:
        why = "random split: actors are on both sides"
    elif run.folds and not corpus.is_whole(run):
        why = f"part of the corpus: {run.clips:,} clips of {len(run.actors)} actors"
    scores = [spread(run.estimates[metric]) if run.folds else NOT_RUN for metric in ("war", "uar")]
    weights = [getattr(run.setup.network, modality).weights for modality in sorted(run.setup.network.modalities)]
    pretraining = ", ".join(name for name in weights if name != "none") or "none"
    row = [
        f"{run.variant}\n(this report, seed {run.seed})", run.modality.replace("_", " + "), *scores, why or "ours",
        run.protocol, pretraining, "this report",
    ]  # fmt: skip
    numbers = _record(run)
    record = {
        "method": run.variant, "authors": "this report", "year": None, "modality": run.modality,
        "classes": len(run.folds[0].emotions) if run.folds else None, "protocol": run.protocol,
        "subject_independent": "no" if shared else "yes", "seed": run.seed,
        "status": numbers["status"], "pretraining": pretraining, "incomparable": why,
    }  # fmt: skip
    for metric in ("war", "uar"):
        record |= {metric: numbers[f"{metric}_mean"]}
        record |= {f"{metric}_{key}": numbers[f"{metric}_{key}"] for key in ("sd", "low", "high")}
    return row, record


def _published_row(result: PublishedResult) -> tuple[list[str], dict[str, Any]]:
    row = [
        f"{result.method}\n({result.authors} {result.year})", result.modality.replace("_", " + "), result.war or NONE,
        result.uar or NONE, result.incomparable or "yes", result.protocol, result.pretraining,
        f"{result.source}\n({result.evidence.partition(';')[0]})",
    ]  # fmt: skip
    fractions = {key: round(float(text) / 100, 6) if (text := getattr(result, key)) else None for key in ("war", "uar")}
    return row, asdict(result) | {"status": "published"} | fractions


def _absence_notes(corpus: CorpusResults, modalities: Sequence[str]) -> list[str]:
    """The modalities of ours in which nothing published qualifies, and what is published in none of ours."""
    fit = {result.modality for result in corpus.literature if not result.incomparable}
    lacking = [modality.replace("_", " + ") for modality in modalities if modality not in fit]
    others = sum(result.modality not in modalities for result in corpus.literature)
    notes = [f"No published figure that we know of is comparable in {', nor in '.join(lacking)}."] if lacking else []
    return notes + ([f"Left out: {others} figures in modalities that no run here has."] if others else [])


def recall(corpus: CorpusResults) -> Table:
    """The recall of each emotion by variant, pooled over folds, beside that of human listeners in the same modalities."""
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in corpus.runs:
        groups[run.protocol, run.seed].append(run)
    variants = list(dict.fromkeys(run.variant for run in corpus.runs))
    heard = {
        modality: corpus.listeners.shares[modality]
        for modality in dict.fromkeys(run.modality for run in corpus.runs)
        if modality in corpus.listeners.shares
    }
    rows: list[list[str]] = []
    records: list[dict[str, Any]] = []
    for (protocol, seed), runs in groups.items():
        by_variant = {run.variant: run for run in runs if run.folds}
        known = [run.folds[0].emotions for run in by_variant.values()] + [tuple(shares) for shares in heard.values()]
        if not by_variant:
            records.append({"protocol": protocol, "seed": seed, "variant": NOT_RUN})
        if not known:
            rows.append([protocol, str(seed), NOT_RUN, NONE, *([NOT_RUN] * len(variants))])
            continue
        recalls = {variant: metrics.recall(run.confusion) for variant, run in by_variant.items()}
        pooled = {variant: float(metrics.scores(run.confusion)["uar"]) for variant, run in by_variant.items()}
        for index, emotion in enumerate(known[0]):
            counts = {int(run.confusion[index].sum()) for run in by_variant.values()}
            rows.append([
                protocol, str(seed), emotion, "/".join(f"{count:,}" for count in sorted(counts)) or NONE,
                *(percent(float(recalls[variant][index])) if variant in recalls else NOT_RUN for variant in variants),
                *(percent(shares[emotion].share) if emotion in shares else NONE for shares in heard.values()),
            ])  # fmt: skip
            records += [
                {
                    "protocol": protocol, "seed": seed, "variant": variant, "emotion": emotion,
                    "clips": int(by_variant[variant].confusion[index].sum()), "recall_pooled": float(values[index]),
                }
                for variant, values in recalls.items()
            ]  # fmt: skip
        totals = sorted({run.clips for run in by_variant.values()})
        rows.append([
            protocol, str(seed), "mean (pooled UAR)", "/".join(f"{total:,}" for total in totals) or NONE,
            *(percent(pooled[variant]) if variant in pooled else NOT_RUN for variant in variants),
            *(percent(float(np.mean([share.share for share in shares.values()]))) for shares in heard.values()),
        ])  # fmt: skip
    records += [
        {"variant": f"listeners, {modality}", "emotion": emotion, "votes": share.votes, "share": share.share}
        for modality, shares in heard.items()
        for emotion, share in shares.items()
    ]
    return Table(
        name="recall",
        title=f"Recall of each emotion in %, {corpus.title}",
        header=[
            "Protocol", "Seed", "Emotion", "Clips", *variants,
            *(f"listeners, {modality.replace('_', ' + ')}" for modality in heard),
        ],
        numeric=[False, True, False, True, *([True] * (len(variants) + len(heard)))],
        rows=rows,
        records=records,
        notes=[
            "Pooled: all tested clips of all folds in one matrix, so that the last line may differ from the mean over"
            " folds in the main table.",
            corpus.listeners.note,
        ],
        warning=corpus.warning,
    )  # fmt: skip


def folds(corpus: CorpusResults) -> Table:
    """Each fold: who was tested, and how well."""
    rows, records = [], []
    for run in corpus.runs:
        there = {fold.fold: fold for fold in run.folds}
        for number in run.planned:
            fold = there.get(number)
            key = {"protocol": run.protocol, "variant": run.variant, "seed": run.seed, "fold": number}
            name = [run.protocol, run.variant, str(run.seed), str(number)]
            if fold is None:
                rows.append([*name, NONE, NONE, NOT_RUN, NOT_RUN, NOT_RUN, NONE, NONE])
                records.append(key | {"status": NOT_RUN})
                continue
            best = fold.record.get("best_epoch") if fold.record else None
            rows.append([
                *name, ranges(map(int, fold.actors)), f"{fold.clips:,}",
                *(percent(fold.scores[metric]) for metric in statistics.METRICS),
                percent(fold.validation["uar"]), NONE if best is None else str(best),
            ])  # fmt: skip
            records.append(
                key
                | {"status": "run"}
                | {"actors": " ".join(map(str, fold.actors)), "clips": fold.clips}
                | fold.scores
                | {f"validation_{name}": value for name, value in fold.validation.items()}
                | {"best_epoch": best}
            )
    return Table(
        name="folds",
        title=f"Accuracy by fold, {corpus.title}",
        header=[
            "Protocol", "Variant", "Seed", "Fold", "Test actors", "Clips", "WAR %", "UAR %", "Macro-F1 %",
            "Validation UAR %", "Kept epoch",
        ],
        numeric=[False, False, True, True, False, True, True, True, True, True, True],
        rows=rows,
        records=records,
        notes=["Validation UAR: of the epoch that was kept, on actors that are neither trained nor tested on."],
        warning=corpus.warning,
    )  # fmt: skip


def _stopped(row: dict[str, str]) -> str:
    return "" if row.get("finished", "true") == "true" else ", stopped"


def search(corpus: CorpusResults) -> Table:
    """The configurations that were tried on validation actors, and which was chosen; raw rows in the CSV."""
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in corpus.search:
        groups[row["config"], row["overrides"]].append(row)
    rows = [
        [
            config,
            overrides or "none",
            ranges(int(row["fold"]) for row in tried),
            "/".join(dict.fromkeys(row["epochs"] + _stopped(row) for row in tried)),
            percent(float(np.mean([float(row["val_war"]) for row in tried]))),
            percent(float(np.mean([float(row["val_uar"]) for row in tried]))),
            duration(sum(float(row["seconds"]) for row in tried)),
            "chosen" if any(row["chosen"] == "true" for row in tried) else "",
        ]
        for (config, overrides), tried in groups.items()
    ]
    return Table(
        name="search",
        title=f"Configurations tried on validation actors, {corpus.title}",
        header=["Configuration", "Overrides", "Folds", "Epochs", "Validation WAR %", "Validation UAR %", "Time", ""],
        numeric=[False, False, False, True, True, True, True, False],
        rows=rows or [[NOT_RUN, *([NONE] * 6), ""]],
        records=[dict(row) for row in corpus.search] or [{"config": NOT_RUN}],
        notes=["Means over the folds tried, on validation actors only: no test clip was looked at to choose."],
        warning=corpus.warning,
    )


def assumptions(corpus: CorpusResults) -> Table:
    """The ledger: each parameter of the leading variant, whose choice it is, and why."""
    rows = []
    for row in corpus.assumptions:
        source, reason = row.source or NONE, row.reason or NONE
        if row.general:
            source, reason = "ours", f"Set for this corpus; in general {row.general} ({source}): {reason}"
        rows.append([row.parameter, row.value, source, reason])
    variant = corpus.leading[0].variant
    return Table(
        name="assumptions",
        title=f"What was assumed, {corpus.title}",
        header=["Parameter", f"Value for {variant}", "Source", "Reason"],
        numeric=[False] * 4,
        rows=rows,
        records=[
            {
                "parameter": row.parameter, "value": row.value, "general_value": row.general or row.value,
                "source": row.source, "reason": row.reason,
            }
            for row in corpus.assumptions
        ],
        notes=[
            "Parameters by their path in params.yaml. Where this corpus has its own value, the CSV file gives the source and"
            " reason of the general one.",
            "Sources: " + "; ".join(f"{label}: {meaning}" for label, meaning in ledger.SOURCES.items()) + ".",
        ],
        warning=corpus.warning,
        widths=(0.29, 0.15, 0.1, 0.3),
    )  # fmt: skip
