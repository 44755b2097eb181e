"""Pillow's modes and colour profiles -> sRGB of 8 bits: grey of any depth, palettes, transparency, CMYK, LAB."""

from __future__ import annotations

import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from inlier.errors import ImageReadError

_SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
"""Bytes 16 to 20 of a profile (ICC.1:2022, section 7.2): the colours that it is for -> Pillow's mode of them."""

_SRGB_NAME = re.compile(rb"sRGB|s\0R\0G\0B", re.IGNORECASE)
"""In the description of the profiles that most cameras embed: their colours are sRGB's already."""

_HEADER_BYTES, _MAX_PROFILE_BYTES = 128, 4 << 20


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey with more than 8 bits: 16 ("I;16", "I;16B"), 32 ("I") or floating point ("F")."""
    return image.mode[0] in "IF"


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB, itself if it has that mode already.

    Transparency is laid over white, as most viewers show it. The colours of an embedded profile become those of sRGB,
    which is what a picture without one is held to be; a profile that is damaged or meant for another mode is ignored.

    Raises:
        ImageReadError: Its values are not finite.
        ValueError: Pillow knows no way to RGB.
    """
    if is_deep(image):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = _to_srgb(image.convert("RGBA"), image)
        canvas = Image.new("RGB", image.size, "white")
        canvas.paste(layer, mask=layer)
        return canvas
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, rgb, "LAB", "RGB").apply(image)
    if image.mode == "P":
        return _to_srgb(image.convert("RGB"), image)
    converted = _to_srgb(image, image)
    return converted if converted.mode == "RGB" else converted.convert("RGB")


def _to_srgb(image: Image.Image, file: Image.Image) -> Image.Image:
    """The picture with the colours of its file's profile turned into sRGB; itself where there is nothing to turn."""
    profile = file.info.get("icc_profile")
    if not isinstance(profile, bytes) or not _HEADER_BYTES <= len(profile) <= _MAX_PROFILE_BYTES:
        return image
    space = _SPACES.get(profile[16:20])
    if image.mode not in (space, f"{space}A") or _SRGB_NAME.search(profile):
        return image
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        mode = image.mode if image.mode == "RGBA" else "RGB"
        return ImageCms.buildTransform(given, srgb, image.mode, mode).apply(image)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return image


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
