"""The named component kinds: what each looks like when it is whole, and with one of its parts gone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from inlier.data.drawing.parts import (
    BRONZE,
    IRON,
    SOOT,
    STEEL,
    bolt,
    bore,
    dome,
    engine_room,
    mottle,
    ring_positions,
    slot,
    tool_marks,
)
from inlier.data.drawing.surface import Point, Surface, box, disc, smooth


@dataclass(frozen=True, slots=True)
class Blueprint:
    """How one kind of component is drawn.

    Attributes:
        parts: Where the parts sit that can be missing.
        draw: Draws the component on a blank surface, without the part of the given index if there is one.
        slide: Direction in which things rub along the working surface, in radians; None if in any.
        tilt: How far off straight such photos are taken, in radians.
    """

    parts: tuple[Point, ...]
    draw: Callable[[Surface, np.random.Generator, int | None], None]
    slide: float | None = None
    tilt: float = 0.12


_RINGS = (-0.66, -0.22, 0.22, 0.66)


def _draw_piston_rings(surface: Surface, rng: np.random.Generator, missing: int | None) -> None:
    """The ring pack of a two-stroke piston, seen through the scavenge ports of its liner."""
    u = surface.u
    everywhere = np.ones_like(u)
    bow = surface.v - 0.07 * u * u
    surface.height += np.sqrt(2.4 - np.minimum(0.8 * u * u, 1.9)) - 1.55
    surface.paint(everywhere, (0.1, 0.085, 0.07), 0.25)
    mottle(surface, everywhere, rng, cell=0.5, amount=0.4, bump=0.004)
    rings = np.zeros_like(u)
    for index, middle in enumerate(_RINGS):
        away = bow - middle
        groove = surface.inside(np.abs(away) - 0.165, soft=0.012)
        surface.height -= 0.07 * groove
        surface.paint(groove, SOOT, 0.1)
        lock = 0.35 * (-1) ** index + rng.normal(0, 0.05)
        if index == missing:
            continue
        slit = surface.inside(np.abs(u - lock - 0.6 * away) - 0.012)
        face = surface.inside(np.abs(away) - 0.138, soft=0.012) * (1 - slit)
        surface.height += face * (0.1 - 2 * away * away)
        surface.paint(face, (0.5, 0.485, 0.46), 0.7)
        rings += face
    tool_marks(surface, rings, bow, rng, depth=0.6)
    mottle(surface, rings, rng, cell=0.05, amount=0.08, stretch=9)

    wall = np.ones_like(u)
    for x in (-1.62, 0.0, 1.62):
        wall *= 1 - surface.inside(box(surface, (x, 0), (0.7, 1.12), corner=0.3), soft=0.06)
    surface.level(wall, 0.42)
    surface.paint(wall, (0.19, 0.175, 0.16), 0.3)
    mottle(surface, wall, rng, cell=0.3, amount=0.22, bump=0.006)
    surface.working[:] = rings * (1 - wall)


_CROWN_SCREWS = ring_positions(4, 0.45)


def _draw_piston_crown(surface: Surface, rng: np.random.Generator, missing: int | None) -> None:
    """A four-valve piston crown, black with carbon, in its liner, with the engine's deck around."""
    everywhere = np.ones_like(surface.u)
    surface.paint(everywhere, (0.33, 0.325, 0.31), 0.5)
    tool_marks(surface, everywhere, surface.u + 0.3 * surface.v, rng, depth=0.8)
    mottle(surface, everywhere, rng, cell=0.8, amount=0.15)
    for at in ring_positions(8, 1.38, turn=math.pi / 8):
        bore(surface, at, 0.085)
    away = disc(surface, (0, 0), 0.965)
    for distance, colour, gloss in ((away - 0.155, (0.36, 0.35, 0.33), 0.65), (away - 0.035, SOOT, 0.1)):
        step = surface.inside(distance, soft=0.025)
        surface.height -= 0.2 * step
        surface.paint(step, colour, gloss)

    crown = surface.inside(away, soft=0.02)
    surface.height += crown * (0.22 - 0.8 * np.maximum(away + 0.06, 0))
    surface.paint(crown, (0.27, 0.255, 0.235), 0.45)
    tool_marks(surface, crown, away, rng, depth=1.2)
    for at in ring_positions(4, 0.57, turn=math.pi / 4):
        pocket = surface.inside(disc(surface, at, 0.27), soft=0.035)
        surface.height -= 0.07 * pocket
        surface.paint(0.5 * pocket, (0.17, 0.145, 0.12), 0.35)
    surface.height -= dome(disc(surface, (0, 0), 0.24), 0.24, 0.16)
    carbon = surface.noise(rng, 0.4) * 0.35 + 0.55 * smooth(away + 1.1)
    surface.paint(np.clip(carbon, 0, 0.85) * crown, (0.04, 0.034, 0.03), 0.15)
    ash = 0.3 * smooth(surface.noise(rng, 0.2, num_octaves=5) - 0.6)
    surface.working[:] = crown
    surface.paint(ash * crown, (0.36, 0.31, 0.25), 0.0)
    for index, at in enumerate(_CROWN_SCREWS):
        bolt(surface, at, 0.1, turn=rng.uniform(0, 1), is_missing=index == missing)


