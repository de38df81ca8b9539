"""The trained models, used: the pipeline's own scores, what they lack said, a page, a folder that stands alone, served."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import micro
import numpy as np
import pytest
import servers
import torch
from test_page import chromium  # noqa: F401  # a fixture
from test_windows import FILM, ffmpeg

from emofuse import config
from emofuse.data.dataset import read_part
from emofuse.inference import bundle, export, model_card, predictor, windows, writers
from emofuse.paths import RunKey
from emofuse.training.model_file import read_model
from emofuse.training.train import CPU, build_network, predict
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_json, read_table

KEY = RunKey(micro.CORPUS, "kfold_3", "proposed", 1, 0)
RUN = f"models/{KEY.group}"
FOLD = KEY.model
VOICE = "ravdess_speech_16k/Actor_01/03-01-03-01-01-01-01.flac"


@pytest.fixture(scope="module")
def params(micro_run: Path) -> config.Params:
    return config.load(micro_run / "params.yaml")


@pytest.fixture(scope="module")
def models(micro_run: Path) -> predictor.Models:
    torch.set_num_threads(1)  # as the trainings of the micro corpus
    return predictor.Models(*bundle.find(FOLD, micro_run))


@pytest.fixture(scope="module")
def clips(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The test clips of the fold, in its order, as files."""
    folder = tmp_path_factory.mktemp("clips")
    index = {row["clip"]: row for row in read_table(micro_run / "data/micro/index.csv")}
    tested = read_table(micro_run / "data/micro/splits/kfold_3/folds.csv")
    paths = []
    for name in [row["clip"] for row in tested if (row["fold"], row["part"]) == ("0", "test")]:
        with zipfile.ZipFile(micro_run / f"data/micro/raw/shard-{index[name]['shard']}.zip") as archive:
            paths.append(folder / f"{name}.mp4")
            paths[-1].write_bytes(archive.read(index[name]["file"]))
    return paths


