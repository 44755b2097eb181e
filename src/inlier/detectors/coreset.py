"""Exact greedy k-centre selection of rows, in rounds, and streamed under a memory budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 16_384
"""Rows whose distances to the picks of a round are computed together."""


@dataclass(frozen=True, slots=True)
class Coreset:
    """Rows that cover all others.

    Attributes:
        indices: The rows, in the order picked, shape (M,), int64.
        radius: The largest distance of any row to the nearest picked one.
    """

    indices: Tensor
    radius: float


def greedy_coreset(rows: Tensor, num_rows: int, *, num_candidates: int = 1024) -> Coreset:
    """Picks rows by the greedy k-centre rule: each time the row farthest from all picked before.

    The same rows, in the same order, as the plain loop of Roth et al. (CVPR 2022, algorithm 1; a 2-approximation
    of the smallest covering radius, Gonzalez 1985), but for ties in floating point. The plain loop goes through all
    rows for every pick. Here a round takes the B rows farthest from the picked ones as candidates and picks greedily
    among them, updating the distances between candidates only. As long as the farthest candidate is at least as far
    as the B-th one was when the round began, no other row can be farther, since distances only shrink: it is the
    greedy choice over all rows. Then one matrix product brings all rows up to date with all picks of the round.

    The first pick is the row nearest to the mean, where the paper picks at random: the result does not depend on a
    seed, nor on the order of rows but for ties.

    Args:
        rows: Shape (N, D).
        num_rows: M, how many to pick, >= 1. Fewer are picked when they cover all rows at distance 0.
        num_candidates: B, how many rows take part in a round.

    Raises:
        ValueError: There are no rows, or none are asked for.
    """
    if not len(rows) or num_rows < 1:
        raise ValueError(f"greedy_coreset needs rows and num_rows >= 1, got {len(rows)} rows and {num_rows}.")
    centred = rows - rows.mean(dim=0)  # smaller lengths, hence less cancellation in squared distances
    lengths = centred.square().sum(dim=1)  # (N,)
    picks = [int(lengths.argmin())]
    squared = torch.full_like(lengths, torch.inf)
    _bring_up_to_date(squared, centred, lengths, torch.tensor(picks))
    while len(picks) < num_rows and squared.max() > 0:
        found = _round(centred, lengths, squared, min(num_candidates, len(rows)), num_rows - len(picks))
        _bring_up_to_date(squared, centred, lengths, found)
        picks.extend(found.tolist())
    return Coreset(torch.tensor(picks), float(squared.max().sqrt()))


def _round(centred: Tensor, lengths: Tensor, squared: Tensor, num_candidates: int, num_wanted: int) -> Tensor:
    """The next picks, as many as are certain."""
    distances, candidates = squared.topk(num_candidates)
    bound = float(distances[-1]) if num_candidates < len(squared) else 0.0
    chosen = centred[candidates]
    among = lengths[candidates]
    pairwise = (among[:, None] + among - 2 * chosen @ chosen.T).clamp_min_(0)  # (B, B)
    pairwise.fill_diagonal_(0)
    places: list[int] = []
    while len(places) < num_wanted:
        farthest, place = distances.max(dim=0)
        if float(farthest) < bound or float(farthest) <= 0:
            break
        places.append(int(place))
        torch.minimum(distances, pairwise[place], out=distances)
    return candidates[torch.tensor(places)]


def _bring_up_to_date(squared: Tensor, centred: Tensor, lengths: Tensor, picks: Tensor) -> None:
    """Lowers each row's squared distance to the nearest pick, in place."""
    centres = centred[picks]  # (P, D)
    offsets = lengths[picks]
    for start in range(0, len(squared), CHUNK):
        part = slice(start, start + CHUNK)
        products = torch.addmm(offsets, centred[part], centres.T, alpha=-2)  # |p|^2 - 2 x.p, (chunk, P)
        nearest = products.amin(dim=1).add_(lengths[part]).clamp_min_(0)
        torch.minimum(squared[part], nearest, out=squared[part])
    squared[picks] = 0


class CoresetStream:
    """Rows that arrive bit by bit, reduced to a coreset of themselves whenever they would outgrow their room.

    A coreset of coresets covers all rows: the radii of the reductions add up at most (Indyk et al., PODS 2014).

    Example:
        >>> stream = CoresetStream(capacity=1000, num_kept=500)
        >>> stream.append(torch.zeros(10, 4), torch.arange(10))
        >>> stream.num_seen
        10
    """

    def __init__(self, *, capacity: int, num_kept: int) -> None:
        """An empty stream.

        Args:
            capacity: Rows held at most, but for those of one ``append``.
            num_kept: Rows kept when they are reduced, < capacity.

        Raises:
            ValueError: ``num_kept`` is not below ``capacity``.
        """
        if not 0 < num_kept < capacity:
            raise ValueError(
                f"num_kept of CoresetStream must be in 1 to capacity - 1 = {capacity - 1}, got {num_kept}."
            )
        self.num_seen = 0
        self._capacity = capacity
        self._num_kept = num_kept
        self._rows: list[Tensor] = []
        self._tags: list[Tensor] = []

    def append(self, rows: Tensor, tags: Tensor) -> None:
        """Adds rows, shape (N, D), and what is known of each, shape (N,), int64."""
        self.num_seen += len(rows)
        self._rows.append(rows)
        self._tags.append(tags)
        if sum(len(part) for part in self._rows) > self._capacity:
            self._keep(self._num_kept)

    def finish(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """At most ``num_rows`` of the rows, shape (M, D), and their tags, shape (M,)."""
        self._keep(num_rows)
        return self._rows[0], self._tags[0]

    def _keep(self, num_rows: int) -> None:
        rows, tags = torch.cat(self._rows), torch.cat(self._tags)
        self._rows, self._tags = [], []  # so that the parts go before the selection begins
        if len(rows) > num_rows:
            indices = greedy_coreset(rows, num_rows).indices
            rows, tags = rows[indices], tags[indices]
        self._rows, self._tags = [rows], [tags]
