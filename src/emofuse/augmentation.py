"""What training changes of a batch, on the device, the same for all frames of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from emofuse.params import Training


def augment_video(faces_BNCTHW: torch.Tensor, training: Training) -> torch.Tensor:
    """Random crop, horizontal flip and brightness, drawn once a clip (kinds after the third-party reading)."""
    batch, device = len(faces_BNCTHW), faces_BNCTHW.device
    scale = training.crop + (1 - training.crop) * torch.rand(batch, device=device)
    mirror = torch.where(torch.rand(batch, device=device) < training.flip, -1.0, 1.0)
    shift = (2 * torch.rand(batch, 2, device=device) - 1) * (1 - scale)[:, None]
    moved = _resample(faces_BNCTHW.flatten(1, 3), torch.stack((scale * mirror, scale), 1), shift, "border")
    bright = 1 + training.brightness * (2 * torch.rand(batch, 1, 1, 1, device=device) - 1)
    return moved.mul_(bright).clamp_(0, 1).view_as(faces_BNCTHW)


def augment_audio(segments_BNFT: torch.Tensor, training: Training) -> torch.Tensor:
    """SpecAugment: two masks of bands and two of time a clip; a shift of the bands, a change of pitch; a stretch
    of the time, a change of tempo."""
    batch, segments, bands, frames = segments_BNFT.shape
    device = segments_BNFT.device
    if training.stretch_time:
        tempo = 1 + training.stretch_time * (2 * torch.rand(batch, device=device) - 1)
        scale_B2 = torch.stack((tempo, torch.ones_like(tempo)), 1)
        segments_BNFT = _resample(segments_BNFT, scale_B2, torch.zeros_like(scale_B2), "zeros")
    if training.shift_bands:
        shift = torch.randint(-training.shift_bands, training.shift_bands + 1, (batch, 1), device=device)
        source = (torch.arange(bands, device=device) + shift).clamp(0, bands - 1)
        segments_BNFT = segments_BNFT.gather(2, source[:, None, :, None].expand_as(segments_BNFT))
    keep_BF = _keep(batch, bands, training.mask_bands, device)
    keep_BX = _keep(batch, segments * frames, training.mask_time, device)
    # Zero is the mean of every band.
    return segments_BNFT * keep_BF[:, None, :, None] * keep_BX.view(batch, segments, 1, frames)


def _resample(
    pictures_BCHW: torch.Tensor, scale_B2: torch.Tensor, shift_B2: torch.Tensor, outside: str
) -> torch.Tensor:
    """Look at each picture through a window: `scale` and `shift` in x and y, of half its width and height."""
    affine_B23 = torch.cat((torch.diag_embed(scale_B2), shift_B2[:, :, None]), 2)
    grid = F.affine_grid(affine_B23, list(pictures_BCHW.shape), align_corners=False)
    return F.grid_sample(pictures_BCHW, grid, padding_mode=outside, align_corners=False)


def _keep(batch: int, length: int, widest: float, device: torch.device) -> torch.Tensor:
    """Zeros in two random spans, each up to `widest` of `length`, ones elsewhere: (batch, length)."""
    width = torch.rand(batch, 2, 1, device=device) * widest * length
    start = torch.rand(batch, 2, 1, device=device) * (length - width)
    place = torch.arange(length, device=device)
    return ((place < start) | (place >= start + width)).all(1).float()


def mixup(
    inputs: dict[str, torch.Tensor], targets_BC: torch.Tensor, alpha: float
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Mix each clip with another of the batch, its own share at least one half.

    So its likeliest emotion stays its own (or ties), which is what the metric loss goes by. The share is
    max(λ, 1 − λ), λ from Beta(alpha, alpha), drawn once a clip.
    """
    device = targets_BC.device
    share = torch.distributions.Beta(alpha, alpha).sample((len(targets_BC),)).to(device)
    share = torch.maximum(share, 1 - share)
    other = torch.randperm(len(targets_BC), device=device)

    def mix(x: torch.Tensor) -> torch.Tensor:
        return torch.lerp(x[other], x, share.view(-1, *[1] * (x.dim() - 1)))

    return {modality: mix(x) for modality, x in inputs.items()}, mix(targets_BC)
