"""``inlier fit``: phase two, from normal photos to a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

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
from inlier.cli.sharding import ShardsOption, check_shards, fit_shards
from inlier.cli.updating import RemoveOption, UpdateOption, check_options, update_model
from inlier.errors import ConfigError

DataArgument = Annotated[Path, typer.Argument(help="Folder of photos, data set folder, or manifest.", metavar="DATA")]
ModelArgument = Annotated[Path, typer.Argument(help="Folder that `inlier fit` wrote.", metavar="MODEL")]
DetectorOption = Annotated[
    str | None,
    typer.Option(
        help="combined, patchcore, photo-neighbors, subspace, photo-subspace, reverse-distillation or baseline.",
        show_default="combined",
        autocompletion=among(*DETECTOR_NAMES),
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
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        help="float32 or bfloat16.",
        show_default="float32 on a CPU",
        autocompletion=among("float32", "bfloat16"),
    ),
]
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
RegionsOption = Annotated[
    str | None,
    typer.Option(
        help="mask: only what the masks in the manifest's column roi show is learned and scored; foreground: only what "
        "stands out from the background; grabcut: that, cut out along the photo's own edges, which takes longer. A "
        "photo without a region is uncertain at best.",
        metavar="none|mask|foreground|grabcut",
        show_default="none",
        autocompletion=among("none", "mask", "foreground", "grabcut"),
    ),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        help="synthetic: instead of the detector asked for another one (or one of the [select] candidates), if it "
        "finds altered copies of normal photos clearly better. Slow, and measured to be no better on real damage.",
        metavar="BY",
        autocompletion=among("synthetic"),
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
    regions: RegionsOption = None,
    select: SelectOption = None,
    update: UpdateOption = None,
    remove: RemoveOption = None,
    shards: ShardsOption = None,
    processes: ProcessesOption = None,
    ray: RayOption = None,
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
    kept |= {"--shards": shards, "--processes": processes, "--ray": ray, "--seed": seed is not None}
    kept |= {"--regions": regions}
    check_options(update, remove, kept)
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
        "regions": {"kind": regions},
        "decide": {"false_alarm_rate": false_alarm_rate, "uncertain_rate": uncertain_rate},
    }
    sections, stages, on = read_sections(config, overrides, options), parse_layers(layers), choose_device(device)
    places = workers_on(processes, ray, device=on)
    in_shards = check_shards(shards, places, {"--select": select, "--background": background})
    check_target(out)
    check_tracker(track)
    manifest = Manifest.read(data, normal=normal_labels(normal))
    archive = Manifest.read(background) if background else None
    checkpoints = out.with_name(f".{out.name}.training")
    with progress_bars(quiet=quiet) as progress:
        selection = None
        if select:
            selection = select_config(sections, manifest, layers=stages, device=on, workers=workers, progress=progress)
        shared: dict[str, Any] = {"layers": stages, "device": on, "workers": workers, "progress": progress}
        if in_shards:
            model, unreadable = fit_shards(sections, manifest, shards=shards, on=places, **shared)
        else:
            sections = selection.config if selection else sections
            more: dict[str, Any] = {"background": archive, "checkpoints": checkpoints}
            model, unreadable = fit_model(sections, manifest, **more, **shared)
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
