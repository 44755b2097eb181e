"""The comparison page: each model's AUROC and each pair's difference with their intervals, in one HTML file.

The figures are SVG written by the template, as on the evaluation page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlier.decision.pages import write_page


@dataclass(frozen=True, slots=True)
class Axis:
    """A stretch of numbers drawn from left to right, with round ones marked."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, number: float) -> str:
        """Where a number stands, in percent of the width."""
        return f"{100 * (number - self.low) / (self.high - self.low):.2f}%"


def write_comparison(path: Path, *, title: str, metrics: Mapping[str, Any]) -> None:
    """Write the comparison page.

    Args:
        path: The HTML file.
        title: Heading of the page.
        metrics: What ``comparison.json`` holds.
    """
    models, pairs = metrics["models"], metrics["pairs"]
    lowest = min(min(of["image_auroc"]["low"] for of in models), 0.9)
    gains = [100 * pair["gain"][end] for pair in pairs for end in ("low", "high")]
    write_page(
        path,
        "comparison.html",
        styles=("page.css", "evaluation.css", "comparison.css"),
        script=None,
        values={
            "title": title,
            "metrics": metrics,
            "auroc": round_axis(lowest, 1.0),
            "gain": round_axis(min(*gains, -1.0), max(*gains, 1.0)),
            "has_pixels": any(of["aupro_03"] for of in models),
        },
    )


def round_axis(low: float, high: float) -> Axis:
    """An axis between round numbers that holds both, with three to seven marks; low < high."""
    unit = 10 ** math.floor(math.log10((high - low) / 3))
    step = next(unit * factor for factor in (10, 5, 2, 1) if (high - low) / (unit * factor) >= 2.5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 12) for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)
