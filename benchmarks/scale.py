"""A corpus of up to a million clips through index, splits and the graph: time and memory as curves, and what breaks first.

`python benchmarks/scale.py [--clips 1000 10000 100000 1000000]`, in the repository's root. No media: the rows of the index
are made up, with a hundred clips an actor, and so are the tables that the feature stages leave. Each figure is of a process
of its own: its seconds by the clock and the most memory that it had. `index` is all that the stage does but open clips;
`splits` deals the actors into five folds, `random` the clips; `read a fold` is what a training does with the tables before
it maps its features. `graph` is `snakemake -n` for five folds of fifteen variants, nothing done, with a shard for each two
thousand clips. The slope of each curve is the power of the number of clips that its last step grows with.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import yaml
from clone import copy_tree

from emofuse import index, params, splits
from emofuse.files import read_table, write_table

NAME = "demo"
CLIPS_A_SHARD = 2000
CLIPS_AN_ACTOR = 100
FOLDS = 5
EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


def section(loaded: params.Params, clips: int) -> params.Corpus:
    """The demo's corpus with as many shards as so many clips would have, and the splits that are measured."""
    shards = list(range(max(8, math.ceil(clips / CLIPS_A_SHARD))))
    protocols = {f"{kind}kfold_{FOLDS}": list(range(FOLDS)) for kind in ("", params.RANDOM)}
    return loaded.corpora[NAME].model_copy(update={"shards": shards, "protocols": protocols})


def rows(clips: int, shards: int, shard: int) -> Iterator[dict[str, str]]:
    """The rows of a shard's clips, as the index stage finds them."""
    for number in range(shard * clips // shards, (shard + 1) * clips // shards):
        actor, clip = divmod(number, CLIPS_AN_ACTOR)
        yield {
            "clip": f"{actor:06d}-{clip:03d}", "shard": str(shard), "file": f"{actor:06d}-{clip:03d}.mp4",
            "sound": f"{actor:06d}-{clip:03d}.mp4", "actor": str(actor + 1), "gender": ("male", "female")[actor % 2],
            "emotion": EMOTIONS[clip % len(EMOTIONS)], "intensity": "normal", "statement": "kids", "repetition": "1",
            "video": "true", "audio": "true", "duration": "3.700", "sha256": f"{number:064x}", "status": "ok",
        }  # fmt: skip


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds and MiB at the most of a process that does the work."""
    started = time.monotonic()
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"failed: {work}")
    return time.monotonic() - started, usage.ru_maxrss / 1024


def stages(loaded: params.Params, clips: int, folder: Path) -> Iterator[tuple[str, float, float]]:
    """Each stage that reads every clip's row, measured."""
    corpus = section(loaded, clips)
    shards = len(corpus.shards)

    def made_up(_: Path, __: params.Corpus, shard: int) -> Iterator[dict[str, str]]:
        return rows(clips, shards, shard)

    def build_index() -> None:
        with mock.patch.object(index, "_shard", made_up):
            index.build(NAME, corpus, folder)

    def build(protocol: str) -> Callable[[], None]:
        return lambda: splits.build(NAME, corpus, protocol, None, folder)

    def read_a_fold() -> None:
        made = folder / "data" / NAME / f"kfold_{FOLDS}"
        known = {row["clip"]: row for row in read_table(made / "clips.csv")}
        train = [known[row["clip"]] for row in read_table(made / "folds.csv") if row["part"] == "train"]
        assert train

    yield "index", *measured(build_index)
    for stage in ("faces", "audio"):
        (folder / "data" / NAME / stage).mkdir()
        for shard in corpus.shards:
            table = folder / "data" / NAME / stage / f"shard-{shard}.csv"
            names = (row["clip"] for row in rows(clips, shards, shard))
            write_table(table, ("clip", "row", "status"), ((name, row, "ok") for row, name in enumerate(names)))
    yield "splits", *measured(build(f"kfold_{FOLDS}"))
    yield "random", *measured(build(f"{params.RANDOM}kfold_{FOLDS}"))
    yield "read a fold", *measured(read_a_fold)


def graph(clips: int, folder: Path) -> tuple[float, float]:
    """`snakemake -n` in a clone whose demo has fifteen variants, five folds and a shard for each two thousand clips."""
    copy_tree(folder)
    file = folder / "params.yaml"
    loaded = yaml.safe_load(file.read_text())
    shards = list(range(max(8, math.ceil(clips / CLIPS_A_SHARD))))
    loaded["corpora"][NAME].update(
        shards=shards, protocols={f"kfold_{FOLDS}": list(range(FOLDS))}, variants=list(loaded["variants"])
    )
    file.write_text(yaml.safe_dump(loaded))
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    command = [str(Path(sys.executable).parent / "snakemake"), NAME, "-n", "--quiet", "all"]

    def plan() -> None:
        os.chdir(folder)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.execve(command[0], command, environment)

    return measured(plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    sizes = sorted(parser.parse_args().clips)
    loaded = params.load()
    curves: dict[str, list[tuple[int, float, float]]] = {}
    for clips in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "data" / NAME).mkdir(parents=True)
            (folder / "clone").mkdir()
            for stage, seconds, memory in (*stages(loaded, clips, folder), ("graph", *graph(clips, folder / "clone"))):
                curves.setdefault(stage, []).append((clips, seconds, memory))
                print(f"{clips:>9,} clips  {stage:<12} {seconds:8.2f} s  {memory:8.0f} MiB", flush=True)
    for stage, curve in curves.items():
        for clips, seconds, memory in curve:
            print(f"{stage}, {clips} clips, s: {seconds:.2f}")
            print(f"{stage}, {clips} clips, MiB: {memory:.0f}")
        for (fewer, before, _), (more, after, _) in list(itertools.pairwise(curve))[-1:]:
            print(f"{stage}, slope: {math.log(after / before) / math.log(more / fewer):.2f}")


if __name__ == "__main__":
    main()
