"""Exact greedy k-centre selection of rows, evaluated lazily, and streamed under a memory budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from inlier.detectors.cover import Cover

PROJECTED_WIDTH = 128
"""Numbers of a row by which a stream compares it, where it has more than twice as many."""

CHUNK = 256
"""Candidates that are brought up to date together; few, so that all of them have missed about the same picks."""

_ROWS = 8192
"""Rows whose squares are held at once."""


@dataclass(frozen=True, slots=True)
class Coreset:
    """Rows that cover all others.

    Attributes:
        indices: The rows, in the order picked, shape (M,), int64.
        radius: The largest distance of any row to the nearest picked one.
    """

    indices: Tensor
    radius: float


def greedy_coreset(rows: Tensor, num_rows: int, *, num_candidates: int = 2048) -> Coreset:
    """Picks rows by the greedy k-centre rule: each time the row farthest from all picked before.

    The same rows, in the same order, as the plain loop of Roth et al. (CVPR 2022, algorithm 1; a 2-approximation
    of the smallest covering radius, Gonzalez 1985), but for ties in floating point. The plain loop goes through all
    rows for every pick; most of that work decides nothing, and is left out here by lazy evaluation (Minoux 1978).

    The first pick is the row nearest to the mean, where the paper picks at random: the result does not depend on a
    seed, nor on the order of rows but for ties.

    Args:
        rows: Shape (N, D).
        num_rows: M, how many to pick, >= 1. Fewer are picked when these cover all rows at distance 0, as far as
            floating point can tell.
        num_candidates: B, how many rows take part in a round; it changes the speed, not the result.

    Raises:
        ValueError: There are no rows, or none are asked for.
    """
    if not len(rows) or num_rows < 1:
        raise ValueError(f"greedy_coreset needs rows and num_rows >= 1, got {len(rows)} rows and {num_rows}.")
    picks: list[int] = []
    radius = 0.0
    for row, distance in _farthest_first(rows, num_candidates):
        if len(picks) == num_rows:
            radius = distance  # the row that would come next is the farthest of all
            break
        picks.append(row)
    return Coreset(torch.tensor(picks), radius)


def _farthest_first(rows: Tensor, num_candidates: int) -> Iterator[tuple[int, float]]:
    """Rows in the order of the greedy rule, each with its distance to those before, until all are at distance 0.

    A row's distance to the picks only shrinks as these become more, so one computed from some of them is an upper
    bound. A round brings the B rows with the largest bounds up to date with the picks that they have missed, in
    matrix products, and picks greedily among them. As long as the farthest candidate is at least as far as the
    smallest of their bounds was, no other row can be farther: it is the greedy choice over all rows. Rows that are
    soon covered well never come up again, and cost nothing more.
    """
    centred = rows - rows.mean(dim=0)  # smaller lengths, hence less cancellation in squared distances
    lengths = torch.cat([part.square().sum(dim=1) for part in torch.split(centred, _ROWS)])  # (N,), no copy of all rows
    covered = 4 * torch.finfo(rows.dtype).eps * float(lengths.max())  # what rounding cannot tell from 0
    picks = [int(lengths.argmin())]
    yield picks[0], math.inf
    bounds = _squared_distances(centred, lengths, picks[0])  # (N,), to the first num_seen picks
    num_seen = torch.ones(len(rows), dtype=torch.int64)
    while True:
        highest, candidates = bounds.topk(min(num_candidates, len(rows)))
        certain = float(highest[-1]) if num_candidates < len(rows) else -math.inf
        candidates = candidates[num_seen[candidates].argsort()]
        near, near_lengths, squared = centred[candidates], lengths[candidates], bounds[candidates]
        _catch_up(squared, near, near_lengths, num_seen[candidates], centred, torch.tensor(picks))
        while (farthest := float((largest := squared.max(dim=0)).values)) >= certain:
            if farthest <= covered:
                return
            place = int(largest.indices)
            picks.append(int(candidates[place]))
            yield picks[-1], math.sqrt(farthest)
            torch.minimum(squared, _squared_distances(near, near_lengths, place), out=squared)
        bounds[candidates] = squared
        num_seen[candidates] = len(picks)


def _squared_distances(rows: Tensor, lengths: Tensor, pick: int) -> Tensor:
    """Squared distance of each row to one of them, 0 for itself."""
    squared = torch.addmv(lengths, rows, rows[pick], alpha=-2).add_(lengths[pick])  # |x|^2 - 2 x.p + |p|^2
    squared[pick] = 0
    return squared


def _catch_up(
    squared: Tensor, near: Tensor, near_lengths: Tensor, num_seen: Tensor, centred: Tensor, picks: Tensor
) -> None:
    """Lowers candidates' squared distances, in place, by the picks each has not seen; those that saw least first."""
    oldest = int(num_seen[0])
    centres = centred[picks[oldest:]]  # (P, D)
    offsets = centres.square().sum(dim=1)
    for start in range(0, len(squared), CHUNK):
        part = slice(start, start + CHUNK)
        missed = slice(int(num_seen[start]) - oldest, None)
        if len(offsets[missed]):
            products = torch.addmm(offsets[missed], near[part], centres[missed].T, alpha=-2)  # |p|^2 - 2 x.p
            nearest = products.amin(dim=1).add_(near_lengths[part])
            torch.minimum(squared[part], nearest, out=squared[part])


