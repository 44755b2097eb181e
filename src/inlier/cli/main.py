"""The ``inlier`` command: joins the commands, and turns what users can mend into one sentence."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from inlier.cli import (
    comparing,
    demo,
    detecting,
    doctor,
    exporting,
    finetuning,
    fitting,
    ingesting,
    mapping,
    refitting,
    serving,
    studying,
    tracking,
    tuning,
)
from inlier.errors import InlierError

IMPOSSIBLE, INTERRUPTED = 2, 130

app = typer.Typer(
    name="inlier",
    help="Learns from photos of what is normal, and tells for each new photo whether it belongs and where it is odd.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.command("ingest")(ingesting.ingest)
app.command("doctor")(doctor.doctor)
app.command("finetune")(finetuning.finetune)
app.command("fit")(fitting.fit)
app.command("inspect")(detecting.inspect)
app.command("evaluate")(detecting.evaluate)
app.command("compare")(comparing.compare)
app.command("tune")(tuning.tune)
app.command("study")(studying.study)
app.command("track")(tracking.track)
app.command("map")(mapping.map_photos)
app.command("review")(refitting.review)
app.command("refit")(refitting.refit)
app.command("serve")(serving.serve)
app.command("keys")(serving.keys)
app.command("export")(exporting.export)
app.command("demo")(demo.demo)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        from inlier.model import package_versions

        typer.echo("\n".join(f"{name} {version}" for name, version in package_versions().items()))
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the versions that matter, and exit."
    ),
) -> None:
    """Learns from photos of what is normal, and tells for each new photo whether it belongs and where it is odd."""


def run() -> None:
    """Runs a command; exit status 0 done, 1 some photos unreadable, 2 not possible, 130 interrupted."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch reads it once; it then waits less for memory
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # odd metadata, of photos that are fine
    try:
        app(prog_name="inlier")
    except InlierError as error:
        typer.echo(f"inlier: {error}", err=True)
        sys.exit(IMPOSSIBLE)
    except SystemExit as end:  # Typer makes one of everything else, of Ctrl-C without a word
        if end.code == INTERRUPTED:
            typer.echo(
                "inlier: interrupted; given again, ingest, inspect, tune, study, a training in fit, and finetune with "
                "--resume go on where they stopped.",
                err=True,
            )
        raise
