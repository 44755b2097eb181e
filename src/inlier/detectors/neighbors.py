"""Exact nearest neighbours, in chunks, never a full distance matrix."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = 32 * 2**20
"""Room for the distances of one chunk of queries; about what stays in a processor's caches and is reused."""


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
