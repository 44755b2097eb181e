"""Rows of a review's tables, and what is checked before they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from inlier.errors import ReviewError
from inlier.reviewing.database import FORMAT_VERSION, decision_table, photo_table, undo_table
from inlier.reviewing.ordering import TOO_HIGH
from inlier.reviewing.photos import ReviewPhoto, Tally
from inlier.reviewing.regions import Region
from inlier.reviewing.words import in_chunks

MAX_NAME = 200
"""Characters that the name of a reviewer, a page or a class may have."""

_JUDGED = (
    *("score", "p_value", "verdict", "component", "component_probability"),
    *("suspicion", "suspicion_reason", "doubt"),
)
_BREAK_SECONDS = 300.0
_RECENT = 800
_PHOTO, _DECISION = photo_table.c, decision_table.c


def failed(error: SQLAlchemyError) -> ReviewError:
    """The sentence on a database that does not do what it should."""
    reason = str(error.__cause__ or error).strip().partition("\n")[0][:300].rstrip(".")
    return ReviewError(f"The database of the review cannot be used: {reason}.")


def now() -> str:
    """The time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def review_row(
    *, identity: str, labels: Sequence[str], rates: tuple[float, float], notes: Sequence[str]
) -> dict[str, Any]:
    """What the row of the review says of the model."""
    return {
        "number": 1,
        "format_version": FORMAT_VERSION,
        "identity": identity,
        "labels": json.dumps(list(labels)),
        "false_alarm_rate": rates[0],
        "uncertain_rate": rates[1],
        "notes": json.dumps(list(notes)),
        "made": now(),
    }


def update_photos(connection: Connection, photos: Sequence[ReviewPhoto]) -> None:
    """Writes over what is said of photos that are there."""
    rows = [{**{f"new_{name}": getattr(of, name) for name in _JUDGED}, "key": of.number} for of in photos]
    rows = [row | {"new_trust": 1.0 - row["new_suspicion"]} for row in rows]
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in (*_JUDGED, "trust")}
    if rows:
        connection.execute(update(photo_table).where(_PHOTO.number == bindparam("key")).values(values), rows)


def insert_photos(connection: Connection, photos: Sequence[ReviewPhoto]) -> None:
    """Writes photos."""
    names = [column.name for column in photo_table.columns if column.name != "trust"]
    rows = [{**{name: getattr(of, name) for name in names}, "trust": 1.0 - of.suspicion} for of in photos]
    if rows:
        connection.execute(insert(photo_table), rows)


def to_photo(row: Any) -> ReviewPhoto:
    """A photo from its row."""
    values = row._mapping
    return ReviewPhoto(**{name: values[name] for name in ReviewPhoto.__dataclass_fields__})


def to_region(row: Any) -> Region:
    """A region from its row."""
    return Region(row.kind, row.label, tuple((x, y) for x, y in json.loads(row.polygon)))


def region_row(photo: int, region: Region, *, reviewer: str) -> dict[str, Any]:
    """A row of the regions' table."""
    return {
        "photo": photo,
        "reviewer": reviewer,
        "at": now(),
        "kind": region.kind,
        "label": region.label[:MAX_NAME],
        "polygon": json.dumps(region.polygon),
    }


def is_of(reviewer: str, page: str) -> ColumnElement[bool]:
    """Whether a decision came with this page of this reviewer."""
    return and_(_DECISION.reviewer == reviewer, _DECISION.page == page)


def last_undo(connection: Connection, reviewer: str) -> int:
    """Number of the reviewer's last undo; 0 before the first."""
    return connection.scalar(select(func.max(undo_table.c.number)).where(undo_table.c.reviewer == reviewer)) or 0


def check_photos(connection: Connection, photos: Sequence[int]) -> None:
    """Raises ReviewError if a photo is not there."""
    known = {
        number
        for chunk in in_chunks([number for number in photos if 0 <= number < TOO_HIGH])
        for number in connection.scalars(select(_PHOTO.number).where(_PHOTO.number.in_(chunk)))
    }
    if unknown := [number for number in photos if number not in known]:
        raise ReviewError(f"The review has no photo number {unknown[0]}.")


def check_names(**names: str) -> None:
    """Raises ReviewError if a name is empty or too long."""
    for what, name in names.items():
        if not (name.strip() and len(name) <= MAX_NAME):
            raise ReviewError(f"The {what} must have 1 to {MAX_NAME} characters, got {len(name)}.")


def tallies(
    totals: Mapping[tuple[str, str], int], decided: Mapping[tuple[str, str], int], place: int
) -> dict[str, Tally]:
    """Counts by verdict and class as tallies by the one (place 0) or the other (place 1)."""
    names = sorted({key[place] for key in totals})

    def of(counts: Mapping[tuple[str, str], int], name: str) -> int:
        return sum(number for key, number in counts.items() if key[place] == name)

    return {name: Tally(of(totals, name), of(decided, name)) for name in names}


def seconds_per_photo(connection: Connection, reviewer: str) -> float | None:
    """Time between pages, per photo of the later one, over the last pages; breaks are left out."""
    stands = and_(_DECISION.reviewer == reviewer, ~_DECISION.undone)
    latest = select(_DECISION.page, _DECISION.at).where(stands).order_by(_DECISION.number.desc()).limit(_RECENT)
    pages: dict[str, tuple[datetime, int]] = {}
    for row in connection.execute(latest):
        _, number = pages.get(row.page, (None, 0))
        pages[row.page] = datetime.fromisoformat(row.at), number + 1
    return _pace([*pages.values()][::-1])


def _pace(pages: Iterable[tuple[datetime, int]]) -> float | None:
    seconds, photos = 0.0, 0
    for (before, _), (after, number) in pairwise(pages):
        gap = (after - before).total_seconds()
        if gap <= _BREAK_SECONDS:
            seconds, photos = seconds + gap, photos + number
    return seconds / photos if photos else None