@pytest.fixture(scope="module")
def long(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips, one after the other."""
    file = tmp_path_factory.mktemp("long") / "long.mp4"
    given = [part for clip in clips[:5] for part in ("-i", clip)]
    joined = "".join(f"[{n}:v][{n}:a]" for n in range(5)) + "concat=n=5:v=1:a=1[v][a]"
    ffmpeg(*given, "-filter_complex", joined, "-map", "[v]", "-map", "[a]", file)
    return file


def test_a_corpus_clip_gets_the_pipelines_own_scores(
    micro_run: Path, params: config.Params, models: predictor.Models, clips: list[Path]
) -> None:
    run, emotions = params.run(micro.CORPUS, "proposed"), models.bundle.emotions
    part = read_part(micro_run, KEY, "test", run.network.modalities, emotions)
    state, _ = read_model(micro_run / FOLD)
    state.pop("emotion_distance", None)
    network = build_network(run, emotions, part)
    network.load_state_dict(state)
    theirs, _ = predict(network, part, CPU, predictor.TOGETHER["cpu"])
    asked = predictor.ask(clips, models)
    assert [clip.path.stem for clip in asked] == part.clips["clip"].tolist()
    ours = np.stack([clip.answers[0].scores[0] for clip in asked])
    assert np.array_equal(ours, theirs.numpy())
    scored = read_json(micro_run / KEY.metrics)
    calibrated = (theirs / scored["calibration"]["temperature"]).double().softmax(1).numpy()
    assert np.allclose([clip.mean(None) for clip in asked], calibrated)


def test_models_of_other_parameters_are_refused(micro_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "emofuse"
    shutil.copytree(micro_run, folder, symlinks=True)
    micro.change(folder, lambda loaded: loaded["variants"].update(proposed={"loss": {"margin": 0.3}}))
    with pytest.raises(UserError, match=r"stale.*margin"):
        bundle.find(RUN, folder)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (None, "--model: say which models; there are models/micro/kfold_3/audio_only/seed-1, "),
        ("models/micro/kfold_3/nobody/seed-1", "params.yaml has no such run"),
        ("models/micro/kfold_3/proposed/seed-1/fold-2.safetensors", "fold-2"),
        ("somewhere", "neither a run of models/ nor a folder of emofuse export"),
    ],
)
def test_models_that_are_not_there_are_one_line(micro_run: Path, address: str | None, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        bundle.find(address, micro_run)


def test_what_a_clip_lacks_is_said_and_another_variant_asked(
    models: predictor.Models, micro_run: Path, clips: list[Path], tmp_path: Path
) -> None:
    ffmpeg("-i", clips[0], "-vn", tmp_path / "voice.wav")
    ffmpeg("-i", clips[0], "-an", "-c", "copy", tmp_path / "mute.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    names = ("voice.wav", "mute.mp4", "text.mp4")
    voice, mute, text = predictor.ask([tmp_path / name for name in names], models)
    (answer,) = voice.answers
    assert answer.ensemble.variant == "audio_only"
    assert answer.why(models.bundle) == "no video track"
    alone = predictor.Models(*bundle.find(FOLD.replace("proposed", "audio_only"), micro_run))
    (again,) = predictor.ask([clips[0]], alone)
    assert again.answers[0].probabilities.argmax() == answer.probabilities.argmax()
    assert mute.refusal(models.bundle) == "no sound track; the models here need audio and video or audio"
    assert text.refusal(models.bundle).startswith("cannot be decoded")
    assert [next(writers.lines(clip, models.bundle)).split(": ")[1] for clip in (mute, text)] == ["no answer"] * 2


def test_a_long_video_has_a_timeline_that_follows_its_clips(models: predictor.Models, long: Path) -> None:
    (clip,) = predictor.ask([long], models)
    starts = [answer.place.start for answer in clip.answers]
    assert starts == sorted(starts)
    assert (
        len(starts) == len(windows.spans(clip.answers[-1].place.end, models.bundle.window, models.bundle.longest)) > 8
    )
    rows = list(writers.rows(clip, models.bundle))
    assert np.allclose(
        [sum(float(row[f"p_{emotion}"]) for emotion in models.bundle.emotions) for row in rows], 1, atol=1e-5
    )
    assert np.allclose(clip.mean(None), np.mean([answer.probabilities for answer in clip.answers], axis=0))


@pytest.fixture(scope="module")
def predicted(micro_run: Path, clips: list[Path], long: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command has written what it says of some files, one of them no video."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "text.mp4").write_text("no video")
    files = [str(clips[0]), str(long), str(folder / "text.mp4")]
    command = ("emofuse", "predict", *files, "--model", RUN, "--output", str(folder / "out"))
    printed = micro.run(micro_run, *command, status=2)
    (folder / "printed").write_text(printed)
    return folder


def test_the_command_answers_what_it_can_and_says_what_it_cannot(
    predicted: Path, clips: list[Path], long: Path
) -> None:
    printed = (predicted / "printed").read_text()
    assert "Traceback" not in printed
    assert re.search(rf"{re.escape(str(clips[0]))}: \w+ \d+ %.*\(faces and sound, by proposed, 1 model\)", printed)
    assert re.search(rf"{re.escape(str(long))}: \w+ \d+ %.* windows\)", printed)
    assert "text.mp4: no answer: cannot be decoded" in printed
    assert "emofuse: error: 1 of 3 videos have no prediction" in printed
    with (predicted / "out/predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["file"] == str(clips[0])
    assert rows[0]["emotion"] == max(
        (key[2:] for key in rows[0] if key.startswith("p_")), key=lambda e: float(rows[0][f"p_{e}"])
    )
    record = json.loads((predicted / "out/predictions.json").read_text())
    assert [video["no_answer"] is None for video in record["videos"]] == [True, True, False]
    assert record["models"]["protocol"] == "kfold_3"


def test_the_page_shows_it_and_asks_for_nothing(predicted: Path, chromium: Any) -> None:  # noqa: F811
    asked, wrong = [], []
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.route("**/*", lambda route: (asked.append(route.request.url), route.continue_()))
    page = (predicted / "out/predictions.html").as_uri()
    tab.goto(page)
    assert [url for url in asked if not url.startswith("data:")] == [page]
    assert not wrong
    text = tab.inner_text("body")
    assert "do not judge anybody by it" in text
    assert "no answer" in text
    for kind, count in (("bars", 2), ("timeline", 1), ("attention", 2)):
        drawings = tab.locator(f"figure.{kind} svg")
        assert drawings.count() == count
        assert all(box and box["width"] > 200 for box in (each.bounding_box() for each in drawings.all()))
    pictures = tab.locator("figure.attention svg image")
    assert pictures.count() >= 4, "faces and spectrogram"
    tab.close()


@pytest.fixture(scope="module")
def exported(micro_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    printed = micro.run(micro_run, "emofuse", "export", RUN, str(folder))
    assert "README.md is the model card" in printed
    return folder


def test_an_export_stands_alone(exported: Path, clips: list[Path], predicted: Path, tmp_path: Path) -> None:
    """In a folder without params.yaml, data or models, the same probabilities."""
    printed = micro.run(tmp_path, "emofuse", "predict", str(clips[0]), "--model", str(exported))
    assert "faces and sound, by proposed, 1 model" in printed
    ours = (tmp_path / "predictions/predictions.csv").read_text().splitlines()
    assert ours == (predicted / "out/predictions.csv").read_text().splitlines()[: len(ours)]
    assert not [path for path in exported.rglob("*") if path.suffix in (".pkl", ".pth", ".pt")]
    assert "refused" not in micro.run(tmp_path, "emofuse", "--version")


def test_an_exported_program_says_what_its_network_says(
    exported: Path, models: predictor.Models, clips: list[Path]
) -> None:
    (sample,) = windows.samples(clips[0], models.bundle, None)
    ensemble = models.bundle.ensembles[0]
    inputs = models.inputs(ensemble, [sample] * 3)
    program = torch.export.load(exported / "data/bundle/proposed/fold-0.pt2").module()
    with torch.inference_mode():
        assert torch.allclose(program(inputs), torch.from_numpy(models.scores(ensemble, [sample] * 3)[:, 0]), atol=1e-4)


def test_the_card_has_results_gaps_and_what_it_is_not_for(exported: Path, micro_run: Path) -> None:
    text = (exported / "README.md").read_text()
    for needed in (
        "must not be used for",
        "## By gender and actor",
        "female less male",
        "## Licence",
        "CC BY-NC-SA 4.0",
    ):
        assert needed in text
    scored = read_json(micro_run / KEY.metrics)
    assert f"| proposed | audio and video | {100 * scored['war']:.1f} " in text
    for actor in scored["actors"]:
        assert re.search(rf"^\| {actor} \| (fe)?male \| \d+ \| [\d.]+ \|$", text, re.MULTILINE)


@pytest.mark.parametrize("kind", ["ravdess", "cremad", "demo"])
def test_every_corpus_has_its_licence_on_the_card(kind: str) -> None:
    assert model_card.LICENCES[kind]
    assert model_card.PEOPLE[kind]


def test_a_folder_is_not_written_over(exported: Path, micro_run: Path, params: config.Params) -> None:
    with pytest.raises(UserError, match="is there already"):
        export.write(bundle.find(RUN, micro_run), params, exported)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"detector": "../../../etc/passwd"}, "not in its folder"),
        ({"window": 0}, "window"),
        ({"ensembles": []}, "ensembles"),
        ({"more": 1}, "more"),
    ],
)
def test_a_bundle_of_others_is_read_with_care(
    exported: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    described = json.loads((exported / "data/bundle" / bundle.FILE).read_text())
    (tmp_path / bundle.FILE).write_text(json.dumps({**described, **change}))
    with pytest.raises(UserError, match=said):
        bundle.read(tmp_path)


def test_a_model_that_is_not_the_one_described_is_refused(exported: Path, tmp_path: Path, clips: list[Path]) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    (weights,) = folder.rglob("proposed/fold-0.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    printed = micro.run(tmp_path, "emofuse", "predict", str(clips[0]), "--model", str(folder), status=2)
    assert "is not the model that was scored" in printed


@pytest.fixture(scope="module")
def served(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server of an exported folder."""
    (port,) = servers.free_ports(1)
    address = f"http://127.0.0.1:{port}"
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        exported,
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
    ]

    def answered() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=1):
                return True
        except OSError:
            return False

    with servers.running(tmp_path_factory.mktemp("served") / "log", *command, answers=answered):
        yield address


