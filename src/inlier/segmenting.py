"""Masks of regions by whatever can segment a photo: SAM, rembg, a model of one's own."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.data.images import read_image
from inlier.data.manifest import Manifest
from inlier.data.remote import Location
from inlier.data.tables import COLUMNS
from inlier.errors import ImageReadError, InlierError
from inlier.outputs import as_text, write_whole


class Segmenter(Protocol):
    """Tells the part from its surroundings in a photo."""

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Where the part is, shape (H, W); nowhere if there is none. ``pixels``: shape (H, W, 3), uint8 RGB."""
        ...


def write_regions(data: Manifest, segmenter: Segmenter, directory: Path) -> Manifest:
    """Writes a mask for each photo, and a manifest that names them in its column ``roi``.

    A photo that cannot be read, or in which nothing was found, has no mask, and with ``--regions mask`` is uncertain at
    best.

    Args:
        data: Which photos.
        segmenter: What is asked for each photo, one after the other.
        directory: Made if need be: ``manifest.csv``, and a PNG for each photo, named by its number.

    Returns:
        The same photos with their masks.

    Raises:
        InlierError: Nothing can be written there.
        ValueError: The segmenter gives masks of another shape than their photos.
    """
    photos = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for number, photo in enumerate(data.photos):
            path = directory / f"{number:06d}.png"
            try:
                pixels = read_image(photo.path)
            except ImageReadError:
                photos.append(photo)
                continue
            is_part = np.asarray(segmenter(pixels), dtype=bool)
            if is_part.shape != pixels.shape[:2]:
                raise ValueError(f"A segmenter must give masks of shape {pixels.shape[:2]}, got {is_part.shape}.")
            if is_part.any():
                Image.fromarray(np.where(is_part, np.uint8(255), np.uint8(0))).save(path)
            photos.append(replace(photo, roi=path) if is_part.any() else photo)
        masked = Manifest(tuple(photos))
        write_manifest(masked, directory)
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(directory)}: {error.strerror or error}.") from error
    return masked


def write_manifest(data: Manifest, directory: Path) -> None:
    """Writes ``manifest.csv`` into a folder: files below it by their names there, others by their full paths.

    Raises:
        OSError: It cannot be written.
    """
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(COLUMNS)
    for photo in data.photos:
        path, mask, roi = (_named(of, directory) for of in (photo.path, photo.mask, photo.roi))
        flag = "" if photo.is_anomalous is None else int(photo.is_anomalous)
        rows.writerow((path, photo.split, photo.label, flag, photo.group, mask, roi))
    write_whole(directory / "manifest.csv", text.getvalue())


def _named(file: Location | None, directory: Path) -> str:
    if not isinstance(file, Path):
        return str(file or "")
    return file.relative_to(directory).as_posix() if file.is_relative_to(directory) else os.path.abspath(file)
