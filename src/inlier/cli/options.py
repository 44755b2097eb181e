"""Options that several commands share, and what they mean."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.config import Config, merge, read_config
from inlier.errors import ConfigError
from inlier.outputs import as_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.progress import Progress as Bars

    from inlier.data.manifest import Photo
    from inlier.scale import Workers
    from inlier.workflow import Progress

DETECTOR_NAMES = (
    "combined",
    "patchcore",
    "photo-neighbors",
    "subspace",
    "photo-subspace",
    "baseline",
    "reverse-distillation",
)
"""Written out, because a shell that completes a word does not wait until PyTorch is imported."""


def among(*values: str) -> Callable[[str], list[str]]:
    """Completes, in a shell, what is one of these values."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


OutOption = Annotated[Path, typer.Option("--out", help="Folder for the results.", metavar="DIR")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file whose sections name a class and its keywords.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be given several times.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.", show_default="0")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto, cpu or cuda.", autocompletion=among("auto", "cpu", "cuda"))
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers", min=0, help="Threads that decode photos; on a CPU, unless it is 0, those that compute do."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a machine-readable result on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
NormalOption = Annotated[
    list[str] | None,
    typer.Option("--normal", help="Labels of normal photos, separated by commas.", show_default="good,normal,ok"),
]

TrackOption = Annotated[
    str | None,
    typer.Option(
        "--track", help="Send the results to MLflow too: a file such as mlflow.db, or a server.", metavar="URI"
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        help="Work on a Ray cluster: auto for the one at hand (else this machine), or its address.",
        metavar="auto|ADDRESS",
    ),
]
ProcessesOption = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="Processes that share the work.", show_default="1; with --ray, every CPU"),
]

PATIENCE_SECONDS = 2.0
"""A progress bar appears for what takes longer."""


def read_sections(
    config: Path | None, overrides: Sequence[str] | None, options: Mapping[str, Mapping[str, Any]]
) -> Config:
    """Sections of the file, changed by ``--set``, changed by the command's own options where given."""
    sections = read_config(config, overrides or ())
    for section, keywords in options.items():
        sections = merge(sections, section, **keywords)
    return sections


def normal_labels(given: Sequence[str] | None) -> tuple[str, ...]:
    """Labels from ``--normal``, which may be repeated or hold commas."""
    from inlier.data.manifest import NORMAL_LABELS

    labels = tuple(label.strip() for text in given or () for label in text.split(",") if label.strip())
    return labels or NORMAL_LABELS


def choose_device(asked: str) -> str:
    """The device to compute on, cpu or cuda; auto takes what is there."""
    import torch

    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu or cuda, got {asked}.")
    if asked == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda was asked for, but this machine has no CUDA device; take --device cpu.")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def workers_on(processes: int | None, ray: str | None, *, device: str = "cpu") -> Workers:
    """Where to work, from ``--processes`` and ``--ray``; of a cluster every CPU, or GPU, unless fewer are asked for."""
    from inlier.scale import Workers, check_installed

    if ray is None:
        return Workers(processes or 1)
    check_installed()
    return Workers(processes or 0, ray, num_gpus=int(device == "cuda"))


def parse_size(text: str) -> int:
    """Bytes of a size such as 20GiB."""
    from inlier.build import parse_bytes

    return parse_bytes(text, name="cache_budget")


def check_tracker(uri: str | None) -> None:
    """Refuses, before the work, results that are to be tracked where nothing can track them."""
    if uri is not None:
        from inlier.experiments.tracking import check_installed

        check_installed()


def tracked(folder: Path, uri: str | None) -> list[str]:
    """Sends a finished folder to a tracker, if one is named; what the user must know if it did not arrive."""
    if uri is None:
        return []
    from inlier.experiments.tracking import track_or_note

    note = track_or_note(folder, uri)
    return [note] if note else []


def show(result: str, *, quiet: bool) -> None:
    """The command's result for a person, on stdout."""
    if not quiet:
        typer.echo(as_text(result))


def say(text: str, *, quiet: bool) -> None:
    """A message beside the result, on stderr."""
    if not quiet:
        typer.echo(as_text(text), err=True)


def say_notes(notes: Sequence[str], *, quiet: bool) -> None:
    """What the user must not miss."""
    for note in notes:
        say(f"Mind: {note}", quiet=quiet)


def say_unreadable(photos: Sequence[tuple[Photo, str]], *, quiet: bool) -> None:
    """Names the first photos that could not be read, and how many more there are."""
    for photo, reason in photos[:5]:
        say(f"  unreadable: {photo.path}: {reason}", quiet=quiet)
    if len(photos) > 5:
        say(f"  ... and {len(photos) - 5} more", quiet=quiet)


def print_json(result: Mapping[str, Any]) -> None:
    """The command's result for a program: one JSON object on stdout, in ASCII whatever the terminal's encoding."""
    typer.echo(json.dumps(result))


@contextmanager
def progress_bars(*, quiet: bool, aside: Callable[[], str] = str) -> Iterator[Progress]:
    """Bars with rate and time left on stderr, for what takes over two seconds; none if stderr is no terminal.

    Args:
        quiet: No bars at all.
        aside: What else stands below them, such as how a training goes.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda task, total: lambda steps: None
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    bars = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())

    def table() -> RenderableType:
        """Drawn by a thread of its own, so that a bar is seen although its first step takes long."""
        going_on = (task for task in bars.tasks if not task.finished and (task.total or task is bars.tasks[-1]))
        shown = [task for task in going_on if (task.elapsed or 0) > PATIENCE_SECONDS]
        return Group(bars.make_tasks_table(shown), *([aside()] if shown and aside() else []))

    with Live(get_renderable=table, console=Console(stderr=True), transient=True, refresh_per_second=10):
        yield lambda task, total: _bar(bars, task, total)


def _bar(bars: Bars, description: str, total: int) -> Callable[[int], None]:
    task = bars.add_task(description, total=total or None, rate="")  # None: unknown, and over when the next one begins
    began = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        seconds = time.monotonic() - began
        bars.update(task, completed=done, rate=f"{done / seconds:.1f}/s" if seconds else "")

    return advance
