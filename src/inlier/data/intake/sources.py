"""Folders, files and zip archives -> Sources: every file that ingest was given, with what is known about it.

Nothing is decoded here. A file that cannot even be tried, or that is no photo, is a Source too, with the reason:
the walk never stops for one, and loses none. It holds the names of one folder at a time (of an archive those of
all its members, of a manifest its rows), so that a million files take no more memory than the largest folder.
"""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from inlier.data.images import check_file
from inlier.data.intake.archives import open_archive
from inlier.data.intake.listings import Row, read_listing
from inlier.data.intake.trees import DiskTree, Folder, MemberTree, Seen, is_below
from inlier.data.layouts import MASKS, PHOTO_SUFFIXES, SPLITS
from inlier.data.manifest import NORMAL_LABELS
from inlier.data.remote import RemotePath, locate
from inlier.data.tables import TABLE_SUFFIXES
from inlier.errors import ImageReadError, ManifestError
from inlier.outputs import as_text

_TABLES = tuple(f"manifest{suffix}" for suffix in TABLE_SUFFIXES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file that ingest was given.

    Attributes:
        name: The path as given, with forward slashes and as valid text; of a member of an archive
            ``SRC/roll.zip/inner/IMG_1.jpg``. No two sources of a walk share one.
        path: The file on disk; of a member the archive.
        member: The name inside the archive; "" for a plain file.
        size: Bytes, of a member unpacked; with ``modified`` tells whether a file changed since.
        modified: Time of modification of ``path`` in nanoseconds; 0 if it cannot be told.
        label: The class it was sorted into; "" if unknown.
        is_anomalous: Whether a manifest or a layout says that it is anomalous; None if unknown.
        split: What a manifest or a layout says, else "".
        group: What a manifest says, below the folder of that manifest; else "".
        mask: Where its mask is, for ``open_mask``: a path on disk, or the name of another member of the same
            archive; "" without one.
        roi: Likewise the mask of the region in which a model is to look, for ``open_roi``.
        error: Why it is not to be decoded; "" if it is.
        is_photo: Whether its name, a manifest or the user says that it is meant to be a photo.
    """

    name: str
    path: Path
    member: str = ""
    size: int = 0
    modified: int = 0
    label: str = ""
    is_anomalous: bool | None = None
    split: str = ""
    group: str = ""
    mask: str = ""
    roi: str = ""
    error: str = ""
    is_photo: bool = True

    @property
    def folder(self) -> str:
        """The folder or archive that it lies in, as in ``name``; "" for the current folder."""
        return self.name.rpartition("/")[0]


def find_sources(
    paths: Sequence[Path],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    skip: Path | None = None,
    normal: Sequence[str] = NORMAL_LABELS,
) -> Iterator[Source]:
    """The files that a user means by these paths, each once, in the order given and natural order within.

    A folder's own files come before those of its subfolders; each folder is entered once however many links
    lead to it. Hidden names and ``__MACOSX`` are passed over. Labels, splits, groups and masks come from a
    manifest in the folder or one above it; else from the layouts ``{train,dev,test}/{label}`` and MVTec AD, at
    a path given or one folder below it; else the label is the name of the file's folder. A zip archive is read
    as a path given of its own.

    Args:
        paths: Folders, files, zip archives and manifests.
        include: If given, only files that match one of these globs are looked at. A glob without a slash is held
            against a file's name, any other against the path below the one given; ``**`` stands for any folders.
            Upper and lower case are the same.
        exclude: Files that match one of these are passed over; it beats ``include``.
        skip: A folder below which nothing is read.
        normal: Labels of normal photos.

    Raises:
        ManifestError: A path does not exist; before anything is yielded.
    """
    for path in paths:
        if isinstance(found := locate(path), RemotePath):
            raise ManifestError(
                f"{found} is remote, and ingest reads local files: copy it first, or give the URL to fit or inspect."
            )
        if not os.path.exists(path):
            raise ManifestError(f"{as_text(str(path))} does not exist.")
    seen = Seen(os.path.realpath(skip) if skip is not None else "")
    return _find(paths, _Wish(tuple(include), tuple(exclude), tuple(normal)), seen)


def open_source(source: Source) -> BinaryIO:
    """The bytes of a source, to be closed; those of a member lie in memory.

    Raises:
        ImageReadError: It is refused, or cannot be read; the message is the bare reason.
    """
    if source.error:
        raise ImageReadError(source.error)
    return _open(source.path, source.member)


def open_mask(source: Source) -> BinaryIO:
    """The bytes of a source's mask, likewise.

    Raises:
        ImageReadError: As for ``open_source``.
        ValueError: The source has no mask.
    """
    if not source.mask:
        raise ValueError(f"{source.name} has no mask.")
    return _open_beside(source, source.mask)


def open_roi(source: Source) -> BinaryIO:
    """The bytes of the mask of a source's region, likewise.

    Raises:
        ImageReadError: As for ``open_source``.
        ValueError: The source has none.
    """
    if not source.roi:
        raise ValueError(f"{source.name} has no region.")
    return _open_beside(source, source.roi)


def _open_beside(source: Source, at: str) -> BinaryIO:
    return _open(source.path, at) if source.member else _open(Path(at), "")


def _open(path: Path, member: str) -> BinaryIO:
    check_file(path)
    if member:
        return io.BytesIO(open_archive(path).read(member))
    try:
        return path.open("rb")
    except PermissionError as error:
        raise ImageReadError("no permission to read the file") from error
    except OSError as error:
        raise ImageReadError(f"the file cannot be opened: {error.strerror}") from error


class _Wish(NamedTuple):
    """What the user asked for."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    normal: tuple[str, ...]

    def excludes(self, below: str) -> bool:
        return any(_matches(below, glob) for glob in self.exclude)

    def keeps(self, below: str) -> bool:
        is_included = not self.include or any(_matches(below, glob) for glob in self.include)
        return is_included and not self.excludes(below)


def _matches(below: str, glob: str) -> bool:
    parts, globs = below.casefold().split("/"), glob.casefold().split("/")
    return fnmatchcase(parts[-1], globs[0]) if len(globs) == 1 else _match_parts(parts, globs)


def _match_parts(parts: Sequence[str], globs: Sequence[str]) -> bool:
    if not globs:
        return not parts
    if globs[0] == "**":
        return any(_match_parts(parts[start:], globs[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], globs[0]) and _match_parts(parts[1:], globs[1:])


def _find(paths: Sequence[Path], wish: _Wish, seen: Seen) -> Iterator[Source]:
    for path in paths:
        if seen.is_skipped(str(path)):
            continue
        if os.path.isdir(path):
            yield from _Walk(DiskTree(path, seen), wish).sources()
            continue
        is_table = path.suffix.lower() in TABLE_SUFFIXES
        if seen.is_read(str(path), in_folder=not is_table):
            continue
        seen.add_file(str(path))
        walk = _Walk(DiskTree(path.parent, seen), wish)
        if is_table:
            yield from walk.listed("", path.name, is_alone=True)
        else:
            yield from walk.file("", path.name, {}, is_named=True)


class _Walk:
    """The sources of one tree, with what manifests and layouts in it say."""

    def __init__(self, tree: DiskTree | MemberTree, wish: _Wish, prefix: str = "") -> None:
        self.tree = tree
        self.wish = wish
        self.prefix = prefix  # of paths that globs and groups see: where an archive lies below the path given
        self.layout: str | None = None  # the folder with the splits around the present one
        self.manifests: list[tuple[str, set[str]]] = []  # folders around the present one, and what theirs list
        self.elsewhere: set[str] = set()  # what manifests list outside their own folder

    def sources(self) -> Iterator[Source]:
        """Every file of the tree."""
        for folder in self.tree.folders():
            if folder.error:
                yield self._source(folder.below, error=folder.error)
                continue
            self._enter(folder)
            if table := next((name for name in _TABLES if name in folder.files), ""):
                yield from self.listed(folder.below, table)
            masks = self._masks(folder.below)
            for name in folder.files:
                if name not in masks and name not in _TABLES:
                    yield from self.file(folder.below, name, self._facts(folder.below, name))

    def file(self, folder: str, name: str, facts: dict[str, Any], *, is_named: bool = False) -> Iterator[Source]:
        """One file that no manifest lists: at most one source, but of an archive its members."""
        below = posixpath.join(folder, name)
        if self.wish.excludes(self.prefix + below) or self._is_listed(below):
            return
        is_photo = name.lower().endswith(PHOTO_SUFFIXES)
        is_archive = name.lower().endswith(".zip")
        if is_archive and not self.manifests:
            yield from self._members(below, "" if is_named else f"{self.prefix}{below}/")
        elif self.wish.keeps(self.prefix + below):
            facts = {"is_photo": is_photo or is_named} | facts
            if self.manifests and (is_photo or is_archive):
                facts = {"error": "not listed in the manifest", "is_photo": False}
            elif not (facts["is_photo"] or "error" in facts or self.tree.is_misnamed(below)):
                suffix = as_text(posixpath.splitext(name)[1])
                facts["error"] = f"not a photo: its name {f'ends in {suffix}' if suffix else 'has no suffix'}"
            yield self._source(below, **facts)

    def listed(self, folder: str, table: str, *, is_alone: bool = False) -> Iterator[Source]:
        """What a manifest lists, in its order; the manifest itself if it cannot be read.

        Args:
            folder: Where it lies.
            table: Its name.
            is_alone: Whether it was given by itself, without its folder.
        """
        try:
            rows = read_listing(self.tree, folder, table, normal=self.wish.normal)
        except ManifestError as error:
            yield self._source(posixpath.join(folder, table), error=as_text(str(error)))
            return
        listed: set[str] = set()
        for row in rows:
            if row.path in listed or self._is_listed(row.path):
                continue
            known = {row.path, row.mask, row.roi} - {""}
            listed |= known
            is_elsewhere = not row.error and not is_below(row.path, folder)
            self.elsewhere |= known if is_elsewhere else set()
            is_read = not row.error and self.tree.is_read(row.path, in_folder=is_alone or is_elsewhere)
            if not is_read and self.wish.keeps(self.prefix + row.path):
                yield self._row(row, (self.prefix + folder).strip("/"))
        self.manifests.append((folder, listed))

    def _row(self, row: Row, folder: str) -> Source:
        """A photo of a manifest; ``folder`` is where that lies, which keeps the groups of two manifests apart."""
        if row.error:
            return Source(name=self.tree.name(row.path), path=Path(self.tree.root), error=row.error)
        photo = row.photo
        return self._source(
            row.path,
            label=photo.label,
            is_anomalous=photo.is_anomalous,
            split=row.split,
            group=f"{folder}/{photo.group}" if folder and photo.group else photo.group,
            mask=row.mask and self.tree.at(row.mask),
            roi=row.roi and self.tree.at(row.roi),
        )

    def _enter(self, folder: Folder) -> None:
        """Follows the walk into a folder: which layout and which manifests are around it."""
        while self.manifests and not is_below(folder.below, self.manifests[-1][0]):
            self.manifests.pop()
        if "/" not in folder.below and self.layout != "":
            self.layout = folder.below if set(SPLITS).intersection(folder.subfolders) else None

    def _is_listed(self, below: str) -> bool:
        return below in self.elsewhere or any(below in listed for _, listed in self.manifests)

    def _masks(self, folder: str) -> set[str]:
        """Of the folder of masks of a layout the names that belong to photos; else none."""
        inside = self._inside_layout(folder)
        if inside[:1] != [MASKS]:
            return set()
        photos = self.tree.names(posixpath.join(self.layout or "", "test", *inside[1:]))
        return {f"{posixpath.splitext(name)[0]}_mask.png" for name in photos if name.lower().endswith(PHOTO_SUFFIXES)}

    def _facts(self, folder: str, name: str) -> dict[str, Any]:
        """What the layout says about a file, or else the name of its folder."""
        split, *labels = self._inside_layout(folder) or [""]
        if split == MASKS and name.lower().endswith(PHOTO_SUFFIXES):
            return {"error": "not a photo: the mask of a photo that is not there", "is_photo": False}
        if split not in SPLITS:
            return {"label": as_text(posixpath.basename(folder))}
        label = as_text(labels[0]) if labels else ""
        is_anomalous = label.casefold() not in map(str.casefold, self.wish.normal) if label else None
        mask = posixpath.join(self.layout or "", MASKS, *labels, f"{posixpath.splitext(name)[0]}_mask.png")
        has_mask = split == "test" and self.tree.has(mask)
        return {
            "split": split,
            "label": label,
            "is_anomalous": is_anomalous,
            "mask": self.tree.at(mask) if has_mask else "",
        }

    def _inside_layout(self, folder: str) -> list[str]:
        """The parts of a folder's path below the folder with the splits; none outside of such."""
        if self.layout is None or not is_below(folder, self.layout):
            return []
        return [part for part in folder[len(self.layout) :].split("/") if part]

    def _members(self, below: str, prefix: str) -> Iterator[Source]:
        """The members of an archive; the archive itself if it cannot be read."""
        source = self._source(below)
        if isinstance(self.tree, MemberTree):
            source = replace(source, error="an archive inside an archive")
        if source.error:
            yield source
            return
        try:
            archive = open_archive(source.path)
        except ImageReadError as error:
            yield replace(source, error=str(error))
            return
        if not archive.members:
            yield replace(source, error="an archive without files", is_photo=False)
        yield from _Walk(MemberTree(archive, source.name), self.wish, prefix).sources()

    def _source(self, below: str, **facts: Any) -> Source:
        """A file as a source: where it is, and these facts, which beat what can be told from there."""
        return Source(name=self.tree.name(below), **{**self.tree.locate(below)._asdict(), **facts})
