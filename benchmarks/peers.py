"""Data loading speed: our features compared with the public loaders of VAANet and katerynaCh, on one CPU core.

Run `python benchmarks/peers.py [--vaanet FOLDER] [--kateryna FOLDER] [--films FOLDER] [--clips N] [--rounds N]` in the
repository's root. The first two folders are checkouts of github.com/maysonma/VAANet and of
github.com/katerynaCh/multimodal-emotion-recognition; without them, these loaders are skipped. Their datasets, transforms,
options and loaders are used unmodified. They require librosa: `uv pip install --target SITE librosa`, then
PYTHONPATH=SITE. The folder of --films contains clips (.mp4 with sound), which are repeated until there are N; without it,
the clips are those of the demo.

Each project prepares the same clips once with its own tools: ours as features, VAANet's as JPEGs of 240 pixels height and
an mp3, katerynaCh's as an .npy file of faces and a wav. Then complete shuffled epochs are loaded in training mode, in one
process and one thread, alternating between:

- ours: the inputs of the network, as in training on a CPU, including SpecAugment and face augmentation;
- stored: the batches as stored, which is the CPU's part of the work if a GPU does the augmentation;
- vaanet, kateryna: their loaders with their sampling and augmentation, without workers;
- vaanet_faces: VAANet's loader on JPEGs of the same faces as ours, which are smaller than its own JPEGs.

There are three sizes: `paper` is that of the ravdess network in params.yaml, `vaanet` and `kateryna` those of their default
options. All loaders load the same numbers of clips, frames and pixels. The last lines are the results, `name: value`: clips
per second, and our speed divided by theirs, as medians over rounds. With the files in memory, CPU time is measured, which
other processes do not affect. With `cold` files, which are dropped from memory before each epoch, wall-clock time is
measured, and the MB per clip read from disk are given.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from common import print_figures
from PIL import Image

from emofuse import config
from emofuse.data.augmentation import augment
from emofuse.data.dataset import Part, read_features
from emofuse.datasets import demo, shards
from emofuse.features import audio, faces, media
from emofuse.training.sampling import shuffled_batches
from emofuse.training.train import CPU
from emofuse.utils.files import read_csv

CLASSES = demo.EMOTIONS
KATERYNA_RATE, KATERYNA_SECONDS = 22050, 3.6  # of the wav files that its extract_audios.py writes


@dataclass(frozen=True)
class Film:
    """A clip: its name, file and class."""

    name: str
    file: Path
    label: int


@dataclass(frozen=True)
class Size:
    """N snippets × T frames × S × S pixels per clip, and the number of clips in a batch."""

    snippets: int
    frames: int
    side: int
    batch: int


@dataclass(frozen=True)
class Contender:
    """A loader: `feed` returns the batches of an epoch, read from `files`."""

    feed: Callable[[], Iterable[Any]]
    files: Sequence[Path]


def find_films(folder: Path | None, clips: int, work: Path) -> list[Film]:
    """At least `clips` clips: those with sound in `folder`, repeated, or those of the demo, equally many per emotion."""
    if folder is not None:
        found = [file for file in sorted(folder.rglob("*.mp4")) if media.probe(file.read_bytes()).audio]
        if not found:
            sys.exit(f"{folder}: it contains no .mp4 with sound")
        chosen = itertools.islice(itertools.cycle(enumerate(found)), clips)
        return [Film(f"{n:04d}", file, index % len(CLASSES)) for n, (index, file) in enumerate(chosen)]
    actors = 4
    section = config.Demo(actors=actors, takes=-(-clips // (actors * len(CLASSES))))
    films = []
    for name, encode in demo.members(section, 0, 1):
        if name.endswith(".mp4"):
            file = work / Path(name).name
            file.write_bytes(encode())
            films.append(Film(f"{len(films):04d}", file, CLASSES.index(demo.DATASET.parse(file.stem).emotion)))
    return films


# Ours


def prepare_ours(clips: Sequence[Film], size: Size, work: Path) -> None:
    """Write features with the face and the audio stage; the centre of the frame is taken as the face."""
    archive = work / "shard.zip"
    sources = {film.file.name: film.file for film in clips}
    shards.write(archive, sorted((name, file.read_bytes()) for name, file in sources.items()))
    lengths = {name: f"{media.probe(file.read_bytes()).duration:.3f}" for name, file in sources.items()}
    rows = [
        {"clip": f.name, "file": f.file.name, "sound": f.file.name, "duration": lengths[f.file.name]} for f in clips
    ]
    sound = config.load().corpus("ravdess").audio
    assert sound is not None
    face_section = config.Faces(detector="centre", snippets=size.snippets, frames=size.frames, size=size.side)
    for stage, section in ((faces, face_section), (audio, sound)):
        folder = work / "features" / stage.__name__.rpartition(".")[2]
        folder.mkdir(parents=True)
        stage.extract(rows, archive, section, folder / "shard-0.npy", folder / "shard-0.csv")
    archive.unlink()


def read_ours(clips: Sequence[Film], size: Size, work: Path) -> Part:
    view = config.load().run("ravdess", "proposed").spectrogram.model_copy(update={"segments": size.snippets})
    sound = read_csv(work / "features/audio/shard-0.csv").add_prefix("audio_")
    rows = sound.assign(shard="0", faces_row=range(len(clips)))
    labels = np.array([film.label for film in clips])
    return Part(rows, {modality: read_features(work, rows, modality, view) for modality in ("video", "audio")}, labels)


def augmented(
    part: Part, order: Iterable[np.ndarray], training: config.Training, device: torch.device
) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Inputs and labels, as the training loop passes them to the network."""
    for batch in part.batches(order, device):
        yield augment(batch.stored, training), batch.labels


