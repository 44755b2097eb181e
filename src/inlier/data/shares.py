"""The threads that PyTorch computes with, shared out among threads that work beside each other.

PyTorch keeps the number for each thread. The one that was set last, by whichever thread, is for all that begin after
that; so it is put back as soon as those that are to have a share have it.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

MAX_LANES = 8
"""Threads that work beside each other, at most: more would hold more photos, and the processors are busy."""


def num_lanes() -> int:
    """Threads that pay here: as many as PyTorch has, or ``MAX_LANES`` with several each."""
    return min(torch.get_num_threads(), MAX_LANES)


class Shares:
    """Gives each of some threads that begin its share.

    Args:
        size: How many there are.
        each: What each computes with; None: an equal part of what this thread has.
    """

    def __init__(self, size: int, *, each: int | None = None) -> None:
        self._all = torch.get_num_threads()
        self._each = each or max(1, self._all // size)
        self._have_begun = threading.Barrier(size + 1)

    def take(self) -> None:
        """Called by each of them as it begins."""
        torch.get_num_threads()  # takes over what was set last, which would undo what follows if it came later
        torch.set_num_threads(self._each)
        self._have_begun.wait()

    def settle(self) -> None:
        """Called by the thread that begins them, once it has begun all."""
        try:
            self._have_begun.wait()
        except BaseException:
            self._have_begun.abort()  # those that wait would wait for ever
            raise
        finally:
            torch.set_num_threads(self._all)

    def adjust(self, *, is_alone: bool) -> None:
        """Called by one of them: lets it have all as long as no other does anything, and else its share.

        Threads that begin after that must set their own number.
        """
        torch.set_num_threads(self._all if is_alone else self._each)


def open_pool(size: int, *, name: str, each: int | None = None) -> ThreadPoolExecutor:
    """Threads of which each has its share, by ``Shares``."""
    shares = Shares(size, each=each)
    pool = ThreadPoolExecutor(size, thread_name_prefix=name)
    for _ in range(size):
        pool.submit(shares.take)  # waits for the others, so that no thread is given two
    shares.settle()
    return pool
