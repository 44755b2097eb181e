"""``inlier fit``, ``inspect`` and ``evaluate``: phase two, from normal photos to verdicts and numbers."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    NormalOption,
    QuietOption,
    SeedOption,
    SetOption,
    WorkersOption,
    choose_device,
    normal_labels,
    print_json,
    progress_bars,
    read_sections,
    say,
    say_unreadable,
)
from inlier.errors import ConfigError

DataArgument = Annotated[Path, typer.Argument(help="Folder of photos, data set folder, or manifest.", metavar="DATA")]
ModelArgument = Annotated[Path, typer.Argument(help="Folder that `inlier fit` wrote.", metavar="MODEL")]
FalseAlarmOption = Annotated[
    float | None, typer.Option(help="Share of normal photos that may be rejected.  [default: 0.05]")
]
UncertainOption = Annotated[
    float | None, typer.Option(help="Share of normal photos that may be rejected or uncertain.  [default: 0.2]")
]


def fit(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder of the model.", metavar="MODEL")],
    detector: Annotated[str | None, typer.Option(help="combined, patchcore or photo-neighbors.")] = None,
    backbone: Annotated[str | None, typer.Option(help="A timm name.  [default: efficientnet_lite0]")] = None,
    layers: Annotated[
        str | None, typer.Option(help="Stages of the backbone, such as 2,3: for every detector involved.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="File with the backbone's weights, .safetensors or .pth.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32 or bfloat16.  [default: the faster here]")] = None,
    size: Annotated[
        int | None, typer.Option(help="Photos are resized to this square, in pixels.  [default: 224]")
    ] = None,
    memory_budget: Annotated[str | None, typer.Option(help="Such as 2GiB, whatever the number of photos.")] = None,
    false_alarm_rate: FalseAlarmOption = None,
    uncertain_rate: UncertainOption = None,
    normal: NormalOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Learn what is normal from photos, and calibrate on others."""
    from inlier.data.manifest import Manifest
    from inlier.model import check_target
    from inlier.workflow import fit as fit_model

    sections = read_sections(
        config,
        overrides,
        {
            "fit": {"detector": detector, "seed": seed, "memory_budget": memory_budget},
            "backbone": {"name": backbone, "weights": weights and str(weights), "precision": precision},
            "input": {"size": size},
            "decide": {"false_alarm_rate": false_alarm_rate, "uncertain_rate": uncertain_rate},
        },
    )
    check_target(out)
    with progress_bars(quiet=quiet) as progress:
        manifest = Manifest.read(data, normal=normal_labels(normal))
        model, unreadable = fit_model(
            sections, manifest, layers=_layers(layers), device=choose_device(device), workers=workers, progress=progress
        )
    model.save(out)
    facts = model.facts
    say(
        f"Learned from {facts['num_fitted']} normal photos, calibrated on {facts['num_calibration']} "
        f"({facts['calibration']}): {out}",
        quiet=quiet or as_json,
    )
    for note in model.notes:
        say(f"Mind: {note}", quiet=quiet)
    say_unreadable([(str(photo.path), reason) for photo, reason in unreadable], quiet=quiet)
    if as_json:
        print_json({"model": str(out), "identity": model.identity, **facts, "notes": model.notes})
    raise typer.Exit(1 if unreadable else 0)


def inspect(
    model: ModelArgument,
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of them.", metavar="PHOTOS...")],
    out: Annotated[Path, typer.Option(help="Folder for verdicts, heatmaps and report.", metavar="DIR")],
    heatmaps: Annotated[
        str, typer.Option(help="Of which photos heatmaps are written: flagged, all or none.")
    ] = "flagged",
    false_alarm_rate: FalseAlarmOption = None,
    uncertain_rate: UncertainOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sort photos into accept, uncertain, reject and unreadable, with heatmaps and a report."""
    from inlier.data.layouts import find_photos
    from inlier.data.manifest import Photo
    from inlier.inspection import inspect_to_folder
    from inlier.model import Model

    loaded = _with_rates(Model.load(model, device=choose_device(device)), false_alarm_rate, uncertain_rate)
    found = [Photo(path, "test") for path in find_photos(photos)]
    with progress_bars(quiet=quiet) as progress:
        result = inspect_to_folder(loaded, found, out, heatmaps=heatmaps, workers=workers, progress=progress)
    counts = result.counts
    if as_json:
        print_json({"directory": str(out), "counts": counts, "num_scored": result.num_scored, "notes": result.notes})
    else:
        shown = ", ".join(f"{counts.get(name, 0)} {name}" for name in ("reject", "uncertain", "accept", "unreadable"))
        say(f"{len(found)} photos: {shown}\nReport: {out / 'report.html'}", quiet=quiet)
    for note in result.notes:
        say(f"Mind: {note}", quiet=quiet)
    raise typer.Exit(1 if counts.get("unreadable") else 0)


def evaluate(
    model: ModelArgument,
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder for metrics, figures and scores.", metavar="DIR")],
    split: Annotated[str, typer.Option(help="test, dev or train.")] = "test",
    false_alarm_rate: FalseAlarmOption = None,
    uncertain_rate: UncertainOption = None,
    normal: NormalOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a model on labelled photos, with intervals and figures."""
    from inlier.data.manifest import Manifest
    from inlier.evaluation import evaluate as evaluate_model
    from inlier.evaluation import write_to_folder
    from inlier.model import Model

    if split not in ("train", "dev", "test"):
        raise ConfigError(f"--split must be train, dev or test, got {split}.")
    loaded = _with_rates(Model.load(model, device=choose_device(device)), false_alarm_rate, uncertain_rate)
    with progress_bars(quiet=quiet) as progress:
        evaluation = evaluate_model(
            loaded,
            Manifest.read(data, normal=normal_labels(normal)),
            split=split,  # type: ignore[arg-type]  # checked above
            seed=seed or 0,
            workers=workers,
            command=shlex.join(["inlier", *sys.argv[1:]]),
            progress=progress,
        )
    write_to_folder(evaluation, loaded, out)
    if as_json:
        print_json(evaluation.metrics)
    else:
        say(_summary(evaluation.metrics) + f"\nFigures: {out / 'evaluation.html'}", quiet=quiet)
    say_unreadable([(str(photo.path), reason) for photo, reason in evaluation.unreadable], quiet=quiet)
    raise typer.Exit(1 if evaluation.unreadable else 0)


def _layers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--layers must be whole numbers such as 2,3, got {text!r}.") from error


def _with_rates(model: Any, false_alarm_rate: float | None, uncertain_rate: float | None) -> Any:
    """The model with other rates, where they are given; calibration scores serve every rate."""
    given = {"false_alarm_rate": false_alarm_rate, "uncertain_rate": uncertain_rate}
    decide = model.config["decide"] | {name: rate for name, rate in given.items() if rate is not None}
    return replace(model, config=model.config | {"decide": decide})


def _summary(metrics: dict[str, Any]) -> str:
    lines = [f"{metrics['num_normal']} normal and {metrics['num_anomalous']} anomalous photos of {metrics['split']}"]
    for name in ("image_auroc", "image_ap", "tpr_at_fpr_05", "pixel_auroc", "aupro_03"):
        if of := metrics[name]:
            lines.append(f"  {name:<14} {of['value']:.3f}   95 %: {of['low']:.3f} to {of['high']:.3f}")
    if trivial := metrics["trivial"]:
        lines.append(f"  {trivial['statistic']} alone reaches an AUROC of {trivial['auroc']:.3f}")
    return "\n".join(lines)
