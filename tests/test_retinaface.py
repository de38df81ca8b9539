from __future__ import annotations

import importlib
import io
import pickle
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from emofuse.features import media, retinaface
from emofuse.utils.errors import UserError

BODY = "mobilenet0.25"


@pytest.fixture(scope="module")
def weights(shared_data: Path) -> Path:
    return shared_data / "weights" / "mobilenet0.25_Final.pth"


@pytest.fixture(scope="module")
def detector(weights: Path) -> retinaface.Detector:
    return retinaface.Detector(BODY, weights, score=0.7, device="cpu")


@pytest.fixture(scope="module")
def stills(shared_data: Path) -> np.ndarray:
    """A still image of each of 8 actors, uint8 (8, 224, 398, 3)."""
    files = sorted((shared_data / "faces").glob("*.png"))
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


def untrained(tmp_path: Path) -> Path:
    path = tmp_path / "untrained.pth"
    torch.save(retinaface.build(BODY).state_dict(), path)
    return path


def test_every_still_image_has_one_face(detector: retinaface.Detector, stills: np.ndarray) -> None:
    assert stills.shape == (8, 224, 398, 3)
    for found in detector(stills):
        assert found.shape == (1, 5)
        left, top, right, bottom, score = found[0]
        assert score > 0.9
        assert 130 < left < 160 < 230 < right < 270
        assert 25 < top < 60 < 160 < bottom < 200


def test_batch_gives_the_same_faces_as_single_frames(detector: retinaface.Detector, stills: np.ndarray) -> None:
    for still, found in zip(stills, detector(stills), strict=True):
        assert np.allclose(detector(still[None])[0], found, atol=0.01)


