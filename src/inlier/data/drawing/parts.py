"""What components are made of: bolts, bores, slots and pipes, and the texture of metal and paint."""

from __future__ import annotations

import math

import numpy as np

from inlier.data.drawing.surface import Colour, Field, Point, Surface, disc, hexagon, line_noise, smooth

STEEL: Colour = (0.52, 0.52, 0.51)
BRONZE: Colour = (0.52, 0.37, 0.18)
IRON: Colour = (0.2, 0.19, 0.18)
SOOT: Colour = (0.022, 0.02, 0.018)


def ring_positions(count: int, radius: float, *, turn: float = 0.0) -> tuple[Point, ...]:
    """Points evenly spread on a circle round the middle, the first one ``turn`` radians past the right."""
    angles = [turn + 2 * math.pi * index / count for index in range(count)]
    return tuple((radius * math.cos(angle), radius * math.sin(angle)) for angle in angles)


def bolt(surface: Surface, at: Point, radius: float, *, turn: float, is_missing: bool) -> None:
    """A hexagon bolt on its washer, or the empty threaded hole that it leaves."""
    near = surface.window(at, 2 * radius)
    washer = near.inside(disc(near, at, 1.35 * radius), soft=0.03)
    near.working *= 1 - washer
    if is_missing:
        near.paint(washer * 0.7, (0.42, 0.4, 0.36), 0.4)
        bore(near, at, 0.72 * radius)
        return
    ground = float(np.median(near.height))
    near.level(washer, ground + 0.12 * radius)
    near.paint(washer, STEEL, 0.5)
    head = near.inside(hexagon(near, at, 0.92 * radius, turn), soft=0.02)
    chamfer = np.maximum(disc(near, at, 0.85 * radius), 0) * 0.8
    near.level(head, ground + 0.75 * radius - chamfer)
    near.paint(head, (0.3, 0.29, 0.28), 0.55)
    stamp = near.inside(np.abs(disc(near, at, 0.45 * radius)) - 0.04 * radius)
    near.height -= stamp * (0.06 * radius)


def bore(surface: Surface, at: Point, radius: float) -> None:
    """A deep threaded hole whose edge catches the light."""
    near = surface.window(at, 1.4 * radius)
    away = disc(near, at, radius)
    near.paint(near.inside(np.abs(away) - 0.1 * radius), STEEL, 0.7)
    inside = near.inside(away, soft=0.02)
    near.working *= 1 - inside
    near.height -= inside * (1.1 * radius + 0.03 * np.sin(away * (40 / radius)))
    near.paint(inside, SOOT, 0.15)


def slot(surface: Surface, distance: Field, *, depth: float) -> None:
    """An opening through a wall, dark behind a worn edge."""
    surface.paint(0.6 * surface.inside(np.abs(distance) - 0.022, soft=0.02), STEEL, 0.7)
    opening = surface.inside(distance, soft=0.02)
    surface.height -= depth * opening + 0.03 * surface.inside(distance - 0.03, soft=0.08)
    surface.paint(opening, (0.015, 0.015, 0.016), 0.1)
    surface.working *= 1 - opening


def pipe(
    surface: Surface,
    *,
    ground: float,
    is_upright: bool,
    offset: float,
    sway: Point,
    radius: float,
    colour: Colour,
    gloss: float,
) -> None:
    """A pipe or hose right across the canvas, bent by ``sway``: an amplitude and a frequency."""
    run, across = (surface.v, surface.u) if is_upright else (surface.u, surface.v)
    away = np.abs(across - sway[0] * np.sin(run * sway[1] + offset) - offset) / radius
    cover = surface.inside((away - 1) * radius)
    surface.level(cover, ground + radius * np.sqrt(np.maximum(1 - away * away, 0)))
    surface.paint(cover, colour, gloss)
    surface.working *= 1 - cover


def tool_marks(surface: Surface, cover: Field, coordinate: Field, rng: np.random.Generator, *, depth: float) -> None:
    """Fine parallel lines, left by machining, along which ``coordinate`` is constant."""
    marks = cover * (line_noise(rng, coordinate, 0.012) + 0.7 * line_noise(rng, coordinate, 0.05))
    surface.height += marks * (0.0012 * depth)
    surface.albedo *= 1 + marks * (0.05 * depth)


def mottle(
    surface: Surface,
    cover: Field,
    rng: np.random.Generator,
    *,
    cell: float,
    amount: float,
    bump: float = 0.0,
    stretch: float = 1.0,
) -> None:
    """Uneven colour, and relief where ``bump`` is not 0, as of castings, old paint and worn metal."""
    uneven = cover * surface.noise(rng, cell, stretch=stretch)
    surface.albedo *= np.maximum(1 + amount * uneven, 0.1)
    surface.height += bump * uneven


def dome(distance: Field, radius: float, rise: float) -> Field:
    """A rounded lid, shape (h, w): 0 where ``distance`` is 0, ``rise`` from ``radius`` inside that on."""
    return rise * smooth(-distance / radius)


def engine_room(surface: Surface, rng: np.random.Generator) -> None:
    """What stands behind a component: painted plates, grime and a few pipes."""
    everywhere = np.ones_like(surface.height)
    tone, warmth = rng.uniform(0.03, 0.12), rng.uniform(-0.2, 0.2)
    surface.paint(everywhere, (tone * (1 + warmth), tone, tone * (1 - warmth)), 0.15)
    seam = surface.u * rng.uniform(-0.2, 0.2) + surface.v - rng.uniform(-1, 1)
    surface.height -= 0.5 + 0.05 * surface.inside(seam, soft=0.03)
    mottle(surface, everywhere, rng, cell=0.9, amount=0.25, bump=0.01)
    for _ in range(int(rng.integers(0, 3))):
        shade = rng.uniform(0.04, 0.2)
        pipe(
            surface,
            ground=-0.4,
            is_upright=bool(rng.random() < 0.5),
            offset=math.copysign(rng.uniform(0.6, 1.4), rng.random() - 0.5),
            sway=(rng.uniform(0, 0.12), rng.uniform(0.5, 2)),
            radius=rng.uniform(0.04, 0.16),
            colour=(shade, shade * rng.uniform(0.75, 1.05), shade * rng.uniform(0.5, 1)),
            gloss=rng.uniform(0.1, 0.6),
        )
