"""The numbers of a study, read from what its jobs left on disk."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from inlier.adapted import describe
from inlier.data.manifest import Split
from inlier.decision.compare import LEVEL, compare_aurocs
from inlier.decision.metrics import NUM_THRESHOLDS, roc_curve
from inlier.experiments.search_report import RECORD
from inlier.experiments.study_jobs import DONE, MODEL, SEARCH, SPLITS, Bench
from inlier.experiments.study_plan import BackbonePlan, Cell
from inlier.model import package_versions
from inlier.outputs import as_text

COLUMNS: dict[str, tuple[str, ...]] = {
    "cells": ("dataset", "backbone", "detector", "seed", "dev", "test", "pixel_auroc", "aupro_03", "num_trials"),
    "rows": ("dataset", "detector", "backbone", "dev", "test", "num_seeds"),
    "pairs": ("dataset", "a", "b", "gain", "p_value", "p_adjusted", "is_real"),
    "losses": ("backbone", "objective", "trained_on", "dataset", "is_anomalous", "loss", "num_photos"),
    "boxes": ("dataset", "detector", "layers", "values"),
    "confusions": ("dataset", "backbone", "detector", "label", "is_anomalous", "num_photos", "flagged", "not_flagged"),
    "rocs": ("dataset", "backbone", "detector", "auroc", "points"),
    "patches": ("dataset", "patch_size", "pooling", "auroc", "low", "high"),
}
"""Of each table that is written, its columns."""

_MOST_POINTS = 200


def describe_study(bench: Bench) -> dict[str, Any]:
    """What ``study.json`` holds, but for maps, galleries and patch sizes, which need photos."""
    study = bench.study
    metrics = {cell: _metrics(bench, cell) for cell in study.cells}
    cells = [_cell(bench, cell, metrics[cell]) for cell in study.cells]
    rows = _rows(cells)
    first = [cell for cell in study.cells if cell.seed == study.seeds[0]]
    return {
        "name": study.title,
        "command": as_text(bench.command),
        "seeds": list(study.seeds),
        "versions": package_versions(),
        "seconds": math.fsum(_seconds(path) for path in sorted(bench.out.glob(f"*/**/{DONE}"))),
        "datasets": [_dataset(bench, name, metrics) for name in study.judged],
        "backbones": [_backbone(bench, plan) for plan in study.backbones.values()],
        "detectors": [{"name": name} for name in study.detectors],
        "cells": cells,
        "rows": rows,
        "means": _means(rows, {name: plan.task for name, plan in study.datasets.items()}),
        "pairs": [
            pair for name in study.datasets for pair in _pairs(bench, [of for of in first if of.dataset == name])
        ],
        "losses": [loss for plan in study.backbones.values() for loss in _losses(bench, plan)],
        "boxes": _boxes(bench),
        "confusions": [of for cell in first if (of := _confusion(cell, metrics[cell]["test"]))],
        "rocs": [of for cell in first if (of := _roc(bench, cell, metrics[cell]["test"]))],
        "map_classes": [],
        "maps": [],
        "patches": None,
        "galleries": [],
        "notes": _notes(bench),
    }


def write_tables(out: Path, report: Mapping[str, Any]) -> None:
    """Writes each table that is not empty as a CSV file; an interval takes three columns."""
    of_patches = (
        [{"dataset": report["patches"]["dataset"], **row} for row in report["patches"]["rows"]]
        if report["patches"]
        else []
    )
    confusions = [
        {**row, **{key: of[key] for key in ("dataset", "backbone", "detector")}}
        for of in report["confusions"]
        for row in of["rows"]
    ]
    for name, columns in COLUMNS.items():
        rows = {"patches": of_patches, "confusions": confusions}.get(name, report.get(name) or [])
        path = out / f"{name}.csv"
        if not rows:
            path.unlink(missing_ok=True)
            continue
        flat = [_flat({column: row.get(column) for column in columns}) for row in rows]
        header = list(dict.fromkeys(key for row in flat for key in row))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, header, restval="")
            writer.writeheader()
            writer.writerows(flat)


def scores_of(bench: Bench, cell: Cell, split: str = "test") -> Any:
    """The table of scores of a cell's evaluation; None where there is none."""
    path = bench.cell_folder(cell) / split / "scores.parquet"
    return pq.read_table(path) if path.exists() else None


def _metrics(bench: Bench, cell: Cell) -> dict[str, dict[str, Any] | None]:
    return {split: _record(bench.cell_folder(cell) / split / "metrics.json") for split in SPLITS}


