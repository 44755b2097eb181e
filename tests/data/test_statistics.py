from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2hsv

from inlier.data.statistics import photo_statistics


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def test_a_plain_photo_by_hand() -> None:
    pixels = np.empty((10, 20, 3), dtype=np.uint8)
    pixels[:] = (255, 51, 0)
    assert photo_statistics(pixels) == pytest.approx(
        {
            "brightness": 0.299 + 0.587 * 0.2,
            "contrast": 0.0,
            "saturation": 1.0,
            "border": 0.0,
            "edges": 0.0,
            "aspect": 2.0,
        },
        abs=1e-6,
    )


def test_a_bright_inside_by_hand() -> None:
    values = np.zeros((10, 10))
    values[1:-1, 1:-1] = 255
    statistics = photo_statistics(_grey(values))
    assert statistics["brightness"] == pytest.approx(0.64)
    assert statistics["contrast"] == pytest.approx(np.sqrt(0.64 * 0.36))
    assert statistics["border"] == pytest.approx(-1.0)
    assert statistics["saturation"] == 0.0
    # Of the 9 x 9 forward gradients, that at one corner has both parts, and 30 along the frame have one.
    assert statistics["edges"] == pytest.approx((np.sqrt(2) + 30) / 81, abs=1e-6)


def test_the_border_is_a_tenth_on_each_side() -> None:
    values = np.zeros((40, 20))
    values[:4], values[-4:], values[:, :2], values[:, -2:] = 255, 255, 255, 255
    assert photo_statistics(_grey(values))["border"] == pytest.approx(1.0)
    values[4, 2] = 255
    assert photo_statistics(_grey(values))["border"] == pytest.approx(1 - 1 / (32 * 16))


def test_statistics_agree_with_numpy_and_scikit_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)
    pixels[:3] = 0
    statistics = photo_statistics(pixels)
    luma = np.average(pixels / 255, axis=2, weights=[0.299, 0.587, 0.114])
    assert statistics["brightness"] == pytest.approx(luma.mean(), abs=1e-6)
    assert statistics["contrast"] == pytest.approx(luma.std(), abs=1e-6)
    assert statistics["saturation"] == pytest.approx(rgb2hsv(pixels)[..., 1].mean(), abs=1e-6)
    edges = [np.hypot(luma[i + 1, j] - luma[i, j], luma[i, j + 1] - luma[i, j]) for i in range(30) for j in range(46)]
    assert statistics["edges"] == pytest.approx(np.mean(edges), abs=1e-6)


def test_the_aspect_of_the_photo_as_taken_is_kept() -> None:
    assert photo_statistics(np.zeros((8, 8, 3), dtype=np.uint8), aspect=1.5)["aspect"] == 1.5


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (2, 30)])
def test_a_photo_too_small_for_a_border_or_a_gradient_has_none(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    statistics = photo_statistics(pixels)
    assert statistics["border"] == 0.0
    assert all(isinstance(value, float) and np.isfinite(value) for value in statistics.values())
    if min(shape) == 1:
        assert statistics["edges"] == 0.0


@pytest.mark.parametrize(
    ("pixels", "got"),
    [
        (np.zeros((4, 4), dtype=np.uint8), r"uint8 of shape \(4, 4\)"),
        (np.zeros((4, 4, 4), dtype=np.uint8), r"uint8 of shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"uint8 of shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 3), dtype=np.float32), r"float32 of shape \(4, 4, 3\)"),
    ],
)
def test_other_arrays_are_refused(pixels: np.ndarray, got: str) -> None:
    with pytest.raises(
        ValueError, match=rf"pixels of photo_statistics must be uint8 of shape \(H, W, 3\), got {got}\."
    ):
        photo_statistics(pixels)


@pytest.mark.parametrize("aspect", [0.0, -1.0, float("inf"), float("nan")])
def test_an_impossible_aspect_is_refused(aspect: float) -> None:
    with pytest.raises(ValueError, match=r"aspect of photo_statistics must be positive, got "):
        photo_statistics(np.zeros((4, 4, 3), dtype=np.uint8), aspect=aspect)
