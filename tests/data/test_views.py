from __future__ import annotations

import doctest

import numpy as np
import pytest

from inlier.data import views as module
from inlier.data.views import MAX_VIEWS, View, hand_held_views


def _photo(height: int = 24, width: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 2)


def test_views_differ_and_none_is_the_photo_itself() -> None:
    views = hand_held_views(MAX_VIEWS)
    assert len({view.name for view in views}) == len(views) == 4 * 3 * 2 - 1
    seen = {view.apply(_photo()).tobytes() for view in views}
    assert len(seen) == MAX_VIEWS and _photo().tobytes() not in seen


def test_what_differs_in_one_thing_comes_first() -> None:
    names = [view.name for view in hand_held_views(MAX_VIEWS)]
    assert names[:6] == [
        "turned by 90 degrees", "turned by 180 degrees", "turned by 270 degrees", "darker", "brighter", "nearer",
    ]  # fmt: skip
    counts = [name.count(",") for name in names]
    assert counts == sorted(counts) and counts[-1] == 2
    assert hand_held_views(3) == hand_held_views(MAX_VIEWS)[:3]
    assert hand_held_views(0) == ()


@pytest.mark.parametrize("num_turns", [1, 2, 3])
def test_a_turn_moves_every_pixel_and_changes_none(num_turns: int) -> None:
    photo = _photo()
    turned = View(num_turns, 1.0, 1.0, "turned").apply(photo)
    assert turned.shape == ((40, 24, 3) if num_turns % 2 else (24, 40, 3))
    back = View(4 - num_turns, 1.0, 1.0, "turned back").apply(turned)
    assert np.array_equal(back, photo)
    if num_turns == 1:  # to the left: the upper right corner comes to the upper left
        assert np.array_equal(turned[0, 0], photo[0, -1])


def test_light_follows_the_power_and_leaves_black_and_white() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for gamma in (1.5, 0.67):
        expected = [round(255 * (level / 255) ** gamma) for level in range(256)]
        assert View(0, 1.0, gamma, "light").apply(ramp)[0, :, 0].tolist() == expected


def test_nearer_shows_the_middle_at_the_same_size() -> None:
    photo = np.zeros((40, 60, 3), dtype=np.uint8)
    photo[10:30, 15:45] = 255  # the middle half of each side
    nearer = View(0, 2.0, 1.0, "nearer").apply(photo)
    assert nearer.shape == photo.shape
    assert (nearer[1:-1, 1:-1] == 255).all()


def test_one_pixel_is_a_photo_too() -> None:
    for view in hand_held_views(MAX_VIEWS):
        assert view.apply(_photo(1, 1)).shape == (1, 1, 3)


@pytest.mark.parametrize("num_views", [-1, MAX_VIEWS + 1])
def test_more_views_than_there_are_are_refused(num_views: int) -> None:
    with pytest.raises(ValueError, match=rf"^num_views must be in \[0, 23\], got {num_views}\.$"):
        hand_held_views(num_views)
