"""What is left to be done of a corpus and what that takes: from measured pieces, before anyone starts it.

A piece is what one clip costs a stage, in seconds: measured by `benchmarks/costs.py` with the parameters that matter for
it, on hardware that is named, and kept in registry/costs.csv. What was not measured is said not to be.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from emofuse import corpora, provenance, shards, weights
from emofuse import params as parameters
from emofuse.corpora.base import NotAClip
from emofuse.files import read_table
from emofuse.graph import Job
from emofuse.params import Corpus, Run
from emofuse.published import REGISTRY, Remote, registry

COSTS = REGISTRY / "costs.csv"
COLUMNS = ("hardware", "device", "stage", "of", "seconds", "bytes", "date")
BYTES = {"video": 1, "audio": 2}  # of a stored value: uint8 and float16


class Piece(NamedTuple):
    """What a clip costs a stage, with parameters of which `of` is the hash."""

    stage: str
    of: str


class Cost(NamedTuple):
    """What a piece was measured to take: seconds a clip; of a training also the bytes of the model."""

    seconds: float
    bytes: int
    date: str


@dataclass
class Machine:
    """What was measured on some hardware, with its "cpu" or on its "cuda"."""

    hardware: str
    device: str
    costs: dict[Piece, Cost] = field(default_factory=dict)


@dataclass
class Work:
    """What the jobs of a stage that are left come to."""

    jobs: int = 0
    left: int = 0
    clips: Counter[Piece] = field(default_factory=Counter)  # piece → how many clips of it, each as often as it is used


@dataclass
class Plan:
    """What is left of a corpus: the work of each stage, the files to fetch and the bytes to write."""

    corpus: str
    stages: dict[str, Work]
    fetched: list[Remote]
    features: int
    models: Counter[Piece]  # training piece → models of it

    @property
    def left(self) -> int:
        """Jobs that are left."""
        return sum(work.left for work in self.stages.values())


def piece(stage: str, params: Any) -> Piece:
    """The piece of a stage with such parameters."""
    return Piece(stage, hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:12])


def pieces(corpus: Corpus, run: Run | None = None) -> dict[str, Piece]:
    """Stage → the piece of a corpus's clips, and with a run those of its training and evaluation."""
    found = {"index": piece("index", corpus.kind)}
    for modality, section in (("video", corpus.faces), ("audio", corpus.audio)):
        if section:
            stage = shards.FOLDERS[modality]
            found[stage] = piece(stage, [corpus.kind, section.model_dump(mode="json")])
    if run is not None:
        seen = {modality: shape(corpus, modality) for modality in run.network.modalities}
        network = run.network.model_dump(mode="json")
        found["train"] = piece("train", [network, seen, run.training.precision, run.training.threads])
        found["evaluate"] = piece("evaluate", [network, seen, run.training.threads])
    return found


def shape(corpus: Corpus, modality: str) -> tuple[int, ...]:
    """The shape of one clip's stored features."""
    if modality == "video" and corpus.faces:
        made = corpus.faces
        return (made.snippets, made.frames, made.size, made.size, 3)
    assert corpus.audio is not None
    return (corpus.audio.segments, corpus.audio.bands, corpus.audio.frames)


def left(chain: provenance.Chain, name: str) -> list[Job]:
    """The jobs of a corpus that Snakemake would run: what is stale or missing, and all that comes after it."""
    jobs = [job for job in chain.jobs if job.arguments[:1] == (name,)]
    reads = {job: {chain.makers[path] for path in job.inputs if path in chain.makers} for job in jobs}
    absent = {job for job in jobs if len(chain.missing(job)) == len(job.outputs)}
    dirty: set[Job] = set()
    for job in jobs:
        if chain.outdated(job) or not dirty.isdisjoint(reads[job]):
            dirty.add(job)
    needed: set[Job] = set()
    for job in reversed(jobs):
        if job in dirty | absent and (job in needed or job.stage in ("track", "report")):
            needed |= {job, *(reads[job] & (dirty | absent))}
    return [job for job in jobs if job in needed]


