"""How long a video takes from decoding to its answer, beside its own length, and that memory does not grow with it.

`python benchmarks/predict.py [FOLDER] [--rounds N] [--minutes N …]`, in the repository's root. FOLDER holds `ravdess_av`
and `weights`; by default it is EMOFUSE_SHARED_DATA or ../shared/data. The networks are those of the proposed variant of
RAVDESS (6 × 16 frames of 112 pixels, r3d_18 and ResNet-18) and of the demo, with random weights, of which time does not
depend; RAVDESS's faces are found by mobilenet0.25. All threads of the machine are used, as `emofuse predict` does. The last lines
are its figures, `name: value`:

- clip_over_real_time: a RAVDESS film, whole, over its length, by one network; with _ensemble by five;
- long_over_real_time: half a minute of films, in windows of which each overlaps half of the next, by one network;
- decoding_over_real_time: of the clip, without the network: decoding, faces, log-mel;
- startup_seconds: what the command takes besides, with imports, networks, CSV and page;
- memory_mb_<minutes>: the peak memory of the command on made films of those lengths, by the demo's network;
- memory_growth: that of the longest over that of the shortest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from emofuse import config, datasets
from emofuse.features import media
from emofuse.inference import bundle, mlflow_model, predictor, windows
from emofuse.models.network import EmotionNetwork
from emofuse.utils.files import sha256, write_json

LENGTHS = {"ravdess": (3.7, 5.4), "demo": (1.5, 1.6)}  # seconds: the median and the longest clip
FILMS = "ravdess_av/Actor_*/01-*.mp4"


def models(folder: Path, name: str, loaded: config.Params, count: int, detector: Path | None) -> Path:
    """A folder with a bundle of so many networks of a corpus's proposed variant, with random weights."""
    folder.mkdir(parents=True)
    section, run = loaded.corpora[name], loaded.run(name, "proposed")
    emotions = datasets.emotions(section.kind)
    faces = section.faces and section.faces.model_copy(update={"body": "mobilenet0.25"})
    made = []
    for number in range(count):
        torch.manual_seed(number)
        assert faces
        network = EmotionNetwork(run.network, len(emotions), faces.snippets, faces.size)
        described = {"emotions": list(emotions), "network": run.network.model_dump(mode="json")}
        file = folder / f"{number}.safetensors"
        state = {key: value.contiguous() for key, value in network.state_dict().items()}
        save_file(state, file, {"emofuse": json.dumps(described)})
        made.append(
            bundle.Model(fold=number, file=file.name, sha256=sha256(file), temperature=1.0, commit=None, made_from={})
        )
    if detector:
        (folder / "detector.pth").write_bytes(detector.read_bytes())
    whole = bundle.Bundle(
        emofuse="0", corpus=name, title=section.title, kind=section.kind, protocol="none", seed=1,
        emotions=tuple(emotions), window=LENGTHS[name][0], longest=LENGTHS[name][1], faces=faces,
        audio=section.audio, detector="detector.pth" if detector else None,
        ensembles=(bundle.Ensemble(variant="proposed", network=run.network, models=tuple(made)),),
    )  # fmt: skip
    write_json(folder / bundle.FILE, whole.model_dump(mode="json"))
    return folder


def seconds_of(file: Path, loaded: predictor.Models) -> float:
    """The seconds that a prediction takes; raises if there is none."""
    started = time.perf_counter()
    (clip,) = predictor.predict([file], loaded)
    assert clip.predictions, clip.failure(loaded.bundle)
    return time.perf_counter() - started


def decoding(file: Path, loaded: predictor.Models) -> float:
    """What it takes to make what the networks eat."""
    started = time.perf_counter()
    assert list(windows.samples(file, loaded.bundle, loaded.detect))
    return time.perf_counter() - started


def repeated(files: list[Path], seconds: float, made: Path) -> Path:
    """Films one after the other, again and again, to a length, as they are encoded."""
    listed = made.with_suffix(".txt")
    one = sum(media.probe(file).duration for file in files)
    listed.write_text("".join(f"file '{file.resolve()}'\n" for file in files * (1 + int(seconds / one))))
    command = [media.ffmpeg_binary(), "-v", "error", "-y", "-f", "concat", "-safe", "0", "-i", str(listed)]
    subprocess.run([*command, "-t", str(seconds), "-c", "copy", str(made)], check=True)
    return made


PROGRAM = """
import re, sys
from emofuse import cli
status = cli.main(["predict", sys.argv[1], "--model", sys.argv[2], "--output", sys.argv[3]])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(status)
"""


def command(file: Path, folder: Path, output: Path) -> tuple[float, float]:
    """Seconds and peak memory, in MB, of the command."""
    started = time.perf_counter()
    call = [sys.executable, "-c", PROGRAM, str(file), str(folder), str(output)]
    printed = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    return time.perf_counter() - started, int(printed.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("EMOFUSE_SHARED_DATA") or "../shared/data"
    parser.add_argument("folder", nargs="?", type=Path, default=Path(default), help="real clips and weights")
    parser.add_argument("--rounds", type=int, default=3, help="each measurement is the median of so many")
    parser.add_argument("--minutes", type=int, nargs="+", default=[2, 60], help="lengths of the made films")
    options = parser.parse_args()
    loaded = config.load()
    torch.set_num_threads(os.cpu_count() or 1)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        films = sorted(options.folder.glob(FILMS))
        if films:
            detector = options.folder / "weights/mobilenet0.25_Final.pth"
            long = repeated(films, 30, temporary / "long.mp4")
            for suffix, count in (("", 1), ("_ensemble", 5)):
                folder = models(temporary / f"ravdess-{count}", "ravdess", loaded, count, detector)
                ready = predictor.Models(*bundle.read(folder))
                seconds_of(films[0], ready)  # the networks are read, and the memory is there
                length = media.probe(films[0]).duration
                taken = median(seconds_of(films[0], ready) for _ in range(options.rounds))
                figures[f"clip{suffix}_over_real_time"] = taken / length
                if count == 1:
                    figures["long_over_real_time"] = seconds_of(long, ready) / media.probe(long).duration
                    decoded = median(decoding(films[0], ready) for _ in range(options.rounds))
                    figures["decoding_over_real_time"] = decoded / length
                    whole = median(command(films[0], folder, temporary / "out")[0] for _ in range(options.rounds))
                    figures["startup_seconds"] = whole - taken
        else:
            print(f"no films in {options.folder}: not measured", file=sys.stderr)
        demo = models(temporary / "demo", "demo", loaded, 1, None)
        (temporary / "one.mp4").write_bytes(mlflow_model.example()["clip"][0])
        for minutes in options.minutes:
            made = repeated([temporary / "one.mp4"], 60 * minutes, temporary / f"made-{minutes}.mp4")
            taken, figures[f"memory_mb_{minutes}"] = command(made, demo, temporary / "out")
            figures[f"demo_{minutes}_over_real_time"] = taken / 60 / minutes
    peaks = [figures[f"memory_mb_{minutes}"] for minutes in options.minutes]
    figures["memory_growth"] = peaks[-1] / peaks[0]
    for key, value in figures.items():
        print(f"{key}: {value:.4g}")


if __name__ == "__main__":
    main()
