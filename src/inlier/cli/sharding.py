"""``inlier fit --shards``: one model from shards of the photos, in processes or on a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.errors import ConfigError

if TYPE_CHECKING:
    from inlier.data.manifest import Manifest, Photo
    from inlier.model import Model
    from inlier.scale import Workers
    from inlier.workflow import Progress

SHARD_SIZE = 1000
"""Photos of a shard, unless the user says how many shards: enough for a bank, and soon done."""

ShardsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Learn from so many shards of the photos, each in a process or on a node of its own, and merge what came "
        "of them; the model is the same wherever they run.",
        show_default=f"with --processes or --ray one for every {SHARD_SIZE} photos, at least 2",
        metavar="N",
    ),
]


def check_shards(shards: int | None, workers: Workers, options: Mapping[str, object]) -> bool:
    """Whether to fit in shards; refuses options that shards cannot follow.

    Args:
        shards: How many were asked for, if any.
        workers: Where the work is done.
        options: Options for all photos at once, with what was given for each; None or False: it was not.
    """
    if shards is None and workers.is_here:
        return False
    given = [name for name, value in options.items() if value]
    if given:
        raise ConfigError(f"Shards are learned without a look at the others; leave out {', '.join(given)}.")
    return True


def fit_shards(
    sections: Mapping[str, Mapping[str, Any]],
    data: Manifest,
    *,
    shards: int | None,
    on: Workers,
    layers: Sequence[int] | None,
    device: str,
    workers: int,
    progress: Progress,
) -> tuple[Model, list[tuple[Photo, str]]]:
    """Fits in shards; see ``fit_in_shards``."""
    from inlier.scale import map_function, reached
    from inlier.sharding import fit_in_shards

    if shards is None:
        train = data.normal().select("train")
        shards = min(max(2, -(-len(train) // SHARD_SIZE)), max(1, len(set(train.groups)) // 2))
    with reached(on):
        return fit_in_shards(
            sections,
            data,
            num_shards=shards,
            map_shards=partial(map_function, on=on),
            layers=layers,
            device=device,
            workers=workers,
            progress=progress,
        )
