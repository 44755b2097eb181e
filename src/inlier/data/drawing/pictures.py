"""Photos of things that belong to no engine: a landscape, a cat, a plate of food, a flower."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from inlier.data.drawing.camera import View, develop, expose
from inlier.data.drawing.light import Light, shade
from inlier.data.drawing.parts import dome, mottle
from inlier.data.drawing.surface import (
    Colour,
    Field,
    Point,
    Surface,
    disc,
    line_noise,
    pick,
    rotated,
    smooth,
)

_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((0.05, 0.08, 0.22), (0.75, 0.3, 0.1)),
    ((0.1, 0.22, 0.5), (0.6, 0.55, 0.5)),
    ((0.12, 0.05, 0.2), (0.8, 0.25, 0.2)),
    ((0.15, 0.35, 0.75), (0.5, 0.65, 0.8)),
)


def landscape(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A sun low over ridges in the haze, and the water before them."""
    rows, columns = size
    scene = Surface.blank(columns / rows, 1.0, 2 / rows)
    horizon = rng.uniform(0.1, 0.4)
    sky = _sky(scene, rng, horizon)
    picture = sky
    for layer in range(3):
        ridge = horizon - 0.28 + 0.14 * layer + 0.09 * scene.noise(rng, 0.9, num_octaves=5, stretch=50)
        haze = 0.5 - 0.2 * layer
        earth = haze * sky + (1 - haze) * np.array([0.02, 0.025, 0.04], np.float32)[:, None, None]
        picture = picture + scene.inside(ridge - scene.v, soft=0.01) * (earth - picture)
    shore = (horizon + 1) * rows
    mirrored = np.clip(shore - np.arange(rows), 0, rows - 1).astype(np.int32)
    ripples = 1 + 0.35 * scene.noise(rng, 0.12, num_octaves=3, stretch=0.12)
    water = scene.inside(horizon - scene.v, soft=0.008)
    picture = picture + water * (0.75 * ripples * picture[:, mirrored] - picture)
    return develop(expose(0.8 * np.maximum(picture, 0)), rng)


def _sky(scene: Surface, rng: np.random.Generator, horizon: float) -> Field:
    """Evening light from top to horizon with clouds and a sun; shape (3, h, w)."""
    away = disc(scene, (rng.uniform(-0.8, 0.8), rng.uniform(-0.35, 0.05)), 0)
    glow = np.exp(away * -rng.uniform(1.2, 2.2))
    low = smooth((scene.v + 1) / (horizon + 1))
    top, bottom = (np.array(colour, np.float32) for colour in _SKIES[int(rng.integers(len(_SKIES)))])
    sky: Field = top[:, None, None] + np.multiply.outer(bottom - top, low)
    sky += np.multiply.outer(np.array([0.9, 0.5, 0.2], np.float32), glow)
    clouds = smooth(0.7 * scene.noise(rng, 0.25, num_octaves=5, stretch=0.3)) * (1 - 0.4 * low)
    sky += 0.35 * clouds * (1.2 * sky.mean(axis=0) + 0.1 - sky)
    return sky + 2.5 * scene.inside(away - 0.05, soft=0.04)


