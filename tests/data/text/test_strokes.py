from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inlier.data.text.reading import Text
from inlier.data.text.strokes import paint_out

SIZE = (160, 200)
BOX = (60, 45, 130, 115)
"""Left, top, right and bottom of the box around the number, in pixels."""

Mask = NDArray[np.bool_]


def metal(seed: int = 0) -> NDArray[np.uint8]:
    """Brushed metal that is brighter on the right."""
    rng = np.random.default_rng(seed)
    brushed = 120 + 4 * rng.standard_normal((SIZE[0], 1)) + 3 * rng.standard_normal(SIZE)
    return np.clip((brushed + np.linspace(0, 30, SIZE[1]))[..., None] + (0, 2, 4), 0, 255).astype(np.uint8)


def number(said: str = "38") -> Mask:
    canvas = Image.new("L", SIZE[::-1])
    middle = ((BOX[0] + BOX[2]) / 2, (BOX[1] + BOX[3]) / 2)
    ImageDraw.Draw(canvas).text(middle, said, fill=255, font=ImageFont.load_default(56), anchor="mm")
    return np.asarray(canvas) > 128


def line(start: tuple[float, float], end: tuple[float, float]) -> Mask:
    canvas = Image.new("1", SIZE[::-1])
    ImageDraw.Draw(canvas).line([start, end], fill=1, width=3)
    return np.asarray(canvas).astype(bool)


def painted(pixels: NDArray[np.uint8], where: Mask, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    result = pixels.copy()
    result[where] = colour
    return result


def read(said: str = "38") -> Text:
    left, top, right, bottom = (side / length for side, length in zip(BOX, (200, 160, 200, 160), strict=True))
    return Text(said, 0.97, ((left, top), (right, top), (right, bottom), (left, bottom)))


PAINTS = [(235, 235, 230), (225, 190, 40), (170, 30, 30), (30, 60, 160)]


@pytest.mark.parametrize("colour", PAINTS)
def test_the_strokes_go_and_the_rest_stays(colour: tuple[int, int, int]) -> None:
    clean, where = metal(), number()
    scribbled = painted(clean, where, colour)
    result, is_paint = paint_out(scribbled, [read()])
    assert is_paint[where].mean() > 0.97
    assert is_paint.sum() < 1.7 * where.sum()  # strokes with their rims, not the box
    np.testing.assert_array_equal(result[~is_paint], scribbled[~is_paint])
    # As the metal was, but for its grain.
    off = np.abs(result[where].astype(float) - clean[where])
    assert off.mean() < 8 and np.abs((result[where].astype(float) - clean[where]).mean()) < 3


def test_without_writing_the_photo_is_the_one_given() -> None:
    pixels = metal()
    result, is_paint = paint_out(pixels, [])
    assert result is pixels and not is_paint.any()


def test_a_box_with_nothing_in_it_costs_nothing() -> None:
    flat = np.full((*SIZE, 3), 90, dtype=np.uint8)
    result, is_paint = paint_out(flat, [read()])
    assert result is flat and not is_paint.any()


@pytest.mark.parametrize("colour", PAINTS)
def test_a_crack_between_the_digits_stays(colour: tuple[int, int, int]) -> None:
    where = number("3 8")
    crack = line((95, 60), (96, 100)) & ~where
    scribbled = painted(painted(metal(), crack, (12, 12, 12)), where, colour)
    result, is_paint = paint_out(scribbled, [read("3 8")])
    assert is_paint[where].mean() > 0.9
    assert is_paint[crack].mean() < 0.1
    assert result[crack].mean() < 30


def test_a_scratch_of_the_colour_of_the_paint_stays_where_it_runs_out_of_the_box() -> None:
    where = number("3 8")
    scratch = line((96, 5), (94, 150)) & ~where
    scribbled = painted(metal(), where | scratch, (235, 235, 230))
    _, is_paint = paint_out(scribbled, [read("3 8")])
    assert is_paint[where].mean() > 0.9
    assert is_paint[scratch].mean() < 0.05


@pytest.mark.parametrize("tint", [(1.0, 1.0, 1.0), (1.3, 1.1, 0.6)])
def test_what_is_dark_and_of_no_colour_stays_whatever_it_reads_as(tint: tuple[float, float, float]) -> None:
    """On steel and on brass: a jagged crack is read as a 5."""
    brass = np.clip(metal() * np.array(tint), 0, 255).astype(np.uint8)
    pixels = painted(brass, number("5"), (14, 13, 12))
    result, is_paint = paint_out(pixels, [read("5")])
    assert result is pixels and not is_paint.any()


def test_what_is_too_broad_for_a_pen_stays() -> None:
    """As a bore that was read as a 0."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    bore = (rows - 80) ** 2 + (columns - 95) ** 2 < 20**2
    pixels = painted(metal(), bore, (20, 20, 20))
    result, is_paint = paint_out(pixels, [read("0")])
    assert result is pixels and not is_paint.any()


@pytest.mark.parametrize("said", ["1", "l|", "11", "/ -"])
def test_light_lines_stay_for_they_may_be_scratches(said: str) -> None:
    for tint, light in (((1.0, 1.0, 1.0), (240, 240, 240)), ((1.3, 1.1, 0.6), (250, 225, 140))):  # steel, brass
        part = np.clip(metal() * np.array(tint), 0, 255).astype(np.uint8)
        pixels = painted(part, line((95, 52), (93, 108)), light)
        result, is_paint = paint_out(pixels, [read(said)])
        assert result is pixels and not is_paint.any()


def test_lines_of_a_colour_go() -> None:
    where = number("17")
    _, is_paint = paint_out(painted(metal(), where, (225, 190, 40)), [read("17")])
    assert is_paint[where].mean() > 0.97


def test_the_same_photo_is_painted_out_alike() -> None:
    scribbled = painted(metal(), number(), (235, 235, 230))
    first, second = (paint_out(scribbled, [read()])[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("size", [(16, 16), (16, 400)])
def test_boxes_at_the_edges_of_small_photos(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = Text("88", 0.9, ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    dot = Text("8", 0.9, ((0.99, 0.99), (1.0, 0.99), (1.0, 1.0), (0.99, 1.0)))
    result, is_paint = paint_out(pixels, [whole, dot])
    assert result.shape == pixels.shape and is_paint.shape == size
    np.testing.assert_array_equal(result[~is_paint], pixels[~is_paint])


def test_a_photo_full_of_writing() -> None:
    """Painted out box by box; what it shows besides is left."""
    canvas = Image.new("RGB", (300, 300), (50, 50, 55))
    pen, texts = ImageDraw.Draw(canvas), []
    for row in range(10):
        pen.text((6, 30 * row + 3), "4852 9360 2473 8896", fill=(240, 240, 235), font=ImageFont.load_default(26))
        top, bottom = row / 10, (row + 1) / 10
        texts.append(Text("4852 9360 2473 8896", 0.99, ((0.0, top), (1.0, top), (1.0, bottom), (0.0, bottom))))
    pixels = np.asarray(canvas)
    result, is_paint = paint_out(pixels, texts)
    assert 0.1 < is_paint.mean() < 0.6
    assert (result.mean(axis=2) > 150).mean() < 0.3 * (pixels.mean(axis=2) > 150).mean()
