"""Photo and Manifest: which photos there are, with their labels, masks, groups and splits."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Literal, Self, cast

from inlier.data.layouts import SPLITS, read_folder, read_remote_folder, select_photos
from inlier.data.remote import Location, RemotePath, find_objects, is_url, locate, look_up, look_up_all, parse_url
from inlier.data.tables import TABLE_SUFFIXES, first_five, read_table
from inlier.errors import ManifestError

Split = Literal["train", "dev", "test"]

NORMAL_LABELS = ("good", "normal", "ok")
"""Labels that mean a normal photo unless the user names others."""

_FLAGS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo, and what is known about it.

    Attributes:
        path: Where the photo lies; it need not exist, for then it is reported as unreadable.
        split: ``dev`` tunes and calibrates, ``test`` is looked at once.
        label: The class it was sorted into; "" if unknown.
        is_anomalous: Whether the photo is anomalous; None if unlabelled.
        mask: A picture of the photo's size whose defect pixels are > 0.
        group: Photos of one part (or vessel, or visit) share a group; "" if the photo stands alone.
        roi: A picture of the photo's size whose pixels are > 0 where a model that looks at masks is to look.
    """

    path: Location
    split: Split
    label: str = ""
    is_anomalous: bool | None = None
    mask: Location | None = None
    group: str = ""
    roi: Location | None = None


@dataclass(frozen=True)
class Manifest:
    """The photos of a data set, each once, no group in more than one split.

    Example:
        >>> manifest = Manifest((Photo(Path("a.jpg"), "train"), Photo(Path("b.jpg"), "test")))
        >>> [photo.path.name for photo in manifest.select("test").photos]
        ['b.jpg']

    Raises:
        ManifestError: A path stands in it twice, or a group in two splits.
    """

    photos: tuple[Photo, ...]

    def __post_init__(self) -> None:
        _check_paths(self.photos)
        _check_groups(self.photos)

    def __len__(self) -> int:
        return len(self.photos)

    @classmethod
    def read(cls, data: Path, *, normal: Sequence[str] = NORMAL_LABELS) -> Self:
        """The photos of a DATA argument, in the order of its manifest, else in natural order of their names.

        DATA is a manifest (``.csv`` or ``.parquet``), a folder that holds ``manifest.parquet`` or
        ``manifest.csv`` (the former goes first), a folder with the layout ``{train,dev,test}/{label}/*`` or
        that of MVTec AD, or any other folder of photos, which are then unlabelled and for training. Each may be
        a URL too, as ``Path("s3://bucket/folder")``, and so may the paths in a manifest.

        Args:
            data: One of these.
            normal: Labels of normal photos, upper or lower case; every other label is anomalous. The column
                ``anomalous`` of a manifest beats them.

        Raises:
            ManifestError: There are no photos, or what the manifest says about them cannot be used.
            MissingExtraError: The package that reads a URL is not installed.
        """
        return cls(read_photos(data, normal=normal))

    def select(self, split: str) -> Self:
        """The photos of one split; it may have none."""
        return type(self)(tuple(photo for photo in self.photos if photo.split == split))

    def normal(self) -> Self:
        """The photos not known to be anomalous: those labelled normal, and the unlabelled."""
        return type(self)(tuple(photo for photo in self.photos if photo.is_anomalous is not True))

    @property
    def groups(self) -> list[str]:
        """For each photo what must not be torn apart: its group, or a name of its own where it has none.

        That name is the photo's path below the folder shared by all, the same wherever the data lie.
        """
        names = _shared_names(self.photos)
        return [photo.group or f"photo {name}" for photo, name in zip(self.photos, names, strict=True)]

    def fingerprint(self) -> str:
        """SHA-256 of the rows and of the contents of photos and masks, in hexadecimal.

        It depends neither on where the data lie (paths count from the folder shared by all photos) nor on the
        order of the rows, for no result may depend on that. A file that cannot be read counts as such. Remote
        files count by size and ETag, which are not what their contents would count for here.
        """
        lines = []
        for p, name in zip(self.photos, _shared_names(self.photos), strict=True):
            files = [digest_file(p.path), p.mask and digest_file(p.mask), *([digest_file(p.roi)] if p.roi else [])]
            lines.append(json.dumps([name, p.split, p.label, p.is_anomalous, p.group, *files]))
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def read_photos(data: Path, *, normal: Sequence[str] = NORMAL_LABELS) -> tuple[Photo, ...]:
    """The rows of a DATA argument as ``Manifest.read`` takes them, also if they repeat a path or tear a group.

    For what looks for such faults; everything else reads a ``Manifest``, which refuses them.

    Args:
        data: As for ``Manifest.read``.
        normal: Likewise.

    Raises:
        ManifestError: There are no photos, or what the manifest says about them cannot be used.
        MissingExtraError: The package that reads a URL is not installed.
    """
    place = locate(data)
    if isinstance(place, RemotePath):
        return _read_remote(place, normal)
    if not os.path.exists(place):
        raise ManifestError(f"{place} does not exist.")
    root = place if place.is_dir() else place.parent
    source = _find_table(place) if place.is_dir() else place
    rows = read_folder(source) if source.is_dir() else read_table(source)
    if not rows:
        raise ManifestError(f"{source} holds no photos.")
    return _looked_up(to_photos(rows, source, root, normal))


