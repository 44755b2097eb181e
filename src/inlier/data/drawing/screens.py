"""Pictures made of text and lines, which turn up in any camera roll: a screenshot, a chart, a receipt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from inlier.data.drawing import pictures

_WORDS = (
    "the order total price coffee meeting report Monday update invoice number please time small with from "
    "note and next week plan harbour draft figure table budget review"
).split()
_SERIES = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40))

Shade = tuple[int, ...]
Box = tuple[float, float, float, float]


def screenshot(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A computer's screen with windows full of text."""
    rows, columns = size
    first, second = rng.integers(20, 160, (2, 3))
    share = np.linspace(0, 1, rows)[:, None, None]
    backdrop = np.broadcast_to(first * (1 - share) + second * share, (rows, columns, 3))
    picture = Image.fromarray(backdrop.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(2, 4))):
        width, height = columns * rng.uniform(0.5, 0.75), rows * rng.uniform(0.5, 0.75)
        left, top = rng.uniform(0, columns - width), rng.uniform(0, rows - height)
        _draw_window(pen, (left, top, left + width, top + height), rng, line=max(rows / 22, 3.0))
    pen.rectangle((0, 0.938 * rows, columns, rows), fill=(28, 30, 36))
    for index in range(7):
        left, colour = columns * (0.04 + 0.06 * index), tuple(rng.integers(60, 255, 3).tolist())
        pen.rectangle((left, 0.95 * rows, left + 0.036 * rows, 0.986 * rows), fill=colour)
    return np.asarray(picture)


def _draw_window(pen: ImageDraw.ImageDraw, box: Box, rng: np.random.Generator, *, line: float) -> None:
    """A window with a title bar and as many lines of text as fit."""
    left, top, right, bottom = box
    paper: Shade = (250, 250, 250)
    ink: Shade = (40, 40, 46)
    bar: Shade = (70, 90, 130)
    if rng.random() < 0.35:
        paper, ink, bar = (32, 34, 40), (210, 214, 220), (54, 58, 66)
    pen.rectangle((left + 3, top + 4, right + 4, bottom + 5), fill=(10, 12, 18))
    pen.rectangle(box, fill=paper, outline=(120, 120, 130))
    pen.rectangle((left, top, right, top + 1.3 * line), fill=bar)
    title = ImageFont.load_default(0.85 * line)
    pen.text((left + 0.4 * line, top + 0.15 * line), "Untitled - report", fill=(240, 240, 245), font=title)
    for index, colour in enumerate(((230, 90, 80), (235, 190, 70), (90, 190, 90))):
        pen.circle((right - line * (0.7 + 0.9 * index), top + 0.65 * line), 0.28 * line, fill=colour)
    font = ImageFont.load_default(0.8 * line)
    y = top + 1.8 * line
    while y < bottom - line:
        words = rng.choice(_WORDS, int(rng.integers(2, 9))).tolist()
        while font.getlength(" ".join(words)) > right - left - line:
            words.pop()
        pen.text((left + 0.5 * line, y), " ".join(words), fill=ink, font=font)
        y += 1.1 * line


