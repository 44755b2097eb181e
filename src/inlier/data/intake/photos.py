"""The photos with different bytes, those of the data set before new ones, by columns and from the disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.images import decode, open_image
from inlier.data.intake.hashing import SIDE
from inlier.data.intake.journal import Journal
from inlier.data.intake.quality import Quality, quality_flags
from inlier.data.intake.settings import Settings
from inlier.data.intake.similarity import thumbnail

_WITH_MASK = 1 << 40
"""What a mask counts, in pixels, when one of several copies is kept."""

_WITH_ROI = 1 << 39
"""What the mask of a region counts, likewise."""

_LIST = """
DROP TABLE IF EXISTS photos;
CREATE TABLE photos (
    place INTEGER PRIMARY KEY, sha256 TEXT UNIQUE, path TEXT, source TEXT, label TEXT, anomalous TEXT, split TEXT,
    part TEXT, camera TEXT, taken_at TEXT, phash TEXT, result INTEGER, roi TEXT
);
INSERT INTO photos SELECT NULL, sha256, path, source, label, anomalous, split, part, camera, taken_at, phash, NULL, ''
    FROM kept ORDER BY rowid;
INSERT INTO photos
SELECT NULL, sha256, path, name, label, anomalous, split, part, camera, taken_at, '', result, IFNULL(roi, '') FROM (
    SELECT MIN(position) AS first, sha256, results.path, name, label, IFNULL(is_anomalous, '') AS anomalous, split,
        part, camera, taken_at, results.rowid AS result
    FROM new JOIN sources USING (position) JOIN results USING (name, size, modified, mask_at, roi_at)
    WHERE refusal = '' AND results.error = '' AND sha256 NOT IN (SELECT sha256 FROM kept)
    GROUP BY sha256 ORDER BY MIN(position)
) LEFT JOIN (
    SELECT sha256, MIN(results.roi) AS roi
    FROM new JOIN sources USING (position) JOIN results USING (name, size, modified, mask_at, roi_at)
    WHERE results.roi != '' GROUP BY sha256
) USING (sha256) ORDER BY first;
"""

_COLUMNS = """
SELECT label, anomalous, split, part, photos.camera, photos.taken_at, source, phash, result, hashes, mask,
    source_width, source_height, sharpness, brightness, contrast, dark_share, bright_share, number, photos.roi
FROM photos LEFT JOIN results ON results.rowid = result ORDER BY place
"""


@dataclass
class Photos:
    """What is needed of N photos to decide on them; equal texts are one object.

    Attributes:
        num_known: How many of them the data set holds already.
        labels: Labels.
        anomalous: "1", "0", or "" if that is not known.
        splits: The split that each has already, or comes with; "" if it is free.
        groups: The group, likewise.
        cameras: Cameras; "" if unknown.
        times: When they were taken, if the settings group by that; else "".
        sources: Names of their sources, if the settings group by these; else "".
        numbers: The number written in each, if the settings group by that, none or several; of known photos "".
        flags: Flags of quality, separated by spaces; of known photos none.
        worths: Which of copies of one picture to keep: that with the greatest.
        hashes: Shape (N, 4), uint64; of known photos only the first is filled in.
    """

    num_known: int = 0
    labels: list[str] = field(default_factory=list)
    anomalous: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    cameras: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    worths: list[int] = field(default_factory=list)
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty((0, 4), dtype=np.uint64))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kinds(self) -> list[str]:
        """What each is said to show: label and whether it is anomalous."""
        return [sys.intern(f"{label}\n{flag}") for label, flag in zip(self.labels, self.anomalous, strict=True)]


def list_photos(journal: Journal, settings: Settings) -> Photos:
    """The photos of the data set and the new ones that were prepared, in the order of their first sources."""
    journal.database.executescript(_LIST)
    photos, hashes = Photos(), bytearray()
    kind = settings.group_by.partition(":")[0]
    for row in journal.database.execute(_COLUMNS):
        is_known = row[8] is None
        photos.num_known += is_known
        photos.labels.append(sys.intern(row[0]))
        photos.anomalous.append(sys.intern(str(row[1])))
        photos.splits.append(sys.intern("" if settings.resplit and not is_known else row[2]))
        photos.groups.append(sys.intern(row[3]))
        photos.cameras.append(sys.intern(row[4]))
        photos.times.append(row[5] if kind in ("day", "burst") else "")
        photos.sources.append(row[6] if kind in ("regex", "folder", "digits") else "")
        photos.numbers.append("" if is_known else sys.intern(row[18]))
        photos.flags.append("" if is_known else sys.intern(_flags(row[11:18], settings)))
        beside = _WITH_MASK * bool(row[10]) + _WITH_ROI * bool(row[19])
        photos.worths.append(0 if is_known else row[11] * row[12] + beside)
        hashes += int(row[7], 16).to_bytes(8, "little") + bytes(24) if is_known else row[9]
    photos.hashes = np.frombuffer(hashes, dtype="<u8").reshape(-1, 4).astype(np.uint64)
    return photos


def thumbnail_reader(journal: Journal, directory: Path) -> Callable[[int], NDArray[np.uint8]]:
    """What gives the thumbnail of a photo by its place: kept in the journal, or made of a photo of the data set."""

    def read(photo: int) -> NDArray[np.uint8]:
        query = "SELECT photos.path, thumbnail FROM photos LEFT JOIN results ON results.rowid = result WHERE place = ?"
        path, stored = journal.database.execute(query, (photo + 1,)).fetchone()
        if stored is not None:
            return np.frombuffer(stored, dtype=np.uint8).reshape(SIDE, SIDE)
        with open_image(directory / path) as file:
            return thumbnail(np.asarray(decode(file)))

    return read


def grey_reader(journal: Journal, directory: Path) -> Callable[[int], Image.Image]:
    """What gives a photo of the data set in grey, by its place; the latest are kept."""

    @lru_cache(maxsize=64)
    def read(photo: int) -> Image.Image:
        query = "SELECT path FROM photos WHERE place = ?"
        (path,) = journal.database.execute(query, (photo + 1,)).fetchone()
        with open_image(directory / path) as file:
            return decode(file).convert("L")

    return read


def sha256_of(journal: Journal, photo: int) -> str:
    """SHA-256 of the bytes of a photo's source, by its place."""
    (sha256,) = journal.database.execute("SELECT sha256 FROM photos WHERE place = ?", (photo + 1,)).fetchone()
    return str(sha256)


def _flags(measured: Sequence[Any], settings: Settings) -> str:
    width, height, *quality = measured
    return " ".join(quality_flags(Quality(*quality), thresholds=settings.thresholds, width=width, height=height))
