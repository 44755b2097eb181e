"""Light on a surface: a torch held near the camera, a dim room, and metal that mirrors both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image, ImageFilter

from inlier.data.drawing.surface import Colour, Field, Surface, resize, smooth

_STEEPEST = 2.5
_CAMERA_HEIGHT = 3.2
_ROOM_SIDE = 256


@dataclass(frozen=True, slots=True)
class Light:
    """One photo's light.

    Attributes:
        torch: Where the torch is: u, v and height above the canvas.
        beam: Width of the torch's spot on the canvas.
        colour: Tint of the light, about 1 each.
        power: Brightness of the torch; 1 exposes light grey well.
        ambient: Brightness of the room.
        room: Shape (256, 256), what metal mirrors, by the direction of the mirrored ray, >= 0.
    """

    torch: tuple[float, float, float]
    beam: float
    colour: Colour
    power: float
    ambient: float
    room: Field

    @classmethod
    def draw(cls, rng: np.random.Generator, *, colour: Colour) -> Self:
        """A torch somewhere near the phone, in a room that nobody prepared."""
        side, away = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 1.3)
        return cls(
            torch=(away * math.cos(side), away * math.sin(side), rng.uniform(1.5, 2.8)),
            beam=rng.uniform(0.9, 1.9),
            colour=colour,
            power=math.exp(rng.normal(0.45, 0.2)),
            ambient=rng.uniform(0.06, 0.25),
            room=_room(rng),
        )


def _room(rng: np.random.Generator) -> Field:
    """Soft patches of light and dark, and three lamps, on a square of mirrored directions."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j].astype(np.float32)
    room = 0.4 + 0.3 * resize(rng.standard_normal((5, 5), dtype=np.float32), x.shape)
    for _ in range(3):
        (at_x, at_y), size = rng.uniform(-0.7, 0.7, 2).tolist(), rng.uniform(0.08, 0.3)
        room += rng.uniform(0.5, 1.6) * np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / size**2)
    return np.maximum(resize(room, (_ROOM_SIDE, _ROOM_SIDE)), 0.02)


@dataclass(frozen=True, slots=True)
class _Normals:
    """Unit normals (-slope_u, -slope_v, 1) * up of every pixel; each shape (h, w)."""

    slope_u: Field
    slope_v: Field
    up: Field

    def facing(self, u: Field, v: Field, z: Field) -> Field:
        return (z - self.slope_u * u - self.slope_v * v) * self.up


def _normals(surface: Surface) -> _Normals:
    slope_v: Field = np.gradient(surface.height, surface.pitch, axis=0).clip(-_STEEPEST, _STEEPEST)
    slope_u: Field = np.gradient(surface.height, surface.pitch, axis=1).clip(-_STEEPEST, _STEEPEST)
    return _Normals(slope_u, slope_v, 1 / np.sqrt(1 + slope_u**2 + slope_v**2))


def shade(surface: Surface, light: Light) -> Field:
    """Linear light that reaches the camera from each pixel: shape (3, h, w), >= 0, about 0.5 where well lit.

    Lambert's cosine for the matt share; a highlight after Blinn and Phong and a mirrored room for the
    glossy share; cast shadows, and less of the room in hollows.
    """
    normals = _normals(surface)
    u, v = light.torch[0] - surface.u, light.torch[1] - surface.v
    z = light.torch[2] - surface.height
    near = 1 / np.sqrt(u * u + v * v + z * z)
    beam = (light.power * np.exp(-(u * u + v * v) / (2 * light.beam**2))) * _shadow(surface, light)
    room = light.ambient * _hollow(surface)
    gloss = surface.gloss

    matt = (1 - 0.75 * gloss) * (beam * near * np.maximum(normals.facing(u, v, z), 0) + room)
    highlight = beam * _highlight(surface, normals, (u * near, v * near, z * near))
    shine = gloss * (_mirror(surface, normals, light) * (0.35 * beam + 1.2 * room) + highlight)
    glare = 0.03 * gloss * highlight
    colour = np.array(light.colour, np.float32)[:, None, None]
    radiance: Field = colour * (surface.albedo * (matt + shine) + glare)
    return np.maximum(radiance, 0)


def _highlight(surface: Surface, normals: _Normals, to_torch: tuple[Field, Field, Field]) -> Field:
    """How closely each normal halves the way from torch to camera; sharper the glossier."""
    z = _CAMERA_HEIGHT - surface.height
    away = 1 / np.sqrt(surface.u**2 + surface.v**2 + z * z)
    half_u, half_v = to_torch[0] - surface.u * away, to_torch[1] - surface.v * away
    half_z = to_torch[2] + z * away
    cosine = normals.facing(half_u, half_v, half_z) / np.sqrt(half_u**2 + half_v**2 + half_z**2)
    # near its peak cos^n is exp(-n (1 - cos)), and exp is the cheaper of the two
    return (0.4 + 1.6 * surface.gloss) * np.exp((6 + 90 * surface.gloss**2) * (cosine - 1))


def _mirror(surface: Surface, normals: _Normals, light: Light) -> Field:
    """What of the room each pixel would mirror, were it polished."""
    half, last = _ROOM_SIDE / 2, _ROOM_SIDE - 1
    bend = 2 * normals.up**2
    # the second term is the viewing ray, so that flat metal, too, mirrors another place at every pixel
    across = half - (normals.slope_u * bend + 0.35 * surface.u) * (0.7 * half)
    down = half - (normals.slope_v * bend + 0.35 * surface.v) * (0.7 * half)
    return light.room[np.clip(down, 0, last).astype(np.int32), np.clip(across, 0, last).astype(np.int32)]


def _hollow(surface: Surface) -> Field:
    """How much of the room each pixel sees, about 1: less where its surroundings are higher."""
    rows, columns = surface.height.shape
    picture = Image.fromarray(surface.height)
    seen = np.ones_like(surface.height)
    for reach, depth in ((0.05, 0.12), (0.2, 0.6)):
        step = max(reach / surface.pitch, 1.0)
        small = picture.resize((max(int(columns / step), 2), max(int(rows / step), 2)), Image.Resampling.BOX)
        around = resize(np.asarray(small, np.float32), (rows, columns))
        seen *= 1 - np.clip((around - surface.height) / depth, -0.08, 0.55)
    return seen


def _shadow(surface: Surface, light: Light) -> Field:
    """Share of the torch's light, in [0.1, 1], that the relief lets through; the torch counts as far away.

    Soft shadows need few pixels: half the resolution.
    """
    rows, columns = surface.height.shape
    picture = Image.fromarray(surface.height).resize((columns // 2, rows // 2), Image.Resampling.BOX)
    height = np.asarray(picture, np.float32)
    away = math.hypot(light.torch[0], light.torch[1])
    rise = light.torch[2] / away
    over = np.zeros_like(height)
    for reach in (0.015, 0.03, 0.05, 0.075, 0.105, 0.14, 0.18, 0.225, 0.275, 0.33):
        shift_u, shift_v = (round(reach * light.torch[axis] / away / surface.pitch / 2) for axis in (0, 1))
        blocker = np.roll(height, (-shift_v, -shift_u), axis=(0, 1))
        np.maximum(over, (blocker - height - reach * rise) / (0.06 + 0.8 * reach), out=over)
    lit = Image.fromarray((255 - 229 * smooth(over)).astype(np.uint8)).filter(ImageFilter.BoxBlur(1))
    return resize(np.asarray(lit, np.float32) / 255, (rows, columns))
