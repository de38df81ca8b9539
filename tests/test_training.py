"""Training: resumes to the same bits, keeps the best validation epoch, never opens a test clip."""

from __future__ import annotations

import csv
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emofuse import config
from emofuse.evaluation import evaluate, metrics
from emofuse.paths import RunKey
from emofuse.training import train
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_json

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
            "average_decay": 0.5,
            "threads": 1,
        },
    }
)


def make_corpus(folder: Path, seed: int = 0) -> Path:
    """Features in which the emotion is a louder band and a brighter place, for 6 actors × 4 emotions × 2 takes."""
    rng = np.random.default_rng(seed)
    data = folder / "data" / "toy"
    splits = data / "splits" / "kfold_3"
    for path in (data / "features" / "audio", data / "features" / "faces", splits):
        path.mkdir(parents=True)
    clips, sounds, faces = [], [], []
    for actor in range(1, 7):
        for label, emotion in enumerate(EMOTIONS):
            for take in range(2):
                sound = rng.normal(0, 1, (3, 24, 32))
                sound[:, 6 * label : 6 * label + 3] += 2
                sounds.append(sound)
                face = rng.integers(0, 200, (3, 2, 32, 32, 3))
                face[:, :, 8 * label : 8 * label + 8] += 50
                faces.append(face)
                clips.append(
                    {
                        "clip": f"{actor}-{emotion}-{take}", "shard": "0", "faces_row": str(len(clips)),
                        "audio_row": str(len(clips)), "actor": str(actor), "gender": "male", "emotion": emotion,
                        "group": f"{len(clips)}", "usable": "true", "reason": "",
                    }
                )  # fmt: skip
    np.save(data / "features" / "audio" / "shard-0.npy", np.array(sounds, np.float16))
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


def run_key(name: str) -> RunKey:
    return RunKey("toy", "kfold_3", name, 1, 0)


def trained(folder: Path, name: str, run: config.Run = RUN, seed: int = 1, identity: str = "the same") -> Path:
    """The model of a training under that name."""
    model = folder / run_key(name).model
    train.train(
        folder / "data" / "toy", "kfold_3", 0, seed, run, EMOTIONS, model, folder / run_key(name).checkpoint, identity, {}
    )  # fmt: skip
    return model


def scored(folder: Path, name: str, run: config.Run = RUN) -> dict[str, Any]:
    """The metrics of the model of that name."""
    evaluate.evaluate(run_key(name), run, EMOTIONS, folder)
    return read_json(folder / run_key(name).metrics)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    one, two, other = trained(tmp_path, "one"), trained(tmp_path, "two"), trained(tmp_path, "other", seed=2)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    assert one.with_suffix(".csv").read_text() == two.with_suffix(".csv").read_text()
    first, second = (scored(tmp_path, name) for name in ("one", "two"))
    assert first | {"variant": "two"} == second


