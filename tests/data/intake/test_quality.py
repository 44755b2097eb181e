from __future__ import annotations

import time
from dataclasses import astuple, replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import data as pictures
from skimage.measure import blur_effect

from inlier.data.intake.quality import Quality, QualityThresholds, measure_quality, quality_flags

GOOD = Quality(sharpness=0.5, brightness=0.5, contrast=0.2, dark_share=0.0, bright_share=0.0)
THRESHOLDS = QualityThresholds()


def flags(quality: Quality, width: int = 512, height: int = 384) -> tuple[str, ...]:
    return quality_flags(quality, width=width, height=height)


def grey(luma: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(np.rint(luma), 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def astronaut() -> np.ndarray:
    photo: np.ndarray = pictures.astronaut()[:384]
    return photo


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(pixels.astype(np.float32), (sigma, sigma, 0))


def test_brightness_contrast_and_shares_by_hand() -> None:
    luma = np.zeros((4, 10))
    luma[0] = 15  # dark
    luma[1] = 16  # no longer
    luma[2] = 247  # not yet
    luma[3] = 248  # bright
    quality = measure_quality(grey(luma))
    levels = np.array([15, 16, 247, 248]) / 255
    assert quality.brightness == pytest.approx(levels.mean())
    assert quality.contrast == pytest.approx(levels.std())
    assert (quality.dark_share, quality.bright_share) == (0.25, 0.25)


def test_luma_weighs_colours_as_the_statistics_do() -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        pixels[:] = 0
        pixels[..., channel] = 200
        assert measure_quality(pixels).brightness == pytest.approx(weight * 200 / 255, abs=0.5 / 255)


def by_scikit_image(luma: np.ndarray) -> float:
    """Sharpness of uint8 luma by the blur effect of either axis."""
    effects = blur_effect(luma / 255, h_size=5, reduce_func=None)
    return float(np.sqrt((1 - effects[0]) * (1 - effects[1])))


@pytest.mark.parametrize("block", [(1, 1), (3, 2), (8, 8), (16, 5)])
def test_sharpness_is_one_minus_the_blur_effect_of_scikit_image(block: tuple[int, int]) -> None:
    # Steps of 32 of 255 are steeper than noise wherever there is a step at all.
    levels = 32 * np.random.default_rng(0).integers(8, size=(200 // block[0], 250 // block[1]))
    luma = np.kron(levels, np.ones(block)).astype(np.uint8)
    assert measure_quality(grey(luma)).sharpness == pytest.approx(by_scikit_image(luma), abs=1e-5)


def test_sharpness_of_a_photo_is_that_of_scikit_image_but_for_noise() -> None:
    luma = np.asarray(Image.fromarray(pictures.camera()).resize((256, 256), Image.Resampling.BOX))
    assert measure_quality(grey(luma)).sharpness == pytest.approx(by_scikit_image(luma), abs=0.02)


def test_an_axis_without_edges_says_nothing() -> None:
    luma = np.zeros((200, 250), dtype=np.uint8)
    luma[:, ::10] = 250
    along_rows = 1 - blur_effect(luma / 255, h_size=5, reduce_func=None)[1]
    for turned in (luma, luma.T):
        assert measure_quality(grey(turned)).sharpness == pytest.approx(along_rows, abs=1e-5)


def test_sharpness_falls_with_blur_and_is_of_neither_contrast_nor_size() -> None:
    photo = astronaut()
    sharpness = [measure_quality(grey(blurred(photo, sigma)[..., 1])).sharpness for sigma in (0, 1, 2, 4, 8, 16)]
    assert all(before > after for before, after in pairwise(sharpness))
    assert sharpness[0] > 1.5 * THRESHOLDS.min_sharpness
    assert sharpness[3] < THRESHOLDS.min_sharpness / 1.5
    pale = measure_quality(grey(100 + photo[..., 1] * 0.4)).sharpness
    assert pale == pytest.approx(sharpness[0], abs=0.05)
    large = Image.fromarray(photo).resize((2048, 1536), Image.Resampling.NEAREST)
    assert measure_quality(np.asarray(large)).sharpness == pytest.approx(measure_quality(photo).sharpness, abs=0.01)


@pytest.mark.parametrize(("gain", "noise"), [(1.0, 5.0), (0.2, 2.0), (0.1, 2.0)])
def test_noise_in_the_dark_hides_no_blur(gain: float, noise: float) -> None:
    rng = np.random.default_rng(0)
    grain = rng.normal(size=(384, 512, 3)) * noise
    sharp, soft = (
        measure_quality(np.clip(gain * picture + grain, 0, 255).round().astype(np.uint8)).sharpness
        for picture in (astronaut(), blurred(astronaut(), 4))
    )
    assert soft < THRESHOLDS.min_sharpness < 0.42 < sharp


def test_a_wall_is_uniform_and_not_blurred() -> None:
    noisy = np.random.default_rng(0).normal(128, 2, size=(384, 512, 3)).round().astype(np.uint8)
    quality = measure_quality(noisy)
    assert quality.sharpness == 0
    assert flags(quality) == ("uniform",)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (3, 4), (2000, 2)])
@pytest.mark.parametrize("value", [0, 255])
def test_pictures_of_any_shape_are_measured(shape: tuple[int, int], value: int) -> None:
    quality = measure_quality(np.full((*shape, 3), value, dtype=np.uint8))
    brightness = value / 255
    assert astuple(quality) == pytest.approx((0, brightness, 0, 1 - brightness, brightness))
    assert flags(quality, *shape) == ("overexposed" if value else "dark", "uniform", "tiny")


def test_a_good_photo_has_no_flag_and_a_spoilt_one_its_own() -> None:
    photo = astronaut()
    assert flags(measure_quality(photo)) == ()
    assert flags(measure_quality(grey(blurred(photo, 6)[..., 1]))) == ("blurred",)
    assert flags(measure_quality((photo * 0.1).astype(np.uint8))) == ("dark",)
    assert flags(measure_quality(np.clip(photo * 20.0, 0, 255).astype(np.uint8))) == ("overexposed",)


@pytest.mark.parametrize(
    ("flag", "field", "threshold", "step"),
    [
        ("blurred", "sharpness", "min_sharpness", -1e-6),
        ("dark", "brightness", "min_brightness", -1e-6),
        ("dark", "dark_share", "max_dark_share", 1e-6),
        ("overexposed", "brightness", "max_brightness", 1e-6),
        ("overexposed", "bright_share", "max_bright_share", 1e-6),
        ("uniform", "contrast", "min_contrast", -1e-6),
    ],
)
def test_each_threshold_flags_what_is_beyond_it(flag: str, field: str, threshold: str, step: float) -> None:
    limit = getattr(THRESHOLDS, threshold)
    assert flags(replace(GOOD, **{field: limit})) == ()
    assert flags(replace(GOOD, **{field: limit + step})) == (flag,)


def test_the_original_size_and_own_thresholds_count() -> None:
    assert flags(GOOD, 4000, THRESHOLDS.min_side) == ()
    assert flags(GOOD, THRESHOLDS.min_side - 1, 4000) == ("tiny",)
    strict = QualityThresholds(min_sharpness=0.6, min_brightness=0.6, min_side=1000, max_bright_share=-1)
    found = quality_flags(GOOD, thresholds=strict, width=999, height=2000)
    assert found == ("blurred", "dark", "overexposed", "tiny")


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_other_arrays_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pixels of measure_quality must be uint8 of shape \(H, W, 3\), got uint8"):
        measure_quality(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"got float64 of shape \(8, 8, 3\)\."):
        measure_quality(np.zeros((8, 8, 3)))  # type: ignore[arg-type]


def test_a_photo_takes_a_few_milliseconds() -> None:
    photo = astronaut()

    def seconds() -> float:
        began = time.perf_counter()
        measure_quality(photo)
        return time.perf_counter() - began

    assert min(seconds() for _ in range(20)) < 0.02  # 0.0025 on a machine that does nothing else
