"""What a manifest inside a tree of files says: its rows, with every path checked to stay below the tree's root."""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from inlier.data.intake.archives import open_archive
from inlier.data.intake.trees import DiskTree, MemberTree
from inlier.data.manifest import Photo, to_photos
from inlier.data.tables import read_table
from inlier.errors import ImageReadError, ManifestError
from inlier.outputs import as_text

MAX_TABLE_BYTES = 64 << 20
"""Size above which a manifest in an archive is not read; one on disk may have eight times as much."""

_BROKEN = (
    ImageReadError,  # of the file, or of the archive that holds it
    OSError,
    ValueError,  # a Parquet column whose text is no UTF-8, or whose dates are out of range
    ArithmeticError,
    LookupError,
    TypeError,
    MemoryError,
)


class Row(NamedTuple):
    """A photo that a manifest lists.

    Attributes:
        path: Its path below the root of the tree, with forward slashes.
        mask: Likewise; "" without one.
        roi: Likewise.
        photo: What else is known; its own paths mean nothing.
        split: What the manifest says, "" where it says nothing.
        error: Why its files must not be read; "" if they may.
    """

    path: str
    mask: str
    roi: str
    photo: Photo
    split: str
    error: str = ""


def read_listing(tree: DiskTree | MemberTree, folder: str, table: str, *, normal: Sequence[str]) -> Iterator[Row]:
    """The rows of a manifest, in its order.

    Args:
        tree: Where it lies, and beyond which none of its rows may lead.
        folder: The folder that it lies in, below the root of the tree.
        table: Its name.
        normal: Labels of normal photos.

    Raises:
        ManifestError: It cannot be read, or what it says cannot be used.
    """
    below = posixpath.join(folder, table)
    name = tree.name(below)
    try:
        rows = _read(tree, below)
    except _BROKEN as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ManifestError(as_text(f"{name} cannot be read: {reason}.")) from error
    if not rows:
        raise ManifestError(f"{name} holds no photos.")
    photos = to_photos(rows, Path(name), Path(), normal)
    return (_row(tree, folder, row, photo) for row, photo in zip(rows, photos, strict=True))


def _read(tree: DiskTree | MemberTree, below: str) -> list[dict[str, str]]:
    place = tree.locate(below)
    if place.error:
        raise ImageReadError(place.error)
    if not place.member:
        if place.size > 8 * MAX_TABLE_BYTES:
            raise ImageReadError(f"it has {place.size} bytes; at most {8 * MAX_TABLE_BYTES} are read")
        return read_table(place.path)
    content = open_archive(place.path).read(place.member, max_bytes=MAX_TABLE_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, posixpath.basename(below))
        table.write_bytes(content)
        try:
            return read_table(table)
        except ManifestError as error:
            raise ManifestError(str(error).replace(str(table), tree.name(below))) from error


def _row(tree: DiskTree | MemberTree, folder: str, row: dict[str, str], photo: Photo) -> Row:
    path = _resolve(tree, folder, row["path"])
    mask, roi = (_resolve(tree, folder, row[name]) if row.get(name) else "" for name in ("mask", "roi"))
    split = photo.split if row.get("split") else ""
    if path is None or mask is None or roi is None:
        shown = posixpath.join(folder, row["path"].lstrip("/"))
        return Row(shown, "", "", photo, split, "its manifest names a file outside the folder")
    return Row(path, mask, roi, photo, split)


def _resolve(tree: DiskTree | MemberTree, folder: str, path: str) -> str | None:
    """A path of a manifest in a folder as one below the root of the tree; None if it leads elsewhere."""
    if os.path.isabs(path) and isinstance(tree, DiskTree):
        below = os.path.relpath(path, os.path.abspath(tree.root))
    else:
        below = os.path.normpath(posixpath.join(folder, path))
    below = below.replace(os.sep, "/")
    return None if below.startswith(("/", "../")) or below in (".", "..") else below
