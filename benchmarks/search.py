"""How long a search takes against separate runs of fit and evaluate with the same settings, and whether scores agree.

Runs ``inlier tune`` for PatchCore on one data set, then ``inlier fit`` and ``inlier evaluate --split dev`` as separate
commands for ten of its trials, half of them among those that ran to their end and half among those that did not,
evenly by number, and extrapolates from each half to all trials of its kind. Every side runs on
the same machine, one after the other, in fresh processes; the search includes reading the photos, trials that were
ended early, and neither side the final fit. Trials that ran to their end must have the AUROC of the separate run.

    python benchmarks/search.py DATA_ROOT [--trials 100] [--separate 10]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from inlier.config import merge, read_config
from inlier.decision.tuning_page import as_toml
from inlier.experiments.spaces import DETECTOR_SPACES, to_sections


def main() -> None:
    """Runs both sides, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder that holds magnetic-tile")
    parser.add_argument("--set", dest="name", default="magnetic-tile")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--separate", type=int, default=10)
    args = parser.parse_args()
    data = args.root / args.name
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        seconds = _run("tune", data, "--out", work / "search", "--detector", "patchcore", "--trials", args.trials)
        report = json.loads((work / "search" / "tuning.json").read_text(encoding="utf-8"))
        concluding = _concluding(work / "search")
        searching = seconds - concluding
        print(f"search: {searching:.0f} s for {len(report['trials'])} trials, and {concluding:.0f} s to conclude")
        rows = [_separate(data, trial, work) for trial in _chosen(report["trials"], args.separate)]
    _tell(report, searching, rows, args)


def _chosen(trials: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """Half of them complete, as far as there are such, evenly by number."""
    found = []
    for kind in (True, False):
        of_kind = [trial for trial in trials if (trial["state"] == "complete") is kind]
        places = np.linspace(0, len(of_kind) - 1, min(len(of_kind), number // 2)).round().astype(int)
        found += [of_kind[place] for place in places]
    return found


def _concluding(folder: Path) -> float:
    """Seconds from the last trial's end to the page: fitting winner and default, and judging both on test."""
    ended = (folder / "search.db").stat().st_mtime
    return max(0.0, (folder / "tuning.json").stat().st_mtime - ended)


def _separate(data: Path, trial: dict[str, Any], work: Path) -> dict[str, Any]:
    """Fits and evaluates the settings of a trial by hand."""
    name = f"trial-{trial['number']}"
    config = read_config(None, trial["reduced"], to_sections(DETECTOR_SPACES["patchcore"], trial["params"]))
    (work / f"{name}.toml").write_text(as_toml(merge(config, "fit", detector="patchcore")), encoding="utf-8")
    fit = _run("fit", data, "--out", work / name, "--config", work / f"{name}.toml")
    evaluate = _run("evaluate", work / name, data, "--split", "dev", "--out", work / f"{name}-dev")
    metrics = json.loads((work / f"{name}-dev" / "metrics.json").read_text(encoding="utf-8"))
    row = {**trial, "fit": fit, "evaluate": evaluate, "auroc": metrics["image_auroc"]["value"]}
    shown = "ended early" if trial["value"] is None else f"{trial['value']:.6f}"
    print(
        f"{name}: fit {fit:.0f} s, evaluate {evaluate:.0f} s, AUROC {row['auroc']:.6f}, in the search {shown}",
        flush=True,
    )
    return row


def _run(*arguments: Any) -> float:
    began = time.monotonic()
    command = [sys.executable, "-m", "inlier", *map(str, arguments), "--quiet"]
    ran = subprocess.run(command, check=False)
    if ran.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {ran.returncode}")
    return time.monotonic() - began


def _tell(report: dict[str, Any], searching: float, rows: list[dict[str, Any]], args: argparse.Namespace) -> None:
    num_trials, rng = len(report["trials"]), np.random.default_rng(0)
    total, resampled = 0.0, np.zeros(10_000)
    for kind in (True, False):
        seconds = np.array([row["fit"] + row["evaluate"] for row in rows if (row["state"] == "complete") is kind])
        count = sum((trial["state"] == "complete") is kind for trial in report["trials"])
        if len(seconds):
            total += count * seconds.mean()
            resampled += count * rng.choice(seconds, (len(resampled), len(seconds))).mean(axis=1)
    ratio, low, high = (of / searching for of in (total, *np.quantile(resampled, (0.025, 0.975))))
    complete = [row for row in rows if row["value"] is not None]
    worst = max((abs(row["value"] - row["auroc"]) for row in complete), default=float("nan"))
    counts = report["counts"]
    lines = [
        f"| what, on {args.name} | measured |",
        "| --- | --- |",
        f"| {num_trials} trials ({counts['complete']} to their end, {counts['pruned']} ended early, {counts['failed']} "
        f"failed) | {searching:.0f} s |",
        f"| one separate `fit` and `evaluate`, mean, from {len(rows)} of them | {total / num_trials:.0f} s |",
        f"| {num_trials} of these over the search | {ratio:.1f} times ({low:.1f} to {high:.1f}) |",
        f"| best AUROC on dev in the search; of the settings that it began from | {report['best']['value']:.3f}; "
        f"{report['baseline']['value']:.3f} |",
        f"| largest difference of AUROC over {len(complete)} of them that ran to their end | {worst:.1e} |",
    ]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
