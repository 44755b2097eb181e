"""What centres cover for sure, told without comparing every row with every one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from inlier.detectors.neighbors import nearest_rows

NUM_PROBES = 3
"""Cells whose centres a row is compared with."""

_NUM_ROUNDS = 4
"""Of k-means; cells need not be the best, for nothing but time depends on them."""

_ROWS = 8192
"""Rows that are compared at once."""


class Cover:
    """Centres, each of which covers the rows within one radius.

    The centres lie in cells, as in an inverted file (Jégou et al., PAMI 2011): about as many as the square root of
    their number, each around a mean of k-means. A row is compared with the centres of the few cells nearest to it. What
    is found to be covered is; of the rest a little is covered too, by centres in other cells.

    Example:
        >>> Cover(torch.tensor([[0.0, 0.0], [9.0, 9.0]]), radius=1.0).covers(torch.tensor([[0.5, 0.5], [5.0, 5.0]]))
        tensor([ True, False])
    """

    def __init__(self, centres: Tensor, *, radius: float) -> None:
        """Sorts the centres.

        Args:
            centres: Shape (M, D), M >= 1.
            radius: Euclidean, >= 0.
        """
        self._mean = centres.mean(dim=0)  # shorter rows, hence less cancellation in squared distances
        centres = centres - self._mean
        self._means, cells = _cells(centres)
        self._centres = [centres[members] for _, members in _members(cells)]
        self._squared_radius = radius * radius

    def covers(self, rows: Tensor) -> Tensor:
        """Whether each row is sure to be covered; shape (N, D) -> (N,), bool."""
        return torch.cat([self._covers(part - self._mean) for part in torch.split(rows, _ROWS)])

    def _covers(self, rows: Tensor) -> Tensor:
        lengths = rows.square().sum(dim=1)
        num_probes = min(NUM_PROBES, len(self._means))
        probed = _compared(rows, self._means).topk(num_probes, dim=1, largest=False).indices
        is_covered = torch.zeros(len(rows), dtype=torch.bool)
        for cells in probed.unbind(dim=1):
            left = (~is_covered).nonzero()[:, 0]
            for cell, members in _members(cells[left]):
                of = left[members]
                nearest = _compared(rows[of], self._centres[cell]).amin(dim=1)
                is_covered[of] = nearest + lengths[of] <= self._squared_radius
        return is_covered


def _cells(centres: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each cell, shape (K, D), and the cell of each centre, shape (M,); none is empty."""
    num_cells = max(1, round(math.sqrt(len(centres))))
    means = centres[torch.linspace(0, len(centres) - 1, num_cells).long()]
    for _ in range(_NUM_ROUNDS):
        cells = nearest_rows(centres, means)[1][:, 0]
        used, cells = torch.unique(cells, return_inverse=True)
        sums = centres.new_zeros(len(used), centres.shape[1]).index_add_(0, cells, centres)
        means = sums / cells.bincount()[:, None]
    return means, cells


def _compared(rows: Tensor, others: Tensor) -> Tensor:
    """Squared distances of rows to others, less the rows' own squared lengths: |p|^2 - 2 x.p, shape (N, M)."""
    return torch.addmm(others.square().sum(dim=1), rows, others.T, alpha=-2)


def _members(cells: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each cell that occurs, and the places at which it does."""
    found, counts = torch.unique(cells, return_counts=True)
    yield from zip(found.tolist(), torch.split(cells.argsort(), counts.tolist()), strict=True)
