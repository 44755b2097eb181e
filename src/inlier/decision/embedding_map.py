"""The map page: photos as points, one map for each backbone, linked: what is selected in one shows in all.

Places and what is known of each photo stand in one inert block of JSON, places as whole numbers in base64.
Thumbnails follow in blocks of their own, which the page reads only when one of their photos is pointed at, so that
twenty thousand photos open like a few.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inlier.decision.intervals import Interval
from inlier.decision.pages import write_page

THUMBNAILS_IN_BLOCK = 100
"""Thumbnails that stand, and are read, together."""

_STEPS = 65_535


@dataclass(frozen=True, eq=False)
class Panel:
    """One map, and how well the embedding behind it keeps labels apart.

    Attributes:
        name: The backbone.
        detail: What else tells it from others: layers, size, weights.
        places: Shape (N, 2), any unit, y upwards.
        knn_accuracy: Share of photos whose nearest others have their label; None where there are no labels to judge.
        silhouette: Mean silhouette, in [-1, 1]; None likewise.
        effective_rank: How many directions the embedding uses.
        num_dimensions: How many it could use: the smaller of its width and the number of photos.
        found: Label -> share of its photos whose nearest others have that label.
    """

    name: str
    detail: str
    places: NDArray[np.floating[Any]]
    knn_accuracy: Interval | None
    silhouette: Interval | None
    effective_rank: float
    num_dimensions: int
    found: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Field:
    """Something known of each photo, which points can be coloured by.

    Attributes:
        key: Its name in the page's address.
        title: Its name for readers.
        values: Of each photo; "" where unknown.
    """

    key: str
    title: str
    values: Sequence[str]


def write_embedding_map(
    path: Path,
    *,
    title: str,
    panels: Sequence[Panel],
    fields: Sequence[Field],
    root: str,
    names: Sequence[str],
    thumbnails: Iterable[bytes],
    color: str | None = None,
    num_neighbors: int,
    guess: float | None = None,
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
    unreadable: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the page; thumbnails are taken one at a time.

    Args:
        path: The HTML file.
        title: Heading of the page.
        panels: The maps, of the same N photos.
        fields: What is known of the photos.
        root: What stands before every name to make a path.
        names: Of each photo.
        thumbnails: WebP of each photo, empty where it has none; may end early.
        color: Key of the field that the page opens with; None: the first.
        num_neighbors: Photos that voted on a label.
        guess: Share of photos that always naming the commonest label would get right; None without labels.
        facts: What a reader should know of the run, by name.
        notes: Sentences that a reader must not miss.
        unreadable: Photos that are not on the map, with the reason.

    Raises:
        ValueError: There is no panel, or places or values are not one for each photo, or no field has that key.
    """
    _check(panels, fields, names, color)
    content = {
        "root": root,
        "names": list(names),
        "panels": [{"name": panel.name, "places": _places(panel.places)} for panel in panels],
        "fields": [_field(of) for of in fields],
        "color": color or (fields[0].key if fields else None),
        "block": THUMBNAILS_IN_BLOCK,
    }
    write_page(
        path,
        "map.html",
        styles=("page.css", "map.css"),
        script="map.js",
        libraries=("map_panel.js",),
        values={
            "title": title,
            "num_photos": len(names),
            "panels": panels,
            "fields": fields,
            "labels": _labels(panels, fields),
            "num_neighbors": num_neighbors,
            "guess": guess,
            "facts": facts,
            "notes": notes,
            "unreadable": unreadable,
            "content": _json(content),
            "blocks": _blocks(thumbnails),
        },
    )


def _check(panels: Sequence[Panel], fields: Sequence[Field], names: Sequence[str], color: str | None) -> None:
    if not panels:
        raise ValueError("panels of write_embedding_map must be at least one, got none.")
    for panel in panels:
        if panel.places.shape != (len(names), 2):
            raise ValueError(
                f"places of {panel.name} must be two for each of {len(names)} photos, got shape {panel.places.shape}."
            )
    for of in fields:
        if len(of.values) != len(names):
            raise ValueError(f"values of {of.key} must be one for each of {len(names)} photos, got {len(of.values)}.")
    if color is not None and color not in (keys := [of.key for of in fields]):
        raise ValueError(f"color of write_embedding_map must be one of {', '.join(keys)}, got {color}.")


def _places(places: NDArray[np.floating[Any]]) -> str:
    """Places of the photos as 16-bit numbers, 0 to 65,535 over the larger of the two extents; y downwards."""
    if not len(places):
        return ""
    low, high = places.min(axis=0), places.max(axis=0)
    extent = float((high - low).max())
    # What rounding leaves of photos that are all alike is no extent.
    scale = _STEPS / extent if extent > 1e-9 * max(1.0, float(np.abs(places).max())) else 0.0
    shown = (places - (low + high) / 2) * scale * [1, -1] + _STEPS / 2
    return _base64(np.clip(np.round(shown), 0, _STEPS).astype("<u2").tobytes())


def _field(of: Field) -> dict[str, object]:
    """The values that occur, most frequent first and the unknown last, and of each photo the number of its value."""
    counts = Counter(of.values)
    values = sorted(counts, key=lambda value: (value == "", -counts[value], value))
    number = {value: place for place, value in enumerate(values)}
    codes = np.array([number[value] for value in of.values], dtype="<u2")
    return {"key": of.key, "title": of.title, "values": values, "codes": _base64(codes.tobytes())}


def _labels(panels: Sequence[Panel], fields: Sequence[Field]) -> list[tuple[str, int]]:
    """Labels that were judged, with the number of their photos, worst first in the first map."""
    counts = Counter(next((of.values for of in fields if of.key == "label"), ()))
    found = panels[0].found
    return [(label, counts[label]) for label in sorted(found, key=lambda label: (found[label], label))]


def _blocks(thumbnails: Iterable[bytes]) -> Iterator[str]:
    """Lines of base64, so many in a block."""
    left = iter(thumbnails)
    while block := list(islice(left, THUMBNAILS_IN_BLOCK)):
        yield "\n".join(map(_base64, block))


def _json(content: object) -> str:
    """JSON that may stand inside a script element: no `<` that could close it."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
