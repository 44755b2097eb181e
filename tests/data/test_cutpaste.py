from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional as tv

from inlier.data import cutpaste
from inlier.data.cutpaste import ALTERATIONS, Altered, cut_paste, scar

Alter = Callable[[NDArray[np.uint8], np.random.Generator], Altered]

both = pytest.mark.parametrize("alter", ALTERATIONS.values(), ids=ALTERATIONS)


@cache
def noise(height: int, width: int) -> NDArray[np.uint8]:
    """Of 16 million colours, so that hardly a pixel is like the one pasted over it."""
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Height and width of what is marked."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


@both
def test_the_mask_is_where_the_photo_changed_and_nothing_else_did(alter: Alter) -> None:
    photo = noise(120, 160)
    before = photo.copy()
    for seed in range(20):
        altered = alter(photo, np.random.default_rng(seed))
        assert (altered.pixels.shape, altered.pixels.dtype) == (photo.shape, np.uint8)
        assert (altered.mask.shape, altered.mask.dtype) == ((120, 160), np.bool_)
        assert np.array_equal(altered.mask, (altered.pixels != photo).any(axis=2))
        assert altered.mask.any()
        assert altered.pixels.flags.writeable
    assert np.array_equal(photo, before)


def test_a_patch_is_a_rectangle_of_the_size_and_shape_of_the_paper() -> None:
    areas, aspects = [], []
    for seed in range(200):
        mask = cut_paste(noise(200, 300), np.random.default_rng(seed)).mask
        height, width = box(mask)
        assert mask.sum() > 0.99 * height * width
        areas.append(height * width / (200 * 300))
        aspects.append(width / height)
    assert 0.019 <= min(areas) < 0.03 and 0.14 < max(areas) <= 0.151  # sides are whole pixels
    assert 0.29 <= min(aspects) < 0.4 and 3.0 < max(aspects) <= 3.4
    assert 0.4 < np.mean(np.array(aspects) > 1) < 0.6


def test_a_patch_shows_another_place_of_the_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutpaste, "JITTER", 0.0)
    ramp = np.arange(100 * 100, dtype=np.uint16).reshape(100, 100)
    photo = np.stack([ramp // 256, ramp % 256, ramp // 256], axis=2).astype(np.uint8)  # each pixel tells its place
    monkeypatch.setattr(cutpaste, "_turn_hue", lambda piece, turns: piece)  # through HSV, which rounds
    altered = cut_paste(photo, np.random.default_rng(0))
    places = altered.pixels[..., 0].astype(int) * 256 + altered.pixels[..., 1]
    moved = (places - ramp)[altered.mask]
    assert len(set(moved.tolist())) == 1 and moved[0] != 0


@pytest.mark.parametrize("side", [128, 256, 384])
def test_a_scar_is_as_long_and_wide_as_in_the_paper_at_any_resolution(side: int) -> None:
    scale = side / 256
    areas, spans = [], []
    for seed in range(200):
        mask = scar(noise(side, side), np.random.default_rng(seed)).mask
        areas.append(mask.sum() / scale**2)
        spans.append(np.hypot(*box(mask)) / scale)
    assert min(areas) >= 0.5 * 2 * 10 and max(areas) <= 1.15 * 16 * 25
    assert 0.8 * (2 + 16) / 2 * (10 + 25) / 2 < np.mean(areas) < 1.2 * (2 + 16) / 2 * (10 + 25) / 2
    assert max(spans) <= np.sqrt(2) * np.hypot(16, 25) + 4  # the box of a turned rectangle


def test_scars_lean_to_both_sides_and_never_lie() -> None:
    slopes = []
    for seed in range(100):
        rows, columns = np.nonzero(scar(noise(512, 512), np.random.default_rng(seed)).mask)
        spread = np.cov(rows, columns)
        is_long = np.linalg.eigvalsh(spread)[1] > 6 * np.linalg.eigvalsh(spread)[0]
        if is_long:  # a nearly square one has no direction
            down, right = np.linalg.eigh(spread)[1][:, 1]
            slopes.append(np.degrees(np.arctan2(right * np.sign(down), abs(down))))
    assert -50 < min(slopes) < -30 and 30 < max(slopes) < 50


@both
def test_the_generator_decides_everything(alter: Alter) -> None:
    photo = noise(90, 70)
    first, again, other = (alter(photo, np.random.default_rng(seed)).pixels for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@both
def test_a_larger_photo_is_altered_in_the_same_place_with_as_many_draws(alter: Alter) -> None:
    photo = noise(150, 200)
    larger = photo.repeat(4, axis=0).repeat(4, axis=1)
    for seed in range(10):
        one, two = np.random.default_rng(seed), np.random.default_rng(seed)
        small, large = alter(photo, one).mask, alter(larger, two).mask
        assert one.random() == two.random()
        centers = [np.array(np.nonzero(mask)).mean(axis=1) / mask.shape for mask in (small, large)]
        assert np.abs(centers[0] - centers[1]).max() < 0.02
        assert small.mean() == pytest.approx(large.mean(), rel=0.35)  # a scar of 2 pixels rounds


@both
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 300), (300, 5), (16, 16)])
def test_tiny_and_narrow_photos_are_altered_too(alter: Alter, shape: tuple[int, int]) -> None:
    for seed in range(30):
        assert alter(noise(*shape), np.random.default_rng(seed)).pixels.shape == (*shape, 3)


@both
def test_a_photo_of_one_grey_changes_in_brightness_alone(alter: Alter) -> None:
    grey = np.full((64, 64, 3), 100, dtype=np.uint8)
    altered = alter(grey, np.random.default_rng(0))
    changed = altered.pixels[altered.mask]
    assert 0 < len(changed) and np.ptp(changed, axis=1).max() == 0 and 90 <= changed.min() <= changed.max() <= 110
    assert not alter(np.zeros_like(grey), np.random.default_rng(0)).mask.any()


def test_colours_change_as_torchvision_changes_them() -> None:
    piece = Image.fromarray(noise(40, 30))
    amounts, order = (0.07, -0.05, 0.1, -0.08), (2, 0, 3, 1)

    class Drawn:
        def uniform(self, low: float, high: float, size: int) -> NDArray[np.float64]:
            return np.array(amounts)

        def permutation(self, number: int) -> tuple[int, ...]:
            return order

    expected = piece
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation)
    for change in order:
        amount = amounts[change]
        expected = adjust[change](expected, 1 + amount) if change < 3 else tv.adjust_hue(expected, amount)
    jittered = cutpaste._jitter(piece, Drawn())  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(jittered), np.asarray(expected))
