"""Writing in a photo, painted out: its strokes, and not all that is in its box, take the look of what is about them.

A crack must stay to be seen, beside a number and where it was itself taken for one, as jagged lines are: as 5, 3, n. So
only strokes of one paint go, that is lighter than what is about it or has a colour of its own, as no crack does; and
writing that is nothing but lines, such as a lone 1, only if it has a colour, for a scratch is light, too. A line that
runs out of the box stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import (  # type: ignore[import-untyped]
    binary_dilation,
    distance_transform_edt,
    find_objects,
    gaussian_filter,
    grey_closing,
    grey_opening,
    label,
    maximum,
)

from inlier.data.text.reading import Text

MIN_CONTRAST = 30.0
"""Levels of 255, of three colours together, by which paint differs from what is about it, at least."""

_LINES = frozenset("1lIi|!/\\-_~—–.,:;'\"`´^()[]{}<>VvLJ7一丨丶丿乙丁厂")  # noqa: RUF001
"""Characters that a scratch or an edge is read as."""

_MARGIN = 0.2
"""How far about a box is looked at, as a share of its shorter side."""

_MIN_COSINE = 0.9
"""Between the colour by which a pixel of the paint differs, and that of the paint's bulk."""


_MAX_WIDTH = 0.15
"""Width of a stroke as a share of the height of its box, at most: what is wider is a part, or the metal between."""

_SMOOTHING = 0.015
"""By how much differences are smoothed, as a share of that height."""

_MIN_HUE = 0.25
"""Share of the contrast that is hue, from which paint counts as coloured."""

_MIN_SATURATION = 60
"""Levels of 255 between the strongest and the weakest of three colours in paint that has one; what is lit brass has it,
too, and only paint differs from brass in hue as well."""

_MIN_HUE_CONTRAST = 30.0
"""By how much it does, in levels of 255 of three colours together."""

_MIN_WIDTH = 0.6
"""Width of a stroke over that of the largest, at least."""

_MIN_REACH = 0.4
"""How much of a box its writing reaches through, each way, at least."""

_MAX_COVER = 0.4
"""How much of its box writing covers, at most: what covers more is the metal between."""

_MIN_EXTENT = 0.2
"""Height or width of a stroke as a share of that height, at least."""

_NUM_COLOURS = 24
"""Colours that are tried as the paint's."""

_MAD_TO_SIGMA = 1.4826
"""Spread of a normal distribution over its median absolute deviation."""


