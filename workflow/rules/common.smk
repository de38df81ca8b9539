# What the rules share: the parameters, checked, and the functions that their inputs and params come from.
import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path

from emofuse import config as parameters
from emofuse import paths
from emofuse.data import protocols
from emofuse.data.download import clips
from emofuse.datasets import shards
from emofuse.paths import RunKey
from emofuse.provenance import adopt
from emofuse.provenance.code import digest
from emofuse.provenance.records import Record
from emofuse.utils import locks
from emofuse.utils.console import complain
from emofuse.utils.errors import UserError

# The rules call `emofuse`: that of the environment which runs Snakemake, activated or not.
os.environ.update(
    PATH=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
)
if (
    not workflow.is_main_process
):  # a job of the process that holds the lock, on another node too
    os.environ[locks.HELD] = str(Path().resolve())

try:
    if config:
        raise UserError(
            f"--config {next(iter(config))}: params.yaml is the only configuration; change it there"
        )
    PARAMS = parameters.load()
    # Snakemake takes outputs without metadata for up to date, whatever they were made with.
    if workflow.is_main_process and not {"--touch", "-t", "--unlock"} & set(sys.argv):
        adopt.refuse_unregistered(Path())
except UserError as error:
    complain(error)
    raise SystemExit(2) from None

RUN = RunKey.wildcards()
RUNS = {corpus: PARAMS.keys(corpus) for corpus in PARAMS.corpora}


def one_of(names):
    """The wildcard constraint that allows these names and no others."""
    return "|".join(sorted({re.escape(name) for name in names}))


def key(wildcards):
    """The arguments of a job's command by name, as its record has them."""
    numbers = ("shard", "seed", "fold")
    return {
        name: int(value) if name in numbers else value
        for name, value in wildcards.items()
    }


def setting(stage, section):
    """A section of a job's settings, for `params`: if it changes, the job reruns and Snakemake prints the difference."""
    return lambda wildcards: PARAMS.settings(stage, **key(wildcards))[section]


def code(stage):
    """The digest of the code that a job's results depend on, for `params`."""
    return (
        lambda wildcards: f"code {digest(stage, PARAMS.corpora[wildcards.corpus].kind)}"
    )


def source(wildcards):
    """The digest of a shard's clips at their source."""
    return clips.at_source(PARAMS, wildcards.corpus, int(wildcards.shard))


def or_more(megabytes):
    """The memory that a job asks a cluster for: more each time that it is started again."""
    return lambda wildcards, attempt: attempt * megabytes


def gpus(wildcards):
    """GPUs of a training or an evaluation.

    On a machine without CUDA none, so that --resources gpu=1 does not make them wait for each other; asking torch would
    take seconds at every start. What a cluster's nodes have this machine does not know: there they ask for one.
    """
    return int(workflow.non_local_exec or shutil.which("nvidia-smi") is not None)


def detector(wildcards):
    """The weights of the face detector and their record, if the corpus's detector has any."""
    faces = PARAMS.corpora[wildcards.corpus].faces
    model = faces.weights if faces else None
    return [model, ancient(paths.record(model))] if model else []


def detector_gpus(wildcards):
    """GPUs of a faces job: only a detector with weights uses one."""
    return gpus(wildcards) if detector(wildcards) else 0


def detector_threads(wildcards):
    """Threads of a face job: on a GPU, which one job has at a time, the others decode ahead of it."""
    return 5 if detector_gpus(wildcards) else 1


def training_threads(wildcards):
    """CPU threads of a training and of its evaluation."""
    return PARAMS.run(wildcards.corpus, wildcards.variant).training.threads


# A record is an input wherever the files of its job are, so that a job without one runs again; it is `ancient` because the
# time in it changes with every run, which must not rerun what comes after.
def raw(wildcards):
    """The clips of a corpus, with their records."""
    return [
        file
        for shard in PARAMS.corpora[wildcards.corpus].shards
        for file in (
            paths.raw(wildcards.corpus, shard),
            ancient(paths.raw_record(wildcards.corpus, shard)),
        )
    ]


