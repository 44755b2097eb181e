"""A scene before light falls on it: relief, colour and finish of every pixel, and the tools to shape them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Field = NDArray[np.floating[Any]]
"""Shape (h, w), or (3, h, w) where it has colour; float32, though numpy's type stubs cannot follow that."""

Colour = tuple[float, float, float]
"""Red, green, blue: the share of linear light that comes back, each in [0, 1]."""

Point = tuple[float, float]
"""u to the right and v downwards from the middle of the canvas."""


@dataclass(slots=True)
class Surface:
    """What a camera could see, laid out flat in front of it.

    Lengths, heights included, are in units of half the height of a 4:3 photo that looks straight at the
    middle, so that a drawing does not depend on resolution.

    Attributes:
        u: Shape (h, w), how far right of the middle each pixel lies.
        v: Shape (h, w), how far below it.
        pitch: Width of one pixel.
        height: Shape (h, w), how far towards the camera.
        albedo: Shape (3, h, w), the share of light that comes back in each colour, about [0, 1].
        gloss: Shape (h, w), in [0, 1]: 0 is matt (soot, rust, old paint), 1 is polished metal.
        working: Shape (h, w), in [0, 1]: where a component does its work, and can be damaged.
    """

    u: Field
    v: Field
    pitch: float
    height: Field
    albedo: Field
    gloss: Field
    working: Field

    @classmethod
    def blank(cls, half_width: float, half_height: float, pitch: float) -> Self:
        """A flat, grey, matt surface of the given half extents."""
        num_columns, num_rows = round(2 * half_width / pitch), round(2 * half_height / pitch)
        columns = (np.arange(num_columns) - (num_columns - 1) / 2) * pitch
        rows = (np.arange(num_rows) - (num_rows - 1) / 2) * pitch
        u, v = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
        height, gloss, working = np.zeros((3, *u.shape), np.float32)
        return cls(u, v, pitch, height, np.full((3, *u.shape), 0.3, np.float32), gloss, working)

    def copy(self) -> Self:
        """The same drawing in its own memory; coordinates, which nothing changes, are shared."""
        drawn = (field.copy() for field in (self.height, self.albedo, self.gloss, self.working))
        return type(self)(self.u, self.v, self.pitch, *drawn)

    def window(self, at: Point, radius: float) -> Self:
        """The square around a point, clipped at the canvas: what is drawn into it is drawn here."""
        rows, columns = self.u.shape
        left = int((at[0] - radius - float(self.u[0, 0])) / self.pitch)
        top = int((at[1] - radius - float(self.v[0, 0])) / self.pitch)
        side = int(2 * radius / self.pitch) + 2
        across = slice(min(max(left, 0), columns - 1), min(max(left + side, 1), columns))
        down = slice(min(max(top, 0), rows - 1), min(max(top + side, 1), rows))
        drawn = (field[..., down, across] for field in (self.height, self.albedo, self.gloss, self.working))
        return type(self)(self.u[down, across], self.v[down, across], self.pitch, *drawn)

    def paint(self, cover: Field, colour: Colour, gloss: float) -> None:
        """Give the surface a colour and a finish where ``cover``, shape (h, w) in [0, 1], says so."""
        for channel, value in zip(self.albedo, colour, strict=True):
            channel += cover * (value - channel)
        self.gloss += cover * (gloss - self.gloss)

    def level(self, cover: Field, height: Field | float) -> None:
        """Bring the relief to ``height`` where ``cover``, shape (h, w) in [0, 1], says so."""
        self.height += cover * (height - self.height)

    def keep(self, cover: Field, before: Self) -> None:
        """Put back what was there ``before`` where ``cover``, shape (h, w) in [0, 1], says so."""
        self.height += cover * (before.height - self.height)
        self.albedo += cover * (before.albedo - self.albedo)
        self.gloss += cover * (before.gloss - self.gloss)

    def inside(self, distance: Field, *, soft: float = 0.0) -> Field:
        """Cover in [0, 1] of a shape, from the signed distance to its edge (negative inside).

        The edge is as wide as ``soft``, and never narrower than a pixel.
        """
        return smooth(0.5 - distance / max(soft, 1.5 * self.pitch))

    def noise(self, rng: np.random.Generator, cell: float, *, num_octaves: int = 4, stretch: float = 1.0) -> Field:
        """Smooth random field of mean 0 and deviation about 1: octaves of value noise, the finer the fainter.

        ``cell`` is the size of the coarsest features; along v they are ``stretch`` times as long.
        """
        rows, columns = self.u.shape
        field = np.zeros((1, 1), np.float32)
        for octave in range(num_octaves):
            step = max(cell / self.pitch / 2**octave, 1.0)
            shape = (int(rows / (step * stretch)) + 3, int(columns / step) + 3)
            field = resize(field, shape) + 0.6**octave * rng.standard_normal(shape, dtype=np.float32)
        return 0.95 * resize(field, (rows, columns))

    def strokes(self, paths: Sequence[tuple[Sequence[Point], float]]) -> Field:
        """Cover in [0, 1] of poly-lines, each with its width, drawn at twice the resolution and reduced."""
        rows, columns = self.u.shape
        picture = Image.new("L", (2 * columns, 2 * rows))
        pen = ImageDraw.Draw(picture)
        origin_u, origin_v = float(self.u[0, 0]), float(self.v[0, 0])
        for points, width in paths:
            corners = [(2 * (x - origin_u) / self.pitch, 2 * (y - origin_v) / self.pitch) for x, y in points]
            pen.line(corners, fill=255, width=max(1, round(2 * width / self.pitch)), joint="curve")
        return np.asarray(picture.reduce(2), np.float32) / 255


