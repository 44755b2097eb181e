"""What a search leaves to be read: its record, a table of trials, the winner's settings, and a page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from inlier.config import merge, read_config
from inlier.decision.tuning_page import as_toml, write_tuning_page
from inlier.errors import InlierError
from inlier.experiments.outcome import COSTS, SECONDS, Conclusion, Task
from inlier.experiments.spaces import to_sections
from inlier.experiments.tuning import Finished, Search
from inlier.model import package_versions
from inlier.outputs import as_text, write_whole

RECORD = "tuning.json"
TRIALS, BEST, PAGE = "trials.csv", "best.toml", "tuning.html"


def describe(
    task: Task,
    search: Search,
    trials: Sequence[Finished],
    weights: Mapping[str, float],
    baseline: Mapping[str, Any],
    *,
    second: str | None,
    command: str,
) -> dict[str, Any]:
    """What ``tuning.json`` holds, but for what test photos say.

    Args:
        task: What was searched.
        search: How.
        trials: Those that are over.
        weights: Importance of parameters by name.
        baseline: How the settings did that the search began from.
        second: What was to be small beside the metric.
        command: What the user asked.
    """
    rows = [_row(trial) for trial in trials]
    complete = [row for row in rows if row["state"] == "complete"]
    sign = 1 if task.direction == "maximize" else -1
    best = max(complete, key=lambda row: (sign * row["value"], -row["number"]), default=None)
    is_default = best is None or (baseline["value"] is not None and sign * best["value"] <= sign * baseline["value"])
    winner = best and {key: best[key] for key in ("number", "value", "params", *COSTS)} | {
        "settings": read_config(None, best["reduced"], to_sections(task.space, best["params"]))
    }
    return {
        "name": task.name,
        "kind": task.kind,
        "metric": task.metric,
        "direction": task.direction,
        "second": SECONDS.get(second or ""),
        "command": as_text(command),
        "seed": search.seed,
        "versions": package_versions(),
        "data_fingerprint": search.about["photos"],
        "memory_budget": task.default["fit"]["memory_budget"],
        "seconds": math.fsum(row["seconds"] for row in rows),
        "counts": {
            **{state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "failed")},
            "reduced": sum(bool(row["reduced"]) for row in rows),
        },
        "baseline": dict(baseline),
        "best": winner,
        "is_default": is_default,
        "parameters": [_parameter(of, weights.get(of.name)) for of in task.space if not of.is_fixed],
        "trials": rows,
        "front": {name: front(complete, name, sign=sign) for name in ("latency_ms", "peak_bytes")},
        "test": None,
        "test_of_default": None,
        "gain": None,
        "notes": _notes(task, is_default=is_default and best is not None),
    }


def add_test(report: dict[str, Any], concluded: Conclusion) -> None:
    """Adds what test photos say."""
    report["test"] = concluded.test
    report["test_of_default"] = concluded.test_of_default
    if concluded.gain is not None:
        report["gain"] = asdict(concluded.gain) | {"p_value": concluded.p_value}
    report["notes"] += concluded.notes


def recall_test(report: dict[str, Any], out: Path) -> bool:
    """Adds what test photos said of the same trials before, if they did, so that they are not asked again."""
    try:
        before = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if before["test"] is None or before["trials"] != json.loads(json.dumps(report["trials"])):
        return False
    report |= {name: before[name] for name in ("test", "test_of_default", "gain", "notes")}
    return True


def front(rows: Sequence[Mapping[str, Any]], cost: str, *, sign: int = 1) -> list[int]:
    """Numbers of the trials than which none is both as good and cheaper, or better and as cheap; cheapest first."""
    numbers: list[int] = []
    best = -math.inf
    known = [row for row in rows if row[cost] is not None]
    for row in sorted(known, key=lambda of: (of[cost], -sign * of["value"], of["number"])):
        if sign * row["value"] > best:
            best = sign * row["value"]
            numbers.append(row["number"])
    return numbers


def write_report(out: Path, report: Mapping[str, Any]) -> None:
    """Writes ``trials.csv``, ``best.toml``, ``tuning.html`` and, when these are there, ``tuning.json``.

    Raises:
        InlierError: The folder cannot be written.
    """
    try:
        _write_trials(out / TRIALS, report)
        if report["best"] is not None:
            section = ("fit", "detector") if report["kind"] == "detector" else ("finetune", "objective")
            settings = merge(report["best"]["settings"], section[0], **{section[1]: report["name"]})
            write_whole(out / BEST, as_toml(settings) + "\n")
        write_tuning_page(out / PAGE, title=f"Search of {report['name']}", report=report)
        write_whole(out / RECORD, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(out)}: {error.strerror or error}.") from error


def _write_trials(path: Path, report: Mapping[str, Any]) -> None:
    names = [of["name"] for of in report["parameters"]]
    first, last = ("number", "state", "value"), (*COSTS, "seconds", "worker", "reduced", "error")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*first, *names, *last])
        for row in report["trials"]:
            cells = {**row, "reduced": " ".join(row["reduced"])}
            values = [row["params"].get(name) for name in names]
            writer.writerow([*(cells[name] for name in first), *values, *(cells[name] for name in last)])


def _row(trial: Finished) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "value": trial.values[0] if trial.values else None,
        "params": trial.params,
        **{name: trial.facts.get(name) for name in COSTS},
        "reduced": trial.facts.get("reduced", []),
        "error": trial.facts.get("error"),
        "worker": trial.worker,
        "seconds": trial.seconds,
    }


def _parameter(dimension: Any, importance: float | None) -> dict[str, Any]:
    return {
        "name": dimension.name,
        "kind": "choice" if dimension.choices else "number",
        "low": dimension.low,
        "high": dimension.high,
        "is_log": dimension.is_log,
        "choices": list(dimension.choices) or None,
        "importance": importance,
    }


def _notes(task: Task, *, is_default: bool) -> list[str]:
    notes = []
    if is_default:
        notes.append("No trial did better on dev than the settings that the search began from; these were kept.")
    if task.metric == "synthetic":
        notes.append(
            "Settings were told apart by altered copies of normal photos, whose order of settings agrees with that by "
            "real damage no better than chance; label some photos of dev, normal and anomalous, to know more."
        )
    if task.metric == "loss":
        notes.append(
            "A lower loss on photos held out does not mean that a detector finds more; the gate says whether it does."
        )
    return notes
