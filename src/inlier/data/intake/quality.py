"""How well a photo is taken, whatever it shows: sharpness, brightness, contrast; and from when on it is flagged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage  # type: ignore[import-untyped]

MAX_SIDE = 256
"""Pixels of the longest side at which sharpness is measured, so that photos of any size compare; never enlarged."""

_WINDOW = 5
_NOISE = 0.01
_DARK, _BRIGHT = 16, 247


@dataclass(frozen=True, slots=True)
class Quality:
    """What was measured on a photo.

    Attributes:
        sharpness: How much of its edges a photo loses when blurred, in [0, 1]; higher is sharper.
        brightness: Mean luma, in [0, 1].
        contrast: Standard deviation of the luma, in [0, 0.5].
        dark_share: Share of pixels with a luma below 16 of 255.
        bright_share: Share of pixels with a luma above 247 of 255.
    """

    sharpness: float
    brightness: float
    contrast: float
    dark_share: float
    bright_share: float


@dataclass(frozen=True, slots=True)
class QualityThresholds:
    """From when on a photo is flagged; chosen on real photos by ``benchmarks/photo_quality.py``.

    Attributes:
        min_sharpness: A photo below is ``blurred``, unless it is ``uniform``: there is nothing to tell it by.
        min_brightness: A photo below is ``dark``.
        max_dark_share: A photo above is ``dark`` too, whatever a lamp in it adds to its brightness.
        max_brightness: A photo above is ``overexposed``.
        max_bright_share: A photo above is ``overexposed`` too. A part on a white background has up to 0.8, and
            is not told from an overexposed one below.
        min_contrast: A photo below is ``uniform``.
        min_side: A photo with fewer pixels on a side is ``tiny``.
    """

    min_sharpness: float = 0.22
    min_brightness: float = 0.06
    max_dark_share: float = 0.95
    max_brightness: float = 0.93
    max_bright_share: float = 0.8
    min_contrast: float = 0.02
    min_side: int = 100


DEFAULT_THRESHOLDS = QualityThresholds()
"""What flags photos unless the user says otherwise."""


def measure_quality(pixels: NDArray[np.uint8]) -> Quality:
    """The quality of a photo, in a few milliseconds.

    Args:
        pixels: Shape (H, W, 3), uint8 RGB.

    Raises:
        ValueError: The pixels have another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            f"pixels of measure_quality must be uint8 of shape (H, W, 3), got {pixels.dtype} of shape {pixels.shape}."
        )
    luma = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")  # ITU-R BT.601, as in data/statistics
    shares = np.array(luma.histogram()) / (luma.width * luma.height)  # (256,)
    levels = np.arange(256) / 255
    brightness = float(shares @ levels)
    return Quality(
        sharpness=_sharpness(_reduce(luma)),
        brightness=brightness,
        contrast=float(np.sqrt(shares @ (levels - brightness) ** 2)),
        dark_share=float(shares[:_DARK].sum()),
        bright_share=float(shares[_BRIGHT + 1 :].sum()),
    )


def quality_flags(
    quality: Quality, *, thresholds: QualityThresholds = DEFAULT_THRESHOLDS, width: int, height: int
) -> tuple[str, ...]:
    """What is wrong with a photo: of "blurred", "dark", "overexposed", "uniform", "tiny", in this order.

    Args:
        quality: As measured.
        thresholds: From when on it is wrong.
        width: Pixels of the photo as taken, before it was reduced.
        height: The same.
    """
    is_uniform = quality.contrast < thresholds.min_contrast
    flags = {
        "blurred": quality.sharpness < thresholds.min_sharpness and not is_uniform,
        "dark": quality.brightness < thresholds.min_brightness or quality.dark_share > thresholds.max_dark_share,
        "overexposed": quality.brightness > thresholds.max_brightness
        or quality.bright_share > thresholds.max_bright_share,
        "uniform": is_uniform,
        "tiny": min(width, height) < thresholds.min_side,
    }
    return tuple(flag for flag, is_set in flags.items() if is_set)


def _reduce(luma: Image.Image) -> NDArray[np.float32]:
    """Luma in [0, 1], each pixel the mean of those that fall into it: noise shrinks with them."""
    scale = MAX_SIDE / max(luma.size)
    picture = luma.convert("F")
    if scale < 1:
        size = max(1, round(luma.width * scale)), max(1, round(luma.height * scale))
        picture = picture.resize(size, Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _sharpness(luma: NDArray[np.float32]) -> float:
    """The share of a picture's edges that blurring takes away: 1 - the blur effect.

    A blurred picture hardly changes when it is blurred again, a sharp one does, whatever its contrast and its
    texture (Crete et al., Proc. SPIE 6492, 2007, doi 10.1117/12.702790). Three departures, all measured by
    ``benchmarks/photo_quality.py``: a window of 5 pixels instead of 9, as a reduced photo is blurred by a few; the
    geometric mean of both axes instead of the worse one, for some parts have lines in one direction only; and
    what is weaker than noise (0.01 of white) is no edge, without which noise would look sharp.

    Args:
        luma: Shape (H, W), in [0, 1].

    Returns:
        In [0, 1]; of one axis where the other has no edges, 0 where there are none at all.
    """
    kept = []
    for axis in (0, 1):
        sharp = _edges(luma, axis)
        blurred = _edges(ndimage.uniform_filter1d(luma, _WINDOW, axis=axis), axis)
        sharp[sharp <= _NOISE] = 0
        if edges := float(sharp.sum(dtype=np.float64)):
            kept.append(float(np.maximum(sharp - blurred, 0).sum(dtype=np.float64)) / edges)
    return math.prod(kept) ** (1 / len(kept)) if kept else 0.0


def _edges(luma: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """How steep the luma is along an axis, per pixel, by Sobel's filter; without the borders, where it guesses."""
    steepness: NDArray[np.float32] = np.abs(ndimage.sobel(luma, axis=axis)[2:-1, 2:-1])
    steepness /= 8  # the sum of the filter's weights
    return steepness
