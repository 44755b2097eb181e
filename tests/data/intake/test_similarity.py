from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from inlier.data.intake import similarity
from inlier.data.intake.hashing import perceptual_hashes
from inlier.data.intake.similarity import LEAST, Pairs, clusters, find_pairs, is_same_picture, thumbnail
from inlier.data.synthetic import COMPONENTS, draw_component

Pixels = NDArray[np.uint8]


@cache
def piston(seed: int = 0) -> Pixels:
    return draw_component("piston-crown", seed=seed).image


@cache
def family() -> tuple[Pixels, ...]:
    """Photos of four kinds of components, 6 of each."""
    return tuple(draw_component(kind, seed=seed).image for kind in COMPONENTS[:4] for seed in range(6))


def re_encoded(pixels: Pixels, *, quality: int = 60, scale: float = 1) -> Pixels:
    photo = Image.fromarray(pixels)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def exposed(pixels: Pixels, *, gain: float = 1, gamma: float = 1) -> Pixels:
    return np.clip(255 * gain * (pixels / 255) ** gamma, 0, 255).astype(np.uint8)


def shifted(pixels: Pixels, *, by: int = 2) -> Pixels:
    """Moved by so many 64ths of either side, which are pixels of a thumbnail, and its edge filled up."""
    height, width = pixels.shape[:2]
    down, right = by * height // 64, by * width // 64
    around = ((max(down, 0), max(-down, 0)), (max(right, 0), max(-right, 0)), (0, 0))
    return np.pad(pixels, around, mode="edge")[max(-down, 0) :, max(-right, 0) :][:height, :width]


def turned(pixels: Pixels, turn: int) -> Pixels:
    return np.ascontiguousarray(np.rot90(pixels, turn))


def on_fixture(number: int) -> list[Pixels]:
    """Photos of different things before one background: what all share, and as much that each has alone."""
    rng = np.random.default_rng(0)
    background = draw_component("cylinder-liner", seed=1, size=(128, 128)).image.astype(np.float64)
    photos = []
    for _ in range(number):
        own = ndimage.gaussian_filter(rng.normal(size=(128, 128)), 1.2)
        photos.append(np.clip(background + 12 * own[..., None] / own.std(), 0, 255).astype(np.uint8))
    return photos


def square(pixels: Pixels) -> Pixels:
    grey = Image.fromarray(pixels).convert("L")
    return np.asarray(grey.resize((256, 256), Image.Resampling.BILINEAR, reducing_gap=3.0))


def pairs_of(photos: Sequence[Pixels], **options: Any) -> Pairs:
    thumbnails = [thumbnail(photo) for photo in photos]
    hashes = np.array([perceptual_hashes(small) for small in thumbnails], dtype=np.uint64).reshape(-1, 4)
    return find_pairs(hashes, thumbnails.__getitem__, **options)


