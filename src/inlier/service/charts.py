"""The figures of the drift page, as places in a box of fixed units; the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 640.0, 200.0
"""Of every figure's box."""


def periods_chart(report: dict[str, Any]) -> dict[str, Any]:
    """The share rejected over time: a band for the interval of each stretch, a point, and the promised share."""
    periods: list[dict[str, Any]] = report["periods"]
    top = _round_up(max(max(of["high"] for of in periods), 2 * report["false_alarm_rate"]))
    step = WIDTH / len(periods)
    points = [
        {
            "x": (k + 0.5) * step,
            "y": _y(of["value"], top),
            "low": _y(of["low"], top),
            "high": _y(of["high"], top),
            "is_high": of["p_value"] < 0.01,
            "title": f"{_share(of['value'])} of {of['num_photos']} photos, {of['from'][:16]} to {of['to'][:16]}",
        }
        for k, of in enumerate(periods)
    ]
    nominal = report["reject_share"]["nominal"]
    return {"points": points, "nominal": _y(nominal, top), "ticks": _ticks(top, as_share=True), "step": step}


def histogram_chart(report: dict[str, Any]) -> dict[str, Any]:
    """How many of the latest photos have a p-value in each tenth, and how many there would be without a change."""
    bins: list[dict[str, float]] = report["histogram"]
    top = _round_up(max(1.0, *(max(of["count"], of["high"]) for of in bins)))
    step = WIDTH / len(bins)
    bars = [
        {
            "x": k * step + 3,
            "width": step - 6,
            "y": _y(of["count"], top),
            "height": HEIGHT - _y(of["count"], top),
            "band": _y(of["high"], top),
            "band_height": max(1.0, _y(of["low"], top) - _y(of["high"], top)),
            "mean": _y(of["mean"], top),
            "is_out": not of["low"] <= of["count"] <= of["high"],
            "title": f"{of['count']:.0f} photos; {of['low']:.0f} to {of['high']:.0f} expected",
        }
        for k, of in enumerate(bins)
    ]
    return {"bars": bars, "ticks": _ticks(top)}


def evidence_chart(report: dict[str, Any]) -> dict[str, Any]:
    """The evidence that photos changed, photo by photo, as a power of ten, under the line of the alarm."""
    curve: list[tuple[int, float]] = report["curve"]
    alarm: float = report["alarm_evidence"]
    top = max(math.ceil(alarm) + 1.0, math.ceil(max(value for _, value in curve)))
    bottom = min(-1.0, math.floor(min(value for _, value in curve)))
    last = max(2, curve[-1][0])

    def y(value: float) -> float:
        return HEIGHT * (top - value) / (top - bottom)

    line = " ".join(f"{WIDTH * (number - 1) / (last - 1):.1f},{y(value):.1f}" for number, value in curve)
    size = max(1, math.ceil((top - bottom) / 6))
    ticks = [(y(power), _power(power)) for power in range(int(bottom), int(top) + 1) if power % size == 0]
    return {"line": line, "alarm": y(alarm), "ticks": ticks, "last": curve[-1][0]}


def _y(value: float, top: float) -> float:
    return HEIGHT * (1 - min(value, top) / top)


def _ticks(top: float, *, as_share: bool = False) -> list[tuple[float, str]]:
    values: Sequence[float] = [top * part / 4 for part in range(5)]
    return [(_y(value, top), _share(value) if as_share else f"{value:g}") for value in values]


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _power(power: int) -> str:
    return {0: "1", 1: "10", 2: "100"}.get(power, f"10{str(power).translate(_RAISED)}")


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _round_up(value: float) -> float:
    """The next number of the form 1, 2, 4 or 8 times a power of ten, which four parts divide well."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * factor for factor in (1, 2, 4, 8, 10) if unit * factor >= value - 1e-12)
