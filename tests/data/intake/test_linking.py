from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inlier.data.intake.linking import collapse, links_of_keys, name_groups, unite
from inlier.data.intake.similarity import Pairs


def pairs_of(*joined: tuple[int, int]) -> Pairs:
    first, second = np.array(joined, dtype=np.int64).reshape(-1, 2).T
    number = len(first)
    return Pairs(first, second, np.zeros(number, np.int8), np.ones(number, np.float32), np.ones(number, np.bool_))


def stands_for(
    *joined: tuple[int, int],
    kinds: str = "aaaaaa",
    quality: Sequence[int] = (1, 1, 1, 1, 1, 1),
    num_known: int = 0,
    different: Sequence[tuple[int, int]] = (),
) -> list[int]:
    pairs = pairs_of(*joined)

    def is_one(pair: int) -> bool:
        return joined[pair] not in different

    return collapse(pairs, kinds, np.array(quality), num_known=num_known, is_one=is_one).tolist()


def test_links_join_directly_and_through_others() -> None:
    units = unite(8, [(4, 6), (1, 3), (6, 3), (7, 7), (6, 1)], [""] * 8)
    assert units.dtype == np.int64
    assert units.tolist() == [0, 1, 2, 1, 1, 5, 1, 7]


def test_without_links_every_photo_is_a_unit() -> None:
    assert unite(3, [], ["", "train", ""]).tolist() == [0, 1, 2]
    assert unite(0, [], []).tolist() == []


def test_photos_of_two_places_are_never_joined() -> None:
    fixed = ["train", "", "test", "train", ""]
    assert unite(5, [(0, 2), (0, 3), (2, 3), (1, 4)], fixed).tolist() == [0, 1, 2, 0, 1]


def test_the_earlier_of_two_links_that_contradict_each_other_counts() -> None:
    fixed = ["train", "", "test"]
    assert unite(3, [(0, 1), (1, 2)], fixed).tolist() == [0, 0, 2]
    assert unite(3, [(1, 2), (0, 1)], fixed).tolist() == [0, 1, 1]


def test_a_place_goes_over_to_all_that_is_joined_to_it() -> None:
    links = [(0, 1), (2, 3), (1, 3), (4, 0), (5, 2)]
    assert unite(6, links, ["", "", "", "dev", "test", "dev"]).tolist() == [0, 0, 0, 0, 4, 0]
    assert unite(6, links, ["dev", "", "", "", "", "test"]).tolist() == [0, 0, 0, 0, 0, 5]


def test_a_long_chain_is_one_unit() -> None:
    number = 5000
    links = [(photo + 1, photo) for photo in reversed(range(number - 1))]
    assert set(unite(number, links, [""] * number).tolist()) == {0}


def test_the_best_of_several_stands_for_them() -> None:
    assert stands_for((0, 1), (1, 4), (2, 3), quality=(5, 7, 2, 2, 6, 9)) == [1, 1, 2, 2, 1, 5]


def test_of_equally_good_ones_the_first_stands_for_them() -> None:
    assert stands_for((0, 4), (4, 5), quality=(1, 9, 1, 1, 3, 3)) == [4, 1, 2, 3, 4, 4]


def test_known_photos_stand_for_themselves_and_before_better_new_ones() -> None:
    quality = (0, 0, 50, 90, 20, 30)
    assert stands_for((0, 2), (2, 3), (1, 4), quality=quality, num_known=2) == [0, 1, 0, 0, 1, 5]


def test_a_photo_that_is_like_two_known_ones_goes_to_the_first() -> None:
    """Else two photos of the data set would be one."""
    assert stands_for((0, 3), (1, 3), (1, 4), num_known=3) == [0, 1, 2, 0, 1, 5]
    assert stands_for((0, 3), (1, 4), (3, 4), num_known=3) == [0, 1, 2, 0, 1, 5]
    assert stands_for((0, 1), (1, 2), num_known=3) == [0, 1, 2, 3, 4, 5]


def test_known_photos_are_never_joined_by_a_chain_of_new_ones() -> None:
    assert stands_for((0, 2), (1, 5), (2, 3), (3, 4), (4, 5), num_known=2) == [0, 1, 0, 0, 0, 1]


