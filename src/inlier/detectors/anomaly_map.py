"""Patch scores -> a smooth anomaly map -> one score a photo."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Pooling = Literal["max", "mean", "top"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def smooth_map(patch_scores: Tensor, *, size: int, sigma: float, is_inside: Tensor | None = None) -> Tensor:
    """Patch scores as a map in the pixels of the network's input (thesis, figure 3.4).

    Bilinear enlargement, then a Gaussian filter, mirrored at the borders, as Roth et al. (section 3.3) do. Both are
    linear, and the same along rows and columns, so that they are one matrix on either side of the scores.

    Args:
        patch_scores: Shape (B, h, w).
        size: Height and width of the map, in pixels.
        sigma: Standard deviation of the Gaussian, in pixels of the map; 0 leaves it out.
        is_inside: Patches that count, shape (B, h, w), bool: pixels of the others are 0. None: all.

    Returns:
        Shape (B, size, size), same unit as the scores.
    """
    rows, columns = patch_scores.shape[1:]
    smooth = _spread(rows, size, sigma) @ patch_scores.float() @ _spread(columns, size, sigma).T
    if is_inside is None:
        return smooth
    return smooth * F.interpolate(is_inside[:, None].float(), size=(size, size), mode="nearest")[:, 0]


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # kept for whoever asks next, who may want gradients
def _spread(num_cells: int, size: int, sigma: float) -> Tensor:
    """What each cell along one side of a map contributes to each of its pixels: shape (size, num_cells)."""
    cells = torch.eye(num_cells)[:, None]  # one cell after the other, (num_cells, 1, num_cells)
    pixels = F.interpolate(cells, size=size, mode="linear", align_corners=False)
    if sigma > 0:
        radius = min(math.ceil(4 * sigma), size - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel /= kernel.sum()
        pixels = F.conv1d(F.pad(pixels, (radius, radius), mode="reflect"), kernel[None, None])
    return pixels[:, 0].T.contiguous()


def pool_map(patch_scores: Tensor, *, pooling: Pooling, top_ratio: float, is_inside: Tensor | None = None) -> Tensor:
    """One score a photo: the largest patch score, their mean, or the mean of the largest ones.

    Args:
        patch_scores: Shape (B, h, w).
        pooling: ``max`` finds the smallest defect and every oddity; ``mean`` (the thesis's choice, section 3.3) sees
            only what is odd all over; ``top`` lies between.
        top_ratio: Share of the patches whose scores ``top`` averages, in (0, 1]; at least one patch.
        is_inside: Patches that count, shape (B, h, w), bool, at least one of each photo; None: all.

    Returns:
        Shape (B,).
    """
    if is_inside is not None:
        of_each = [scores[inside][None, None] for scores, inside in zip(patch_scores, is_inside, strict=True)]
        return torch.cat([pool_map(scores, pooling=pooling, top_ratio=top_ratio) for scores in of_each])
    flat = patch_scores.flatten(1)
    if pooling == "max":
        return flat.amax(dim=1)
    if pooling == "mean":
        return flat.mean(dim=1)
    return flat.topk(max(1, round(top_ratio * flat.shape[1])), dim=1).values.mean(dim=1)
