"""The figures of a study's page, worked out from its report: bars, gains, pairs, boxes, maps, curves and flags.

Each function returns what the template draws, and nothing where the report holds nothing to draw.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inlier.decision.comparison_page import Axis, round_axis

TASKS = {"filter": "Filter: does the photo belong?", "condition": "Condition: is the part healthy?"}
"""What each task asks."""

_NUM_KINDS, _NUM_SHADES, _NUM_COLORS = 6, 3, 9
_STEPS = 65535


@dataclass(frozen=True, slots=True)
class Look:
    """How a backbone is called and coloured: by its objective, and lighter for a further data set it learned from."""

    title: str
    is_frozen: bool
    trained_on: str
    color: str


@dataclass(frozen=True, slots=True)
class Names:
    """What readers call data sets, backbones and detectors, in the order of the study, for every name that occurs."""

    datasets: Mapping[str, str]
    backbones: Mapping[str, Look]
    detectors: Sequence[str]

    def order(self, entry: Mapping[str, Any]) -> tuple[int, int]:
        """Where an entry stands that names a detector and a backbone."""
        return self.detectors.index(entry["detector"]), list(self.backbones).index(entry["backbone"])

    def describe(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """The detector, and the title and colour of the backbone, of an entry that names both."""
        look = self.backbones[entry["backbone"]]
        return {"detector": entry["detector"], "title": look.title, "color": look.color}


def read_names(report: Mapping[str, Any]) -> Names:
    """The names of a report, those that its lists forget to declare last."""
    used = [entry for value in report.values() if isinstance(value, list) for entry in value if isinstance(entry, dict)]
    used += [pair[side] for pair in report["pairs"] for side in ("a", "b")]
    datasets = {of["name"]: of["title"] or of["name"] for of in report["datasets"]}
    datasets |= {name: name for name in _others(used, "dataset", datasets)}
    found: dict[str, Look] = {}
    learned: dict[str, list[str]] = {}
    for of in report["backbones"]:
        archive = of["trained_on"] or ""
        color = "frozen"
        if of["objective"] is not None:
            archives = learned.setdefault(of["objective"], [])
            archives += [archive] * (archive not in archives)
            kind, shade = list(learned).index(of["objective"]) % _NUM_KINDS, archives.index(archive) % _NUM_SHADES
            color = f"kind{kind + 1} shade{shade + 1}"
        on = datasets.get(archive, archive)
        found[of["name"]] = Look(of["title"] or of["name"], of["objective"] is None, on, color)
    found |= {name: Look(name, False, "", "unknown") for name in _others(used, "backbone", found)}
    detectors = [of["name"] for of in report["detectors"]]
    return Names(datasets, found, [*detectors, *_others(used, "detector", detectors)])


def _others(entries: Iterable[Mapping[str, Any]], key: str, known: Iterable[str]) -> list[str]:
    names = dict.fromkeys(of[key] for of in entries if key in of)
    return [name for name in names if name not in set(known)]


def by_dataset(entries: Iterable[Mapping[str, Any]], names: Names) -> dict[str, list[Mapping[str, Any]]]:
    """The entries of each data set's title, data sets in the order of the study, entries by detector and backbone."""
    found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in names.datasets}
    for of in entries:
        found[of["dataset"]].append(of)
    return {name: sorted(of, key=names.order) for name, of in found.items() if of}


def auroc_bars(report: Mapping[str, Any], names: Names) -> list[dict[str, Any]]:
    """A chart of each task, then one of each data set of a task that has several: bars grouped by detector.

    Dots are seeds, where there are several; of a task, only seeds that every one of its data sets has.
    """
    charts, small = [], []
    tests = [cell for cell in report["cells"] if cell["test"] is not None]
    trivial = {of["name"]: of["trivial"] for of in report["datasets"]}
    for task, title in TASKS.items():
        sets = [of["name"] for of in report["datasets"] if of["task"] == task]
        means = [of for of in report["means"] if of["task"] == task and of["test"] is not None]
        if means:
            where = names.datasets[sets[0]] if len(sets) == 1 else f"mean over {len(sets)} data sets"
            level = trivial[sets[0]] if len(sets) == 1 else None
            charts.append(_chart(title, where, means, _seed_means(tests, sets), names, level))
        for name in sets if len(sets) > 1 or not means else []:
            rows = [of for of in report["rows"] if of["dataset"] == name and of["test"] is not None]
            if rows:
                dots = _seed_means(tests, [name])
                small.append(_chart(names.datasets[name], "", rows, dots, names, trivial[name]))
    return charts + small


