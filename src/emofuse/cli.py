"""The command `emofuse`: one subcommand a stage, run in the folder that holds params.yaml."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

from emofuse import __version__, alone, graph, provenance
from emofuse import params as parameters
from emofuse.console import complain, printable
from emofuse.errors import UserError
from emofuse.params import Params

ROOT = Path()
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
log = logging.getLogger("emofuse")


def download(params: Params, corpus: str, shard: int) -> None:
    """Fetch the clips of one shard, from where the corpus's source says, to data/<corpus>/raw/."""
    from emofuse import download as stage

    section = params.corpus(corpus)
    _known(shard, section.shards, f"corpora.{corpus}.shards", "shard")
    stage.run(corpus, section, shard, parameters.source(corpus, section), ROOT)


def index(params: Params, corpus: str) -> None:
    """List a corpus's clips, their labels, streams and hashes in data/<corpus>/index.csv."""
    from emofuse import index as stage

    stage.build(corpus, params.corpus(corpus), ROOT)


def faces(params: Params, corpus: str, shard: int) -> None:
    """Cut the faces of one shard's clips to data/<corpus>/faces/."""
    from emofuse import faces as stage
    from emofuse import lease, weights

    section = params.corpus(corpus).faces
    if section is None:
        raise UserError(f"corpora.{corpus}: it has no video, so there are no faces to cut")
    archive, rows, output, progress = _shard(params, corpus, shard, "faces")
    detector = ROOT / weights.path(f"retinaface_{section.body}") if section.detector == "retinaface" else None
    with lease.device() if detector else nullcontext():  # the detector takes the GPU that is leased
        stage.extract(rows, archive, section, output, output.with_suffix(".csv"), detector, progress, _threads())


def audio(params: Params, corpus: str, shard: int) -> None:
    """Compute the log-mel segments of one shard's clips to data/<corpus>/audio/."""
    from emofuse import audio as stage

    section = params.corpus(corpus).audio
    if section is None:
        raise UserError(f"corpora.{corpus}: it has no sound, so there are no audio features")
    archive, rows, output, progress = _shard(params, corpus, shard, "audio")
    stage.extract(rows, archive, section, output, output.with_suffix(".csv"), progress)


def splits(params: Params, corpus: str, protocol: str) -> None:
    """Join every stage's status and split the usable clips, to data/<corpus>/<protocol>/."""
    from emofuse import splits as stage

    section = params.corpus(corpus)
    _known(protocol, section.protocols, f"corpora.{corpus}.protocols", "protocol")
    path = parameters.protocol_path(section.kind, protocol)
    stage.build(corpus, section, protocol, parameters.read_protocol(ROOT / path) if path else None, ROOT)


def train(params: Params, corpus: str, protocol: str, variant: str, seed: int, fold: int) -> None:
    """Train one variant on one fold, to models/<corpus>/<protocol>/<variant>/seed-<s>/fold-<f>.*."""
    run = _check_run(params, corpus, protocol, variant, seed, fold)

    from emofuse import corpora, lease, tracking, training, weights
    from emofuse.shards import FOLDERS

    name = tracking.RunKey(corpus, protocol, variant, seed, fold)
    key = Path(str(name))
    checkpoint = ROOT / "checkpoints" / key.with_suffix(".pt")
    alone.sweep([checkpoint])
    with lease.device() as device, tracking.Live(name, {}) as live:
        training.train(
            ROOT / "data" / corpus,
            protocol,
            fold,
            seed,
            run,
            corpora.emotions(params.corpus(corpus).kind),
            ROOT / "models" / key.with_suffix(".safetensors"),
            checkpoint,
            _stamps(params, corpus, f"train-{variant}", *(FOLDERS[modality] for modality in run.network.modalities)),
            weights.files(run.network, ROOT),
            live,
            device,
        )


