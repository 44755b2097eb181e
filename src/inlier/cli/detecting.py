"""``inlier inspect`` and ``evaluate``: what a model says of photos, and how often it is right."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli.fitting import DataArgument, FalseAlarmOption, ModelArgument, UncertainOption
from inlier.cli.options import (
    DeviceOption,
    JsonOption,
    NormalOption,
    OutOption,
    ProcessesOption,
    QuietOption,
    RayOption,
    SeedOption,
    TrackOption,
    WorkersOption,
    among,
    check_tracker,
    choose_device,
    normal_labels,
    print_json,
    progress_bars,
    say_notes,
    say_unreadable,
    show,
    tracked,
    workers_on,
)
from inlier.errors import ConfigError

if TYPE_CHECKING:
    from inlier.parts import Judge

JudgeArgument = Annotated[
    Path, typer.Argument(help="Folder that `inlier fit` wrote, or file that `inlier export` wrote.", metavar="MODEL")
]
PhotosArgument = Annotated[
    list[Path], typer.Argument(help="Photos, folders of them, or tables with a column path.", metavar="PHOTOS...")
]
HeatmapsOption = Annotated[
    str,
    typer.Option(
        help="Of which photos heatmaps are written: flagged, all or none.",
        autocompletion=among("flagged", "all", "none"),
    ),
]
ReadTextOption = Annotated[
    bool,
    typer.Option("--read-text", help="Add what is written in photos to the tables: text, digits, boxes (extra: ocr)."),
]
IgnoreTextOption = Annotated[
    bool, typer.Option("--ignore-text", help="Read it, and leave it out of score and heatmap (extra: ocr).")
]
SplitOption = Annotated[
    str | None,
    typer.Option(help="test, dev or train.", show_default="test", autocompletion=among("test", "dev", "train")),
]
FoldsOption = Annotated[
    int | None,
    typer.Option(
        help="Fit the model's configuration on K - 1 of K folds of all photos, and judge the rest.", metavar="K"
    ),
]


def inspect(
    model: JudgeArgument,
    photos: PhotosArgument,
    out: OutOption,
    heatmaps: HeatmapsOption = "flagged",
    read_text: ReadTextOption = False,
    ignore_text: IgnoreTextOption = False,
    false_alarm_rate: FalseAlarmOption = None,
    uncertain_rate: UncertainOption = None,
    ray: RayOption = None,
    processes: ProcessesOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sort photos into accept, uncertain, reject and unreadable, with heatmaps and a report."""
    from inlier.exporting.portable import Portable, is_export
    from inlier.inspection import inspect_to_folder, photos_named
    from inlier.scale import HERE

    loaded: Judge
    if is_export(model):  # on a machine that may have no PyTorch
        _check_options(device, ray, processes, false_alarm_rate, uncertain_rate)
        loaded, on = Portable.load(model), HERE
    else:
        from inlier.model import Model

        chosen = choose_device(device)
        on = workers_on(processes, ray, device=chosen)
        loaded = Model.load(model, device=chosen).with_rates(
            false_alarm_rate=false_alarm_rate, uncertain_rate=uncertain_rate
        )
    named = photos_named(photos)
    found = [photo for photo in named if not (isinstance(photo.path, Path) and _is_below(photo.path, out))]
    text = "ignore" if ignore_text else "read" if read_text else "none"
    with progress_bars(quiet=quiet) as progress:
        result = inspect_to_folder(
            loaded, found, out, heatmaps=heatmaps, text=text, workers=workers, on=on, progress=progress
        )
    counts = result.counts
    if as_json:
        print_json({"directory": str(out), "counts": counts, "num_scored": result.num_scored, "notes": result.notes})
    else:
        shown = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("reject", "uncertain", "accept", "unreadable"))
        show(f"{len(found)} photos: {shown}\nReport: {out / 'report.html'}", quiet=quiet)
    say_notes(result.notes, quiet=quiet)
    raise typer.Exit(1 if counts.get("unreadable") else 0)


