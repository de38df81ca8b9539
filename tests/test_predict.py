"""Prediction: the scores of the pipeline, reasons for missing modalities, the page, self-contained exports, serving."""

from __future__ import annotations

import base64
import csv
import json
import os
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
from conftest import ROOT
from safetensors import safe_open
from safetensors.torch import save_file
from test_page import chromium  # noqa: F401  # a fixture
from test_windows import FILM, ffmpeg

from emofuse import config, datasets
from emofuse.data.dataset import read_parts
from emofuse.inference import bundle, export, predictor, windows, writers
from emofuse.models.build import build
from emofuse.paths import RunKey
from emofuse.training.model_file import read_model
from emofuse.training.train import CPU, predict
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, read_json, sha256

KEY = RunKey(micro.CORPUS, "kfold_3", "proposed", 1, 0)
RUN = f"models/{KEY.group}"
FOLD = KEY.model
CALIBRATED = "calibrated on inner halves of the training actors"
SOURCE = ROOT / "src"
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
    index = read_csv(micro_run / "data/micro/index.csv").set_index("clip")
    tested = read_csv(micro_run / "data/micro/splits/kfold_3/folds.csv").query("fold == '0' and part == 'test'")
    paths = []
    for name in tested["clip"]:
        with zipfile.ZipFile(micro_run / f"data/micro/raw/shard-{index.at[name, 'shard']}.zip") as archive:
            paths.append(folder / f"{name}.mp4")
            paths[-1].write_bytes(archive.read(str(index.at[name, "file"])))
    return paths


