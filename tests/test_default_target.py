"""The documented commands, from the download to the paper's table, with synthetic stand-ins for both corpora.

A server on 127.0.0.1 serves synthetic clips in the same way as Zenodo and the hosts of CREMA-D serve the real ones: with
the same paths, names, archives, metadata and extensions. The clone of the repository differs from a user's only in the
two files with addresses and checksums, which describe that server, and in the sizes in params.yaml.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pytest
import yaml
from faulty_server import Server, serving
from micro import commit, copy_tree, ran, run

from emofuse import paths
from emofuse.datasets import cremad, demo, ravdess
from emofuse.datasets.demo import face as demo_face
from emofuse.datasets.demo import voice as demo_voice
from emofuse.datasets.urls import URLS
from emofuse.features import media
from emofuse.utils import files

# One worker runs all of them, since each worker would run the fixtures.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("default_target")]

# Two actors of each test part of the published folds 0 and 1, and two more to train on.
ACTORS = {"ravdess": [2, 5, 3, 6, 10, 11], "cremad": [1001, 1002, 1019, 1020, 1037, 1038]}
SEED = 1
SIZES = {
    "shards": [0, 1],
    "seeds": [1],
    "variants": ["proposed", "audio_only"],
    "validation_actors": 1,
    "faces": {"detector": "centre", "snippets": 2, "frames": 3, "size": 32},
    "audio": {"bands": 32, "fft": 1024},
    "spectrogram": {"segments": 2, "frames": 32},
}
NETWORK = {
    "video": {"backbone": "r3d_10", "width": 4, "weights": "none"},
    "audio": {"backbone": "resnet10", "width": 8, "weights": "none"},
    "dimension": 16,
    "heads": 2,
}
WEIGHTS = b"weights that nothing reads"
TRAINING = {"epochs": 2, "warmup_epochs": 1, "clips_per_emotion": 2, "threads": 1}


def clip(folder: Path, actor: int, emotion: str, take: int, *options: str) -> bytes:
    """A synthetic clip as mp4 or, with options for ffmpeg, as flv."""
    path = folder / f"{actor}-{emotion}-{take}.mp4"
    frames, samples = demo.render(SEED, actor, emotion, take)
    media.write_clip(path, frames, demo_face.RATE, samples, demo_voice.SAMPLE_RATE)
    if options:
        subprocess.run(
            [media.ffmpeg_binary(), "-v", "error", "-i", path, *options, path.with_suffix(".flv")], check=True
        )
        path = path.with_suffix(".flv")
    return path.read_bytes()


def ravdess_archives(folder: Path) -> dict[str, bytes]:
    """A zip per actor, with each clip also under the name of its version without sound."""
    archives = {}
    for actor in ACTORS["ravdess"]:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for number, emotion in ravdess.NUMBERED_EMOTIONS.items():
                for take in (1, 2):
                    data = clip(folder, actor, emotion, take)
                    for modality in (ravdess.AUDIO_VIDEO, ravdess.VIDEO_ONLY):
                        archive.writestr(
                            f"Actor_{actor:02d}/{modality}-01-{number}-01-0{take}-01-{actor:02d}.mp4", data
                        )
        archives[f"Video_Speech_Actor_{actor:02d}.zip"] = buffer.getvalue()
    return archives


def cremad_clips(folder: Path) -> dict[str, bytes]:
    """Clips as Sorenson video and MP3 in flv."""
    wanted = [
        (f"{actor}_{sentence}_{code}_XX", actor, emotion, take)
        for actor in ACTORS["cremad"]
        for take, sentence in enumerate(("DFA", "ITS"), start=1)
        for code, emotion in cremad.CODES.items()
    ]

    def make(one: tuple[str, int, str, int]) -> tuple[str, bytes]:
        return one[0], clip(folder, *one[1:], "-c:v", "flv", "-q:v", "4", "-c:a", "libmp3lame", "-ar", "44100")

    with ThreadPoolExecutor(2) as pool:
        return dict(pool.map(make, wanted))


def addresses() -> list[dict[str, str]]:
    return files.read_csv(URLS).to_dict("records")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("clips")
    archives, clips = ravdess_archives(folder), cremad_clips(folder)
    listed = [{"key": n, "size": len(d), "checksum": f"md5:{hashlib.md5(d).hexdigest()}"} for n, d in archives.items()]
    with serving() as served:
        served.files = {urlsplit(row["address"]).path: WEIGHTS for row in addresses() if row["name"] in paths.WEIGHTS}
        served.files |= {f"/records/1188976/files/{name}": data for name, data in archives.items()}
        served.files["/api/records/1188976"] = json.dumps({"id": 1188976, "files": listed}).encode()
        for name, data in clips.items():
            served.files[f"/cs-cooper-lab/crema-d-mirror/-/raw/main/VideoFlash/{name}.flv"] = data
            served.files[f"/media/CheyneyComputerScience/CREMA-D/master/VideoFlash/{name}.flv"] = data
        # Only the official host has one of the clips.
        del served.files["/cs-cooper-lab/crema-d-mirror/-/raw/main/VideoFlash/1001_DFA_ANG_XX.flv"]
        yield served


def write_registry(folder: Path, server: Server) -> None:
    """Describe the server as the place where everything is published; the paths of the addresses are the real ones."""
    rows = addresses()
    for row in rows:
        row["address"] = re.sub(r"https://[^/]+", server.address, row["address"])
        row["source"] = "a stand-in"
        if row["name"] in paths.WEIGHTS:
            row |= {"bytes": str(len(WEIGHTS)), "checksum": f"md5:{hashlib.md5(WEIGHTS).hexdigest()}"}
    clips = {Path(path).stem: data for path, data in server.files.items() if path.endswith(".flv")}
    files.write_csv(folder / "urls.csv", pd.DataFrame(rows))
    listed = [(name, len(data), hashlib.sha256(data).hexdigest(), 0, "") for name, data in sorted(clips.items())]
    columns = ["clip", "flv_bytes", "flv_sha256", "wav_bytes", "wav_sha256"]
    files.write_csv(folder / "cremad_files.csv", pd.DataFrame(listed, columns=columns))


def clone(folder: Path, server: Server) -> Path:
    """A clone of the working tree with tiny sizes that downloads everything from the server."""
    copy_tree(folder)
    write_registry(folder / "src" / "emofuse" / "datasets", server)
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    for name, actors in ACTORS.items():
        section = tree["corpora"][name]
        section |= SIZES | {"actors": actors, "protocols": {name: [0, 1] for name in section["protocols"]}}
    tree["network"] |= NETWORK
    tree["training"] |= TRAINING
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    commit(folder)
    return folder


@pytest.fixture(scope="module")
def by_snakemake(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    folder = clone(tmp_path_factory.mktemp("snakemake") / "emofuse", server)
    run(folder, "snakemake", "--cores", "8", "--resources", "gpu=1")
    return folder


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Path:
    folder = clone(tmp_path_factory.mktemp("dvc") / "emofuse", server)
    run(folder, "dvc", "repro", "paper")
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """The scores and predictions of every fold."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for corpus in ACTORS
        for path in (folder / "results" / corpus).rglob("fold-*/*")
        if path.name in ("metrics.json", "predictions.csv")
    }