def ends(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def pairs_from(*joined: tuple[int, int]) -> Pairs:
    first, second = np.array(joined, dtype=np.int64).reshape(-1, 2).T
    number = len(first)
    similarity = np.linspace(0.5, 1, number, dtype=np.float32)
    return Pairs(first, second, np.zeros(number, np.int8), similarity, np.arange(number) % 2 == 0)


def test_thumbnail_is_the_grey_photo_in_a_square() -> None:
    pixels = np.zeros((128, 256, 3), dtype=np.uint8)
    pixels[:64, :, 0], pixels[64:, :128, 1], pixels[64:, 128:, 2] = 200, 200, 200
    small = thumbnail(pixels)
    assert (small.shape, small.dtype) == ((64, 64), np.uint8)
    expected = [round(200 * weight) for weight in (0.299, 0.299, 0.587, 0.114)]  # ITU-R BT.601
    assert [small[8, 8], small[8, 56], small[56, 8], small[56, 56]] == expected


@pytest.mark.parametrize(
    ("change", "turn", "may_be_same"),
    (
        (lambda pixels: re_encoded(pixels), 0, True),
        (lambda pixels: re_encoded(pixels, quality=80, scale=0.6), 0, True),
        (lambda pixels: exposed(pixels, gamma=0.7), 0, False),
        (lambda pixels: exposed(pixels, gain=0.6), 0, False),
        (lambda pixels: turned(pixels, -1), 1, True),
        (lambda pixels: turned(pixels, 2), 2, True),
        (lambda pixels: re_encoded(turned(pixels, 1), scale=0.8), 3, True),
        (lambda pixels: exposed(turned(pixels, 1), gain=0.8), 3, False),
    ),
    ids=["re-encoded", "resized", "lighter", "darker", "right", "upside down", "left", "left and darker"],
)
def test_a_changed_copy_is_found_among_other_photos(
    change: Callable[[Pixels], Pixels], turn: int, may_be_same: bool
) -> None:
    for place, pixels in enumerate(family()[::5]):
        pairs = pairs_of([*family()[::5], change(pixels)])
        assert ends(pairs) == [(place, 5)]
        assert (pairs.turn.tolist(), pairs.may_be_same.tolist()) == ([turn], [may_be_same])
        assert 0.9 < pairs.similarity[0] <= 1


def test_a_shifted_copy_is_found_where_its_hash_is_near() -> None:
    for pixels in family():
        hashes = [int(perceptual_hashes(thumbnail(of))[0]) for of in (pixels, shifted(pixels))]
        pairs = pairs_of([pixels, shifted(pixels)])
        assert ends(pairs) == ([(0, 1)] if (hashes[0] ^ hashes[1]).bit_count() <= 12 else [])
        assert (pairs.similarity > 0.9).all() and not pairs.turn.any()


@pytest.mark.parametrize(("by", "is_found"), ((0, True), (2, True), (-4, True), (-7, False), (10, False)))
def test_details_are_compared_at_shifts_of_up_to_four_pixels(by: int, is_found: bool) -> None:
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(256, 256, 1)), (3, 3, 0))
    pixels = np.repeat(np.clip(128 + 500 * texture, 0, 255).astype(np.uint8), 3, axis=2)
    thumbnails = [thumbnail(pixels), thumbnail(shifted(pixels, by=by))]
    like_hashes = np.zeros((2, 4), dtype=np.uint64)
    assert bool(ends(find_pairs(like_hashes, thumbnails.__getitem__))) == is_found


def test_photos_of_different_things_of_one_kind_are_none() -> None:
    pairs = pairs_of(family())
    assert ends(pairs) == []
    assert [pairs.turn.dtype, pairs.similarity.dtype, pairs.may_be_same.dtype] == [np.int8, np.float32, np.bool_]


@pytest.mark.parametrize("number", (0, 1))
def test_no_photo_and_one_photo_have_no_pairs(number: int) -> None:
    assert ends(pairs_of(family()[:number])) == []


def test_photos_without_any_detail_are_not_alike() -> None:
    blank = [np.full((64, 64, 3), grey, dtype=np.uint8) for grey in (0, 0, 128, 255, 255)]
    assert ends(pairs_of(blank)) == []


def test_photos_on_a_fixture_are_not_chained_together() -> None:
    assert ends(pairs_of(on_fixture(60))) == []


def test_few_photos_of_one_scene_are_alike() -> None:
    assert clusters(pairs_of(on_fixture(8)), 8) == [list(range(8))]


@pytest.mark.parametrize("num_others", (0, 40))
def test_twenty_copies_of_one_picture_are_joined_although_they_are_a_crowd(num_others: int) -> None:
    photos = on_fixture(num_others + 1)
    copies = [re_encoded(photos[0], quality=quality) for quality in range(75, 95)]
    joined = clusters(pairs_of([*photos, *copies]), len(photos) + 20)
    assert joined == [[0, *range(len(photos), len(photos) + 20)]]


def test_pairs_do_not_depend_on_the_order_of_photos() -> None:
    photos = [*family(), *on_fixture(20), *(re_encoded(pixels) for pixels in family()[:8])]
    photos += [exposed(turned(pixels, 1), gain=0.8) for pixels in family()[4:12]]
    pairs = pairs_of(photos)
    expected = {
        (first, second): (turn, similarity, same)
        for first, second, turn, similarity, same in zip(
            *ends_and_turns(pairs), pairs.similarity.tolist(), pairs.may_be_same.tolist(), strict=True
        )
    }
    assert len(expected) == 8 + 8 + 4
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(photos))
        shuffled = pairs_of([photos[place] for place in order])
        for row, (one, other) in enumerate(ends(shuffled)):
            first, second, turn = int(order[one]), int(order[other]), int(shuffled.turn[row])
            if first > second:
                first, second, turn = second, first, -turn % 4
            was_turn, similarity, same = expected[first, second]
            assert (turn, bool(shuffled.may_be_same[row])) == (was_turn, same)
            assert shuffled.similarity[row] == pytest.approx(similarity, abs=1e-4)
        assert len(shuffled.first) == len(expected)


