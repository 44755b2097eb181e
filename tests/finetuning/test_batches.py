from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest
import torch

from inlier.finetuning import batches as module
from inlier.finetuning.batches import ViewMaker, divide, fitting, share
from inlier.finetuning.views import Views

VIEWS = Views(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DRAWN = [[0, 3, 5], [1, 2, 4], [5, 4, 3], [2, 0, 1]]


class Noise:
    """Squares by shape: six photos of noise, and who asked for them."""

    def __init__(self) -> None:
        self.pixels = np.random.default_rng(0).integers(256, size=(6, 24, 24, 3), dtype=np.uint8)
        self.asked: list[int] = []

    def __getitem__(self, place: int) -> np.ndarray:
        self.asked.append(place)
        return self.pixels[place]


def _maker(squares: Noise, pool: ThreadPoolExecutor | None = None, *, seed: int = 3) -> ViewMaker:
    return ViewMaker(squares, VIEWS, num_views=2, seed=seed, pool=pool)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_view_depends_on_seed_step_photo_and_number_alone(workers: int) -> None:
    squares = Noise()
    with ThreadPoolExecutor(workers or 1) as pool:
        maker = _maker(squares, pool if workers else None)
        found = list(maker.make_ahead(DRAWN, first_step=7))
        alone = maker.make([4], step=8)
    assert [batch.places for batch in found] == DRAWN
    for step, batch in enumerate(found, start=7):
        assert batch.views.shape == (2, 3, 3, 16, 16)
        for number, place in enumerate(batch.places):
            for view in range(2):
                expected = VIEWS(squares.pixels[place], np.random.default_rng((3, step, place, view)))
                assert torch.equal(batch.views[view, number], expected)
    assert torch.equal(alone.views[:, 0], found[1].views[:, 2])
    later = list(_maker(squares).make_ahead(DRAWN[2:], first_step=9))
    assert all(torch.equal(one.views, two.views) for one, two in zip(later, found[2:], strict=True))
    other = _maker(squares, seed=4).make([4], step=8)
    assert not torch.equal(other.views, alone.views)


def test_the_next_batch_is_made_while_one_is_used_and_no_more() -> None:
    squares = Noise()
    with ThreadPoolExecutor(2) as pool:
        batches = _maker(squares, pool).make_ahead(DRAWN, first_step=0)
        assert squares.asked == []
        for taken in (1, 2):
            next(batches)
            deadline = time.monotonic() + 10
            while len(squares.asked) < 3 * (taken + module.AHEAD) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(squares.asked) == 3 * (taken + module.AHEAD)
        assert len(list(islice(batches, 5))) == 2
    assert threading.active_count() < 10


def test_what_goes_wrong_in_a_thread_is_told() -> None:
    with ThreadPoolExecutor(2) as pool, pytest.raises(IndexError):
        list(_maker(Noise(), pool).make_ahead([[0, 1], [2, 99]], first_step=0))


def test_whole_groups_are_held_out() -> None:
    groups = [f"visit {place // 3}" for place in range(60)] + [""] * 20
    learned, held_out = divide(groups, ratio=0.2, seed=0)
    assert sorted(learned + held_out) == list(range(80)) and len(held_out) == 16
    assert not {groups[place] for place in learned if groups[place]} & {groups[place] for place in held_out}
    assert divide(groups, ratio=0.2, seed=0) == (learned, held_out) != divide(groups, ratio=0.2, seed=1)


@pytest.mark.parametrize(
    ("groups", "ratio"),
    [
        ([f"{place % 9}" for place in range(90)], 0.5),  # too few groups
        ([""] * 40, 0.0),
        ([""] * 12, 0.1),  # one photo has no other to be told apart from
        ([""] * 12, 0.95),  # nor has one to learn from
    ],
)
def test_none_are_held_out_where_that_makes_no_sense(groups: list[str], ratio: float) -> None:
    assert divide(groups, ratio=ratio, seed=0) == (list(range(len(groups))), [])


def test_processes_take_equal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (fitting(32, 100), fitting(32, 20), share([4, 5, 6])) == (32, 20, [4, 5, 6])
    monkeypatch.setattr(module, "num_ranks", lambda: 3)
    assert (fitting(32, 100), fitting(32, 20)) == (30, 18)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        shares.append(share([*range(6)]))
    assert shares == [[0, 3], [1, 4], [2, 5]]
    assert divide([""] * 40, ratio=0.1, seed=0)[1] == []  # four photos are too few for three processes
