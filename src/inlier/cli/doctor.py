"""``inlier doctor``: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from inlier.cli.fitting import BackboneOption, DataArgument
from inlier.cli.options import (
    DeviceOption,
    JsonOption,
    NormalOption,
    QuietOption,
    WorkersOption,
    choose_device,
    normal_labels,
    print_json,
    progress_bars,
    read_sections,
    say,
    show,
)
from inlier.errors import ConfigError

MAX_CLUSTERS, MAX_PHOTOS = 5, 5
"""Clusters of a finding, and photos of a cluster, that are printed as text."""

LEAKS = 2
"""Exit status with ``--strict`` where there is a leak."""


def doctor(
    data: DataArgument,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with thumbnails too.", metavar="FILE.html")
    ] = None,
    false_alarm_rate: Annotated[
        float, typer.Option(help="Share of normal photos that may be rejected: are there enough photos for it?")
    ] = 0.05,
    is_strict: Annotated[bool, typer.Option("--strict", help="Exit with status 2 if there is a leak.")] = False,
    has_no_embedding: Annotated[
        bool, typer.Option("--no-embedding", help="Leave out the search for wrong labels, which needs a backbone.")
    ] = False,
    backbone: BackboneOption = None,
    normal: NormalOption = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Say what is in a data set and what is wrong with it: leaks, duplicates, masks, shortcuts, odd labels."""
    from inlier.data.manifest import read_photos
    from inlier.diagnosis import check_target, diagnose, report, write_page
    from inlier.embedding import Embedder

    if not 0 < false_alarm_rate < 1:
        raise ConfigError(f"--false-alarm-rate must be in (0, 1), got {false_alarm_rate:g}.")
    if html is not None:
        check_target(html)
    photos = read_photos(data, normal=normal_labels(normal))
    sections = read_sections(None, None, {"backbone": {"name": backbone}})
    embedder = None if has_no_embedding else Embedder(sections, None, choose_device(device))
    with progress_bars(quiet=quiet) as progress:
        found = diagnose(
            photos, embedder=embedder, false_alarm_rate=false_alarm_rate, workers=workers, progress=progress
        )
    result = report(found, data=data, command=shlex.join(["inlier", *sys.argv[1:]]))
    if html is not None:
        write_page(found, result, html, title=data.resolve().name)
    if as_json:
        print_json(result)
    else:
        show(summarize(result) + (f"\nPage: {html}" if html else ""), quiet=quiet)
    if is_strict and found.num_leaks:
        say(f"inlier: {_leaks(found.num_leaks)} between splits; test results would be too good.", quiet=False)
        raise typer.Exit(LEAKS)
    raise typer.Exit(1 if found.unreadable else 0)


_EXTRAS = ("groups", "masks", "regions", "unreadable")


def summarize(result: Mapping[str, Any]) -> str:
    """A report as text: a table of counts, then each finding with its first photos."""
    counts = result["counts"]
    extras = [f"{counts[f'num_{noun}']} {noun}" for noun in _EXTRAS if counts[f"num_{noun}"]]
    lines = [", ".join([f"{counts['num_photos']} photos", *extras])]
    rows = [(of["split"], of["label"] or "-", of["condition"], str(of["num_photos"])) for of in counts["labels"]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for split, label, condition, number in rows:
        cells = f"  {split:{widths[0]}}  {label:{widths[1]}}  {condition:{widths[2]}}  {number:>{widths[3]}}"
        lines.append(cells)
    for finding in result["findings"]:
        lines += ["", f"{finding['severity']}: {finding['kind']}: {finding['message']}", *_photos(finding)]
    return "\n".join(lines if result["findings"] else [*lines, "", "Nothing wrong was found."])


def _photos(finding: Mapping[str, Any]) -> list[str]:
    """The first photos of a finding, those of a cluster under one dash."""
    clusters = finding.get("clusters") or [[photo] for photo in finding["photos"]]
    lines = []
    for cluster in clusters[:MAX_CLUSTERS]:
        for place, photo in enumerate(cluster[:MAX_PHOTOS]):
            lines.append(f"  {'-' if place == 0 else ' '} {_photo(photo)}")
        if len(cluster) > MAX_PHOTOS:
            lines.append(f"    … and {len(cluster) - MAX_PHOTOS} more of these")
    if (num_more := len(clusters) - MAX_CLUSTERS) > 0:
        lines.append(f"  … and {num_more} more (--json or --html show all)")
    return lines


def _photo(photo: Mapping[str, Any]) -> str:
    known = ", ".join(of for of in (photo["split"], photo["label"], photo["remark"]) if of)
    return f"{photo['path']} ({known})"


def _leaks(number: int) -> str:
    return f"{number} leak{'s' * (number != 1)}"
