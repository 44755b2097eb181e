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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from inlier.workflow import Progress

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file whose sections name a class and its keywords.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be given several times.")]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.  [default: 0]")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
WorkersOption = Annotated[int, typer.Option("--workers", min=0, help="Threads that decode photos.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a machine-readable result on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
NormalOption = Annotated[
    list[str] | None,
    typer.Option("--normal", help="Labels of normal photos, separated by commas.  [default: good,normal,ok]"),
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


def say(text: str, *, quiet: bool) -> None:
    """A message for the user, on stderr."""
    if not quiet:
        typer.echo(text, err=True)


def say_unreadable(reasons: Sequence[tuple[str, str]], *, quiet: bool) -> None:
    """Names the first photos that could not be read, and how many more there are."""
    for path, reason in reasons[:5]:
        say(f"  unreadable: {path}: {reason}", quiet=quiet)
    if len(reasons) > 5:
        say(f"  ... and {len(reasons) - 5} more", quiet=quiet)


def print_json(result: Mapping[str, Any]) -> None:
    """The command's result on stdout."""
    typer.echo(json.dumps(result, ensure_ascii=False, default=str))


@contextmanager
def progress_bars(*, quiet: bool) -> Iterator[Progress]:
    """Bars with rate and time left on stderr, for what takes over two seconds; none if stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda task, total: lambda steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield lambda task, total: _bar(bars, task, total)


def _bar(bars: Any, description: str, total: int) -> Callable[[int], None]:
    task = bars.add_task(description, total=total, visible=False, rate="")
    began = time.monotonic()
    done = 0

    def advance(steps: int) -> None:
        nonlocal done
        done += steps
        seconds = time.monotonic() - began
        rate = f"{done / seconds:.1f}/s" if seconds else ""
        bars.update(task, completed=done, visible=seconds > PATIENCE_SECONDS and done < total, rate=rate)

    return advance