def ours(clips: Sequence[Film], size: Size, work: Path) -> dict[str, Contender]:
    training = config.load().run("ravdess", "proposed").training
    rng = np.random.default_rng(1)

    # The features are reopened in each epoch, since mapped pages cannot be dropped: spectrograms are read and normalised
    # each time, and not only once as in training.
    def inputs() -> Iterator[object]:
        yield from augmented(read_ours(clips, size, work), shuffled_batches(len(clips), size.batch, rng), training, CPU)

    def stored() -> Iterator[list[torch.Tensor]]:
        part = read_ours(clips, size, work)
        for indices in shuffled_batches(len(clips), size.batch, rng):
            yield [features.batch(indices) for features in part.features.values()]

    files = list(work.glob("features/*/shard-0.npy"))
    return {"ours": Contender(inputs, files), "stored": Contender(stored, files)}


# Theirs


@contextmanager
def imports_from(checkout: Path) -> Iterator[None]:
    """Import the modules of a checkout under their own names, and unload them afterwards: both peers share some names."""
    before = set(sys.modules)
    sys.path.insert(0, str(checkout))
    try:
        yield
    finally:
        sys.path.remove(str(checkout))
        for name in set(sys.modules) - before:
            top = name.partition(".")[0]
            if (checkout / top).is_dir() or (checkout / f"{top}.py").is_file():
                del sys.modules[name]


def options_of(checkout: Path, *arguments: object) -> Any:
    """The options that a peer's command line parses from some arguments."""
    with imports_from(checkout), mock.patch.object(sys, "argv", ["main.py", *map(str, arguments)]):
        from opts import parse_opts  # type: ignore[import-not-found]

        return parse_opts()


