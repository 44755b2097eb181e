"""The page of a search: what it found, whether that is real, and how each setting moved the value, in one HTML file.

The figures are SVG written by the template; its script only points at them, sorts and filters.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from inlier.decision.pages import write_page
from inlier.decision.scales import Scale, as_number, as_word, linear_scale, logarithmic_scale, place_of, scale_within

METRICS = {
    "auroc": "image AUROC",
    "synthetic": "AUROC against synthetic defects",
    "loss": "held-out loss",
}
"""What a search measured on dev photos, for readers."""

COSTS = {"latency_ms": ("Latency, ms a photo", 1.0), "peak_bytes": ("Peak memory, MiB", 2.0**20)}
"""What a better value may cost: its name for readers, and what its unit is divided by."""

TESTED = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image average precision",
    "tpr_at_fpr_05": "Found at 5 % false alarms",
    "pixel_auroc": "Pixel AUROC",
    "aupro_03": "AUPRO up to 0.3",
}
"""Measures on the test photos, for readers."""

NUM_SHADES = 10


def write_tuning_page(path: Path, *, title: str, report: Mapping[str, Any]) -> None:
    """Write the page of a search.

    Args:
        path: The HTML file.
        title: Heading of the page.
        report: What ``tuning.json`` holds.
    """
    better = -1 if report["direction"] == "minimize" else 1
    trials = sorted(report["trials"], key=lambda trial: trial["number"])
    parameters = sorted(report["parameters"], key=lambda of: -(as_number(of["importance"]) or 0.0))
    scale, is_cut = _value_scale(report, better)
    shades = _shades(trials, better)
    lines = {of["name"]: _parameter_scale(of, trials) for of in parameters}
    write_page(
        path,
        "tuning.html",
        styles=("page.css", "evaluation.css", "tuning.css"),
        script="tuning.js",
        values={
            "title": title,
            "report": report,
            "metric": METRICS[report["metric"]],
            "is_loss": report["metric"] == "loss",
            "better": better,
            "verdict": verdict(report),
            "toml": as_toml(report["best"]["settings"]) if report["best"] else "",
            "tested": [
                (name, (report["test"] or {}).get(key), (report["test_of_default"] or {}).get(key))
                for key, name in TESTED.items()
                if (report["test"] or {}).get(key) or (report["test_of_default"] or {}).get(key)
            ],
            "num_trials": len(trials),
            "parameters": parameters,
            "most": max((as_number(of["importance"]) or 0.0 for of in parameters), default=0.0),
            "scale": scale,
            "is_cut": is_cut,
            "history": _history(trials, scale, shades, better),
            "parallel": _parallel(trials, lines, scale, shades),
            "fronts": [_front(report, key, scale) for key in COSTS],
            "slices": [_slice(of, trials, lines[of["name"]], scale, shades) for of in parameters],
            "rows": sorted(trials, key=lambda trial: _rank(trial, better)),
            "word": as_word,
            "default": scale.at(report["baseline"]["value"]),
            "ahead": _advance(report),
        },
    )


def verdict(report: Mapping[str, Any]) -> str:
    """What the search found in one sentence, and no more than the test photos bear out."""
    best, gain, name = report["best"], report["gain"], report["name"]
    if best is None:
        return f"No trial was completed, so no settings of {name} were found."
    if gain:
        points, low, high = (
            f"{round(100 * gain[key], 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}") for key in ("value", "low", "high")
        )
        interval = f"{points} points of AUROC (95 % interval {low} to {high})"
        # As in a comparison, a difference is real where interval and test agree.
        is_real = gain["p_value"] is None or gain["p_value"] < 0.05
        if gain["low"] > 0 and is_real:
            return f"On test photos the settings found are better than the default: {interval}."
        if gain["high"] < 0 and is_real:
            return f"On test photos the settings found are worse than the default: {interval}; keep the default."
        return f"On test photos the difference to the default may be chance: {interval}."
    ahead = _advance(report)
    if ahead is None:
        return f"The best trial of {name} is {best['number']}; nothing says yet whether it is better than the default."
    if ahead <= 0:
        return "No trial was better than the default settings on the dev photos."
    return "Better than the default on the dev photos; nothing was measured on test photos, so it may be chance."


def as_toml(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Settings as a configuration file; a keyword without a value is left to its default."""
    sections = []
    for section, keywords in settings.items():
        lines = [f"{_key(key)} = {_toml(value)}" for key, value in keywords.items() if value is not None]
        sections.append("\n".join([f"[{_key(section)}]", *lines]))
    return "\n\n".join(sections)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_toml(of)}" for key, of in value.items() if of is not None) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(of) for of in value if of is not None) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _completed(trials: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], float]]:
    """Completed trials that have a value, with it."""
    return [
        (trial, value)
        for trial in trials
        if trial["state"] == "complete" and (value := as_number(trial["value"])) is not None
    ]


