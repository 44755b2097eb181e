"""What service leaves on any component, and no inspector minds: tint, scratches, grime, oil, chalk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from inlier.data.drawing.parts import pipe
from inlier.data.drawing.surface import Colour, Point, Surface, pick, smooth

_CHALKS: tuple[Colour, ...] = ((0.75, 0.75, 0.72), (0.75, 0.62, 0.12), (0.6, 0.1, 0.08), (0.7, 0.72, 0.75))

_DIGITS: tuple[tuple[Point, ...], ...] = (
    ((0.5, 0), (0.15, 0.2), (0.05, 0.6), (0.3, 1), (0.7, 0.9), (0.9, 0.45), (0.75, 0.1), (0.45, 0)),
    ((0.25, 0.25), (0.6, 0), (0.55, 1)),
    ((0.1, 0.25), (0.45, 0), (0.85, 0.2), (0.6, 0.6), (0.1, 1), (0.9, 0.95)),
    ((0.1, 0.1), (0.6, 0), (0.8, 0.25), (0.4, 0.45), (0.85, 0.7), (0.55, 1), (0.1, 0.9)),
    ((0.6, 1), (0.65, 0), (0.05, 0.65), (0.95, 0.6)),
    ((0.85, 0), (0.2, 0.05), (0.15, 0.45), (0.6, 0.4), (0.85, 0.7), (0.5, 1), (0.1, 0.9)),
    ((0.75, 0), (0.25, 0.4), (0.1, 0.8), (0.5, 1), (0.85, 0.75), (0.55, 0.5), (0.15, 0.7)),
    ((0.05, 0.05), (0.9, 0), (0.5, 0.5), (0.35, 1)),
    ((0.5, 0.45), (0.15, 0.2), (0.5, 0), (0.8, 0.2), (0.2, 0.7), (0.5, 1), (0.85, 0.75), (0.5, 0.45)),
    ((0.8, 0.35), (0.4, 0.5), (0.2, 0.2), (0.6, 0), (0.85, 0.3), (0.7, 1)),
)


@dataclass(frozen=True, slots=True)
class Visit:
    """What the photos of one visit to one engine have in common.

    Attributes:
        light: Tint of the torch, about 1 each.
        tint: Tint of the engine's surfaces, about 1 each.
        scratches: How scratched the engine is, about 1.
        grime: How dirty, about 1.
        oil: How oily, about 1.
        chalk: Colour of the chalk that numbers its cylinders.
    """

    light: Colour
    tint: Colour
    scratches: float
    grime: float
    oil: float
    chalk: Colour

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Self:
        """An engine as it is found."""
        warmth, green = rng.normal(0.04, 0.09), rng.normal(0, 0.02)
        red_tint, green_tint, blue_tint = rng.normal(1, 0.04, 3).tolist()
        return cls(
            light=(1 + warmth, 1 + green, 1 - warmth),
            tint=(red_tint, green_tint, blue_tint),
            scratches=rng.gamma(4, 0.25),
            grime=rng.gamma(3, 0.25),
            oil=rng.gamma(2, 0.4),
            chalk=pick(rng, _CHALKS),
        )


def wear(surface: Surface, visit: Visit, rng: np.random.Generator) -> None:
    """Leave the traces of service on a drawn component."""
    surface.albedo *= np.array(visit.tint, np.float32)[:, None, None]
    _scratch(surface, rng, num_scratches=int(rng.poisson(14 * visit.scratches)))
    uneven = surface.noise(rng, 0.7, num_octaves=5)
    grime = smooth(0.45 * (uneven + 1.1 * visit.grime - 1.7))
    surface.paint(0.5 * grime, (0.045, 0.034, 0.024), 0.12)
    _smear_oil(surface, rng, amount=visit.oil)
    if rng.random() < 0.2:
        _chalk_number(surface, rng, visit.chalk)
    if rng.random() < 0.06:
        _hang_hose(surface, rng)


def _scratch(surface: Surface, rng: np.random.Generator, *, num_scratches: int) -> None:
    """Short, bright, shallow scratches in every direction, slightly bent."""
    paths: list[tuple[list[Point], float]] = []
    for _ in range(num_scratches):
        x, y = rng.uniform(-1.2, 1.2, 2).tolist()
        turn, reach, bend = rng.uniform(0, math.pi), rng.gamma(2, 0.08), rng.normal(0, 0.03)
        along = reach * math.cos(turn), reach * math.sin(turn)
        middle = x - bend * math.sin(turn), y + bend * math.cos(turn)
        paths.append(([(x - along[0], y - along[1]), middle, (x + along[0], y + along[1])], 0.004))
    cover = 0.5 * surface.strokes(paths)
    surface.height -= 0.004 * cover
    surface.albedo += cover * (0.25 * surface.albedo + 0.06)


def _smear_oil(surface: Surface, rng: np.random.Generator, *, amount: float) -> None:
    """Dark wet patches, longer than wide as gravity has it."""
    patches = surface.noise(rng, 0.55, num_octaves=3, stretch=1.8)
    film = smooth(1.2 * (patches + 0.55 * amount - 1.75))
    surface.albedo *= 1 - film * np.array([0.25, 0.33, 0.42], np.float32)[:, None, None]
    surface.gloss += 0.75 * film * (0.85 - surface.gloss)
    surface.height += 0.012 * film


def _chalk_number(surface: Surface, rng: np.random.Generator, colour: Colour) -> None:
    """A cylinder's number of one or two digits, scribbled by hand."""
    size, lean, turn = rng.uniform(0.28, 0.55), rng.normal(0.1, 0.15), rng.normal(0, 0.15)
    corner = rng.uniform((-1.0, -0.85), (0.6, 0.3))
    slanted = size * np.array([[0.6, 0.0], [-lean, 1.0]])
    upright = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    paths: list[tuple[list[Point], float]] = []
    for place in range(int(rng.integers(1, 3))):
        digit = np.array(_DIGITS[int(rng.integers(10))])
        shaky = round_off(digit + rng.normal(0, 0.025, digit.shape))
        points = (shaky @ slanted + (0.8 * size * place, 0)) @ upright + corner
        paths.append(([(x, y) for x, y in points.tolist()], size * rng.uniform(0.1, 0.15)))
    grain = smooth(0.75 + 0.5 * surface.noise(rng, 0.03, num_octaves=2))
    surface.paint(0.9 * surface.strokes(paths) * grain, colour, 0.0)


def round_off(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """A poly-line, shape (N, 2), with its corners cut twice (Chaikin's scheme); shape (4 N - 2, 2)."""
    for _ in range(2):
        near, far = corners[:-1], corners[1:]
        cut = np.stack([0.75 * near + 0.25 * far, 0.25 * near + 0.75 * far], axis=1).reshape(-1, 2)
        corners = np.concatenate([corners[:1], cut, corners[-1:]])
    return corners


def _hang_hose(surface: Surface, rng: np.random.Generator) -> None:
    """A hose or cable that hangs into the picture near its edge."""
    shade = rng.uniform(0.02, 0.08)
    is_red = rng.random() < 0.3
    pipe(
        surface,
        ground=0.4,
        is_upright=bool(rng.random() < 0.7),
        offset=math.copysign(rng.uniform(0.85, 1.2), rng.random() - 0.5),
        sway=(rng.uniform(0.03, 0.12), rng.uniform(1, 2.5)),
        radius=rng.uniform(0.03, 0.07),
        colour=(0.35 if is_red else shade, shade, shade),
        gloss=0.35,
    )
