"""RetinaFace in batches, with the network, priors and decoding of the package retinaface-pytorch.

The package's own `predict_jsons` processes one image at a time and recomputes the priors for each in a Python loop.
Here the network processes batches, and the priors are cached per image size. Besides the package's ResNet-50 there is
the MobileNetV1 × 0.25 body of Pytorch_Retinaface.

Source: Deng et al., "RetinaFace: Single-shot multi-level face localisation in the wild", CVPR 2020.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from retinaface.box_utils import decode
from retinaface.net import FPN, SSH, conv_bn, conv_dw
from retinaface.network import RetinaFace
from retinaface.prior_box import priorbox
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import batched_nms

from emofuse.utils.errors import UserError
from emofuse.utils.tensors import require_floats

# As in the package's predict_single.py and in the training of both bodies.
PRIOR_SIZES = [[16, 32], [64, 128], [256, 512]]
PRIOR_STEPS = [8, 16, 32]
VARIANCES = (0.1, 0.2)
NMS_OVERLAP = 0.4

BATCH = 64  # pictures per forward pass; larger batches are no faster and take more memory


def mobilenet() -> nn.Module:
    """The three stages of MobileNetV1 × 0.25 that feed the pyramid: 64, 128 and 256 channels at strides 8, 16, 32."""
    return nn.Sequential(
        OrderedDict(
            stage1=nn.Sequential(
                conv_bn(3, 8, 2, leaky=0.1),
                conv_dw(8, 16, 1),
                conv_dw(16, 32, 2),
                conv_dw(32, 32, 1),
                conv_dw(32, 64, 2),
                conv_dw(64, 64, 1),
            ),
            stage2=nn.Sequential(conv_dw(64, 128, 2), *(conv_dw(128, 128, 1) for _ in range(5))),
            stage3=nn.Sequential(conv_dw(128, 256, 2), conv_dw(256, 256, 1)),
        )
    )


class Network(RetinaFace):
    """The package's RetinaFace on any body.

    `layers` names the body's three outputs, with 2, 4 and 8 × `body_channels`; `channels` is the width of the pyramid,
    context modules and heads. `forward` takes (B, 3, H, W) and returns box offsets (B, P, 4), logits (B, P, 2) and
    landmark offsets (B, P, 10) for P priors.
    """

    def __init__(self, body: nn.Module, layers: dict[str, int], body_channels: int, channels: int) -> None:
        nn.Module.__init__(self)  # RetinaFace's own __init__ always builds a ResNet-50
        self.body = IntermediateLayerGetter(body, layers)
        self.fpn = FPN([body_channels * 2, body_channels * 4, body_channels * 8], channels)
        self.ssh1 = SSH(channels, channels)
        self.ssh2 = SSH(channels, channels)
        self.ssh3 = SSH(channels, channels)
        self.ClassHead = self._make_class_head(fpn_num=3, in_channels=channels)
        self.BboxHead = self._make_bbox_head(fpn_num=3, in_channels=channels)
        self.LandmarkHead = self._make_landmark_head(fpn_num=3, in_channels=channels)


@dataclass(frozen=True)
class Pixels:
    """The input normalisation of a body's weights: channel order, then (value - mean) / deviation, for 0 to 255."""

    order: list[int]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


PIXELS = {
    # ImageNet's mean and deviation in RGB: the package uses albumentations' Normalize.
    "resnet50": Pixels([0, 1, 2], (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)),
    # Pytorch_Retinaface reads images with OpenCV, hence BGR, and subtracts the mean.
    "mobilenet0.25": Pixels([2, 1, 0], (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)),
}


def build(body: str) -> Network:
    """The untrained network on "resnet50" or "mobilenet0.25"."""
    if body == "resnet50":
        return Network(resnet50(weights=None), {"layer2": 1, "layer3": 2, "layer4": 3}, 256, 256)
    return Network(mobilenet(), {"stage1": 1, "stage2": 2, "stage3": 3}, 32, 64)