def evaluate(
    model: ModelArgument,
    data: DataArgument,
    out: OutOption,
    split: SplitOption = None,
    folds: FoldsOption = None,
    false_alarm_rate: FalseAlarmOption = None,
    uncertain_rate: UncertainOption = None,
    track: TrackOption = None,
    normal: NormalOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model on labelled photos, with intervals and figures; or its configuration, by cross-validation."""
    from inlier.cross_validation import cross_validate
    from inlier.data.manifest import Manifest
    from inlier.evaluation import check_target, write_to_folder
    from inlier.evaluation import evaluate as evaluate_model
    from inlier.model import Model

    if split not in (None, "train", "dev", "test"):
        raise ConfigError(f"--split must be train, dev or test, got {split}.")
    if split and folds is not None:
        raise ConfigError("--folds takes the photos of all splits; leave --split out.")
    check_target(out)
    check_tracker(track)
    loaded = Model.load(model, device=choose_device(device)).with_rates(
        false_alarm_rate=false_alarm_rate, uncertain_rate=uncertain_rate
    )
    manifest = Manifest.read(data, normal=normal_labels(normal))
    command = shlex.join(["inlier", *sys.argv[1:]])
    with progress_bars(quiet=quiet) as progress:
        options: dict[str, Any] = {"seed": seed or 0, "workers": workers, "command": command, "progress": progress}
        if folds is not None:
            evaluation = cross_validate(loaded, manifest, num_folds=folds, **options)
        else:
            evaluation = evaluate_model(loaded, manifest, split=split or "test", **options)  # type: ignore[arg-type]
    write_to_folder(evaluation, loaded, out)
    if as_json:
        print_json(evaluation.metrics)
    else:
        show(_summary(evaluation.metrics) + f"\nFigures: {out / 'evaluation.html'}", quiet=quiet)
    say_notes([*evaluation.metrics["notes"], *tracked(out, track)], quiet=quiet)
    say_unreadable(evaluation.unreadable, quiet=quiet)
    raise typer.Exit(1 if evaluation.unreadable else 0)


def _check_options(
    device: str, ray: str | None, processes: int | None, false_alarm_rate: float | None, uncertain_rate: float | None
) -> None:
    """Refuses what an exported model does not do."""
    if false_alarm_rate is not None or uncertain_rate is not None:
        raise ConfigError(
            "An exported model decides at the rates that it was exported with; give --false-alarm-rate and "
            "--uncertain-rate to inlier export, or name the folder of the model."
        )
    if ray is not None or processes is not None or device not in ("auto", "cpu"):
        raise ConfigError(
            "An exported model runs in this process and on its CPU; leave --ray, --processes and --device out, or name "
            "the folder of the model."
        )


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a photo lies in the folder for results, as a heatmap of an earlier run does."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _summary(metrics: dict[str, Any]) -> str:
    where = f"in {len(metrics['folds'])} folds" if "folds" in metrics else f"of {metrics['split']}"
    lines = [f"{metrics['num_normal']} normal and {metrics['num_anomalous']} anomalous photos {where}"]
    for name in ("image_auroc", "image_ap", "tpr_at_fpr_05", "pixel_auroc", "aupro_03"):
        if of := metrics[name]:
            lines.append(f"  {name:<14} {of['value']:.3f}   95 %: {of['low']:.3f} to {of['high']:.3f}")
            if over := metrics.get("over_folds", {}).get(name):
                spread = "" if over["spread"] is None else f" +- {over['spread']:.3f}"
                lines[-1] += f"   folds: {over['mean']:.3f}{spread}"
    if of := metrics.get("component_accuracy"):
        shown = f"{of['value']:.3f} of the normal photos, 95 %: {of['low']:.3f} to {of['high']:.3f}"
        lines.append(f"  component named rightly: {shown}")
    if trivial := metrics["trivial"]:
        lines.append(f"  {trivial['statistic']} alone reaches an AUROC of {trivial['auroc']:.3f}")
    return "\n".join(lines)