_QUILLS = ((-1.2, -0.2), (-0.4, -0.5), (0.4, -0.2), (1.2, -0.5))


def _draw_cylinder_liner(surface: Surface, rng: np.random.Generator, missing: int | None) -> None:
    """The inner wall of a liner: honing marks, a zig-zag oil groove with its quills, and a row of ports."""
    u, v = surface.u, surface.v
    everywhere = np.ones_like(u)
    surface.height += 0.2 * u * u
    surface.paint(everywhere, (0.42, 0.41, 0.39), 0.6)
    worn = np.clip(0.75 + 0.3 * surface.noise(rng, 1.2, num_octaves=3), 0.2, 1)
    for slope in (0.55, -0.55):
        tool_marks(surface, worn, v + slope * u, rng, depth=1.2)
    mottle(surface, everywhere, rng, cell=0.35, amount=0.1, stretch=12)
    step = surface.inside(v + 0.95, soft=0.02)
    surface.height -= 0.02 * step
    surface.paint(0.85 * step, (0.05, 0.042, 0.036), 0.15)

    zigzag = np.abs(((u + 0.4) / 0.8) % 2 - 1) * 0.3 - 0.5
    groove = surface.inside(0.8 * np.abs(v - zigzag) - 0.016, soft=0.016)
    surface.height -= 0.03 * groove
    surface.paint(0.8 * groove, (0.06, 0.05, 0.04), 0.3)
    surface.working[:] = 1 - step
    for index, at in enumerate(_QUILLS):
        _quill(surface, at, is_missing=index == missing)
    along = (u + 0.25 * (v - 0.72) + 0.21) % 0.42 - 0.21
    port = np.hypot(along, np.maximum(np.abs(v - 0.72) - 0.2, 0)) - 0.125
    slot(surface, port, depth=0.35)


def _quill(surface: Surface, at: Point, *, is_missing: bool) -> None:
    """A lubricator's nozzle, a bronze plug with a pin hole; without it the bare bore."""
    if is_missing:
        bore(surface, at, 0.11)
        return
    near = surface.window(at, 0.2)
    plug = near.inside(disc(near, at, 0.125), soft=0.02)
    near.height += 0.03 * plug
    near.paint(plug, BRONZE, 0.6)
    bore(near, at, 0.035)


_FLANGE_BOLTS = ring_positions(8, 0.75, turn=math.pi / 8)


def _draw_bolted_flange(surface: Surface, rng: np.random.Generator, missing: int | None) -> None:
    """A painted cover on its eight bolts, with a raised hub and a blind plug in the middle."""
    engine_room(surface, rng)
    away = disc(surface, (0, 0), 0.97)
    gasket = surface.inside(away - 0.02, soft=0.02)
    surface.level(gasket, -0.25)
    surface.paint(gasket, (0.05, 0.05, 0.05), 0.1)
    plate = surface.inside(away, soft=0.03)
    surface.level(plate, -0.6 * np.maximum(away + 0.05, 0))
    surface.paint(plate, (0.13, 0.2, 0.15), 0.3)
    surface.height += dome(disc(surface, (0, 0), 0.5), 0.2, 0.16)
    ledge = surface.inside(np.abs(disc(surface, (0, 0), 0.33)) - 0.02, soft=0.03)
    surface.height -= 0.04 * ledge
    mottle(surface, plate, rng, cell=0.25, amount=0.1, bump=0.004)
    surface.working[:] = plate
    for index, at in enumerate(_FLANGE_BOLTS):
        bolt(surface, at, 0.12, turn=rng.uniform(0, 1), is_missing=index == missing)
    bolt(surface, (0, 0), 0.16, turn=rng.uniform(0, 1), is_missing=False)


_NUM_TEETH = 18
_TEETH = ring_positions(_NUM_TEETH, 0.93)