def _read_remote(place: RemotePath, normal: Sequence[str]) -> tuple[Photo, ...]:
    """What ``read_photos`` does, of a URL; one listing tells of all photos below a folder."""
    root, source, listing = place, place, []
    if place.suffix.lower() in TABLE_SUFFIXES:
        root = place.parent
    else:
        listing = find_objects(place)
        if not listing:
            raise ManifestError(f"{place} does not exist: there is no object below it.")
        if listing == [place]:
            raise ManifestError(f"{place} must be a folder of photos, or a manifest (.csv or .parquet).")
        tables = [place.join(f"manifest{suffix}") for suffix in TABLE_SUFFIXES]
        source = next((table for table in tables if table in listing), place)
    if source.suffix.lower() in TABLE_SUFFIXES:
        rows = read_table(source)
    else:
        rows = read_remote_folder(source, select_photos(source, listing))
    if not rows:
        raise ManifestError(f"{source} holds no photos.")
    known = {path.below(root): path for path in listing}
    return _looked_up(to_photos(rows, source, root, normal, known=known))


def _looked_up(photos: tuple[Photo, ...]) -> tuple[Photo, ...]:
    """The same, with size and version of those remote files that no listing told of, asked for several at once."""
    of_photos = (file for photo in photos for file in (photo.path, photo.mask, photo.roi))
    files = [file for file in of_photos if isinstance(file, RemotePath)]
    if not any(file.size is None for file in files):
        return photos
    known: Mapping[Location, RemotePath] = {file: file for file in look_up_all(files)}
    return tuple(
        replace(
            photo,
            path=known.get(photo.path, photo.path),
            mask=photo.mask and known.get(photo.mask, photo.mask),
            roi=photo.roi and known.get(photo.roi, photo.roi),
        )
        for photo in photos
    )


def _find_table(folder: Path) -> Path:
    """The manifest in a folder; the folder itself if it has none."""
    tables = (folder / f"manifest{suffix}" for suffix in TABLE_SUFFIXES)
    return next((table for table in tables if table.is_file()), folder)


def to_photos(
    rows: Sequence[dict[str, str]],
    source: Location,
    root: Location,
    normal: Sequence[str],
    *,
    known: Mapping[str, RemotePath] | None = None,
) -> tuple[Photo, ...]:
    """Rows of a manifest as photos.

    Args:
        rows: Text by column, as ``tables.read_table`` gives it.
        source: What sentences call the manifest.
        root: Folder that its paths count from.
        normal: Labels of normal photos.
        known: Of a remote folder what its listing told, by path below the root.

    Raises:
        ManifestError: A cell says what it may not.
    """
    _check_column(rows, "split", ("", *SPLITS), f"split in {source} must be train, dev or test")
    _check_column(rows, "anomalous", ("", *_FLAGS), f"anomalous in {source} must be 0 or 1 (or empty)")
    empty = [f"row {number}" for number, row in enumerate(rows, 1) if not row.get("path", "").strip()]
    if empty:
        raise ManifestError(f"path in {source} must not be empty; it is in {first_five(empty)}.")
    normal_labels = {label.casefold() for label in normal}
    return tuple(_to_photo(row, root, normal_labels, known or {}) for row in rows)


