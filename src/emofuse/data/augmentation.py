"""Data augmentation, on the device, identical for all frames of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from emofuse.data.dataset import to_input

if TYPE_CHECKING:
    from emofuse.config import Training


def augment(stored: dict[str, torch.Tensor], training: Training) -> dict[str, torch.Tensor]:
    """The network's inputs for a stored batch, by modality, in the format of `to_input`, each clip randomly augmented."""
    inputs = {}
    if "video" in stored:
        inputs["video"] = augment_video(stored["video"], training)
    if "audio" in stored:
        inputs["audio"] = augment_audio(to_input(stored["audio"], "audio"), training)
    return inputs


def augment_video(faces_BNTHWC: torch.Tensor, training: Training) -> torch.Tensor:
    """Random crop, horizontal flip and brightness, drawn once per clip.

    The kinds of augmentation are those of a third-party reimplementation of the paper
    (github.com/lol-m-Devil/Emotion_Recognition). `faces_BNTHWC` is a stored batch, uint8, which is overwritten:
    in-place operations on bytes take a quarter of the time of operations on floats. Returns float32 (B, N, 3, T, H, W) in
    [0, 1].
    """
    batch, size = len(faces_BNTHWC), faces_BNTHWC.shape[3]
    side = (size * (training.crop + (1 - training.crop) * torch.rand(batch))).round().long()
    corner_B2 = (torch.rand(batch, 2) * (size - side + 1)[:, None]).long()
    flipped = torch.rand(batch) < training.flip
    brightness = 1 + training.brightness * (2 * torch.rand(batch) - 1)
    for faces, length, (top, left), flip in zip(
        faces_BNTHWC, side.tolist(), corner_B2.tolist(), flipped.tolist(), strict=True
    ):
        frames = faces.flatten(0, 1).permute(0, 3, 1, 2)
        window = frames
        if length < size:
            window = frames[..., top : top + length, left : left + length]
            window = window if window.device.type == "cpu" else window.float()  # bytes cannot be resized on a GPU
            window = F.interpolate(window, size=(size, size), mode="bilinear", align_corners=False)
            window = window.round_() if window.is_floating_point() else window
        if flip or window is not frames:
            frames.copy_(window.flip(-1) if flip else window)
    inputs_BNCTHW = faces_BNTHWC.permute(0, 1, 5, 2, 3, 4).float()
    return inputs_BNCTHW.mul_((brightness / 255).to(inputs_BNCTHW.device).view(-1, 1, 1, 1, 1, 1)).clamp_(max=1)


def augment_audio(segments_BNFT: torch.Tensor, training: Training) -> torch.Tensor:
    """SpecAugment, drawn once per clip: two masks over bands and two over time (Park et al., Interspeech 2019, arXiv
    1904.08779), and a shift of the bands, which changes the pitch. Shifts in time are made when the segments are cut.

    Input and output float32 (B, N, bands, frames).
    """
    batch, segments, bands, frames = segments_BNFT.shape
    device = segments_BNFT.device
    if training.shift_bands:
        shift = torch.randint(-training.shift_bands, training.shift_bands + 1, (batch, 1), device=device)
        source = (torch.arange(bands, device=device) + shift).clamp(0, bands - 1)
        segments_BNFT = segments_BNFT.gather(2, source[:, None, :, None].expand_as(segments_BNFT))
    keep_BF = _keep(batch, bands, training.mask_bands, device)
    keep_BX = _keep(batch, segments * frames, training.mask_time, device)
    # Spectrograms are normalised, so that 0 is the mean, of each band or of all.
    return segments_BNFT * keep_BF[:, None, :, None] * keep_BX.view(batch, segments, 1, frames)


def _keep(batch: int, length: int, widest: float, device: torch.device) -> torch.Tensor:
    """A mask (batch, length): 0 in two random spans, each up to `widest` × `length` long, 1 elsewhere."""
    width = torch.rand(batch, 2, 1, device=device) * widest * length
    start = torch.rand(batch, 2, 1, device=device) * (length - width)
    position = torch.arange(length, device=device)
    return ((position < start) | (position >= start + width)).all(1).float()


def mixup(
    inputs: dict[str, torch.Tensor], targets_BC: torch.Tensor, alpha: float
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Mixup (Zhang et al., ICLR 2018, arXiv 1710.09412): mix each clip with another one of the batch.

    The clip's own share is max(λ, 1 − λ), with λ from Beta(alpha, alpha), drawn once per clip. As it is at least one
    half, the most probable emotion, which the metric loss uses, remains the clip's own (or ties).
    """
    device = targets_BC.device
    share = torch.distributions.Beta(alpha, alpha).sample((len(targets_BC),)).to(device)
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(len(targets_BC), device=device)

    def mix(x: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x[other], x, share.view(-1, *[1] * (x.dim() - 1)))

    return {modality: mix(x) for modality, x in inputs.items()}, mix(targets_BC)
