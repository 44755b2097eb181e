"""Moments: count, mean and scatter of rows, which add up and can be taken away again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

CHUNK_BYTES = 32 * 2**20
"""Room for the float64 copy of one chunk of rows."""

_ROUNDING = 1e-9
"""Share of a scatter that rounding may leave below zero."""


@dataclass(frozen=True, eq=False)
class Moments:
    """How many rows there were, their mean, and how they scatter about it: all that a PCA or a Gaussian asks of them.

    Moments of two sets of rows give those of both, and those of both without one give the other's. So rows may come
    in batches, in any order and on any machine, and may leave again, while only D x D numbers are kept; the result is
    that of one pass over the rows that are left, up to the rounding of float64.

    The scatter is kept about the mean and merged by the formula of Chan, Golub & LeVeque (1979, Stanford report
    STAN-CS-79-773), here for vectors: a sum of squares less the square of a sum would cancel where rows lie far
    from 0.

    Attributes:
        count: N, the rows, >= 0.
        mean: Shape (D,), float64; 0 of no rows.
        scatter: Sum of (row - mean)(row - mean)', shape (D, D), float64, positive semi-definite.

    Example:
        >>> morning, evening = Moments.of(torch.tensor([[1.0], [3.0]])), Moments.of(torch.tensor([[8.0]]))
        >>> both = morning + evening
        >>> both.count, both.mean.tolist(), both.scatter.tolist()
        (3, [4.0], [[26.0]])
        >>> (both - evening).scatter.tolist()
        [[2.0]]
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Those of rows, shape (N, D), N >= 0; computed in chunks, whatever N."""
        depth = rows.shape[1]
        total = cls(0, torch.zeros(depth, dtype=torch.float64), torch.zeros(depth, depth, dtype=torch.float64))
        for chunk in torch.split(rows, max(1, CHUNK_BYTES // (8 * depth))):
            if len(chunk):
                wide = chunk.double()
                mean = wide.mean(dim=0)
                wide = wide - mean
                total += cls(len(wide), mean, wide.T @ wide)
        return total

    def __add__(self, other: Self) -> Self:
        """Those of both sets of rows.

        Raises:
            ValueError: The rows have different widths.
        """
        self._check_width(other)
        count = self.count + other.count
        if not self.count or not other.count:
            return other if not self.count else self
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        between = torch.outer(apart, apart) * (self.count * (other.count / count))
        return type(self)(count, mean, self.scatter + other.scatter + between)

    def __sub__(self, other: Self) -> Self:
        """Those of the rows that are left when the other's are taken away: the same formula, solved for one side.

        What is lost to rounding is relative to the scatter before, so a few rows left of very many are known less
        well than they would be from themselves.

        Raises:
            ValueError: The rows have different widths, or the other's cannot all have been among these.
        """
        self._check_width(other)
        count = self.count - other.count
        if count < 0:
            raise ValueError(f"Moments of {self.count} rows cannot give away {other.count}.")
        if not other.count:
            return self
        if not count:
            return type(self).of(torch.empty(0, len(self.mean)))
        mean = self.mean + (self.mean - other.mean) * (other.count / count)
        apart = other.mean - mean
        between = torch.outer(apart, apart) * (count * (other.count / self.count))
        scatter = self.scatter - other.scatter - between
        if (scatter.diagonal() < -_ROUNDING * (self.scatter.trace() + other.scatter.trace())).any():
            raise ValueError("Moments can give away only rows that are among theirs; these scatter more than all do.")
        return type(self)(count, mean, scatter)

    def covariance(self) -> Tensor:
        """Unbiased covariance of the rows, shape (D, D), float64.

        Raises:
            ValueError: There are fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"A covariance needs at least two rows, got {self.count}.")
        return self.scatter / (self.count - 1)

    def _check_width(self, other: Self) -> None:
        if len(self.mean) != len(other.mean):
            widths = f"{len(self.mean)} and {len(other.mean)}"
            raise ValueError(f"Moments go together only if their rows have the same width, got {widths}.")