def ends_and_turns(pairs: Pairs) -> tuple[list[int], list[int], list[int]]:
    return pairs.first.tolist(), pairs.second.tolist(), pairs.turn.tolist()


def test_pairs_do_not_depend_on_the_size_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [change for pixels in family()[:8] for change in (pixels, re_encoded(pixels), turned(pixels, 1))]
    expected, told = pairs_of(photos), Counter[str]()
    monkeypatch.setattr(similarity, "_BLOCK", 5)
    pairs = pairs_of(photos, advance=lambda steps: told.update({"steps": steps}))
    assert ends_and_turns(pairs) == ends_and_turns(expected)
    np.testing.assert_allclose(pairs.similarity, expected.similarity, atol=1e-6)
    assert told["steps"] >= len(pairs.first) == 24


@pytest.mark.parametrize("since", (0, 1, 8, 15, 16))
def test_since_gives_the_pairs_with_a_new_photo(since: int) -> None:
    photos = [change for pixels in family()[:8] for change in (pixels, exposed(pixels, gain=0.8))]
    everything = pairs_of(photos)
    assert ends(everything) == [(place, place + 1) for place in range(0, 16, 2)]
    pairs = pairs_of(photos, since=since)
    assert ends(pairs) == [(first, second) for first, second in ends(everything) if second >= since]


def test_a_copy_of_a_new_photo_among_the_old_ones_needs_only_the_first_hash_of_these() -> None:
    """Of the photos that a data set holds only the first hash is known."""
    thumbnails = [thumbnail(pixels) for pixels in (piston(), piston(1), turned(piston(1), 1), turned(piston(), 2))]
    hashes = np.array([perceptual_hashes(small) for small in thumbnails])
    hashes[:2, 1:] = 0
    pairs = find_pairs(hashes, thumbnails.__getitem__, since=2)
    assert ends_and_turns(pairs) == ([0, 1], [3, 2], [2, 3])


@pytest.mark.parametrize(("quality", "scale"), ((40, 1), (60, 1), (80, 0.7), (95, 1.5)))
def test_a_re_encoded_copy_is_the_same_picture(quality: int, scale: float) -> None:
    for pixels in family()[::5]:
        assert is_same_picture(square(pixels), square(re_encoded(pixels, quality=quality, scale=scale)))


def test_a_copy_with_a_scratch_is_another_picture() -> None:
    photo = Image.fromarray(piston())
    ImageDraw.Draw(photo).line([(180, 120), (215, 150)], fill=(235, 235, 235), width=3)
    assert not is_same_picture(square(piston()), square(np.asarray(photo)))
    assert not is_same_picture(square(piston()), square(re_encoded(np.asarray(photo), quality=90)))


def test_a_display_with_another_digit_is_another_picture() -> None:
    displays = []
    for number in ("1207 rpm", "1208 rpm"):
        photo = Image.new("RGB", (400, 300), (30, 40, 50))
        ImageDraw.Draw(photo).text((60, 120), number, fill=(240, 240, 200), font_size=40)
        displays.append(np.asarray(photo))
    assert is_same_picture(square(displays[0]), square(re_encoded(displays[0])))
    assert not is_same_picture(square(displays[0]), square(displays[1]))


def test_a_difference_is_small_up_to_four_and_a_half() -> None:
    grey = np.full((256, 256), 100, dtype=np.uint8)
    assert is_same_picture(grey, grey + np.uint8(4))
    assert not is_same_picture(grey, grey - np.uint8(5))
    assert not is_same_picture(grey - np.uint8(5), grey)


def test_clusters_join_photos_directly_or_through_others() -> None:
    pairs = pairs_from((2, 5), (0, 7), (1, 4), (4, 5), (3, 7))
    assert clusters(pairs, 9) == [[0, 3, 7], [1, 2, 4, 5]]


@pytest.mark.parametrize("num_photos", (0, 1, 3))
def test_without_pairs_there_are_no_clusters(num_photos: int) -> None:
    assert clusters(pairs_from(), num_photos) == []


def test_some_of_the_pairs() -> None:
    pairs = pairs_from((0, 1), (1, 2), (2, 3))
    some = pairs.select(pairs.similarity > LEAST)
    assert ends(some) == [(1, 2), (2, 3)]
    assert some.similarity.tolist() == [0.75, 1.0]
    assert some.may_be_same.tolist() == [False, True]
    assert ends(pairs.select(np.zeros(3, dtype=bool))) == []
