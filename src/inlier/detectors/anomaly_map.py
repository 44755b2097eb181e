"""Patch scores -> a smooth anomaly map -> one score a photo."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Pooling = Literal["max", "mean", "top"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

CHUNK_BYTES = 2**20
"""Room for the maps that are smoothed together; a convolution lays each out anew, several times as wide."""


def smooth_map(patch_scores: Tensor, *, size: int, sigma: float) -> Tensor:
    """Patch scores as a map in the pixels of the network's input (thesis, figure 3.4).

    Bilinear enlargement, then a Gaussian filter, mirrored at the borders, as Roth et al. (section 3.3) do.

    Args:
        patch_scores: Shape (B, h, w).
        size: Height and width of the map, in pixels.
        sigma: Standard deviation of the Gaussian, in pixels of the map; 0 leaves it out.

    Returns:
        Shape (B, size, size), same unit as the scores.
    """
    maps = F.interpolate(patch_scores[:, None], size=(size, size), mode="bilinear", align_corners=False)
    if sigma > 0:
        radius = min(math.ceil(4 * sigma), size - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel /= kernel.sum()
        for part in torch.split(maps, max(1, CHUNK_BYTES // (4 * (size + 2 * radius) ** 2))):
            padded = F.pad(part, (radius, radius, radius, radius), mode="reflect")
            part.copy_(F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None, :]))
    return maps[:, 0]


def pool_map(patch_scores: Tensor, *, pooling: Pooling, top_ratio: float) -> Tensor:
    """One score a photo: the largest patch score, their mean, or the mean of the largest ones.

    Args:
        patch_scores: Shape (B, h, w).
        pooling: ``max`` finds the smallest defect and every oddity; ``mean`` (the thesis's choice, section 3.3) sees
            only what is odd all over; ``top`` lies between.
        top_ratio: Share of the patches whose scores ``top`` averages, in (0, 1]; at least one patch.

    Returns:
        Shape (B,).
    """
    flat = patch_scores.flatten(1)
    if pooling == "max":
        return flat.amax(dim=1)
    if pooling == "mean":
        return flat.mean(dim=1)
    return flat.topk(max(1, round(top_ratio * flat.shape[1])), dim=1).values.mean(dim=1)
