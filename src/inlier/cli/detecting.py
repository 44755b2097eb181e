"""``inlier fit``, ``inspect`` and ``evaluate``: phase two, from normal photos to verdicts and numbers."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    NormalOption,
    OutOption,
    ProcessesOption,
    QuietOption,
    RayOption,
    SeedOption,
    SetOption,
    TrackOption,
    WorkersOption,
    check_tracker,
    choose_device,
    normal_labels,
    print_json,
    progress_bars,
    read_sections,
    say,
    say_notes,
    say_unreadable,
    show,
    tracked,
    workers_on,
)
from inlier.cli.updating import RemoveOption, UpdateOption, check_options, update_model
from inlier.errors import ConfigError

DataArgument = Annotated[Path, typer.Argument(help="Folder of photos, data set folder, or manifest.", metavar="DATA")]
ModelArgument = Annotated[Path, typer.Argument(help="Folder that `inlier fit` wrote.", metavar="MODEL")]
PhotosArgument = Annotated[
    list[Path], typer.Argument(help="Photos, folders of them, or tables with a column path.", metavar="PHOTOS...")
]
DetectorOption = Annotated[
    str | None,
    typer.Option(
        help="combined, patchcore, photo-neighbors, subspace, photo-subspace, reverse-distillation or baseline.",
        show_default="combined",
    ),
]
BackboneOption = Annotated[
    str | None,
    typer.Option(help="A timm name, or a folder that `inlier finetune` wrote.", show_default="efficientnet_lite0"),
]
LayersOption = Annotated[
    str | None, typer.Option(help="Stages of the backbone, such as 2,3: for every detector involved.")
]
WeightsOption = Annotated[
    Path | None, typer.Option(help="File with the backbone's weights, .safetensors or .pth.", metavar="FILE")
]
PrecisionOption = Annotated[str | None, typer.Option(help="float32 or bfloat16.", show_default="float32 on a CPU")]
SizeOption = Annotated[
    int | None, typer.Option(help="Photos are resized to this square, in pixels.", show_default="224")
]
MemoryOption = Annotated[
    str | None, typer.Option(help="Such as 500MB, whatever the number of photos.", show_default="2GiB")
]
FalseAlarmOption = Annotated[
    float | None,
    typer.Option(help="Share of normal photos that may be rejected.", show_default="the model's; 0.05 in fit"),
]
UncertainOption = Annotated[
    float | None,
    typer.Option(
        help="Share of normal photos that may be rejected or uncertain.", show_default="the model's; 0.2 in fit"
    ),
]
BackgroundOption = Annotated[
    Path | None,
    typer.Option(
        help="Photos that nobody sorted, in any form of DATA: how photos differ, where few normal ones tell.",
        metavar="DATA",
    ),
]
AugmentOption = Annotated[
    int | None,
    typer.Option(
        help="Altered copies of each normal photo that are learned from too: turned, nearer, in other light.",
        show_default="7 up to 20 photos, else 0",
    ),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        help="synthetic: instead of the detector asked for another one (or one of the [select] candidates), if it "
        "finds altered copies of normal photos clearly better. Slow, and measured to be no better on real damage.",
        metavar="BY",
    ),
]
HeatmapsOption = Annotated[str, typer.Option(help="Of which photos heatmaps are written: flagged, all or none.")]
SplitOption = Annotated[str | None, typer.Option(help="test, dev or train.", show_default="test")]
FoldsOption = Annotated[
    int | None,
    typer.Option(
        help="Fit the model's configuration on K - 1 of K folds of all photos, and judge the rest.", metavar="K"
    ),
]


def fit(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder for the model.", metavar="MODEL")],
    detector: DetectorOption = None,
    backbone: BackboneOption = None,
    layers: LayersOption = None,
    weights: WeightsOption = None,
    precision: PrecisionOption = None,
    size: SizeOption = None,
    background: BackgroundOption = None,
    augment: AugmentOption = None,
    select: SelectOption = None,
    update: UpdateOption = None,
    remove: RemoveOption = None,
    memory_budget: MemoryOption = None,
    false_alarm_rate: FalseAlarmOption = None,
    uncertain_rate: UncertainOption = None,
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
    """Learn what is normal from photos, and calibrate on others; or add photos to a model, and remove some."""
    from inlier.data.manifest import Manifest
    from inlier.model import check_target
    from inlier.selection import select as select_config
    from inlier.workflow import fit as fit_model

    kept: dict[str, object] = {"--detector": detector, "--backbone": backbone, "--layers": layers, "--weights": weights}
    kept |= {"--precision": precision, "--size": size, "--background": background, "--augment": augment is not None}
    kept |= {"--select": select, "--memory-budget": memory_budget, "--config": config, "--set": overrides}
    check_options(update, remove, kept | {"--seed": seed is not None})
    if update is not None:
        update_model(
            data,
            out,
            update=update,
            remove=remove,
            rates={"false_alarm_rate": false_alarm_rate, "uncertain_rate": uncertain_rate},
            track=track,
            normal=normal,
            device=device,
            workers=workers,
            as_json=as_json,
            quiet=quiet,
        )
    _check_select(select, background)
    options: dict[str, dict[str, Any]] = {
        "fit": {"detector": detector, "seed": seed, "memory_budget": memory_budget, "augment": augment},
        "backbone": {"name": backbone, "weights": weights and str(weights), "precision": precision},
        "input": {"size": size},
        "decide": {"false_alarm_rate": false_alarm_rate, "uncertain_rate": uncertain_rate},
    }
    sections, stages, on = read_sections(config, overrides, options), parse_layers(layers), choose_device(device)
    check_target(out)
    check_tracker(track)
    manifest = Manifest.read(data, normal=normal_labels(normal))
    archive = Manifest.read(background) if background else None
    checkpoints = out.with_name(f".{out.name}.training")
    with progress_bars(quiet=quiet) as progress:
        selection = None
        if select:
            selection = select_config(sections, manifest, layers=stages, device=on, workers=workers, progress=progress)
        model, unreadable = fit_model(
            selection.config if selection else sections,
            manifest,
            background=archive,
            layers=stages,
            device=on,
            workers=workers,
            checkpoints=checkpoints,
            progress=progress,
        )
    if selection:
        model = selection.kept_in(model)
        say(selection.table(), quiet=quiet)
    model.save(out)
    shutil.rmtree(checkpoints, ignore_errors=True)
    facts, notes = model.facts, [*model.notes, *tracked(out, track)]
    if as_json:
        print_json({"model": str(out), "identity": model.identity, **facts, "notes": notes})
    else:
        photos = f"{facts['num_fitted']} normal photo{'s' * (facts['num_fitted'] != 1)}"
        learned = f"Learned from {photos}, calibrated on {facts['num_calibration']}"
        show(f"{learned} ({facts['calibration']}): {out}", quiet=quiet)
    say_notes(notes, quiet=quiet)
    say_unreadable(unreadable, quiet=quiet)
    raise typer.Exit(1 if unreadable else 0)


def inspect(
    model: ModelArgument,
    photos: PhotosArgument,
    out: OutOption,
    heatmaps: HeatmapsOption = "flagged",
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
    from inlier.inspection import inspect_to_folder, photos_named
    from inlier.model import Model

    chosen = choose_device(device)
    on = workers_on(processes, ray, device=chosen)
    loaded = Model.load(model, device=chosen).with_rates(
        false_alarm_rate=false_alarm_rate, uncertain_rate=uncertain_rate
    )
    named = photos_named(photos)
    found = [photo for photo in named if not (isinstance(photo.path, Path) and _is_below(photo.path, out))]
    with progress_bars(quiet=quiet) as progress:
        result = inspect_to_folder(loaded, found, out, heatmaps=heatmaps, workers=workers, on=on, progress=progress)
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


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """Stages from ``--layers``."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--layers must be whole numbers such as 2,3, got {text!r}.") from error


def _check_select(select: str | None, background: Path | None) -> None:
    if select not in (None, "synthetic"):
        raise ConfigError(f"--select must be synthetic, got {select}.")
    if select and background:
        raise ConfigError("--select compares configurations without a background; leave out --select or --background.")


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
