"""``inlier finetune``: phase one, a backbone that knows the domain, and whether that helps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli.fitting import BackboneOption, DataArgument, WeightsOption
from inlier.cli.options import (
    ConfigOption,
    DeviceOption,
    JsonOption,
    NormalOption,
    QuietOption,
    SeedOption,
    SetOption,
    TrackOption,
    WorkersOption,
    among,
    check_tracker,
    choose_device,
    normal_labels,
    print_json,
    progress_bars,
    read_sections,
    say_notes,
    say_unreadable,
    show,
    tracked,
)

if TYPE_CHECKING:
    from inlier.adapted import AdaptedBackbone

ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        help="supcon, simclr, masked or reverse-distillation, which train; or adaptor, computed in seconds.",
        show_default="supcon",
        autocompletion=among("supcon", "simclr", "masked", "reverse-distillation", "adaptor"),
    ),
]


def finetune(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder for the backbone.", metavar="BACKBONE")],
    objective: ObjectiveOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    size: Annotated[
        int | None, typer.Option(help="Of the views that it learns from, in pixels.", show_default="160")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Photos shown in training, which sets how long it takes.", show_default="3200")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Photos that are compared in each step.", show_default="16")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the coarsest layer, where the cycle begins.", show_default="3e-05")
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            help="train+dev, or train to keep the photos of dev, whose labels are never learned from, for the gate.",
            show_default="train+dev",
        ),
    ] = None,
    no_gate: Annotated[bool, typer.Option("--no-gate", help="Do not judge whether it helps a detector.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was interrupted.")] = False,
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
    """Adapt a backbone to your photos, labelled or not, and judge whether that helps."""
    from inlier.adaptation import adapt
    from inlier.adapted import check_target
    from inlier.data.manifest import Manifest

    is_first = os.environ.get("RANK", "0") == "0"  # of several processes, launched by torchrun, one speaks and writes
    quiet = quiet or not is_first
    options: dict[str, dict[str, Any]] = {
        "finetune": {
            "objective": objective,
            "num_samples": samples,
            "batch_size": batch_size,
            "size": size,
            "learning_rate": learning_rate,
            "archive": archive,
            "seed": seed,
        },
        "backbone": {"name": backbone, "weights": weights and str(weights)},
    }
    sections, on = read_sections(config, overrides, options), choose_device(device)
    check_target(out)
    check_tracker(track)
    manifest = Manifest.read(data, normal=normal_labels(normal))
    checkpoints = out.with_name(f".{out.name}.training")
    notes = _make_way(checkpoints, resume=resume) if is_first else []
    say_notes(notes, quiet=quiet)
    latest: dict[str, float] = {}
    with progress_bars(quiet=quiet, aside=lambda: _line(latest)) as progress:
        adapted, unreadable = adapt(
            sections,
            manifest,
            is_judged=not no_gate,
            device=on,
            workers=workers,
            checkpoints=checkpoints,
            report=latest.update,
            progress=progress,
        )
    if is_first:
        adapted.save(out)
        for folder in (checkpoints, _aside(checkpoints)):
            shutil.rmtree(folder, ignore_errors=True)
        notes = _notes(adapted, out, track)
        if as_json:
            print_json({"backbone": str(out), "identity": adapted.identity, **adapted.facts, "notes": notes})
        else:
            show(_summary(adapted, data, out), quiet=quiet)
        say_notes(notes, quiet=quiet)
        say_unreadable(unreadable, quiet=quiet)
    raise typer.Exit(1 if unreadable else 0)


def _make_way(checkpoints: Path, *, resume: bool) -> list[str]:
    """Puts aside what an interrupted training left, unless it is to go on; notes on which of the two it is."""
    from inlier.adaptation import CHECKPOINT

    has_begun = (checkpoints / CHECKPOINT).exists()
    if resume:
        return [] if has_begun else [f"{checkpoints} has no training to go on with; this one begins anew."]
    if not has_begun:
        return []
    aside = _aside(checkpoints)
    shutil.rmtree(aside, ignore_errors=True)
    checkpoints.rename(aside)
    return [
        f"An interrupted training for this backbone was there, and would have gone on with --resume; this one begins "
        f"anew, and that one is put aside in {aside}."
    ]


def _aside(checkpoints: Path) -> Path:
    return checkpoints.with_name(f"{checkpoints.name}-before")


def _line(row: Mapping[str, float]) -> str:
    """How the training goes, from the latest row of its history; "" before there is one."""
    if not row:
        return ""
    rate = max(value for name, value in row.items() if name.startswith("learning_rate."))
    held_out = f", {row['held_out_loss']:.3f} on photos held out" if "held_out_loss" in row else ""
    rank = f", effective rank {row['effective_rank']:.1f}" if "effective_rank" in row else ""
    return f"loss {row['loss']:.3f}{held_out}{rank}, learning rate {rate:.1e}"


def _notes(adapted: AdaptedBackbone, out: Path, uri: str | None) -> list[str]:
    """What the user must not miss; on the way the metrics go to the tracker, if one is named."""
    notes = []
    if adapted.facts["objective"] == "supcon" and not adapted.facts["num_labelled"]:
        notes.append("No photo is labelled with a component, so each was a class of its own, as in simclr.")
    return [*notes, *tracked(out, uri)]


def _summary(adapted: AdaptedBackbone, data: Path, out: Path) -> str:
    facts = adapted.facts
    photos = f"{facts['num_photos']} photo{'s' * (facts['num_photos'] != 1)}"
    trained = f" in {facts['num_steps']} steps" if facts["num_steps"] else ""
    folder = str(out) if os.sep in str(out) else f".{os.sep}{out}"  # a name alone could be one of timm's
    return "\n".join(
        [
            f"Adapted {adapted.backbone.name} to {photos} by {facts['objective']}{trained}: {out}",
            *([facts["gate"]["sentence"]] if facts["gate"] else []),
            f"Use it: inlier fit {data} --backbone {folder} --out MODEL",
        ]
    )
