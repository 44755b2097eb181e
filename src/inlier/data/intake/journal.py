"""Journal: what an ingest that is under way has found and done so far, in a SQLite file beside the data set.

It is what an interrupted ingest goes on from, and keeps the memory flat: sources, results and what earlier runs left
are rows of tables, never lists. Once the data set is written it is removed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from inlier.data.intake.preparing import Prepared
from inlier.data.intake.sources import Source

LEDGER = {
    "source": "TEXT", "size": "INTEGER", "modified": "INTEGER", "is_photo": "INTEGER", "outcome": "TEXT",
    "sha256": "TEXT", "path": "TEXT", "kind": "TEXT", "similarity": "REAL", "label": "TEXT",
    "kept_source": "TEXT", "kept_label": "TEXT", "reason": "TEXT",
}  # fmt: skip
"""What is remembered of every source that was ever given, by column; ``dataset.py`` says what they mean."""

KEPT = ("sha256", "path", "source", "label", "anomalous", "split", "part", "camera", "taken_at", "phash")
"""What is asked of the photos that a data set holds already."""

DECISION = {
    "photo": "INTEGER", "stands": "INTEGER", "outcome": "TEXT", "kind": "TEXT", "similarity": "REAL", "reason": "TEXT",
    "split": "TEXT", "part": "TEXT", "flags": "TEXT",
}  # fmt: skip
"""What ``assembly.py`` makes of a photo: which one stands for it, and split, group and flags of quality."""

RETRIED = ("no permission%", "the file cannot be%", "the folder cannot be%")
"""Reasons that may be gone although the file has not changed."""

_PAGE = 256
_MAX_INTEGER = 2**63 - 1
_PREPARED = tuple(of.name for of in fields(Prepared))
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS results (
    name TEXT, size INTEGER, modified INTEGER, mask_at BLOB, roi_at BLOB, error TEXT, sha256 TEXT, path TEXT, mask TEXT,
    mask_error TEXT, roi TEXT, roi_error TEXT, width INTEGER, height INTEGER, source_width INTEGER,
    source_height INTEGER, taken_at TEXT, camera TEXT, sharpness REAL, brightness REAL, contrast REAL, dark_share REAL,
    bright_share REAL, hashes BLOB, thumbnail BLOB, number TEXT, PRIMARY KEY (name, size, modified, mask_at, roi_at)
);
DROP TABLE IF EXISTS sources;
CREATE TABLE sources (
    position INTEGER PRIMARY KEY, name TEXT UNIQUE, file BLOB, member TEXT, size INTEGER, modified INTEGER, label TEXT,
    is_anomalous INTEGER, split TEXT, part TEXT, mask_at BLOB, roi_at BLOB, refusal TEXT, is_photo INTEGER
);
DROP TABLE IF EXISTS new;
CREATE TABLE new (position INTEGER PRIMARY KEY);
DROP TABLE IF EXISTS ledger;
CREATE TABLE ledger ({", ".join(f"{name} {kind}" for name, kind in LEDGER.items())}, PRIMARY KEY (source));
DROP TABLE IF EXISTS kept;
CREATE TABLE kept ({", ".join(f"{name} TEXT" for name in KEPT)}, PRIMARY KEY (sha256));
DROP TABLE IF EXISTS decisions;
CREATE TABLE decisions ({", ".join(f"{name} {kind}" for name, kind in DECISION.items())}, PRIMARY KEY (photo));
"""

_IS_KNOWN = (
    "EXISTS (SELECT 1 FROM ledger WHERE ledger.source = sources.name AND ledger.size = sources.size "
    "AND ledger.modified = sources.modified AND CASE WHEN sources.refusal != '' THEN ledger.reason = sources.refusal "
    f"ELSE {' AND '.join(f'ledger.reason NOT LIKE {pattern!r}' for pattern in RETRIED)} END)"
)
_PENDING = (
    "new JOIN sources USING (position) LEFT JOIN results USING (name, size, modified, mask_at, roi_at) "
    "WHERE refusal = '' AND results.error IS NULL"
)
_SETTLE = """
INSERT OR REPLACE INTO ledger
SELECT name, sources.size, sources.modified, is_photo,
    CASE WHEN photo IS NULL THEN 'rejected' WHEN outcome = 'dropped' THEN outcome
        WHEN of.source = name OR (outcome = 'kept' AND held.source = name) THEN outcome ELSE 'duplicate' END AS became,
    IFNULL(of.sha256, ''), IFNULL(held.path, ''),
    CASE WHEN outcome = 'duplicate' THEN kind WHEN photo IS NOT NULL AND of.source != name THEN 'bytes' ELSE '' END,
    CASE WHEN outcome = 'duplicate' THEN similarity WHEN photo IS NOT NULL AND of.source != name THEN 1 END,
    sources.label, IFNULL(held.source, ''), IFNULL(held.label, ''),
    CASE WHEN refusal != '' THEN refusal WHEN photo IS NULL THEN results.error WHEN outcome = 'dropped' THEN reason
        WHEN mask_error != '' THEN 'its mask cannot be read: ' || mask_error
        WHEN roi_error != '' THEN 'the mask of its region cannot be read: ' || roi_error ELSE '' END
FROM new JOIN sources USING (position) LEFT JOIN results USING (name, size, modified, mask_at, roi_at)
    LEFT JOIN photos AS of ON of.sha256 = results.sha256 AND refusal = '' LEFT JOIN decisions ON photo = of.place
    LEFT JOIN photos AS held ON held.place = stands
ORDER BY position
"""
"""A source becomes what the photo with its bytes became; unless that photo is of another source: a duplicate then."""


