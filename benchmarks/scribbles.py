"""Digits drawn by a hand with a paint marker, and hair cracks, on any picture; for ``benchmarks/digits.py``.

Everything is drawn in memory and decided by the generator given. A digit is a few strokes through points of a unit
square that shake, slant and turn; three hands write some digits differently (a seven with a bar, an open four, a one
without a foot). The paint is uneven, lets some of the metal through, and is lit as the metal below is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from inlier.data.drawing.wear import round_off

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Points = Sequence[tuple[float, float]]

COLOURS = {"white": (238, 236, 228), "yellow": (232, 196, 40), "red": (176, 34, 30), "black": (22, 22, 24)}

_COMMON: dict[str, tuple[Points, ...]] = {
    "0": (((0.5, 0), (0.12, 0.2), (0.08, 0.65), (0.35, 1), (0.72, 0.9), (0.92, 0.45), (0.75, 0.1), (0.45, 0.02)),),
    "2": (((0.1, 0.25), (0.4, 0), (0.8, 0.12), (0.75, 0.42), (0.35, 0.75), (0.05, 1), (0.5, 0.96), (0.92, 1)),),
    "3": (((0.1, 0.12), (0.5, 0), (0.82, 0.2), (0.42, 0.45), (0.85, 0.65), (0.6, 1), (0.08, 0.88)),),
    "5": (((0.85, 0), (0.2, 0.03), (0.15, 0.42), (0.6, 0.38), (0.88, 0.68), (0.5, 1), (0.08, 0.9)),),
    "6": (((0.78, 0), (0.3, 0.35), (0.08, 0.75), (0.45, 1), (0.85, 0.78), (0.55, 0.52), (0.14, 0.7)),),
    "8": (
        (
            (0.5, 0.47),
            (0.15, 0.22),
            (0.5, 0),
            (0.82, 0.2),
            (0.5, 0.47),
            (0.1, 0.75),
            (0.5, 1),
            (0.9, 0.76),
            (0.5, 0.47),
        ),
    ),
    "9": (((0.82, 0.3), (0.4, 0.5), (0.12, 0.22), (0.5, 0), (0.84, 0.24), (0.78, 0.65), (0.6, 1)),),
}
HANDS: tuple[dict[str, tuple[Points, ...]], ...] = (
    _COMMON
    | {
        "1": (((0.25, 0.25), (0.55, 0), (0.52, 0.5), (0.5, 1)),),
        "4": (((0.62, 0), (0.1, 0.62), (0.95, 0.6)), ((0.66, 0.35), (0.62, 1))),
        "7": (((0.06, 0.05), (0.5, 0.02), (0.92, 0), (0.6, 0.45), (0.4, 1)),),
    },
    _COMMON
    | {
        "1": (((0.5, 0), (0.5, 0.5), (0.48, 1)),),
        "4": (((0.25, 0), (0.15, 0.55), (0.5, 0.58), (0.85, 0.55)), ((0.75, 0.1), (0.72, 1))),
        "7": (((0.06, 0.05), (0.5, 0.02), (0.92, 0), (0.55, 0.5), (0.4, 1)), ((0.25, 0.52), (0.8, 0.48))),
    },
    _COMMON
    | {
        "1": (((0.2, 0.3), (0.55, 0), (0.52, 0.5), (0.5, 1)), ((0.2, 1), (0.82, 0.98))),
        "4": (((0.62, 1), (0.64, 0.5), (0.62, 0), (0.1, 0.65), (0.55, 0.64), (0.95, 0.6)),),
        "7": (((0.08, 0.15), (0.1, 0.03), (0.9, 0), (0.6, 0.45), (0.45, 1)),),
    },
)
"""The strokes of each digit by each hand, from left to right and top to bottom in [0, 1]."""


def scribble(
    pixels: Pixels, digits: str, rng: np.random.Generator, *, height: float, turn: float, colour: str, cover: float
) -> tuple[Pixels, Mask]:
    """A photo with a number on it, and where the paint is.

    Args:
        pixels: Shape (H, W, 3), uint8.
        digits: What is written.
        rng: Decides hand, shaking, width of the pen and place, which is wholly inside the photo if it fits.
        height: Of a digit, as a share of the photo's shorter side.
        turn: Of the writing, in degrees, counter-clockwise.
        colour: Of ``COLOURS``.
        cover: How much of the metal the paint hides, in (0, 1].

    Returns:
        The photo, shape (H, W, 3), uint8, and the paint, shape (H, W).
    """
    size = height * min(pixels.shape[:2])
    strokes = _writing(digits, rng, math.radians(turn))
    corners = np.concatenate(strokes)
    low, high = corners.min(axis=0) * size, corners.max(axis=0) * size
    pen = size * rng.uniform(0.09, 0.15)
    room = np.array(pixels.shape[1::-1]) - (high - low) - 2 * pen
    shift = pen - low + rng.uniform(0.05, 0.95, 2) * np.maximum(room, 0)
    paint = _draw([stroke * size + shift for stroke in strokes], pixels.shape[:2], pen)
    grain = np.asarray(_noise(pixels.shape[:2], max(1.5, pen / 5), rng))
    amount = paint * np.clip(cover * (0.9 + 0.25 * grain), 0, 1)
    shade = _brightness_about(pixels, 2 * pen)
    tint = np.array(COLOURS[colour]) * np.clip(0.55 + 0.75 * shade, 0.35, 1.1)[..., None]
    painted = pixels + amount[..., None] * (tint - pixels)
    return np.clip(np.rint(painted), 0, 255).astype(np.uint8), paint > 0.3


def crack(pixels: Pixels, near: Mask, rng: np.random.Generator, *, length: float) -> tuple[Pixels, Mask]:
    """A photo with a dark, jagged, tapering line that begins beside the marked pixels, and where it is.

    Args:
        pixels: Shape (H, W, 3), uint8.
        near: Shape (H, W): the paint of a digit, or any place.
        rng: Decides its course.
        length: As a share of the photo's shorter side.
    """
    rows, columns = np.nonzero(near)
    shorter = min(pixels.shape[:2])
    middle = np.array([columns.mean(), rows.mean()])
    aim = np.array(pixels.shape[1::-1]) / 2 - middle
    heading = math.atan2(aim[1], aim[0]) + rng.normal(0, 0.5) + math.pi / 2 * rng.choice((-1, 1)) * rng.random()
    along = (columns - middle[0]) * math.cos(heading) + (rows - middle[1]) * math.sin(heading)
    edge = max(float(np.quantile(along, 0.98)), 0.0)
    point = middle + (edge + 0.02 * shorter) * np.array([math.cos(heading), math.sin(heading)])
    num_stretches = 14
    courses, widths = [point], []
    for stretch in range(num_stretches):
        bend = heading + rng.normal(0, 0.55)
        point = point + length * shorter / num_stretches * np.array([math.cos(bend), math.sin(bend)])
        courses.append(point)
        widths.append(shorter * 0.016 * (1.05 - stretch / num_stretches))
    gape = np.zeros(pixels.shape[:2], dtype=np.float32)
    for one, other, width in zip(courses[:-1], courses[1:], widths, strict=True):
        gape = np.maximum(gape, _draw([np.stack([one, other])], pixels.shape[:2], max(width, 1.2)))
    lips = gaussian_filter(gape, 1.5)
    lit = pixels + 40 * np.clip(lips - gape, 0, 1)[..., None]
    cracked = lit * (1 - 0.9 * gape[..., None])
    return np.clip(np.rint(cracked), 0, 255).astype(np.uint8), gape > 0.3


def _writing(digits: str, rng: np.random.Generator, turn: float) -> list[NDArray[np.float64]]:
    """The strokes of a number, one digit high, about its own middle: shapes (N, 2)."""
    hand = HANDS[int(rng.integers(len(HANDS)))]
    lean, narrow = rng.normal(0.08, 0.12), rng.uniform(0.5, 0.7)
    slant = np.array([[narrow, 0.0], [-lean, 1.0]])
    strokes = []
    for place, digit in enumerate(digits):
        lift = rng.normal(0, 0.04)
        for points in hand[digit]:
            shaky = np.array(points) + rng.normal(0, 0.025, (len(points), 2))
            strokes.append(round_off(shaky) @ slant + (place * (narrow + 0.22), lift))
    middle = (np.concatenate(strokes).min(axis=0) + np.concatenate(strokes).max(axis=0)) / 2
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return [(stroke - middle) @ turned for stroke in strokes]


def _draw(strokes: Sequence[NDArray[np.float64]], shape: tuple[int, ...], width: float) -> NDArray[np.float32]:
    """Round strokes of a width in pixels, drawn at three times the size: shape (H, W), in [0, 1]."""
    canvas = Image.new("L", (3 * shape[1], 3 * shape[0]))
    pen, radius = ImageDraw.Draw(canvas), 1.5 * width
    for stroke in strokes:
        points = [(3 * x, 3 * y) for x, y in stroke.tolist()]
        pen.line(points, fill=255, width=max(1, round(2 * radius)), joint="curve")
        for x, y in points:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(canvas.reduce(3), dtype=np.float32) / 255


def _noise(shape: tuple[int, ...], cell: float, rng: np.random.Generator) -> Image.Image:
    """Smooth noise about 0 with a spread of about 0.5, in cells of so many pixels."""
    coarse = rng.normal(0, 0.5, (math.ceil(shape[0] / cell) + 1, math.ceil(shape[1] / cell) + 1)).astype(np.float32)
    return Image.fromarray(coarse).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)


def _brightness_about(pixels: Pixels, radius: float) -> NDArray[np.float64]:
    """How bright the photo is about each pixel: shape (H, W), in [0, 1]."""
    grey: NDArray[np.float64] = gaussian_filter(pixels.mean(axis=2) / 255, radius)
    return grey