def _seed_means(cells: Sequence[Mapping[str, Any]], sets: Sequence[str]) -> dict[tuple[str, str], list[float]]:
    """Of each detector and backbone, the mean over the data sets of each seed that all of them have."""
    values: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for cell in cells:
        if cell["dataset"] in sets:
            seeds = values.setdefault((cell["detector"], cell["backbone"]), {})
            seeds.setdefault(cell["seed"], {})[cell["dataset"]] = cell["test"]["value"]
    return {
        key: [sum(of.values()) / len(of) for _, of in sorted(seeds.items()) if len(of) == len(sets)]
        for key, seeds in values.items()
    }


def _chart(
    title: str,
    where: str,
    entries: Sequence[Mapping[str, Any]],
    dots: Mapping[tuple[str, str], list[float]],
    names: Names,
    trivial: Mapping[str, Any] | None,
) -> dict[str, Any]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for of in sorted(entries, key=names.order):
        seeds = dots.get((of["detector"], of["backbone"]), [])
        bar = {**names.describe(of), **of["test"], "dots": seeds if len(seeds) > 1 else []}
        groups.setdefault(of["detector"], []).append(bar)
    return {"title": title, "where": where, "groups": groups, "num_bars": len(entries), "trivial": trivial}


def gains_over_frozen(report: Mapping[str, Any], names: Names) -> list[dict[str, Any]]:
    """The paired tests of a fine-tuned backbone against a frozen one under the same detector, gains of the former."""
    found = []
    for pair in report["pairs"]:
        a, b, gain = pair["a"], pair["b"], pair["gain"]
        if a["detector"] != b["detector"]:
            continue
        if names.backbones[a["backbone"]].is_frozen:
            a, b, gain = b, a, {"value": -gain["value"], "low": -gain["high"], "high": -gain["low"]}
        if names.backbones[b["backbone"]].is_frozen and not names.backbones[a["backbone"]].is_frozen:
            over = names.backbones[b["backbone"]].title
            found.append({**pair, **a, **names.describe(a), "over": over, "gain": gain})
    return found


def forest(gains: Sequence[Mapping[str, Any]], names: Names) -> dict[str, Any] | None:
    """The gains of each data set by detector on one axis in points; None where there are none."""
    if not gains:
        return None
    ends = [100 * of["gain"][end] for of in gains for end in ("low", "high")]
    axis: Axis = round_axis(min(*ends, -1.0), max(*ends, 1.0))
    panels = []
    for name, entries in by_dataset(gains, names).items():
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for of in entries:
            groups.setdefault(of["detector"], []).append(of)
        panels.append({"dataset": names.datasets[name], "groups": groups})
    return {"axis": axis, "panels": panels, "num_frozen": len({of["over"] for of in gains})}


def pair_matrices(report: Mapping[str, Any], names: Names) -> list[dict[str, Any]]:
    """Of each data set, the gain of each row's cell over each column's in points, best cell first."""
    tests = {(of["dataset"], of["detector"], of["backbone"]): of["test"] for of in report["rows"]}
    found = []
    for dataset, title in names.datasets.items():
        pairs = [pair for pair in report["pairs"] if pair["dataset"] == dataset]
        gains = {}
        for pair in pairs:
            a, b = ((pair[side]["detector"], pair[side]["backbone"]) for side in ("a", "b"))
            low, value, high = (100 * pair["gain"][key] for key in ("low", "value", "high"))
            gains[a, b] = {**pair, "value": value, "low": low, "high": high, "size": _size(value)}
            gains[b, a] = {**pair, "value": -value, "low": -high, "high": -low, "size": _size(value)}
        scores = {key: tests.get((dataset, *key)) for key in dict.fromkeys(key for key, _ in gains)}
        order = sorted(scores, key=lambda key: -(of["mean"] if (of := scores[key]) else -1.0))
        heads = [names.describe({"detector": d, "backbone": b}) | {"test": scores[d, b]} for d, b in order]
        rows = [[gains.get((a, b)) for b in order] for a in order]
        if pairs:
            num_real = sum(pair["is_real"] for pair in pairs)
            found.append({"dataset": title, "heads": heads, "rows": rows, "num_real": num_real, "num": len(pairs)})
    return found


def _size(points: float) -> int:
    """How strongly a gain is tinted, 1 to 4."""
    return 1 + sum(abs(points) >= limit for limit in (2.5, 5, 10))


