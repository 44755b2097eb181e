"""``inlier demo``: everything on generated photos, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlier.cli.options import JsonOption, QuietOption, WorkersOption, print_json, progress_bars, say


def demo(
    out: Annotated[Path, typer.Option(help="Folder for photos, model, inspection and evaluation.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the photos and the model.")] = 0,
    scale: Annotated[float, typer.Option(min=0.05, help="Of the number of photos.")] = 1.0,
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw photos, learn from them, inspect a camera roll, and show what came of it."""
    from inlier.demonstration import VERDICTS, demonstrate

    with progress_bars(quiet=quiet) as progress:
        say("Drawing photos, learning from them, inspecting a camera roll ...", quiet=quiet)
        shown = demonstrate(out, seed=seed, scale=scale, workers=workers, progress=progress)
    if as_json:
        print_json({"directory": str(out), "metrics": shown.metrics, "counts": shown.counts})
        return
    typer.echo(f"\n{'in the photo':<14}" + "".join(f"{verdict:>12}" for verdict in VERDICTS))
    for kind, of in shown.counts.items():
        typer.echo(f"{kind:<14}" + "".join(f"{of.get(verdict, 0):>12}" for verdict in VERDICTS))
    auroc = shown.metrics["image_auroc"]
    typer.echo(
        f"\nImage AUROC on photos of other visits: {auroc['value']:.3f}"
        f" (95 %: {auroc['low']:.3f} to {auroc['high']:.3f})"
        f"\nLook at  {out / 'inspection' / 'report.html'}\nand at   {out / 'evaluation' / 'evaluation.html'}"
    )
