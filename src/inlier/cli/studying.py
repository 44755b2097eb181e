"""``inlier study``: a whole grid of data sets, backbones and detectors, its tables and figures."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier.cli.options import (
    DeviceOption,
    JsonOption,
    OutOption,
    ProcessesOption,
    QuietOption,
    RayOption,
    TrackOption,
    WorkersOption,
    check_tracker,
    choose_device,
    parse_size,
    print_json,
    progress_bars,
    say_notes,
    show,
    tracked,
    workers_on,
)
from inlier.cli.tuning import CacheBudgetOption
from inlier.outputs import number_of


def study(
    file: Annotated[Path, typer.Argument(help="What is to be done, as in examples/public.toml.", metavar="STUDY.toml")],
    out: OutOption,
    processes: ProcessesOption = None,
    ray: RayOption = None,
    cache_budget: CacheBudgetOption = "20GiB",
    track: TrackOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a grid of backbones, detectors and data sets, and show what it says; goes on where it stopped."""
    from inlier.experiments.study import PAGE, check_target, run_study
    from inlier.experiments.study_plan import Study

    on = choose_device(device)
    plan = Study.read(file, device=on)
    check_target(out)
    check_tracker(track)
    command = shlex.join(["inlier", *sys.argv[1:]])
    with progress_bars(quiet=quiet) as progress:
        report = run_study(
            plan,
            out,
            on=workers_on(processes, ray, device=on),
            cache_budget=parse_size(cache_budget),
            device=on,
            workers=workers,
            command=command,
            progress=progress,
        )
    notes = [*report["notes"], *tracked(out, track)]
    if as_json:
        cells = report["cells"]
        print_json({"directory": str(out), "cells": cells, "means": report["means"], "notes": notes})
    else:
        show(f"{_summary(report)}\nReport: {out / PAGE}", quiet=quiet)
    say_notes(notes, quiet=quiet)


def _summary(report: dict[str, Any]) -> str:
    lines = [f"{number_of(len(report['cells']), 'cell')} of {report['name']}"]
    for task in dict.fromkeys(of["task"] for of in report["means"]):
        best = max((of for of in report["means"] if of["task"] == task), key=lambda of: of["test"]["mean"])
        ends = f"{best['test']['low']:.3f} to {best['test']['high']:.3f}"
        where = f"{best['detector']} over {best['backbone']}"
        lines.append(f"  {task}: best mean AUROC on test {best['test']['mean']:.3f} ({ends}), {where}")
    return "\n".join(lines)
