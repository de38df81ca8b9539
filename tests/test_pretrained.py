"""Pretrained weights: the published networks and ours compute equal maps from one file; a wrong file is one line."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from emofuse.config import Network
from emofuse.models.network import EmotionNetwork
from emofuse.training.initialisation import load_pretrained
from emofuse.utils.errors import UserError

WIDTH = 8
CLIP = {"video": (2, 3, 4, 32, 32), "audio": (2, 32, 32)}  # the shapes of a clip


class HaraBottleneck(nn.Module):
    """Convolutions 1×1×1, 3×3×3 with the stride, 1×1×1 to four times the channels; a projection if the shape changes."""

    def __init__(self, before: int, inside: int, stride: int) -> None:
        super().__init__()
        after = 4 * inside
        sizes = ((before, inside, 1, 1), (inside, inside, 3, stride), (inside, after, 1, 1))
        for number, (ins, outs, kernel, step) in enumerate(sizes, start=1):
            setattr(self, f"conv{number}", nn.Conv3d(ins, outs, kernel, step, padding=kernel // 2, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm3d(outs))
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv3d(before, after, 1, stride, bias=False), nn.BatchNorm3d(after))
        else:
            self.downsample = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class HaraNet(nn.Module):
    """A 3D ResNet with the layout and the names of kenshohara/3D-ResNets-PyTorch, of any depth and width."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = WIDTH, classes: int = 700) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, width, 7, stride=(1, 2, 2), padding=3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        before = width
        for number, count in enumerate(blocks):
            inside, layer = width * 2**number, []
            for block in range(count):
                layer.append(HaraBottleneck(before, inside, 2 if number and not block else 1))
                before = 4 * inside
            setattr(self, f"layer{number + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(before, classes)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool3d(self.bn1(self.conv1(x)).relu(), 3, stride=2, padding=1)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def randomised(module: nn.Module) -> nn.Module:
    """In eval mode, with random norms."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor, low, high in (
                (part.weight, 0.5, 1.5), (part.bias, -0.5, 0.5), (part.running_mean, -0.5, 0.5), (part.running_var, 0.5, 1.5),
            ):  # fmt: skip
                nn.init.uniform_(tensor, low, high)
    return module.eval()


def section(modality: str, backbone: str, weights: str, width: int = WIDTH, frozen: int = 0) -> Network:
    backbone_section = {"backbone": backbone, "width": width, "weights": weights, "frozen": frozen}
    return Network.model_validate({"modalities": [modality], modality: backbone_section, "dimension": 8, "heads": 2})


def loaded(network: Network, file: Path) -> nn.Module:
    """The backbone, in eval mode, of a network initialised from that file."""
    (modality,) = network.modalities
    built = EmotionNetwork(network, 4, CLIP)
    load_pretrained(built, network, {getattr(network, modality).weights: file})
    return built.eval().get_submodule(modality).trunk


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def save_state(net: nn.Module, file: Path) -> None:
    torch.save(net.state_dict(), file)


def save_safetensors(net: nn.Module, file: Path) -> None:
    save_file(net.state_dict(), file)


def save_checkpoint(net: nn.Module, file: Path) -> None:
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    state = nn.DataParallel(net).state_dict()
    torch.save({"epoch": 200, "arch": "resnet-50", "state_dict": state, "optimizer": optimizer.state_dict()}, file)


def save_as_in_2018(net: nn.Module, file: Path) -> None:
    """As PyTorch saved in 2018: not a zip file, and norms do not count their batches."""
    state = {name: value for name, value in net.state_dict().items() if "num_batches" not in name}
    torch.save({"arch": "resnet-50", "state_dict": state}, file, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("write", "file"),
    [
        (save_state, "k.pth"),
        (save_state, "k.pt"),
        (save_safetensors, "k.safetensors"),
        (save_checkpoint, "k.pth"),
        (save_as_in_2018, "k.pth"),
    ],
)
def test_kenshoharas_network_and_ours_compute_equal_maps(
    tmp_path: Path, write: Callable[[nn.Module, Path], None], file: str
) -> None:
    reference = randomised(HaraNet())
    write(reference, tmp_path / file)
    backbone = loaded(section("video", "r3d_50", file), tmp_path / file)
    clip = torch.randn(2, 3, 9, 45, 45)
    with torch.no_grad():
        expected = reference.maps(clip)
        assert expected.std() > 0.01
        torch.testing.assert_close(backbone(clip), expected)


def test_resnet_101_too(tmp_path: Path) -> None:
    reference = randomised(HaraNet((3, 4, 23, 3)))
    save_checkpoint(reference, tmp_path / "k.pth")
    backbone = loaded(section("video", "r3d_101", "k.pth"), tmp_path / "k.pth")
    clip = torch.randn(1, 3, 8, 33, 33)
    with torch.no_grad():
        torch.testing.assert_close(backbone(clip), reference.maps(clip))


def test_networks_of_400_classes_expect_pixels_from_0_to_255(tmp_path: Path) -> None:
    reference = randomised(HaraNet(classes=400))
    save_state(reference, tmp_path / "k.pth")
    backbone = loaded(section("video", "r3d_50", "k.pth"), tmp_path / "k.pth")
    std = torch.tensor([0.2768, 0.2713, 0.2737]).view(3, 1, 1, 1)
    clip = torch.randn(1, 3, 8, 33, 33)  # what our backbone receives: (x - mean) / std
    with torch.no_grad():
        torch.testing.assert_close(backbone(clip), reference.maps(255 * std * clip))


def test_torchvisions_weights_compute_torchvisions_maps(tmp_path: Path) -> None:
    from torchvision.models import resnet18
    from torchvision.models.video import r3d_18

    def maps(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return nn.Sequential(*list(net.children())[:-2])(x)

    video, audio = randomised(r3d_18()), randomised(resnet18())
    save_state(video, tmp_path / "video.pth")
    save_state(audio, tmp_path / "audio.pth")
    clip, image = torch.randn(1, 3, 4, 32, 32), torch.randn(1, 1, 40, 40)
    with torch.no_grad():
        ours = loaded(section("video", "r3d_18", "r3d_18", 64), tmp_path / "video.pth")
        torch.testing.assert_close(ours(clip), maps(video, clip))
        ours = loaded(section("audio", "resnet18", "resnet18", 64), tmp_path / "audio.pth")
        torch.testing.assert_close(ours(image), maps(audio, image.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_frozen_stages_start_from_the_file(tmp_path: Path) -> None:
    reference = randomised(HaraNet())
    save_state(reference, tmp_path / "k.pth")
    backbone = loaded(section("video", "r3d_50", "k.pth", frozen=5), tmp_path / "k.pth").train()
    clip = torch.randn(1, 3, 8, 33, 33)
    with torch.no_grad():
        torch.testing.assert_close(backbone(clip), reference.maps(clip))


def test_only_backbones_with_weights_are_changed(tmp_path: Path) -> None:
    save_state(HaraNet(), tmp_path / "k.pth")
    network = Network.model_validate(
        {
            "video": {"backbone": "r3d_50", "width": WIDTH, "weights": "k.pth"},
            "audio": {"backbone": "resnet10", "width": WIDTH},
            "dimension": 8,
            "heads": 2,
        }
    )
    built = EmotionNetwork(network, 4, CLIP)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    load_pretrained(built, network, {"k.pth": tmp_path / "k.pth"})
    changed = {name for name, value in built.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("video.trunk.") for name in changed)
    sound = network.model_copy(update={"modalities": ["audio"]})
    load_pretrained(EmotionNetwork(sound, 4, CLIP), sound, {})


def rejection(network: Network, file: Path) -> str:
    with pytest.raises(UserError) as error:
        loaded(network, file)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(str(file))
    return message


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    assert rejection(section("audio", "resnet18", "resnet18", 64), file).endswith(
        "is missing: run emofuse weights resnet18"
    )
    assert rejection(section("audio", "resnet18", "my.pth"), file).endswith("is missing: see network.audio.weights")
    file = file.with_suffix(".safetensors")
    assert rejection(section("video", "r3d_50", "my.pth"), file).endswith("is missing: see network.video.weights")


def _half_of_a_checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"conv1.weight": torch.zeros(500)}, buffer)
    return buffer.getvalue()[:-300]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from(["w.pth", "w.safetensors"]))
def test_arbitrary_bytes_are_one_line(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    rejection(section("audio", "resnet10", name), tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"not found", _half_of_a_checkpoint()])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_that_is_not_a_checkpoint_is_rejected(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = rejection(section("audio", "resnet10", name), tmp_path / name)
    assert message.endswith("not a checkpoint, or a corrupted one; see network.audio.weights")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": {}}, {"state_dict": [1]}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_rejected(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert "contains no weights" in rejection(section("audio", "resnet10", "w.pth"), tmp_path / "w.pth")


def test_a_file_that_could_execute_code_is_rejected(tmp_path: Path) -> None:
    torch.save({"state_dict": HaraNet().state_dict(), "options": Path("options")}, tmp_path / "w.pth")
    message = rejection(section("video", "r3d_50", "w.pth"), tmp_path / "w.pth")
    assert "save only its state_dict" in message


def test_a_folder_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "w.pth").mkdir()
    assert "cannot be read" in rejection(section("video", "r3d_50", "w.pth"), tmp_path / "w.pth")


def test_another_network_is_rejected_with_the_first_difference(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    save_state(HaraNet(), file)
    assert rejection(section("video", "r3d_101", "w.pth"), file).endswith(
        "it lacks layer3.6.conv1.0.weight; change network.video.weights"
    )
    assert rejection(section("video", "r3d_50", "w.pth", width=16), file).endswith(
        f"stem.0.weight is {WIDTH} × 3 × 7 × 7 × 7, not 16 × 3 × 7 × 7 × 7; change network.video.weights"
    )
    message = rejection(section("video", "r3d_18", "w.pth"), file)
    assert f"network.video, r3d_18 of width {WIDTH}" in message
    assert message.endswith(
        f"stem.0.weight is {WIDTH} × 3 × 7 × 7 × 7, not {WIDTH} × 3 × 3 × 7 × 7; change network.video.weights"
    )
    save_state(HaraNet((3, 4, 23, 3)), file)
    assert rejection(section("video", "r3d_50", "w.pth"), file).endswith(
        "it also has layer3.6.conv1.0.weight; change network.video.weights"
    )
    torch.save({"conv1.weight": torch.tensor(1.0), "fc.bias": torch.tensor(1.0)}, file)
    for network in (section("video", "r3d_50", "w.pth"), section("audio", "resnet10", "w.pth")):
        assert "is a scalar" in rejection(network, file)


def published(modality: str) -> nn.Module:
    """A network as it is published, of the layout that `section(modality, …)` expects."""
    from torchvision.models import resnet18

    return HaraNet() if modality == "video" else resnet18()


EIGHT_BITS = [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8, torch.int8, torch.bool]


@pytest.mark.parametrize("dtype", EIGHT_BITS, ids=str)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(("modality", "backbone"), [("audio", "resnet18"), ("video", "r3d_50")])
def test_weights_in_eight_bits_are_one_line(
    tmp_path: Path, dtype: torch.dtype, name: str, modality: str, backbone: str
) -> None:
    """Without their scales, torch would convert them to wrong values."""
    state = {key: value.to(dtype) for key, value in published(modality).state_dict().items()}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    message = rejection(section(modality, backbone, name), tmp_path / name)
    assert f"has numbers of type {str(dtype).removeprefix('torch.')}, not floats of 16 bits or more" in message


@pytest.mark.parametrize(
    "change",
    [lambda value: value.to_sparse(), lambda value: value.to("meta"), lambda value: value.to(torch.complex64),
     lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)],
    ids=["sparse", "meta", "complex", "quantized"],
)  # fmt: skip
def test_weights_that_are_not_plain_arrays_are_one_line(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    state = {name: change(value) for name, value in published("audio").state_dict().items() if value.dim() > 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: quantization is deprecated
        torch.save(state, tmp_path / "w.pth")
    rejection(section("audio", "resnet10", "w.pth"), tmp_path / "w.pth")


def test_half_precision_is_read(tmp_path: Path) -> None:
    state = published("audio").state_dict()
    torch.save({name: value.to(torch.bfloat16) for name, value in state.items()}, tmp_path / "w.pth")
    trunk = loaded(section("audio", "resnet18", "w.pth", 64), tmp_path / "w.pth")
    expected = state["layer1.0.conv1.weight"].to(torch.bfloat16).float()
    assert torch.equal(trunk.state_dict()["layer1.0.conv1.weight"], expected)


def test_a_pointer_of_git_lfs_says_so(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    message = rejection(section("audio", "resnet10", "w.pth"), tmp_path / "w.pth")
    assert "a pointer of Git LFS, not the file: run `git lfs pull`" in message
