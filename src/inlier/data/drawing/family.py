"""Component kinds without a name, as many as wanted: each composed from a body, a middle and bolts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from inlier.data.drawing.components import BLUEPRINTS, Blueprint
from inlier.data.drawing.parts import (
    BRONZE,
    IRON,
    SOOT,
    STEEL,
    bolt,
    dome,
    engine_room,
    mottle,
    ring_positions,
    slot,
    tool_marks,
)
from inlier.data.drawing.surface import Colour, Field, Point, Surface, disc, smooth

_FINISHES: tuple[tuple[Colour, float], ...] = (
    (STEEL, 0.6),
    (IRON, 0.3),
    (BRONZE, 0.55),
    ((0.45, 0.46, 0.48), 0.45),
    ((0.42, 0.38, 0.27), 0.25),
    ((0.3, 0.07, 0.045), 0.2),
    ((0.07, 0.13, 0.26), 0.3),
    ((0.5, 0.34, 0.05), 0.25),
)
_MIDDLES = ("bore", "fins", "spokes", "holes", "dome", "slits")


@dataclass(frozen=True, slots=True)
class _Design:
    """The choices that make one kind.

    Attributes:
        half: Half extents of the body.
        squareness: 1 for an ellipse, 2 for a rounded plate, 3 for a nearly rectangular one.
        finish: Colour and gloss.
        middle: What is in the middle, one of ``_MIDDLES``.
        inner: Radius of that middle.
        count: How often the middle's feature repeats.
        bolts: Where the bolts sit.
        bolt_radius: How large they are.
        ledge: How far inside its edge the body steps up, or down if ``rise`` is negative.
        rise: How high that step is.
    """

    half: Point
    squareness: int
    finish: tuple[Colour, float]
    middle: str
    inner: float
    count: int
    bolts: tuple[Point, ...]
    bolt_radius: float
    ledge: float
    rise: float

    @classmethod
    def draw(cls, number: int) -> Self:
        """The design of the kind of this number."""
        rng = np.random.default_rng([number, 0xC0FFEE])
        half = rng.uniform(0.78, 1.25), rng.uniform(0.72, 0.95)
        squareness, bolt_radius = int(rng.integers(1, 4)), rng.uniform(0.07, 0.11)
        inset = 1.9 * bolt_radius
        reach = (half[0] - inset, half[1] - inset)
        places = ring_positions(4 + int(rng.integers(6 // squareness + 1)), 1.0, turn=rng.uniform(0, math.pi))
        return cls(
            half=half,
            squareness=squareness,
            finish=_FINISHES[int(rng.integers(len(_FINISHES)))],
            middle=_MIDDLES[(number - 1) % len(_MIDDLES)],
            inner=rng.uniform(0.3, 0.42) * min(half) / 0.8,
            count=int(rng.integers(5, 10)),
            bolts=tuple((_stretch(x, squareness) * reach[0], _stretch(y, squareness) * reach[1]) for x, y in places),
            bolt_radius=bolt_radius,
            ledge=2.2 * inset,
            rise=float(rng.choice([-0.06, 0.08, 0.14])),
        )


def _stretch(cosine: float, squareness: int) -> float:
    """A circle's coordinate moved onto the super-ellipse of exponent 2**squareness."""
    return math.copysign(abs(cosine) ** (2 / 2**squareness), cosine)


def component_names(count: int) -> tuple[str, ...]:
    """As many kinds as asked for: those that have a name first, then ``part-1``, ``part-2`` and so on."""
    return (*BLUEPRINTS, *(f"part-{number}" for number in range(1, count + 1)))[:count]


def find_blueprint(component: str) -> Blueprint:
    """How a kind of component is drawn, be it one that has a name or ``part-N``, the N-th that has none.

    Raises:
        ValueError: There is no such kind.
    """
    if component in BLUEPRINTS:
        return BLUEPRINTS[component]
    number = component.removeprefix("part-")
    if number == component or not number.isdecimal() or number.startswith("0"):
        names = ", ".join(BLUEPRINTS)
        raise ValueError(f"component must be one of {names}, or part-N with N from 1 on, got {component!r}.")
    design = _Design.draw(int(number))
    return Blueprint(design.bolts, partial(_draw_numbered, design), tilt=0.14)


def _draw_numbered(design: _Design, surface: Surface, rng: np.random.Generator, missing: int | None) -> None:
    engine_room(surface, rng)
    power = (surface.u / design.half[0]) ** 2, (surface.v / design.half[1]) ** 2
    for _ in range(design.squareness - 1):
        power = power[0] ** 2, power[1] ** 2
    edge = ((power[0] + power[1]) ** (0.5**design.squareness) - 1) * min(design.half)
    body = surface.inside(edge, soft=0.025)
    surface.level(body, -0.5 * np.maximum(edge + 0.04, 0))
    surface.height += dome(edge + design.ledge, 0.08, design.rise)
    colour, gloss = design.finish
    surface.paint(body, colour, gloss)
    mottle(surface, body, rng, cell=0.3, amount=0.12, bump=0.003)
    if gloss > 0.4:
        tool_marks(surface, body, edge if design.count % 2 else surface.v, rng, depth=1.0)
    surface.working[:] = body
    _draw_middle(design, surface)
    for index, at in enumerate(design.bolts):
        bolt(surface, at, design.bolt_radius, turn=rng.uniform(0, 1), is_missing=index == missing)


def _draw_middle(design: _Design, surface: Surface) -> None:
    away = disc(surface, (0, 0), design.inner)
    within = surface.inside(away, soft=0.03)
    if design.middle == "bore":
        surface.paint(surface.inside(away - 0.08, soft=0.02), STEEL, 0.65)
        slot(surface, away, depth=0.4)
        surface.paint(surface.inside(away + 0.15, soft=0.02), STEEL, 0.7)
        surface.height += dome(away + 0.15, 0.1, 0.3)
    elif design.middle == "fins":
        surface.height += 0.1 * within * _comb(surface.v * (design.count / design.inner))
    elif design.middle == "spokes":
        spokes = _comb(np.arctan2(surface.v, surface.u) * design.count) * smooth((away + design.inner) / 0.1)
        surface.height += dome(away, 0.05, -0.12) + 0.12 * within * spokes
        surface.paint(0.7 * within * (1 - spokes), SOOT, 0.1)
    elif design.middle == "holes":
        places = ring_positions(design.count, 0.7 * design.inner)
        slot(surface, np.minimum.reduce([disc(surface, at, 0.22 * design.inner) for at in places]), depth=0.3)
    elif design.middle == "dome":
        surface.height += dome(away, design.inner, 0.3)
    else:
        spacing = 2 * design.inner / design.count
        row = spacing * np.abs((surface.v / spacing) % 1 - 0.5)
        slot(surface, np.maximum(row - 0.03, away), depth=0.3)


def _comb(phase: Field) -> Field:
    """Rounded teeth in [0, 1], one for every turn of the phase."""
    return smooth(0.5 + 0.9 * np.cos(phase))