def make(name: str, chain: provenance.Chain) -> Plan:
    """The plan of a corpus."""
    corpus = chain.params.corpora[name]
    todo = left(chain, name)
    clips = clips_of(name, corpus, chain.root, any(job.stage == "index" for job in todo))
    stages: dict[str, Work] = {}
    for job in (job for job in chain.jobs if job.arguments[:1] == (name,)):
        stages.setdefault(job.stage, Work()).jobs += 1
    features, models = 0, Counter[Piece]()
    unsplit = {str(job.arguments[1]) for job in todo if job.stage == "splits"}
    folder = chain.root / "data" / name
    trained = {str(job.arguments[1]) for job in todo if job.stage in ("train", "evaluate")}
    split = {protocol: _split(folder / protocol / "folds.csv") for protocol in trained - unsplit}
    for job in todo:
        work = stages[job.stage]
        work.left += 1
        if job.stage == "index":
            work.clips[pieces(corpus)["index"]] += sum(clips.values())
        elif job.stage in shards.FOLDERS.values():
            number = _of_shard(clips, corpus, int(job.arguments[1]))
            work.clips[pieces(corpus)[job.stage]] += number
            modality = next(modality for modality, stage in shards.FOLDERS.items() if stage == job.stage)
            features += number * BYTES[modality] * math.prod(shape(corpus, modality))
        elif job.stage in ("train", "evaluate"):
            protocol, variant, fold = str(job.arguments[1]), str(job.arguments[2]), int(job.arguments[4])
            run = chain.params.run(name, variant)
            own = pieces(corpus, run)
            of_fold = split[protocol][fold] if protocol in split else _unsplit(corpus, clips, protocol, fold)
            if job.stage == "train":
                work.clips[own["train"]] += run.training.epochs * round(of_fold["train"])
                work.clips[own["evaluate"]] += run.training.epochs * round(of_fold["val"])
                models[own["train"]] += 1
            else:
                work.clips[own["evaluate"]] += round(of_fold["val"] + of_fold["test"])
    return Plan(name, stages, _to_fetch(name, corpus, chain.root, todo), features, models)


def clips_of(name: str, corpus: Corpus, root: Path, unknown: bool) -> dict[int, int]:
    """Actor → clips: as the index says or, where that is `unknown` as yet, as the corpus was published."""
    if not unknown:
        rows = read_table(root / "data" / name / "index.csv", ("actor", "status"))
        return dict(Counter(int(row["actor"]) for row in rows if row["status"] == "ok" and row["actor"]))
    published = Counter(clip for clip in _published(corpus))
    wanted = published if corpus.actors == "all" else corpus.actors
    return {actor: published[actor] for actor in wanted}


def _published(corpus: Corpus) -> Iterator[int]:
    """The actor of each clip that a corpus has as it was published."""
    reader = corpora.reader(corpus.kind)
    if corpus.demo is not None:
        for actor in range(1, corpus.demo.actors + 1):
            yield from itertools.repeat(actor, corpus.demo.takes * len(reader.EMOTIONS))
    elif corpus.kind == "cremad":
        stems = {Path(file.path).stem for file in reader.remote((), reader.ACTORS, corpus)}
        yield from (int(stem[:4]) for stem in stems if stem[:4].isdigit())
    else:
        channels = [number for number, channel in reader.CHANNELS.items() if channel in corpus.vocal]
        names = (reader.NUMBERED_EMOTIONS, reader.INTENSITIES, reader.STATEMENTS, reader.REPETITIONS)
        for parts in itertools.product(channels, *names, (f"{actor:02d}" for actor in reader.ACTORS)):
            try:
                yield reader.parse("-".join((reader.AUDIO_VIDEO, *parts))).actor
            except NotAClip:
                continue


def _of_shard(clips: Mapping[int, int], corpus: Corpus, shard: int) -> int:
    everyone = range(1, corpus.demo.actors + 1) if corpus.demo else corpora.reader(corpus.kind).ACTORS
    return sum(clips.get(actor, 0) for actor in shards.actors_of(everyone, shard, len(corpus.shards)))


def _unsplit(corpus: Corpus, clips: Mapping[int, int], protocol: str, fold: int) -> dict[str, float]:
    """Part → clips of a fold that is not split yet: by the share of the actors in each part."""
    path = parameters.protocol_path(corpus.kind, protocol)
    if path is None:
        tested = len(clips) / int(protocol.removeprefix(parameters.RANDOM).rpartition("_")[2])
        held = float(corpus.validation_actors)
    else:
        parts = parameters.read_protocol(path)[fold]
        tested, held = len(set(parts["test"]) & set(clips)), len(set(parts.get("val", ())) & set(clips))
        held = held or corpus.validation_actors
    each = sum(clips.values()) / len(clips)
    return {"test": tested * each, "val": held * each, "train": (len(clips) - tested - held) * each}


def _split(file: Path) -> dict[int, Counter[str]]:
    """Fold → part → clips, of a file of folds."""
    folds: dict[int, Counter[str]] = {}
    for row in read_table(file, ("fold", "part")):
        folds.setdefault(int(row["fold"]), Counter())[row["part"]] += 1
    return folds


