"""``inlier fit --update``: a model learns further photos without the old ones, and forgets groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from inlier.cli.options import (
    check_tracker,
    choose_device,
    normal_labels,
    print_json,
    progress_bars,
    say_notes,
    say_unreadable,
    show,
    tracked,
)
from inlier.errors import ConfigError

UpdateOption = Annotated[
    Path | None,
    typer.Option(
        help="Add the photos of DATA to this model, without its old ones, instead of fitting anew; --out may be the "
        "same folder, which is then replaced whole.",
        metavar="MODEL",
    ),
]
RemoveOption = Annotated[
    list[str] | None,
    typer.Option(
        help="With --update: forget the photos of this group; may be given several times. Detectors other than "
        "patchcore and photo-neighbors must see them again, in DATA.",
        metavar="GROUP",
    ),
]


def check_options(update: Path | None, remove: Sequence[str] | None, options: Mapping[str, object]) -> None:
    """Refuses options that an update cannot follow, since backbone and configuration stay those of the model.

    Args:
        update: The model, if one is to be updated.
        remove: Groups that it is to forget.
        options: Such options with what was given for each; None, False or nothing: it was not.
    """
    if update is None and remove:
        raise ConfigError("--remove takes groups out of a model; name it with --update.")
    given = [name for name, value in options.items() if value]
    if update is not None and given:
        raise ConfigError(f"--update keeps the configuration of the model; leave out {', '.join(given)}.")


def update_model(
    data: Path,
    out: Path,
    *,
    update: Path,
    remove: Sequence[str] | None,
    rates: Mapping[str, float | None],
    track: str | None,
    normal: Sequence[str] | None,
    device: str,
    workers: int,
    as_json: bool,
    quiet: bool,
) -> NoReturn:
    """Writes the updated model, and says what was added and removed; leaves with the command's exit code."""
    from inlier.data.manifest import Manifest
    from inlier.model import Model, check_target
    from inlier.updating import update as update_loaded

    check_target(out)
    check_tracker(track)
    loaded = Model.load(update, device=choose_device(device)).with_rates(**rates)
    manifest = Manifest.read(data, normal=normal_labels(normal))
    with progress_bars(quiet=quiet) as progress:
        model, unreadable = update_loaded(loaded, manifest, remove=remove or (), workers=workers, progress=progress)
    model.save(out)
    facts, notes = model.facts, [*model.notes, *tracked(out, track)]
    if as_json:
        print_json({"model": str(out), "identity": model.identity, **facts, "notes": notes})
    else:
        show(f"{_summary(facts)}: {out}", quiet=quiet)
    say_notes(notes, quiet=quiet)
    say_unreadable(unreadable, quiet=quiet)
    raise typer.Exit(1 if unreadable else 0)


def _summary(facts: Mapping[str, Any]) -> str:
    removed = f", removed {facts['num_removed']}" if facts["num_removed"] else ""
    known = f" ({facts['num_known']} more known already)" if facts["num_known"] else ""
    photos = f"{facts['num_fitted']} normal photo{'s' * (facts['num_fitted'] != 1)}"
    return (
        f"Added {facts['num_added']}{known}{removed}; learned from {photos}, calibrated on {facts['num_calibration']} "
        f"({facts['calibration']})"
    )
