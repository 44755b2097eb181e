"""``inlier demo``: everything on generated photos, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier.cli.options import JsonOption, QuietOption, WorkersOption, print_json, progress_bars, say, say_notes, show

if TYPE_CHECKING:
    from inlier.demonstration import Demonstration


def demo(
    out: Annotated[Path, typer.Option(help="Folder for photos, model, inspection and evaluation.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of the photos and the model.")] = 0,
    scale: Annotated[float, typer.Option(min=0.05, help="Of the number of photos.")] = 1.0,
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw photos, learn from them, inspect a camera roll, and show what came of it."""
    from inlier.demonstration import demonstrate

    say("Drawing photos, learning from them, inspecting a camera roll ...", quiet=quiet)
    with progress_bars(quiet=quiet) as progress:
        shown = demonstrate(out, seed=seed, scale=scale, workers=workers, progress=progress)
    if as_json:
        print_json({"directory": str(out), "metrics": shown.metrics, "counts": shown.counts, "notes": shown.notes})
    else:
        show(_summary(shown), quiet=quiet)
    say_notes(shown.notes, quiet=quiet)


def _summary(shown: Demonstration) -> str:
    from inlier.demonstration import VERDICTS

    auroc = shown.metrics["image_auroc"]
    return "\n".join(
        [
            f"\n{'in the photo':<14}" + "".join(f"{verdict:>12}" for verdict in VERDICTS),
            *(
                f"{kind:<14}" + "".join(f"{of.get(verdict, 0):>12}" for verdict in VERDICTS)
                for kind, of in shown.counts.items()
            ),
            "",
            f"Image AUROC on photos of other visits: {auroc['value']:.3f} "
            f"(95 %: {auroc['low']:.3f} to {auroc['high']:.3f})",
            f"Look at  {shown.directory / 'inspection' / 'report.html'}",
            f"and at   {shown.directory / 'evaluation' / 'evaluation.html'}",
        ]
    )
