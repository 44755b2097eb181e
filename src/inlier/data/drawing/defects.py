"""Damage to a component's working surface. Whatever a defect changes is its mask."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from inlier.data.drawing.surface import Colour, Field, Point, Surface, line_noise, rotated, smooth


def damage(surface: Surface, defect: str, at: Point, slide: float, rng: np.random.Generator) -> Field:
    """Draw a defect of ``SURFACE_DEFECTS`` at a point; returns what changed, shape (h, w), 0 or 1.

    ``slide`` is the direction, in radians, in which things rub along the surface.
    """
    before = surface.copy()
    SURFACE_DEFECTS[defect](surface, at, slide, rng)
    surface.keep(1 - surface.working, before)
    return changed(before, surface)


def changed(before: Surface, after: Surface) -> Field:
    """Where two drawings of one scene differ enough to be seen: shape (h, w), 0 or 1."""
    is_changed: NDArray[np.bool_] = np.abs(before.albedo - after.albedo).max(axis=0) > 0.03
    is_changed |= np.abs(before.height - after.height) > 0.006
    is_changed |= np.abs(before.gloss - after.gloss) > 0.1
    return is_changed.astype(np.float32)


def _crack(surface: Surface, at: Point, slide: float, rng: np.random.Generator) -> None:
    """A dark, jagged line that branches and tapers, its lips slightly raised and bright."""
    paths: list[tuple[tuple[Point, Point], float]] = []
    heading = rng.uniform(0, 2 * math.pi)
    for turn in (heading, heading + math.pi + rng.normal(0, 0.3)):
        _grow(paths, at, turn, length=rng.uniform(0.4, 0.65), width=rng.uniform(0.018, 0.03), rng=rng)
    near = surface.window(at, 1.0)
    gape = near.strokes(paths)
    lips = near.strokes([(stretch, 2.4 * width) for stretch, width in paths]) * (1 - gape)
    near.height += 0.006 * lips - 0.05 * gape
    near.albedo += 0.35 * lips * (0.6 - near.albedo)
    near.paint(gape, (0.008, 0.007, 0.006), 0.0)


def _grow(
    paths: list[tuple[tuple[Point, Point], float]],
    start: Point,
    heading: float,
    *,
    length: float,
    width: float,
    rng: np.random.Generator,
) -> None:
    """Add a crack's run from ``start`` to ``paths``, thinner at every stretch, with a branch now and then."""
    num_stretches = max(int(length / 0.05), 2)
    step = length / num_stretches
    for stretch in range(num_stretches):
        turn = heading + rng.normal(0, 0.5)
        end = (start[0] + step * math.cos(turn), start[1] + step * math.sin(turn))
        left = 1 - (stretch + 1) / num_stretches
        paths.append(((start, end), max(width * (0.35 + 0.65 * left), 0.007)))
        start = end
        if length > 0.15 and rng.random() < 0.22:
            side = heading + math.copysign(rng.uniform(0.5, 1.1), rng.random() - 0.5)
            _grow(paths, start, side, length=0.45 * length, width=0.7 * width, rng=rng)


def _scuff(surface: Surface, at: Point, slide: float, rng: np.random.Generator) -> None:
    """A torn, matt band along the way of sliding: bright and burnt streaks where metal seized."""
    length, breadth = rng.uniform(0.4, 0.65), rng.uniform(0.14, 0.26)
    near = surface.window(at, 1.2 * length + breadth)
    along, across = rotated(near, at, slide)
    # every streak starts and stops elsewhere
    reach = np.abs(along) / length + 0.08 * line_noise(rng, across, 0.03) + (across / breadth) ** 2
    cover = smooth(2.5 * (1 - reach))
    streaks = 0.8 * line_noise(rng, across, 0.012) + 0.8 * line_noise(rng, across, 0.045)
    streaks += 0.35 * near.noise(rng, 0.12)
    near.height += 0.006 * cover * streaks
    near.paint(0.85 * cover, (0.2, 0.185, 0.17), 0.12)
    near.paint(0.85 * cover * smooth(0.5 - streaks), (0.03, 0.024, 0.022), 0.05)
    near.paint(0.9 * cover * smooth(streaks - 0.4), (0.68, 0.66, 0.64), 0.3)


_RUST: tuple[tuple[Colour, float], ...] = (((0.17, 0.085, 0.045), 0.1), ((0.3, 0.19, 0.12), 0.35))
_STEEL: tuple[Colour, float] = ((0.6, 0.58, 0.55), 0.45)


def _peel(surface: Surface, at: Point, slide: float, rng: np.random.Generator) -> None:
    """An irregular patch where the coating came off: another metal below, and an edge that casts a shadow."""
    radius, turn = rng.uniform(0.17, 0.3), rng.uniform(0, math.pi)
    near = surface.window(at, 2.2 * radius)
    along, across = rotated(near, at, turn)
    edge = np.hypot(along, across / rng.uniform(0.6, 1.0)) / radius - 1 - 0.22 * near.noise(rng, 0.9 * radius)
    bare = smooth(0.5 - edge * (radius / 0.015))
    curl = smooth(1 - np.abs(edge * radius - 0.015) / 0.018)
    blotches = near.noise(rng, 0.1)
    near.height += 0.014 * curl - 0.03 * bare + 0.004 * bare * blotches
    coat = float((near.albedo * near.working).mean() / (near.working.mean() + 1e-6))
    rust = _RUST[int(rng.integers(len(_RUST)))]
    near.paint(bare, *(_STEEL if coat < 0.22 else rust))  # whichever stands out from the coat
    near.albedo += 0.2 * curl * (0.7 - near.albedo)
    near.albedo *= np.maximum(1 + 0.28 * bare * blotches, 0.2)


SURFACE_DEFECTS: dict[str, Callable[[Surface, Point, float, np.random.Generator], None]] = {
    "crack": _crack,
    "scuffing": _scuff,
    "peel-off": _peel,
}
