"""What each reviewer says of a photo now: made of his decisions, in the transaction that writes these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, select, update

from inlier.reviewing.database import decision_table, word_table
from inlier.reviewing.ordering import differing

_CHUNK = 500
"""Numbers in one statement; databases allow some thousand."""


@dataclass(frozen=True, slots=True)
class Word:
    """What is said of a photo.

    Attributes:
        is_anomalous: Whether it is anomalous; None: nothing is said about that.
        label: The class that it is said to show; None likewise.
        num_reviewers: How many decided the photo.
    """

    is_anomalous: bool | None
    label: str | None
    num_reviewers: int = 1


def in_chunks(numbers: Collection[int]) -> list[list[int]]:
    """The numbers, few enough at a time for one statement."""
    listed = list(numbers)
    return [listed[start : start + _CHUNK] for start in range(0, len(listed), _CHUNK)]


def read_words(connection: Connection, *conditions: ColumnElement[bool]) -> dict[int, dict[str, Word]]:
    """What each reviewer says now, by photo and reviewer.

    Args:
        connection: To the database.
        conditions: What a row of ``word_table`` must meet.
    """
    found: defaultdict[int, dict[str, Word]] = defaultdict(dict)
    statement = select(word_table).where(*conditions).order_by(word_table.c.photo, word_table.c.reviewer)
    for row in connection.execute(statement):
        found[row.photo][row.reviewer] = Word(row.is_anomalous, row.label)
    return dict(found)


def say(connection: Connection, said: Mapping[int, Word], *, reviewer: str) -> None:
    """Puts new words over a reviewer's earlier ones; what a new one says nothing about stays as it was."""
    rows = []
    for numbers in in_chunks(said):
        is_theirs = and_(word_table.c.reviewer == reviewer, word_table.c.photo.in_(numbers))
        before = {row.photo: row for row in connection.execute(select(word_table).where(is_theirs))}
        disputed = set(connection.scalars(differing().where(word_table.c.photo.in_(numbers))))
        connection.execute(delete(word_table).where(is_theirs))
        agreed = [number for number in numbers if number not in disputed]  # what differs from now on is news to all
        connection.execute(update(word_table).where(word_table.c.photo.in_(agreed)).values(is_settled=False))
        for number in numbers:
            old = before.get(number)
            words = [Word(old.is_anomalous, old.label)] if old else []
            rows.append(_row(reviewer, number, [*words, said[number]], is_settled=number in disputed))
    if rows:
        connection.execute(insert(word_table), rows)


def say_again(connection: Connection, photos: Sequence[int], *, reviewer: str) -> None:
    """Makes a reviewer's words of these photos anew from the decisions that stand."""
    of = decision_table.c
    for numbers in in_chunks(photos):
        is_theirs = and_(word_table.c.reviewer == reviewer, word_table.c.photo.in_(numbers))
        connection.execute(delete(word_table).where(is_theirs))
        stands = and_(of.reviewer == reviewer, of.photo.in_(numbers), ~of.undone)
        found: defaultdict[int, list[Word]] = defaultdict(list)
        for row in connection.execute(select(decision_table).where(stands).order_by(of.number)):
            found[row.photo].append(Word(row.is_anomalous, row.label))
        rows = [_row(reviewer, number, words, is_settled=False) for number, words in found.items()]
        if rows:
            connection.execute(insert(word_table), rows)


def _row(reviewer: str, photo: int, words: Sequence[Word], *, is_settled: bool) -> dict[str, Any]:
    """The last word on either question."""
    flags = [word.is_anomalous for word in words if word.is_anomalous is not None]
    labels = [word.label for word in words if word.label is not None]
    return {
        "reviewer": reviewer,
        "photo": photo,
        "is_anomalous": flags[-1] if flags else None,
        "label": labels[-1] if labels else None,
        "is_settled": is_settled,
    }