class Journal:
    """The SQLite file, open; what was done in earlier, interrupted runs is in it, what they found is found anew.

    Attributes:
        database: The connection; ``assembly.py`` asks it for what it needs.
    """

    def __init__(self, path: Path) -> None:
        self.database = sqlite3.connect(path, isolation_level=None)
        self.database.execute("PRAGMA synchronous = NORMAL")
        columns = {column for _, column, *_ in self.database.execute("PRAGMA table_info(results)")}
        if columns and "roi_at" not in columns:  # of an earlier version, whose work is done again
            self.database.execute("DROP TABLE results")
        self.database.executescript(_SCHEMA)

    def close(self) -> None:
        """Closes the file; the journal cannot be used any more."""
        self.database.close()

    def fact(self, name: str) -> str | None:
        """A fact about the whole, such as the settings; None if it is not known."""
        row = self.database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        """Keeps a fact about the whole."""
        self.database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def add_ledger(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """What earlier runs left of every source."""
        empty = {name: "" if kind == "TEXT" else None for name, kind in LEDGER.items()}
        cells = (tuple(empty[name] if row[name] is None else row[name] for name in LEDGER) for row in rows)
        self._insert("ledger", cells, len(LEDGER))

    def add_kept(self, rows: Iterable[Sequence[str]]) -> None:
        """The photos that the data set holds already, in order, by the columns of ``KEPT``."""
        self._insert("kept", rows, len(KEPT))

    def decide(self, rows: Iterable[Sequence[Any]]) -> None:
        """What becomes of photos, by the columns of ``DECISION``."""
        self.database.execute("DELETE FROM decisions")
        self._insert("decisions", rows, len(DECISION))

    def add_sources(self, sources: Iterable[Source]) -> None:
        """The files that this run is given, in order; those that the ledger does not know as they are are `new`."""
        rows = (
            (
                position, of.name, os.fsencode(of.path), of.member, *_age(of), of.label, of.is_anomalous, of.split,
                of.group, os.fsencode(of.mask), os.fsencode(of.roi), of.error, of.is_photo,
            )
            for position, of in enumerate(sources)
        )  # fmt: skip
        self._insert("sources", rows, 14)
        self.database.execute(f"INSERT INTO new SELECT position FROM sources WHERE NOT {_IS_KNOWN}")

    def count(self, what: str, *values: str) -> int:
        """How many rows there are, such as ``sources WHERE size > ?``."""
        (number,) = self.database.execute(f"SELECT COUNT(*) FROM {what}", values).fetchone()
        return int(number)

    def num_pending(self) -> int:
        """How many sources are to be prepared."""
        return self.count(_PENDING)

    def pending(self) -> Iterator[Source]:
        """The sources that are to be prepared, in order; results may be put while they are read."""
        after = -1
        query = (
            "SELECT position, name, file, member, size, modified, label, is_anomalous, split, part, mask_at, roi_at, "
            "is_photo "
            f"FROM {_PENDING} AND position > ? ORDER BY position LIMIT {_PAGE}"
        )
        while rows := self.database.execute(query, (after,)).fetchall():
            after = rows[-1][0]
            yield from map(_to_source, rows)

    def put(self, done: Sequence[tuple[Source, Prepared]]) -> None:
        """Keeps results, all of them or none."""
        rows = [
            (of.name, *_age(of), os.fsencode(of.mask), os.fsencode(of.roi), *_columns(result)) for of, result in done
        ]
        self._insert("results", rows, 26)

    def settle(self) -> None:
        """Brings the ledger up to date with what was decided."""
        self.database.execute(_SETTLE)

    def _insert(self, table: str, rows: Iterable[Sequence[Any]], num_columns: int) -> None:
        """Adds rows in one transaction, a page at a time; of two with one key the later counts."""
        statement = f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * num_columns)})"
        pending = iter(rows)
        self.database.execute("BEGIN")
        try:
            while page := list(islice(pending, _PAGE)):
                self.database.executemany(statement, page)
        except BaseException:
            if self.database.in_transaction:  # SQLite has ended it itself where the disk is full
                self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")


def _age(source: Source) -> tuple[int, int]:
    """Size and time of modification, as far as SQLite can hold what a hostile archive claims."""
    return min(source.size, _MAX_INTEGER), source.modified & _MAX_INTEGER


def _columns(result: Prepared) -> tuple[Any, ...]:
    values = (getattr(result, name) for name in _PREPARED)
    return tuple(cell for value in values for cell in (astuple(value) if is_dataclass(value) else (value,)))  # type: ignore[arg-type]


def _to_source(row: Sequence[Any]) -> Source:
    _, name, file, member, size, modified, label, is_anomalous, split, part, mask_at, roi_at, is_photo = row
    return Source(
        name=name,
        path=Path(os.fsdecode(file)),
        member=member,
        size=size,
        modified=modified,
        label=label,
        is_anomalous=None if is_anomalous is None else bool(is_anomalous),
        split=split,
        group=part,
        mask=os.fsdecode(mask_at),
        roi=os.fsdecode(roi_at),
        is_photo=bool(is_photo),
    )