def _to_fetch(name: str, corpus: Corpus, root: Path, todo: Sequence[Job]) -> list[Remote]:
    """What has to come over the network: clips that are neither made nor in a local folder, and pretrained weights."""
    known = {weights.path(known): registry()[known] for known in weights.NAMES}
    files = {path: known[path] for job in todo for path in job.inputs if path in known}
    source, reader = parameters.source(name, corpus), corpora.reader(corpus.kind)
    if corpus.demo is None and (source is None or "://" in source):
        for job in (job for job in todo if job.stage == "download"):
            actors = shards.actors_of(reader.ACTORS, int(job.arguments[1]), len(corpus.shards))
            wanted = [actor for actor in actors if corpus.actors == "all" or actor in corpus.actors]
            files |= {f"data/{name}/archives/{file.path}": file for file in reader.remote((), wanted, corpus)}
    return [file for path, file in files.items() if not (root / path).is_file()]


def machines(file: Path = COSTS) -> list[Machine]:
    """The hardware that pieces were measured on."""
    known: dict[tuple[str, str], Machine] = {}
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                machine = known.setdefault((row["hardware"], row["device"]), Machine(row["hardware"], row["device"]))
                cost = Cost(float(row["seconds"]), int(row["bytes"] or 0), row["date"])
                machine.costs[Piece(row["stage"], row["of"])] = cost
    return list(known.values())


def seconds(clips: Counter[Piece], machine: Machine) -> float | None:
    """What some work takes on a machine, job after job; None where a piece of it was not measured there."""
    if any(number and piece not in machine.costs for piece, number in clips.items()):
        return None
    return sum(number * machine.costs[piece].seconds for piece, number in clips.items() if number)


def text(plans: Sequence[Plan], measured: Sequence[Machine]) -> Iterator[str]:
    """The plans for people to read: a table a corpus, what it needs of network and disk, and the hours of all."""
    for plan in plans:
        jobs = sum(work.jobs for work in plan.stages.values())
        yield f"{plan.corpus}: {plan.left} of {jobs} jobs are left"
        if not plan.left:
            continue
        heads = ["stage", "left", "clips", *(f"on {machine.hardware}" for machine in measured)]
        rows = [
            [
                stage,
                f"{work.left} of {work.jobs}",
                f"{sum(work.clips.values()):,.0f}" if work.clips else "–",
                *(_time(seconds(work.clips, machine)) if work.clips else "–" for machine in measured),
            ]
            for stage, work in plan.stages.items()
        ]
        widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
        for row in (heads, *rows):
            yield (
                "  "
                + "  ".join(
                    cell.ljust(width) if not number else cell.rjust(width)
                    for number, (cell, width) in enumerate(zip(row, widths, strict=True))
                ).rstrip()
            )
        yield f"  to fetch: {_files(plan.fetched)}"
        clips = "fetched clips twice (as they come, and as shards), " if plan.fetched else ""
        yield (
            f"  to write: {clips}{_bytes(plan.features)} of features and {_models(plan, measured)} of models, these again"
            " in DVC's cache unless the file system clones files"
        )
    everything = sum((work.clips for plan in plans for work in plan.stages.values()), Counter[Piece]())
    if not everything:
        return
    for device, what in (("cpu", "CPU hours"), ("cuda", "GPU hours")):
        of_device = [machine for machine in measured if machine.device == device]
        for machine in of_device:
            able = Counter({piece: number for piece, number in everything.items() if piece in machine.costs})
            hours = (seconds(able, machine) or 0) / 3600
            unmeasured = sorted(
                {piece.stage for piece in everything - able} - ({"index", "audio"} if device == "cuda" else set())
            )
            note = f"; not measured: {', '.join(unmeasured)}" if unmeasured else ""
            dates = sorted({machine.costs[piece].date for piece in able})
            yield f"{what}, job after job: {hours:,.1f} on {machine.hardware}{f' ({dates[-1]})' if dates else ''}{note}"
        if not of_device:
            yield f"{what}: not measured; `python benchmarks/costs.py` measures them on the machine that it runs on"
    yield "A training may end before its last epoch; what it takes to fetch files and to draw the tables is not counted."


def _time(value: float | None) -> str:
    if value is None:
        return "not measured"
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:,.1f} h"


def _bytes(value: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def _files(files: Sequence[Remote]) -> str:
    sizes = [file.size for file in files if file.size is not None]
    unsaid = len(files) - len(sizes)
    if not files:
        return "nothing"
    known = f"{len(sizes):,} files, {_bytes(sum(sizes))}" if sizes else ""
    return " and ".join(filter(None, (known, f"{unsaid:,} files whose size their host says" if unsaid else "")))


def _models(plan: Plan, measured: Sequence[Machine]) -> str:
    sizes = {piece: cost.bytes for machine in measured for piece, cost in machine.costs.items()}
    if any(piece not in sizes for piece in plan.models):
        return f"{plan.models.total():,} files (size not measured)"
    return _bytes(sum(number * sizes[piece] for piece, number in plan.models.items()))
