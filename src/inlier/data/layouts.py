"""Folders of photos -> manifest rows: the walk through a folder, and the layouts that need no manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from inlier.data.tables import first_five
from inlier.errors import ManifestError

SPLITS = ("train", "dev", "test")

PHOTO_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif",
)  # fmt: skip
"""What a photo's name ends in, upper or lower case."""

MASKS = "ground_truth"
"""Folder of the masks in the layout of MVTec AD."""


def find_photos(paths: Sequence[Path]) -> list[Path]:
    """The photos that a user means by these paths, in the order given.

    What is not a folder is kept whatever it is, for it was named; also what does not exist, so that it gets
    its row. Folders are searched to any depth for names that end like a photo's, dangling links included,
    each folder once however many links lead to it. A folder's own photos come before those of its subfolders,
    2.jpg before 10.jpg. Hidden names and ``__MACOSX`` are passed over.

    Raises:
        ManifestError: A folder cannot be listed.
    """
    found: list[Path] = []
    visited: set[tuple[int, int]] = set()
    for path in paths:
        if not os.path.isdir(path):
            found.append(path)
            continue
        for folder, subfolders, files in os.walk(path, followlinks=True, onerror=_refuse):
            status = os.stat(folder)
            if (
                status.st_dev,
                status.st_ino,
            ) in visited:  # reached before, by a link perhaps to its own parent
                subfolders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            subfolders[:] = sorted(filter(is_visible, subfolders), key=natural)
            photos = (name for name in files if is_visible(name) and name.lower().endswith(PHOTO_SUFFIXES))
            found.extend(Path(folder, name) for name in sorted(photos, key=natural))
    return found


def read_folder(folder: Path) -> list[dict[str, str]]:
    """Manifest rows of a folder without a manifest, in natural order; paths are relative to the folder.

    Photos below ``{train,dev,test}/{label}/`` carry split and label. A photo ``test/{label}/x.png`` of the
    MVTec AD layout (Bergmann et al., CVPR 2019) has its mask at ``ground_truth/{label}/x_mask.png``: matched
    by name, because the two folders need not have the same number of files. Without such folders the photos
    are unlabelled.

    Raises:
        ManifestError: Photos lie both below and beside the folders of the splits.
    """
    photos = [path.relative_to(folder) for path in find_photos([folder])]
    if not any(path.parts[0] in SPLITS for path in photos):
        return [{"path": str(path)} for path in photos]
    stray = [str(path) for path in photos if path.parts[0] not in (*SPLITS, MASKS)]
    if stray:
        raise ManifestError(
            f"{folder} has folders train, dev or test, but also photos outside them: {first_five(stray)}. "
            "Move those into a split and a label, or list the photos in a manifest.csv."
        )
    return [_split_row(folder, path) for path in photos if path.parts[0] != MASKS]


def is_visible(name: str) -> bool:
    """Whether a name is neither hidden (.git, AppleDouble's ._IMG_1.jpg) nor added to an archive by macOS."""
    return not name.startswith(".") and name != "__MACOSX"


def natural(name: str) -> str:
    """Sort key of a name that reads digits as numbers: 2.jpg before 10.jpg. A NUL in the name is not expected.

    Text, for a million keys fit into memory at once: a number stands as NUL, its length and its digits, and so
    before all letters; what is alike but for letters' case and leading zeros goes by the name itself.
    """
    return f"{re.sub('[0-9]+', _number, name.casefold())}\0\0{name}"


def _split_row(folder: Path, path: Path) -> dict[str, str]:
    split, *labels = path.parts[:-1]
    row = {"path": str(path), "split": split, "label": labels[0] if labels else ""}
    mask = Path(MASKS, *labels, f"{path.stem}_mask.png")
    if split == "test" and (folder / mask).is_file():
        row["mask"] = str(mask)
    return row


def _number(digits: re.Match[str]) -> str:
    significant = digits[0].lstrip("0")
    return f"\0{chr(len(significant) + 1)}{significant}"


def _refuse(error: OSError) -> NoReturn:
    raise ManifestError(f"{error.filename} cannot be listed: {error.strerror}.") from error