@pytest.fixture(scope="module")
def long(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips, one after the other."""
    file = tmp_path_factory.mktemp("long") / "long.mp4"
    given = [part for clip in clips[:5] for part in ("-i", clip)]
    joined = "".join(f"[{n}:v][{n}:a]" for n in range(5)) + "concat=n=5:v=1:a=1[v][a]"
    ffmpeg(*given, "-filter_complex", joined, "-map", "[v]", "-map", "[a]", file)
    return file


def test_a_corpus_clip_gets_the_scores_of_the_pipeline(
    micro_run: Path, params: config.Params, models: predictor.Models, clips: list[Path]
) -> None:
    run, emotions = params.run(micro.CORPUS, "proposed"), models.bundle.emotions
    (part,) = read_parts(micro_run, KEY, ["test"], run, emotions)
    state, _ = read_model(micro_run / FOLD)
    state.pop("emotion_distance", None)
    network = build(run.network, len(emotions), part.shapes, micro_run)
    network.load_state_dict(state)
    theirs, _ = predict(network, part, CPU, predictor.BATCH["cpu"])
    predicted = predictor.predict(clips, models)
    assert [clip.path.stem for clip in predicted] == part.clips["clip"].tolist()
    ours = np.stack([clip.predictions[0].scores[0] for clip in predicted])
    assert np.array_equal(ours, theirs.numpy())
    scored = read_json(micro_run / KEY.metrics)
    calibrated = (theirs / scored["calibration"]["temperature"]).double().softmax(1).numpy()
    assert np.allclose([clip.mean(None) for clip in predicted], calibrated)


def test_stale_models_are_refused(micro_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "emofuse"
    shutil.copytree(micro_run, folder, symlinks=True)
    micro.change(folder, lambda loaded: loaded["variants"].update(proposed={"loss": {"margin": 0.3}}))
    with pytest.raises(UserError, match=r"stale.*margin"):
        bundle.find(RUN, folder)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (None, "--model is missing: name the models to use; there are models/micro/kfold_3/audio_only/seed-1, "),
        ("models/micro/kfold_3/nobody/seed-1", "params.yaml has no such run"),
        ("models/micro/kfold_3/proposed/seed-1/fold-2.safetensors", "no model of fold 2 is here"),
        ("somewhere", "neither a run of models/ nor a folder of emofuse export"),
    ],
)
def test_an_unknown_model_is_one_line(micro_run: Path, address: str | None, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        bundle.find(address, micro_run)


def test_without_picture_or_sound_another_variant_predicts_and_the_reason_is_given(
    models: predictor.Models, micro_run: Path, clips: list[Path], tmp_path: Path
) -> None:
    ffmpeg("-i", clips[0], "-vn", tmp_path / "voice.wav")
    ffmpeg("-i", clips[0], "-an", "-c", "copy", tmp_path / "mute.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    names = ("voice.wav", "mute.mp4", "text.mp4")
    voice, mute, text = predictor.predict([tmp_path / name for name in names], models)
    (prediction,) = voice.predictions
    assert prediction.ensemble.variant == "audio_only"
    assert prediction.note(models.bundle) == "no video track"
    alone = predictor.Models(*bundle.find(FOLD.replace("proposed", "audio_only"), micro_run))
    (again,) = predictor.predict([clips[0]], alone)
    assert again.predictions[0].probabilities.argmax() == prediction.probabilities.argmax()
    assert mute.failure(models.bundle) == "no sound track; these models need audio and video or audio"
    assert text.failure(models.bundle).startswith("cannot be decoded")
    assert [next(writers.lines(clip, models.bundle)).split(": ")[1] for clip in (mute, text)] == ["no prediction"] * 2


@pytest.mark.parametrize("inside", ["", "models", "data"])
@pytest.mark.parametrize("address", [FOLD, RUN, f"{RUN}/", f"models/../{RUN}"])
def test_a_model_is_found_from_any_folder(
    micro_run: Path, monkeypatch: pytest.MonkeyPatch, inside: str, address: str, tmp_path: Path
) -> None:
    """By its absolute path, or a relative one."""
    expected = bundle.find(RUN, micro_run)[0]
    for folder in (tmp_path, micro_run / inside):
        monkeypatch.chdir(folder)
        for place in (str(micro_run / address), os.path.relpath(micro_run / address)):
            found, root = bundle.find(place, Path())
            assert found == expected
            assert (root / FOLD).is_file()


def test_a_model_outside_any_repository_is_one_line(tmp_path: Path) -> None:
    for address in (f"{tmp_path}/{RUN}", f"{tmp_path}/models"):
        with pytest.raises(UserError, match=re.escape(str(tmp_path))):
            bundle.find(address, Path())


NAMES = [
    b"\xff\xe9.mp4", "é🎬.mp4".encode(), b"a\nb\r\x1b[2J.mp4", b"[bold].mp4", b"-x.mp4", b"%s.mp4", b"file:x.mp4",
    b"<b>&.mp4", b"=1+1,;\t\".mp4", b"a" * 251 + b".mp4",
]  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize("settings", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}], ids=str)
def test_files_of_any_name_are_predicted(
    exported: Path, clips: list[Path], tmp_path: Path, settings: dict[str, str]
) -> None:
    """The others get their prediction, too; every file has its rows in every output."""
    for name in NAMES:
        shutil.copy(clips[0], os.fsencode(tmp_path) + b"/" + name)
    (tmp_path / "pointer.mp4").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    given = ["--model", str(exported), "--output", "out\udcff", "--", *map(os.fsdecode, NAMES)]
    os.mkfifo(tmp_path / "pipe")
    given += ["pipe", "pointer.mp4", "missing\udcff.mp4", "x" * 300, str(tmp_path)]
    printed = micro.run(tmp_path, "emofuse", "predict", *given, status=2, PYTHONPATH=str(SOURCE), **settings)
    assert "Traceback" not in printed
    assert "emofuse: error: 5 of 15 videos have no prediction" in printed
    assert "pointer.mp4: no prediction: a pointer of Git LFS, not the file: run `git lfs pull`" in printed
    for line in (r"\xff\xe9.mp4: ", r"a\nb\r\x1b[2J.mp4: ", r"missing\xff.mp4: no prediction"):
        assert sum(each.startswith(line) for each in printed.splitlines()) == 1, line
    expected = [
        r"\xff\xe9.mp4",
        *(name.decode() for name in NAMES[1:]),
        "pipe",
        "pointer.mp4",
        r"missing\xff.mp4",
        "x" * 300,
    ]
    written = tmp_path / "out\udcff"
    rows = read_csv(written / "predictions.csv")
    assert rows["file"].tolist() == [*expected, str(tmp_path)]
    assert (rows["emotion"] != "").tolist() == [True] * len(NAMES) + [False] * 5
    record = json.loads((written / "predictions.json").read_text(encoding="utf-8"))
    assert [video["file"] for video in record["videos"]] == [*expected, str(tmp_path)]
    assert "&lt;b&gt;&amp;.mp4" in (written / "predictions.html").read_text(encoding="utf-8")


def test_an_export_of_pointers_says_so(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    (weights,) = folder.rglob("proposed/fold-0.safetensors")
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match=r"fold-0\.safetensors: a pointer of Git LFS, not the file"):
        bundle.read(folder)


def test_a_model_with_other_weights_is_one_line(exported: Path, tmp_path: Path) -> None:
    """Of a hostile export, whose hash is right."""
    folder = shutil.copytree(exported, tmp_path / "model")
    described = json.loads((folder / "data/bundle" / bundle.FILE).read_text())
    model = described["ensembles"][0]["models"][0]
    path = folder / "data/bundle" / model["file"]
    with safe_open(path, "pt") as stored:
        metadata = stored.metadata()
    state = {name: value.to(torch.float8_e4m3fn) for name, value in read_model(path)[0].items()}
    save_file(state, path, metadata)
    model["sha256"] = sha256(path)
    (folder / "data/bundle" / bundle.FILE).write_text(json.dumps(described))
    loaded = predictor.Models(*bundle.read(folder))
    with pytest.raises(UserError, match="is not a model of this network"):
        loaded.networks(loaded.bundle.ensembles[0])


@pytest.mark.integration
@pytest.mark.parametrize("name", ["é x", "a\nb\x1b", "\udcff", "a" * 255])
def test_an_export_may_have_any_name(micro_run: Path, tmp_path: Path, name: str) -> None:
    printed = micro.run(micro_run, "emofuse", "export", RUN, str(tmp_path / name))
    assert "README.md is the model card" in printed
    assert (tmp_path / name / "README.md").is_file()
    if name == "\udcff":
        printed = micro.run(tmp_path, "emofuse", "predict", "a.mp4", "--model", name, PYTHONPATH=str(SOURCE), status=2)
        assert "Traceback" not in printed


@pytest.mark.parametrize("name", ["a" * 256, "file/below"])
def test_a_folder_that_cannot_be_created_is_one_line(
    micro_run: Path, params: config.Params, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cannot create .*; choose another folder"):
        export.write(bundle.find(RUN, micro_run), params, tmp_path / name)


def test_a_long_video_is_predicted_window_by_window(models: predictor.Models, long: Path) -> None:
    (clip,) = predictor.predict([long], models)
    starts = [prediction.place.start for prediction in clip.predictions]
    assert starts == sorted(starts)
    assert (
        len(starts)
        == len(windows.spans(clip.predictions[-1].place.end, models.bundle.window, models.bundle.longest))
        > 8
    )
    rows = list(writers.rows(clip, models.bundle))
    assert np.allclose(
        [sum(float(row[f"p_{emotion}"]) for emotion in models.bundle.emotions) for row in rows], 1, atol=1e-5
    )
    assert np.allclose(clip.mean(None), np.mean([prediction.probabilities for prediction in clip.predictions], axis=0))


@pytest.fixture(scope="module")
def predicted(micro_run: Path, clips: list[Path], long: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the command for three files, one of which is not a video."""
    folder = tmp_path_factory.mktemp("predicted")
    (folder / "text.mp4").write_text("no video")
    files = [str(clips[0]), str(long), str(folder / "text.mp4")]
    command = ("emofuse", "predict", *files, "--model", RUN, "--output", str(folder / "out"))
    printed = micro.run(micro_run, *command, status=2)
    (folder / "printed").write_text(printed)
    return folder


def test_the_command_predicts_what_it_can_and_explains_what_it_cannot(
    predicted: Path, clips: list[Path], long: Path
) -> None:
    printed = (predicted / "printed").read_text()
    assert "Traceback" not in printed
    assert re.search(
        rf"{re.escape(str(clips[0]))}: \w+ \d+ %.*\(faces and sound, by proposed, 1 model, {CALIBRATED}\)", printed
    )
    assert re.search(rf"{re.escape(str(long))}: \w+ \d+ %.* windows\)", printed)
    assert "text.mp4: no prediction: cannot be decoded" in printed
    assert "emofuse: error: 1 of 3 videos have no prediction" in printed
    with (predicted / "out/predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["file"] == str(clips[0])
    assert rows[0]["emotion"] == max(
        (key[2:] for key in rows[0] if key.startswith("p_")), key=lambda e: float(rows[0][f"p_{e}"])
    )
    record = json.loads((predicted / "out/predictions.json").read_text())
    assert [video["no_prediction"] is None for video in record["videos"]] == [True, True, False]
    assert record["models"]["protocol"] == "kfold_3"
    (calibrated,) = (each["calibrated_on"] for each in record["models"]["ensembles"] if each["variant"] == "proposed")
    assert (calibrated, rows[0]["calibration"]) == ("inner halves", CALIBRATED)
    assert f"by proposed, 1 model, {CALIBRATED}" in (predicted / "out/predictions.html").read_text()


def test_uncalibrated_models_say_so(micro_run: Path, clips: list[Path], tmp_path: Path) -> None:
    """audio_only is not among the calibrated variants."""
    run = RUN.replace("proposed", "audio_only")
    printed = micro.run(micro_run, "emofuse", "predict", str(clips[0]), "--model", run, "--output", str(tmp_path))
    assert "(sound, by audio_only, 1 model, uncalibrated)" in printed
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["calibration"] == "uncalibrated"
    assert "by audio_only, 1 model, uncalibrated" in (tmp_path / "predictions.html").read_text()
    scores = read_json(
        micro_run / "results" / run.removeprefix("models/").replace("micro/", "micro/runs/") / "fold-0/metrics.json"
    )
    assert (scores["calibration"], scores["validation"]) == (None, None)


def test_the_page_shows_the_predictions_and_loads_nothing(predicted: Path, chromium: Any) -> None:  # noqa: F811
    requested, errors = [], []
    tab = chromium.new_page(viewport={"width": 1280, "height": 900})
    tab.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.route("**/*", lambda route: (requested.append(route.request.url), route.continue_()))
    page = (predicted / "out/predictions.html").as_uri()
    tab.goto(page)
    assert [url for url in requested if not url.startswith("data:")] == [page]
    assert not errors
    text = tab.inner_text("body")
    assert "do not judge anybody by them" in text
    assert "no prediction" in text
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


def test_an_export_is_self_contained(exported: Path, clips: list[Path], predicted: Path, tmp_path: Path) -> None:
    """It gives the same probabilities in a folder without params.yaml, data and models."""
    printed = micro.run(tmp_path, "emofuse", "predict", str(clips[0]), "--model", str(exported))
    assert "faces and sound, by proposed, 1 model" in printed
    ours = (tmp_path / "predictions/predictions.csv").read_text().splitlines()
    assert ours == (predicted / "out/predictions.csv").read_text().splitlines()[: len(ours)]
    assert not [path for path in exported.rglob("*") if path.suffix in (".pkl", ".pth", ".pt")]


def test_an_export_is_not_exported_again(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is in an export already: copy the export's folder"):
        export.write(bundle.read(exported), config.load(), tmp_path / "again")


def test_an_exported_program_gives_the_scores_of_its_network(
    exported: Path, models: predictor.Models, clips: list[Path]
) -> None:
    (sample,) = windows.samples(clips[0], models.bundle, None)
    ensemble = models.bundle.ensembles[0]
    inputs = models.inputs(ensemble, [sample] * 3)
    program = torch.export.load(exported / "data/bundle/proposed/fold-0.pt2").module()
    with torch.inference_mode():
        assert torch.allclose(program(inputs), torch.from_numpy(models.scores(ensemble, [sample] * 3)[:, 0]), atol=1e-4)


def test_the_card_has_results_differences_and_limits(exported: Path, micro_run: Path) -> None:
    text = (exported / "README.md").read_text()
    for needed in (
        "Out of scope",
        "## Results by gender and actor",
        "female minus male",
        "## Licence",
        "CC BY-NC-SA 4.0",
    ):
        assert needed in text
    scored = read_json(micro_run / KEY.metrics)
    assert f"| proposed | audio and video | {100 * scored['war']:.1f} " in text
    for actor in scored["actors"]:
        assert re.search(rf"^\| {actor} \| (fe)?male \| \d+ \| [\d.]+ \|$", text, re.MULTILINE)


@pytest.mark.parametrize("kind", datasets.KINDS)
def test_every_corpus_has_a_licence_for_the_card(kind: str) -> None:
    dataset = datasets.get(kind)
    assert dataset.people
    assert dataset.licence
    assert dataset.terms


def test_an_existing_folder_is_not_overwritten(exported: Path, micro_run: Path, params: config.Params) -> None:
    with pytest.raises(UserError, match="exists: choose a new folder"):
        export.write(bundle.find(RUN, micro_run), params, exported)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detector": "../../../etc/passwd"}, "outside its folder"),
        ({"window": 0}, "window"),
        ({"ensembles": []}, "ensembles"),
        ({"more": 1}, "more"),
    ],
)
def test_an_untrusted_bundle_is_validated(exported: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    described = json.loads((exported / "data/bundle" / bundle.FILE).read_text())
    (tmp_path / bundle.FILE).write_text(json.dumps({**described, **change}))
    with pytest.raises(UserError, match=message):
        bundle.read(tmp_path)


def test_a_model_that_does_not_match_its_hash_is_refused(exported: Path, tmp_path: Path, clips: list[Path]) -> None:
    folder = shutil.copytree(exported, tmp_path / "model")
    (weights,) = folder.rglob("proposed/fold-0.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    printed = micro.run(tmp_path, "emofuse", "predict", str(clips[0]), "--model", str(folder), status=2)
    assert "is not the model that was evaluated" in printed


@pytest.fixture(scope="module")
def served(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's model server for an exported folder."""
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

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/ping", timeout=1):
                return True
        except OSError:
            return False

    with servers.running(tmp_path_factory.mktemp("served") / "log", *command, answers=answers):
        yield address


@pytest.mark.integration
def test_mlflow_serves_an_export(served: str, shared_data: Path, models: predictor.Models) -> None:
    """Two real clips, one of which is sound alone."""
    given = [shared_data / FILM, shared_data / VOICE]
    encoded = [[base64.b64encode(file.read_bytes()).decode()] for file in given]
    body = {"dataframe_split": {"columns": ["clip"], "data": encoded}}
    request = urllib.request.Request(
        f"{served}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        served_rows = json.load(response)["predictions"]
    expected = [
        (number, row)
        for number, clip in enumerate(predictor.predict(given, models))
        for row in writers.rows(clip, models.bundle)
    ]
    assert {row["variant"] for _, row in expected} == {"proposed", "audio_only"}
    assert len(served_rows) == len(expected) > 4
    for theirs, (number, ours) in zip(served_rows, expected, strict=True):
        assert theirs["row"] == number
        for name in ("variant", "emotion", "note", "start", "end"):
            assert theirs[name] == ours[name]
        for emotion in models.bundle.emotions:
            assert theirs[f"p_{emotion}"] == pytest.approx(float(str(ours[f"p_{emotion}"])), abs=2e-6)


@pytest.mark.integration
def test_a_registered_model_is_used_by_its_address(exported: Path, clips: list[Path], tmp_path: Path) -> None:
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