def chart(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A plot of bars or curves with a title and a grid, drawn at twice its size and reduced."""
    rows, columns = size
    picture = Image.new("RGB", (2 * columns, 2 * rows), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(rows / 12, 3.0))
    box = 0.24 * columns, 0.25 * rows, 1.92 * columns, 1.75 * rows
    left, top, right, bottom = box
    title = str(rng.choice(["Fuel consumption", "Speed, knots", "Revenue 2023"]))
    pen.text((columns, 0.06 * rows), title, fill=(30, 30, 30), font=font, anchor="ma")
    for tick in range(6):
        y = bottom - tick * (bottom - top) / 5
        pen.line((left, y, right, y), fill=(215, 215, 215), width=2)
        pen.text((left - 8, y), str(20 * tick), fill=(60, 60, 60), font=font, anchor="rm")
    colours: list[Shade] = [_SERIES[index] for index in rng.permutation(len(_SERIES))]
    draw = _draw_bars if rng.random() < 0.5 else _draw_curves
    draw(pen, box, colours[: int(rng.integers(1, 4))], rng)
    pen.line((left, top, left, bottom, right, bottom), fill=(20, 20, 20), width=4)
    return np.asarray(picture.reduce(2))


def _draw_bars(pen: ImageDraw.ImageDraw, box: Box, colours: list[Shade], rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    heights = rng.uniform(0.1, 0.95, (int(rng.integers(5, 12)), len(colours)))
    pitch = (right - left) / len(heights)
    width = 0.76 * pitch / len(colours)
    for group, shares in enumerate(heights.tolist()):
        for series, share in enumerate(shares):
            x = left + pitch * (group + 0.12) + width * series
            pen.rectangle((x, bottom - share * (bottom - top), x + width, bottom), fill=colours[series])


def _draw_curves(pen: ImageDraw.ImageDraw, box: Box, colours: list[Shade], rng: np.random.Generator) -> None:
    left, top, right, bottom = box
    for colour in colours:
        walk = rng.normal(0, 1, 60).cumsum()
        shares = 0.05 + rng.uniform(0.4, 0.9) * (walk - walk.min()) / np.ptp(walk)
        x, y = np.linspace(left, right, len(walk)), bottom - shares * (bottom - top)
        pen.line(np.stack([x, y], axis=1).ravel().tolist(), fill=colour, width=5)


def receipt(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A printed slip of paper on a table."""
    scene, view = pictures.wooden_table(rng, size)
    rows, columns = scene.u.shape
    width, height = int(1.15 / scene.pitch), int(1.95 / scene.pitch)
    corner = (columns - width) // 2, (rows - height) // 2
    sheet, ink = Image.new("L", (columns, rows)), Image.new("L", (columns, rows))
    sheet.paste(255, (*corner, corner[0] + width, corner[1] + height))
    ink.paste(_print_slip(rng, width, height), corner)
    paper = np.asarray(sheet, np.float32) / 255
    scene.level(paper, 0.06 + 0.02 * scene.noise(rng, 0.9, num_octaves=2))
    scene.paint(paper, (0.6, 0.59, 0.56), 0.05)
    scene.paint(np.asarray(ink, np.float32) / 255, (0.03, 0.03, 0.05), 0.05)
    return pictures.photograph(scene, view, rng)


def _print_slip(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A shop's name, a list of prices and their total: white ink on black."""
    slip = Image.new("L", (width, height))
    pen = ImageDraw.Draw(slip)
    line = max(height / 22, 3.0)
    shop = str(rng.choice(["CAFE NORD", "HARBOUR STORE", "MARKET 24"]))
    pen.text((width / 2, line), shop, fill=255, font=ImageFont.load_default(1.5 * line), anchor="ma")
    prices = rng.uniform(1, 99, 15).round(2).tolist()
    entries = [(" ".join(rng.choice(_WORDS, 2).tolist()), price, 0.9) for price in prices]
    entries += [("", 0.0, 0.9), ("TOTAL", sum(prices), 1.3)]
    for row, (text, price, scale) in enumerate(entries):
        if not text:
            continue
        font = ImageFont.load_default(scale * line)
        pen.text((0.07 * width, (row + 3.5) * line), text, fill=230, font=font)
        pen.text((0.93 * width, (row + 3.5) * line), f"{price:.2f}", fill=230, font=font, anchor="ra")
    return slip


UNRELATED_KINDS: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[np.uint8]]] = {
    "landscape": pictures.landscape,
    "cat": pictures.cat,
    "food": pictures.food,
    "flower": pictures.flower,
    "receipt": receipt,
    "screenshot": screenshot,
    "chart": chart,
}
"""Kinds of unrelated pictures by name."""
