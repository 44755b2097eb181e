"""Feature maps -> one embedding for each photo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def embed_photos(maps: Sequence[Tensor], *, power: float) -> Tensor:
    """One embedding for each photo: every map pooled over its cells, scaled to unit length, and joined.

    Generalised-mean pooling (Radenovic et al., TPAMI 2019, eq. 3): (mean of x ** p) ** (1 / p) over the cells, of
    the positive part. p = 1 is the average, which a small defect cannot move; p -> infinity the maximum, which
    clutter moves too. Networks whose activations can be negative lose what is below zero.

    Args:
        maps: For each layer shape (B, C_l, h_l, w_l).
        power: p, >= 1; 1 averages, and then keeps negative values.

    Returns:
        Shape (B, D) with D the sum of the channels; each layer's part has length 1 (or 0, if all of it averages 0).
    """
    parts = []
    for features in maps:
        if power == 1:
            pooled = features.mean(dim=(2, 3))
        else:
            positive = features.clamp_min(1e-6)
            largest = positive.amax(dim=(2, 3), keepdim=True)  # taken out, since its power could overflow
            pooled = largest[..., 0, 0] * (positive / largest).pow(power).mean(dim=(2, 3)).pow(1 / power)
        parts.append(F.normalize(pooled, dim=1))
    return torch.cat(parts, dim=1)  # (B, D)
