# What the rules share: the parameters, checked, the stamps, and the lists of files that depend on them.
import os
import re
import shutil
import sys
from pathlib import Path

from emofuse import graph, params, provenance, report, stamps, versions, weights
from emofuse.alone import alone
from emofuse.console import complain
from emofuse.errors import UserError

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
    # Snakemake runs what is older than its inputs: times are made to say what the jobs' fingerprints do.
    if workflow.is_main_process:
        for name in PARAMS.corpora:
            stamps.write(name, PARAMS)
        provenance.settle(PARAMS, Path())
except UserError as error:
    complain(error)
    raise SystemExit(2) from None

WEIGHTS = {weights.path(name): name for name in weights.NAMES}


def one_of(names):
    """The wildcard constraint that allows these names and no others."""
    return "|".join(sorted({re.escape(name) for name in names}))


def features(wildcards):
    """The features of a corpus, of all its modalities."""
    return graph.features(PARAMS, wildcards.corpus)


def raw(wildcards):
    """The clips of a corpus."""
    return graph.raw(PARAMS, wildcards.corpus)


def detector(wildcards):
    """The weights of the face detector, where the corpus's detector has any."""
    return graph.detector(PARAMS, wildcards.corpus)


def or_more(megabytes):
    """The memory that a job asks a cluster for: more each time that it is started again."""
    return lambda wildcards, attempt: attempt * megabytes


def gpus(wildcards):
    """GPUs of a training or an evaluation.

    On a machine without CUDA none, so that --resources gpu=1 does not make them wait for each other; asking torch would
    take seconds at every start. What a cluster's nodes have this machine does not know: there they ask for one.
    """
    return int(workflow.non_local_exec or shutil.which("nvidia-smi") is not None)


def detector_gpus(wildcards):
    """GPUs of a faces job: only a detector with weights uses one."""
    return gpus(wildcards) if detector(wildcards) else 0


def detector_threads(wildcards):
    """Threads of a face job: on a GPU, which one job has at a time, the others decode ahead of it."""
    return 5 if detector_gpus(wildcards) else 1


def pretrained(wildcards):
    """The published weights that any variant of the corpus starts from."""
    return graph.pretrained(PARAMS, wildcards.corpus)


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


def runs(wildcards):
    """What the report of a corpus, and its mirror in MLflow, are made from."""
    return graph.runs(PARAMS, wildcards.corpus)


def paper_runs(wildcards):
    """What the paper's tables are made from."""
    return [file for corpus in PARAMS.paper for file in graph.runs(PARAMS, corpus)]


def begin():
    """Be the only Snakemake that runs jobs in this folder."""
    try:
        alone(Path())
    except UserError as error:
        complain(error)
        raise SystemExit(2) from None


def finished():
    """What the jobs of this run made, of those that are up to date."""
    chain = provenance.Chain(PARAMS, Path())
    made = {str(file) for job in workflow.dag.jobs for file in job.output}
    fetched = [
        file for file in made - chain.makers.keys() if Path(file).is_file()
    ]  # weights, checked as they came
    return fetched + [
        file
        for job in chain.jobs
        if not made.isdisjoint(job.outputs)
        and chain.own(job).state == provenance.VERIFIED
        for file in (*job.stamps, *job.outputs, job.fingerprint)
    ]


def wanted(corpus):
    """What a user wants of a corpus."""
    return [*report.outputs(corpus), f"results/{corpus}/tracked.csv"]
