"""Training: resumes bit for bit, keeps the last or the best validation epoch, never reads a test clip."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from emofuse import config, paths
from emofuse.data import splits
from emofuse.data.augmentation import augment_audio, augment_video, mixup
from emofuse.data.dataset import ALL_TRAINING, read_features, read_parts, to_input
from emofuse.evaluation import calibrate, evaluate
from emofuse.models.build import build
from emofuse.paths import RunKey
from emofuse.training import checkpoint, sampling, train
from emofuse.training.averaging import AveragedNetwork
from emofuse.training.model_file import read_model, write_model
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, read_json
from emofuse.utils.prefetch import prefetched

EMOTIONS = ("neutral", "calm", "happy", "sad")
RUN = config.Run.model_validate(
    {
        "network": {
            "modalities": ["audio"],
            "audio": {"backbone": "resnet10", "width": 8},
            "dimension": 16,
            "heads": 4,
            "dropout": 0.1,
        },
        "spectrogram": {"normalise": "clip", "segments": 3, "frames": 32},
        "loss": {},
        "training": {
            "epochs": 4,
            "warmup_epochs": 1,
            "emotions_per_batch": 4,
            "clips_per_emotion": 2,
            "mixup": 0.2,
            "mask_bands": 0.2,
            "mask_time": 0.2,
            "shift_bands": 1,
            "shift_time": 8,
            "average_decay": 0.5,
            "threads": 1,
        },
    }
)

COLUMNS = 96  # of each clip


def make_corpus(folder: Path, seed: int = 0) -> Path:
    """Features of 6 actors × 4 emotions × 2 takes, in which each emotion has a louder band and a brighter stripe.

    Fold 0 tests actor 1, validates on actor 2 and trains on the others.
    """
    rng = np.random.default_rng(seed)
    data = folder / "data" / "toy"
    splits = data / "splits" / "kfold_3"
    for path in (data / "features" / "audio", data / "features" / "faces", splits):
        path.mkdir(parents=True)
    clips, sounds, faces = [], [], []
    for actor in range(1, 7):
        for label, emotion in enumerate(EMOTIONS):
            for take in range(2):
                sound = rng.normal(0, 1, (COLUMNS, 24))
                sound[:, 6 * label : 6 * label + 3] += 2
                sounds.append(sound)
                face = rng.integers(0, 200, (3, 2, 32, 32, 3))
                face[:, :, 8 * label : 8 * label + 8] += 50
                faces.append(face)
                clips.append(
                    {
                        "clip": f"{actor}-{emotion}-{take}", "shard": "0", "faces_row": str(len(clips)),
                        "audio_row": str(COLUMNS * len(clips)), "audio_rows": str(COLUMNS), "audio_span": f"{COLUMNS}.000", "actor": str(actor), "gender": "male", "emotion": emotion,
                        "group": f"{len(clips)}", "usable": "true", "reason": "",
                    }
                )  # fmt: skip
    np.save(data / "features" / "audio" / "shard-0.npy", np.concatenate(sounds).astype(np.float16))
    np.save(data / "features" / "faces" / "shard-0.npy", np.array(faces, np.uint8))
    with (splits / "clips.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, clips[0])
        writer.writeheader()
        writer.writerows(clips)
    parts = {"1": "test", "2": "val"}
    with (splits / "folds.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["fold", "part", "clip"])
        writer.writerows((0, parts.get(row["actor"], "train"), row["clip"]) for row in clips)
    return data


def run_key(name: str, seed: int = 1) -> RunKey:
    return RunKey("toy", "kfold_3", name, seed, 0)


def changed(**training: object) -> config.Run:
    """RUN with other training parameters."""
    return RUN.model_copy(update={"training": RUN.training.model_copy(update=training)})


def trained(
    folder: Path,
    name: str,
    run: config.Run = RUN,
    seed: int = 1,
    identity: str = "the same",
    epoch_log: train.EpochLog | None = None,
) -> Path:
    """Train under that name and return the model file; its history is next to it."""
    key = run_key(name, seed)
    saved = checkpoint.Checkpoint(folder / key.checkpoint, identity)
    progress, _ = train.train(key, run, EMOTIONS, folder, saved, epoch_log)
    write_model(folder / key.model, progress.kept, EMOTIONS, run)
    train.write_history(folder / key.history, progress)
    return folder / key.model


def scored(folder: Path, name: str, run: config.Run = RUN) -> dict[str, Any]:
    """The metrics of the model of that name."""
    on: config.CalibratedOn | None = "validation actors" if run.training.selection == "nested" else None
    evaluate.evaluate(run_key(name), run, EMOTIONS, folder, calibrated_on=on)
    return read_json(folder / run_key(name).metrics)


def change_features(data: Path, clips: slice, source: slice | float) -> None:
    """Replace the spectrograms of some clips, by those of others or a number; clips are in the order of their actors, 8 each."""
    file = data / "features" / "audio" / "shard-0.npy"
    features = np.load(file)
    by_clip = features.reshape(-1, COLUMNS, features.shape[1])
    by_clip[clips] = by_clip[source] if isinstance(source, slice) else source
    np.save(file, features)


NESTED = changed(selection="nested")
SELECTIONS = pytest.mark.parametrize("run", [RUN, NESTED], ids=["last", "nested"])


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    one, two, other = trained(tmp_path, "one"), trained(tmp_path, "two"), trained(tmp_path, "other", seed=2)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    assert one.with_suffix(".csv").read_text() == two.with_suffix(".csv").read_text()
    first, second = (scored(tmp_path, name) for name in ("one", "two"))
    assert first | {"variant": "two"} == second


@pytest.mark.parametrize("run", [RUN, pytest.param(NESTED, marks=pytest.mark.slow)], ids=["last", "nested"])
def test_a_training_killed_at_random_steps_resumes_bit_for_bit(tmp_path: Path, run: config.Run) -> None:
    make_corpus(tmp_path)
    uninterrupted = trained(tmp_path, "uninterrupted", run)
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_training
        from emofuse.training import checkpoint, train
        from pathlib import Path
        checkpoint.INTERVAL = 0.0
        left, mixup = int(sys.argv[1]), train.mixup
        def killing(*arguments):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return mixup(*arguments)
        train.mixup = killing
        run = test_training.changed(selection={run.training.selection!r})
        test_training.trained(Path({str(tmp_path)!r}), "killed", run)
        """
    )
    # 4 epochs of 4 or 5 steps: killed once in the second epoch, and once more in the second after the first kill.
    for steps in (random.randrange(6, 8), random.randrange(5, 8)):
        process = subprocess.run([sys.executable, "-c", script, str(steps)], capture_output=True, text=True)
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert (tmp_path / run_key("killed").checkpoint).is_file(), f"killed at step {steps}"
        assert not (tmp_path / run_key("killed").model).exists()
    resumed = trained(tmp_path, "killed", run)
    assert resumed.read_bytes() == uninterrupted.read_bytes(), f"killed at step {steps}"
    assert resumed.with_suffix(".csv").read_text() == uninterrupted.with_suffix(".csv").read_text()


