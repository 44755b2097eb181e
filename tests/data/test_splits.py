from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from inlier.data.splits import group_folds, hold_out, stratified_folds

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


@st.composite
def _labelled(draw: st.DrawFn) -> tuple[list[str], list[str]]:
    """Photos of at least two groups with normal ones, a group's photos of any labels."""
    photos = draw(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("ncd")), max_size=40))
    groups, labels = zip(*photos, ("a", "n"), ("b", "n"), strict=True)
    return list(groups), list(labels)


def _is_normal(labels: list[str]) -> np.ndarray:
    return np.array(labels) == "n"


@given(_labelled(), seeds, st.data())
def test_stratified_folds_keep_groups_whole_and_give_each_a_needed_photo(
    photos: tuple[list[str], list[str]], seed: int, data: st.DataObject
) -> None:
    groups, labels = photos
    needed = _is_normal(labels)
    most = len({group for group, is_needed in zip(groups, needed, strict=True) if is_needed})
    num_folds = data.draw(st.integers(2, most))
    folds = stratified_folds(groups, labels, needed, num_folds=num_folds, seed=seed)
    assert len(set(zip(groups, folds, strict=True))) == len(set(groups))
    assert np.bincount(folds[needed], minlength=num_folds).min() > 0
    assert folds.min() >= 0 and folds.max() < num_folds


@given(_labelled(), seeds, st.randoms())
def test_order_of_photos_changes_no_stratified_fold(
    photos: tuple[list[str], list[str]], seed: int, random: object
) -> None:
    order = list(range(len(photos[0])))
    random.shuffle(order)  # type: ignore[attr-defined]
    groups, labels = ([of[place] for place in order] for of in photos)
    folds = stratified_folds(*photos, _is_normal(photos[1]), num_folds=2, seed=seed)
    assert (stratified_folds(groups, labels, _is_normal(labels), num_folds=2, seed=seed) == folds[order]).all()


def test_photos_without_a_group_are_stratified_as_evenly_as_can_be() -> None:
    labels = ["n"] * 23 + ["c"] * 7 + ["d"] * 2
    groups = [str(number) for number in range(32)]
    folds = [stratified_folds(groups, labels, _is_normal(labels), num_folds=5, seed=seed) for seed in (0, 0, 1)]
    for label, least, most in (("n", 4, 5), ("c", 1, 2), ("d", 0, 1)):
        counts = np.bincount(folds[0][np.array(labels) == label], minlength=5)
        assert (counts.min(), counts.max()) == (least, most)
    assert (folds[0] == folds[1]).all() and (folds[0] != folds[2]).any()


def test_stratified_folds_by_hand() -> None:
    # Normal photos first, the two largest apart: a | b. Then c, of cracks alone, where there are none: beside b.
    groups, labels = list("aaabbcc"), list("nncnncc")
    for seed in range(20):
        folds = stratified_folds(groups, labels, _is_normal(labels), num_folds=2, seed=seed)
        assert folds[0] != folds[3] == folds[5]


def test_needed_photos_go_first_by_hand() -> None:
    # By size alone the cracks of x would go first, then y to the other fold, and z beside y, far from those cracks.
    groups, labels = list("xxxxxxyyyyyzzzz"), list("ccccccnnnnnnccc")
    for seed in range(5):
        folds = stratified_folds(groups, labels, _is_normal(labels), num_folds=2, seed=seed)
        assert folds[0] == folds[6] != folds[11]


def test_stratified_folds_are_as_even_as_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    groups = [f"{group:02d}" for group in rng.integers(40, size=300)]
    labels = ["ncd"[label] for label in rng.choice(3, size=300, p=[0.6, 0.3, 0.1])]

    def unevenness(folds: np.ndarray) -> float:
        counts = [np.bincount(folds[np.array(labels) == label], minlength=5) for label in "ncd"]
        return float(sum(((of / of.sum()) ** 2).sum() for of in counts))

    theirs = np.zeros(300, dtype=np.int64)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for fold, (_, held_out) in enumerate(splitter.split(groups, labels, groups)):
        theirs[held_out] = fold
    ours = stratified_folds(groups, labels, _is_normal(labels), num_folds=5, seed=0)
    assert unevenness(ours) <= 1.01 * unevenness(theirs)  # 3 / 5 would be even


@pytest.mark.parametrize("num_folds", [1, 3])
def test_more_folds_than_needed_groups_are_refused(num_folds: int) -> None:
    sentence = rf"num_folds of stratified_folds must be in \[2, 2\], the number of groups .*, got {num_folds}\."
    with pytest.raises(ValueError, match=sentence):
        stratified_folds(list("abc"), list("nnc"), _is_normal(list("nnc")), num_folds=num_folds, seed=0)