def prepare_vaanet(checkout: Path, clips: Sequence[Film], work: Path) -> None:
    """Prepare JPEGs, mp3s, frame counts and the list of clips with its own tools."""
    binary = work / "bin" / "ffmpeg"  # called by the tools in a shell; it is verbose by default
    binary.parent.mkdir(parents=True)
    binary.write_text(f'#!/bin/sh\nexec "{media.ffmpeg_binary()}" -nostdin -loglevel error "$@"\n')
    binary.chmod(0o755)
    for film in clips:
        folder = work / "mp4" / CLASSES[film.label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{film.name}.mp4").symlink_to(film.file.resolve())
    path = mock.patch.dict(os.environ, PATH=f"{binary.parent}:{os.environ['PATH']}")
    with imports_from(checkout), path, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        from tools import n_frames, video2jpg, video2mp3  # type: ignore[import-not-found]

        for name in {CLASSES[film.label] for film in clips}:
            (work / "jpg" / name).mkdir(parents=True)
            video2jpg.class_process(str(work / "mp4"), str(work / "jpg"), name)
            video2mp3.class_process(str(work / "mp4"), str(work / "mp3"), name)
            n_frames.class_process(str(work / "jpg"), name)
    list_vaanet(clips, work)


def prepare_vaanet_faces(clips: Sequence[Film], features: Path, prepared: Path, work: Path) -> None:
    """Prepare the faces of our features as JPEGs for the same loader, with its mp3s."""
    pictures = np.load(features / "features" / "faces" / "shard-0.npy", mmap_mode="r")
    for film, clip in zip(clips, pictures, strict=True):
        folder = work / "jpg" / CLASSES[film.label] / film.name
        folder.mkdir(parents=True)
        frames = clip.reshape(-1, *clip.shape[2:])
        for number, frame in enumerate(frames, 1):
            Image.fromarray(frame).save(folder / f"{number:06d}.jpg", quality=90)
        (folder / "n_frames").write_text(str(len(frames)))
    shutil.copytree(prepared / "mp3", work / "mp3")
    list_vaanet(clips, work)


def list_vaanet(clips: Sequence[Film], work: Path) -> None:
    """Write the list of clips, as its ve8_json.py does."""
    database = {f.name: {"subset": "training", "annotations": {"label": CLASSES[f.label]}} for f in clips}
    (work / "list.json").write_text(json.dumps({"labels": CLASSES, "database": database}))


def vaanet(checkout: Path, work: Path, size: Size, workers: int | None = None) -> Contender:
    """The loader that its main.py trains with; without `workers`, as many as in its options."""
    sizes = ("--seq_len", size.snippets, "--snippet_duration", size.frames, "--sample_size", size.side)
    paths = ("--video_path", work / "jpg", "--audio_path", work / "mp3", "--annotation_path", work / "list.json")
    more = () if workers is None else ("--n_threads", workers)
    options = options_of(checkout, *sizes, *paths, *more, "--batch_size", size.batch)
    with imports_from(checkout), Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        from core.dataset import get_data_loader, get_training_set  # type: ignore[import-not-found]
        from core.utils import get_spatial_transform  # type: ignore[import-not-found]
        from transforms.target import ClassLabel  # type: ignore[import-not-found]
        from transforms.temporal import TSN  # type: ignore[import-not-found]

        snippets = TSN(seq_len=options.seq_len, snippet_duration=options.snippet_duration, center=False)
        dataset = get_training_set(options, get_spatial_transform(options, "train"), snippets, ClassLabel())
        loader = get_data_loader(options, dataset, shuffle=True)
    files = [file for kind in ("jpg", "mp3") for file in (work / kind).rglob("*.*")]
    return Contender(lambda: loader, files)


def prepare_kateryna(clips: Sequence[Film], features: Path, work: Path) -> None:
    """Prepare clips as its extract_faces.py and extract_audios.py do: frames uint8 (F, S, S, 3) and 3.6 seconds of sound.

    The scripts themselves have hard-coded folders, and the former requires a face detector that is not used here.
    """
    import soundfile

    work.mkdir()
    pictures = np.load(features / "features" / "faces" / "shard-0.npy", mmap_mode="r")
    lines = []
    for film, clip in zip(clips, pictures, strict=True):
        video, sound = work / f"{film.name}.npy", work / f"{film.name}.wav"
        np.save(video, clip.reshape(-1, *clip.shape[2:]))
        samples = media.read_audio(film.file.read_bytes(), KATERYNA_RATE)
        length = int(KATERYNA_RATE * KATERYNA_SECONDS)
        start = max(0, len(samples) - length) // 2
        kept = samples[start : start + length]
        soundfile.write(sound, np.pad(kept, (0, length - len(kept))), KATERYNA_RATE)
        lines.append(f"{video};{sound};{film.label + 1};training\n")
    (work / "annotations.txt").write_text("".join(lines))


def kateryna(checkout: Path, work: Path, size: Size, workers: int | None = None) -> Contender:
    """The loader that its main.py trains with; without `workers`, as many as in its options."""
    more = () if workers is None else ("--n_threads", workers)
    options = options_of(checkout, "--annotation_path", work / "annotations.txt", "--batch_size", size.batch, *more)
    allow_positional_rate()
    with imports_from(checkout):
        import transforms  # type: ignore[import-not-found]
        from dataset import get_training_set  # type: ignore[import-not-found]

        # As in its main.py, which has no function for this.
        changes = [transforms.RandomHorizontalFlip(), transforms.RandomRotate()]
        transform = transforms.Compose([*changes, transforms.ToTensor(options.video_norm_value)])
        dataset = get_training_set(options, spatial_transform=transform)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=options.batch_size, shuffle=True, num_workers=options.n_threads, pin_memory=True
    )
    return Contender(lambda: loader, [*work.glob("*.npy"), *work.glob("*.wav")])


def allow_positional_rate() -> None:
    """katerynaCh's code passes the rate to librosa.core.load as a positional argument, which librosa 0.10 removed."""
    import librosa

    load = librosa.load
    librosa.core.load = lambda path, sr=KATERYNA_RATE, **options: load(path, sr=sr, **options)


# Comparison


def bytes_read() -> int:
    """Bytes that this process has read from disk."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["read_bytes"])


def drop(files: Iterable[Path]) -> None:
    """Drop files from the page cache."""
    gc.collect()
    for file in files:
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def in_turn(
    contenders: Mapping[str, Contender], rounds: int, cold: bool = False
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each epoch of each contender, and bytes that an epoch reads from disk; the first epoch is a warm-up."""
    clock = time.perf_counter if cold else time.process_time
    seconds: dict[str, list[float]] = defaultdict(list)
    read: dict[str, float] = {}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            if cold:
                drop(contender.files)
            before, started = bytes_read(), clock()
            for _ in contender.feed():
                pass
            if number:
                seconds[name].append(clock() - started)
                read[name] = bytes_read() - before
    return seconds, read


