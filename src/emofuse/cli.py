"""The command `emofuse`: one subcommand per stage, run in the folder that holds params.yaml.

Each stage is a function `stage` in the module of that stage; this module only reads the command line and reports errors.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emofuse import __version__, config
from emofuse.config import Params
from emofuse.utils import locks
from emofuse.utils.console import complain, printable
from emofuse.utils.errors import UserError
from emofuse.utils.files import unwritable

ROOT = Path()


def download(params: Params, corpus: str, shard: int) -> None:
    """Fetch the clips of one shard, from where the corpus's source says, to data/<corpus>/raw/."""
    from emofuse.data.download import clips as stages

    stages.stage(params, corpus, shard)


def source(params: Params, corpus: str) -> None:
    """Write data/<corpus>/source.json: digests of the clips at their source, for DVC to see when they change."""
    from emofuse.data.download import clips as stages
    from emofuse.provenance import adopt as elsewhere
    from emofuse.utils.files import write_json

    elsewhere.refuse_unregistered(ROOT)
    shards = params.corpus(corpus).shards
    write_json(ROOT / "data" / corpus / "source.json", [stages.at_source(params, corpus, shard) for shard in shards])


def weights(params: Params, name: str) -> None:
    """Fetch pretrained weights to data/weights/, checked by hash."""
    from emofuse.data.download import weights as stages

    stages.stage(params, name)


def index(params: Params, corpus: str) -> None:
    """List a corpus's clips, their labels, streams and hashes in data/<corpus>/index.csv."""
    from emofuse.data import index as stages

    stages.stage(params, corpus)


def faces(params: Params, corpus: str, shard: int) -> None:
    """Cut the faces of one shard's clips to data/<corpus>/features/faces/."""
    from emofuse.features import faces as stages

    stages.stage(params, corpus, shard, _threads())


def audio(params: Params, corpus: str, shard: int) -> None:
    """Compute the log-mel segments of one shard's clips to data/<corpus>/features/audio/."""
    from emofuse.features import audio as stages

    stages.stage(params, corpus, shard)


def splits(params: Params, corpus: str, protocol: str) -> None:
    """Join every stage's status and split the usable clips, to data/<corpus>/splits/<protocol>/."""
    from emofuse.data import splits as stages

    stages.stage(params, corpus, protocol)


def train(params: Params, corpus: str, protocol: str, variant: str, seed: int, fold: int) -> None:
    """Train one variant on one fold, to models/<corpus>/<protocol>/<variant>/seed-<s>/fold-<f>.*."""
    params.planned(corpus, protocol, variant, seed, fold)  # before torch is imported

    from emofuse.training import train as stages

    stages.stage(params, corpus, protocol, variant, seed, fold)


def evaluate(params: Params, corpus: str, protocol: str, variant: str, seed: int, fold: int) -> None:
    """Score a trained fold on its test clips, to results/<corpus>/runs/<protocol>/<variant>/seed-<s>/fold-<f>/."""
    params.planned(corpus, protocol, variant, seed, fold)

    from emofuse.evaluation import evaluate as stages

    stages.stage(params, corpus, protocol, variant, seed, fold)


def report(params: Params, corpus: str) -> None:
    """Write a corpus's tables, figures and page to results/<corpus>/."""
    params.corpus(corpus)

    from emofuse import report as stages

    stages.stage(params, corpus)


def paper(params: Params) -> None:
    """Write the paper's tables over its corpora to results/paper.md, paper.html and paper.tex."""
    from emofuse import report as stages

    stages.paper_stage(params)


def score(params: Params, corpus: str, protocol: str, predictions: str, output: str | None) -> None:
    """Score external predictions on the test clips of a protocol, exactly as ours are scored."""
    params.settings("splits", corpus, protocol=protocol)

    from emofuse import datasets
    from emofuse.evaluation import external
    from emofuse.utils.files import write_json

    emotions = datasets.get(params.corpus(corpus).kind).emotions
    scored = external.score(Path(predictions), corpus, protocol, emotions, ROOT)
    if output is not None:
        write_json(output, scored.record())
    print(scored.text())


def track(params: Params, corpus: str) -> None:
    """Upload to MLflow whatever it lacks of a corpus's runs; also fills an empty store."""
    params.corpus(corpus)

    from emofuse import tracking

    tracking.track(corpus, params, ROOT)


def verify(params: Params, corpus: str | None, step: str | None) -> None:
    """Check that results still follow from the clips, parameters and code, back to the clips."""
    from emofuse.provenance import publish
    from emofuse.provenance.chain import Chain
    from emofuse.provenance.verify import PAPER, run_corpora
    from emofuse.provenance.verify import verify as check

    chain = Chain(params, ROOT)
    if corpus is not None:
        params.corpus(corpus)
    _show(check([corpus] if corpus else [PAPER] if step == PAPER else run_corpora(chain), step, chain))
    if step is None:
        for name in [corpus] if corpus else params.corpora:
            _show(publish.check(name, params, ROOT))


