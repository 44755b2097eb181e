"""A phone held by hand: where it looks, how it exposes, and what its lens and sensor add."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from inlier.data.drawing.surface import Field, Surface

_MARGIN = 1.25
"""How far the canvas reaches past the frame of a camera that looks straight at it."""


@dataclass(frozen=True, slots=True)
class View:
    """Where a photo's pixels lie on the canvas.

    Both are measured in the units of ``Surface`` from their middles, to the right and down.

    Attributes:
        homography: Shape (3, 3), float64, takes (u, v, 1) of the photo to the canvas.
        size: Height and width of the photo in pixels.
    """

    homography: NDArray[np.float64]
    size: tuple[int, int]

    @classmethod
    def draw(cls, rng: np.random.Generator, size: tuple[int, int], *, tilt: float) -> Self:
        """A pinhole camera that looks at about the middle, tilted by about ``tilt`` radians.

        The frame always stays on the canvas: a view that would not is brought nearer.
        """
        roll, pitch, yaw = np.clip(rng.normal(0, (0.12, tilt, tilt)), -0.45, 0.45).tolist()
        reach = _half_extents(size)
        distance = rng.uniform(1.8, 2.6) * float(reach.max())  # far enough to keep below the horizon
        nearer = math.exp(rng.normal(0.03, 0.1))
        # a photo's pixel sees along (u, v, distance), turned; where that meets the plane at that distance
        rays = _rotation(2, roll) @ _rotation(0, pitch) @ _rotation(1, yaw) @ np.diag([1.0, 1.0, distance])
        seen = np.diag([distance / nearer, distance / nearer, 1.0]) @ rays
        corners = _project(seen, np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * reach)
        move = np.eye(3)
        move[:2, 2] = rng.normal(0, 0.1, 2) - corners.mean(axis=0)
        overhang = np.abs(corners + move[:2, 2]).max(axis=0) / (_MARGIN * reach)
        shrink = min(1.0, 0.995 / float(overhang.max()))
        return cls(np.diag([shrink, shrink, 1.0]) @ move @ seen, size)

    def canvas(self) -> Surface:
        """A blank surface that holds the frame, its pixels as wide as the photo's."""
        half_width, half_height = (_MARGIN * _half_extents(self.size)).tolist()
        return Surface.blank(half_width, half_height, 1 / _unit_px(self.size))

    def aims(self, rng: np.random.Generator, num_points: int) -> NDArray[np.float64]:
        """Canvas points, shape (num_points, 2), of random places in the photo away from its border."""
        return _project(self.homography, rng.uniform(-0.75, 0.75, (num_points, 2)) * _half_extents(self.size))

    def off_centre(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far canvas points, shape (N, 2), lie from the photo's middle, 1 on its border; shape (N,)."""
        in_photo = _project(np.linalg.inv(self.homography).astype(np.float64), points)
        off_centre: NDArray[np.float64] = np.abs(in_photo / _half_extents(self.size)).max(axis=1)
        return off_centre

    def capture(self, picture: Image.Image) -> Image.Image:
        """The photo's frame, cut out of a picture of the canvas."""
        rows, columns = self.size
        unit = _unit_px(self.size)
        to_canvas = np.array([[unit, 0, picture.width / 2], [0, unit, picture.height / 2], [0, 0, 1]])
        to_photo = np.array([[unit, 0, columns / 2], [0, unit, rows / 2], [0, 0, 1]])
        matrix = to_canvas @ self.homography @ np.linalg.inv(to_photo)
        coefficients = (matrix / matrix[2, 2]).ravel()[:8].tolist()
        return picture.transform((columns, rows), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)


def _unit_px(size: tuple[int, int]) -> float:
    """Pixels to a unit: every photo, a square or upright one too, holds what one of 4:3 would show."""
    return min(size[0], 0.75 * size[1]) / 2


def _half_extents(size: tuple[int, int]) -> NDArray[np.float64]:
    """Half width and half height of a photo, at least 4/3 and 1."""
    return np.array([size[1], size[0]]) / (2 * _unit_px(size))


def _rotation(axis: int, angle: float) -> NDArray[np.float64]:
    first, second = (other for other in range(3) if other != axis)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def _project(homography: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    mapped = points @ homography[:, :2].T + homography[:, 2]
    return mapped[:, :2] / mapped[:, 2:]


def expose(radiance: Field) -> Image.Image:
    """An 8-bit picture of linear light, shape (3, h, w): the S-shaped curve that phones apply, then gamma.

    The curve is Narkowicz's fit of the ACES film curve. It is tabulated over the root of the light, which
    keeps the shadows apart.
    """
    x = (np.arange(1024) / 256) ** 2
    curve = x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)
    table = np.round(255 * np.clip(curve, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    levels = table[np.minimum(256 * np.sqrt(radiance), 1023).astype(np.int32)]
    return Image.merge("RGB", [Image.fromarray(level) for level in levels])


def develop(photo: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What lens and sensor make of a clean picture: slight blur, glare, a darker rim, noise; (H, W, 3)."""
    if rng.random() < 0.6:
        photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.8) * min(photo.size) / 360))
    bright = photo.reduce(4).point([max(0, level - 215) * 3 for level in range(256)] * 3)
    glare = bright.filter(ImageFilter.GaussianBlur(min(photo.size) / 60)).resize(photo.size, Image.Resampling.BILINEAR)
    pixels = np.asarray(photo, np.float32) + 0.8 * np.asarray(glare, np.float32)
    rows, columns = pixels.shape[:2]
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    dark_rim = 1 - rng.uniform(0.05, 0.3) * (x * x + y * y) / 2
    pixels *= dark_rim.astype(np.float32)[..., None]
    grain = rng.standard_normal((rows, columns), dtype=np.float32)
    coarse = rng.standard_normal((rows // 2 + 1, columns // 2 + 1, 3), dtype=np.float32)
    colour_grain = coarse.repeat(2, axis=0).repeat(2, axis=1)[:rows, :columns]
    pixels += rng.uniform(1.0, 3.5) * (grain[..., None] + 0.6 * colour_grain)
    return np.clip(pixels, 0, 255).astype(np.uint8)
