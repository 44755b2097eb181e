"""Generated inspection photos: components, whole or damaged in a known place, and unrelated pictures."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from inlier.data.drawing.camera import View, develop, expose
from inlier.data.drawing.components import BLUEPRINTS, Blueprint
from inlier.data.drawing.defects import SURFACE_DEFECTS, changed, damage
from inlier.data.drawing.family import find_blueprint
from inlier.data.drawing.light import Light, shade
from inlier.data.drawing.screens import UNRELATED_KINDS
from inlier.data.drawing.surface import Field, Point, Surface
from inlier.data.drawing.wear import Visit, wear

COMPONENTS: tuple[str, ...] = tuple(BLUEPRINTS)
"""Component kinds that have a name. ``part-1``, ``part-2`` and so on are as many more as wanted."""

DEFECTS: tuple[str, ...] = (*SURFACE_DEFECTS, "missing-part")

UNRELATED: tuple[str, ...] = tuple(UNRELATED_KINDS)
"""Kinds of pictures that show no component."""

SIZE = (300, 400)
"""Height and width in pixels of a generated photo, unless another size is asked for."""

_SMALLEST = 32


@dataclass(frozen=True, slots=True)
class Scene:
    """A generated photo.

    Attributes:
        image: Shape (H, W, 3), uint8, RGB.
        mask: Shape (H, W), bool: the pixels that its defect changed; none without a defect.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def draw_component(
    component: str,
    *,
    seed: int,
    defect: str | None = None,
    visit: int | None = None,
    size: tuple[int, int] = SIZE,
) -> Scene:
    """A photo of a component as a phone in a hand takes it, determined by the arguments alone.

    With and without a defect, one seed gives the same photo but for the defect: each source of chance has a
    stream of its own. The component is drawn flat as relief, colour and finish, then damaged, lit, and
    seen through the camera; the mask is what the damage changed, seen through the same camera.

    Args:
        component: One of ``COMPONENTS``, or ``part-N`` for the N-th kind without a name.
        seed: Chooses viewpoint, light, wear and place of the defect; 0 or more.
        defect: One of ``DEFECTS``; None for a healthy component.
        visit: Photos of one visit share the engine's tint, wear and dirt and the colour of the light; None
            for a visit of its own.
        size: Height and width in pixels, each at least 32.

    Raises:
        ValueError: An unknown component or defect, a negative seed or visit, or too small a size.
    """
    blueprint = find_blueprint(component)
    visit = seed if visit is None else visit
    _check({"seed": seed, "visit": visit}, size)
    if defect is not None and defect not in DEFECTS:
        raise ValueError(f"defect must be one of {', '.join(DEFECTS)}, or None, got {defect!r}.")
    taking, building, breaking, developing = _stream(seed, component).spawn(4)
    engine = Visit.draw(_stream(visit, "visit"))
    view = View.draw(taking, size, tilt=blueprint.tilt)
    light = Light.draw(taking, colour=engine.light)

    build_seed = int(building.integers(2**62))
    surface = _build(blueprint, view, engine, build_seed, None)
    damaged: Field | None = None
    if defect == "missing-part":
        whole, missing = surface, _visible_part(blueprint, view, breaking)
        surface = _build(blueprint, view, engine, build_seed, missing)
        damaged = changed(whole, surface)
    elif defect is not None:
        at = _lit_place(surface, view, light, breaking)
        slide = breaking.uniform(0, math.pi) if blueprint.slide is None else blueprint.slide
        damaged = damage(surface, defect, at, slide, breaking)
    image = develop(view.capture(expose(shade(surface, light))), developing)
    return Scene(image, np.zeros(size, np.bool_) if damaged is None else _mask(damaged, view))


def _check(seeds: Mapping[str, int], size: tuple[int, int]) -> None:
    for name, seed in seeds.items():
        if seed < 0:
            raise ValueError(f"{name} must be 0 or more, got {seed}.")
    if min(size) < _SMALLEST:
        raise ValueError(f"size must be at least {_SMALLEST} x {_SMALLEST} pixels, got {size[0]} x {size[1]}.")


def _stream(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def _build(blueprint: Blueprint, view: View, engine: Visit, build_seed: int, missing: int | None) -> Surface:
    """The worn component, without one part if asked so, and else the same for the same seed."""
    drawing, wearing = np.random.default_rng(build_seed).spawn(2)
    surface = view.canvas()
    blueprint.draw(surface, drawing, missing)
    wear(surface, engine, wearing)
    return surface


def _visible_part(blueprint: Blueprint, view: View, rng: np.random.Generator) -> int:
    """One of the parts that the photo shows well, or the one nearest to its middle."""
    off_centre = view.off_centre(np.array(blueprint.parts))
    return int(rng.choice(np.flatnonzero(off_centre <= max(0.88, off_centre.min()))))


def _lit_place(surface: Surface, view: View, light: Light, rng: np.random.Generator) -> Point:
    """A place on the working surface near the torch, where a defect is seen."""

    def worth(at: Point) -> float:
        return float(surface.window(at, 0.15).working.mean()) - 0.25 * math.dist(at, light.torch[:2])

    spots: list[Point] = [(u, v) for u, v in view.aims(rng, 64).tolist()]
    on_target = [at for at in spots if surface.window(at, surface.pitch).working.mean() > 0.7]
    return max((on_target or spots)[:5], key=worth)


def _mask(damaged: Field, view: View) -> NDArray[np.bool_]:
    """The photo's mask of a canvas field of 0 and 1, small gaps closed."""
    picture = Image.fromarray((255 * damaged).astype(np.uint8))
    closed = picture.filter(ImageFilter.MaxFilter(5)).filter(ImageFilter.MinFilter(5))
    return np.asarray(view.capture(closed)) > 96


def draw_unrelated(kind: str, *, seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A picture that shows no component: shape (H, W, 3), uint8, RGB, determined by the arguments alone.

    Args:
        kind: One of ``UNRELATED``.
        seed: Chooses everything in the picture; 0 or more.
        size: Height and width in pixels, each at least 32.

    Raises:
        ValueError: An unknown kind, a negative seed, or too small a size.
    """
    if kind not in UNRELATED_KINDS:
        raise ValueError(f"kind must be one of {', '.join(UNRELATED)}, got {kind!r}.")
    _check({"seed": seed}, size)
    return UNRELATED_KINDS[kind](_stream(seed, kind), size)