def trace(params: Params, what: str) -> None:
    """Print what a file, or a cell of a table (FILE:ROW:COLUMN), was made from, back to the clips."""
    from emofuse.provenance.chain import Chain
    from emofuse.provenance.trace import trace as back

    _show(back(what, Chain(params, ROOT)))


def adopt(params: Params, source: str | None) -> None:
    """Take over outputs that came from elsewhere: after dvc pull or dvc checkout, or from published results."""
    from emofuse.provenance.adopt import adopt as take

    _show(take(params, ROOT, Path(source) if source else None))


def publish(params: Params, corpus: str, why: str) -> None:
    """Copy a corpus's tables, predictions, metrics and records to results/published/<corpus>/, to be committed."""
    from emofuse.provenance.publish import publish as write

    print(f"{write(corpus, why, params, ROOT)}: commit it")


def compare(params: Params, corpus: str) -> None:
    """Compare a local run with the published results, cell by cell."""
    from emofuse.provenance.publish import compare as check

    lines, equal = check(corpus, params, ROOT)
    _show(lines)
    if not equal:
        raise UserError(f"{corpus}: the tables here are not those of results/published/{corpus}")


def search(params: Params, corpus: str, protocol: str, fold: int, candidates: str) -> None:
    """Train configurations and compare them on validation actors, to results/<corpus>/search.csv."""
    variant = params.corpus(corpus).variants_under(protocol)[0]
    params.planned(corpus, protocol, variant, params.corpus(corpus).seeds[0], fold)

    from emofuse import datasets
    from emofuse.training import search as stages
    from emofuse.utils import gpu

    with gpu.device() as device:
        emotions = datasets.get(params.corpus(corpus).kind).emotions
        stages.run(params, corpus, protocol, fold, Path(candidates), emotions, ROOT, device)


def predict(video: list[str], model: str | None, output: str) -> None:
    """Predict the portrayed emotion in videos: on the terminal, and as CSV, JSON and a page in a folder."""
    import torch

    from emofuse.inference import bundle, predictor, writers
    from emofuse.utils import gpu

    models = bundle.find(model, ROOT)
    torch.set_num_threads(_threads())
    torch.use_deterministic_algorithms(True, warn_only=True)
    with gpu.device() as device:
        asked = predictor.Models(*models, device)
        clips = predictor.ask([Path(name) for name in video], asked)
        writers.write(clips, asked, Path(output))
    for clip in clips:
        _show(writers.lines(clip, asked.bundle))
    print(f"every window and face: {Path(output) / 'predictions.html'}, .csv and .json")
    if silent := sum(bool(clip.refusal(asked.bundle)) for clip in clips):
        raise UserError(f"{silent} of {len(clips)} videos have no prediction; the lines above say why")


def export(params: Params, model: str, folder: str) -> None:
    """Export a run's models to a self-contained folder, with a model card, programs and an MLflow model."""
    from emofuse.inference import bundle
    from emofuse.inference import export as stages

    stages.write(bundle.find(model, ROOT), params, Path(folder))
    print(f"{folder}: README.md is the model card; try emofuse predict --model {folder} VIDEO")


def show_params(params: Params, corpus: str, variant: str) -> None:
    """Print what a variant of a corpus resolves to."""
    print(json.dumps(params.run(corpus, variant).model_dump(), indent=2))


def show_schema() -> None:
    """Print the JSON schema of params.yaml."""
    print(config.schema(), end="")