def _to_photo(
    row: dict[str, str], root: Location, normal_labels: Collection[str], known: Mapping[str, RemotePath]
) -> Photo:
    label = row.get("label", "")
    is_anomalous = _FLAGS.get(row.get("anomalous", "").lower())
    if is_anomalous is None and label:
        is_anomalous = label.casefold() not in normal_labels
    return Photo(
        path=known.get(row["path"]) or _resolve(root, row["path"]),
        split=cast(Split, row.get("split", "").lower() or "train"),
        label=label,
        is_anomalous=is_anomalous,
        mask=known.get(row["mask"]) or _resolve(root, row["mask"]) if row.get("mask") else None,
        group=row.get("group", ""),
        roi=known.get(row["roi"]) or _resolve(root, row["roi"]) if row.get("roi") else None,
    )


def _resolve(root: Location, cell: str) -> Location:
    """What a path of a manifest means; only a manifest on this machine may name files of this machine."""
    if isinstance(root, RemotePath):
        return root.join(cell)
    return parse_url(cell) if is_url(cell) else root / cell


def _check_column(rows: Sequence[dict[str, str]], column: str, allowed: Collection[str], rule: str) -> None:
    cells = [(number, row.get(column, "")) for number, row in enumerate(rows, 1)]
    offenders = [f"row {number} has {cell!r}" for number, cell in cells if cell.lower() not in allowed]
    if offenders:
        raise ManifestError(f"{rule}, but {first_five(offenders)}.")


def _check_paths(photos: Sequence[Photo]) -> None:
    counts = Counter(str(p.path) if isinstance(p.path, RemotePath) else os.path.normpath(p.path) for p in photos)
    repeated = [path for path, count in counts.items() if count > 1]
    if repeated:
        raise ManifestError(f"A photo may be listed only once, but these are repeated: {first_five(repeated)}.")


def _check_groups(photos: Sequence[Photo]) -> None:
    splits: defaultdict[str, set[str]] = defaultdict(set)
    for photo in photos:
        splits[photo.group].add(photo.split)
    torn = [
        f"{group} ({', '.join(split for split in SPLITS if split in splits[group])})"
        for group in splits
        if group and len(splits[group]) > 1
    ]
    if torn:
        raise ManifestError(f"A group never straddles splits, but these do: {first_five(torn)}.")


def _shared_names(photos: Sequence[Photo]) -> list[str]:
    """Each photo's path below the deepest folder that holds them all, with forward slashes.

    Where only some are remote, the folder is that of the others, and the remote ones have their URLs for names.
    """
    paths = [os.path.abspath(photo.path) for photo in photos if isinstance(photo.path, Path)]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    local = iter([Path(path).relative_to(root).as_posix() for path in paths])
    parts = [str(photo.path).split("/") for photo in photos if isinstance(photo.path, RemotePath)]
    folders = list(zip(*(names[:-1] for names in parts), strict=False))
    num_shared = 0 if paths else len([*takewhile(lambda names: len(set(names)) == 1, folders)])
    remote = iter(["/".join(names[num_shared:]) for names in parts])
    return [next(local if isinstance(photo.path, Path) else remote) for photo in photos]


def digest_file(path: Location) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; "unreadable" where there is no such file, or no reading it.

    A remote file is not fetched for it: its size and ETag count, or its URL, size and time of change.
    """
    if isinstance(path, RemotePath):
        known = look_up(path) if path.size is None else path
        if known.size is None:
            return "unreadable"
        place = "" if known.version.startswith("etag ") else known.url
        return hashlib.sha256(f"{place}\0{known.size}\0{known.version}".encode()).hexdigest()
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return "unreadable"
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"
