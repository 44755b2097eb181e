"""``inlier tune``: a search for the settings of a detector, or of a backbone's training."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier.cli.fitting import BackboneOption, DataArgument, SizeOption, WeightsOption
from inlier.cli.options import (
    DETECTOR_NAMES,
    ConfigOption,
    DeviceOption,
    JsonOption,
    NormalOption,
    ProcessesOption,
    QuietOption,
    RayOption,
    SeedOption,
    SetOption,
    TrackOption,
    WorkersOption,
    among,
    check_tracker,
    choose_device,
    normal_labels,
    parse_size,
    print_json,
    progress_bars,
    read_sections,
    say_notes,
    say_unreadable,
    show,
    tracked,
    workers_on,
)
from inlier.errors import ConfigError

TargetOption = Annotated[
    str | None,
    typer.Option(
        "--detector",
        help="Whose settings are searched.",
        show_default="combined",
        autocompletion=among(*DETECTOR_NAMES),
    ),
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(help="Search the training of a backbone instead: supcon, simclr, masked or reverse-distillation."),
]
MetricOption = Annotated[
    str | None,
    typer.Option(
        help="auroc on labelled photos of dev; synthetic: on altered copies of normal photos; loss, of an objective.",
        show_default="auroc, or synthetic without labelled anomalies",
    ),
]
SecondOption = Annotated[
    str | None, typer.Option("--second", help="A second objective, to be small: latency or memory.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(help="SQLAlchemy URL of a database that workers share.", metavar="URL", show_default="SQLite in DIR"),
]
CacheBudgetOption = Annotated[str, typer.Option("--cache-budget", help="What features may take on disk.")]
BudgetOption = Annotated[
    str | None,
    typer.Option("--memory-budget", help="What the whole process may take while it searches.", show_default="2GiB"),
]


def tune(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder of the search, which goes on if it was begun.", metavar="DIR")],
    detector: TargetOption = None,
    objective: ObjectiveOption = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials in all, those of earlier runs and other workers too.")
    ] = 100,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Minutes after which no further trial is begun.", metavar="MINUTES")
    ] = None,
    metric: MetricOption = None,
    second: SecondOption = None,
    processes: ProcessesOption = None,
    ray: RayOption = None,
    storage: StorageOption = None,
    study: Annotated[
        str | None, typer.Option(help="Name of the search in that database.", show_default="from detector and photos")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder for features, which commands may share.", show_default="DIR/features")
    ] = None,
    cache_budget: CacheBudgetOption = "20GiB",
    memory_budget: BudgetOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    size: SizeOption = None,
    track: TrackOption = None,
    normal: NormalOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Search for the settings that find most on dev, fit the winner, and judge it once on test."""
    from inlier.data.manifest import Manifest
    from inlier.experiments.search import Request, check_target
    from inlier.experiments.search import tune as search

    if detector is not None and objective is not None:
        raise ConfigError("--detector searches phase two and --objective phase one; give one of them.")
    if second not in (None, "latency", "memory"):
        raise ConfigError(f"--second must be latency or memory, got {second}.")
    options: dict[str, dict[str, Any]] = {
        "fit": {"detector": detector, "seed": seed, "memory_budget": memory_budget},
        "finetune": {"objective": objective, "seed": seed if objective else None},
        "backbone": {"name": backbone, "weights": weights and str(weights)},
        "input": {"size": size},
    }
    check_target(out)
    check_tracker(track)
    chosen = choose_device(device)
    request = Request(
        config=read_sections(config, overrides, options),
        data=Manifest.read(data, normal=normal_labels(normal)),
        out=out,
        metric=metric,
        second=second,  # type: ignore[arg-type]
        num_trials=trials,
        timeout=None if timeout is None else 60 * timeout,
        storage=storage,
        study=study,
        cache=cache,
        cache_budget=parse_size(cache_budget),
        on=workers_on(processes, ray, device=chosen),
        device=chosen,
        workers=workers,
        command=shlex.join(["inlier", *sys.argv[1:]]),
    )
    with progress_bars(quiet=quiet) as progress:
        report, unreadable = search(request, progress=progress)
    notes = [*report["notes"], *tracked(out, track)]
    if as_json:
        print_json({"directory": str(out), **report, "notes": notes})
    else:
        show(_summary(report, out), quiet=quiet)
    say_notes(notes, quiet=quiet)
    say_unreadable(unreadable, quiet=quiet)
    raise typer.Exit(1 if unreadable else 0)


def _summary(report: dict[str, Any], out: Path) -> str:
    counts, best, baseline = report["counts"], report["best"], report["baseline"]["value"]
    pruned = f", {counts['pruned']} ended early" if counts["pruned"] else ""
    lines = [f"{counts['complete'] + counts['pruned']} trials of {report['name']}{pruned}, {counts['failed']} failed"]
    if best is not None:
        beside = "" if baseline is None else f", the settings that it began from {baseline:.3f}"
        lines.append(f"  best {report['metric']} on dev {best['value']:.3f} (trial {best['number']}){beside}")
    if (test := report["test"]) and (of := test["image_auroc"]):
        lines.append(f"  its AUROC on test {of['value']:.3f}, 95 %: {of['low']:.3f} to {of['high']:.3f}")
    if gain := report["gain"]:
        points = " to ".join(f"{100 * gain[end]:+.1f}" for end in ("low", "high"))
        lines.append(f"  gain on test {100 * gain['value']:+.1f} points, 95 %: {points}")
    return "\n".join([*lines, f"Report: {out / 'tuning.html'}"])