def smooth(t: Field) -> Field:
    """Cubic ease from 0 to 1 as ``t`` goes from 0 to 1, flat at both ends and beyond."""
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def resize(field: Field, shape: tuple[int, int]) -> Field:
    """A field stretched to another shape, bicubic."""
    picture = Image.fromarray(field).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32)


def line_noise(rng: np.random.Generator, coordinate: Field, period: float) -> Field:
    """Random parallel lines, mean 0 and deviation about 1: the value depends on ``coordinate`` alone."""
    table = rng.standard_normal(4096, dtype=np.float32)
    table = (table + np.roll(table, 1) + np.roll(table, 2)) / math.sqrt(3)
    lines: Field = table[(coordinate * (3 / period)).astype(np.int32) & 4095]
    return lines


def rotated(surface: Surface, at: Point, turn: float) -> tuple[Field, Field]:
    """Coordinates from a point along and across a direction of ``turn`` radians, each shape (h, w)."""
    u, v = surface.u - at[0], surface.v - at[1]
    return u * math.cos(turn) + v * math.sin(turn), v * math.cos(turn) - u * math.sin(turn)


def disc(surface: Surface, at: Point, radius: float) -> Field:
    """Signed distance to a circle."""
    away: Field = np.hypot(surface.u - at[0], surface.v - at[1])
    return away - radius


def box(surface: Surface, at: Point, half: Point, *, corner: float = 0.0) -> Field:
    """Signed distance to an upright rectangle with round corners."""
    across = np.abs(surface.u - at[0]) - (half[0] - corner)
    down = np.abs(surface.v - at[1]) - (half[1] - corner)
    outside: Field = np.hypot(np.maximum(across, 0), np.maximum(down, 0))
    inside: Field = np.minimum(np.maximum(across, down), 0)
    return outside + inside - corner


def hexagon(surface: Surface, at: Point, radius: float, turn: float) -> Field:
    """Signed distance to a regular hexagon, ``radius`` measured to its flats."""
    u, v = surface.u - at[0], surface.v - at[1]
    angles = [turn + index * math.pi / 3 for index in range(3)]
    flats = [np.abs(u * math.cos(angle) + v * math.sin(angle)) for angle in angles]
    return np.maximum(np.maximum(flats[0], flats[1]), flats[2]) - radius


def pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """One of several colours."""
    return colours[int(rng.integers(len(colours)))]
