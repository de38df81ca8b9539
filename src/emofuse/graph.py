"""The jobs that params.yaml asks for, each with the files it reads and writes: the graph that both engines run.

The rules of Snakemake and the stages of DVC spell the same files for themselves; tests/test_engines.py holds all three
together. All paths are from the repository's root.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from emofuse import fingerprints, report, weights
from emofuse.params import Params, protocol_path
from emofuse.shards import FOLDERS

LITERATURE = tuple(f"literature/{name}.csv" for name in ("assumptions", "listeners", "paper", "published"))
SCORED = ("metrics.json", "predictions.csv", "embeddings.safetensors")


@dataclass(frozen=True)
class Job:
    """One run of one subcommand of `emofuse`: `stage` with `arguments`, in the order of the command line."""

    stage: str
    arguments: tuple[str | int, ...]
    inputs: tuple[str, ...]
    stamps: tuple[str, ...]
    outputs: tuple[str, ...]  # without the fingerprint, which every job writes last

    @property
    def fingerprint(self) -> str:
        """The file that says what the job made from what; see `emofuse.fingerprints`."""
        return fingerprints.path(self.stage, *self.arguments)

    def __str__(self) -> str:
        return " ".join(map(str, (self.stage, *self.arguments)))


def jobs(params: Params) -> Iterator[Job]:
    """Every job, each after those whose outputs it reads."""
    for corpus in params.corpora:
        yield from of_corpus(params, corpus)
    yield Job(
        "paper",
        (),
        (*(file for corpus in params.paper for file in runs(params, corpus)), *LITERATURE),
        tuple(_stamp(corpus, "report") for corpus in params.paper),
        tuple(report.paper_outputs()),
    )


def find(params: Params, stage: str, arguments: tuple[str | int, ...]) -> Job | None:
    """The job that a command line names; None where that makes no artefact, or params.yaml does not ask for it."""
    if stage not in fingerprints.STAGES or (arguments and arguments[0] not in params.corpora):
        return None
    candidates = of_corpus(params, str(arguments[0])) if arguments else jobs(params)
    return next((job for job in candidates if (job.stage, job.arguments) == (stage, arguments)), None)


def of_corpus(params: Params, name: str) -> Iterator[Job]:
    """The jobs of one corpus, each after those whose outputs it reads."""
    corpus = params.corpora[name]
    data, index = f"data/{name}", f"data/{name}/index.csv"
    clips = raw(params, name)
    for shard, file in zip(corpus.shards, clips, strict=True):
        yield Job("download", (name, shard), (), (_stamp(name, "download"),), (file,))
    yield Job("index", (name,), tuple(clips), (_stamp(name, "index"),), (index,))
    for modality in corpus.modalities:
        stage = FOLDERS[modality]
        models = detector(params, name) if stage == "faces" else []
        for shard, file in zip(corpus.shards, clips, strict=True):
            made = tuple(f"{data}/{stage}/shard-{shard}.{suffix}" for suffix in ("npy", "csv"))
            yield Job(stage, (name, shard), (*models, file, index), (_stamp(name, stage),), made)
    seen = features(params, name)
    for protocol in corpus.protocols:
        published = protocol_path(corpus.kind, protocol)
        reads = (*seen, *([str(published)] if published else []), index)
        yield Job("splits", (name, protocol), reads, (_stamp(name, "splits"),), splits(name, protocol))
    for protocol, variant, seed, folds in corpus.runs():
        split = splits(name, protocol)
        train, evaluate = _stamp(name, f"train-{variant}"), _stamp(name, f"evaluate-{variant}")
        for fold in folds:
            arguments = (name, protocol, variant, seed, fold)
            key = fold_key(*arguments)
            model = f"models/{key}.safetensors"
            left = (model, f"models/{key}.csv", f"models/{key}.json")
            scored = tuple(f"results/{key}/{file}" for file in SCORED)
            yield Job("train", arguments, (*seen, *pretrained(params, name), *split), (train,), left)
            yield Job("evaluate", arguments, (*seen, *split, model), (train, evaluate), scored)
    made_of = runs(params, name)
    yield Job("track", (name,), tuple(made_of), (_stamp(name, "track"),), (f"results/{name}/tracked.csv",))
    yield Job("report", (name,), (*made_of, *LITERATURE), (_stamp(name, "report"),), tuple(report.outputs(name)))


def fold_key(corpus: str, protocol: str, variant: str, seed: int, fold: int) -> str:
    """Names a fold of a run: its folder below results/ and, with a suffix, its files below models/."""
    return f"{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}"


def raw(params: Params, corpus: str) -> list[str]:
    """The clips of a corpus."""
    return [f"data/{corpus}/raw/shard-{shard}.zip" for shard in params.corpora[corpus].shards]


def features(params: Params, corpus: str) -> list[str]:
    """The features of a corpus, of all its modalities: a clip that is unusable in one is in no fold of any variant.

    With their tables, because DVC, whose lists are literal, depends on the folders.
    """
    section = params.corpora[corpus]
    return [
        f"data/{corpus}/{FOLDERS[modality]}/shard-{shard}.{suffix}"
        for modality in section.modalities
        for suffix in ("npy", "csv")
        for shard in section.shards
    ]


def detector(params: Params, corpus: str) -> list[str]:
    """The weights of the face detector, where the corpus's detector has any."""
    faces = params.corpora[corpus].faces
    return [weights.path(f"retinaface_{faces.body}")] if faces and faces.detector == "retinaface" else []


def pretrained(params: Params, corpus: str) -> list[str]:
    """The published weights that any variant of the corpus starts from; a local file is in the stamp, by its hash."""
    variants = params.corpora[corpus].variants
    names = {name for variant in variants for name in weights.named(params.run(corpus, variant).network)}
    return [weights.path(name) for name in sorted(names) if name in weights.NAMES]


def splits(corpus: str, protocol: str) -> tuple[str, str]:
    """The clips and folds of a protocol."""
    return f"data/{corpus}/{protocol}/clips.csv", f"data/{corpus}/{protocol}/folds.csv"


def runs(params: Params, corpus: str) -> list[str]:
    """What the report of a corpus, and its mirror in MLflow, are made from: the splits and what every fold left."""
    section = params.corpora[corpus]
    folds = [(protocol, variant, seed, fold) for protocol, variant, seed, numbers in section.runs() for fold in numbers]
    keys = [fold_key(corpus, *fold) for fold in folds]
    return [
        *(file for protocol in section.protocols for file in splits(corpus, protocol)),
        *(f"models/{key}.{suffix}" for suffix in ("safetensors", "csv", "json") for key in keys),
        *(f"results/{key}/{file}" for file in SCORED for key in keys),
        *(fingerprints.path(stage, corpus, *fold) for stage in ("train", "evaluate") for fold in folds),
    ]


def _stamp(corpus: str, name: str) -> str:
    return f"stamps/{corpus}/{name}.json"