def paint_out(pixels: NDArray[np.uint8], texts: Sequence[Text]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A photo without what is written on it.

    Args:
        pixels: Shape (H, W, 3), uint8.
        texts: What was read in it.

    Returns:
        The photo, shape (H, W, 3), uint8, which is the one given if there is nothing to paint out, and the pixels that
        were, shape (H, W).
    """
    is_paint = np.zeros(pixels.shape[:2], dtype=np.bool_)
    painted = pixels
    for text in texts:
        corners = np.array(text.corners) * pixels.shape[1::-1]
        left, top = np.maximum(corners.min(axis=0) - _margin(corners) - 2, 0).astype(int).tolist()
        right, bottom = np.ceil(corners.max(axis=0) + _margin(corners) + 2).astype(int).tolist()
        window = (slice(top, bottom), slice(left, right))
        strokes = _strokes(painted[window], corners - (left, top), text.text)
        if strokes.any():
            painted = painted.copy() if painted is pixels else painted
            painted[window] = _filled(painted[window], strokes)
            is_paint[window] |= strokes
    return painted, is_paint


def _strokes(pixels: NDArray[np.uint8], corners: NDArray[np.float64], text: str) -> NDArray[np.bool_]:
    """The strokes of writing in a box with these corners, with the pixels that they blur into: shape (H, W).

    Of the colours by which thin things in the box differ from what is about them, the paint's is that of which most
    lies in strokes: parts as large as a piece of a character, and wholly in the box.
    """
    inside = _polygon(pixels.shape[:2], corners, _margin(corners))
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    height = max(sides.min(), sides.max() / max(len(text), 1))  # of a lone digit the longer side is its height
    thin = _thin(pixels.astype(np.float32), _MAX_WIDTH * height)
    differs = gaussian_filter(thin, (_SMOOTHING * height, _SMOOTHING * height, 0))  # brushed metal is finer than paint
    norms = np.linalg.norm(differs, axis=2)
    bulk = differs[inside & (norms > _threshold(norms[inside]))]
    border = ~inside | ~_polygon(pixels.shape[:2], corners, _margin(corners) - 1.5)
    is_line = all(character in _LINES or character.isspace() for character in text)
    most, strokes, colour = 0.0, np.zeros_like(inside), np.ones(3, dtype=np.float32)
    for candidate in bulk[:: max(1, len(bulk) // _NUM_COLOURS)]:
        alike = _pen_marks(_alike(differs, candidate), border, _MIN_EXTENT * height)
        mass = float(np.linalg.norm(candidate)) * float(alike.sum())
        is_writing = alike.sum() < _MAX_COVER * inside.sum() and _fills(alike, corners)
        if mass > most and is_writing and _is_paint(candidate, pixels[alike], is_line=is_line):
            most, strokes, colour = mass, alike, candidate
    # The rim, where paint and metal share a pixel, and no further: what lies beside the stroke is to be seen.
    contrast = float(np.linalg.norm(colour))
    near = binary_dilation(strokes, iterations=2 + round(_SMOOTHING * height)) & ~border
    return np.asarray(strokes | (near & (thin @ (colour / contrast) > 0.1 * contrast)))


def _is_paint(differs: NDArray[np.float32], pixels: NDArray[np.uint8], *, is_line: bool) -> bool:
    """Whether no damage looks like strokes of these pixels, shape (N, 3), that differ so from what is about them."""
    has_hue = float(np.linalg.norm(differs - differs.mean())) >= _MIN_HUE_CONTRAST
    is_coloured = has_hue and float(np.ptp(np.median(pixels, axis=0))) >= _MIN_SATURATION
    return is_coloured or (float(differs.mean()) > 0 and not is_line)


def _alike(differs: NDArray[np.float32], colour: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where pixels differ from what is about them as paint of a colour does: shape (H, W).

    Paint of a hue has it on bright and on dark metal, which has none, and a crack has none either; white and black
    paint are told by the direction alone.
    """
    contrast = np.linalg.norm(colour)
    hue = colour - colour.mean()
    along = differs @ (colour / contrast)
    is_alike: NDArray[np.bool_] = along > 0.5 * contrast
    if np.linalg.norm(hue) > _MIN_HUE * contrast:
        hues = differs - differs.mean(axis=2, keepdims=True)
        is_alike &= np.linalg.norm(hues - hue, axis=2) < 0.5 * np.linalg.norm(hue)
    else:
        is_alike &= along > _MIN_COSINE * np.linalg.norm(differs, axis=2)
    return is_alike


def _pen_marks(alike: NDArray[np.bool_], border: NDArray[np.bool_], extent: float) -> NDArray[np.bool_]:
    """The parts that may be of a pen, shape (H, W).

    They are at least so many pixels high or wide, do not reach the border, and are not much narrower than the largest
    is, for a pen has one width.
    """
    parts, num_parts = label(alike, structure=np.ones((3, 3)))
    is_mark = np.zeros(num_parts + 1, dtype=np.bool_)
    for number, place in enumerate(find_objects(parts), start=1):
        is_mark[number] = max(along.stop - along.start for along in place) >= extent
    is_mark[parts[border]] = False
    is_mark[0] = False
    if is_mark.any():
        numbers = np.arange(num_parts + 1)
        widths = np.asarray(maximum(distance_transform_edt(alike), parts, numbers))
        areas = np.where(is_mark, np.bincount(parts.ravel(), minlength=num_parts + 1), 0)
        is_mark &= widths >= _MIN_WIDTH * widths[areas.argmax()]
    return np.asarray(is_mark[parts])


def _fills(strokes: NDArray[np.bool_], corners: NDArray[np.float64]) -> bool:
    """Whether strokes reach through a good part of the box, from left to right and from top to bottom."""
    rows, columns = np.nonzero(strokes)
    if not len(rows):
        return False
    places = np.stack([columns, rows], axis=1)
    for axis in (corners[1] - corners[0], corners[3] - corners[0]):
        length = float(np.linalg.norm(axis))
        reach = places @ (axis / max(length, 1e-9))
        if np.ptp(reach) < _MIN_REACH * length:
            return False
    return True


def _thin(values: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    """By how much each pixel differs from what is about it, where it is part of something thin: shape (H, W, 3).

    The greater of the two top-hats of each colour (Serra 1982), positive where it is brighter and negative where it is
    darker; steps, shading and what is wider than so many pixels leave nothing.
    """
    size = (2 * max(1, round(width / 2)) + 1,) * 2 + (1,)
    bright = values - grey_opening(values, size=size, mode="nearest")
    dark = grey_closing(values, size=size, mode="nearest") - values
    return np.asarray(np.where(bright >= dark, bright, -dark))


def _filled(pixels: NDArray[np.uint8], holes: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The picture with its holes filled from their rims, nearest first, and with the grain of what is about them."""
    values, missing = pixels.astype(np.float64), holes.copy()
    smooth = values.copy()
    reach = 1.0
    while missing.any() and reach < 4 * max(holes.shape):
        weights = gaussian_filter((~holes).astype(np.float64), reach, mode="nearest")
        known = missing & (weights > 0.05)
        for channel in range(3):
            sums = gaussian_filter(np.where(holes, 0.0, values[..., channel]), reach, mode="nearest")
            smooth[known, channel] = sums[known] / weights[known]
        missing &= ~known
        reach *= 1.6
    ring = binary_dilation(holes, iterations=4) & ~holes
    if ring.any():
        grain = np.median(np.abs(values - _surroundings(values, holes, 1.5))[ring], axis=0)
        rng = np.random.default_rng(0)  # the same photo is painted out in the same way
        smooth[holes] += _MAD_TO_SIGMA * grain * rng.standard_normal((int(holes.sum()), 1))
    smooth[~holes] = values[~holes]
    return np.clip(np.rint(smooth), 0, 255).astype(np.uint8)


def _surroundings(values: NDArray[np.float64], holes: NDArray[np.bool_], reach: float) -> NDArray[np.float64]:
    """The mean about each pixel, but for holes, weighted by a Gaussian of so many pixels: shape (H, W, 3)."""
    known = (~holes).astype(np.float64)
    weights = np.maximum(gaussian_filter(known, reach, mode="nearest"), 1e-6)
    sums = [gaussian_filter(values[..., channel] * known, reach, mode="nearest") for channel in range(3)]
    return np.asarray(np.stack(sums, axis=2) / weights[..., None])


def _threshold(norms: NDArray[np.float32]) -> float:
    """The contrast that divides pixels, shape (N,), best into paint and the rest (Otsu 1979), in levels of 255."""
    counts, edges = np.histogram(norms, bins=64)
    middles = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), counts.sum() - np.cumsum(counts)
    sums = np.cumsum(counts * middles)
    gaps = sums / np.maximum(below, 1) - (sums[-1] - sums) / np.maximum(above, 1)
    return max(MIN_CONTRAST, float(edges[1:][np.argmax(below * above * gaps**2)]))


def _polygon(shape: tuple[int, ...], corners: NDArray[np.float64], margin: float) -> NDArray[np.bool_]:
    """The pixels of a box, widened by so many pixels: shape (H, W)."""
    middle = corners.mean(axis=0)
    arms = corners - middle
    arms *= 1 + margin / np.maximum(np.abs(arms), 1.0)
    canvas = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in (middle + arms).tolist()], fill=1)
    return np.asarray(canvas).astype(np.bool_)


def _margin(corners: NDArray[np.float64]) -> float:
    return max(2.0, _MARGIN * float(np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1).min()))
