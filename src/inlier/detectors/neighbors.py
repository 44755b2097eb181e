"""Exact nearest neighbours, in chunks, never a full distance matrix."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from inlier.features.runtime import multiplies_bfloat16

CHUNK_BYTES = 32 * 2**20
"""Room for the distances of one chunk of queries; about what stays in a processor's caches and is reused."""

_SHORT_BYTES = 4 * 2**20
"""Room for the approximate distances of one chunk."""

_MAX_CANDIDATES = 32
"""Rows for each query, on average, above which a shortlist is none, and float32 looks at all rows."""

_ROUNDING = 2.0**-8
"""Share of a number by which rounding it to bfloat16 is off at most."""


class FlatIndex:
    """Rows prepared to be searched: the exact nearest one of each query, by a product in bfloat16 where that is fast.

    Squared distances in bfloat16 are wrong, but not by more than is known: by the Cauchy-Schwarz inequality, the
    lengths of what was rounded off bound the error of a product, and 2^-8 of a result that of rounding it. So of all
    rows only those can be nearest whose approximate distance is within these bounds of the smallest one. They are few,
    and their distances are computed from the differences in float32.

    Attributes:
        rows: As given, shape (M, D).

    Example:
        >>> FlatIndex(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).nearest(torch.tensor([[3.0, 3.0]]))
        (tensor([1.]), tensor([1]))
    """

    def __init__(self, rows: Tensor, *, is_reduced: bool | None = None) -> None:
        """Prepares the rows.

        Args:
            rows: Shape (M, D), M >= 1.
            is_reduced: Whether to look in bfloat16 first; None: where the processor multiplies it.
        """
        self.rows = rows
        self._is_reduced = multiplies_bfloat16() if is_reduced is None else is_reduced
        if self._is_reduced:
            self._mean = rows.mean(dim=0)  # shorter rows, hence less that is rounded off
            rounded, lengths, self._rounded_off = _rounded(rows - self._mean)
            self._longest = math.sqrt(float(lengths.max()))
            self._factors = torch.cat([rounded * -2, _parts(lengths), _ones(len(rows))], dim=1)  # (M, D + 6)

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The distance to the nearest row, and which row that is; of equals the first.

        Args:
            queries: Shape (Q, D).

        Returns:
            Distances, shape (Q,), >= 0; and rows, shape (Q,), int64.
        """
        if not self._is_reduced:
            distances, rows = nearest_rows(queries, self.rows)
            return distances[:, 0], rows[:, 0]
        chunk = max(16, _SHORT_BYTES // (2 * len(self.rows)))
        found = [self._nearest(part) for part in torch.split(queries, chunk)]
        distances, rows = (torch.cat(of) for of in zip(*found, strict=True)) if found else (torch.empty(0),) * 2
        return distances, rows.long()

    def _nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        places, rows = self._candidates(queries)
        if len(places) > _MAX_CANDIDATES * len(queries):  # rows that bfloat16 cannot tell from each other
            distances, nearest = nearest_rows(queries, self.rows)
            return distances[:, 0], nearest[:, 0]
        squared = self.rows[rows].sub_(queries[places]).square_().sum(dim=1)
        smallest = torch.full((len(queries),), math.inf).scatter_reduce_(0, places, squared, "amin")
        is_nearest = squared == smallest[places]
        first = torch.full((len(queries),), len(self.rows))
        first.scatter_reduce_(0, places[is_nearest], rows[is_nearest], "amin")
        return smallest.sqrt_(), first

    def _candidates(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of a query and a row that may be its nearest one, by the queries' places: shapes (P,) and (P,)."""
        rounded, lengths, rounded_off = _rounded(queries - self._mean)
        factors = torch.cat([rounded, _ones(len(queries)), _parts(lengths)], dim=1)
        squared = factors @ self._factors.T  # |b|^2 - 2 q.b + |q|^2, shape (Q, M)
        ordered = squared.view(torch.int16).numpy()  # numbers >= 0 are in the order of their bits, and compare faster
        smallest = torch.from_numpy(ordered.min(axis=1)).view(torch.bfloat16).float()
        longest = lengths.sqrt()
        error = 2 * (rounded_off * self._longest + (longest + rounded_off) * self._rounded_off.max())
        error += 1e-5 * (longest + self._longest).square()  # what float32 rounds off while it adds
        limit = ((smallest * (1 + _ROUNDING) + 2 * error) * (1 + 4 * _ROUNDING)).bfloat16()
        pairs = np.flatnonzero(ordered <= limit.view(torch.int16).numpy()[:, None])
        places, rows = np.divmod(pairs, len(self.rows))
        return torch.from_numpy(places), torch.from_numpy(rows)


