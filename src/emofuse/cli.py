"""The command `emofuse`: each stage is one subcommand, implemented in one module.

This module only reads the command line and reports errors. Each command imports what it needs when it runs, so that
`emofuse --help` and the short stages start quickly.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from emofuse import __version__, config
from emofuse.config import Params
from emofuse.paths import RunKey
from emofuse.utils import console, locks, memory, user
from emofuse.utils.console import complain, printable, shown
from emofuse.utils.errors import UserError
from emofuse.utils.files import unwritable

ROOT = Path()  # commands run in the folder that holds params.yaml

Corpus = Annotated[str, typer.Argument(help="A corpus of params.yaml.")]
Shard = Annotated[int, typer.Argument(help="A shard of the corpus: a group of consecutive actors.")]
Protocol = Annotated[str, typer.Argument(help="A protocol of the corpus: how its clips are split.")]
Variant = Annotated[str, typer.Argument(help="A variant of params.yaml: one row of a table.")]
Seed = Annotated[int, typer.Argument(help="The random seed of the training.")]
Fold = Annotated[int, typer.Argument(help="A fold of the protocol.")]
Factory = Annotated[
    str | None,
    typer.Option(
        envvar="EMOFUSE_FACTORY",
        help="For models of your own network: package.module:function, in this folder or installed, whose code may run.",
    ),
]
Step = Literal["clips", "features", "splits", "models", "scores", "report", "paper"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=(
        "Pipeline: download → index → faces, audio → splits → train → calibrate → evaluate → transfer → report → paper."
        " DVC runs Snakemake, which runs these commands.\n\n"
        "Exit status: 0 success; 2 wrong arguments, wrong parameters, or stale or corrupted files, explained in one line;"
        " 130 interrupted; 1 any other error."
    ),
)


def print_version(requested: bool) -> None:
    if requested:
        print(f"emofuse {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Audio-video emotion recognition, from clips to the paper's tables. Run it in the folder that holds params.yaml."""


def load_params() -> Params:
    return config.load(ROOT / "params.yaml")


def exclusive_params() -> Params:
    """The parameters, for commands that write what others read: only one of them may run in a folder at a time."""
    params = load_params()
    locks.hold(ROOT)
    return params


def cpus() -> int:
    """The number of CPUs this job may use: as many as its rule has threads (OMP_NUM_THREADS, set by Snakemake), or all."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return (int(threads) if threads.isdecimal() else 0) or os.cpu_count() or 1


def show(lines: Iterable[str]) -> None:
    for line in lines:
        print(printable(line))


# ── the stages, in the order in which the pipeline runs them ─────────────────────────────────────────────────────────


@app.command()
def download(corpus: Corpus, shard: Shard) -> None:
    """Download the clips of one shard. They are written to data/<corpus>/raw/."""
    from emofuse.data.download import clips

    clips.stage(exclusive_params(), corpus, shard)


@app.command()
def weights(
    name: Annotated[str, typer.Argument(help="resnet18, r3d_18, retinaface_resnet50 or retinaface_mobilenet0.25.")],
) -> None:
    """Download pretrained weights and verify their hash. They are written to data/weights/."""
    from emofuse.data.download import weights as module

    module.stage(exclusive_params(), name)


@app.command()
def index(corpus: Corpus) -> None:
    """List a corpus's clips with labels and hashes. Writes data/<corpus>/index.csv."""
    from emofuse.data import index as module

    module.stage(exclusive_params(), corpus)


@app.command()
def faces(corpus: Corpus, shard: Shard) -> None:
    """Crop the faces of one shard's clips. Writes to data/<corpus>/features/faces/."""
    from emofuse.features import faces as module

    module.stage(exclusive_params(), corpus, shard, cpus())


@app.command()
def audio(corpus: Corpus, shard: Shard) -> None:
    """Compute one shard's log-mel spectrograms. Writes to data/<corpus>/features/audio/."""
    from emofuse.features import audio as module

    module.stage(exclusive_params(), corpus, shard)


@app.command()
def splits(corpus: Corpus, protocol: Protocol) -> None:
    """Split the usable clips into folds. Writes to data/<corpus>/splits/<protocol>/."""
    from emofuse.data import splits as module

    module.stage(exclusive_params(), corpus, protocol)


