"""Time from a video to its prediction, relative to the video's length, and memory, which must not grow with the length.

Run `python benchmarks/predict.py [FOLDER] [--rounds N] [--minutes N …]` in the repository's root. FOLDER contains
`ravdess_av` and `weights`; the default is EMOFUSE_SHARED_DATA or ../shared/data. The networks are those of the proposed
variant of RAVDESS (6 × 16 frames of 112 pixels, r3d_18 and ResNet-18) and of the demo, with random weights, which do not
affect the time. RAVDESS's faces are detected by mobilenet0.25. As in `emofuse predict`, all threads of the machine are
used. The last lines are the figures, `name: value`:

- clip_over_real_time: time for a whole RAVDESS clip with one network, divided by the clip's length; with _ensemble, with
  five networks;
- long_over_real_time: the same for half a minute of video in half-overlapping windows, one network;
- decoding_over_real_time: for the clip without the network: decoding, faces and log-mel;
- startup_seconds: what the whole command takes in addition: imports, loading the networks, writing the CSV file and page;
- memory_mb_<minutes>: peak memory of the command on synthetic videos of these lengths with the demo's network;
- memory_growth: peak memory for the last of these lengths divided by that for the first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from common import print_figures, shared_data

from emofuse import config, datasets
from emofuse.features import media
from emofuse.inference import bundle, mlflow_model, predictor, windows
from emofuse.models.network import EmotionNetwork
from emofuse.training.model_file import write_model
from emofuse.utils.files import sha256, write_json

CLIP_SECONDS = {"ravdess": (3.7, 5.4), "demo": (1.5, 1.6)}  # the median and the longest clip
CLIPS = "ravdess_av/Actor_*/01-*.mp4"


def write_bundle(folder: Path, corpus: str, params: config.Params, count: int, detector: Path | None) -> Path:
    """Write a bundle of `count` networks of a corpus's proposed variant with random weights. Returns `folder`."""
    folder.mkdir(parents=True)
    section, run = params.corpora[corpus], params.run(corpus, "proposed")
    emotions = datasets.get(section.kind).emotions
    faces = section.faces and section.faces.model_copy(update={"body": "mobilenet0.25"})
    assert faces
    assert section.audio
    view = run.spectrogram
    shapes = {
        "video": (faces.snippets, 3, faces.frames, faces.size, faces.size),
        "audio": (view.segments, section.audio.bands, view.frames),
    }
    models = []
    for number in range(count):
        torch.manual_seed(number)
        network = EmotionNetwork(run.network, len(emotions), shapes)
        file = folder / f"{number}.safetensors"
        write_model(file, network.state_dict(), emotions, run)
        models.append(
            bundle.Model(fold=number, file=file.name, sha256=sha256(file), temperature=None, commit=None, made_from={})
        )
    if detector:
        (folder / "detector.pth").write_bytes(detector.read_bytes())
    window, longest = CLIP_SECONDS[corpus]
    content = bundle.Bundle(
        emofuse="0", corpus=corpus, title=section.title, kind=section.kind, protocol="none", seed=1,
        emotions=tuple(emotions), window=window, longest=longest, faces=faces,
        audio=section.audio, detector="detector.pth" if detector else None,
        ensembles=(bundle.Ensemble(variant="proposed", network=run.network, spectrogram=view, models=tuple(models)),),
    )  # fmt: skip
    write_json(folder / bundle.FILE, content.model_dump(mode="json"))
    return folder


def predict(file: Path, models: predictor.Models) -> None:
    (clip,) = predictor.predict([file], models)
    assert clip.predictions, clip.failure(models.bundle)


def decode(file: Path, models: predictor.Models) -> None:
    """Compute the networks' inputs, without running the networks."""
    assert list(windows.samples(file, models.bundle, models.detect))


def seconds(function: Callable[[Path, predictor.Models], None], file: Path, models: predictor.Models) -> float:
    start = time.perf_counter()
    function(file, models)
    return time.perf_counter() - start