def evaluate(
    params: Params,
    corpus: str,
    protocol: str,
    variant: str | None,
    seed: int | None,
    fold: int | None,
    predictions: str | None,
    output: str | None,
) -> None:
    """Score a trained fold on its test clips, to results/<corpus>/<protocol>/<variant>/seed-<s>/fold-<f>/; or, without
    variant, seed and fold, the --predictions of others.
    """
    if predictions is not None:
        if variant is not None:
            raise UserError(
                f"evaluate: {variant} names a run of ours; leave variant, seed and fold out beside --predictions"
            )
        _evaluate_predictions(params, corpus, protocol, Path(predictions), output)
        return
    if output is not None:
        raise UserError("evaluate: --output goes with --predictions; a fold of ours is written to results/")
    if variant is None or seed is None or fold is None:
        raise UserError(
            "evaluate: name the variant, seed and fold of ours, or what others predicted by --predictions FILE"
        )
    run = _check_run(params, corpus, protocol, variant, seed, fold)

    from emofuse import corpora, evaluation, lease

    key = Path(graph.fold_key(corpus, protocol, variant, seed, fold))
    train_stamp, evaluate_stamp = _stamps(params, corpus, f"train-{variant}", f"evaluate-{variant}")
    with lease.device() as device:
        evaluation.evaluate(
            ROOT / "data" / corpus,
            (corpus, protocol, variant, seed, fold),
            run,
            corpora.emotions(params.corpus(corpus).kind),
            ROOT / "models" / key.with_suffix(".safetensors"),
            ROOT / "results" / key,
            {"train_stamp": train_stamp, "evaluate_stamp": evaluate_stamp},
            device,
        )


def _evaluate_predictions(params: Params, corpus: str, protocol: str, file: Path, output: str | None) -> None:
    section = params.corpus(corpus)
    _known(protocol, section.protocols, f"corpora.{corpus}.protocols", "protocol")

    from emofuse import corpora, predictions
    from emofuse.files import write_json

    scored = predictions.score(file, ROOT / "data" / corpus, protocol, corpora.emotions(section.kind))
    if output is not None:
        write_json(output, scored.record())
    print(scored.text())


def track(params: Params, corpus: str) -> None:
    """Mirror every fold of a corpus that is on disk into the MLflow store; also rebuilds a lost store."""
    from emofuse import tracking

    params.corpus(corpus)
    _refuse_stale(params, corpus)
    tracking.track(corpus, params, ROOT)


def restore(params: Params, corpus: str) -> None:
    """Write back a corpus's result files from the MLflow store."""
    from emofuse import tracking

    params.corpus(corpus)
    tracking.restore(corpus, params, ROOT)


def report(params: Params, corpus: str) -> None:
    """Write a corpus's tables, figures and page to results/<corpus>/."""
    from emofuse import report as stage

    params.corpus(corpus)
    _refuse_stale(params, corpus)
    stage.build(corpus, params, ROOT)


def paper(params: Params) -> None:
    """Write the paper's tables over its corpora to results/paper.md, paper.html and paper.tex."""
    from emofuse import report as stage

    _refuse_stale(params, *params.paper)
    stage.paper(params, ROOT)


def verify(params: Params, corpus: str | None) -> None:
    """Say of every number in a corpus's tables, or in all of them, whether it holds, back to the clips."""
    from emofuse import verify as check

    names = [corpus] if corpus else [name for name in params.corpora if any((ROOT / "results" / name).glob("*/*/*/*"))]
    chain = provenance.Chain(params, ROOT)
    stale = 0
    for name in names:
        params.corpus(name)
        rows = check.corpus(name, chain)
        for line in (*check.text(name, rows), *check.environments(name, chain)):
            print(printable(line))
        stale += sum(row.cells.get(provenance.STALE, 0) for row in rows)
    if not names:
        print("nothing has been run")
    wrong = [f"{stale} numbers"] if stale else []
    if not corpus and (found := check.paper(chain)).state != provenance.NOT_RUN:
        print(f"results/paper: {found.state}", *map(printable, check.grouped(found.reasons)), sep="\n  ")
        wrong += ["results/paper"] if found.state == provenance.STALE else []
    if wrong:
        raise UserError(f"stale: {' and '.join(wrong)}; run `snakemake`, which makes anew what that concerns")


