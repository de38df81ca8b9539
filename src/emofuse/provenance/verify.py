"""`emofuse verify`: whether the results hold, record by record, back to the clips."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from emofuse.provenance.chain import Chain, Finding, State
from emofuse.provenance.code import STAGES
from emofuse.provenance.records import Record, environment
from emofuse.utils.errors import UserError
from emofuse.utils.text import ranges

# The steps of a corpus, as Snakemake's targets and DVC's stages are called, and the stages of each.
STEPS = {
    "clips": ("download", "index"),
    "features": ("faces", "audio"),
    "splits": ("splits",),
    "models": ("train",),
    "scores": ("evaluate",),
    "report": ("report",),
    "paper": ("paper",),
}
PAPER = "paper"
COMPARED = ("lock", "python", "torch")  # of the environment: other versions may give other bits


def verify(corpora: Sequence[str], step: str | None, chain: Chain) -> Iterator[str]:
    """Say of every job of some corpora, or of one step of theirs, whether its results hold, line by line.

    Raises `UserError` in the end if something is stale or corrupted, and if a step has no record at all.
    """
    wrong: Counter[str] = Counter()
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
            yield from _stage(name, of_stage, chain, wrong)
        yield from _environments(corpus, records, here)
    if wrong:
        counted = " and ".join(f"{number} {state}" for state, number in wrong.items())
        targets = " ".join(corpus for corpus in corpora if corpus in chain.params.corpora)
        remedies = {
            str(State.CORRUPTED): "rebuild each corrupted file with `snakemake --force FILE --cores 8`",
            str(State.STALE): f"run `snakemake {targets} --cores 8`".replace("  ", " "),
        }
        raise UserError(f"{counted}: {', then '.join(what for state, what in remedies.items() if state in wrong)}")


def _owner(record: Record) -> str:
    """The corpus of a job; the paper and the pretrained weights are of none."""
    return str(record.key.get("corpus", record.stage))


def _stage(name: str, records: Sequence[Record], chain: Chain, wrong: Counter[str]) -> Iterator[str]:
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
            wrong[str(state)] += states[state]


def _environments(corpus: str, records: Sequence[Record], here: dict[str, object]) -> Iterator[str]:
    """A warning for each environment, other than this one, that jobs ran in."""
    others = Counter(
        ", ".join(f"{name} {str(record.environment[name])[:16]}" for name in differing)
        for record in records
        if (differing := [n for n in COMPARED if n in record.environment and record.environment[n] != here.get(n)])
    )
    for what, number in others.items():
        yield f"{corpus}: warning: {number} jobs ran in another environment than this one ({what}): their bits may differ"


def grouped(reasons: Iterable[str]) -> list[str]:
    """Lines that differ in one number only, as one: fold-0–4."""
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
    """What `verify` is about unless it is told: each corpus of which something has run, the weights, and the paper."""
    there = {_owner(record) for record in chain.records}
    return [name for name in ("weights", *chain.params.corpora, PAPER) if name in there]
