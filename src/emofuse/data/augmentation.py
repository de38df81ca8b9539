"""Data augmentation of a batch on the device, the same for all frames of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from emofuse.data.dataset import to_input

if TYPE_CHECKING:
    from emofuse.config import Training


def augment(stored: dict[str, torch.Tensor], training: Training) -> dict[str, torch.Tensor]:
    """The network's inputs, by modality, from a stored batch: as from `to_input`, with each clip changed at random."""
    changed = {}
    if "video" in stored:
        changed["video"] = augment_video(stored["video"], training)
    if "audio" in stored:
        changed["audio"] = augment_audio(to_input(stored["audio"], "audio"), training)
    return changed


def augment_video(faces_BNTHWC: torch.Tensor, training: Training) -> torch.Tensor:
    """Random crop, horizontal flip and brightness, drawn once per clip.

    `faces_BNTHWC` is a stored batch, uint8. It is overwritten, because working in place on bytes takes a quarter of the
    time of floats. Returns float32 (B, N, 3, T, H, W) in [0, 1].
    """
    batch, size = len(faces_BNTHWC), faces_BNTHWC.shape[3]
    side = (size * (training.crop + (1 - training.crop) * torch.rand(batch))).round().long()
    corner_B2 = (torch.rand(batch, 2) * (size - side + 1)[:, None]).long()
    mirrored = torch.rand(batch) < training.flip
    bright = 1 + training.brightness * (2 * torch.rand(batch) - 1)
    for faces, length, (top, left), mirror in zip(
        faces_BNTHWC, side.tolist(), corner_B2.tolist(), mirrored.tolist(), strict=True
    ):
        frames = faces.flatten(0, 1).permute(0, 3, 1, 2)
        window = frames
        if length < size:
            window = frames[..., top : top + length, left : left + length]
            window = window if window.device.type == "cpu" else window.float()  # CUDA cannot interpolate bytes
            window = F.interpolate(window, size=(size, size), mode="bilinear", align_corners=False)
            window = window.round_() if window.is_floating_point() else window
        if mirror or window is not frames:
            frames.copy_(window.flip(-1) if mirror else window)
    inputs_BNCTHW = faces_BNTHWC.permute(0, 1, 5, 2, 3, 4).float()
    return inputs_BNCTHW.mul_((bright / 255).to(inputs_BNCTHW.device).view(-1, 1, 1, 1, 1, 1)).clamp_(max=1)


def augment_audio(segments_BNFT: torch.Tensor, training: Training) -> torch.Tensor:
    """SpecAugment (Park et al., 2019), with two masks of bands and two of time per clip; also a random shift of the
    bands (a change of pitch) and a random stretch of time (a change of tempo).

    `segments_BNFT` is float32 (B, N, bands, frames); returns the same shape.
    """
    batch, segments, bands, frames = segments_BNFT.shape
    device = segments_BNFT.device
    if training.stretch_time:
        tempo = 1 + training.stretch_time * (2 * torch.rand(batch, device=device) - 1)
        scale_B2 = torch.stack((tempo, torch.ones_like(tempo)), 1)
        affine_B23 = torch.cat((torch.diag_embed(scale_B2), torch.zeros_like(scale_B2)[:, :, None]), 2)
        grid = F.affine_grid(affine_B23, list(segments_BNFT.shape), align_corners=False)
        segments_BNFT = F.grid_sample(segments_BNFT, grid, padding_mode="zeros", align_corners=False)
    if training.shift_bands:
        shift = torch.randint(-training.shift_bands, training.shift_bands + 1, (batch, 1), device=device)
        source = (torch.arange(bands, device=device) + shift).clamp(0, bands - 1)
        segments_BNFT = segments_BNFT.gather(2, source[:, None, :, None].expand_as(segments_BNFT))
    keep_BF = _keep(batch, bands, training.mask_bands, device)
    keep_BX = _keep(batch, segments * frames, training.mask_time, device)
    # Zero is the mean of each band.
    return segments_BNFT * keep_BF[:, None, :, None] * keep_BX.view(batch, segments, 1, frames)


def _keep(batch: int, length: int, widest: float, device: torch.device) -> torch.Tensor:
    """A mask (batch, length) with zeros in two random spans, each up to the fraction `widest` of the length, else ones."""
    width = torch.rand(batch, 2, 1, device=device) * widest * length
    start = torch.rand(batch, 2, 1, device=device) * (length - width)
    place = torch.arange(length, device=device)
    return ((place < start) | (place >= start + width)).all(1).float()


def mixup(
    inputs: dict[str, torch.Tensor], targets_BC: torch.Tensor, alpha: float
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Mix each clip with another clip of the batch (Zhang et al., 2018), keeping at least half of it.

    Its most probable emotion is therefore unchanged (or tied), as the metric loss requires. The kept share is
    max(λ, 1 − λ) with λ from Beta(alpha, alpha), drawn once per clip.
    """
    device = targets_BC.device
    share = torch.distributions.Beta(alpha, alpha).sample((len(targets_BC),)).to(device)
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(len(targets_BC), device=device)

    def mix(x: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x[other], x, share.view(-1, *[1] * (x.dim() - 1)))

    return {modality: mix(x) for modality, x in inputs.items()}, mix(targets_BC)