@app.command()
def train(corpus: Corpus, protocol: Protocol, variant: Variant, seed: Seed, fold: Fold) -> None:
    """Train one variant on one fold. Writes models/<corpus>/<protocol>/<variant>/seed-<s>/fold-<f>.*."""
    params = exclusive_params()
    params.planned(corpus, protocol, variant, seed, fold)  # before torch is imported, which takes seconds
    from emofuse.training import train as module

    memory.keep_freed()
    module.stage(params, corpus, protocol, variant, seed, fold)


@app.command()
def calibrate(corpus: Corpus, protocol: Protocol, variant: Variant, seed: Seed, fold: Fold) -> None:
    """Calibrate a fold by training on halves of its actors. Writes models/…/fold-<f>.calibration.json."""
    params = exclusive_params()
    params.settings("calibrate", **RunKey(corpus, protocol, variant, seed, fold).asdict())
    from emofuse.evaluation import calibrate as module

    memory.keep_freed()
    module.stage(params, corpus, protocol, variant, seed, fold)


@app.command()
def evaluate(corpus: Corpus, protocol: Protocol, variant: Variant, seed: Seed, fold: Fold) -> None:
    """Score a trained fold on its test clips. Writes to results/<corpus>/runs/."""
    params = exclusive_params()
    params.planned(corpus, protocol, variant, seed, fold)
    from emofuse.evaluation import evaluate as module

    module.stage(params, corpus, protocol, variant, seed, fold)


@app.command()
def transfer(
    source: Annotated[str, typer.Argument(help="The corpus whose model it is.")],
    protocol: Protocol,
    variant: Variant,
    seed: Seed,
    fold: Fold,
    corpus: Annotated[str, typer.Argument(help="The corpus to apply it to, with the source in its across section.")],
) -> None:
    """Apply a trained fold to the clips of another corpus. Writes to results/<corpus>/runs/across/."""
    params = exclusive_params()
    params.applied(corpus, source, protocol, variant, seed, fold)
    from emofuse.evaluation import transfer as module

    module.stage(params, source, protocol, variant, seed, fold, corpus)


@app.command()
def report(corpus: Corpus) -> None:
    """Write a corpus's tables, figures and page. Writes to results/<corpus>/."""
    params = exclusive_params()
    params.corpus(corpus)
    from emofuse import report as module

    module.stage(params, corpus)


@app.command()
def paper() -> None:
    """Write the paper's tables. Writes results/paper.md, paper.html and paper.tex."""
    from emofuse import report as module

    module.paper_stage(exclusive_params())


# ── using the models ─────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def predict(
    videos: Annotated[list[Path], typer.Argument(help="Video or audio files.", readable=False)],  # each is tried
    model: Annotated[
        str | None, typer.Option(help="A run or model file in models/, a folder of emofuse export, or models:/….")
    ] = None,
    output: Annotated[Path, typer.Option(help="The folder for predictions.csv, .json and .html.")] = Path(
        "predictions"
    ),
    factory: Factory = None,
) -> None:
    """Predict the portrayed emotion in videos. Prints it, and writes CSV, JSON and an HTML page."""
    import torch

    from emofuse.inference import bundle, predictor, writers
    from emofuse.utils import gpu

    found = bundle.find(model, ROOT)
    torch.set_num_threads(cpus())
    torch.use_deterministic_algorithms(True, warn_only=True)
    with gpu.device() as device:
        models = predictor.Models(*found, device, factory or None)
        clips = predictor.predict(videos, models)
        writers.write(clips, models, output)
    for clip in clips:
        show(writers.lines(clip, models.bundle))
    show([f"every window and face: {shown(output / 'predictions.html')}, .csv and .json"])
    if failures := sum(bool(clip.failure(models.bundle)) for clip in clips):
        raise UserError(f"{failures} of {len(clips)} videos have no prediction; the lines above give the reasons")


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="models/<corpus>/<protocol>/<variant>/seed-<s>, or one model file in it.")
    ],
    folder: Annotated[Path, typer.Argument(help="The folder to create.")],
    factory: Factory = None,
) -> None:
    """Export models to a self-contained folder. It holds a model card, torch.export programs and an MLflow model."""
    from emofuse.inference import bundle
    from emofuse.inference import export as module

    module.write(bundle.find(model, ROOT), load_params(), folder, factory or None)
    show([f"{shown(folder)}: README.md is the model card; try emofuse predict --model {shown(folder)} VIDEO"])