@pytest.mark.parametrize("engine", ["by_snakemake", "by_dvc"])
def test_table_of_the_paper_has_numbers_for_both_corpora(request: pytest.FixtureRequest, engine: str) -> None:
    folder: Path = request.getfixturevalue(engine)
    text = (folder / "results" / "paper.md").read_text().replace("\\_", "_")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for title in ("RAVDESS, audio-video speech", "CREMA-D"):
        for variant in SIZES["variants"]:
            (row,) = (row for row in rows if title in row and f" {variant} " in row)
            assert len(re.findall(r"\d+\.\d ± \d+\.\d", row)) == 3


def test_both_engines_give_the_same_scores(by_snakemake: Path, by_dvc: Path) -> None:
    made = results(by_snakemake)
    assert len(made) == 2 * (2 + 1) * 2 * 2  # corpora, variants and the audit's, folds, files
    assert made == results(by_dvc)


def test_every_clip_is_downloaded_once_per_engine(by_snakemake: Path, by_dvc: Path, server: Server) -> None:
    flv = [path for path in server.requested if path.endswith(".flv")]
    clips = 6 * 2 * 6
    assert len(flv) == 2 * (clips + 1)  # the mirror lacks one
    assert sum(path.startswith("/media/") for path in flv) == 2
    assert sum("Video_Speech" in path for path in server.requested) == 2 * 6


def test_a_second_run_does_nothing(by_snakemake: Path, by_dvc: Path, server: Server) -> None:
    before = len(server.requested), results(by_snakemake), results(by_dvc)
    assert "Nothing to be done" in run(by_snakemake, "snakemake", "--cores", "8", "--resources", "gpu=1")
    assert ran(run(by_dvc, "dvc", "repro", "paper")) == set()
    assert (len(server.requested), results(by_snakemake), results(by_dvc)) == before