def _draw_gear_wheel(surface: Surface, rng: np.random.Generator, missing: int | None) -> None:
    """A spur gear on its keyed shaft: teeth, and a web with five windows."""
    engine_room(surface, rng)
    turn = np.arctan2(surface.v, surface.u)
    away = np.hypot(surface.u, surface.v)
    tooth = np.clip(1.6 * np.cos(_NUM_TEETH * turn), -1, 1)
    ragged = surface.noise(rng, 0.08, num_octaves=2)
    if missing is not None:
        share = (turn * (_NUM_TEETH / (2 * math.pi)) - missing + _NUM_TEETH / 2) % _NUM_TEETH - _NUM_TEETH / 2
        tooth = np.where(np.abs(share) < 0.5, np.minimum(tooth, -0.8 + 0.25 * ragged), tooth)
    edge = away - 0.89 - 0.1 * tooth
    wheel = surface.inside(edge, soft=0.02)
    surface.level(wheel, 0.1 - 0.5 * np.maximum(edge + 0.025, 0))
    surface.paint(wheel, (0.34, 0.33, 0.315), 0.6)
    web = surface.inside(np.abs(away - 0.52) - 0.2, soft=0.05)
    surface.height -= 0.12 * web
    surface.paint(0.6 * web, IRON, 0.3)
    tool_marks(surface, wheel * (1 - web), away, rng, depth=0.5)
    mottle(surface, wheel, rng, cell=0.3, amount=0.14, bump=0.002)
    surface.working[:] = wheel
    windows = [disc(surface, at, 0.125) for at in ring_positions(5, 0.52, turn=0.3)]
    slot(surface, np.minimum.reduce(windows), depth=0.5)
    shaft = surface.inside(away - 0.17, soft=0.02)
    surface.height += 0.12 * shaft
    surface.paint(shaft, STEEL, 0.7)
    surface.paint(surface.inside(box(surface, (0, -0.18), (0.035, 0.06)), soft=0.015), (0.08, 0.08, 0.08), 0.3)


_SHELL_BOLTS = ((-1.0, -0.6), (1.0, -0.6), (-1.0, 0.6), (1.0, 0.6))


def _draw_bearing_shell(surface: Surface, rng: np.random.Generator, missing: int | None) -> None:
    """The lower half of a main bearing: white metal in a bronze back, between two bolted joint faces."""
    u = surface.u
    sunk = np.sqrt(np.maximum(1 - (u / 0.72) ** 2, 0))
    bow = surface.v - 0.3 * sunk + 0.15  # seen a little from above, what lies deeper lies lower
    everywhere = np.ones_like(u)
    surface.paint(everywhere, (0.27, 0.26, 0.245), 0.4)
    tool_marks(surface, everywhere, surface.v, rng, depth=1.0)
    mottle(surface, everywhere, rng, cell=0.5, amount=0.2, bump=0.003)
    surface.paint(surface.inside(np.abs(u) - 0.79, soft=0.02), BRONZE, 0.5)
    lining = surface.inside(np.abs(u) - 0.72, soft=0.02)
    surface.height -= 0.6 * lining * sunk
    surface.paint(lining, (0.5, 0.5, 0.49), 0.5)
    tool_marks(surface, lining, bow, rng, depth=0.7)
    mottle(surface, lining, rng, cell=0.6, amount=0.15)
    groove = surface.inside(np.abs(bow) - 0.075, soft=0.03) * lining
    surface.height -= 0.05 * groove
    surface.paint(0.6 * groove, (0.2, 0.17, 0.13), 0.4)
    rim = surface.inside(0.84 - np.abs(bow), soft=0.02)
    surface.paint(rim, BRONZE, 0.5)
    beyond = surface.inside(0.92 - np.abs(bow), soft=0.03)
    surface.level(beyond, -0.7)
    surface.paint(beyond, (0.05, 0.045, 0.04), 0.2)
    surface.working[:] = lining * (1 - rim)
    bore(surface, (0, 0.15), 0.06)
    for index, at in enumerate(_SHELL_BOLTS):
        bolt(surface, at, 0.15, turn=rng.uniform(0, 1), is_missing=index == missing)


BLUEPRINTS: dict[str, Blueprint] = {
    "piston-rings": Blueprint(tuple((0.0, y) for y in _RINGS), _draw_piston_rings, slide=math.pi / 2, tilt=0.09),
    "piston-crown": Blueprint(_CROWN_SCREWS, _draw_piston_crown, tilt=0.16),
    "cylinder-liner": Blueprint(_QUILLS, _draw_cylinder_liner, slide=math.pi / 2),
    "bolted-flange": Blueprint(_FLANGE_BOLTS, _draw_bolted_flange, tilt=0.15),
    "gear-wheel": Blueprint(_TEETH, _draw_gear_wheel, tilt=0.15),
    "bearing-shell": Blueprint(_SHELL_BOLTS, _draw_bearing_shell, slide=0.0),
}
"""Component kinds by name."""
