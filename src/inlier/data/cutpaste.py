"""CutPaste: photos with a piece of themselves in the wrong place, as stand-ins for damage of which no photo exists.

``cut_paste`` copies a large rectangle, ``scar`` a small, long and turned one (Li et al., CVPR 2021, arXiv:2104.04015).
The paper trains a classifier on them; here they are only judged by detectors that learned from normal photos, to tell
which of these sees such things best.

Sizes are drawn as shares of the photo, so that one state of the generator alters the same place in the same way at
any resolution. The paper gives a scar in pixels of photos that measure 256 x 256; elsewhere these pixels grow with the
square root of the photo's area.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

AREA_RATIO = (0.02, 0.15)
"""Share of the photo that a patch covers."""

ASPECT_RANGES = ((0.3, 1.0), (1.0, 3.3))
"""Width over height of a patch: lying or standing with equal chance, and uniform within."""

SCAR_WIDTH_PX, SCAR_LENGTH_PX = (2.0, 16.0), (10.0, 25.0)
"""Of a scar, in a photo of 256 x 256 pixels."""

SCAR_DEGREES = 45.0
"""How far a scar leans to the left or right of upright, at most."""

JITTER = 0.1
"""How much brightness, contrast, saturation (each as a share) and hue (in turns) of the piece change, at most."""

_REFERENCE_SIDE = 256

Pixels = NDArray[np.uint8]


class Altered(NamedTuple):
    """A photo that was altered.

    Attributes:
        pixels: Shape (H, W, 3), uint8 RGB, of the photo's own size.
        mask: Shape (H, W), True exactly where it differs from the photo; nowhere, if all it moved is alike.
    """

    pixels: Pixels
    mask: NDArray[np.bool_]


def cut_paste(pixels: Pixels, rng: np.random.Generator) -> Altered:
    """The photo with a rectangle of 2 to 15 % of its area copied to another place, its colours slightly changed.

    Args:
        pixels: Shape (H, W, 3), uint8 RGB, of any size.
        rng: Where the chances come from; always as many draws.

    Example:
        >>> photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        >>> altered = cut_paste(photo, np.random.default_rng(1))
        >>> f"{altered.mask.mean():.2f}"
        '0.09'
    """
    height, width = pixels.shape[:2]
    area = rng.uniform(*AREA_RATIO) * height * width
    aspect = rng.uniform(*ASPECT_RANGES[int(rng.random() < 0.5)])
    piece = _cut(pixels, sqrt(area * aspect), sqrt(area / aspect), rng)
    return _paste(pixels, piece, Image.new("L", piece.size, 255), rng)


def scar(pixels: Pixels, rng: np.random.Generator) -> Altered:
    """The photo with a thin piece of itself, turned by up to 45 degrees, pasted at another place.

    Args:
        pixels: Shape (H, W, 3), uint8 RGB, of any size.
        rng: Where the chances come from; always as many draws.
    """
    scale = sqrt(pixels.shape[0] * pixels.shape[1]) / _REFERENCE_SIDE
    piece = _cut(pixels, scale * rng.uniform(*SCAR_WIDTH_PX), scale * rng.uniform(*SCAR_LENGTH_PX), rng)
    degrees = rng.uniform(-SCAR_DEGREES, SCAR_DEGREES)
    shape = Image.new("L", piece.size, 255).rotate(degrees, expand=True)  # sharp edges, as what is cut has
    return _paste(pixels, piece.rotate(degrees, expand=True), shape, rng)


ALTERATIONS: dict[str, Callable[[Pixels, np.random.Generator], Altered]] = {"patch": cut_paste, "scar": scar}
"""The two by their names."""


def _cut(pixels: Pixels, width: float, height: float, rng: np.random.Generator) -> Image.Image:
    """A piece of the photo with its colours changed: at least one pixel, at most the whole photo."""
    size = min(max(1, round(width)), pixels.shape[1]), min(max(1, round(height)), pixels.shape[0])
    left, top = _place(pixels, size, rng)
    return _jitter(Image.fromarray(pixels[top : top + size[1], left : left + size[0]]), rng)


def _paste(pixels: Pixels, piece: Image.Image, shape: Image.Image, rng: np.random.Generator) -> Altered:
    """The photo with the piece somewhere within it; a turned piece that is larger than the photo hangs over."""
    photo = Image.fromarray(pixels)
    photo.paste(piece, _place(pixels, piece.size, rng), shape)
    altered = np.array(photo)  # one that can be written to, as photos that were read can
    return Altered(altered, (altered != pixels).any(axis=2))


def _place(pixels: Pixels, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Left and top of a piece of this width and height, uniform over all places within the photo."""
    room = pixels.shape[1] - size[0], pixels.shape[0] - size[1]
    left, top = (int(share * (max(0, free) + 1)) for share, free in zip(rng.random(2), room, strict=True))
    return left, top


def _jitter(piece: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Changes brightness, contrast, saturation and hue, in an order that is drawn too, as torchvision does it."""
    amounts = rng.uniform(-JITTER, JITTER, size=4)
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for change in rng.permutation(4):
        if change < len(enhancers):
            piece = enhancers[change](piece).enhance(1 + float(amounts[change]))
        else:
            piece = _turn_hue(piece, float(amounts[change]))
    return piece


def _turn_hue(piece: Image.Image, turns: float) -> Image.Image:
    colours = np.array(piece.convert("HSV"))
    colours[..., 0] += np.uint8(round(turns * 255) % 256)  # a circle: uint8 wraps around
    return Image.fromarray(colours, mode="HSV").convert("RGB")