def layer_boxes(report: Mapping[str, Any], names: Names) -> list[dict[str, Any]]:
    """Of each data set and detector, a box of the trials with each choice of layers, by increasing depth."""
    charts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for of in report["boxes"]:
        values = np.array([value for value in of["values"] if value is not None], dtype=np.float64)
        if len(values):
            charts.setdefault((of["dataset"], of["detector"]), []).append({"layers": of["layers"], **_box(values)})
    order = sorted(charts, key=lambda key: (list(names.datasets).index(key[0]), names.detectors.index(key[1])))
    return [
        {
            "dataset": names.datasets[dataset],
            "detector": detector,
            "boxes": sorted(charts[dataset, detector], key=lambda box: _depth(box["layers"])),
        }
        for dataset, detector in order
    ]


def _box(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """Quartiles; whiskers to the last value within 1.5 times the box (Tukey); and what lies beyond."""
    first, median, third = (float(of) for of in np.quantile(values, (0.25, 0.5, 0.75)))
    reach = 1.5 * (third - first)
    is_within = (values >= first - reach) & (values <= third + reach)
    low, high = float(values[is_within].min()), float(values[is_within].max())
    ends = {"low": low, "first": first, "median": median, "third": third, "high": high}
    return {**ends, "beyond": values[~is_within].tolist(), "num": len(values)}


def _depth(layers: str) -> tuple[float, int, str]:
    numbers = [float(part) for part in layers.split(",") if part.strip().isdigit()]
    return sum(numbers) / len(numbers) if numbers else np.inf, len(numbers), layers


def linked_maps(report: Mapping[str, Any], names: Names) -> dict[str, Any] | None:
    """The maps' titles and, as JSON, their points on a grid of 65,536 steps; None where there is no point.

    Raises:
        ValueError: If the maps do not have the same number of points.
    """
    maps = [of for of in report["maps"] if of["points"]]
    if not maps:
        return None
    if len(lengths := {len(of["points"]) for of in maps}) > 1:
        raise ValueError(f"maps of write_study_page must hold the same photos, got {sorted(lengths)} points.")
    content = {
        "classes": _map_classes(report["map_classes"]),
        "classOf": [int(point[2]) for point in maps[0]["points"]],
        "places": [_places(of["points"]) for of in maps],
    }
    encoded = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return {"titles": [names.backbones[of["backbone"]].title for of in maps], "content": encoded}


def _map_classes(classes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Anomalous classes are red, unknown ones grey; normal ones differ, as squares once the colours are used up."""
    normal = [of["label"] for of in classes if of["is_anomalous"] is False]
    shown = []
    for of in classes:
        color, is_square = "--other", False
        if of["is_anomalous"]:
            color = "--reject-fill"
        elif of["is_anomalous"] is not None:
            turn, place = divmod(normal.index(of["label"]), _NUM_COLORS)
            color, is_square = f"--c{place + 1}", turn % 2 == 1
        shown.append({"name": of["label"], "color": color, "isSquare": is_square, "isFront": bool(of["is_anomalous"])})
    return shown


def _places(points: Sequence[Sequence[float]]) -> list[int]:
    places = np.array(points, dtype=np.float64)[:, :2]
    low, high = places.min(axis=0), places.max(axis=0)
    scale = _STEPS / max(float((high - low).max()), 1e-12)
    shown: list[int] = np.round((places - (low + high) / 2) * scale * [1, -1] + _STEPS / 2).astype(int).ravel().tolist()
    return shown


def roc_curves(report: Mapping[str, Any], names: Names) -> list[dict[str, Any]]:
    """The ROC curves of each data set, with their thresholds as lines from the axis to the curve."""
    found = []
    for dataset, entries in by_dataset(report["rocs"], names).items():
        curves = []
        for of in entries:
            points = sorted(of["points"])
            rates, hits = ([point[side] for point in points] for side in (0, 1))
            lines = [(rate, float(np.interp(rate, rates, hits))) for rate in of["thresholds"]] if points else []
            curves.append({**names.describe(of), "auroc": of["auroc"], "points": points, "lines": lines})
        found.append({"dataset": names.datasets[dataset], "curves": curves})
    return found


def flagged_shares(report: Mapping[str, Any], names: Names) -> list[dict[str, Any]]:
    """Of each data set, the share of each class that each detector and backbone flags; normal classes first."""
    found = []
    for dataset, entries in by_dataset(report["confusions"], names).items():
        classes = {row["label"]: row for of in entries for row in of["rows"]}
        order = sorted(classes.values(), key=lambda row: (bool(row["is_anomalous"]), row["label"]))
        shares = [{row["label"]: row for row in of["rows"]} for of in entries]
        rows = [{**row, "cells": [of.get(row["label"]) for of in shares]} for row in order]
        heads = [names.describe(of) for of in entries]
        detectors = Counter(head["detector"] for head in heads)
        found.append({"dataset": names.datasets[dataset], "heads": heads, "detectors": detectors, "rows": rows})
    return found
