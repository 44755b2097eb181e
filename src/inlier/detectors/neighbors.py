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
    found = []
    for part in torch.split(queries, chunk):
        scores = torch.addmm(lengths, part, bank.T, alpha=-2)  # (q, M), short of |q|^2, which moves no order
        if num_neighbors == 1:
            found.append(scores.argmin(dim=1, keepdim=True))
        else:
            found.append(scores.topk(num_neighbors, dim=1, largest=False).indices)
    rows = torch.cat(found) if found else torch.empty(0, num_neighbors, dtype=torch.int64)
    distances = torch.stack(
        [(queries - bank[rows[:, place]]).square().sum(dim=1).sqrt() for place in range(num_neighbors)], dim=1
    )
    if num_neighbors > 1:
        distances, order = distances.sort(dim=1, stable=True)
        rows = rows.gather(1, order)
    return distances, rows