def trace(params: Params, what: str) -> None:
    """Print what a file, or a cell of a table (FILE:ROW:COLUMN), was made from, back to the clips."""
    from emofuse import trace as stage

    for line in stage.trace(what, params, ROOT):
        print(printable(line))


def plan(params: Params, corpus: str | None) -> None:
    """Say what is left to be done of a corpus, or of the paper's, and what that takes, from measured pieces."""
    from emofuse import plan as stage

    names = [corpus] if corpus else params.paper
    for name in names:
        params.corpus(name)
    chain = provenance.Chain(params, ROOT)
    for line in stage.text([stage.make(name, chain) for name in names], stage.machines()):
        print(printable(line))
    chain.hashes.save()


def weights(params: Params, name: str) -> None:
    """Fetch pretrained weights to data/weights/, checked by hash."""
    from emofuse import weights as stage

    stage.fetch(name, ROOT)


def stamps(params: Params, corpus: str) -> None:
    """Write stamps/<corpus>/: each stage's resolved parameters and code hash, where they changed."""
    from emofuse import stamps as stage

    params.corpus(corpus)
    stage.write(corpus, params, ROOT)


def search(params: Params, corpus: str, protocol: str, fold: int, candidates: str) -> None:
    """Train configurations and compare them on validation actors, to results/<corpus>/search.csv."""
    from emofuse import corpora, lease
    from emofuse import search as stage

    section = params.corpus(corpus)
    _known(protocol, section.protocols, f"corpora.{corpus}.protocols", "protocol")
    _known(fold, section.protocols[protocol], f"corpora.{corpus}.protocols.{protocol}", "fold")
    with lease.device() as device:
        stage.run(params, corpus, protocol, fold, Path(candidates), corpora.emotions(section.kind), ROOT, device)


def predict(video: list[str], model: str | None, output: str) -> None:
    """Say which emotion is played in videos, by trained models, on the terminal and in a folder of CSV, JSON and a page."""
    import torch

    from emofuse import lease
    from emofuse.predict import answers, bundle, written

    models = bundle.find(model, ROOT)
    torch.set_num_threads(_threads())
    torch.use_deterministic_algorithms(True, warn_only=True)
    with lease.device() as device:
        asked = answers.Models(*models, device)
        clips = answers.ask([Path(name) for name in video], asked)
        written.write(clips, asked, Path(output))
    for clip in clips:
        for line in written.lines(clip, asked.bundle):
            print(printable(line))
    print(f"every window and face: {Path(output) / 'predictions.html'}, .csv and .json")
    if silent := sum(bool(clip.refusal(asked.bundle)) for clip in clips):
        raise UserError(f"{silent} of {len(clips)} videos have no answer; the lines above say why")


def export(params: Params, model: str, folder: str) -> None:
    """Write the models of a run to a folder that stands alone, with a model card, programs and MLflow's form of them."""
    from emofuse.predict import bundle
    from emofuse.predict import export as stage

    stage.write(bundle.find(model, ROOT), params, Path(folder))
    print(f"{folder}: README.md is the model card; try emofuse predict --model {folder} VIDEO")


def show_params(params: Params, corpus: str, variant: str) -> None:
    """Print what a variant of a corpus resolves to."""
    print(json.dumps(params.run(corpus, variant).model_dump(), indent=2))


def show_schema() -> None:
    """Print the JSON schema of params.yaml."""
    print(parameters.schema(), end="")


def ui(port: int) -> None:
    """Open the MLflow UI on 127.0.0.1."""
    from emofuse import tracking

    tracking.serve(port)


