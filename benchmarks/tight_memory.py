"""Whether a search at the memory-hungry end of its space keeps to a budget, and whether any of its trials fails.

Runs ``inlier tune`` for PatchCore with all layers on their finest grid, whole embeddings and large banks, on generated
photos (or on DATA), under ``--memory-budget``, and looks every 50 ms at the resident memory of each of its processes.
What the budget is for is the search: the processes that run trials, and the one that looks on. Those that read the
photos, fit the winner and judge it on test load the network too, and are told apart.

    python benchmarks/tight_memory.py [DATA] [--budget 1GiB] [--trials 200] [--write docs/tuning.md]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from inlier.build import parse_bytes
from inlier.data.synthetic_folders import write_dataset
from intake import machine
from near_duplicates import check_markers, put_between
from near_duplicates import command as shown

SPACE = {
    "layers": '["1,2,3,4", "1,2,3", "1,2,4", "1,3,4"]',
    "max_cells": "0",
    "embedding_width": "0",
    "coreset_ratio": "{ low = 0.05, high = 1.0 }",
    "patch_size": "{ low = 1, high = 9 }",
}


def main() -> None:
    """Runs the search, watches it, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="photos; left out, they are generated")
    parser.add_argument("--budget", default="1GiB")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--write", type=Path, help="put what came of it between the markers of this page")
    args = parser.parse_args()
    if args.write:
        check_markers(args.write, "tight memory")
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or _generated(Path(folder) / "data")
        out = Path(folder) / "search"
        sets = [f"space.{name}={value}" for name, value in SPACE.items()] + ["patchcore.max_bank_rows=3000"]
        command = [sys.executable, "-m", "inlier", "tune", str(data), "--out", str(out), "--detector", "patchcore"]
        command += ["--trials", str(args.trials), "--memory-budget", args.budget, "--quiet"]
        process = subprocess.Popen([*command, *(part for of in sets for part in ("--set", of))])
        peaks = _watch(process)
        report = json.loads((out / "tuning.json").read_text(encoding="utf-8"))
    workers = {trial["worker"].rpartition(":")[2].partition("@")[0] for trial in report["trials"]}
    of_trials = max(peak for number, peak in peaks.items() if str(number) in workers)
    others = max((peak for number, peak in peaks.items() if str(number) not in workers), default=0)
    budget, counts = parse_bytes(args.budget), report["counts"]
    lines = [
        f"{len(report['trials'])} trials: {counts['complete']} complete, {counts['pruned']} ended early, "
        f"{counts['failed']} failed, {counts['reduced']} reduced to fit",
        f"peak of the processes that ran trials: {of_trials / 2**20:.0f} MiB, {of_trials / budget:.0%} of the budget",
        f"peak of the processes that read the photos, looked on and concluded: {others / 2**20:.0f} MiB",
    ]
    print("\n".join(lines))
    if args.write:
        listed = "\n".join(f"- {line}" for line in lines)
        put_between(args.write, "tight memory", f"{listed}\n\n`{shown()}`, {machine()}.")


def _generated(folder: Path) -> Path:
    size = (224, 280)
    write_dataset(
        folder,
        num_train=12,
        num_dev=4,
        num_test=4,
        num_defective=4,
        num_unrelated=2,
        components=("piston-crown", "bolted-flange"),
        size=size,
    )
    return folder


def _watch(process: subprocess.Popen[bytes]) -> dict[int, int]:
    """The highest resident memory of each process of the tree, in bytes."""
    peaks: dict[int, int] = defaultdict(int)
    while process.poll() is None:
        for number in _tree(process.pid):
            try:
                status = Path(f"/proc/{number}/status").read_text(encoding="utf-8")
            except OSError:
                continue
            found = [line.split() for line in status.splitlines() if line.startswith("VmRSS")]
            peaks[number] = max(peaks[number], int(found[0][1]) * 1024 if found else 0)
        time.sleep(0.05)
    return peaks


def _tree(root: int) -> list[int]:
    try:
        children = Path(f"/proc/{root}/task/{root}/children").read_text(encoding="utf-8").split()
    except OSError:
        return [root]
    return [root, *(number for child in children for number in _tree(int(child)))]


if __name__ == "__main__":
    main()
