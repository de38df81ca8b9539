"""The tables of a report: each is made once and written as Markdown, CSV, LaTeX and HTML.

Tables for people are in %; the CSV files hold fractions in full precision, under plain names.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emofuse import metrics
from emofuse.report import statistics
from emofuse.report.results import CorpusResults, Published, Run

NOT_RUN = "not run"
NONE = "–"
NAMES = {"war": "WAR", "uar": "UAR", "macro_f1": "Macro-F1"}
MODALITY = {"audio_only": "audio", "video_only": "video", "proposed": "audio_video"}

SCORES_NOTE = (
    "Mean ± standard deviation over folds; in brackets, the 95 % interval of that mean from"
    f" {statistics.RESAMPLES:,} resamples of the actors within their folds. WAR is accuracy, UAR the mean recall."
)
RULE_NOTE = (
    "Verdict: reproduced if the whole corpus was tested and the interval lies within ±2 points of the paper's value;"
    " below or above if the interval lies wholly outside of that; else inconclusive."
    " Not comparable if only part of the corpus was tested, or another task."
)


@dataclass(frozen=True)
class Table:
    """A table: cells as text, where a line break parts a figure from its small print, and records for the CSV."""

    name: str
    title: str
    header: Sequence[str]
    numeric: Sequence[bool]  # by column: aligned to the right
    rows: list[list[str]]
    records: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    warning: str = ""

    def markdown(self) -> str:
        """As a Markdown page of its own: warning, title, table, notes."""
        lines = [f"**{escape_markdown(self.warning)}**", ""] if self.warning else []
        lines += [f"## {escape_markdown(self.title)}", ""]
        lines.append("| " + " | ".join(escape_markdown(cell) for cell in self.header) + " |")
        lines.append("|" + "|".join("---:" if right else ":---" for right in self.numeric) + "|")
        lines += ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in self.rows]
        for note in self.notes:
            lines += ["", escape_markdown(note)]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The records, with every column that some record has; an absent value is an empty field."""
        columns = list(dict.fromkeys(key for record in self.records for key in record))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        return stream.getvalue()

    def latex(self) -> str:
        """As a LaTeX table for a document that loads booktabs and graphicx."""
        lines = [f"% {self.warning}"] if self.warning else []
        lines += [
            r"\begin{table}",
            rf"\caption{{{escape_latex(' '.join([self.title + '.', *self.notes]))}}}",
            rf"\label{{tab:{self.name}}}",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in self.numeric)}}}",
            r"\toprule",
            " & ".join(escape_latex(cell) for cell in self.header) + r" \\",
            r"\midrule",
            *(" & ".join(escape_latex(cell) for cell in row) + r" \\" for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Text that a Markdown table shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|~#])", r"\\\1", " ".join(text.split()))


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "×": r"$\times$",
    "−": "$-$", "–": "--", "—": "---", "…": r"\ldots{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as it is. A cell that starts with [ must not look like the option of a line break."""
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return "{" + escaped[0] + "}" + escaped[1:] if escaped[:1] in ("[", "*") else escaped


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as text in %, without the sign; `–` where there is none."""
    return NONE if value is None or np.isnan(value) else f"{100 * value:.{digits}f}"


def spread(estimate: statistics.Estimate) -> str:
    """Mean ± sd, and the interval on the next line."""
    mean = percent(estimate.mean) + (f" ± {percent(estimate.sd)}" if estimate.sd is not None else "")
    return mean + (f"\n[{percent(estimate.low)}, {percent(estimate.high)}]" if estimate.low is not None else "")


def points(difference: float) -> str:
    """A difference of percentages, signed."""
    return f"{'−' if difference < 0 else '+'}{abs(difference):.1f}"


def duration(seconds: float | None) -> str:
    """A time that a person reads."""
    if seconds is None:
        return NONE
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as `1–3, 7`."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)


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


def main(corpus: CorpusResults) -> Table:
    """Each protocol, variant and seed: scores beside the paper's value, with the verdict."""
    made = [_main_row(corpus, run) for run in corpus.runs]
    notes = [SCORES_NOTE, RULE_NOTE if corpus.published else _incomparable(corpus)]
    incomplete = [run for run in corpus.runs if run.folds and run.missing]
    if incomplete:
        notes.append(
            "Incomplete, over the folds that were run: "
            + "; ".join(
                f"{run.variant} (seed {run.seed}, {run.protocol}) lacks fold {ranges(run.missing)}"
                for run in incomplete
            )
            + "."
        )
    return Table(
        name="main",
        title=f"Main result, {corpus.title}",
        header=MAIN_HEADER,
        numeric=MAIN_NUMERIC,
        rows=[row for row, _ in made],
        records=[record for _, record in made],
        notes=[*notes, *_time_note(corpus.runs), *_source_notes([corpus])],
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


def modality(corpus: CorpusResults) -> Table:
    """Audio, video and both beside each other; on the demo, beside the best that any method can do."""
    runs = sorted(
        (run for run in corpus.runs if run.variant in MODALITY),
        key=lambda run: (list(corpus.clips).index(run.protocol), run.seed, list(MODALITY).index(run.variant)),
    )
    header = ["Protocol", "Seed", "Modality", "Variant", "WAR %", "UAR %", "Macro-F1 %", "WAR against audio + video"]
    if corpus.bayes:
        header += ["Bayes accuracy %", "WAR / Bayes"]
    whole = {(run.protocol, run.seed): run for run in runs if run.variant == "proposed" and run.folds}
    rows, records = [], []
    for run in runs:
        both = whole.get((run.protocol, run.seed))
        # Only over the same folds: a difference between different test actors would not be one of modality.
        same = both is not None and run.folds and run.missing == both.missing and run is not both
        difference = run.estimates["war"].mean - both.estimates["war"].mean if same and both else None
        record = _record(run) | {"war_difference": difference}
        row = [
            run.protocol,
            str(run.seed),
            MODALITY[run.variant].replace("_", " + "),
            run.variant,
            *(spread(run.estimates[metric]) if run.folds else NOT_RUN for metric in statistics.METRICS),
            NONE if difference is None else points(100 * difference),
        ]
        if corpus.bayes:
            best = corpus.bayes[MODALITY[run.variant]]
            ratio = run.estimates["war"].mean / best if run.folds else None
            row += [percent(best), NOT_RUN if ratio is None else f"{ratio:.3f}"]
            record |= {"bayes": best, "war_over_bayes": ratio}
        rows.append(row)
        records.append(record)
    notes = [SCORES_NOTE, "Against audio + video: in points of WAR."]
    if corpus.bayes:
        notes.append("Bayes accuracy: the best that any method can reach on these clips, by exact arithmetic.")
    if len(corpus.modalities) == 1:
        notes.append(f"This corpus has {corpus.modalities[0]} alone.")
    return Table(
        name="modality",
        title=f"Modalities, {corpus.title}",
        header=header,
        numeric=[False, True, False, False] + [True] * (len(header) - 4),
        rows=rows,
        records=records,
        notes=notes,
        warning=corpus.warning,
    )


def recall(corpus: CorpusResults) -> Table:
    """The recall of each emotion by variant, pooled over folds."""
    groups: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in corpus.runs:
        groups[run.protocol, run.seed].append(run)
    variants = list(dict.fromkeys(run.variant for run in corpus.runs))
    rows, records = [], []
    for (protocol, seed), runs in groups.items():
        by_variant = {run.variant: run for run in runs if run.folds}
        if not by_variant:
            rows.append([protocol, str(seed), NOT_RUN, NONE, *([NOT_RUN] * len(variants))])
            continue
        emotions = next(iter(by_variant.values())).folds[0].emotions
        recalls = {variant: metrics.recall(run.confusion) for variant, run in by_variant.items()}
        pooled = {variant: float(metrics.scores(run.confusion)["uar"]) for variant, run in by_variant.items()}
        for index, emotion in enumerate(emotions):
            counts = {int(run.confusion[index].sum()) for run in by_variant.values()}
            rows.append([
                protocol, str(seed), emotion, "/".join(f"{count:,}" for count in sorted(counts)),
                *(percent(float(recalls[variant][index])) if variant in recalls else NOT_RUN for variant in variants),
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
            protocol, str(seed), "mean (pooled UAR)", "/".join(f"{total:,}" for total in totals),
            *(percent(pooled[variant]) if variant in pooled else NOT_RUN for variant in variants),
        ])  # fmt: skip
    return Table(
        name="recall",
        title=f"Recall of each emotion in %, {corpus.title}",
        header=["Protocol", "Seed", "Emotion", "Clips", *variants],
        numeric=[False, True, False, True, *([True] * len(variants))],
        rows=rows,
        records=records or [{"protocol": protocol, "seed": seed, "variant": NOT_RUN} for protocol, seed in groups],
        notes=[
            "Pooled: all tested clips of all folds in one matrix, so that the last line may differ from the mean over"
            " folds in the main table."
        ],
        warning=corpus.warning,
    )


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
