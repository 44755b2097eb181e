"""A photo in memory -> pixels, with a look at its head before it is decoded."""

from __future__ import annotations

import io
import threading

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.images import decode, open_image
from inlier.errors import ImageReadError

MAX_SHOWN_PX = 1024
"""Longest side of what is kept of a photo for its heatmap."""

LARGE_PIXELS = 16_000_000
"""Pixels above which photos that their decoder needs whole are decoded one at a time."""

_large = threading.Lock()


def read_photo(content: bytes, *, min_side: int, max_pixels: int) -> NDArray[np.uint8]:
    """The photo in these bytes, as ``read_image`` gives it.

    Args:
        content: Of a file.
        min_side: As for ``read_image``.
        max_pixels: Above which it is not decoded.

    Raises:
        ImageReadError: It is no picture, damaged, too small or too large.
    """
    if not content:
        raise ImageReadError("the photo is empty")
    with open_image(io.BytesIO(content)) as file:
        width, height = file.size
        if width * height > max_pixels:
            raise ImageReadError(f"is {width} x {height} px; at most {max_pixels} px in all are taken")
        is_reduced = file.format == "JPEG" and not file.info.get("progressive")
        if width * height <= LARGE_PIXELS or is_reduced:
            return np.array(decode(file, min_side=min_side))
        with _large:
            return np.array(decode(file, min_side=min_side))


def reduced(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What is kept of a photo while it waits: a long strip may have any length."""
    if max(pixels.shape) <= MAX_SHOWN_PX:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SHOWN_PX, MAX_SHOWN_PX))
    return np.array(image)
