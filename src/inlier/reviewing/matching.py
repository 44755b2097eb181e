"""What an exchanged file says of photos, and which photos of a review it means."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inlier.data.images import open_image, orientation
from inlier.data.remote import locate
from inlier.data.tables import first_five
from inlier.errors import ImageReadError, ReviewError
from inlier.reviewing.decisions import ReviewPhoto
from inlier.reviewing.regions import Region, relative_names


@dataclass(frozen=True, slots=True)
class Said:
    """What a file says of a photo.

    Attributes:
        path: What it calls the photo.
        digest: SHA-256 of the photo's bytes; "" if it does not say.
        is_anomalous: Whether it is anomalous; None if it does not say.
        label: What it shows; None likewise.
        reviewer: Who said so; "" if it does not say.
        regions: What is drawn in it.
    """

    path: str
    digest: str = ""
    is_anomalous: bool | None = None
    label: str | None = None
    reviewer: str = ""
    regions: tuple[Region, ...] = ()


def match(said: Sequence[Said], photos: Sequence[ReviewPhoto]) -> list[int]:
    """The number of the photo that each means: known by its bytes, its path, its path below the data, or its name.

    A name counts only where no two photos have it.

    Raises:
        ReviewError: A photo is not in the review.
    """
    relative = relative_names([photo.path for photo in photos])
    names = Counter(os.path.basename(name) for name in relative)
    known: dict[str, int] = {}
    for photo, name in zip(photos, relative, strict=True):
        base = os.path.basename(name)
        if names[base] == 1:
            known.setdefault(base, photo.number)
    for photo, name in zip(photos, relative, strict=True):
        known |= {name: photo.number, photo.path: photo.number}
    digests = {photo.digest: photo.number for photo in photos}
    found, unknown = [], []
    for of in said:
        keys = (of.path, os.path.basename(of.path), os.path.basename(of.path).partition("-")[2])
        number = digests.get(of.digest) if of.digest else None
        number = number or next((known[key] for key in keys if key in known), None)
        if number is None:
            unknown.append(of.path)
        else:
            found.append(number)
    if unknown:
        raise ReviewError(f"The review has no such photos: {first_five(unknown)}.")
    return found


def photo_size(path: str) -> tuple[int, int] | None:
    """Width and height of a photo as it is shown, from its header; None if that cannot be read."""
    try:
        with open_image(locate(Path(path))) as file:
            width, height = file.size
            is_turned = file.format != "TIFF" and orientation(file) >= 5  # TIFF turns its size itself
    except ImageReadError:
        return None
    return (height, width) if is_turned else (width, height)