def test_mlflow_serves_it(served: str, shared_data: Path, models: predictor.Models) -> None:
    """Two real clips, one of them without a picture."""
    given = [shared_data / FILM, shared_data / VOICE]
    encoded = [[base64.b64encode(file.read_bytes()).decode()] for file in given]
    body = {"dataframe_split": {"columns": ["clip"], "data": encoded}}
    request = urllib.request.Request(
        f"{served}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        told = json.load(answer)["predictions"]
    asked = [
        (number, row)
        for number, clip in enumerate(predictor.ask(given, models))
        for row in writers.rows(clip, models.bundle)
    ]
    assert {row["variant"] for _, row in asked} == {"proposed", "audio_only"}
    assert len(told) == len(asked) > 4
    for theirs, (number, ours) in zip(told, asked, strict=True):
        assert theirs["row"] == number
        for name in ("variant", "emotion", "note", "start", "end"):
            assert theirs[name] == ours[name]
        for emotion in models.bundle.emotions:
            assert theirs[f"p_{emotion}"] == pytest.approx(float(str(ours[f"p_{emotion}"])), abs=2e-6)


def test_a_model_in_mlflow_is_asked_by_its_address(exported: Path, clips: list[Path], tmp_path: Path) -> None:
    program = "import mlflow, sys; mlflow.set_tracking_uri('sqlite:///mlflow.db'); mlflow.register_model(sys.argv[1], 'emotions')"
    micro.run(tmp_path, "python", "-c", program, exported.as_uri())
    printed = micro.run(tmp_path, "emofuse", "predict", str(clips[0]), "--model", "models:/emotions/1")
    assert "faces and sound, by proposed, 1 model" in printed
    with pytest.raises(UserError, match="nobody"):
        bundle.find("models:/nobody/1", tmp_path)


PEAK = """
import re, sys
from emofuse import cli
assert cli.main(["predict", sys.argv[1], "--model", sys.argv[2]]) == 0
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_the_video(exported: Path, clips: list[Path], tmp_path: Path) -> None:
    peaks = []
    for seconds in (60, 1200):
        ffmpeg("-stream_loop", "-1", "-i", clips[0], "-t", str(seconds), "-c", "copy", tmp_path / f"{seconds}.mp4")
        printed = micro.run(tmp_path, sys.executable, "-c", PEAK, str(tmp_path / f"{seconds}.mp4"), str(exported))
        peaks.append(int(printed.split()[-1]))
    assert peaks[1] < 1.2 * peaks[0]
