"""Pictures for people: the anomaly map over the photo, crops that serve as evidence, and their WebP bytes.

One fixed scale, taken from the calibration photos, colours every photo: a normal photo looks calm, and the
same colour means the same score wherever it appears.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.records import Box

# Matplotlib's "plasma" (S. van der Walt and N. Smith, CC0) without its two darkest tenths, which would only
# shade the photo: lightness rises evenly, and the order survives the common colour-vision deficiencies.
RAMP = (
    (114, 1, 168),
    (156, 23, 158),
    (189, 55, 134),
    (216, 87, 107),
    (237, 121, 83),
    (251, 159, 58),
    (253, 202, 38),
    (240, 249, 33),
)
OPACITY = 0.8
"""Share of the ramp in a pixel at or above the top of the scale; the photo's texture keeps the rest."""
SATURATION = 0.4
"""Share of the photo's own colour that stays under a heatmap, so that the heat is what stands out."""

_CONTEXT = 2.5
_LINE = (0, 190, 255)  # a blue that the ramp does not have
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_STRENGTH = np.linspace(0.0, 1.0, 256, dtype=np.float32)[:, None]
_COLOUR = np.stack(
    [np.interp(_STRENGTH[:, 0], np.linspace(0, 1, len(RAMP)), channel) for channel in zip(*RAMP, strict=True)],
    axis=1,
).astype(np.float32)  # (256, 3)


