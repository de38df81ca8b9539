# Shared by all rules: the validated parameters, and input and parameter functions.
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
from emofuse.paths import RunKey, TransferKey
from emofuse.provenance import adopt
from emofuse.provenance.code import digest, of_package
from emofuse.provenance.records import Record
from emofuse.utils import locks, user
from emofuse.utils.console import complain
from emofuse.utils.errors import UserError

user.complete()  # for this process and its jobs; make has every Python of .venv do so

# Rules call the `emofuse` of the environment that runs Snakemake, whether or not it is activated.
os.environ.update(
    PATH=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
)
if (
    not workflow.is_main_process
):  # a job of the process that holds the lock, possibly on another node
    os.environ[locks.HELD] = str(Path().resolve())

try:
    if config:
        raise UserError(
            f"--config {next(iter(config))}: params.yaml is the only configuration; change it there"
        )
    PARAMS = parameters.load()
    for name in sorted(
        {name for each in PARAMS.corpora for name in PARAMS.packages(each)}
    ):
        of_package(name, Path())  # read once; a mistake in one is a line here
    # Snakemake considers outputs without metadata up to date, regardless of what they were made from.
    if workflow.is_main_process and not {"--touch", "-t", "--unlock"} & set(sys.argv):
        adopt.refuse_unregistered(Path())
except UserError as error:
    complain(error)
    raise SystemExit(2) from None

RUN = RunKey.wildcards()
RUNS = {corpus: PARAMS.keys(corpus) for corpus in PARAMS.corpora}
TRANSFER = TransferKey.wildcards()


def one_of(names):
    """A wildcard constraint that allows exactly these names."""
    return "|".join(sorted({re.escape(name) for name in names}))


def key(wildcards):
    """The arguments of a job's command by name, as in its record."""
    numbers = ("shard", "seed", "fold")
    return {
        name: int(value) if name in numbers else value
        for name, value in wildcards.items()
    }


def setting(stage, section):
    """One section of a job's settings, for `params`. If it changes, the job reruns and Snakemake prints the difference."""
    return lambda wildcards: PARAMS.settings(stage, **key(wildcards))[section]


def code(stage):
    """The digest of the code behind a job's results, for `params`."""

    def of_job(wildcards):
        job = key(wildcards)
        return f"code {digest(stage, PARAMS.kind(job), PARAMS.package(job))}"

    return of_job


def labels(wildcards):
    """The table that lists the clips of a corpus, if there is one."""
    return PARAMS.corpora[wildcards.corpus].tables


def source(wildcards):
    """The digest of the clips of a shard at their source."""
    return clips.at_source(PARAMS, wildcards.corpus, int(wildcards.shard))


def or_more(megabytes):
    """The memory to request from a cluster; it increases with each attempt."""
    return lambda wildcards, attempt: attempt * megabytes


def gpus(wildcards):
    """The number of GPUs of a training or an evaluation.

    It is 0 on a machine without CUDA, so that jobs do not wait for each other under --resources gpu=1, and always 1 on a
    cluster, whose nodes may differ from this machine. (Importing torch to find out would take seconds.)
    """
    return int(workflow.non_local_exec or shutil.which("nvidia-smi") is not None)


def detector(wildcards):
    """The weights of the face detector and their record, if the detector has weights."""
    faces = PARAMS.corpora[wildcards.corpus].faces
    model = faces.weights if faces else None
    return [model, ancient(paths.record(model))] if model else []


def detector_gpus(wildcards):
    """The number of GPUs of a faces job; only a detector with weights uses one."""
    return gpus(wildcards) if detector(wildcards) else 0


def detector_threads(wildcards):
    """CPU threads of a faces job. On a GPU, which runs one job at a time, several threads decode in advance."""
    return 5 if detector_gpus(wildcards) else 1


def training_threads(wildcards):
    """CPU threads of a training, its evaluation, or its application to another corpus."""
    corpus = wildcards.get("source", wildcards.corpus)
    return PARAMS.run(corpus, wildcards.variant).training.threads


# Records are inputs wherever the outputs of their jobs are, so that a job without a record reruns. They are `ancient` because
# their time stamp changes with every run, which must not rerun downstream jobs.
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
    """The features of a corpus for some modalities, with their records."""
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
    """The tables of the features of every modality. A clip that lacks one is excluded from all folds of all variants."""
    modalities = PARAMS.corpora[wildcards.corpus].modalities
    return features_of(wildcards.corpus, modalities, tables_only=True)


