"""Feature maps -> locally aware patch embeddings (Roth et al., CVPR 2022, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


def embed_patches(maps: Sequence[Tensor], *, patch_size: int, is_cosine: bool, width: int = 0) -> Tensor:
    """One embedding for each cell of the finest map: its neighbourhood in every map, side by side.

    Each map is averaged over ``patch_size`` x ``patch_size`` cells at stride 1 (f_agg of the paper's eq. 2; cells
    outside the photo do not count, where the authors' code pads with zeros and so makes every border look odd),
    brought to the finest map's size by bilinear interpolation (eq. 3), and joined. Averaging and interpolation are
    linear, and the same along rows and columns, so that a map is multiplied by one matrix on either side.

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
            last = first + features.shape[1]
            local = _local(features[photo], rows, columns, patch_size)
            joined[:, :, first:last] = F.normalize(local, dim=2) if is_cosine else local
            first = last
        if is_reduced:
            patches[photo] = F.adaptive_avg_pool1d(joined, width)
    return patches


def _local(features: Tensor, rows: int, columns: int, patch_size: int) -> Tensor:
    """A photo's map (C, h, w), averaged over neighbourhoods and enlarged: shape (rows, columns, C)."""
    _, height, width = features.shape
    down, along = (_weights(*of, patch_size).to(features.device) for of in ((height, rows), (width, columns)))
    cells = features.float().permute(1, 2, 0)  # (h, w, C)
    return along @ (down @ cells.reshape(height, -1)).view(rows, width, -1)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept for whoever asks next, who may want gradients
def _weights(num_cells: int, num_wanted: int, patch_size: int) -> Tensor:
    """What each cell along one side of a map gives to each cell of the finest one: shape (num_wanted, num_cells)."""
    cells = torch.eye(num_cells)[:, None]  # one cell after the other, (num_cells, 1, num_cells)
    means = F.avg_pool1d(cells, patch_size, 1, patch_size // 2, count_include_pad=False)
    wanted = means if num_wanted == num_cells else F.interpolate(means, num_wanted, mode="linear", align_corners=False)
    return wanted[:, 0].T.contiguous()
