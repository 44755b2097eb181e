"""Which cells of a photo count: a region, or what it is found in, travels beside the maps under a key of no layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

REGION = 0
"""Key of the region among a photo's maps, shape (B, 1, h, w), 1 where cells count, else 0; layers begin at 1."""

PICTURE = -1
"""Key of a small copy of the photo itself, shape (B, 3, h, w), whole numbers in [0, 255], RGB: each is the same in any
type of numbers that is kept."""

PICTURE_SIDE = 112
"""Pixels a side that such a copy has at most."""


class RegionFinder(Protocol):
    """Finds the region of photos in their maps."""

    @property
    def layers(self) -> tuple[int, ...]:
        """What it looks at, by keys of the maps."""
        ...

    def __call__(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Of B photos the region, shape (B, 1, h, w), 0 or 1; all 0 where it found none."""
        ...


class GivenRegion:
    """Takes the region that came with the photo; none where none did."""

    layers = (REGION,)

    def __call__(self, maps: Mapping[int, Tensor]) -> Tensor:
        """The region beside the maps, shape (B, 1, h, w)."""
        if REGION in maps:
            return maps[REGION]
        any_map = next(iter(maps.values()))
        return any_map.new_zeros(len(any_map), 1, 1, 1)


def to_picture(colours: Tensor) -> Tensor:
    """Photos as ``PICTURE`` keeps them, no side longer than ``PICTURE_SIDE``.

    Args:
        colours: Shape (B, 3, H, W), in [0, 255].
    """
    size = [min(side, PICTURE_SIDE) for side in colours.shape[2:]]
    return F.interpolate(colours.float(), size=size, mode="area").round()


def to_cells(shares: Tensor, rows: int, columns: int) -> Tensor:
    """A region of pixels as one of cells: shape (B, 1, rows, columns), 0 or 1.

    A cell counts if at least half of it lies in the region or, where that is true of none, if as much as of any does.

    Args:
        shares: How much of each pixel, or smaller cell, lies in it: shape (B, 1, H, W), in [0, 1].
        rows: Of the cells.
        columns: Likewise.
    """
    of_cells = F.interpolate(shares.float(), size=(rows, columns), mode="area")
    most = of_cells.amax(dim=(2, 3), keepdim=True)
    return ((of_cells > 0) & (of_cells >= most.clamp_max(0.5))).float()


def cells_inside(maps: Mapping[int, Tensor], rows: int, columns: int) -> Tensor | None:
    """Which cells of a grid count (``to_cells``): shape (B, rows, columns), bool; None where all do."""
    return to_cells(maps[REGION], rows, columns)[:, 0] > 0 if REGION in maps else None


def cell_weights(region: Tensor, rows: int, columns: int) -> Tensor:
    """How much of each cell of a grid lies in the region: shape (B, 1, rows, columns), in [0, 1].

    Args:
        region: Shape (B, 1, h, w), 0 or 1; a photo without any counts as a whole.
        rows: Of the grid.
        columns: Likewise.
    """
    weights = F.interpolate(region.float(), size=(rows, columns), mode="area")
    is_empty = weights.sum(dim=(2, 3), keepdim=True) == 0
    return weights.masked_fill(is_empty, 1.0)