def nearest_rows(queries: Tensor, bank: Tensor, *, num_neighbors: int = 1) -> tuple[Tensor, Tensor]:
    """Euclidean distances to the nearest rows of a bank, and which rows those are.

    |q - b|^2 = |q|^2 - 2 q.b + |b|^2 by one matrix product finds the rows; the distances of those found are then
    computed from the differences, since the expansion cancels where they are small.

    Args:
        queries: Shape (Q, D).
        bank: Shape (M, D), M >= 1.
        num_neighbors: K, >= 1; at most M are returned.

    Returns:
        Distances, shape (Q, K), nearest first, >= 0; and rows, shape (Q, K), int64.
    """
    num_neighbors = min(num_neighbors, len(bank))
    lengths = bank.square().sum(dim=1)  # (M,)
    chunk = max(1, CHUNK_BYTES // (4 * len(bank)))
    found = [_nearest(part, bank, lengths, num_neighbors) for part in torch.split(queries, chunk)]
    rows = torch.cat(found) if found else torch.empty(0, num_neighbors, dtype=torch.int64)
    distances = _distances(queries, bank, rows)
    if num_neighbors > 1:
        distances, order = distances.sort(dim=1, stable=True)
        rows = rows.gather(1, order)
    return distances, rows


def _nearest(queries: Tensor, bank: Tensor, lengths: Tensor, num_neighbors: int) -> Tensor:
    """The rows nearest to each query, shape (Q, K); all distances are gone when the next ones are computed."""
    scores = torch.addmm(lengths, queries, bank.T, alpha=-2)  # (Q, M), short of |q|^2, which moves no order
    if num_neighbors == 1:
        return scores.argmin(dim=1, keepdim=True)
    return scores.topk(num_neighbors, dim=1, largest=False).indices


def _distances(queries: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """From each query, shape (Q, D), to these rows of the bank, shape (Q, K): shape (Q, K), from the differences."""
    distances = queries.new_empty(rows.shape)
    chunk = max(1, CHUNK_BYTES // (4 * max(1, queries.shape[1])))
    for start in range(0, len(queries), chunk):
        part = slice(start, start + chunk)
        for place in range(rows.shape[1]):
            differences = bank[rows[part, place]].sub_(queries[part])  # in place: one copy of the chunk, not three
            distances[part, place] = differences.square_().sum(dim=1).sqrt()
    return distances


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in bfloat16, their squared lengths (N,), and the lengths of what was rounded off (N,)."""
    rounded = rows.bfloat16()
    return rounded, rows.square().sum(dim=1), torch.linalg.vector_norm(rows - rounded.float(), dim=1)


def _parts(values: Tensor) -> Tensor:
    """Numbers as sums of three of bfloat16, which have as many digits as one of float32: shape (N,) -> (N, 3)."""
    parts = []
    for _ in range(3):
        parts.append(values.bfloat16())
        values = values - parts[-1].float()
    return torch.stack(parts, dim=1)


def _ones(count: int) -> Tensor:
    return torch.ones(count, 3, dtype=torch.bfloat16)