def transferred(wildcards):
    """The clips that a model of another corpus is applied to: their features where both corpora make them in the same way,
    else the clips themselves, with the weights of the model's face detector.
    """
    source, target = (
        PARAMS.corpora[wildcards.source],
        PARAMS.corpora[wildcards.corpus],
    )
    modalities = PARAMS.run(wildcards.source, wildcards.variant).network.modalities
    same = [name for name in modalities if source.shares_features(target, name)]
    files = features_of(wildcards.corpus, same)
    if len(same) < len(modalities):
        files += raw(wildcards)
    weights = source.faces.weights if {"video"} & set(modalities) - set(same) else None
    return [*files, *([weights, ancient(paths.record(weights))] if weights else [])]


def published(wildcards):
    """The file of a published protocol; kfold_<k> has none."""
    folder = PARAMS.corpora[wildcards.corpus].protocol_folder
    path = protocols.protocol_path(folder, wildcards.protocol)
    return str(path) if path else []


def features(wildcards):
    """The features that a variant uses."""
    network = PARAMS.run(wildcards.corpus, wildcards.variant).network
    return features_of(wildcards.corpus, network.modalities)


def pretrained(wildcards):
    """The pretrained weights of a variant, with their records."""
    network = PARAMS.run(wildcards.corpus, wildcards.variant).network
    records = [
        ancient(paths.record(file))
        for name, file in network.starts_from.items()
        if name in paths.WEIGHTS
    ]
    return [*network.starts_from.values(), *records]


def calibrations(runs):
    """The calibrations of those runs that have one of their own, with their records."""
    calibrated = [run for run in runs if PARAMS.calibrated_on(run) == "inner halves"]
    return [(run.calibration, run.calibration_record) for run in calibrated]


def calibration(wildcards):
    """The calibration of a run, with its record, if it has one of its own."""
    return [
        file
        for temperature, record in calibrations([RunKey(**key(wildcards))])
        for file in (temperature, ancient(record))
    ]


@cache
def required(run):
    """The files that a fold must have. Folds adopted from published results have no models and embeddings."""
    record = Record.read(Path(), run.evaluation_record)
    large = (
        [] if record and "adopted" in record.details else [run.model, run.embeddings]
    )
    return [run.history, run.metrics, run.predictions, *large]


def runs(corpus):
    """The inputs of a corpus's report: splits and files of every fold, with their records."""
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
    transfers = [
        file
        for transfer in PARAMS.transfers(corpus)
        for file in (*transfer.scored, ancient(transfer.record))
    ]
    search = [paths.search(corpus)] if Path(paths.search(corpus)).is_file() else []
    return [
        *splits,
        *(file for run in RUNS[corpus] for file in required(run)),
        *records,
        *transfers,
        *search,
    ]


def corpus_runs(wildcards):
    """The inputs of a corpus's report."""
    return runs(wildcards.corpus)


def paper_runs(wildcards):
    """The inputs of the paper's tables."""
    return [file for corpus in PARAMS.paper for file in runs(corpus)]


def step(corpus, name):
    """The files of one step of a corpus, with their records."""
    section = PARAMS.corpora[corpus]
    match name:
        case "clips":
            clips = [paths.raw(corpus, shard) for shard in section.shards]
            records = [paths.raw_record(corpus, shard) for shard in section.shards]
            # DVC does not cache the clips, so a clone without them is complete until a job needs them.
            if all(map(os.path.exists, records)) and not any(
                map(os.path.exists, clips)
            ):
                clips = []
            index = paths.index(corpus)
            return [*clips, *records, index, paths.record(index)]
        case "features":
            return features_of(corpus, section.modalities)
        case "splits":
            files = [
                (
                    *paths.splits(corpus, protocol),
                    paths.splits_record(corpus, protocol),
                )
                for protocol in section.protocols
            ]
            return sum(files, ())
        case "models":
            files = [
                (
                    run.training_record,
                    *(file for file in run.trained if file in required(run)),
                )
                for run in RUNS[corpus]
            ]
            return sum([*files, *calibrations(RUNS[corpus])], ())
        case "scores":
            files = [
                (
                    run.evaluation_record,
                    *(file for file in run.scored if file in required(run)),
                )
                for run in RUNS[corpus]
            ]
            files += [
                (transfer.record, *transfer.scored)
                for transfer in PARAMS.transfers(corpus)
            ]
            return sum(files, ())
        case "report":
            return [*paths.report(corpus), paths.record_in(f"results/{corpus}")]


def begin():
    """Take the lock of this folder: only one process may run jobs in it."""
    try:
        locks.hold(Path())
    except UserError as error:
        complain(error)
        raise SystemExit(2) from None