def features_of(corpus, modalities, tables_only=False):
    """The features of some modalities of a corpus, with their records."""
    return [
        file
        for array, table in shards.features(corpus, PARAMS.corpora[corpus], modalities)
        for file in (
            *([] if tables_only else [array]),
            table,
            ancient(paths.record(array)),
        )
    ]


def feature_tables(wildcards):
    """Which clips of a corpus have features, in every modality: a clip without is in no fold of any variant."""
    modalities = PARAMS.corpora[wildcards.corpus].modalities
    return features_of(wildcards.corpus, modalities, tables_only=True)


def published(wildcards):
    """The file of the published protocol that the splits follow; kfold_<k> has none."""
    kind = PARAMS.corpora[wildcards.corpus].kind
    path = protocols.protocol_path(kind, wildcards.protocol)
    return str(path) if path else []


def features(wildcards):
    """What a variant sees and hears."""
    network = PARAMS.run(wildcards.corpus, wildcards.variant).network
    return features_of(wildcards.corpus, network.modalities)


def pretrained(wildcards):
    """The weights that a variant starts from."""
    network = PARAMS.run(wildcards.corpus, wildcards.variant).network
    records = [
        ancient(paths.record(file))
        for name, file in network.starts_from.items()
        if name in paths.WEIGHTS
    ]
    return [*network.starts_from.values(), *records]


@cache
def here(run):
    """The files of a fold that have to be here: of published folds that were adopted, no models and embeddings are."""
    record = Record.read(Path(), run.evaluation_record)
    large = (
        [] if record and "adopted" in record.details else [run.model, run.embeddings]
    )
    return [run.history, run.metrics, run.predictions, *large]


def runs(corpus):
    """What the report of a corpus is made from: the splits, and what every fold left, with the records."""
    splits = [
        file
        for protocol in PARAMS.corpora[corpus].protocols
        for file in (
            *paths.splits(corpus, protocol),
            ancient(paths.splits_record(corpus, protocol)),
        )
    ]
    records = [
        ancient(record)
        for run in RUNS[corpus]
        for record in (run.training_record, run.evaluation_record)
    ]
    search = [paths.search(corpus)] if Path(paths.search(corpus)).is_file() else []
    return [
        *splits,
        *(file for run in RUNS[corpus] for file in here(run)),
        *records,
        *search,
    ]


def corpus_runs(wildcards):
    """What the report of a corpus is made from."""
    return runs(wildcards.corpus)


def paper_runs(wildcards):
    """What the paper's tables are made from."""
    return [file for corpus in PARAMS.paper for file in runs(corpus)]


def step(corpus, name):
    """The files of one step of a corpus, and of the steps that nothing but the name of a step asks for, with records."""
    section = PARAMS.corpora[corpus]
    match name:
        case "clips":
            clips = [paths.raw(corpus, shard) for shard in section.shards]
            records = [paths.raw_record(corpus, shard) for shard in section.shards]
            # No cache holds the clips: a clone without any is complete until a job needs them.
            if all(map(os.path.exists, records)) and not any(
                map(os.path.exists, clips)
            ):
                clips = []
            index = paths.index(corpus)
            return [*clips, *records, index, paths.record(index)]
        case "features":
            return features_of(corpus, section.modalities)
        case "splits":
            made = [
                (
                    *paths.splits(corpus, protocol),
                    paths.splits_record(corpus, protocol),
                )
                for protocol in section.protocols
            ]
            return sum(made, ())
        case "models":
            files = [
                (
                    run.training_record,
                    *(file for file in run.trained if file in here(run)),
                )
                for run in RUNS[corpus]
            ]
            return sum(files, ())
        case "scores":
            files = [
                (
                    run.evaluation_record,
                    *(file for file in run.scored if file in here(run)),
                )
                for run in RUNS[corpus]
            ]
            return sum(files, ())
        case "report":
            return [*paths.report(corpus), paths.record_in(f"results/{corpus}")]


def begin():
    """Be the only process that runs jobs in this folder."""
    try:
        locks.hold(Path())
    except UserError as error:
        complain(error)
        raise SystemExit(2) from None