def heat_overlay(
    pixels: NDArray[np.uint8], anomaly_map: NDArray[np.float32], *, scale: tuple[float, float]
) -> NDArray[np.uint8]:
    """The photo in muted colours, with heat where the anomaly map rises above the low end of the scale.

    Hue and opacity both rise from the low to the high end; beyond it they stay.

    Args:
        pixels: The photo, shape (H, W, 3), uint8 RGB.
        anomaly_map: Shape (h, w) of any size, higher is more anomalous; stretched bilinearly to the photo.
        scale: Scores at which heat begins and at which it is full, the same for all photos of a run.

    Returns:
        Shape (H, W, 3), uint8 RGB.

    Raises:
        ValueError: If an array has another shape or type, or the scale does not rise.
    """
    _check_pixels("heat_overlay", pixels)
    if anomaly_map.ndim != 2 or anomaly_map.size == 0:
        raise ValueError(f"anomaly_map of heat_overlay must have shape (h, w), got {anomaly_map.shape}.")
    low, high = scale
    if not low < high:
        raise ValueError(f"scale of heat_overlay must rise, low < high, got ({low:g}, {high:g}).")
    height, width = pixels.shape[:2]
    resized = Image.fromarray(anomaly_map.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    heat = np.clip((np.asarray(resized) - low) / (high - low), 0.0, 1.0)
    level = np.rint(255 * heat).astype(np.uint8)
    opacity = (OPACITY * _STRENGTH)[level]  # (H, W, 1)
    grey = (pixels @ _LUMA)[..., None]
    muted = grey + SATURATION * (pixels - grey)
    return np.rint(muted + opacity * (_COLOUR[level] - muted)).astype(np.uint8)


def outline(pixels: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The photo with a thin line around a region.

    Args:
        pixels: The photo, shape (H, W, 3), uint8 RGB.
        region: Shape (h, w), bool; stretched to the photo, cell edges on photo edges.

    Returns:
        Shape (H, W, 3), uint8 RGB.
    """
    height, width = pixels.shape[:2]
    shape = Image.fromarray(np.where(region, np.uint8(255), np.uint8(0)))
    inside = np.pad(np.asarray(shape.resize((width, height), Image.Resampling.NEAREST)) > 0, 1, mode="edge")
    same = (inside[1:-1, 1:-1] == inside[:-2, 1:-1]) & (inside[1:-1, 1:-1] == inside[1:-1, :-2])
    line = ~same
    for _ in range(max(height, width) // 400):  # as thin on a large photo as on a small one
        line[1:] |= line[:-1].copy()
        line[:, 1:] |= line[:, :-1].copy()
    return np.where(line[..., None], np.array(_LINE, dtype=np.uint8), pixels)


def crop(pixels: NDArray[np.uint8], box: Box, *, size: int) -> NDArray[np.uint8]:
    """A place of a photo with its surroundings, the place itself marked by a thin frame.

    The window is a square, 2.5 times the longer side of the box, moved and cut so that it stays inside the
    photo; the whole photo therefore comes back whole, in its own proportions and without a frame.

    Args:
        pixels: The photo, shape (H, W, 3), uint8 RGB.
        box: Left, top, right, bottom as shares of width and height.
        size: Longest side of the result in pixels.

    Returns:
        Shape (H', W', 3) with max(H', W') = size, uint8 RGB.

    Raises:
        ValueError: If the array has another shape or type, the box is empty or leaves the photo, or the size
            is not positive.
    """
    _check_pixels("crop", pixels)
    left, top, right, bottom = box
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ValueError(f"box of crop must satisfy 0 <= left < right <= 1 and 0 <= top < bottom <= 1, got {box}.")
    if size < 1:
        raise ValueError(f"size of crop must be at least 1, got {size}.")
    height, width = pixels.shape[:2]
    side = _CONTEXT * max((right - left) * width, (bottom - top) * height)
    x0, x1 = _window(left * width, right * width, side, width)
    y0, y1 = _window(top * height, bottom * height, side, height)
    zoom = size / max(x1 - x0, y1 - y0)
    shape = (max(1, round((x1 - x0) * zoom)), max(1, round((y1 - y0) * zoom)))
    window = Image.fromarray(pixels).resize(shape, Image.Resampling.BICUBIC, box=(x0, y0, x1, y1))
    result = np.array(window)
    columns = round((left * width - x0) * zoom), round((right * width - x0) * zoom)
    rows = round((top * height - y0) * zoom), round((bottom * height - y0) * zoom)
    if columns[1] - columns[0] < shape[0] or rows[1] - rows[0] < shape[1]:
        _draw_frame(result, columns, rows)
    return result


def encode(pixels: NDArray[np.uint8], *, longest_side: int, quality: int) -> bytes:
    """A picture as WebP, reduced to the longest side given; never enlarged; same pixels, same bytes.

    Args:
        pixels: Shape (H, W, 3), uint8 RGB.
        longest_side: Largest height and width of the result, in pixels.
        quality: WebP quality, 0 to 100.

    Raises:
        ValueError: If the array has another shape or type, or a number is out of range.
    """
    _check_pixels("encode", pixels)
    if longest_side < 1:
        raise ValueError(f"longest_side of encode must be at least 1, got {longest_side}.")
    if not 0 <= quality <= 100:
        raise ValueError(f"quality of encode must be in [0, 100], got {quality}.")
    image = Image.fromarray(pixels)
    image.thumbnail((longest_side, longest_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=1)  # more effort saves few bytes, and takes most of the time
    return buffer.getvalue()


def decode(picture: bytes) -> NDArray[np.uint8]:
    """The pixels of a picture that `encode` made: shape (H, W, 3), uint8 RGB."""
    with Image.open(io.BytesIO(picture), formats=("WEBP",)) as image:
        return np.array(image.convert("RGB"))


def _check_pixels(owner: str, pixels: NDArray[np.uint8]) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise ValueError(
            f"pixels of {owner} must be uint8 of shape (H, W, 3), got {pixels.dtype} of shape {pixels.shape}."
        )


def _window(start: float, stop: float, side: float, length: int) -> tuple[float, float]:
    """The stretch of `side` centred on start to stop, moved, then cut, to lie in [0, length]."""
    side = min(side, length)
    begin = min(max((start + stop - side) / 2, 0.0), length - side)
    return begin, begin + side


def _draw_frame(picture: NDArray[np.uint8], columns: tuple[int, int], rows: tuple[int, int]) -> None:
    """A white line round the place, a black one round that: one of the two shows on any photo."""
    for margin, tone in ((2, 0), (1, 255)):
        left, right = max(columns[0] - margin, 0), min(columns[1] + margin, picture.shape[1])
        top, bottom = max(rows[0] - margin, 0), min(rows[1] + margin, picture.shape[0])
        picture[[top, bottom - 1], left:right] = tone
        picture[top:bottom, [left, right - 1]] = tone
