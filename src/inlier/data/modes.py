"""Pillow's picture modes -> RGB of 8 bits: grey of any depth, palettes, transparency, CMYK, LAB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from inlier.errors import ImageReadError


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey with more than 8 bits: 16 ("I;16", "I;16B"), 32 ("I") or floating point ("F")."""
    return image.mode[0] in "IF"


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB, itself if it has that mode already.

    Transparency is laid over white, as most viewers show it. Colour profiles are ignored.

    Raises:
        ImageReadError: Its values are not finite.
        ValueError: Pillow knows no way to RGB.
    """
    if is_deep(image):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(layer, mask=layer)
        return canvas
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, rgb, "LAB", "RGB").apply(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values of any type scaled to 0 to 255, nothing clipped.

    Files do not say how many bits their camera used. Full scale is therefore the least of 1 (floating point
    only), 255, 4095 (12 bits) and 65535 that holds all values: few steps, so that photos of one camera come
    out alike, yet those of a 12-bit camera not black. Other values, negative or larger, are stretched from
    their least to their greatest.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ImageReadError("holds values that are no finite numbers")
    full_scales = (1.0, 255.0, 4095.0, 65535.0) if values.dtype.kind == "f" else (255.0, 4095.0, 65535.0)
    base, scale = low, high - low or 1.0
    if low >= 0 and high <= full_scales[-1]:
        base, scale = 0.0, next(full_scale for full_scale in full_scales if high <= full_scale)
    grey = values.astype(np.float32)
    grey -= base
    grey *= 255 / scale
    return np.rint(grey, out=grey).astype(np.uint8)
