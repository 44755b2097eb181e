"""Folders of results as the commands write them, small and made up; for the tests of tracking."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

EVALUATION: dict[str, Any] = {
    "split": "test",
    "command": "inlier evaluate model data --out evaluation",
    "model": "abcdefabcdef",
    "data_fingerprint": "1" * 64,
    "fitted_on": "2" * 64,
    "seed": 0,
    "versions": {"inlier": "0.1.0", "torch": "2.6.0"},
    "num_unreadable": 0,
    "false_alarm_rate": 0.05,
    "uncertain_rate": 0.2,
    "num_normal": 40,
    "num_anomalous": 20,
    "image_auroc": {"value": 0.91, "low": 0.86, "high": 0.95},
    "image_ap": {"value": 0.88, "low": 0.8, "high": 0.93},
    "tpr_at_fpr_05": {"value": 0.6, "low": 0.4, "high": 0.8},
    "pixel_auroc": None,
    "aupro_03": None,
    "trivial": {"statistic": "brightness", "auroc": 0.61},
    "confusion": {"normal": {"flagged": 4.0, "not_flagged": 36.0}, "anomalous": None},
    "num_thresholds": 100,
    "classes": {
        "normal": {"num_photos": 40, "is_anomalous": False, "flagged_share": 0.1, "verdicts": {"accept": 36}},
        "rust/deep (2)": {
            "num_photos": 20,
            "is_anomalous": True,
            "flagged_share": 0.8,
            "verdicts": {"reject": 16, "accept": 4},
            "image_auroc": {"value": 0.93, "low": 0.9, "high": 0.96},
        },
    },
    "notes": ["There are few photos."],
    "component_accuracy": None,
}

COMPARISON: dict[str, Any] = {
    "split": "test",
    "command": "inlier compare a b --data data",
    "data_fingerprint": "1" * 64,
    "seed": 0,
    "versions": {"inlier": "0.1.0"},
    "num_unreadable": 1,
    "num_normal": 40,
    "num_anomalous": 20,
    "models": [
        {
            "name": "x/a",
            "identity": "a" * 12,
            "image_auroc": {"value": 0.9, "low": 0.8, "high": 0.95},
            "aupro_03": None,
        },
        {
            "name": "x/b",
            "identity": "b" * 12,
            "image_auroc": {"value": 0.8, "low": 0.7, "high": 0.85},
            "aupro_03": None,
        },
    ],
    "pairs": [
        {
            "ahead": "x/a",
            "behind": "x/b",
            "gain": {"value": 0.1, "low": 0.02, "high": 0.2},
            "p_value": 0.01,
            "p_holm": 0.02,
            "is_real": True,
            "delong": {"p_value": 0.01},
        }
    ],
    "verdict": "x/a is better than x/b by 10.0 points.",
    "notes": [],
}

INSPECTION: dict[str, Any] = {
    "request": "0" * 64,
    "model": "abcdefabcdef",
    "counts": {"accept": 30, "uncertain": 6, "reject": 4},
    "facts": {"data_fingerprint": "2" * 64, "versions": {"torch": "2.6.0"}},
    "decide": {"false_alarm_rate": 0.05, "uncertain_rate": 0.2},
}


def tuning(num_trials: int = 4) -> dict[str, Any]:
    """A search: every fifth trial fails or is pruned, the values rise and fall."""
    trials = []
    for number in range(num_trials):
        state = "pruned" if number % 5 == 3 else "failed" if number % 25 == 24 else "complete"
        value = 0.8 + 0.15 * abs(math.sin(1.7 * number)) if state == "complete" else None
        trials.append(
            {
                "number": number,
                "state": state,
                "value": value,
                "params": {"coreset_ratio": 0.01 * (1 + number % 9), "layers": "2,3" if number % 2 else "3"},
                "fit_seconds": 3.0,
                "latency_ms": 12.0 + number % 7,
                "peak_bytes": 1_000_000 * (1 + number % 11),
                "predicted_bytes": None,
                "reduced": ["batch_size"] if number == 1 else [],
                "worker": f"worker {number % 2}",
                "seconds": 5.0,
            }
        )
    best = max((trial for trial in trials if trial["value"] is not None), key=lambda trial: trial["value"])
    auroc = {"value": 0.92, "low": 0.88, "high": 0.95}
    states = [trial["state"] for trial in trials]
    return {
        "name": "patchcore",
        "kind": "detector",
        "metric": "auroc",
        "direction": "maximize",
        "second": "latency_ms",
        "command": f"inlier tune data --detector patchcore --trials {num_trials} --out tuned",
        "seed": 0,
        "versions": {"inlier": "0.1.0", "optuna": "4.0.0"},
        "data_fingerprint": "1" * 64,
        "memory_budget": "2GiB",
        "seconds": 2.5 * num_trials,
        "counts": {state: states.count(state) for state in ("complete", "pruned", "failed")} | {"reduced": 1},
        "baseline": {"value": 0.85, "fit_seconds": 2.0, "latency_ms": 15.0, "peak_bytes": 10_000_000},
        "best": {"settings": {"patchcore": best["params"]}} | {key: best[key] for key in ("number", "value", "params")},
        "trials": trials,
        "test": {"image_auroc": auroc, "pixel_auroc": None},
        "test_of_default": {"image_auroc": {"value": 0.87, "low": 0.82, "high": 0.91}},
        "gain": {"value": 0.05, "low": 0.01, "high": 0.09, "p_value": 0.012},
        "notes": ["One trial was reduced to fit the memory."],
    }


def study(num_seeds: int = 1) -> dict[str, Any]:
    """A study of two data sets, two backbones, one detector."""
    cells = []
    for dataset in ("piston", "flange"):
        for place, backbone in enumerate(("imagenet", "simclr")):
            for seed in range(num_seeds):
                value = 0.8 + 0.05 * place + 0.01 * seed + (0.03 if dataset == "flange" else 0.0)
                name = f"{dataset}/{backbone}/patchcore/seed-{seed}"
                cells.append(
                    {
                        "name": name,
                        "folder": f"cells/{name}",
                        "dataset": dataset,
                        "backbone": backbone,
                        "detector": "patchcore",
                        "seed": seed,
                        "dev": {"value": value + 0.02, "low": value - 0.03, "high": value + 0.06},
                        "test": {"value": value, "low": value - 0.05, "high": value + 0.05},
                        "fit_seconds": 12.0,
                    }
                )
    return {
        "name": "thesis",
        "command": "inlier study study.toml --out study",
        "seeds": list(range(num_seeds)),
        "datasets": [{"name": "piston"}, {"name": "flange"}],
        "versions": {"inlier": "0.1.0"},
        "seconds": 600.0,
        "notes": [],
        "cells": cells,
        "means": [
            {"task": "filter", "detector": "patchcore", "backbone": "simclr", "test": {"mean": 0.86, "low": 0.8}}
        ],
        "pairs": [{"is_real": True}, {"is_real": False}],
    }


def write(folder: Path, marker: str, record: dict[str, Any], page: str | None = None) -> Path:
    """A folder with this record, and a page beside it."""
    folder.mkdir(parents=True)
    if page is not None:
        (folder / page).write_text(f"<!doctype html><title>{page}</title><p>{page}", encoding="utf-8")
    (folder / marker).write_text(json.dumps(record), encoding="utf-8")
    return folder


def write_evaluation(folder: Path, **changed: Any) -> Path:
    """An evaluation."""
    return write(folder, "metrics.json", EVALUATION | changed, "evaluation.html")


def write_tuning(folder: Path, *, num_trials: int = 4) -> Path:
    """A search with its winner's evaluation; the model is the caller's to add."""
    write(folder, "tuning.json", tuning(num_trials), "tuning.html")
    (folder / "trials.csv").write_text("number,value\n0,0.8\n", encoding="utf-8")
    (folder / "best.toml").write_text("[patchcore]\ncoreset_ratio = 0.01\n", encoding="utf-8")
    write_evaluation(folder / "evaluation")
    return folder


def write_study(folder: Path, *, num_seeds: int = 1) -> Path:
    """A study: each cell with evaluations, and the first one with a search."""
    record = study(num_seeds)
    write(folder, "study.json", record, "study.html")
    (folder / "cells.csv").write_text("name,test\n", encoding="utf-8")
    for place, cell in enumerate(record["cells"]):
        for split in ("dev", "test"):
            write_evaluation(folder / cell["folder"] / split, split=split, image_auroc=cell[split])
        if place == 0:
            write_tuning(folder / cell["folder"] / "search", num_trials=3)
    return folder