def compared(title: str, contenders: Mapping[str, Contender], clips: int, rounds: int) -> dict[str, float]:
    """Clips per second of each, and our speed divided by theirs, with files in memory and cold."""
    figures = {}
    for cold in (False, True):
        seconds, read = in_turn(contenders, rounds, cold)
        prefix = f"{title}_cold" if cold else title
        for name, spent in seconds.items():
            figures[f"{prefix}_{name}_clips_per_s"] = clips / median(spent)
            if cold:
                figures[f"{prefix}_{name}_mb_per_clip"] = read[name] / clips / 1e6
        for peer in [name for name in contenders if name not in ("ours", "stored")]:
            for own in ("ours", "stored"):
                pairs = zip(seconds[peer], seconds[own], strict=True)
                figures[f"{prefix}_{own}_over_{peer}"] = median(theirs / spent for theirs, spent in pairs)
        print(f"{prefix}: " + ", ".join(f"{n} {1000 * median(s) / clips:.1f} ms per clip" for n, s in seconds.items()))
    return figures


def paper_size() -> Size:
    loaded = config.load()
    section, training = loaded.corpus("ravdess").faces, loaded.run("ravdess", "proposed").training
    assert section is not None
    batch = training.emotions_per_batch * training.clips_per_emotion
    return Size(section.snippets, section.frames, section.size, batch)


def measure(options: argparse.Namespace, work: Path) -> dict[str, float]:
    clips = find_films(options.films, options.clips, work)
    sizes = {"paper": paper_size()}
    if options.vaanet:
        defaults = options_of(options.vaanet)
        sizes["vaanet"] = Size(defaults.seq_len, defaults.snippet_duration, defaults.sample_size, defaults.batch_size)
        prepare_vaanet(options.vaanet, clips, work / "vaanet_files")
    if options.kateryna:
        defaults = options_of(options.kateryna)
        sizes["kateryna"] = Size(1, defaults.sample_duration, defaults.sample_size, defaults.batch_size)
    figures: dict[str, float] = {"clips": len(clips)}
    for title, size in sizes.items():
        features = work / title / "ours"
        features.mkdir(parents=True)
        prepare_ours(clips, size, features)
        contenders = ours(clips, size, features)
        if options.vaanet and title in ("paper", "vaanet"):
            contenders["vaanet"] = vaanet(options.vaanet, work / "vaanet_files", size, workers=0)
            prepare_vaanet_faces(clips, features, work / "vaanet_files", work / title / "vaanet_faces")
            contenders["vaanet_faces"] = vaanet(options.vaanet, work / title / "vaanet_faces", size, workers=0)
        if options.kateryna and title in ("paper", "kateryna"):
            prepare_kateryna(clips, features, work / title / "kateryna")
            contenders["kateryna"] = kateryna(options.kateryna, work / title / "kateryna", size, workers=0)
        os.sync()  # dirty pages cannot be dropped
        figures |= compared(title, contenders, len(clips), options.rounds)
        shutil.rmtree(work / title / "ours")
    return figures


def arguments(clips: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vaanet", type=Path, help="checkout of github.com/maysonma/VAANet")
    parser.add_argument(
        "--kateryna", type=Path, help="checkout of github.com/katerynaCh/multimodal-emotion-recognition"
    )
    parser.add_argument("--films", type=Path, help="folder of .mp4 files with sound (default: clips of the demo)")
    parser.add_argument("--clips", type=int, default=clips, help=f"number of clips, at least ({clips})")
    return parser


def need_librosa(options: argparse.Namespace) -> None:
    """Report which peers are skipped, and exit if librosa is needed but missing."""
    for name in ("vaanet", "kateryna"):
        if getattr(options, name) is None:
            print(f"{name}: skipped: specify its checkout with --{name}")
        else:
            setattr(options, name, getattr(options, name).resolve())
    if options.vaanet or options.kateryna:
        try:
            import librosa  # noqa: F401
        except ModuleNotFoundError:
            sys.exit("librosa, which only the peers need, is not installed: uv pip install librosa")
    warnings.simplefilter("ignore", UserWarning)  # typed storages; pinned memory without a GPU


def main() -> int:
    parser = arguments(clips=64)
    parser.description = (__doc__ or "").split("\n")[0]
    parser.add_argument("--rounds", type=int, default=5, help="measured epochs per loader (5)")
    options = parser.parse_args()
    need_librosa(options)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="emofuse-") as name:
        figures = measure(options, Path(name))
    print_figures(figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
