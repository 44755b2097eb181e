"""``inlier ingest``: from a camera roll to a clean data set."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier.cli.options import (
    ConfigOption,
    JsonOption,
    NormalOption,
    QuietOption,
    RayOption,
    SeedOption,
    SetOption,
    print_json,
    progress_bars,
    read_sections,
    say,
    say_notes,
    show,
    workers_on,
)
from inlier.errors import ConfigError
from inlier.outputs import number_of

if TYPE_CHECKING:
    from inlier.data.intake.ingest import Ingestion

_PACKAGES = ("inlier", "numpy", "pillow", "pillow-heif", "scipy")


def ingest(
    sources: Annotated[list[Path], typer.Argument(help="Folders, photos, zip archives, manifests.", metavar="SRC...")],
    out: Annotated[
        Path, typer.Option(help="Folder for the data set, or one to add to, or to go on with.", metavar="DATASET")
    ],
    include: Annotated[
        list[str] | None, typer.Option(help="Only files like this, such as '*.jpg'.", metavar="GLOB")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="No files like this.", metavar="GLOB")] = None,
    longest_side: Annotated[
        int | None, typer.Option(help="Larger photos are reduced to this, in pixels.", show_default="512")
    ] = None,
    keep_gps: Annotated[bool | None, typer.Option("--keep-gps", help="Keep where photos were taken.")] = None,
    collapse: Annotated[
        str | None,
        typer.Option(
            help="Which duplicates become one photo: bytes (equal files), same (also one picture re-encoded, resized "
            "or turned), near (also near-duplicates).",
            show_default="same",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="What photos share that must not straddle splits: none, folder, camera, day, burst, burst:SECONDS, "
            "digits (a number in the photo, within a folder; extra: ocr) or regex:PATTERN; near-duplicates "
            "stay together in any case.",
            show_default="burst",
        ),
    ] = None,
    ratios: Annotated[
        str | None, typer.Option("--split", help="Shares of train, dev and test.", show_default="0.6,0.2,0.2")
    ] = None,
    resplit: Annotated[bool | None, typer.Option("--resplit", help="Ignore the splits that sources come with.")] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            help="Leave out photos that are blurred, dark, overexposed, uniform or tiny, separated by commas, or all.",
            show_default="none: only recorded",
        ),
    ] = None,
    normal: NormalOption = None,
    config: ConfigOption = None,
    overrides: SetOption = None,
    seed: SeedOption = None,
    ray: RayOption = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Processes that decode photos.", show_default="2; with --ray, every CPU"),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a data set of a camera roll: decode, turn upright, resize, remove duplicates, group, split."""
    from inlier.data.intake.ingest import ingest as ingest_sources
    from inlier.data.intake.settings import FLAGS, read_settings

    options = {
        "ingest": {
            "longest_side": longest_side,
            "keep_gps": keep_gps,
            "collapse": collapse,
            "group_by": group_by,
            "ratios": None if ratios is None else _parse_ratios(ratios),
            "resplit": resplit,
            "drop": None if drop is None else list(FLAGS) if drop == "all" else _parts(drop),
            "seed": seed,
        }
    }
    workers_on(workers, ray)  # says now if there is no Ray
    settings = read_settings(read_sections(config, overrides, options))
    with progress_bars(quiet=quiet) as progress:
        done = ingest_sources(
            sources,
            out,
            settings,
            include=include or (),
            exclude=exclude or (),
            normal=[label for text in normal or () for label in _parts(text)],
            workers=workers if workers is not None else 0 if ray else 2,
            ray=ray,
            facts=_facts(),
            progress=progress,
        )
    if as_json:
        print_json(
            {"dataset": str(out), "counts": done.counts, "num_unreadable": done.num_unreadable, "notes": done.notes}
        )
    else:
        show(_summary(done, out), quiet=quiet)
    say_notes(done.notes, quiet=quiet)
    for name, reason in done.unreadable[:5]:
        say(f"  unreadable: {name}: {reason}", quiet=quiet)
    if done.num_unreadable > 5:
        say(f"  ... and {done.num_unreadable - 5} more, in {out / 'rejected.csv'}", quiet=quiet)
    raise typer.Exit(1 if done.num_unreadable else 0)


def _facts() -> dict[str, object]:
    """What ``dataset.json`` says of how the data set came about."""
    from importlib.metadata import version

    return {
        "command": shlex.join(["inlier", *sys.argv[1:]]),
        "versions": {package: version(package) for package in _PACKAGES},
    }


def _parse_ratios(text: str) -> tuple[float, float, float]:
    try:
        train, dev, test = map(float, _parts(text))
    except ValueError as error:
        raise ConfigError(f"--split must be three numbers such as 0.6,0.2,0.2, got {text}.") from error
    return train, dev, test


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _summary(done: Ingestion, out: Path) -> str:
    counts = done.counts
    if not counts["new"]:
        given, photos = number_of(counts["given"], "file"), number_of(counts["photos"], "photo")
        return f"Nothing new in {given}; {out} stays as it is, with {photos}."
    became = [
        number_of(counts[name], word) if word else f"{counts[name]} {name}"
        for name, word in (("kept", "photo"), ("duplicate", "duplicate"), ("dropped", ""), ("rejected", ""))
        if counts[name] or name == "kept"
    ]
    splits = ", ".join(f"{counts[split]} {split}" for split in ("train", "dev", "test"))
    photos = number_of(counts["photos"], "photo")
    return f"{number_of(counts['new'], 'new file')}: {', '.join(became)}\n{out} has {photos}: {splits}"
