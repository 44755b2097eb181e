"""Places in photos that a reviewer drew: polygons, and masks made of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.images import read_image
from inlier.data.manifest import Manifest
from inlier.data.remote import locate
from inlier.errors import ImageReadError, InlierError
from inlier.outputs import as_text
from inlier.segmenting import write_manifest

Kind = Literal["interest", "defect"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MAX_CORNERS = 1000
"""Corners that a polygon may have."""


@dataclass(frozen=True, slots=True)
class Region:
    """A polygon in a photo.

    Attributes:
        kind: ``interest``: what of the photo counts. ``defect``: what is wrong with it.
        label: What it shows; may be empty.
        polygon: Corners (x, y) as shares of the photo's width and height, each in [0, 1]; at least three.

    Raises:
        ValueError: It is none of that.
    """

    kind: Kind
    label: str
    polygon: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind of Region must be one of {', '.join(KINDS)}, got {self.kind!r}.")
        if not 3 <= len(self.polygon) <= MAX_CORNERS:
            raise ValueError(f"polygon of Region must have 3 to {MAX_CORNERS} corners, got {len(self.polygon)}.")
        if not all(isfinite(of) and 0 <= of <= 1 for corner in self.polygon for of in corner):
            raise ValueError("polygon of Region must lie in the photo: each coordinate in [0, 1].")

    def pixels(self, size: tuple[int, int]) -> list[tuple[float, float]]:
        """Its corners in a photo of this width and height, in px from the upper left corner."""
        return [(x * size[0], y * size[1]) for x, y in self.polygon]


class Marked(Protocol):
    """What knows photos with regions, such as a ``Review``."""

    def marked(self) -> list[tuple[str, tuple[Region, ...]]]:
        """Path and regions of each photo that has some."""
        ...


def to_mask(regions: Iterable[Region], *, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centres lie in any of the regions; of one too thin to hold a centre, that of its first corner.

    Args:
        regions: Which; where one crosses itself, what it goes around an even number of times is outside.
        size: Width and height of the photo.

    Returns:
        Shape (H, W).
    """
    mask = np.zeros((size[1], size[0]), dtype=np.bool_)
    for region in regions:
        corners = np.array(region.pixels(size))
        drawn = _fill(corners, size)
        if not drawn.any():
            x, y = np.minimum(corners[0].astype(int), (size[0] - 1, size[1] - 1)).tolist()
            drawn[y, x] = True
        mask |= drawn
    return mask


def _fill(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Row by row, from where an edge is crossed to where the next one is."""
    mask = np.zeros((size[1], size[0]), dtype=np.bool_)
    (x0, y0), (x1, y1) = corners.T, np.roll(corners, -1, axis=0).T
    for row in range(int(y0.min()), min(size[1], int(y0.max()) + 1)):
        y = row + 0.5
        is_crossed = (y0 <= y) != (y1 <= y)
        share = (y - y0[is_crossed]) / (y1[is_crossed] - y0[is_crossed])
        crossings = np.sort(x0[is_crossed] + share * (x1[is_crossed] - x0[is_crossed]))
        columns = np.ceil(crossings - 0.5).astype(int).reshape(-1, 2)
        for start, stop in columns.tolist():
            mask[row, start:stop] = True
    return mask


def write_masks(review: Marked, out: Path, *, data: Manifest | None = None) -> int:
    """Writes a PNG mask for each photo with regions: defects, else what counts, as white pixels of its size.

    A mask has the photo's name with ``_mask.png`` for its suffix, below ``defect`` or ``interest`` and the folders in
    which the photo lies below the one that holds all photos with regions.

    Args:
        review: Knows what was drawn.
        out: The folder.
        data: The photos of the review. Beside the masks, ``manifest.csv`` then says of them what this does, with what
            counts in the column ``roi`` and defects, of photos that are not normal, in ``mask``. None: there is none.

    Returns:
        How many masks were written.

    Raises:
        InlierError: A photo cannot be read, or nothing can be written.
    """
    marked = review.marked()
    names = _mask_names([path for path, _ in marked])
    written: dict[tuple[str, Kind], Path] = {}
    for (path, regions), name in zip(marked, names, strict=True):
        try:
            height, width = read_image(locate(Path(path))).shape[:2]
        except ImageReadError as error:
            raise InlierError(f"{as_text(path)} cannot be read: {error}.") from error
        for kind in KINDS:
            of_kind = [region for region in regions if region.kind == kind]
            if not of_kind:
                continue
            target = out / kind / f"{name}_mask.png"
            mask = Image.fromarray(to_mask(of_kind, size=(width, height)).astype(np.uint8) * 255)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                mask.save(target)
            except OSError as error:
                raise InlierError(f"Nothing can be written to {as_text(target)}: {error.strerror or error}.") from error
            written[path, kind] = target
    if data is not None:
        _write_manifest(data, written, out)
    return len(written)


def _write_manifest(data: Manifest, masks: Mapping[tuple[str, Kind], Path], out: Path) -> None:
    """The photos with their masks: those that were drawn, else those that they had."""
    photos = []
    for photo in data.photos:
        path = location_key(photo.path)
        defect = None if photo.is_anomalous is False else masks.get((path, "defect"))
        photos.append(replace(photo, mask=defect or photo.mask, roi=masks.get((path, "interest")) or photo.roi))
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_manifest(Manifest(tuple(photos)), out)
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(out)}: {error.strerror or error}.") from error


def _mask_names(paths: Sequence[str]) -> list[str]:
    """The photos' names without suffixes; with them where two photos differ in nothing else."""
    names = relative_names(paths)
    stems = Counter(os.path.splitext(name)[0] for name in names)
    return [stem if stems[stem := os.path.splitext(name)[0]] == 1 else name for name in names]


def location_key(path: object) -> str:
    """What a photo's path is known by in a review: absolute, or a URL, as text."""
    text = str(path)
    return as_text(text if "://" in text else os.path.abspath(text))


def relative_names(paths: Sequence[str]) -> list[str]:
    """The paths below the folder that they share, with forward slashes; a URL is taken for the path that it names."""
    plain = [path.partition("://")[2] or path for path in paths]
    folders = [os.path.dirname(os.path.abspath(path)) for path in plain]
    root = os.path.commonpath(folders) if folders else ""
    return [Path(os.path.relpath(os.path.abspath(path), root)).as_posix() for path in plain]