class Interruption(Exception):
    """Ends a training early."""


class Log:
    """Collects the epochs of a training and interrupts it at one of them, before its checkpoint."""

    def __init__(self, interrupt_at: int = 0) -> None:
        self.interrupt_at = interrupt_at
        self.resumed_rows: list[Mapping[str, float]] = []
        self.rows: list[Mapping[str, float]] = []

    def resumed(self, history: Sequence[Mapping[str, float]]) -> None:
        self.resumed_rows += history

    def epoch(self, row: Mapping[str, float]) -> None:
        self.rows.append(row)
        if row["epoch"] == self.interrupt_at:
            raise Interruption


def test_a_log_receives_each_epoch_once_also_after_a_resumption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path)
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    first, second = Log(interrupt_at=3), Log()
    with pytest.raises(Interruption):
        trained(tmp_path, "m", epoch_log=first)
    trained(tmp_path, "m", epoch_log=second)
    assert second.resumed_rows == first.rows[:2]
    assert [row["epoch"] for row in second.rows] == [3, 4]
    assert second.rows[0] == first.rows[2]


def test_a_checkpoint_with_other_parameters_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_corpus(tmp_path)
    fresh = trained(tmp_path, "fresh")
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    with pytest.raises(Interruption):
        trained(tmp_path, "again", changed(learning_rate=0.1), identity="another", epoch_log=Log(interrupt_at=2))
    assert (tmp_path / run_key("again").checkpoint).is_file()
    assert trained(tmp_path, "again").read_bytes() == fresh.read_bytes()