def _advance(report: Mapping[str, Any]) -> float | None:
    """By how much the best is better than the default on the dev photos; None where one was not measured."""
    best, default = as_number((report["best"] or {}).get("value")), as_number(report["baseline"]["value"])
    if best is None or default is None:
        return None
    return default - best if report["direction"] == "minimize" else best - default


def _value_scale(report: Mapping[str, Any], better: int) -> tuple[Scale, bool]:
    """The axis of values, and whether it leaves out some.

    It goes four times as far to the worse side of the median as the best lies to the better one, so that a few
    failures of taste do not press all others together.
    """
    values = [value for _, value in _completed(report["trials"])]
    measured = (report["best"] or {}, report["baseline"])
    marks = [mark for of in measured if (mark := as_number(of.get("value"))) is not None]
    if not values and not marks:
        return linear_scale(0.0, 1.0), False
    seen = [better * value for value in (*values, *marks)]
    worst, best = min(seen), max(seen)
    middle = median(seen)
    reach = max(4 * (best - middle), 2.0 * (middle - sorted(seen)[len(seen) // 4]))
    end = max(worst, middle - reach) if reach > 0 else worst
    end = min([end, *(better * mark for mark in marks)])
    low, high = sorted((better * end, better * best))
    scale = linear_scale(low, high)
    shown = [as_number(trial["value"]) for trial in report["trials"] if trial["state"] != "failed"]
    return scale, any(value is not None and not scale.low <= value <= scale.high for value in shown)


def _parameter_scale(parameter: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> Scale:
    given = [trial["params"][parameter["name"]] for trial in trials if parameter["name"] in trial["params"]]
    if parameter["kind"] == "choice":
        choices = tuple(dict.fromkeys(as_word(value) for value in (*(parameter["choices"] or ()), *given))) or ("-",)
        return Scale(0, 1, tuple((place_of(choice, choices), choice) for choice in choices), choices=choices)
    ends = [
        number for value in (parameter["low"], parameter["high"], *given) if (number := as_number(value)) is not None
    ]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    if not low < high:
        margin = 0.5 * abs(low) or 0.5
        low, high = low - margin, high + margin
    if parameter["is_log"] and low > 0:
        return logarithmic_scale(low, high)
    return scale_within(low, high)


Mark = tuple[float, float, int, str]
"""Where a trial stands from left and bottom, in percent; its number, and the class it is drawn as."""


def _shades(trials: Sequence[Mapping[str, Any]], better: int) -> dict[int, str]:
    """Trial number -> its tenth among the completed ones, "v0" the worst and "v9" the best; equals share one."""
    completed = _completed(trials)
    order = {value: place for place, value in enumerate(sorted({better * value for _, value in completed}))}
    last, best = len(order) - 1, NUM_SHADES - 1
    return {trial["number"]: f"v{best * order[better * value] // last if last else best}" for trial, value in completed}


def _rank(trial: Mapping[str, Any], better: int) -> tuple[int, float, int]:
    value = as_number(trial["value"])
    order = ("complete", "pruned", "failed").index(trial["state"])
    return order, math.inf if value is None else -better * value, trial["number"]


def _history(
    trials: Sequence[Mapping[str, Any]], scale: Scale, shades: Mapping[int, str], better: int
) -> dict[str, Any]:
    """Value over trial number: marks, the best so far as corners of a line, and trials without a value by their end."""
    first, last = (trials[0]["number"], trials[-1]["number"]) if trials else (0, 0)

    def across(number: int) -> float:
        return 100 * (number - first + 0.5) / (last - first + 1)

    corners: list[tuple[float, float]] = []
    best = -math.inf
    for trial, value in _completed(trials):
        if better * value > best:
            best = better * value
            corners += [(across(trial["number"]), corners[-1][1])] if corners else []
            corners.append((across(trial["number"]), scale.at(value) or 0.0))
    if corners:
        corners.append((100.0, corners[-1][1]))
    marks: list[Mark] = []
    without: list[tuple[float, int, str]] = []
    for trial in trials:
        up = scale.at(trial["value"]) if trial["state"] != "failed" else None
        if up is None:
            without.append((across(trial["number"]), trial["number"], trial["state"]))
        else:
            marks.append((across(trial["number"]), up, trial["number"], shades.get(trial["number"], "pruned")))
    numbers = [int(label) for _, label in linear_scale(first, max(last, first + 3)).ticks if label.isdigit()]
    return {
        "marks": marks,
        "without": without,
        "best": corners,
        "ticks": [(across(number), number) for number in numbers if first <= number <= last],
    }


def _parallel(
    trials: Sequence[Mapping[str, Any]], lines: Mapping[str, Scale], scale: Scale, shades: Mapping[int, str]
) -> dict[str, Any]:
    """A line for each completed trial through value and parameters, the best drawn last.

    A parameter that a trial does not have is None, and drawn below the axis.
    """
    drawn = [
        (
            trial["number"],
            shades[trial["number"]],
            [scale.at(value), *(line.at(trial["params"].get(name, ...)) for name, line in lines.items())],
        )
        for trial, value in _completed(trials)
    ]
    drawn.sort(key=lambda of: int(of[1][1:]))
    unset = [any(places[axis + 1] is None for _, _, places in drawn) for axis in range(len(lines))]
    return {"lines": drawn, "axes": list(lines.items()), "unset": unset}


def _front(report: Mapping[str, Any], key: str, scale: Scale) -> dict[str, Any]:
    """Value against a cost, with the trials that none beats in both joined by a line."""
    name, unit = COSTS[key]
    costs = {
        trial["number"]: (cost / unit, value)
        for trial, value in _completed(report["trials"])
        if (cost := as_number(trial[key])) is not None
    }
    default = as_number(report["baseline"][key])
    seen = [cost for cost, _ in costs.values()] + ([default / unit] if default is not None else [])
    low, high = (min(seen), max(seen)) if seen else (0.0, 1.0)
    axis = logarithmic_scale(low, high) if 0 < 3 * low < high else linear_scale(low, high)
    chosen = set(report["front"][key])
    marks = [
        (axis.at(cost) or 0.0, scale.at(value) or 0.0, number, "front" if number in chosen else "")
        for number, (cost, value) in costs.items()
    ]
    corners: list[tuple[float, float]] = []
    for x, y, _, _ in sorted(mark for mark in marks if mark[3]):
        corners += [(x, corners[-1][1])] if corners else []
        corners.append((x, y))
    place = (axis.at(default / unit), scale.at(report["baseline"]["value"])) if default is not None else (None, None)
    return {"name": name, "axis": axis, "marks": marks, "line": corners, "default": None if None in place else place}


def _slice(
    parameter: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    line: Scale,
    scale: Scale,
    shades: Mapping[int, str],
) -> dict[str, Any]:
    """Value over one parameter; marks of a choice are spread a little, and its median is drawn."""
    name = parameter["name"]
    marks: list[Mark] = []
    by_choice: dict[float, list[float]] = {}
    for trial, value in _completed(trials):
        x, y = line.at(trial["params"].get(name, ...)), scale.at(value)
        if x is None or y is None:
            continue
        by_choice.setdefault(x, []).append(y)
        # Multiples of the golden ratio spread evenly, however many there are.
        spread = (trial["number"] * 0.618034 % 1 - 0.5) * 55 / len(line.choices) if line.choices else 0.0
        marks.append((x + spread, y, trial["number"], shades[trial["number"]]))
    reach = 35 / max(len(line.choices), 1)
    medians = [(x - reach, x + reach, median(of)) for x, of in by_choice.items()] if line.choices else []
    return {"parameter": parameter, "axis": line, "marks": marks, "medians": medians}