def test_pictures_of_several_batches_keep_their_order(
    detector: retinaface.Detector, stills: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = np.full_like(stills[0], 127)
    pictures = np.stack([stills[0], none, np.roll(stills[1], 40, axis=1), none, none, stills[2], stills[3]])
    whole = detector(pictures)
    assert [len(found) for found in whole] == [1, 0, 1, 0, 0, 1, 1]
    monkeypatch.setattr(retinaface, "BATCH", 3)
    for found, again in zip(whole, detector(pictures), strict=True):
        assert np.allclose(found, again, atol=0.01)


def test_mirrored_frame_has_a_mirrored_box(detector: retinaface.Detector, stills: np.ndarray) -> None:
    straight, mirrored = detector(np.stack([stills[0], stills[0, :, ::-1]]))
    left, top, right, bottom = straight[0, :4]
    assert np.allclose(mirrored[0, :4], [398 - right, top, 398 - left, bottom], atol=6)


def test_two_faces_are_both_detected(detector: retinaface.Detector, stills: np.ndarray) -> None:
    (found,) = detector(np.concatenate((stills[0], stills[1]), axis=1)[None])
    assert len(found) == 2
    assert found[0, 4] >= found[1, 4]
    assert sorted((found[:, 0] > 398).tolist()) == [False, True]


def test_blank_picture_has_no_face(detector: retinaface.Detector) -> None:
    (found,) = detector(np.full((1, 90, 160, 3), 127, np.uint8))
    assert found.shape == (0, 5)
    assert detector(np.empty((0, 90, 160, 3), np.uint8)) == []


def test_weights_match_the_network_exactly(weights: Path) -> None:
    state, network = retinaface.read_weights(weights), retinaface.build(BODY).state_dict()
    assert state.keys() == network.keys()
    assert all(state[name].shape == network[name].shape for name in state)


def test_prefixed_and_zipped_weights_are_equivalent(tmp_path: Path) -> None:
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
        retinaface.Detector("resnet50", plain, 0.7)
    state = retinaface.read_weights(plain)
    state.popitem()
    torch.save(state, plain)
    with pytest.raises(UserError, match="not the weights"):
        retinaface.Detector(BODY, plain, 0.7)
    for number, content in enumerate((b"", b"<html>not found</html>", pickle.dumps([1, 2]))):
        path = tmp_path / f"{number}.pth"
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a file of weights"):
            retinaface.read_weights(path)
    torch.save({name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()}, plain)
    with pytest.raises(UserError, match="not floats of 16 bits or more"):
        retinaface.read_weights(plain)
    with pytest.raises(UserError, match="cannot be read"):
        retinaface.read_weights(tmp_path / "none.pth")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("code ran",)


def test_pickle_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, buffer = tmp_path / "evil.pth", io.BytesIO()
    torch.save({"weight": Evil()}, buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="not a file of weights"):
        retinaface.read_weights(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package's own detector, for one image at a time."""
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer release
    return importlib.import_module("retinaface.predict_single")


@pytest.fixture(scope="module")
def frames(shared_data: Path) -> dict[str, np.ndarray]:
    """Three complete frames of a real clip of each corpus: uint8 (3, H, W, 3)."""
    clips = {
        "ravdess": shared_data / "ravdess_av" / "Actor_05" / "01-01-03-01-01-02-05.mp4",
        "cremad": shared_data / "cremad" / "VideoFlash" / "1001_DFA_HAP_XX.flv",
    }
    return {name: media.read_frames(clip.read_bytes(), [0.1, 0.9, 1.7]) for name, clip in clips.items()}


@pytest.mark.filterwarnings("ignore::UserWarning")  # the package builds its body in torchvision's old way
def test_resnet50_gives_the_packages_detections(
    package: ModuleType, frames: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compares every prior on frames of real clips, then the detections."""
    torch.manual_seed(1)
    model = package.Model(max_size=160)
    model.eval()
    monkeypatch.setattr(retinaface, "read_weights", lambda path: model.model.state_dict())
    detector = retinaface.Detector("resnet50", Path("any"), score=0.5, device="cpu")
    for whole in frames.values():
        height, width = round(160 * whole.shape[1] / whole.shape[2]), 160
        pictures = np.stack([np.asarray(Image.fromarray(frame).resize((width, height))) for frame in whole])
        boxes_BP4, scores_BP = detector.candidates(pictures)
        for picture, boxes_P4, scores_P in zip(pictures, boxes_BP4, scores_BP, strict=True):
            normalised = package.tensor_from_rgb_image(model.transform(image=picture)["image"])[None]
            with torch.inference_mode():
                offsets, logits, _ = model.model(normalised)
            priors = package.priorbox([[16, 32], [64, 128], [256, 512]], [8, 16, 32], False, (height, width))
            theirs = package.decode(offsets[0], priors, model.variance) * torch.tensor([width, height] * 2)
            assert len(boxes_P4) == len(theirs) > 500
            assert torch.allclose(boxes_P4, theirs, atol=2e-3)
            assert torch.allclose(scores_P, logits.softmax(-1)[0, :, 1], atol=1e-5)
        for picture, ours in zip(pictures, detector(pictures), strict=True):
            found = model.predict_jsons(picture, confidence_threshold=0.5)
            assert len(ours) == len(found) > 5
            assert np.allclose(ours[:, :4], [face["bbox"] for face in found], atol=0.02)
            assert np.allclose(ours[:, 4], [face["score"] for face in found], atol=0.01)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("longer", [112, 160, 320, 640])
def test_mobilenet_in_the_packages_detector_finds_the_same_boxes(
    package: ModuleType, detector: retinaface.Detector, weights: Path, frames: dict[str, np.ndarray], longer: int
) -> None:
    """Compares with the package's `predict_jsons`, given the MobileNet body and its normalisation."""
    model = package.Model(max_size=longer)
    model.model = retinaface.build(BODY)
    model.model.load_state_dict(retinaface.read_weights(weights))
    model.eval()
    model.transform = lambda image: {"image": image[..., ::-1] - np.array([104, 117, 123], np.float32)}
    for whole in frames.values():
        size = longer, round(longer * whole.shape[1] / whole.shape[2])
        pictures = np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in whole])
        for picture, ours in zip(pictures, detector(pictures), strict=True):
            theirs = model.predict_jsons(picture, confidence_threshold=0.7)
            assert len(ours) == len(theirs) == 1
            assert np.abs(ours[0, :4] - theirs[0]["bbox"]).max() < 0.1
            assert ours[0, 4] == pytest.approx(theirs[0]["score"], abs=0.01)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_half_precision_on_a_gpu_finds_the_same_boxes(
    detector: retinaface.Detector, weights: Path, stills: np.ndarray
) -> None:
    on_gpu = retinaface.Detector(BODY, weights, score=0.7, device="cuda")
    assert on_gpu.precision == torch.float16
    for ours, theirs in zip(on_gpu(stills), detector(stills), strict=True):
        assert len(ours) == len(theirs) == 1
        assert np.abs(ours[:, :4] - theirs[:, :4]).max() < 2