ARGUMENTS: dict[str, tuple[type, str]] = {
    "corpus": (str, "a corpus of params.yaml"),
    "shard": (int, "one of the corpus's shards, a run of consecutive actors"),
    "protocol": (str, "a protocol of the corpus: how its clips are split"),
    "variant": (str, "a variant of params.yaml: a row of a table"),
    "seed": (int, "the seed of the training"),
    "fold": (int, "a fold of the protocol"),
    "name": (str, "resnet18, r3d_18, retinaface_resnet50 or retinaface_mobilenet0.25"),
    "candidates": (str, "a YAML file: configuration → overrides of network, loss and training"),
    "what": (str, "a file, or FILE:ROW:COLUMN: a row's number or words of it, words of a heading"),
    "model": (str, "models/<corpus>/<protocol>/<variant>/seed-<s>, or one fold's model in it"),
    "folder": (str, "a new folder"),
    "--predictions": (str, "a CSV file of others' predictions: clip, and predicted or p_<emotion> of each emotion"),
    "--output": (str, "the JSON file to write the scores of --predictions to"),
}
FOLD = ("corpus", "protocol", "variant", "seed", "fold")
COMMANDS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "download": (download, ("corpus", "shard")),
    "index": (index, ("corpus",)),
    "faces": (faces, ("corpus", "shard")),
    "audio": (audio, ("corpus", "shard")),
    "splits": (splits, ("corpus", "protocol")),
    "train": (train, FOLD),
    "evaluate": (evaluate, ("corpus", "protocol", "variant?", "seed?", "fold?", "--predictions", "--output")),
    "track": (track, ("corpus",)),
    "restore": (restore, ("corpus",)),
    "report": (report, ("corpus",)),
    "paper": (paper, ()),
    "verify": (verify, ("corpus?",)),
    "trace": (trace, ("what",)),
    "plan": (plan, ("corpus?",)),
    "weights": (weights, ("name",)),
    "stamps": (stamps, ("corpus",)),
    "search": (search, ("corpus", "protocol", "fold", "candidates")),
    "params": (show_params, ("corpus", "variant")),
    "export": (export, ("model", "folder")),
}
# They take no params.yaml, which need not be there.
FREE: dict[str, Callable[..., None]] = {"predict": predict, "schema": show_schema, "ui": ui}
EPILOGUE = """\
The stages run in this order, each reading what those before it wrote:
  download → index → faces, audio → splits → train → evaluate → track, report → paper
track has a way back, restore, from the MLflow store to the result files; predict and export use the models.
Snakemake and DVC run these same commands; see README.md.

exit status: 0 done; 2 a mistake in what was given, or a number is stale, one line says which; 1 anything else
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand and return the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    given = {name: value for name, value in vars(options).items() if name != "command"}
    try:
        if options.command in FREE:
            FREE[options.command](**given)
        else:
            _run(options.command, parameters.load(ROOT / "params.yaml"), given)
    except UserError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        print("emofuse: stopped; the same command goes on from here", file=sys.stderr)
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
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", title="commands")
    for name, (function, names) in COMMANDS.items():
        text = (function.__doc__ or "").strip()
        command = commands.add_parser(name, help=_summary(text), description=text)
        for argument in names:
            kind, meaning = ARGUMENTS[argument.rstrip("?")]
            if argument.startswith("--"):
                command.add_argument(argument, type=kind, help=meaning, metavar="FILE")
            elif argument.endswith("?"):  # it may be absent
                command.add_argument(argument.rstrip("?"), type=kind, help=meaning, nargs="?")
            else:
                command.add_argument(argument, type=kind, help=meaning)
    free = {}
    for name, function in FREE.items():
        text = (function.__doc__ or "").strip()
        free[name] = commands.add_parser(name, help=_summary(text), description=text)
    free["ui"].add_argument("--port", type=int, default=5000, help="the port to listen on (5000)")
    free["predict"].add_argument("video", nargs="+", metavar="VIDEO", help="a file with a picture, a sound or both")
    free["predict"].add_argument("--model", help="a run or a file of models/, a folder of emofuse export, or models:/…")
    free["predict"].add_argument(
        "--output", default="predictions", metavar="FOLDER", help="where to write (predictions)"
    )
    return parser


def _run(command: str, params: Params, given: dict[str, Any]) -> None:
    """Run a subcommand; of a job that makes an artefact, what it was made from is written beside."""
    arguments = tuple(given[name.rstrip("?")] for name in COMMANDS[command][1] if not name.startswith("--"))
    job = graph.find(params, command, arguments)
    try:
        with ExitStack() as stack:
            if job:
                stack.enter_context(alone.at(job, ROOT))
                stack.enter_context(provenance.recorded(job, params, ROOT))
            COMMANDS[command][0](params, **given)
    except UserError:
        raise
    except Exception as error:
        number = _unwritable(error)
        if number is None:
            raise
        file = getattr(error, "filename", None)
        where = os.path.relpath(file) if file else job.outputs[0] if job else "a file"
        reason = f"cannot write {where}: {os.strerror(number)}; free space or make it writable, and run again"
        raise UserError(reason) from error


def _unwritable(error: Exception) -> int | None:
    """The number of the operating system's error, if it is that something cannot be written; safetensors and torch have it
    in words.
    """
    number = getattr(error, "errno", None)
    if in_words := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(in_words[1])
    elif "PytorchStreamWriter failed writing" in str(error):
        number = errno.ENOSPC
    return number if number in UNWRITABLE else None


def _refuse_stale(params: Params, *corpora: str) -> None:
    """A number whose chain does not match what is on disk and in params.yaml is an error."""
    chain = provenance.Chain(params, ROOT)
    scored = (job for job in chain.jobs if job.stage == "evaluate" and job.arguments[0] in corpora)
    provenance.refuse_stale(scored, chain)
    chain.hashes.save()


def _summary(text: str) -> str:
    return text[0].lower() + text[1:].rstrip(".")


def _known(value: object, known: object, where: str, what: str) -> None:
    if value not in list(known):  # type: ignore[call-overload]
        raise UserError(f"{where}: there is no {what} {value}; there are {', '.join(map(str, known))}")  # type: ignore[call-overload]


def _check_run(params: Params, corpus: str, protocol: str, variant: str, seed: int, fold: int) -> parameters.Run:
    section = params.corpus(corpus)
    _known(protocol, section.protocols, f"corpora.{corpus}.protocols", "protocol")
    where = "audit" if protocol.startswith(parameters.RANDOM) else "variants"
    _known(variant, section.variants_under(protocol), f"corpora.{corpus}.{where}", "variant")
    _known(seed, section.seeds, f"corpora.{corpus}.seeds", "seed")
    _known(fold, section.protocols[protocol], f"corpora.{corpus}.protocols.{protocol}", "fold")
    return params.run(corpus, variant)


def _stamps(params: Params, corpus: str, *stages: str) -> list[Path]:
    """The stamps of stages, brought up to date first, so that a stage run by hand has the right ones."""
    stamps(params, corpus)
    return [ROOT / "stamps" / corpus / f"{stage}.json" for stage in stages]


def _threads() -> int:
    """The CPUs of this job: what its rule is granted, which Snakemake says in OMP_NUM_THREADS, else all there are."""
    granted = os.environ.get("OMP_NUM_THREADS", "")
    return int(granted) if granted.isdigit() else os.cpu_count() or 1


def _shard(params: Params, corpus: str, shard: int, stage: str):  # type: ignore[no-untyped-def]
    """What a feature stage reads and writes: the shard's zip, its usable rows of the index, output, progress."""
    from emofuse.files import read_table
    from emofuse.progress import Progress

    _known(shard, params.corpus(corpus).shards, f"corpora.{corpus}.shards", "shard")
    folder = ROOT / "data" / corpus
    rows = [r for r in read_table(folder / "index.csv") if r["shard"] == str(shard) and r["status"] == "ok"]
    return (
        folder / "raw" / f"shard-{shard}.zip",
        rows,
        folder / stage / f"shard-{shard}.npy",
        lambda items: Progress(items, f"{stage} of {corpus}, shard {shard}"),
    )


if __name__ == "__main__":
    sys.exit(main())
