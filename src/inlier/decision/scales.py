"""Where values of any kind stand on the axis of a figure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from inlier.decision.comparison_page import round_axis


@dataclass(frozen=True, slots=True)
class Scale:
    """Where values stand on an axis, from 0 to 100; numbers, logarithms of them, or choices at even distances."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False
    choices: tuple[str, ...] = ()

    def at(self, value: object) -> float | None:
        """The place of a value; None where it has none, as ``...`` never has. Numbers beyond an end stand at it."""
        if value is ...:
            return None
        if self.choices:
            return place_of(as_word(value), self.choices) if as_word(value) in self.choices else None
        number = as_number(value)
        if number is None or (self.is_log and number <= 0):
            return None
        number = math.log10(number) if self.is_log else number
        return 100 * (min(max(number, self.low), self.high) - self.low) / (self.high - self.low)


def as_number(value: object) -> float | None:
    """The value where it is a number that can be drawn; minus zero is zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e100:
        return None
    return float(value) + 0.0


def as_word(value: object) -> str:
    """A parameter's value for readers."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value + 0.0:.4g}"
    return json.dumps(value)


def place_of(word: str, choices: Sequence[str]) -> float:
    """Where one of several choices stands, from 0 to 100."""
    return 100 * (choices.index(word) + 0.5) / len(choices)


def linear_scale(low: float, high: float) -> Scale:
    """A scale between round numbers that holds both ends, wide enough for its ticks to differ."""
    least = max(1e-6 * max(abs(low), abs(high)), 1e-12)
    if high - low < least:
        margin = 0.05 * abs(low) or 0.5
        low, high = low - margin, high + margin
    axis = round_axis(low, high)
    span = axis.high - axis.low
    return Scale(axis.low, axis.high, tuple((100 * (t - axis.low) / span, f"{t + 0.0:g}") for t in axis.ticks))


def scale_within(low: float, high: float) -> Scale:
    """A scale from end to end, with the round numbers between as ticks."""
    rounded = linear_scale(low, high)
    span = rounded.high - rounded.low
    places = [rounded.low + place / 100 * span for place, _ in rounded.ticks]
    ticks = tuple(
        (100 * (at - low) / (high - low), label)
        for at, (_, label) in zip(places, rounded.ticks, strict=True)
        if low - 1e-9 * span <= at <= high + 1e-9 * span
    )
    return Scale(low, high, ticks)


def logarithmic_scale(low: float, high: float) -> Scale:
    """A scale of logarithms from end to end, 0 < low < high, with a few round numbers as ticks."""
    first, last = math.log10(low), math.log10(high)
    span = last - first
    factors = (1,) if span > 2.5 else (1, 3) if span > 1.2 else (1, 2, 5) if span > 0.5 else (1, 1.5, 2, 3, 4, 5, 6, 8)
    step = max(1, round(span / 4))
    exponents = range(math.floor(first), math.ceil(last) + 1, step)
    numbers = (factor * 10.0**exponent for exponent in exponents for factor in factors)
    ticks = tuple(
        (100 * (math.log10(number) - first) / (last - first), f"{number:g}")
        for number in numbers
        if low * (1 - 1e-9) <= number <= high * (1 + 1e-9)
    )
    return Scale(first, last, ticks, is_log=True)