@app.command()
def score(
    corpus: Corpus,
    protocol: Protocol,
    predictions: Annotated[
        Path,
        typer.Argument(
            help="A CSV file with the columns clip and predicted, or p_<emotion> for every emotion; or EmoBox's JSON: key, pred."
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="A JSON file to write the scores to.")] = None,
) -> None:
    """Score predictions of another program. The test clips and metrics are those of emofuse evaluate."""
    params = load_params()
    params.settings("splits", corpus, protocol=protocol)
    from emofuse.evaluation import external
    from emofuse.utils.files import write_json

    section = params.corpus(corpus)
    emotions, known = section.emotions, section.actors_known
    scored = external.score(predictions, corpus, protocol, emotions, ROOT, known)
    if output is not None:
        write_json(output, scored.record())
    print(scored.text())


@app.command()
def search(
    corpus: Corpus,
    protocol: Protocol,
    candidates: Annotated[Path, typer.Argument(help="A YAML file: name: {base: <variant>, network: …, training: …}.")],
    folds: Annotated[str | None, typer.Option(help="The folds, such as 0,1; default: those of params.yaml.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="The random seed; default: the corpus's first.", min=0, max=2**31 - 1)
    ] = None,
) -> None:
    """Compare configurations on a development corpus. Writes results/<corpus>/search.csv.

    Each candidate is trained to the last epoch and then scored on the test actors, so a corpus whose results are reported is
    refused. Several of these commands may run at once, on other candidates.
    """
    params = load_params()
    from emofuse.training import search as module
    from emofuse.utils import gpu

    memory.keep_freed()
    module.run(params, corpus, protocol, candidates, folds, seed, ROOT, gpu.shared())


@app.command("corpus")
def own_corpus(
    folder: Annotated[Path, typer.Argument(help="The folder of the clips, or a zip file.")],
    pattern: Annotated[
        str | None,
        typer.Option(
            help="How names are read, such as '{actor}-{sentence}-{emotion}_{take}.mp4'; {emotion:1} is one character long."
        ),
    ] = None,
    map: Annotated[
        list[str] | None, typer.Option(help="What codes mean: <field>:<code>=<meaning>,…; nothing after = leaves out.")
    ] = None,
    emobox: Annotated[
        Path | None, typer.Option(help="A folder of EmoBox's data/: labels and folds; --pattern is about its keys.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The name of the corpus; default: that of the folder.")] = None,
) -> None:
    """Add your own clips as a corpus. Writes corpora/<name>/metadata.csv and a section of params.yaml."""
    from emofuse.data import own_corpus as module
    from emofuse.data.own_corpus.listing import read_maps

    show(module.write(folder, name, pattern, emobox, read_maps(map or []), ROOT))


# ── provenance ───────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def verify(
    corpus: Annotated[str | None, typer.Argument(help="A corpus of params.yaml; default: everything.")] = None,
    step: Annotated[Step | None, typer.Option(help="Check one step only.")] = None,
) -> None:
    """Check that results match their inputs. Compares them with the clips, parameters and code they came from."""
    params = load_params()
    from emofuse.provenance import publish as published
    from emofuse.provenance.freshness import Chain
    from emofuse.provenance.verify import PAPER, run_corpora
    from emofuse.provenance.verify import verify as check

    chain = Chain(params, ROOT)
    if corpus is not None:
        params.corpus(corpus)
    show(check([corpus] if corpus else [PAPER] if step == PAPER else run_corpora(chain), step, chain))
    if step is None:
        for name in [corpus] if corpus else params.corpora:
            show(published.check(name, params, ROOT))


@app.command()
def trace(
    target: Annotated[
        str,
        typer.Argument(help="A file, or FILE:ROW:COLUMN: a row number or part of its name, part of a column heading."),
    ],
) -> None:
    """Trace a file or table cell back to the clips. Prints each job that it depends on."""
    from emofuse.provenance.freshness import Chain
    from emofuse.provenance.trace import trace as trace_back

    show(trace_back(target, Chain(load_params(), ROOT)))