def concatenate(files: list[Path], duration: float, output: Path) -> Path:
    """Repeat videos, without re-encoding, until they last `duration` seconds. Returns `output`."""
    playlist = output.with_suffix(".txt")
    repetitions = 1 + int(duration / sum(media.probe(file).duration for file in files))
    playlist.write_text("".join(f"file '{file.resolve()}'\n" for file in files * repetitions))
    command = [media.ffmpeg_binary(), "-v", "error", "-y", "-f", "concat", "-safe", "0", "-i", str(playlist)]
    subprocess.run([*command, "-t", str(duration), "-c", "copy", str(output)], check=True)
    return output


PROGRAM = """
import re, sys
from emofuse import cli
status = cli.main(["predict", sys.argv[1], "--model", sys.argv[2], "--output", sys.argv[3]])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(status)
"""


def run_command(file: Path, models: Path, output: Path) -> tuple[float, float]:
    """Run `emofuse predict`. Returns its seconds and its peak memory in MB."""
    command = [sys.executable, "-c", PROGRAM, str(file), str(models), str(output)]
    start = time.perf_counter()
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return time.perf_counter() - start, int(printed.split()[-1]) / 1024


def measure_clips(
    clips: list[Path], detector: Path, params: config.Params, rounds: int, folder: Path
) -> dict[str, float]:
    """The figures on real clips, with RAVDESS's networks."""
    figures: dict[str, float] = {}
    clip, length = clips[0], media.probe(clips[0]).duration
    for suffix, count in (("", 1), ("_ensemble", 5)):
        bundle_folder = write_bundle(folder / f"ravdess-{count}", "ravdess", params, count, detector)
        models = predictor.Models(*bundle.read(bundle_folder))
        predict(clip, models)  # warm-up: loads the networks and allocates memory
        clip_seconds = median(seconds(predict, clip, models) for _ in range(rounds))
        figures[f"clip{suffix}_over_real_time"] = clip_seconds / length
        if count == 1:
            long = concatenate(clips, 30, folder / "long.mp4")
            figures["long_over_real_time"] = seconds(predict, long, models) / media.probe(long).duration
            figures["decoding_over_real_time"] = median(seconds(decode, clip, models) for _ in range(rounds)) / length
            command_seconds = median(run_command(clip, bundle_folder, folder / "out")[0] for _ in range(rounds))
            figures["startup_seconds"] = command_seconds - clip_seconds
    return figures


def measure_memory(params: config.Params, minutes: list[int], folder: Path) -> dict[str, float]:
    """The figures on synthetic videos, with the demo's network."""
    figures: dict[str, float] = {}
    bundle_folder = write_bundle(folder / "demo", "demo", params, 1, None)
    clip = folder / "clip.mp4"
    clip.write_bytes(mlflow_model.example()["clip"][0])
    for length in minutes:
        video = concatenate([clip], 60 * length, folder / f"video-{length}.mp4")
        taken, figures[f"memory_mb_{length}"] = run_command(video, bundle_folder, folder / "out")
        figures[f"demo_{length}_over_real_time"] = taken / 60 / length
    figures["memory_growth"] = figures[f"memory_mb_{minutes[-1]}"] / figures[f"memory_mb_{minutes[0]}"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=shared_data(), help="real clips and weights")
    parser.add_argument("--rounds", type=int, default=3, help="each figure is the median of this many measurements")
    parser.add_argument("--minutes", type=int, nargs="+", default=[2, 60], help="lengths of the synthetic videos")
    options = parser.parse_args()
    params = config.load()
    torch.set_num_threads(os.cpu_count() or 1)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if clips := sorted(options.folder.glob(CLIPS)):
            detector = options.folder / "weights/mobilenet0.25_Final.pth"
            figures |= measure_clips(clips, detector, params, options.rounds, folder)
        else:
            print(f"{options.folder}: no clips in ravdess_av; only memory is measured", file=sys.stderr)
        figures |= measure_memory(params, options.minutes, folder)
    print_figures(figures)


if __name__ == "__main__":
    main()
