"""Folders of photos -> manifest rows: the walk through a folder, and the layouts that need no manifest.

A folder may be a URL; its photos then come in the same order, with the size and version that the listing told.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

from inlier.data.remote import Location, RemotePath, find_objects, locate, look_up_all
from inlier.data.tables import first_five
from inlier.errors import ManifestError

SPLITS = ("train", "dev", "test")

PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif",
)  # fmt: skip
"""What a photo's name ends in, upper or lower case."""

MASKS = "ground_truth"
"""Folder of the masks in the layout of MVTec AD."""


def find_photos(paths: Sequence[Path]) -> list[Location]:
    """The photos that a user means by these paths, in the order given.

    What is not a folder is kept whatever it is, for it was named; also what does not exist, so that it gets
    its row. Folders are searched to any depth for names that end like a photo's, dangling links included,
    each folder once however many links lead to it. A folder's own photos come before those of its subfolders,
    2.jpg before 10.jpg. Hidden names and ``__MACOSX`` are passed over. A URL that ends like a photo's name is
    one, any other is a folder if something lies below it.

    Raises:
        ManifestError: A folder cannot be listed, or a URL not be used.
        MissingExtraError: The package that reads a URL is not installed.
    """
    places = [locate(path) for path in paths]
    named = [place for place in places if isinstance(place, RemotePath) and _is_photo(place.name)]
    known = {path: path for path in look_up_all(named)}
    found: list[Location] = []
    visited: set[tuple[int, int]] = set()
    listed: set[RemotePath] = set()
    for place in places:
        if isinstance(place, Path):
            found.extend(_find_local(place, visited))
        elif place in known:
            found.append(known[place])
        else:
            objects = find_objects(place)
            is_folder = bool(objects) and objects != [place]
            photos = select_photos(place, objects) if is_folder else objects or [place]
            found.extend(path for path in photos if not (is_folder and path in listed))
            listed.update(photos if is_folder else ())
    return found


def _find_local(path: Path, visited: set[tuple[int, int]]) -> list[Path]:
    """The photos in a folder, or what else was named; folders visited before are left out, and new ones noted."""
    if not os.path.isdir(path):
        return [path]
    found: list[Path] = []
    for folder, subfolders, files in os.walk(path, followlinks=True, onerror=_refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:  # reached before, by a link perhaps to its own parent
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(filter(is_visible, subfolders), key=natural)
        photos = (name for name in files if is_visible(name) and _is_photo(name))
        found.extend(Path(folder, name) for name in sorted(photos, key=natural))
    return found


def select_photos(folder: RemotePath, objects: Sequence[RemotePath]) -> list[RemotePath]:
    """Of all objects below a remote folder the photos, in the order of ``find_photos``."""
    split = [(path, path.below(folder).split("/")) for path in objects]
    photos = [(path, names) for path, names in split if _is_photo(names[-1]) and all(map(is_visible, names))]
    photos.sort(key=lambda of: [(depth < len(of[1]), natural(name)) for depth, name in enumerate(of[1], 1)])
    return [path for path, _ in photos]


def _is_photo(name: str) -> bool:
    return name.lower().endswith(PHOTO_SUFFIXES)


def read_folder(folder: Path) -> list[dict[str, str]]:
    """Manifest rows of a folder without a manifest, in natural order; paths are relative to the folder.

    Photos below ``{train,dev,test}/{label}/`` carry split and label. A photo ``test/{label}/x.png`` of the
    MVTec AD layout (Bergmann et al., CVPR 2019) has its mask at ``ground_truth/{label}/x_mask.png``: matched
    by name, because the two folders need not have the same number of files. Without such folders the photos
    are unlabelled.

    Raises:
        ManifestError: Photos lie both below and beside the folders of the splits.
    """
    names = [path.relative_to(folder).as_posix() for path in _find_local(folder, set())]
    return _rows(folder, names, lambda mask: (folder / mask).is_file())


def read_remote_folder(folder: RemotePath, photos: Sequence[RemotePath]) -> list[dict[str, str]]:
    """The same of a remote folder.

    Args:
        folder: Paths are relative to it.
        photos: All below it, from ``select_photos``.

    Raises:
        ManifestError: As for ``read_folder``.
    """
    names = [path.below(folder) for path in photos]
    return _rows(folder, names, frozenset(names).__contains__)


def _rows(folder: Location, names: Sequence[str], is_there: Callable[[str], bool]) -> list[dict[str, str]]:
    below = [(name, name.split("/")) for name in names]
    if not any(parts[0] in SPLITS for _, parts in below):
        return [{"path": name} for name in names]
    stray = [name for name, parts in below if parts[0] not in (*SPLITS, MASKS)]
    if stray:
        raise ManifestError(
            f"{folder} has folders train, dev or test, but also photos outside them: {first_five(stray)}. "
            "Move those into a split and a label, or list the photos in a manifest.csv."
        )
    return [_split_row(name, parts, is_there) for name, parts in below if parts[0] != MASKS]


def is_visible(name: str) -> bool:
    """Whether a name is neither hidden (.git, AppleDouble's ._IMG_1.jpg) nor added to an archive by macOS."""
    return not name.startswith(".") and name != "__MACOSX"


def natural(name: str) -> str:
    """Sort key of a name that reads digits as numbers: 2.jpg before 10.jpg. A NUL in the name is not expected.

    Text, for a million keys fit into memory at once: a number stands as NUL, its length and its digits, and so
    before all letters; what is alike but for letters' case and leading zeros goes by the name itself.
    """
    return f"{re.sub('[0-9]+', _number, name.casefold())}\0\0{name}"


def _split_row(name: str, parts: Sequence[str], is_there: Callable[[str], bool]) -> dict[str, str]:
    split, *labels = parts[:-1]
    row = {"path": name, "split": split, "label": labels[0] if labels else ""}
    mask = "/".join((MASKS, *labels, f"{PurePosixPath(parts[-1]).stem}_mask.png"))
    if split == "test" and is_there(mask):
        row["mask"] = mask
    return row


def _number(digits: re.Match[str]) -> str:
    significant = digits[0].lstrip("0")
    return f"\0{chr(len(significant) + 1)}{significant}"


def _refuse(error: OSError) -> NoReturn:
    raise ManifestError(f"{error.filename} cannot be listed: {error.strerror}.") from error