@app.command()
def adopt(
    source: Annotated[
        Path | None, typer.Argument(help="A folder of published results, such as results/published/demo.")
    ] = None,
) -> None:
    """Register outputs made elsewhere. Run it after dvc pull or dvc checkout; whatever does not verify is rerun."""
    from emofuse.provenance.adopt import adopt as register

    show(register(exclusive_params(), ROOT, source))


@app.command()
def publish(
    corpus: Corpus,
    why: Annotated[str, typer.Option(help="The reason for evaluating the test clips, for the log.")],
) -> None:
    """Copy results to results/published/<corpus>/. Tables, predictions, metrics and records, to be committed."""
    from emofuse.provenance.publish import publish as copy_results

    print(f"{copy_results(corpus, why, exclusive_params(), ROOT)}: commit it")


@app.command()
def compare(corpus: Corpus) -> None:
    """Compare local tables with the published ones. The comparison is cell by cell."""
    from emofuse.provenance.compare import compare as compare_tables

    lines, equal = compare_tables(corpus, load_params(), ROOT)
    show(lines)
    if not equal:
        raise UserError(f"{corpus}: the local tables differ from those in results/published/{corpus}")


@app.command()
def source(corpus: Corpus) -> None:
    """Write digests of what DVC cannot see.

    These are the clips at their source (data/<corpus>/source.json), the packages of factories (factories.json), and the
    runs of other corpora that are applied to this one (across.json).
    """
    params = load_params()
    from emofuse import paths
    from emofuse.data.download import clips
    from emofuse.provenance import across, code
    from emofuse.provenance.adopt import refuse_links, refuse_unregistered
    from emofuse.utils.files import write_json

    refuse_links(corpus, ROOT)
    refuse_unregistered(ROOT)
    digests = [clips.at_source(params, corpus, shard) for shard in params.corpus(corpus).shards]
    write_json(ROOT / "data" / corpus / "source.json", digests)
    packages = {name: code.of_package(name, ROOT) for name in params.packages(corpus)}
    write_json(ROOT / "data" / corpus / "factories.json", packages)
    write_json(ROOT / paths.across(corpus), across.state(corpus, params, ROOT))


# ── MLflow and params.yaml ───────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def track(corpus: Corpus) -> None:
    """Upload runs that MLflow lacks. This also fills an empty store from the result files."""
    params = load_params()
    params.corpus(corpus)
    from emofuse import tracking

    tracking.track(corpus, params, ROOT)


@app.command()
def ui(port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 5000) -> None:
    """Serve the MLflow UI on 127.0.0.1."""
    from emofuse import tracking

    tracking.serve(port)


@app.command("params")
def show_params(corpus: Corpus, variant: Variant) -> None:
    """Print the resolved parameters of a variant."""
    print(json.dumps(load_params().run(corpus, variant).model_dump(), indent=2))


@app.command("schema")
def show_schema() -> None:
    """Print the JSON schema of params.yaml."""
    print(config.schema(), end="")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    user.complete()
    console.start()
    try:
        status = app(arguments, prog_name="emofuse", standalone_mode=False) or 0
        console.finish()
    except UserError as error:
        complain(error)
        return 2
    except typer.TyperException as error:  # wrong arguments
        complain(UserError(f"{error.format_message().rstrip('.')}; see --help"))
        return 2
    except BrokenPipeError:  # the reader of the output has seen enough
        return 1
    except Exception as error:
        if (explained := _explained(error)) is None:
            raise
        complain(explained)
        return 2
    if status == 130:
        print("emofuse: interrupted; run the same command again to continue", file=sys.stderr)
    return int(status)


def _explained(error: Exception) -> UserError | None:
    """What to do about an error of the operating system; None for any other error."""
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
        return UserError("there is no folder for temporary files; set TMPDIR to a folder in which you may create files")
    if (number := unwritable(error)) is None:
        return None
    file = getattr(error, "filename", None)
    where = os.path.relpath(file) if file else "an output"
    return UserError(f"cannot write {where}: {os.strerror(number)}; free space or make it writable, and run again")


if __name__ == "__main__":
    sys.exit(main())
