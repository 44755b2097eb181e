"""Which photos a reviewer sees next, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, literal, or_, select, tuple_

from inlier.errors import ReviewError
from inlier.reviewing.database import photo_table, word_table

Queue = Literal["doubtful", "labels", "disagreements", "all"]
QUEUES: tuple[Queue, ...] = get_args(Queue)

TOO_HIGH = 2**31
"""Numbers from here on are no photo's, and too high for a database."""

Position = tuple[float, int]
"""Where a photo stands in a queue: its place by the queue's order, and its number."""

_PHOTO, _WORD = photo_table.c, word_table.c
_ORDERS = {"doubtful": _PHOTO.doubt, "labels": _PHOTO.trust, "disagreements": _PHOTO.number, "all": _PHOTO.number}


@dataclass(frozen=True, slots=True)
class Query:
    """What the grid shows.

    Attributes:
        queue: ``doubtful``: nearest to a threshold first. ``labels``: those whose label looks wrong, the surest first.
            ``disagreements``: on which reviewers differ; one leaves a reviewer's queue when he has decided knowing
            that. ``all``: in the order of the data.
        verdict: Only photos of this verdict; None: of any.
        component: Only photos that the model takes for this class.
        label: Only photos to which the data give this label.
        split: Only photos of this split.
        decided: Also those that the reviewer has decided already.
    """

    queue: Queue = "doubtful"
    verdict: str | None = None
    component: str | None = None
    label: str | None = None
    split: str | None = None
    decided: bool = False

    def __post_init__(self) -> None:
        if self.queue not in _ORDERS:
            raise ValueError(f"queue of Query must be one of {', '.join(_ORDERS)}, got {self.queue!r}.")

    def conditions(self) -> list[ColumnElement[bool]]:
        """What a photo must meet, whoever asks."""
        asked = {
            _PHOTO.verdict: self.verdict,
            _PHOTO.component: self.component,
            _PHOTO.given_label: self.label,
            _PHOTO.split: self.split,
        }
        found: list[ColumnElement[bool]] = [column == value for column, value in asked.items() if value is not None]
        if self.queue == "labels":
            found.append(_PHOTO.trust < 1.0)
        if self.queue == "disagreements":
            found.append(_PHOTO.number.in_(differing()))
        return found


def next_photos(query: Query, *, reviewer: str, size: int, after: Position | None) -> Select[Any]:
    """The statement for the next photos of a queue: rows of ``photo_table`` with their ``place`` behind.

    Args:
        query: Which queue.
        reviewer: Who asks.
        size: How many.
        after: Only those behind this position.
    """
    order: ColumnElement[Any] = _ORDERS[query.queue]
    statement = select(photo_table, order.label("place")).where(*query.conditions())
    if not query.decided:
        statement = statement.where(~has_decided(query, reviewer))
    if after is not None:
        statement = statement.where(tuple_(order, _PHOTO.number) > tuple_(literal(after[0]), literal(after[1])))
    return statement.order_by(order, _PHOTO.number).limit(size)


def has_decided(query: Query, reviewer: str) -> ColumnElement[bool]:
    """Whether this reviewer is done with a photo of ``photo_table``."""
    is_done = and_(_WORD.photo == _PHOTO.number, _WORD.reviewer == reviewer)
    if query.queue == "disagreements":
        is_done = and_(is_done, _WORD.is_settled)
    return exists().where(is_done)


def differing() -> Select[Any]:
    """The statement for numbers of photos on which the reviewers' words differ; no word is no difference."""
    kinds = func.count(func.distinct(_WORD.is_anomalous)), func.count(func.distinct(_WORD.label))
    return select(_WORD.photo).group_by(_WORD.photo).having(or_(*(kind > 1 for kind in kinds)))


def count_by(connection: Connection, query: Query, *, reviewer: str | None) -> dict[tuple[str, str], int]:
    """Photos of a queue by verdict and predicted class, "" for none.

    Args:
        connection: To the database.
        query: Which queue; ``decided`` makes no difference.
        reviewer: Only photos that this one is done with; None: all.
    """
    keys = _PHOTO.verdict, func.coalesce(_PHOTO.component, "")
    statement = select(*keys, func.count()).where(*query.conditions()).group_by(*keys)
    if reviewer is not None:
        statement = statement.where(has_decided(query, reviewer))
    return {(verdict, component): number for verdict, component, number in connection.execute(statement)}


def position_of(connection: Connection, query: Query, photo: int) -> Position:
    """Where a photo stands in a queue.

    Raises:
        ReviewError: There is no photo of this number.
    """
    order: ColumnElement[Any] = _ORDERS[query.queue]
    place = connection.scalar(select(order).where(_PHOTO.number == photo)) if photo < TOO_HIGH else None
    if place is None:
        raise ReviewError(f"The review has no photo number {photo}.")
    return place, photo
