"""`emofuse verify`: check every result, record by record, back to the clips."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from emofuse.provenance.code import STAGES
from emofuse.provenance.freshness import Chain, Finding, State
from emofuse.provenance.records import Record, environment
from emofuse.utils.errors import UserError
from emofuse.utils.text import ranges

# Steps of a corpus (the names of Snakemake's targets and DVC's stages) → their stages.
STEPS = {
    "clips": ("download", "index"),
    "features": ("faces", "audio"),
    "splits": ("splits",),
    "models": ("train", "calibrate"),
    "scores": ("evaluate", "transfer"),
    "report": ("report",),
    "paper": ("paper",),
}
PAPER = "paper"
COMPARED = ("lock", "python", "torch")  # parts of the environment whose change may change bits


def verify(corpora: Sequence[str], step: str | None, chain: Chain) -> Iterator[str]:
    """Check all jobs of some corpora, or of one step, and report their states, line by line.

    Raises `UserError` at the end if anything is stale or corrupted, and if a step has no record at all.
    """
    problems: Counter[str] = Counter()
    here = environment(chain.root)
    for corpus in corpora:
        records = [record for record in chain.records if _owner(record) == corpus]
        if step:
            records = [record for record in records if record.stage in STEPS[step]]
            if not records:
                raise UserError(f"{corpus}: no record of the step {step}; run `snakemake {corpus}_{step} --cores 8`")
        if not records:
            yield f"{corpus}: not run"
        for stage in STAGES:
            of_stage = [record for record in records if record.stage == stage]
            name = corpus if corpus == stage else f"{corpus}: {stage}"
            yield from _stage(name, of_stage, chain, problems)
        yield from _environments(corpus, records, here)
    if problems:
        counted = " and ".join(f"{number} {state}" for state, number in problems.items())
        targets = " ".join(corpus for corpus in corpora if corpus in chain.params.corpora)
        remedies = {
            str(State.CORRUPTED): "rebuild each corrupted file with `snakemake --force FILE --cores 8`",
            str(State.STALE): f"run `snakemake {targets} --cores 8`".replace("  ", " "),
        }
        raise UserError(
            f"{counted}: {', then '.join(remedy for state, remedy in remedies.items() if state in problems)}"
        )


def _owner(record: Record) -> str:
    """The corpus of a job; for the paper and pretrained weights, which have none, their stage."""
    return str(record.key.get("corpus", record.stage))


def _stage(name: str, records: Sequence[Record], chain: Chain, problems: Counter[str]) -> Iterator[str]:
    findings = [Finding.worst([chain.lineage(record), chain.intact(record)]) for record in records]
    states = Counter(finding.state for finding in findings)
    if not states:
        return
    adopted = sum("adopted" in record.details for record in records)
    note = f" ({adopted} adopted from published results)" if adopted else ""
    yield f"{name}: {', '.join(f'{number} {state}' for state, number in sorted(states.items()))}{note}"
    for state in (State.CORRUPTED, State.STALE, State.UNCHECKABLE, State.LEFT_OVER):
        reasons = dict.fromkeys(why for finding in findings if finding.state == state for why in finding.reasons)
        yield from (f"  {line}" for line in grouped(reasons))
        if state >= State.STALE and states[state]:
            problems[str(state)] += states[state]


def _environments(corpus: str, records: Sequence[Record], here: dict[str, object]) -> Iterator[str]:
    """A warning for each other environment that jobs ran in."""
    others = Counter(
        ", ".join(f"{name} {str(record.environment[name])[:16]}" for name in differing)
        for record in records
        if (differing := [n for n in COMPARED if n in record.environment and record.environment[n] != here.get(n)])
    )
    for differences, number in others.items():
        yield f"{corpus}: warning: {number} jobs ran in another environment ({differences}): results may differ in rounding"


def grouped(reasons: Iterable[str]) -> list[str]:
    """Combine lines that differ in one number only: fold-0–4."""
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for reason in reasons:
        parts = re.split(r"(\d+)", reason)
        alike.setdefault(tuple(parts[::2]), []).append(parts[1::2])
    lines = []
    for words, found in alike.items():
        columns = list(zip(*found, strict=True))
        varying = {column for column in columns if len(set(column)) > 1}
        if len(varying) == 1:
            together = ranges(map(int, varying.pop()))
            found = [[together if len(set(column)) > 1 else column[0] for column in columns]]
        lines += ["".join(map(str.__add__, words, (*numbers, ""))) for numbers in found]
    return lines


def run_corpora(chain: Chain) -> list[str]:
    """What `verify` checks by default: every corpus with records, the weights, and the paper."""
    recorded = {_owner(record) for record in chain.records}
    return [name for name in ("weights", *chain.params.corpora, PAPER) if name in recorded]
