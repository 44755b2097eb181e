from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from inlier.data.shares import MAX_LANES, Shares, num_lanes, open_pool


@pytest.fixture(autouse=True)
def eight_threads(set_num_threads: Callable[[int], None]) -> None:
    set_num_threads(8)


def number_in_a_new_thread() -> int:
    numbers: list[int] = []
    thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return numbers[0]


@pytest.mark.parametrize(("size", "each", "share"), [(2, None, 4), (3, None, 2), (8, None, 1), (9, None, 1), (2, 1, 1)])
def test_each_thread_of_a_pool_has_its_share(size: int, each: int | None, share: int) -> None:
    together = threading.Barrier(size)

    def number(_: int) -> tuple[int, str]:
        together.wait(10)
        return torch.get_num_threads(), threading.current_thread().name

    with open_pool(size, name="some", each=each) as pool:
        found = list(pool.map(number, range(size)))
    assert {of for of, _ in found} == {share} and len({name for _, name in found}) == size
    assert all(name.startswith("some") for _, name in found)
    assert torch.get_num_threads() == number_in_a_new_thread() == 8


def test_lanes_are_as_many_as_threads_and_not_too_many() -> None:
    assert num_lanes() == 8 == MAX_LANES
    torch.set_num_threads(3)
    assert num_lanes() == 3
    torch.set_num_threads(64)
    assert num_lanes() == 8


def test_a_thread_has_all_as_long_as_it_is_alone() -> None:
    shares, numbers = Shares(1, each=2), list[int]()

    def run() -> None:
        shares.take()
        for is_alone in (True, False):
            shares.adjust(is_alone=is_alone)
            numbers.append(torch.get_num_threads())

    thread = threading.Thread(target=run)
    thread.start()
    shares.settle()
    thread.join()
    assert numbers == [8, 2] and torch.get_num_threads() == 8


def test_threads_are_let_go_if_whoever_begins_them_is_interrupted() -> None:
    shares, outcomes = Shares(1), []

    def begin() -> None:
        try:
            shares.take()
        except threading.BrokenBarrierError as error:
            outcomes.append(error)

    def interrupted() -> None:
        raise KeyboardInterrupt

    thread = threading.Thread(target=begin)
    shares._have_begun.wait, wait = interrupted, shares._have_begun.wait  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        shares.settle()
    shares._have_begun.wait = wait  # type: ignore[method-assign]
    thread.start()
    thread.join(10)
    assert len(outcomes) == 1 and torch.get_num_threads() == 8
