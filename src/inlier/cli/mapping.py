"""``inlier map``: how backbones see photos, as one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli.fitting import DataArgument, LayersOption, SizeOption, parse_layers
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
    say_notes,
    say_unreadable,
    show,
)
from inlier.errors import ConfigError

if TYPE_CHECKING:
    from inlier.mapping import EmbeddingMap


def map_photos(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="The page, an .html file.", metavar="FILE.html")],
    backbone: Annotated[
        list[str] | None,
        typer.Option(
            help="A timm name, or a folder that `inlier finetune` wrote; several give maps side by side.",
            show_default="efficientnet_lite0",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="Weights of each backbone that needs them, in the same order; - for one that does not.", metavar="FILE"
        ),
    ] = None,
    layers: LayersOption = None,
    size: SizeOption = None,
    model: Annotated[
        Path | None, typer.Option(help="Show its verdicts: a folder that `inlier fit` wrote.", metavar="MODEL")
    ] = None,
    color: Annotated[
        str | None,
        typer.Option(
            help="What the page opens with: label, verdict, anomalous or split.", show_default="what is known"
        ),
    ] = None,
    perplexity: Annotated[float, typer.Option(help="About how many neighbours each photo keeps close.")] = 30.0,
    max_points: Annotated[int, typer.Option(min=1, help="Of more photos, so many are chosen at random.")] = 20_000,
    normal: NormalOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw how backbones see photos: maps side by side on one page, and how well each keeps labels apart."""
    from inlier.data.manifest import Manifest
    from inlier.mapping import check_target, draw_map
    from inlier.model import Model

    options: dict[str, dict[str, Any]] = {"fit": {"seed": seed}, "input": {"size": size}}
    sections, stages, on = read_sections(config, overrides, options), parse_layers(layers), choose_device(device)
    chosen = pair_weights(backbone or [], weights or [])
    check_target(out)
    manifest = Manifest.read(data, normal=normal_labels(normal))
    with progress_bars(quiet=quiet) as progress:
        drawn = draw_map(
            sections,
            manifest,
            out,
            backbones=chosen,
            layers=stages,
            model=None if model is None else Model.load(model, device=on),
            color=color,
            perplexity=perplexity,
            max_points=max_points,
            title=data.resolve().name,
            device=on,
            workers=workers,
            progress=progress,
        )
    if as_json:
        print_json({"map": str(out), **drawn.metrics})
    else:
        show(f"{_summary(drawn)}\nMap: {out}", quiet=quiet)
    say_notes(drawn.notes, quiet=quiet)
    say_unreadable(drawn.unreadable, quiet=quiet)
    raise typer.Exit(1 if drawn.unreadable else 0)


def pair_weights(backbones: Sequence[str], weights: Sequence[str]) -> list[tuple[str, Path | None]]:
    """Each backbone with its file of weights; ``-``, or fewer files than backbones, mean none.

    Raises:
        ConfigError: There are more files than backbones.
    """
    names = list(backbones) or ["efficientnet_lite0"] * bool(weights)
    if len(weights) > len(names):
        raise ConfigError(
            f"--weights names {len(weights)} files for {len(names)} backbones; give one for each --backbone, in order."
        )
    files = [None if file == "-" else Path(file) for file in weights]
    return list(zip(names, [*files, *[None] * (len(names) - len(files))], strict=True))


def _summary(drawn: EmbeddingMap) -> str:
    """A row for each backbone: how well it keeps the labels apart."""
    metrics = drawn.metrics
    lines = [f"{metrics['num_photos']} photos"]
    if any(of["knn_accuracy"] for of in metrics["backbones"]):
        lines[0] += f", {metrics['backbones'][0]['num_judged']} judged by {metrics['num_neighbors']} nearest neighbours"
    for of in metrics["backbones"]:
        lines.append(f"{of['name']} (layers {', '.join(map(str, of['layers']))}, {of['size']} px)")
        if accuracy := of["knn_accuracy"]:
            guess = f"; always guessing the commonest: {of['commonest_label_share']:.3f}"
            lines.append(f"  neighbours agree  {_with_ends(accuracy)}{guess}")
            lines.append(f"  silhouette        {_with_ends(of['silhouette'])}")
        lines.append(f"  effective rank    {of['effective_rank']:.1f} of {of['num_dimensions']}")
    return "\n".join(lines)


def _with_ends(of: dict[str, float]) -> str:
    return f"{of['value']:.3f}   95 %: {of['low']:.3f} to {of['high']:.3f}"
