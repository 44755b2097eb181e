"""``inlier compare``: whether the difference between models is real."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier.cli.detecting import SplitOption
from inlier.cli.options import (
    DeviceOption,
    JsonOption,
    NormalOption,
    QuietOption,
    SeedOption,
    WorkersOption,
    choose_device,
    normal_labels,
    print_json,
    progress_bars,
    say_notes,
    say_unreadable,
    show,
)
from inlier.errors import ConfigError


def compare(
    models: Annotated[
        list[Path], typer.Argument(help="Two or more folders that `inlier fit` wrote.", metavar="MODEL MODEL...")
    ],
    data: Annotated[Path, typer.Option(help="Labelled photos: data set folder or manifest.", metavar="DATA")],
    out: Annotated[Path | None, typer.Option(help="Folder for figures, numbers and scores.", metavar="DIR")] = None,
    split: SplitOption = "test",
    normal: NormalOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell whether one model is better than another, with paired tests on the same photos."""
    from inlier.comparison import check_target, model_names, write_to_folder
    from inlier.comparison import compare as compare_models
    from inlier.data.manifest import Manifest
    from inlier.model import Model

    if len(models) < 2:
        raise ConfigError(f"compare needs at least two models, got {len(models)}.")
    if split not in ("train", "dev", "test"):
        raise ConfigError(f"--split must be train, dev or test, got {split}.")
    if out is not None:
        check_target(out)
    on = choose_device(device)
    loaded = {name: Model.load(path, device=on) for name, path in zip(model_names(models), models, strict=True)}
    manifest = Manifest.read(data, normal=normal_labels(normal))
    with progress_bars(quiet=quiet) as progress:
        comparison = compare_models(
            loaded,
            manifest,
            split=split,  # type: ignore[arg-type]  # checked above
            seed=seed or 0,
            workers=workers,
            command=shlex.join(["inlier", *sys.argv[1:]]),
            progress=progress,
        )
    if out is not None:
        write_to_folder(comparison, out)
    if as_json:
        print_json(comparison.metrics)
    else:
        figures = f"\nFigures: {out / 'comparison.html'}" if out is not None else ""
        show(_summary(comparison.metrics) + figures, quiet=quiet)
    say_notes(comparison.metrics["notes"], quiet=quiet)
    say_unreadable(comparison.unreadable, quiet=quiet)
    raise typer.Exit(1 if comparison.unreadable else 0)


def _summary(metrics: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"{metrics['num_normal']} normal and {metrics['num_anomalous']} anomalous photos of {metrics['split']}",
            *_aligned(_model_rows(metrics["models"])),
            "",
            *([metrics["verdict"]] if len(metrics["models"]) > 2 else []),
            *(pair["sentence"] for pair in metrics["pairs"]),
        ]
    )


def _model_rows(models: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A heading and a row for each model; pixels only where a model was measured on them."""
    rows = [["model", "detector", "backbone", "AUROC", "95 %", "AUPRO", "95 %"]]
    for model in models:
        numbers = [
            part
            for of in (model["image_auroc"], model["aupro_03"])
            for part in ([f"{of['value']:.3f}", f"{of['low']:.3f} to {of['high']:.3f}"] if of else ["", ""])
        ]
        rows.append([model["name"], model["detector"], model["backbone"], *numbers])
    has_pixels = any(model["aupro_03"] for model in models)
    return rows if has_pixels else [row[:5] for row in rows]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