def _record(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def _seconds(path: Path) -> float:
    return float((_record(path) or {}).get("seconds", 0.0))


def _cell(bench: Bench, cell: Cell, metrics: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    folder = bench.cell_folder(cell)
    search, test = _record(folder / SEARCH / RECORD), metrics["test"] or {}
    return {
        "name": cell.name,
        **asdict(cell),
        **{split: (metrics[split] or {}).get("image_auroc") for split in SPLITS},
        "pixel_auroc": test.get("pixel_auroc"),
        "aupro_03": test.get("aupro_03"),
        "num_trials": len(search["trials"]) if search else 0,
        "fit_seconds": _seconds(folder / DONE),
        "folder": folder.relative_to(bench.out).as_posix(),
    }


def _rows(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Cells averaged over seeds, as tables C.1 and C.2 of the thesis; ends of intervals are averaged too."""

    def key(of: Mapping[str, Any]) -> tuple[str, str, str]:
        return of["dataset"], of["detector"], of["backbone"]

    order = list(dict.fromkeys(map(key, cells)))
    found = []
    for (dataset, detector, backbone), group in groupby(sorted(cells, key=lambda of: order.index(key(of))), key=key):
        of_seeds = list(group)
        row = {"dataset": dataset, "detector": detector, "backbone": backbone, "num_seeds": len(of_seeds)}
        found.append(row | {split: _mean([of[split] for of in of_seeds]) for split in SPLITS})
    return found


def _mean(intervals: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    known = [of for of in intervals if of is not None]
    if not known:
        return None
    ends = {"mean": "value", "low": "low", "high": "high"}
    return {name: float(np.mean([of[end] for of in known])) for name, end in ends.items()}


def _means(rows: Sequence[Mapping[str, Any]], tasks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Means over the data sets of a task, which are independent: the squares of the half-widths add up."""
    found: dict[tuple[str, str, str], list[Mapping[str, float]]] = {}
    for row in rows:
        if row["test"] is not None:
            found.setdefault((tasks[row["dataset"]], row["detector"], row["backbone"]), []).append(row["test"])
    return [
        {
            "task": task,
            "detector": detector,
            "backbone": backbone,
            "test": {
                "mean": (mean := float(np.mean([of["mean"] for of in tests]))),
                "low": mean - math.hypot(*(of["mean"] - of["low"] for of in tests)) / len(tests),
                "high": mean + math.hypot(*(of["high"] - of["mean"] for of in tests)) / len(tests),
            },
        }
        for (task, detector, backbone), tests in found.items()
    ]


def _pairs(bench: Bench, cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    """Paired tests between all cells of a data set, corrected by Holm for how many there are."""
    tables = {cell: table for cell in cells if (table := scores_of(bench, cell)) is not None}
    if len(tables) < 2:
        return
    first = next(iter(tables.values()))
    is_anomalous = np.array(first["is_anomalous"].to_pylist(), dtype=np.bool_)
    scores = np.array([table["score"].to_numpy() for table in tables.values()])
    _, differences = compare_aurocs(scores, is_anomalous, first["group"].to_pylist(), seed=bench.study.seeds[0])
    compared = list(tables)
    for of in differences:
        ahead, behind = compared[of.ahead], compared[of.behind]
        yield {
            "dataset": ahead.dataset,
            "a": {"backbone": ahead.backbone, "detector": ahead.detector},
            "b": {"backbone": behind.backbone, "detector": behind.detector},
            "gain": of.gain.to_json(),
            "p_value": of.p_value,
            "p_adjusted": of.p_holm,
            "is_real": of.p_holm < 1 - LEVEL,
        }


def _dataset(bench: Bench, name: str, metrics: Mapping[Cell, Mapping[str, Any]]) -> dict[str, Any]:
    plan, photos = bench.study.datasets[name], bench.data(name).photos
    splits: tuple[Split, ...] = ("train", "dev", "test")
    counts = Counter((photo.label, photo.is_anomalous is True, photo.split) for photo in photos)
    classes = sorted({(label, flag) for label, flag, _ in counts}, key=lambda of: (of[1], of[0]))
    test = next((of["test"] for cell, of in metrics.items() if cell.dataset == name and of["test"]), None) or {}
    return {
        "name": name,
        "title": plan.title,
        "task": plan.task,
        **{f"num_{split}": sum(photo.split == split for photo in photos) for split in splits},
        "classes": [
            {"label": as_text(label), "is_anomalous": flag} | {split: counts[label, flag, split] for split in splits}
            for label, flag in classes
        ],
        "trivial": test.get("trivial"),
        "fingerprint": bench.fingerprints[name],
    }


def _backbone(bench: Bench, plan: BackbonePlan) -> dict[str, Any]:
    found: dict[str, Any] = {"name": plan.name, "title": plan.title, "objective": plan.objective}
    found |= {"trained_on": plan.trained_on, "seconds": None, "gate": None}
    if plan.objective is not None:
        folder = bench.backbone_folder(plan.name)
        found["seconds"] = _seconds(folder / DONE)
        found["gate"] = (describe(folder / MODEL).get("gate") or {}).get("verdict")
    return found


def _losses(bench: Bench, plan: BackbonePlan) -> Iterator[dict[str, Any]]:
    """Table 5.1 of the thesis."""
    if plan.objective is None or bench.study.losses_of is None:
        return
    for kind, of in (describe(bench.backbone_folder(plan.name) / MODEL).get("losses") or {}).items():
        yield {
            "backbone": plan.name,
            "objective": plan.objective,
            "trained_on": plan.trained_on,
            "dataset": bench.study.losses_of,
            "is_anomalous": kind == "anomalous",
            "frozen_loss": None,
            **of,
        }


def _boxes(bench: Bench) -> list[dict[str, Any]]:
    """Figure 5.6 of the thesis: what trials reached on dev with each combination of layers."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for cell in bench.study.cells:
        for trial in (_record(bench.cell_folder(cell) / SEARCH / RECORD) or {}).get("trials", ()):
            layers = trial["params"].get("layers")
            if trial["value"] is not None and layers is not None:
                found.setdefault((cell.dataset, cell.detector, str(layers)), []).append(trial["value"])
    return [
        {"dataset": dataset, "detector": detector, "layers": layers, "values": values}
        for (dataset, detector, layers), values in sorted(found.items(), key=lambda of: (of[0][:2], of[0][2][::-1]))
    ]


def _confusion(cell: Cell, metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Figure E.1 of the thesis: what share of each class is flagged, on average over thresholds."""
    rows = [
        {
            "label": label,
            "is_anomalous": of["is_anomalous"],
            "num_photos": of["num_photos"],
            "flagged": of["flagged_share"],
            "not_flagged": 1 - of["flagged_share"],
        }
        for label, of in (metrics or {}).get("classes", {}).items()
        if of["flagged_share"] is not None
    ]
    return {**_place(cell), "rows": rows} if rows else None


def _roc(bench: Bench, cell: Cell, metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Figure E.2 of the thesis."""
    table = scores_of(bench, cell)
    if table is None or not metrics or metrics["image_auroc"] is None:
        return None
    is_anomalous = np.array(table["is_anomalous"].to_pylist(), dtype=np.bool_)
    fpr, tpr, _ = roc_curve(table["score"].to_numpy(), is_anomalous)
    chosen = np.unique(np.linspace(0, len(fpr) - 1, min(len(fpr), _MOST_POINTS)).round().astype(int))
    return {
        **_place(cell),
        "points": [[round(float(fpr[at]), 5), round(float(tpr[at]), 5)] for at in chosen],
        "auroc": metrics["image_auroc"]["value"],
        "thresholds": [round((number + 0.5) / NUM_THRESHOLDS, 4) for number in range(NUM_THRESHOLDS)],
    }


def _place(cell: Cell) -> dict[str, str]:
    return {"dataset": cell.dataset, "backbone": cell.backbone, "detector": cell.detector}


def _notes(bench: Bench) -> list[str]:
    notes = []
    if len(bench.study.seeds) > 1:
        notes.append(
            "Paired tests, confusion matrices and curves are those of the first seed; tables average over seeds."
        )
    if any(detector.trials for detector in bench.study.detectors.values()):
        notes.append("Searches chose settings on dev, which flatters the columns for dev; test was looked at once.")
    return notes


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """One cell of a table for each value: an interval as NAME, NAME_low, NAME_high, a list as text."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping) and "low" in value:
            flat[name] = value.get("value", value.get("mean"))
            flat |= {f"{name}_{end}": value[end] for end in ("low", "high")}
        elif isinstance(value, Mapping):
            flat |= {f"{name}_{key}": of for key, of in value.items()}
        else:
            flat[name] = json.dumps(value) if isinstance(value, list) else value
    return flat
