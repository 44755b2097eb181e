"""Feature maps -> one embedding for each photo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from inlier.features.regions import cell_weights


def embed_photos(maps: Sequence[Tensor], *, power: float, region: Tensor | None = None) -> Tensor:
    """One embedding for each photo: every map pooled over its cells, scaled to unit length, and joined.

    Generalised-mean pooling (Radenovic et al., TPAMI 2019, eq. 3): (mean of x ** p) ** (1 / p) over the cells, of
    the positive part. p = 1 is the average, which a small defect cannot move; p -> infinity the maximum, which
    clutter moves too. Networks whose activations can be negative lose what is below zero.

    Args:
        maps: For each layer shape (B, C_l, h_l, w_l).
        power: p, >= 1; 1 averages, and then keeps negative values.
        region: Cells that count, shape (B, 1, h, w), 0 or 1; each cell weighs as much of it as lies there. None: all.

    Returns:
        Shape (B, D) with D the sum of the channels; each layer's part has length 1 (or 0, if all of it averages 0).
    """
    parts = []
    for features in maps:
        if region is not None:
            pooled = _mean_of_region(features, region, power)
        elif power == 1:
            pooled = features.mean(dim=(2, 3))
        else:
            positive = features.clamp_min(1e-6)
            largest = positive.amax(dim=(2, 3), keepdim=True)  # taken out, since its power could overflow
            pooled = largest[..., 0, 0] * (positive / largest).pow(power).mean(dim=(2, 3)).pow(1 / power)
        parts.append(F.normalize(pooled, dim=1))
    return torch.cat(parts, dim=1)  # (B, D)


def _mean_of_region(features: Tensor, region: Tensor, power: float) -> Tensor:
    """The generalised mean over cells of a region, by how much of each lies in it: shape (B, C)."""
    weights = cell_weights(region, *features.shape[2:])  # (B, 1, h, w)
    total = weights.sum(dim=(2, 3))
    if power == 1:
        return (features * weights).sum(dim=(2, 3)) / total
    positive = features.clamp_min(1e-6).masked_fill(weights == 0, 1e-6)
    largest = positive.amax(dim=(2, 3), keepdim=True)
    mean = ((positive / largest).pow(power) * weights).sum(dim=(2, 3)) / total
    return largest[..., 0, 0] * mean.pow(1 / power)