def ui(port: int) -> None:
    """Open the MLflow UI on 127.0.0.1."""
    from emofuse import tracking

    tracking.serve(port)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "corpus": {"help": "a corpus of params.yaml"},
    "shard": {"type": int, "help": "one of the corpus's shards, a run of consecutive actors"},
    "protocol": {"help": "a protocol of the corpus: how its clips are split"},
    "variant": {"help": "a variant of params.yaml: a row of a table"},
    "seed": {"type": int, "help": "the seed of the training"},
    "fold": {"type": int, "help": "a fold of the protocol"},
    "name": {"help": "resnet18, r3d_18, retinaface_resnet50 or retinaface_mobilenet0.25"},
    "candidates": {"help": "a YAML file: configuration → overrides of network, loss and training"},
    "what": {"help": "a file, or FILE:ROW:COLUMN: a row's number or words of it, words of a heading"},
    "source": {"help": "a folder of published results, such as results/published/demo"},
    "model": {"help": "models/<corpus>/<protocol>/<variant>/seed-<s>, or one fold's model in it"},
    "folder": {"help": "a new folder"},
    "predictions": {"help": "a CSV file with the columns clip, and predicted or p_<emotion> for each emotion"},
    "--output": {"help": "a JSON file to write the scores to", "metavar": "FILE"},
    "--why": {"help": "the reason for this publication, for the log", "metavar": "TEXT", "required": True},
    "--step": {
        "help": "one step only",
        "choices": ("clips", "features", "splits", "models", "scores", "report", "paper"),
    },
}
FOLD = ("corpus", "protocol", "variant", "seed", "fold")
Command = tuple[Callable[..., None], tuple[str, ...]]
STAGES: dict[str, Command] = {
    "download": (download, ("corpus", "shard")),
    "weights": (weights, ("name",)),
    "index": (index, ("corpus",)),
    "faces": (faces, ("corpus", "shard")),
    "audio": (audio, ("corpus", "shard")),
    "splits": (splits, ("corpus", "protocol")),
    "train": (train, FOLD),
    "evaluate": (evaluate, FOLD),
    "report": (report, ("corpus",)),
    "paper": (paper, ()),
}
OTHERS: dict[str, Command] = {
    "source": (source, ("corpus",)),
    "track": (track, ("corpus",)),
    "verify": (verify, ("corpus?", "--step")),
    "trace": (trace, ("what",)),
    "adopt": (adopt, ("source?",)),
    "publish": (publish, ("corpus", "--why")),
    "compare": (compare, ("corpus",)),
    "score": (score, ("corpus", "protocol", "predictions", "--output")),
    "search": (search, ("corpus", "protocol", "fold", "candidates")),
    "params": (show_params, ("corpus", "variant")),
    "export": (export, ("model", "folder")),
}
LOCKED = (*STAGES, "adopt", "publish")  # they write what others read
WITHOUT_PARAMS: dict[str, Callable[..., None]] = {"predict": predict, "schema": show_schema, "ui": ui}
EPILOGUE = """\
The stages, each of which reads what the ones before it wrote:
  download → index → faces, audio → splits → train → evaluate → report → paper
Snakemake runs them, and DVC runs Snakemake; see README.md.

exit status: 0 done; 2 a mistake in what was given, or stale results, one line says which; 1 anything else
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand and return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    given = {name: value for name, value in vars(options).items() if name != "command"}
    try:
        _run(options.command, given)
    except UserError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        print("emofuse: stopped; the same command continues from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emofuse",
        description="From clips to tables: the stages of the pipeline, one command each.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"emofuse {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command", title="commands")
    parsers = {}
    functions = {name: function for name, (function, _) in (STAGES | OTHERS).items()} | WITHOUT_PARAMS
    for name, function in functions.items():
        text = (function.__doc__ or "").strip()
        summary = text[0].lower() + text[1:].rstrip(".")
        parsers[name] = subparsers.add_parser(name, help=summary, description=text)
    for name, (_, arguments) in (STAGES | OTHERS).items():
        for argument in arguments:
            optional: dict[str, Any] = {"nargs": "?"} if argument.endswith("?") else {}
            parsers[name].add_argument(argument.rstrip("?"), **ARGUMENTS[argument.rstrip("?")], **optional)
    parsers["ui"].add_argument("--port", type=int, default=5000, help="the port to listen on (5000)")
    parsers["predict"].add_argument("video", nargs="+", metavar="VIDEO", help="a file with a picture, a sound or both")
    parsers["predict"].add_argument(
        "--model", help="a run or a file of models/, a folder of emofuse export, or models:/…"
    )
    parsers["predict"].add_argument(
        "--output", default="predictions", metavar="FOLDER", help="where to write (predictions)"
    )
    return parser


def _run(command: str, given: dict[str, Any]) -> None:
    try:
        if command in WITHOUT_PARAMS:
            WITHOUT_PARAMS[command](**given)
            return
        params = config.load(ROOT / "params.yaml")
        if command in LOCKED:
            locks.hold(ROOT)
        (STAGES | OTHERS)[command][0](params, **given)
    except UserError:
        raise
    except Exception as error:
        number = unwritable(error)
        if number is None:
            raise
        file = getattr(error, "filename", None)
        where = os.path.relpath(file) if file else "an output"
        reason = f"cannot write {where}: {os.strerror(number)}; free space or make it writable, and run again"
        raise UserError(reason) from error


def _threads() -> int:
    """The CPUs of this job: what its rule is granted, which Snakemake says in OMP_NUM_THREADS, else all there are."""
    granted = os.environ.get("OMP_NUM_THREADS", "")
    return int(granted) if granted.isdigit() else os.cpu_count() or 1


def _show(lines: Any) -> None:
    for line in lines:
        print(printable(line))


if __name__ == "__main__":
    sys.exit(main())