def test_photos_of_two_kinds_are_not_made_one() -> None:
    assert stands_for((0, 1), (0, 2), (1, 2), (3, 4), kinds="abaccd") == [0, 1, 0, 3, 3, 5]


def test_photos_of_two_kinds_are_not_made_one_through_another() -> None:
    assert stands_for((0, 1), (1, 2), (2, 3), kinds="aabbbb") == [0, 0, 2, 2, 4, 5]


def test_only_pairs_that_are_one_picture_are_made_one() -> None:
    assert stands_for((0, 1), (1, 2), (3, 4), different=[(0, 1), (3, 4)]) == [0, 1, 1, 3, 4, 5]


def test_pairs_may_come_in_any_order() -> None:
    joined = [(0, 3), (1, 3), (1, 4), (2, 5), (4, 5)]
    expected = stands_for(*joined, num_known=3)
    assert expected == [0, 1, 2, 0, 1, 2]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(5).tolist()
        assert stands_for(*(joined[place] for place in order), num_known=3) == expected


def test_a_pair_is_looked_at_only_where_it_matters() -> None:
    asked: list[int] = []
    joined = ((0, 1), (0, 2), (0, 3), (1, 2), (2, 3))  # two known ones; already one; of two kinds

    def is_one(pair: int) -> bool:
        asked.append(pair)
        return True

    stands = collapse(pairs_of(*joined), "aaab", np.ones(4), num_known=2, is_one=is_one)
    assert stands.tolist() == [0, 1, 0, 3]
    assert asked == [1]


def test_without_photos_nothing_is_collapsed() -> None:
    assert collapse(pairs_of(), [], np.empty(0), num_known=0, is_one=bool).tolist() == []


def test_chosen_photos_with_one_key_are_linked_to_the_first_of_them() -> None:
    keys = ["a", "b", "a", "", "a", "b", ""]
    assert set(links_of_keys(keys, np.array([1, 2, 3, 4, 5, 6]))) - {(1, 1), (2, 2)} == {(2, 4), (1, 5)}
    assert list(links_of_keys(keys, np.array([3, 6]))) == []


def named(
    units: Sequence[int],
    *,
    chosen: Sequence[int] | None = None,
    given: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
) -> list[str]:
    return name_groups(
        np.array(units),
        np.array(range(len(units)) if chosen is None else chosen),
        given=given or [""] * len(units),
        keys=keys or [""] * len(units),
        splits=splits or ["train"] * len(units),
        name="near:{}".format,
    )


def test_a_unit_of_several_photos_is_named_by_its_first_one() -> None:
    assert named([0, 1, 0, 3, 1]) == ["near:0", "near:1", "near:0", "", "near:1"]


def test_only_chosen_photos_count() -> None:
    assert named([0, 0, 2, 2, 2], chosen=[1, 2, 4]) == ["", "near:2", "near:2"]


def test_a_unit_goes_by_a_given_group_before_a_key_and_by_the_first_of_several() -> None:
    units = [0, 0, 0, 3, 3, 5, 6, 6]
    given = ["", "part 9", "part 10", "", "", "", "", "part 2"]
    keys = ["day:1", "", "", "day:3", "day:2", "day:4", "", ""]
    expected = ["part 10", "part 9", "part 10", "day:2", "day:2", "day:4", "part 2", "part 2"]
    assert named(units, given=given, keys=keys) == expected


def test_a_given_group_and_a_key_stay_where_a_photo_is_alone() -> None:
    assert named([0, 1, 2], given=["part 1", "", ""], keys=["", "day:1", ""]) == ["part 1", "day:1", ""]


def test_a_group_in_two_splits_is_followed_by_the_split() -> None:
    units = [0, 1, 2, 3, 4]
    given = ["part 1", "part 1", "part 2", "part 2", ""]
    splits = ["train", "test", "dev", "dev", "test"]
    assert named(units, given=given, splits=splits) == ["part 1 (train)", "part 1 (test)", "part 2", "part 2", ""]


def test_photos_without_a_group_are_in_all_splits() -> None:
    assert named([0, 1, 2], splits=["train", "dev", "test"]) == ["", "", ""]
