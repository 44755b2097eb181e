"""Feature maps -> locally aware patch embeddings (Roth et al., CVPR 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

_SMALL = 3
"""Cells up to which a square is averaged at once."""


def embed_patches(maps: Sequence[Tensor], *, patch_size: int, is_cosine: bool, width: int = 0) -> Tensor:
    """One embedding for each cell of the finest map: its neighbourhood in every map, side by side.

    Each map is averaged over ``patch_size`` x ``patch_size`` cells at stride 1 (f_agg of the paper's eq. 2; cells
    outside the photo do not count, where the authors' code pads with zeros and so makes every border look odd),
    brought to the finest map's size by bilinear interpolation (eq. 3), and joined.

    With ``is_cosine`` each map's part has unit length. Its length mostly tells contrast and exposure, which in
    hand-held photos change with every shot, and its direction tells what is there; the Euclidean distance of two
    such embeddings is sqrt(2 * sum of the parts' cosine distances).

    Args:
        maps: For each layer shape (B, C_l, h_l, w_l), finest first.
        patch_size: Side of the neighbourhood in cells, odd, >= 1.
        is_cosine: Whether each layer's part of an embedding is scaled to unit length.
        width: Numbers that an embedding is reduced to, each the mean of a run of neighbouring ones, as the authors'
            code does (``target_embed_dimension``); 0, or more than there are: all are kept.

    Returns:
        Shape (B, h, w, D) with h, w of the finest map and D the sum of the channels, or ``width``.
    """
    batch, _, rows, columns = maps[0].shape
    depth = sum(features.shape[1] for features in maps)
    is_reduced = 0 < width < depth
    patches = maps[0].new_empty(batch, rows, columns, width if is_reduced else depth)
    for photo in range(batch):  # one at a time, so that what leads to the embeddings takes no room beside them
        joined = maps[0].new_empty(rows, columns, depth) if is_reduced else patches[photo]
        first = 0
        for features in maps:
            local = _average(features[photo][None], patch_size)
            if local.shape[-2:] != (rows, columns):
                local = F.interpolate(local, size=(rows, columns), mode="bilinear", align_corners=False)
            last = first + local.shape[1]
            joined[:, :, first:last] = (F.normalize(local, dim=1) if is_cosine else local)[0].permute(1, 2, 0)
            first = last
        if is_reduced:
            patches[photo] = F.adaptive_avg_pool1d(joined, width)
    return patches


def _average(features: Tensor, size: int) -> Tensor:
    """Means over ``size`` x ``size`` cells, of those inside; of many along rows, then columns, which is less work."""
    if size <= _SMALL:
        return F.avg_pool2d(features, size, 1, size // 2, count_include_pad=False)
    along = F.avg_pool2d(features, (1, size), 1, (0, size // 2), count_include_pad=False)
    return F.avg_pool2d(along, (size, 1), 1, (size // 2, 0), count_include_pad=False)
