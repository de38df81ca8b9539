# What the rules share: the parameters, checked, the stamps, and the lists of files that depend on them.
import os
import re
import shutil
import sys
from pathlib import Path

from emofuse import params, report, stamps, versions, weights
from emofuse.errors import UserError
from emofuse.shards import FOLDERS

# The rules call `emofuse`: that of the environment which runs Snakemake, activated or not.
os.environ.update(
    PATH=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
)

try:
    if config:
        raise UserError(
            f"--config {next(iter(config))}: params.yaml is the only configuration; change it there"
        )
    PARAMS = params.load()
    # Each stage's stamp is an input of its rule: this is how a change of a parameter or of the code runs what it concerns.
    for name in PARAMS.corpora:
        stamps.write(name, PARAMS)
except UserError as error:
    print(f"emofuse: error: {error}", file=sys.stderr)
    raise SystemExit(2) from None

# On a machine without CUDA the trainings ask for no GPU, so that --resources gpu=1 does not make them wait for each
# other. Asking torch would take seconds at every start.
GPU = int(shutil.which("nvidia-smi") is not None)

WEIGHTS = {weights.path(name): name for name in weights.NAMES}


def one_of(names):
    """The wildcard constraint that allows these names and no others."""
    return "|".join(sorted({re.escape(name) for name in names}))


def shards(pattern, corpus):
    """A file of every shard of a corpus."""
    return expand(pattern, corpus=corpus, shard=PARAMS.corpora[corpus].shards)


def folds(pattern, corpus):
    """A file of every fold that is run of a corpus."""
    return [
        file
        for protocol, variant, seed, numbers in PARAMS.corpora[corpus].runs()
        for file in expand(
            pattern,
            corpus=corpus,
            protocol=protocol,
            variant=variant,
            seed=seed,
            fold=numbers,
        )
    ]


def features(wildcards):
    """The features of a corpus, of all its modalities: a clip that is unusable in one is in no fold of any variant.

    With their tables, because DVC, whose lists are literal, depends on the folders.
    """
    corpus = wildcards.corpus
    return [
        file
        for modality in PARAMS.corpora[corpus].modalities
        for suffix in ("npy", "csv")
        for file in shards(
            f"data/{{corpus}}/{FOLDERS[modality]}/shard-{{shard}}.{suffix}", corpus
        )
    ]


def raw(wildcards):
    """The clips of a corpus."""
    return shards("data/{corpus}/raw/shard-{shard}.zip", wildcards.corpus)


def detector(wildcards):
    """The weights of the face detector, where the corpus's detector has any."""
    faces = PARAMS.corpora[wildcards.corpus].faces
    return (
        [weights.path(f"retinaface_{faces.body}")]
        if faces.detector == "retinaface"
        else []
    )


def detector_gpu(wildcards):
    """GPUs of a faces job: only a detector with weights uses one."""
    return GPU if detector(wildcards) else 0


def detector_threads(wildcards):
    """Threads of a face job: on a GPU, which one job has at a time, the others decode ahead of it."""
    return 5 if detector_gpu(wildcards) else 1


def pretrained(wildcards):
    """The published weights that any variant of the corpus starts from; a local file is in the stamp, by its hash."""
    names = {
        name
        for variant in PARAMS.corpora[wildcards.corpus].variants
        for name in weights.named(PARAMS.run(wildcards.corpus, variant).network)
    }
    return [weights.path(name) for name in sorted(names) if name in weights.NAMES]


def published(wildcards):
    """The file of the published protocol that the splits follow; kfold_<k> has none."""
    path = params.protocol_path(
        PARAMS.corpora[wildcards.corpus].kind, wildcards.protocol
    )
    return str(path) if path else []


def training_threads(wildcards):
    """CPU threads of a training and of its evaluation."""
    return PARAMS.run(wildcards.corpus, wildcards.variant).training.threads


def weights_name(wildcards):
    """The name of the weights in a file."""
    return WEIGHTS[wildcards.weights]


def splits(corpus):
    """The clips and folds of every protocol of a corpus."""
    return expand(
        "data/{corpus}/{protocol}/{table}.csv",
        corpus=corpus,
        protocol=PARAMS.corpora[corpus].protocols,
        table=["clips", "folds"],
    )


def trained(corpus):
    """What every training of a corpus left."""
    base = "models/{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}"
    return [
        file
        for suffix in ("safetensors", "csv", "json")
        for file in folds(f"{base}.{suffix}", corpus)
    ]


def evaluated(corpus):
    """What every evaluation of a corpus left."""
    base = "results/{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}"
    names = ("metrics.json", "predictions.csv", "embeddings.safetensors")
    return [file for name in names for file in folds(f"{base}/{name}", corpus)]


def runs(wildcards):
    """What the report of a corpus, and its mirror in MLflow, are made from."""
    corpus = wildcards.corpus
    return [*splits(corpus), *trained(corpus), *evaluated(corpus)]


def paper_runs(wildcards):
    """What the paper's table is made from."""
    return [
        file
        for corpus in PARAMS.paper
        for file in (*splits(corpus), *trained(corpus), *evaluated(corpus))
    ]


def wanted(corpus):
    """What a user wants of a corpus."""
    return [*report.outputs(corpus), f"results/{corpus}/tracked.csv"]