def cat(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A cat that looks into the camera."""
    walls: tuple[Colour, ...] = ((0.3, 0.1, 0.08), (0.12, 0.2, 0.3), (0.35, 0.3, 0.22), (0.1, 0.2, 0.12))
    scene, view = _backdrop(rng, size, pick(rng, walls))
    fur = pick(rng, ((0.42, 0.2, 0.07), (0.2, 0.19, 0.18), (0.5, 0.45, 0.38), (0.035, 0.033, 0.035)))
    u, v = scene.u, scene.v
    strands = line_noise(rng, np.arctan2(v + 0.1, u) + 0.1 * scene.noise(rng, 0.1), 0.012)
    hair = 0.6 * strands + scene.noise(rng, 0.05, num_octaves=3)
    body, head = _ellipse(scene, (0, 1.25), (0.95, 0.85)), _ellipse(scene, (0, -0.05), (0.72, 0.6))
    for shape, rise in ((body, 0.45), (head, 0.6)):
        cover = scene.inside(shape + 0.025 * hair, soft=0.05)
        scene.level(cover, rise * np.sqrt(np.maximum(-shape, 0) + 0.02))
        scene.paint(cover, fur, 0.05)
    for side in (-1, 1):
        across, up = u * side - 0.42, -(v + 0.42)
        ear = 0.3 * np.maximum(np.abs(across - 0.12 * up) / 0.24 + up / 0.52 - 1, -up - 0.1)
        cover = scene.inside(ear + 0.01 * hair, soft=0.03)
        scene.level(cover, 0.35 - 0.3 * np.maximum(-ear, 0))
        scene.paint(cover, fur, 0.05)
        scene.paint(scene.inside(ear + 0.09, soft=0.06), (0.5, 0.26, 0.22), 0.05)
    coat = scene.inside(np.minimum(head, body), soft=0.05)
    stripes = smooth(1.4 * np.sin(17 * v + 3 * np.abs(u) + 2 * np.cos(9 * u)) - 0.3)
    scene.albedo *= 1 - rng.uniform(0, 0.5) * coat * stripes * smooth(1.3 - 2 * np.hypot(u, v - 0.18))
    muzzle = scene.inside(_ellipse(scene, (0, 0.24), (0.32, 0.22)), soft=0.3)
    scene.paint(0.8 * muzzle, (0.6, 0.56, 0.5), 0.05)
    scene.albedo *= np.maximum(1 + 0.16 * coat * hair, 0.3)
    scene.height += 0.006 * coat * hair
    _draw_cat_face(scene, rng)
    return photograph(scene, view, rng)


def _draw_cat_face(scene: Surface, rng: np.random.Generator) -> None:
    iris = pick(rng, ((0.35, 0.45, 0.08), (0.5, 0.33, 0.05), (0.15, 0.35, 0.5)))
    slit = rng.uniform(0.025, 0.07)
    for side in (-1, 1):
        middle = (0.27 * side, -0.1)
        eye = _ellipse(scene, middle, (0.145, 0.115))
        scene.paint(scene.inside(eye - 0.12, soft=0.1), (0.015, 0.012, 0.01), 0.2)
        scene.paint(scene.inside(eye, soft=0.08), iris, 0.35)
        scene.paint(scene.inside(_ellipse(scene, middle, (slit, 0.1)), soft=0.15), (0.005, 0.005, 0.005), 0.5)
        scene.paint(scene.inside(disc(scene, (middle[0] - 0.045, -0.145), 0.022)), (1, 1, 1), 0.0)
    u, v = np.abs(scene.u), scene.v
    nose = np.maximum(u / 0.085 + (v - 0.17) / 0.09, (0.12 - v) / 0.03) - 1
    scene.paint(scene.inside(nose, soft=0.3), (0.5, 0.2, 0.18), 0.3)
    mouth: list[tuple[list[Point], float]] = []
    whiskers: list[tuple[list[Point], float]] = []
    for side in (-1, 1):
        mouth.append(([(0, 0.24), (0, 0.31), (0.07 * side, 0.36), (0.15 * side, 0.34)], 0.014))
        for row in range(3):
            tip = (0.85 * side, 0.2 + 0.12 * row)
            whiskers.append(([(0.16 * side, 0.24 + 0.03 * row), (0.5 * side, 0.2 + 0.07 * row), tip], 0.008))
    scene.paint(0.8 * scene.strokes(mouth), (0.05, 0.03, 0.03), 0.1)
    scene.paint(0.8 * scene.strokes(whiskers), (0.85, 0.85, 0.82), 0.1)


def _ellipse(scene: Surface, at: Point, half: Point) -> Field:
    """Share by which each pixel lies outside an ellipse (negative inside)."""
    away: Field = np.hypot((scene.u - at[0]) / half[0], (scene.v - at[1]) / half[1])
    return away - 1


def food(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Fried eggs, tomatoes and peas on a plate."""
    scene, view = wooden_table(rng, size)
    plate = disc(scene, (0, 0), 0.95)
    cover = scene.inside(plate, soft=0.02)
    scene.level(cover, 0.08 - 0.09 * smooth(0.5 - (plate + 0.3) / 0.12))
    scene.paint(cover, pick(rng, ((0.5, 0.49, 0.47), (0.2, 0.3, 0.42), (0.42, 0.36, 0.27))), 0.25)
    scene.paint(scene.inside(np.abs(plate + 0.05) - 0.012), (0.08, 0.12, 0.3), 0.25)
    places = rng.permutation([(-0.3, -0.2), (0.3, -0.25), (-0.02, 0.32), (0.38, 0.25), (-0.42, 0.25)])
    for put, (x, y) in zip((_put_egg, _put_tomato, _put_peas, _put_egg, _put_tomato), places, strict=True):
        put(scene.window((float(x), float(y)), 0.5), (float(x), float(y)), rng)
    return photograph(scene, view, rng)


def _put_egg(scene: Surface, at: Point, rng: np.random.Generator) -> None:
    edge = disc(scene, at, rng.uniform(0.24, 0.3)) + 0.035 * scene.noise(rng, 0.25, num_octaves=3)
    scene.height += 0.03 * scene.inside(edge, soft=0.05)
    scene.paint(scene.inside(edge), (0.4, 0.24, 0.08), 0.3)
    scene.paint(scene.inside(edge + 0.03, soft=0.04), (0.7, 0.68, 0.62), 0.3)
    yolk = disc(scene, (at[0] + rng.normal(0, 0.03), at[1]), 0.105)
    scene.height += dome(yolk, 0.1, 0.08)
    scene.paint(scene.inside(yolk, soft=0.02), (0.7, 0.33, 0.015), 0.5)


def _put_tomato(scene: Surface, at: Point, rng: np.random.Generator) -> None:
    edge = disc(scene, at, rng.uniform(0.16, 0.21))
    turn = np.arctan2(scene.v - at[1], scene.u - at[0])
    scene.height += 0.05 * scene.inside(edge, soft=0.03)
    scene.paint(scene.inside(edge), (0.5, 0.03, 0.015), 0.45)
    chambers = 0.03 - 0.1 * np.abs(np.sin(2.5 * turn + rng.uniform(0, math.pi)))
    flesh = scene.inside(np.maximum(edge + 0.035, chambers), soft=0.03)
    scene.paint(flesh, (0.55, 0.13, 0.04), 0.6)
    seeds = smooth(2 * scene.noise(rng, 0.05, num_octaves=2) - 1.6)
    scene.paint(flesh * seeds, (0.65, 0.45, 0.17), 0.5)


def _put_peas(scene: Surface, at: Point, rng: np.random.Generator) -> None:
    for x, y in rng.normal(at, 0.11, (28, 2)).tolist():
        near = scene.window((x, y), 0.06)
        edge = disc(near, (x, y), 0.042)
        near.level(near.inside(edge), 0.06 + dome(edge, 0.04, 0.05))
        near.paint(near.inside(edge), (0.16, rng.uniform(0.3, 0.42), 0.04), 0.35)


def flower(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A flower in front of leaves."""
    scene, view = _backdrop(rng, size, (0.03, 0.08, 0.015))
    for _ in range(14):
        _grow_leaf(scene, rng)
    petals: tuple[Colour, ...] = ((0.7, 0.42, 0.02), (0.6, 0.07, 0.1), (0.6, 0.57, 0.6), (0.4, 0.1, 0.5))
    colour, num_petals = pick(rng, petals), int(rng.integers(7, 16))
    away, turn = np.hypot(scene.u, scene.v), np.arctan2(scene.v, scene.u)
    for layer, reach in enumerate((0.92, 0.75)):
        outline = np.abs(np.cos(turn * num_petals / 2 + layer * math.pi / 2))
        cover = scene.inside(away - reach * (0.35 + 0.65 * np.sqrt(outline)), soft=0.02)
        scene.level(cover, 0.05 + 0.12 * layer + 0.12 * outline - 0.15 * (away / reach) ** 2)
        scene.paint(cover, colour, 0.1)
        folds = 0.06 * line_noise(rng, turn, 0.02) - 0.35 * (1 - outline) - 0.25 * smooth(1 - 2 * away)
        scene.albedo *= np.maximum(1 + cover * folds, 0.1)
    seeds = scene.noise(rng, 0.035, num_octaves=2)
    cover = scene.inside(away - rng.uniform(0.2, 0.3) + 0.008 * seeds, soft=0.02)
    scene.height += cover * (0.08 + 0.015 * seeds)
    scene.paint(cover, pick(rng, ((0.12, 0.06, 0.02), (0.5, 0.33, 0.03))), 0.1)
    scene.albedo *= np.maximum(1 + 0.35 * cover * seeds, 0.2)
    return photograph(scene, view, rng)


def _grow_leaf(scene: Surface, rng: np.random.Generator) -> None:
    x, y, turn, green = (rng.uniform(low, high) for low, high in ((-1.4, 1.4), (-1.4, 1.4), (0, 3), (0.1, 0.25)))
    near = scene.window((x, y), 0.75)
    along, across = rotated(near, (x, y), turn)
    cover = near.inside(np.hypot(along / 0.65, across / 0.2) - 1, soft=0.1)
    near.level(cover, rng.uniform(-0.4, -0.2) + 0.5 * np.abs(across))
    vein = near.inside(np.abs(across) - 0.008, soft=0.02)
    near.paint(cover * (1 - 0.4 * vein), (0.4 * green, green, 0.03), 0.2)


def _backdrop(rng: np.random.Generator, size: tuple[int, int], colour: Colour) -> tuple[Surface, View]:
    """A blotchy wall, and the view of it."""
    view = View.draw(rng, size, tilt=0.1)
    scene = view.canvas()
    everywhere = np.ones_like(scene.u)
    scene.paint(everywhere, colour, 0.05)
    scene.height -= 0.05
    mottle(scene, everywhere, rng, cell=0.5, amount=0.25)
    return scene, view


def wooden_table(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Surface, View]:
    """A table of grained wood, and the view of it."""
    woods: tuple[Colour, ...] = ((0.2, 0.1, 0.05), (0.35, 0.22, 0.12), (0.1, 0.07, 0.05))
    scene, view = _backdrop(rng, size, pick(rng, woods))
    rings = np.sin(22 * scene.u + 2.2 * scene.noise(rng, 0.5, num_octaves=3, stretch=6))
    fibres = scene.noise(rng, 0.02, num_octaves=2, stretch=25)
    scene.albedo *= np.maximum(1 + 0.2 * rings + 0.12 * fibres, 0.2)
    scene.gloss += 0.2
    return scene, view


def photograph(scene: Surface, view: View, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A photo by daylight: brighter and wider than a torch."""
    torch = Light.draw(rng, colour=(1.0, rng.uniform(0.92, 1.0), rng.uniform(0.8, 1.05)))
    daylight = replace(torch, beam=torch.beam + 0.8, power=0.85 * torch.power, ambient=torch.ambient + 0.12)
    return develop(view.capture(expose(shade(scene, daylight))), rng)
