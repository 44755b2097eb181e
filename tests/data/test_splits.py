from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inlier.data.splits import group_folds, hold_out

any_groups = st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40).filter(lambda g: len(set(g)) > 1)
seeds = st.integers(0, 2**32 - 1)


def test_folds_by_hand() -> None:
    # Sizes 4, 3, 2, 2, 1 into two folds: 4 | 3, then 2 to the second (5), 2 to the first (6), 1 there (6).
    groups = list("aaaabbbccdde")
    for seed in range(20):
        folds = group_folds(groups, num_folds=2, seed=seed)
        assert np.bincount(folds).tolist() == [6, 6]
        assert folds[0] == 0 != folds[4]
        assert folds[7] != folds[9]


@given(any_groups, seeds, st.data())
def test_folds_keep_groups_whole_and_balanced(groups: list[str], seed: int, data: st.DataObject) -> None:
    num_folds = data.draw(st.integers(2, len(set(groups))))
    folds = group_folds(groups, num_folds=num_folds, seed=seed)
    assert len(set(zip(groups, folds, strict=True))) == len(set(groups))
    sizes = np.bincount(folds, minlength=num_folds)
    assert sizes.min() > 0
    assert sizes.max() - sizes.min() <= max(groups.count(group) for group in groups)


@given(any_groups, seeds, st.randoms())
def test_order_of_photos_changes_nothing(groups: list[str], seed: int, random: object) -> None:
    order = list(range(len(groups)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = [groups[index] for index in order]
    folds = group_folds(groups, num_folds=2, seed=seed)
    assert (group_folds(shuffled, num_folds=2, seed=seed) == folds[order]).all()
    held_out = hold_out(groups, ratio=0.3, seed=seed)
    assert (hold_out(shuffled, ratio=0.3, seed=seed) == held_out[order]).all()


def test_seed_decides_among_equals() -> None:
    groups = [str(number) for number in range(50)]
    folds = [tuple(group_folds(groups, num_folds=5, seed=seed)) for seed in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]
    held_out = [tuple(hold_out(groups, ratio=0.2, seed=seed)) for seed in (0, 0, 1)]
    assert held_out[0] == held_out[1] != held_out[2]
    assert all(sum(mask) == 10 for mask in held_out)


@given(any_groups, seeds, st.floats(0.01, 0.99))
def test_hold_out_is_as_close_as_whole_groups_allow(groups: list[str], seed: int, ratio: float) -> None:
    held_out = hold_out(groups, ratio=ratio, seed=seed)
    assert len(set(zip(groups, held_out, strict=True))) == len(set(groups))
    sizes = [groups.count(group) for group in set(groups)]
    sums = {
        sum(chosen) for count in range(1, len(sizes)) for chosen in itertools.combinations(sizes, count)
    }  # every way to hold out some groups, and not all
    wanted = ratio * len(groups)
    assert abs(held_out.sum() - wanted) == pytest.approx(min(abs(total - wanted) for total in sums))


def test_hold_out_gives_every_photo_a_chance() -> None:
    groups = list("aabbccddee")
    share = np.mean([hold_out(groups, ratio=0.4, seed=seed) for seed in range(400)], axis=0)
    assert share == pytest.approx(np.full(10, 0.4), abs=0.1)


@pytest.mark.parametrize("num_folds", [1, 4])
def test_wrong_number_of_folds(num_folds: int) -> None:
    with pytest.raises(
        ValueError, match=rf"num_folds of group_folds must be in \[2, 3\], .* groups, got {num_folds}\."
    ):
        group_folds(["a", "b", "b", "c"], num_folds=num_folds, seed=0)


def test_wrong_hold_out() -> None:
    for ratio in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"ratio of hold_out must be in \(0, 1\), got"):
            hold_out(["a", "b"], ratio=ratio, seed=0)
    with pytest.raises(ValueError, match=r"groups of hold_out must be at least two, .* got 1\."):
        hold_out(["a", "a"], ratio=0.5, seed=0)
