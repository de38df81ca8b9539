from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emofuse import retinaface
from emofuse.errors import UserError

BODY = "mobilenet0.25"


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> Path:
    return shared_data / "weights" / "mobilenet0.25_Final.pth"


@pytest.fixture(scope="module")
def detector(weights: Path) -> retinaface.Detector:
    return retinaface.Detector(BODY, weights, detect_size=320, score=0.7, device="cpu")


@pytest.fixture(scope="module")
def stills(shared_data: Path) -> np.ndarray:
    """A still of each of 8 actors, uint8 (8, 224, 398, 3)."""
    files = sorted((shared_data / "faces").glob("*.png"))
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def untrained(tmp_path: Path) -> Path:
    path = tmp_path / "untrained.pth"
    torch.save(retinaface.build(BODY).state_dict(), path)
    return path


def test_every_still_has_one_face(detector: retinaface.Detector, stills: np.ndarray) -> None:
    assert stills.shape == (8, 224, 398, 3)
    for found in detector(stills):
        assert found.shape == (1, 5)
        left, top, right, bottom, score = found[0]
        assert score > 0.9
        assert 130 < left < 160 < 230 < right < 270
        assert 25 < top < 60 < 160 < bottom < 200


def test_a_batch_finds_what_single_frames_do(detector: retinaface.Detector, stills: np.ndarray) -> None:
    for still, found in zip(stills, detector(stills), strict=True):
        assert np.allclose(detector(still[None])[0], found, atol=0.01)


def test_a_mirrored_frame_has_a_mirrored_box(detector: retinaface.Detector, stills: np.ndarray) -> None:
    straight, mirrored = detector(np.stack([stills[0], stills[0, :, ::-1]]))
    left, top, right, bottom = straight[0, :4]
    assert np.allclose(mirrored[0, :4], [398 - right, top, 398 - left, bottom], atol=6)


def test_two_faces_are_two_faces(detector: retinaface.Detector, stills: np.ndarray) -> None:
    (found,) = detector(np.concatenate((stills[0], stills[1]), axis=1)[None])
    assert len(found) == 2
    assert found[0, 4] >= found[1, 4]
    assert sorted((found[:, 0] > 398).tolist()) == [False, True]


def test_nothing_in_nothing(detector: retinaface.Detector) -> None:
    (found,) = detector(np.full((1, 90, 160, 3), 127, np.uint8))
    assert found.shape == (0, 5)
    assert detector(np.empty((0, 90, 160, 3), np.uint8)) == []


def test_weights_fill_the_network_exactly(weights: Path) -> None:
    state, network = retinaface.read_weights(weights), retinaface.build(BODY).state_dict()
    assert state.keys() == network.keys()
    assert all(state[name].shape == network[name].shape for name in state)


def test_prefixed_and_zipped_weights_are_the_same_weights(tmp_path: Path) -> None:
    plain = untrained(tmp_path)
    state = retinaface.read_weights(plain)
    prefixed = tmp_path / "prefixed.pth"
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, prefixed)
    zipped = tmp_path / "zipped.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(plain, "weights.pth")
    for path in (prefixed, zipped):
        read = retinaface.read_weights(path)
        assert read.keys() == state.keys()
        assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_wrong_weights_are_one_line(tmp_path: Path) -> None:
    plain = untrained(tmp_path)
    with pytest.raises(UserError, match=r"untrained\.pth: not the weights of RetinaFace on resnet50"):
        retinaface.Detector("resnet50", plain, 320, 0.7)
    state = retinaface.read_weights(plain)
    state.popitem()
    torch.save(state, plain)
    with pytest.raises(UserError, match="not the weights"):
        retinaface.Detector(BODY, plain, 320, 0.7)
    for number, content in enumerate((b"", b"<html>not found</html>", pickle.dumps([1, 2]))):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a file of weights"):
            retinaface.read_weights(path)
    with pytest.raises(UserError, match="cannot be read"):
        retinaface.read_weights(tmp_path / "none.pth")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_a_pickle_runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, buffer = tmp_path / "evil.pth", io.BytesIO()
    torch.save({"weight": Evil()}, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="not a file of weights"):
        retinaface.read_weights(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::UserWarning")  # the package builds its body in torchvision's old way
def test_resnet50_finds_what_the_package_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer release
    from retinaface.predict_single import Model

    torch.manual_seed(1)
    model = Model(max_size=160)
    model.eval()
    monkeypatch.setattr(retinaface, "read_weights", lambda path: model.model.state_dict())
    image = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
    threshold = float(np.median(_scores(model, image)))
    theirs = model.predict_jsons(image, confidence_threshold=threshold)
    (ours,) = retinaface.Detector("resnet50", Path("any"), 160, threshold, device="cpu")(image[None])
    assert len(ours) == len(theirs) > 5
    assert np.allclose(ours[:, :4], [found["bbox"] for found in theirs], atol=0.02)
    assert np.allclose(ours[:, 4], [found["score"] for found in theirs], atol=0.01)


def _scores(model, image: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    pixels = torch.from_numpy(model.transform(image=image)["image"]).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return model.model(pixels)[1].softmax(-1)[0, :, 1].numpy()