class CoresetStream:
    """Rows that arrive bit by bit, reduced to a coreset of themselves whenever they would outgrow their room.

    A coreset of coresets covers all rows: the radii of the reductions add up at most (Indyk et al., PODS 2014). That
    leaves out no more: what the last coreset covers within its radius is as well covered as what that was chosen from.
    So once there is a coreset, only those of new rows that it does not cover are held. In an archive, where most
    patches resemble others, these are few, and the next reduction comes late and has less to go through.

    Wide rows are compared after a random projection, which keeps distances within a few percent (Johnson &
    Lindenstrauss 1984; Roth et al., section 3.2) and is the same for all streams; those kept are kept whole.

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
        self._cover: Cover | None = None

    def append(self, rows: Tensor, tags: Tensor) -> None:
        """Adds rows, shape (N, D), and what is known of each, shape (N,), int64."""
        self.num_seen += len(rows)
        if self._cover is not None:
            is_new = ~self._cover.covers(_narrow(rows))
            rows, tags = rows[is_new], tags[is_new]
        self._rows.append(rows)
        self._tags.append(tags)
        if sum(len(part) for part in self._rows) > self._capacity:
            rows, tags = self._take_all()
            chosen = greedy_coreset(_narrow(rows), self._num_kept)
            rows, tags = rows[chosen.indices], tags[chosen.indices]
            self._rows, self._tags = [rows], [tags]
            self._cover = Cover(_narrow(rows), radius=chosen.radius)

    def finish(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """At most ``num_rows`` of the rows, shape (M, D), and their tags, shape (M,); the stream is empty then."""
        return reduced(*self._take_all(), num_rows)

    def _take_all(self) -> tuple[Tensor, Tensor]:
        """Rows and tags, of which nothing is held any more, so that there is room for the selection."""
        self._cover = None
        rows, tags = torch.cat(self._rows), torch.cat(self._tags)
        self._rows, self._tags = [], []
        return rows, tags


def reduced(rows: Tensor, tags: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """A coreset of at most so many rows, shape (N, D), with their tags, shape (N,); all of them if they are no more.

    Wide rows are compared as in ``CoresetStream``.
    """
    if len(rows) <= num_rows:
        return rows, tags
    indices = greedy_coreset(_narrow(rows), num_rows).indices
    return rows[indices], tags[indices]


def selection_width(depth: int) -> int:
    """How many numbers of a row of so many a stream compares."""
    return PROJECTED_WIDTH if depth > 2 * PROJECTED_WIDTH else depth


def _narrow(rows: Tensor) -> Tensor:
    depth = rows.shape[1]
    if (width := selection_width(depth)) == depth:
        return rows
    generator = torch.Generator().manual_seed(depth)
    return rows @ torch.randn(depth, width, generator=generator).div_(math.sqrt(width))