def test_a_training_killed_at_random_steps_resumes_to_the_same_bits(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    whole = trained(tmp_path, "whole")
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_training
        from emofuse.training import train
        from pathlib import Path
        train.CHECKPOINT_SECONDS = 0.0
        left, mixup = int(sys.argv[1]), train.mixup
        def dying(*arguments):
            global left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return mixup(*arguments)
        train.mixup = dying
        test_training.trained(Path({str(tmp_path)!r}), "killed")
        """
    )
    # 4 epochs of 4 steps: killed once in the first two, once more in the last two, wherever that is in the epoch.
    for steps in (random.randrange(5, 8), random.randrange(4, 8)):
        process = subprocess.run([sys.executable, "-c", script, str(steps)], capture_output=True, text=True)
        assert process.returncode == -signal.SIGKILL, process.stderr
        assert (tmp_path / run_key("killed").checkpoint).is_file(), f"killed at step {steps}"
        assert not (tmp_path / run_key("killed").model).exists()
    resumed = trained(tmp_path, "killed")
    assert resumed.read_bytes() == whole.read_bytes(), f"killed at step {steps}"
    assert resumed.with_suffix(".csv").read_text() == whole.with_suffix(".csv").read_text()


def test_a_checkpoint_of_other_parameters_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_corpus(tmp_path)
    whole = trained(tmp_path, "whole")

    class Stop(Exception):
        pass

    def stop(history: Sequence[object], patience: int) -> bool:
        if len(history) > 1:
            raise Stop
        return False

    run = RUN.model_copy(update={"training": RUN.training.model_copy(update={"learning_rate": 0.1})})
    with monkeypatch.context() as patch:
        patch.setattr(train, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(train, "_patience_over", stop)
        with pytest.raises(Stop):
            trained(tmp_path, "again", run, identity="another")
    assert (tmp_path / run_key("again").checkpoint).is_file()
    assert trained(tmp_path, "again").read_bytes() == whole.read_bytes()


def test_the_best_validation_epoch_is_kept_and_learns(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    run = RUN.model_copy(update={"training": RUN.training.model_copy(update={"epochs": 12, "learning_rate": 3e-3})})
    model = tmp_path / run_key("long").model
    details = train.train(
        tmp_path / "data" / "toy", "kfold_3", 0, 1, run, EMOTIONS, model, tmp_path / "long.pt", "the same", {}
    )  # fmt: skip
    rows = list(csv.DictReader(model.with_suffix(".csv").open()))
    best = next(row for row in rows if row["best"] == "true")
    assert float(best["val_uar"]) == max(float(row["val_uar"]) for row in rows)
    assert details["best_epoch"] == int(best["epoch"])
    assert details["clips"] == {"train": 32, "val": 8}
    scores = scored(tmp_path, "long", run)
    assert scores["war"] >= 0.75
    assert scores["validation"]["uar"] == float(best["val_uar"])


def test_training_never_reads_a_test_clip(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    whole = trained(tmp_path, "whole").read_bytes()
    features = np.load(data / "features" / "audio" / "shard-0.npy")
    features[:8] = np.nan  # actor 1, the test actor
    np.save(data / "features" / "audio" / "shard-0.npy", features)
    assert trained(tmp_path, "blind").read_bytes() == whole


def test_a_loss_that_is_not_a_number_names_the_clips(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    features = np.load(data / "features" / "audio" / "shard-0.npy")
    features[-8:] = np.nan
    np.save(data / "features" / "audio" / "shard-0.npy", features)
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
    assert scores["war"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    for row in rows:
        chances = [float(row[f"p_{emotion}"]) for emotion in EMOTIONS]
        assert sum(chances) == pytest.approx(1, abs=1e-4)
        assert EMOTIONS[int(np.argmax(chances))] == row["predicted"]


def test_the_temperature_is_that_of_the_validation_clips(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    model = trained(tmp_path, "m")
    stated = scored(tmp_path, "m")["calibration"]
    part, _ = train.read_part(data, "kfold_3", 0, "val", ["audio"], EMOTIONS)
    network = train.build_network(RUN, EMOTIONS, part)
    state, _ = evaluate.read_model(model)
    state.pop("emotion_distance")
    network.load_state_dict(state)
    scores, _ = train.predict(network, part, train.CPU)
    labels = torch.from_numpy(part.labels)

    def loss(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(scores.double() / temperature, labels).item()

    best = stated["temperature"]
    assert stated["clips"] == 8  # of actor 2
    assert loss(best) <= min(loss(0.99 * best), loss(1.01 * best), loss(1))
    features = np.load(data / "features" / "audio" / "shard-0.npy")
    features[:8] = features[8:16]  # the test actor's clips: another's
    np.save(data / "features" / "audio" / "shard-0.npy", features)
    assert scored(tmp_path, "m")["calibration"] == stated


def test_a_model_of_another_network_is_refused(tmp_path: Path) -> None:
    make_corpus(tmp_path)
    model = trained(tmp_path, "m")
    run = RUN.model_copy(update={"network": RUN.network.model_copy(update={"dimension": 32})})
    with pytest.raises(UserError, match="trained with another network"):
        scored(tmp_path, "m", run)
    model.write_bytes(b"not a model")
    with pytest.raises(UserError, match="is not a model"):
        scored(tmp_path, "m")


def test_missing_features_name_the_command(tmp_path: Path) -> None:
    data = make_corpus(tmp_path)
    (data / "features" / "audio" / "shard-0.npy").unlink()
    with pytest.raises(UserError, match="run emofuse audio toy 0"):
        trained(tmp_path, "m")


@given(st.lists(st.integers(0, 3), min_size=8, max_size=60), st.integers(2, 4), st.integers(2, 4), st.integers(0, 99))
def test_batches_have_k_clips_of_each_of_their_emotions(labels: list[int], p: int, k: int, seed: int) -> None:
    array = np.array(labels)
    for batch in train.balanced_batches(array, p, k, np.random.default_rng(seed)):
        counts = np.bincount(array[batch])
        assert set(counts[counts > 0]) == {k}
        assert (counts > 0).sum() == min(p, len(set(labels)))


def test_an_epoch_shows_every_clip_of_a_balanced_set_once() -> None:
    labels = np.arange(64) % 4
    batches = list(train.balanced_batches(labels, 4, 4, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches)) == list(range(64))


@given(st.integers(2, 70), st.integers(4, 32), st.integers(0, 99))
def test_shuffled_batches_hold_every_clip_once(clips: int, size: int, seed: int) -> None:
    batches = list(train.shuffled_batches(clips, size, np.random.default_rng(seed)))
    assert sorted(np.concatenate(batches)) == list(range(clips))
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert max(map(len, batches)) <= 1.5 * size


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    section = RUN.training
    rates = [train.learning_rate(step / 10, section) for step in range(10 * section.epochs + 1)]
    top = rates.index(max(rates))
    assert max(rates) == section.learning_rate
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=80))
def test_scores_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    import warnings

    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    truth, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    scores = metrics.scores(metrics.confusion(truth, predicted, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert scores["war"] == pytest.approx(accuracy_score(truth, predicted))
        assert scores["uar"] == pytest.approx(balanced_accuracy_score(truth, predicted))
        assert scores["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))


def test_augmentation_is_the_same_for_all_frames_of_a_clip() -> None:
    from emofuse.data.augmentation import augment_audio, augment_video, mixup
    from emofuse.data.dataset import to_input

    torch.manual_seed(0)
    settings = RUN.training.model_copy(update={"crop": 0.7, "flip": 0.5, "brightness": 0.3})
    still = torch.randint(0, 256, (4, 1, 1, 16, 16, 3), dtype=torch.uint8).expand(4, 3, 5, 16, 16, 3)
    moved = augment_video(still.clone(), settings)
    assert moved.shape == (4, 3, 3, 5, 16, 16)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert not torch.equal(moved, to_input(still, "video"))
    torch.testing.assert_close(moved, moved[:, :1, :, :1].expand_as(moved))
    off = settings.model_copy(update={"crop": 1.0, "flip": 0.0, "brightness": 0.0})
    torch.testing.assert_close(augment_video(still.clone(), off), to_input(still, "video"))
    mirrored = settings.model_copy(update={"crop": 1.0, "flip": 1.0, "brightness": 0.0})
    torch.testing.assert_close(augment_video(still.clone(), mirrored), to_input(still, "video").flip(-1))
    sounds = torch.randn(4, 3, 24, 32)
    masked = augment_audio(sounds, settings)
    assert masked.shape == sounds.shape
    assert (masked == 0).any()
    inputs, targets = mixup({"audio": sounds}, torch.eye(4), 0.4)
    assert (targets.argmax(1) == torch.arange(4)).all()
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert inputs["audio"].shape == sounds.shape


def test_features_are_read_ahead_in_order_and_an_error_reaches_who_asks() -> None:
    from emofuse.utils.prefetch import prefetched

    assert list(prefetched(lambda number: number * number, range(20), threads=1, results=2)) == [
        number * number for number in range(20)
    ]

    def read(number: int) -> int:
        if number == 3:
            raise OSError("the disk is gone")
        return number

    heard: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        heard.extend(prefetched(read, range(100), threads=1, results=2))
    assert heard == [0, 1, 2]


def test_resident_features_are_the_mapped_ones(tmp_path: Path) -> None:
    from emofuse.data.dataset import Features

    data = make_corpus(tmp_path)
    rows = [{"shard": "0", "faces_row": str(row)} for row in (5, 0, 9)]
    mapped, resident = Features(data, rows, "video"), Features(data, rows, "video")
    resident.move(torch.device("cpu"))
    assert mapped.nbytes == 3 * 3 * 2 * 32 * 32 * 3
    assert torch.equal(mapped.batch([2, 0]), resident.batch(np.array([2, 0])))
