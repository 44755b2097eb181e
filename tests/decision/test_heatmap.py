from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from inlier.decision.heatmap import OPACITY, RAMP, crop, encode, heat_overlay


def grey(tone: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), tone, dtype=np.uint8)


def constant(value: float) -> np.ndarray:
    return np.full((2, 2), value, dtype=np.float32)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 63, 3), dtype=np.uint8)


def test_a_grey_photo_shows_through_unchanged_below_the_scale():
    overlay = heat_overlay(grey(100), constant(0.9), scale=(1.0, 2.0))
    np.testing.assert_array_equal(overlay, grey(100))


def test_colours_are_muted_towards_their_own_grey():
    # Grey of (200, 100, 0): 0.299 * 200 + 0.587 * 100 = 118.5; 118.5 + 0.4 * (81.5, -18.5, -118.5) follows.
    pixels = np.array([[[200, 100, 0]]], dtype=np.uint8)
    assert heat_overlay(pixels, constant(0.0), scale=(1.0, 2.0)).tolist() == [[[151, 111, 71]]]


def test_at_and_above_the_top_the_ramp_ends():
    # 0.8 * (240, 249, 33) + 0.2 * 100.
    for value in (2.0, 50.0):
        overlay = heat_overlay(grey(100), constant(value), scale=(1.0, 2.0))
        assert overlay.reshape(-1, 3).tolist() == [[212, 219, 46]] * 24


def test_heat_is_ordered_in_lightness():
    heat = np.linspace(0, 1, len(RAMP) * 4, dtype=np.float32)[None]
    overlay = heat_overlay(grey(0, 1, heat.size), heat, scale=(0.0, 1.0))
    luma = overlay[0] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(luma) > 0).all()
    assert luma[-1] == pytest.approx(OPACITY * (np.array(RAMP[-1]) @ [0.299, 0.587, 0.114]), abs=1)


def test_a_small_map_is_stretched_as_torch_does(photo):
    small = np.random.default_rng(1).random((5, 7), dtype=np.float32)
    full = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None], (40, 63), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    expected = heat_overlay(photo, full, scale=(0.2, 0.8)).astype(int)
    np.testing.assert_allclose(heat_overlay(photo, small, scale=(0.2, 0.8)), expected, atol=1)


def test_the_same_score_has_the_same_colour_beside_any_other():
    calm = heat_overlay(grey(90, 2, 2), np.array([[1.2, 0], [0, 0]], np.float32), scale=(1.0, 2.0))
    hot = heat_overlay(grey(90, 2, 2), np.array([[1.2, 9], [9, 9]], np.float32), scale=(1.0, 2.0))
    np.testing.assert_array_equal(calm[0, 0], hot[0, 0])


@pytest.mark.parametrize(
    ("pixels", "anomaly_map", "scale", "sentence"),
    [
        (grey(0).astype(float), constant(0), (0, 1), r"pixels of heat_overlay must be uint8 .* got float64"),
        (grey(0)[..., 0], constant(0), (0, 1), r"uint8 of shape \(H, W, 3\), got uint8 of shape \(4, 6\)"),
        (grey(0), np.zeros((2, 2, 1), np.float32), (0, 1), r"must have shape \(h, w\), got \(2, 2, 1\)"),
        (grey(0), constant(0), (1, 1), r"scale of heat_overlay must rise, low < high, got \(1, 1\)"),
    ],
)
def test_heat_overlay_refuses(pixels, anomaly_map, scale, sentence):
    with pytest.raises(ValueError, match=sentence):
        heat_overlay(pixels, anomaly_map, scale=scale)


def test_the_whole_photo_comes_back_whole_and_without_a_frame(photo):
    np.testing.assert_array_equal(crop(photo, (0, 0, 1, 1), size=63), photo)
    assert crop(photo, (0, 0, 1, 1), size=126).shape == (80, 126, 3)


@pytest.mark.parametrize(("tone", "line", "row"), [(0, 255, 29), (255, 0, 28)])
def test_the_place_is_framed_on_dark_and_on_light(tone, line, row):
    # A fifth of 100 pixels, 2.5 times as wide: 25 to 75, so the place is at 30 to 70 of 100.
    result = crop(grey(tone, 100, 100), (0.4, 0.4, 0.6, 0.6), size=100)
    assert result.shape == (100, 100, 3)
    assert (result[30:70, 30:70] == tone).all()
    assert (result[row, row : 100 - row] == line).all()
    assert (result[row : 100 - row, 99 - row] == line).all()
    assert (result[:28] == tone).all()
    assert (result[72:] == tone).all()


def test_a_place_at_the_edge_keeps_its_window_inside():
    pixels = grey(0, 100, 100)
    pixels[:25, :25] = 200
    pixels[75:, 75:] = 60
    # 25 pixels wide, twice enlarged; the outermost few blend with what lies outside.
    assert (crop(pixels, (0, 0, 0.1, 0.1), size=50)[25:45, 25:45] == 200).all()
    assert (crop(pixels, (0.9, 0.9, 1, 1), size=50)[5:25, 5:25] == 60).all()


@pytest.mark.parametrize("box", [(0.5, 0, 0.5, 1), (0, 0.2, 1, 1.1), (-0.1, 0, 1, 1)])
def test_crop_refuses_a_box_that_is_empty_or_leaves_the_photo(photo, box):
    with pytest.raises(ValueError, match=r"box of crop must satisfy 0 <= left < right <= 1 .* got \("):
        crop(photo, box, size=10)


def test_crop_refuses_a_size(photo):
    with pytest.raises(ValueError, match=r"size of crop must be at least 1, got 0\."):
        crop(photo, (0, 0, 1, 1), size=0)


def test_encode_gives_a_small_webp_of_the_same_picture():
    ramp = np.linspace(0, 255, 300).astype(np.uint8)
    pixels = np.repeat(np.repeat(ramp[None, :, None], 200, axis=0), 3, axis=2)
    image = Image.open(io.BytesIO(encode(pixels, longest_side=150, quality=80)))
    assert (image.format, image.size) == ("WEBP", (150, 100))
    np.testing.assert_allclose(np.asarray(image.convert("RGB"))[50, :, 0], ramp[::2], atol=6)


def test_encode_never_enlarges_and_repeats_itself(photo):
    data = encode(photo, longest_side=500, quality=75)
    assert Image.open(io.BytesIO(data)).size == (63, 40)
    assert encode(photo, longest_side=500, quality=75) == data
    assert len(encode(photo, longest_side=500, quality=20)) < len(data)


@pytest.mark.parametrize(
    ("longest_side", "quality", "sentence"),
    [
        (0, 75, r"longest_side of encode must be at least 1, got 0\."),
        (10, 101, r"quality of encode must be in \[0, 100\], got 101\."),
    ],
)
def test_encode_refuses(photo, longest_side, quality, sentence):
    with pytest.raises(ValueError, match=sentence):
        encode(photo, longest_side=longest_side, quality=quality)
