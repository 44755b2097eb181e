"""Which photos make up a batch, and their views, made ahead of the step that learns from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.data.splits import hold_out
from inlier.data.squares import Squares
from inlier.finetuning.parallel import num_ranks, rank
from inlier.finetuning.views import Views

AHEAD = 1
"""Batches made before they are asked for; one of 128 photos, two views of 160 px each, takes 79 MB."""

ENOUGH_GROUPS = 10
"""Groups from which on some are held out to tell when to stop; fewer are all learned from."""


class ViewBatch(NamedTuple):
    """Views of some photos.

    Attributes:
        places: Of the B photos among the squares.
        views: Shape (V, B, 3, S, S), normalised.
    """

    places: list[int]
    views: Tensor


class _Pending(NamedTuple):
    places: list[int]
    views: Tensor
    futures: list[Future[None]]


class ViewMaker:
    """Squares -> batches of views, each drawn from the seed, the step, the photo and the number of the view alone.

    So it changes nothing how many threads make them, how many processes share a batch, or at which step a run goes on.
    """

    def __init__(self, squares: Squares, views: Views, *, num_views: int, seed: int, pool: Executor | None = None):
        """Takes what it makes views of.

        Args:
            squares: The photos.
            views: Makes one view.
            num_views: V, views of each photo, >= 1.
            seed: Of the views, >= 0.
            pool: Threads that make them; None: the one that asks.
        """
        self._squares = squares
        self._views = views
        self._num_views = num_views
        self._seed = seed
        self._pool = pool

    def make(self, places: Sequence[int], *, step: int) -> ViewBatch:
        """Views of the photos at these places, as a step sees them."""
        return _finish(self._begin(places, step=step, is_pinned=False))

    def make_ahead(
        self, drawn: Iterable[list[int]], *, first_step: int, is_pinned: bool = False
    ) -> Generator[ViewBatch, None, None]:
        """Views for one step after the other, the next already in the making.

        Args:
            drawn: The places of each step's photos.
            first_step: Number of the first of these steps.
            is_pinned: Whether they lie where a CUDA device can fetch them while the processor goes on.
        """
        pending: deque[_Pending] = deque()
        for step, places in enumerate(drawn, start=first_step):
            pending.append(self._begin(places, step=step, is_pinned=is_pinned))
            if len(pending) > AHEAD:
                yield _finish(pending.popleft())
        while pending:
            yield _finish(pending.popleft())

    def _begin(self, places: Sequence[int], *, step: int, is_pinned: bool) -> _Pending:
        size = self._views.size
        views = torch.empty(self._num_views, len(places), 3, size, size, pin_memory=is_pinned)
        array = views.numpy()  # copied to by NumPy: in each thread PyTorch would start a team of its own
        futures = []
        for number, place in enumerate(places):
            if self._pool is None:
                self._fill(array[:, number], place, step)
            else:
                futures.append(self._pool.submit(self._fill, array[:, number], place, step))
        return _Pending(list(places), views, futures)

    def _fill(self, array: NDArray[np.float32], place: int, step: int) -> None:
        square = self._squares[place]
        for number in range(self._num_views):
            rng = np.random.default_rng((self._seed, step, place, number))
            array[number] = self._views(square, rng).numpy()


def _finish(pending: _Pending) -> ViewBatch:
    for future in pending.futures:
        future.result()
    return ViewBatch(pending.places, pending.views)


def divide(groups: Sequence[str], *, ratio: float, seed: int) -> tuple[list[int], list[int]]:
    """Places of photos to learn from, and of photos of other groups that tell when to stop; none if there are few.

    Args:
        groups: Of each photo; "" is a group of its own.
        ratio: Share of the photos to hold out, in [0, 1).
        seed: Of the choice.
    """
    names = [group or f"\0{place}" for place, group in enumerate(groups)]
    places = np.arange(len(names))
    if ratio == 0 or len(set(names)) < ENOUGH_GROUPS:
        return places.tolist(), []
    is_held_out = hold_out(names, ratio=ratio, seed=seed)
    if min(is_held_out.sum(), (~is_held_out).sum()) < 2 * num_ranks():
        return places.tolist(), []  # one photo alone has no other that a contrastive loss could compare it with
    return places[~is_held_out].tolist(), places[is_held_out].tolist()


def fitting(batch_size: int, num_photos: int) -> int:
    """As many photos a batch as there are at most, and for each process as many as for another."""
    processes: int = num_ranks()
    return min(batch_size, num_photos) // processes * processes


def share(places: list[int]) -> list[int]:
    """This process's part of a batch."""
    return places[rank() :: num_ranks()]
