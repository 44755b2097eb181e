"""``inlier track``: a finished result, copied to MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlier.cli.options import JsonOption, QuietOption, print_json, progress_bars, show


def track(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder that fit, finetune, evaluate, compare, inspect, tune or study wrote.", metavar="RUN"
        ),
    ],
    to: Annotated[
        str,
        typer.Option(help="Database such as mlflow.db, or address such as http://server:5000.", metavar="URI"),
    ],
    no_models: Annotated[bool, typer.Option("--no-models", help="Send numbers and pages only.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Copy a finished result to MLflow: numbers, curves, pages, the model; sent again, it is there once."""
    from inlier.experiments.tracking import store_uri, track, without_password

    with progress_bars(quiet=quiet) as progress:
        sent = track(run, to, with_models=not no_models, progress=progress)
    if as_json:
        print_json({"run": str(run), "run_id": sent, "uri": without_password(to)})
    else:
        show(f"Run {sent}: {run}\n{_look(without_password(store_uri(to)))}", quiet=quiet)


def _look(uri: str) -> str:
    """How to see it."""
    if uri.startswith("http"):
        return f"Look at it: {uri}"
    return f"Look at it: mlflow ui --backend-store-uri {uri} (needs all of MLflow: pip install mlflow)"