def fold(network: nn.Module) -> nn.Module:
    """Fold each batch normalisation into the preceding convolution: the same result, a quarter faster."""
    for module in list(network.modules()):
        for (name, layer), (next_name, following) in pairwise(list(module.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(layer, following))
                setattr(module, next_name, nn.Identity())
    return network


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a state dict from a torch file, or from a zip with one, as the package's release is.

    Only tensors are unpickled. The prefix `module.` of networks trained in parallel is removed. Raises `UserError` if
    the file does not exist or has other content.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the face detector's weights cannot be read ({error.strerror})") from None
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = archive.namelist()
                if len(names) == 1:  # torch's own files are zips of several members
                    data = archive.read(names[0])
        state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        tensors = {name.removeprefix("module."): tensor for name, tensor in state.items()}
        require_floats(tensors)
    except ValueError as error:
        raise UserError(f"{path}: {error}; see faces.body in params.yaml") from None
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, AttributeError):
        raise UserError(f"{path}: not a file of weights; delete it and run emofuse weights again") from None
    return tensors


class Detector:
    """Detects faces in batches of pictures of one size, with half precision on CUDA."""

    def __init__(self, body: str, weights: Path, score: float, device: str | None = None) -> None:
        """Load `weights` into the network on `body`.

        `score` is the minimum score of a face. `device` is CUDA by default if available. Raises `UserError` if the
        weights are missing or are those of another network.
        """
        self.score = score
        torch.set_num_threads(1)  # shards run in parallel, and the number of threads changes rounding
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = torch.float16 if self.device.type == "cuda" else torch.float32
        network = build(body)
        try:
            network.load_state_dict(read_weights(weights))
        except RuntimeError:
            raise UserError(
                f"{weights}: not the weights of RetinaFace on {body}; see faces.body in params.yaml"
            ) from None
        self.network = fold(network.eval()).to(self.device, self.precision)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # up to twice as fast
        self.order = PIXELS[body].order
        self.mean = torch.tensor(PIXELS[body].mean, device=self.device).view(3, 1, 1)
        self.deviation = torch.tensor(PIXELS[body].deviation, device=self.device).view(3, 1, 1)
        self._priors: dict[tuple[int, int], torch.Tensor] = {}

    @torch.inference_mode()
    def __call__(self, pictures_BHWC: np.ndarray) -> list[np.ndarray]:
        """Detect the faces in pictures, uint8 (B, H, W, 3) RGB.

        Returns for each picture float32 (faces, 5), in descending order of score: left, top, right, bottom in pixels
        and score in [0, 1]; (0, 5) if there is no face.
        """
        found: list[np.ndarray] = []
        for start in range(0, len(pictures_BHWC), BATCH):
            batch_BHWC = pictures_BHWC[start : start + BATCH]
            boxes_BP4, scores_BP = self.candidates(batch_BHWC)
            picture, prior = torch.nonzero(scores_BP >= self.score, as_tuple=True)
            boxes, scores = boxes_BP4[picture, prior], scores_BP[picture, prior]
            kept = batched_nms(boxes, scores, picture, NMS_OVERLAP)
            faces = torch.cat((boxes[kept], scores[kept, None]), 1).cpu().numpy()
            whose = picture[kept].cpu().numpy()
            found += [faces[whose == number] for number in range(len(batch_BHWC))]
        return found

    @torch.inference_mode()
    def candidates(self, pictures_BHWC: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's output for each of its P priors, before thresholding and suppression.

        Returns boxes (B, P, 4), left, top, right, bottom in pixels of the picture, and scores (B, P) in [0, 1].
        """
        height, width = pictures_BHWC.shape[1:3]
        images_BCHW = torch.from_numpy(pictures_BHWC).to(self.device).permute(0, 3, 1, 2)[:, self.order].float()
        images_BCHW = ((images_BCHW - self.mean) / self.deviation).to(self.precision, memory_format=torch.channels_last)
        offsets_BP4, logits_BP2, _ = self.network(images_BCHW)
        priors_P4 = self._priors_for(width, height)
        boxes = decode(offsets_BP4.float().flatten(0, 1), priors_P4.repeat(len(offsets_BP4), 1), VARIANCES)
        boxes *= torch.tensor([width, height, width, height], device=self.device)
        return boxes.view_as(offsets_BP4), logits_BP2.float().softmax(-1)[..., 1]

    def _priors_for(self, width: int, height: int) -> torch.Tensor:
        """The priors for an image size, (P, 4): centre and size as fractions of the image."""
        if (width, height) not in self._priors:
            priors = priorbox(PRIOR_SIZES, PRIOR_STEPS, clip=False, image_size=(height, width))
            self._priors[width, height] = priors.to(self.device)
        return self._priors[width, height]