def test_checkpoints_are_written_at_intervals(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    saved = checkpoint.Checkpoint(tmp_path / "c.pt", "")
    progress = saved.restore({"network": network})
    written = []
    for seconds in (4.0, 11.0, 15.0, 20.0, 22.0):
        progress.seconds = seconds
        saved.save({"network": network}, progress)
        written.append(saved.restore({}).seconds if saved.path.is_file() else None)
    assert written == [None, 11, 11, 11, 22]


def test_the_best_validation_epoch_is_kept_and_learns(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    run = changed(selection="nested", epochs=12, learning_rate=3e-3)
    key = run_key("long")
    progress, details = train.train(key, run, EMOTIONS, tmp_path, checkpoint.Checkpoint(tmp_path / "c.pt", ""))
    write_model(tmp_path / key.model, progress.kept, EMOTIONS, run)
    train.write_history(tmp_path / key.history, progress)
    rows = list(csv.DictReader((tmp_path / key.history).open()))
    (best,) = (row for row in rows if row["kept"] == "true")
    assert float(best["val_uar"]) == max(float(row["val_uar"]) for row in rows)
    assert details["kept_epoch"] == int(best["epoch"])
    assert details["clips"] == {"train": 32, "val": 8}
    scores = scored(tmp_path, "long", run)
    assert scores["war"] >= 0.75
    assert scores["validation"]["uar"] == float(best["val_uar"])


def test_training_stops_when_patience_runs_out(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    model = trained(tmp_path, "m", changed(selection="nested", epochs=40, patience=2, learning_rate=1e-9))
    rows = list(csv.DictReader(model.with_suffix(".csv").open()))
    best = next(int(row["epoch"]) for row in rows if row["kept"] == "true")
    assert len(rows) == best + 2 < 40


@pytest.mark.parametrize("average_decay", [0.0, 0.5])
def test_the_last_weights_are_kept_without_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average_decay: float
) -> None:
    make_corpus(tmp_path)
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    run = changed(average_decay=average_decay, patience=1)
    state, _ = read_model(trained(tmp_path, "m", run))
    last = torch.load(tmp_path / run_key("m").checkpoint, weights_only=True)
    assert len(last["progress"]["history"]) == run.training.epochs, "patience is for selection: nested"
    for name, value in last["parts"]["averaged"].items():
        assert torch.equal(state[name], value)
    rows = list(csv.DictReader((tmp_path / run_key("m").history).open()))
    assert [row["kept"] for row in rows] == ["false", "false", "false", "true"]
    scores = scored(tmp_path, "m", run)
    assert (scores["validation"], scores["calibration"]) == (None, None)


LOSSES = ["epoch", "learning_rate", "train_loss", "train_cross_entropy", "train_metric"]


@pytest.mark.parametrize(
    ("run", "columns"), [(RUN, LOSSES), (NESTED, [*LOSSES, "val_loss", "val_war", "val_uar"])], ids=["last", "nested"]
)
def test_no_epoch_is_scored_on_test_clips(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, run: config.Run, columns: list[str]
) -> None:
    make_corpus(tmp_path)
    epochs = Log()
    with caplog.at_level("INFO"):
        model = trained(tmp_path, "m", run, epoch_log=epochs)
    assert [list(row) for row in epochs.rows] == [columns] * 4
    assert list(pd.read_csv(model.with_suffix(".csv"))) == [*columns, "kept"]
    assert "training loss" in caplog.text
    assert ("validation" in caplog.text) == (run is NESTED)
    assert "test" not in caplog.text.replace("test_", "")


@SELECTIONS
def test_training_never_reads_a_test_clip(tmp_path: Path, run: config.Run) -> None:
    data = make_corpus(tmp_path)
    expected = trained(tmp_path, "all", run).read_bytes()
    change_features(data, slice(8), np.nan)  # actor 1, the test actor
    assert trained(tmp_path, "without", run).read_bytes() == expected


def split(folder: Path, validation: int, folds: Mapping[int, int] = MappingProxyType({0: 1})) -> None:
    """Split the corpus again; `folds` maps folds to their test actor."""
    files = [folder / file for file in paths.splits("toy", "kfold_3")]
    clips = read_csv(files[0])
    protocol = {fold: {"test": [actor]} for fold, actor in folds.items()}
    splits.actor_folds(clips, protocol, validation, "seed").to_csv(files[1], index=False)


def test_validation_actors_make_no_difference_if_nothing_is_selected(tmp_path: Path) -> None:
    """Even if actors share recordings, of which the splits keep only those in validation or test."""
    make_corpus(tmp_path)
    file = tmp_path / paths.splits("toy", "kfold_3")[0]
    clips = read_csv(file).set_index("clip", drop=False)
    for one, other in (("2-happy-0", "3-happy-0"), ("4-sad-1", "5-sad-1"), ("1-calm-0", "6-calm-0")):
        clips.loc[one, "group"] = clips.loc[other, "group"]
    clips.to_csv(file, index=False)
    models, trained_on = [], []
    for validation in (1, 2, 4):
        split(tmp_path, validation)
        (part,) = read_parts(tmp_path, run_key("m"), [ALL_TRAINING], RUN, EMOTIONS)
        trained_on.append(part.clips["clip"].tolist())
        models.append(trained(tmp_path, f"m{validation}").read_bytes())
    assert models[0] == models[1] == models[2]
    assert set(trained_on[0]) == {clip for clip in clips["clip"] if not clip.startswith("1-")} - {"6-calm-0"}


def test_each_fold_is_selected_on_its_own_validation_actors(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    split(tmp_path, 2, {0: 1, 1: 2})
    held_out = []
    for fold in (0, 1):
        key = RunKey("toy", "kfold_3", "m", 1, fold)
        train_part, val, test = read_parts(tmp_path, key, ["train", "val", "test"], RUN, EMOTIONS)
        people = [set(part.clips["actor"]) for part in (train_part, val, test)]
        assert not people[1] & people[2]
        assert set.union(*people) == set("123456")
        held_out.append(people[1])
        progress, _ = train.train(key, NESTED, EMOTIONS, tmp_path, checkpoint.Checkpoint(tmp_path / f"{fold}.pt", ""))
        kept = train.kept_epoch(progress.history)
        scores = train.scores_of(progress.kept, NESTED, EMOTIONS, val, tmp_path, train.CPU)
        uar = np.mean([(scores.argmax(1).numpy() == val.labels)[val.labels == n].mean() for n in range(4)])
        assert uar == pytest.approx(progress.history[kept - 1]["val_uar"])
        assert uar == pytest.approx(max(row["val_uar"] for row in progress.history))
    assert held_out[0] != held_out[1]


def test_a_loss_that_is_not_finite_names_the_clips(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    change_features(data, slice(-8, None), np.nan)
    with pytest.raises(UserError, match=r"the loss is nan in epoch 1; .* 6-"):
        trained(tmp_path, "nan")


def test_predictions_and_metrics_agree(tmp_path: Path) -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    make_corpus(tmp_path)
    trained(tmp_path, "m")
    scores = scored(tmp_path, "m")
    rows = list(csv.DictReader((tmp_path / run_key("m").predictions).open()))
    truth, predicted = [row["emotion"] for row in rows], [row["predicted"] for row in rows]
    assert {row["actor"] for row in rows} == {"1"}
    assert scores["actors"] == [1]
    assert scores["clips"] == len(rows)
    assert scores["war"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    for row in rows:
        probabilities = [float(row[f"p_{emotion}"]) for emotion in EMOTIONS]
        assert sum(probabilities) == pytest.approx(1, abs=1e-4)
        assert EMOTIONS[int(np.argmax(probabilities))] == row["predicted"]


def test_the_temperature_is_fitted_on_the_validation_clips(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    model = trained(tmp_path, "m", NESTED)
    calibration = scored(tmp_path, "m", NESTED)["calibration"]
    (part,) = read_parts(tmp_path, run_key("m"), ["val"], RUN, EMOTIONS)
    network = build(RUN.network, len(EMOTIONS), part.shapes, tmp_path)
    state, _ = read_model(model)
    state.pop("emotion_distance")
    network.load_state_dict(state)
    scores, _ = train.predict(network, part, train.CPU)
    labels = torch.from_numpy(part.labels)

    def loss(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(scores.double() / temperature, labels).item()

    best = calibration["temperature"]
    assert (calibration["clips"], calibration["from"]) == (8, "validation actors")  # clips of actor 2
    assert loss(best) <= min(loss(0.99 * best), loss(1.01 * best), loss(1))
    change_features(data, slice(8), slice(8, 16))
    assert scored(tmp_path, "m", NESTED)["calibration"] == calibration, "it depends on the test clips"


# Calibration by two further trainings


def calibrated(folder: Path, run: config.Run = RUN) -> dict[str, Any]:
    halves = [checkpoint.Checkpoint(folder / run_key("m").half_checkpoint(half), f"half {half}") for half in range(2)]
    return calibrate.calibrate(run_key("m"), run, EMOTIONS, folder, halves)[0]


def test_the_temperature_is_fitted_on_two_halves_of_the_training_actors(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    found = calibrated(tmp_path)
    one, other = map(set, found["halves"])
    assert one.isdisjoint(other)
    assert one | other == {2, 3, 4, 5, 6}
    assert abs(len(one) - len(other)) == 1
    # The same by hand: folds whose training actors are one half, and whose test actors are the other.
    files = [tmp_path / file for file in paths.splits("toy", "kfold_3")]
    folds, clips = files[1].read_text(), read_csv(files[0])
    scores, labels = [], []
    for half, rest in ((one, other), (other, one)):
        part_of = {**dict.fromkeys(half, "train"), **dict.fromkeys(rest, "test")}
        rows = [
            f"0,{part_of[int(actor)]},{clip}"
            for clip, actor in zip(clips["clip"], clips["actor"], strict=True)
            if actor != "1"
        ]
        files[1].write_text("\n".join(["fold,part,clip", *rows]) + "\n")
        clips.assign(usable=np.where(clips["actor"] == "1", "false", "true")).to_csv(files[0], index=False)
        network_file = trained(tmp_path, "by hand", identity=str(half))
        (part,) = read_parts(tmp_path, run_key("m"), ["test"], RUN, EMOTIONS)
        network = build(RUN.network, len(EMOTIONS), part.shapes, tmp_path)
        state, _ = read_model(network_file)
        state.pop("emotion_distance")
        network.load_state_dict(state)
        scores.append(train.predict(network, part, train.CPU)[0])
        labels.append(torch.from_numpy(part.labels))

    def loss(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(torch.cat(scores).double() / temperature, torch.cat(labels)).item()

    best = minimize_scalar(
        lambda inverse: loss(1 / inverse), bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9}
    )
    assert found["temperature"] == pytest.approx(1 / best.x, rel=1e-4)
    assert found["clips"] == 40
    files[1].write_text(folds)
    clips.to_csv(files[0], index=False)
    change_features(data, slice(8), np.nan)  # the test actor
    assert calibrated(tmp_path) == found


def test_an_interrupted_calibration_resumes_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path)
    expected = calibrated(tmp_path)
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    with monkeypatch.context() as patched:
        steps = iter(range(11))  # 4 epochs of 2 steps, and a part of the second training

        def interrupting(*arguments: Any) -> Any:
            if next(steps, None) is None:
                raise Interruption
            return mixup(*arguments)

        patched.setattr(train, "mixup", interrupting)
        with pytest.raises(Interruption):
            calibrated(tmp_path)
    assert (tmp_path / run_key("m").half_checkpoint(1)).is_file()
    assert calibrated(tmp_path) == expected


def test_a_single_training_actor_cannot_be_halved(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    clips, _ = (tmp_path / file for file in paths.splits("toy", "kfold_3"))
    frame = read_csv(clips)
    frame.assign(usable=np.where(frame["actor"].isin(["1", "2"]), "true", "false")).to_csv(clips, index=False)
    with pytest.raises(UserError, match=r"one training actor.*set corpora\.toy\.calibrated: \[\]"):
        calibrated(tmp_path)


def test_sound_is_shifted_in_training_only(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    assert trained(tmp_path, "m").read_bytes() != trained(tmp_path, "unshifted", changed(shift_time=0)).read_bytes()
    (part,) = read_parts(tmp_path, run_key("m"), ["val"], RUN, EMOTIONS)
    network = build(RUN.network, len(EMOTIONS), part.shapes, tmp_path)
    scores, _ = train.predict(network, part, train.CPU)
    whole = part.features["audio"].batch(range(len(part.labels)))
    assert not torch.equal(whole, part.features["audio"].batch(range(len(part.labels)), np.full(len(part.labels), 8)))
    with torch.no_grad():
        torch.testing.assert_close(network.eval()({"audio": whole.float()})[0], scores)


def test_a_model_of_another_network_is_rejected(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    model = trained(tmp_path, "m")
    run = RUN.model_copy(update={"network": RUN.network.model_copy(update={"dimension": 32})})
    with pytest.raises(UserError, match="trained with another network or spectrogram"):
        scored(tmp_path, "m", run)
    view = RUN.spectrogram.model_copy(update={"normalise": "fixed"})
    with pytest.raises(UserError, match="trained with another network or spectrogram"):
        scored(tmp_path, "m", RUN.model_copy(update={"spectrogram": view}))
    model.write_bytes(b"not a model")
    with pytest.raises(UserError, match="is not a model"):
        scored(tmp_path, "m")


def test_missing_features_name_the_command(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    (data / "features" / "audio" / "shard-0.npy").unlink()
    with pytest.raises(UserError, match="run emofuse audio toy 0"):
        trained(tmp_path, "m")


# Batches


@given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.integers(2, 4), st.integers(2, 4), st.integers(0, 99))
def test_balanced_batches_have_k_clips_of_each_of_p_emotions(labels: list[int], p: int, k: int, seed: int) -> None:
    array = np.array(labels)
    for batch in sampling.balanced_batches(array, p, k, np.random.default_rng(seed)):
        counts = np.bincount(array[batch])
        assert set(counts[counts > 0]) == {k}
        assert (counts > 0).sum() == min(p, len(set(labels)))


def test_an_epoch_of_a_balanced_set_has_each_clip_once() -> None:
    labels = np.arange(64) % 4
    batches = list(sampling.balanced_batches(labels, 4, 4, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches)) == list(range(64))


@given(st.integers(2, 70), st.integers(4, 32), st.integers(0, 99))
def test_shuffled_batches_have_each_clip_once(clips: int, size: int, seed: int) -> None:
    batches = list(sampling.shuffled_batches(clips, size, np.random.default_rng(seed)))
    assert sorted(np.concatenate(batches)) == list(range(clips))
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert max(map(len, batches)) <= 1.5 * size


def test_batches_are_prefetched_in_order_and_an_error_reaches_the_consumer() -> None:
    assert list(prefetched(lambda number: number**2, range(20), threads=1, results=2)) == [n**2 for n in range(20)]

    def read(number: int) -> int:
        if number == 3:
            raise OSError("the disk is gone")
        return number

    received: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        received.extend(prefetched(read, range(100), threads=1, results=2))
    assert received == [0, 1, 2]


def test_resident_features_equal_the_mapped_ones(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    clips = pd.DataFrame({"shard": "0", "faces_row": ["5", "0", "9"]})
    mapped, resident = (read_features(data, clips, "video", RUN.spectrogram) for _ in range(2))
    resident.move(torch.device("cpu"))
    assert mapped.nbytes == 3 * 3 * 2 * 32 * 32 * 3
    assert torch.equal(mapped.batch([2, 0]), resident.batch(np.array([2, 0])))


# Steps


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    section = RUN.training
    rates = [train.learning_rate(step / 10, section) for step in range(10 * section.epochs + 1)]
    top = rates.index(max(rates))
    assert max(rates) == section.learning_rate
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_the_averaged_network_follows_weights_and_statistics() -> None:
    source = torch.nn.BatchNorm1d(1)
    averaged, untouched = AveragedNetwork(source, 0.5), AveragedNetwork(source, 0.0)
    assert untouched.network is source
    expected = 0.0
    for step, value in enumerate((4.0, 8.0, 2.0)):
        with torch.no_grad():
            source.weight.fill_(value)
            source.running_mean.fill_(value)
            source.num_batches_tracked += 1
        averaged.update(step)
        decay = min(0.5, step / (step + 10))
        expected = decay * expected + (1 - decay) * value
        for name in ("weight", "running_mean"):
            assert averaged.network.state_dict()[name].item() == pytest.approx(expected)
    assert averaged.network.num_batches_tracked == 3


def test_face_augmentation_is_the_same_for_all_frames_of_a_clip() -> None:
    torch.manual_seed(0)
    settings = RUN.training.model_copy(update={"crop": 0.7, "flip": 0.5, "brightness": 0.3})
    still = torch.randint(0, 256, (4, 1, 1, 16, 16, 3), dtype=torch.uint8).expand(4, 3, 5, 16, 16, 3)
    augmented = augment_video(still.clone(), settings)
    assert augmented.shape == (4, 3, 3, 5, 16, 16)
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    assert not torch.equal(augmented, to_input(still, "video"))
    torch.testing.assert_close(augmented, augmented[:, :1, :, :1].expand_as(augmented))


def test_face_augmentation_can_be_switched_off_or_only_flip() -> None:
    faces = torch.randint(0, 256, (4, 3, 5, 16, 16, 3), dtype=torch.uint8)
    off = RUN.training.model_copy(update={"crop": 1.0, "flip": 0.0, "brightness": 0.0})
    torch.testing.assert_close(augment_video(faces.clone(), off), to_input(faces, "video"))
    flip = off.model_copy(update={"flip": 1.0})
    torch.testing.assert_close(augment_video(faces.clone(), flip), to_input(faces, "video").flip(-1))


def test_audio_augmentation_masks_bands_and_frames() -> None:
    torch.manual_seed(0)
    segments = torch.randn(4, 3, 24, 32)
    augmented = augment_audio(segments, RUN.training)
    assert augmented.shape == segments.shape
    masked = augmented == 0
    assert masked.all(3).any(), "no band is masked"
    assert masked.all(2).any(), "no frame is masked"


def test_mixup_keeps_each_clip_dominant() -> None:
    torch.manual_seed(0)
    segments = torch.randn(4, 3, 24, 32)
    inputs, targets = mixup({"audio": segments}, torch.eye(4), 0.4)
    assert (targets.argmax(1) == torch.arange(4)).all()
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert inputs["audio"].shape == segments.shape
