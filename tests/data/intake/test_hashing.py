from __future__ import annotations

from typing import Any

import imagehash
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inlier.data.intake import hashing
from inlier.data.intake.hashing import MOST, RADIUS, TURNED_RADIUS, count_bits, find_candidates, perceptual_hashes


def small_pictures(number: int, seed: int = 0) -> NDArray[np.uint8]:
    """Shape (N, 32, 32): from coarse to pure noise."""
    rng = np.random.default_rng(seed)
    sides = rng.choice([3, 5, 8, 16, 32], size=number)
    pictures = [rng.integers(256, size=(side, side), dtype=np.uint8) for side in sides]
    return np.stack([np.asarray(Image.fromarray(picture).resize((32, 32))) for picture in pictures])


def twice_as_large(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.kron(small, np.ones((2, 2), dtype=np.uint8))


def flipped(number: int, *bits: int) -> int:
    for bit in bits:
        number ^= 1 << bit
    return number


def random_hashes(number: int, seed: int) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(2**64, size=(number, 4), dtype=np.uint64)


def hashes_with_neighbours(num_families: int, seed: int = 0) -> NDArray[np.uint64]:
    """Random ones, and after them neighbours of the first ones at 0 to 14 bits, turned by 0 to 3 quarters."""
    rng = np.random.default_rng(seed)
    own = random_hashes(2 * num_families, seed)
    neighbours = random_hashes(4 * 15 * num_families, seed + 1)
    for place, (turn, distance, family) in enumerate(np.ndindex(4, 15, num_families)):
        bits = rng.choice(64, size=distance, replace=False).tolist()
        neighbours[place, turn] = np.uint64(flipped(int(own[family, 0]), *bits))
    return np.concatenate([own, neighbours[rng.permutation(len(neighbours))]])


def all_with_all(hashes: NDArray[np.uint64], *, since: int = 0) -> list[tuple[int, int, int, int]]:
    """First, second, turn and distance of every pair, one comparison after another: the definition."""
    numbers = [[int(number) for number in row] for row in hashes]
    pairs = []
    for first, second in ((i, j) for i in range(len(numbers)) for j in range(max(i + 1, since), len(numbers))):
        distances = [(numbers[first][0] ^ numbers[second][turn]).bit_count() for turn in range(4)]
        met = [(d, turn) for turn, d in enumerate(distances) if d <= (TURNED_RADIUS if turn else RADIUS)]
        if met:
            pairs.append((first, second, min(met)[1], min(met)[0]))
    return pairs


def found(hashes: NDArray[np.uint64], **options: Any) -> list[tuple[int, int, int, int]]:
    candidates = find_candidates(hashes, **options)
    columns = (candidates.first, candidates.second, candidates.turn, candidates.distance)
    assert [column.dtype for column in columns] == [np.int64, np.int64, np.int8, np.uint8]
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_hashes_are_those_of_imagehash() -> None:
    pictures = small_pictures(100)
    mine = [int(perceptual_hashes(twice_as_large(picture))[0]) for picture in pictures]
    theirs = [int(str(imagehash.phash(Image.fromarray(picture))), 16) for picture in pictures]
    assert mine == theirs
    assert len(set(mine)) == 100


def test_half_size_is_the_mean_of_four_pixels() -> None:
    rng = np.random.default_rng(3)
    small = rng.integers(1, 255, size=(32, 32), dtype=np.uint8)
    grains = np.tile(np.array([[1, -1], [-1, 1]], dtype=np.int8), (32, 32))
    grainy = (twice_as_large(small).astype(np.int16) + grains).astype(np.uint8)
    np.testing.assert_array_equal(perceptual_hashes(grainy), perceptual_hashes(twice_as_large(small)))


def test_turned_hashes_are_those_of_the_turned_picture() -> None:
    for picture in small_pictures(20, seed=1):
        large = twice_as_large(picture)
        hashes = perceptual_hashes(large)
        assert hashes.dtype == np.uint64
        for turn in range(4):
            assert hashes[turn] == perceptual_hashes(np.rot90(large, turn))[0]


def test_hashes_are_the_same_as_in_data_sets_of_before() -> None:
    rows, columns = np.mgrid[:64, :64]
    picture = ((3 * rows**2 + 5 * columns**2 + 7 * rows * columns) // 9 % 251).astype(np.uint8)
    expected = ["8101010307bfffff", "81ff01fe03fc07e0", "d5aa55aa54a9da15", "d75554565656525a"]
    assert [f"{number:016x}" for number in perceptual_hashes(picture).tolist()] == expected


@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_those_of_a_comparison_of_all_with_all(seed: int) -> None:
    hashes = hashes_with_neighbours(4, seed=seed)
    expected = all_with_all(hashes)
    assert found(hashes) == expected
    for turn, radius in enumerate((RADIUS, TURNED_RADIUS, TURNED_RADIUS, TURNED_RADIUS)):
        assert {distance for *_, of, distance in expected if of == turn} >= set(range(radius + 1))


@pytest.mark.parametrize("since", (0, 1, 8, 100, 247, 248))
def test_since_leaves_out_pairs_of_old_photos(since: int) -> None:
    hashes = hashes_with_neighbours(4)
    assert found(hashes, since=since) == all_with_all(hashes, since=since)


def test_every_way_to_spread_differing_bits_over_the_bands_is_found() -> None:
    """Bits of a band stand together, so 12 of them in each share of four bands are the hard cases."""
    own = 0x0123_4567_89AB_CDEF
    spreads = [(3, 3, 3, 3), (12, 0, 0, 0), (0, 12, 0, 0), (0, 0, 12, 0), (4, 4, 4, 0), (0, 4, 4, 4), (4, 4, 0, 4)]
    rows = [(own, 1, 1, 1)]
    for spread in spreads:
        bits = [16 * band + 15 - bit for band, number in enumerate(spread) for bit in range(number)]
        rows.append((flipped(own, *bits), 1, 1, 1))
    pairs = [pair for pair in found(np.array(rows, dtype=np.uint64)) if pair[0] == 0]
    assert pairs == [(0, second, 0, 12) for second in range(1, len(rows))]


def test_turn_says_how_the_second_photo_is_turned_to_look_like_the_first() -> None:
    large = twice_as_large(small_pictures(1, seed=5)[0])
    for turn in (1, 2, 3):
        hashes = np.stack([perceptual_hashes(large), perceptual_hashes(np.rot90(large, -turn))])
        assert found(hashes) == [(0, 1, turn, 0)]


def test_a_pair_that_is_met_at_several_turns_is_met_once_at_the_nearest() -> None:
    row = [0xFFFF, flipped(0xFFFF, 1, 30), flipped(0xFFFF, 40), 0xFFFF]
    symmetrical = np.array([[0xFFFF] * 4, row, [0xFFFF] * 4], dtype=np.uint64)
    assert found(symmetrical) == [(0, 1, 0, 0), (0, 2, 0, 0), (1, 2, 0, 0)]
    symmetrical[1, 0] = flipped(0xFFFF, 2)
    assert found(symmetrical[:2]) == [(0, 1, 3, 0)]


def test_turned_photos_may_differ_less() -> None:
    for turn, radius in ((0, 12), (1, 8), (2, 8), (3, 8)):
        for distance in (radius, radius + 1):
            hashes = random_hashes(2, seed=turn)
            hashes[1, turn] = flipped(int(hashes[0, 0]), *range(5, 5 + distance))
            assert found(hashes) == ([(0, 1, turn, radius)] if distance == radius else [])


@pytest.mark.parametrize("number", (0, 1))
def test_no_photo_and_one_photo_have_no_candidates(number: int) -> None:
    assert found(random_hashes(number, seed=0)) == []
    assert found(random_hashes(number, seed=0), since=number) == []


def test_a_crowd_is_bounded_and_still_holds_identical_pairs() -> None:
    rng = np.random.default_rng(0)
    hashes = random_hashes(3000, seed=1)
    hashes[:, 0] = [flipped(0x0F0F_3333_5555_00FF, *rng.choice(64, size=3, replace=False)) for _ in range(3000)]
    copies = np.arange(1, 1000, 7)
    hashes[2000 + copies, 0] = hashes[copies, 0]
    pairs = found(hashes)
    assert np.bincount([second for _, second, _, _ in pairs]).max() == MOST
    identical = {(first, second) for first, second, _, distance in pairs if distance == 0}
    first_of: dict[int, int] = {}
    for photo, number in enumerate(hashes[:, 0].tolist()):
        earlier = first_of.setdefault(number, photo)
        assert earlier == photo or (earlier, photo) in identical


def test_many_copies_have_those_just_before_them_as_candidates() -> None:
    hashes = np.repeat(random_hashes(1, seed=0), 500, axis=0)
    of_last = [first for first, second, _, _ in found(hashes) if second == 499]
    assert of_last == list(range(499 - MOST, 499))
    assert len(found(hashes, since=499)) == MOST


def test_a_crowd_of_some_hash_does_not_hide_other_pairs() -> None:
    hashes = random_hashes(2002, seed=0)
    hashes[:2000, 0] = 0x0123_4567_89AB_CDEF
    hashes[2001, 0] = flipped(int(hashes[2000, 0]), 0, 17, 18, 40, 63)
    assert [pair for pair in found(hashes) if pair[0] == 2000] == [(2000, 2001, 0, 5)]


def test_candidates_do_not_depend_on_the_size_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = hashes_with_neighbours(2)
    expected = found(hashes)
    monkeypatch.setattr(hashing, "_CHUNK", 3)
    assert found(hashes) == expected


@pytest.mark.parametrize("is_numpy_1", (False, True))
def test_bits_are_counted_as_python_counts_them(is_numpy_1: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_numpy_1:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    ends = np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64)
    numbers = np.concatenate([random_hashes(500, seed=0).reshape(-1), ends])
    for some in (numbers, numbers[::3], numbers[:0]):
        counts = count_bits(some)
        assert counts.dtype == np.uint8
        assert counts.tolist() == [number.bit_count() for number in some.tolist()]
