"""One source -> one stored photo with what was measured on it: all that needs its pixels, in a worker process."""

from __future__ import annotations

import hashlib
import io
import os
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile

from inlier.data.images import MIN_SIDE, UNDECODABLE, decode, open_image, read_mask
from inlier.data.intake.grouping import MAX_DIGITS
from inlier.data.intake.hashing import perceptual_hashes
from inlier.data.intake.metadata import Metadata, kept_exif, read_metadata
from inlier.data.intake.quality import Quality, measure_quality
from inlier.data.intake.similarity import thumbnail
from inlier.data.intake.sources import Source, open_mask, open_roi, open_source
from inlier.data.intake.workers import alone
from inlier.data.text.reading import numbers_in, read_text
from inlier.errors import ImageReadError, InlierError

PHOTOS, MASKS, ROIS = "photos", "masks", "rois"
_Opened = Callable[[Source], BinaryIO]
_JPEG_QUALITY = 95
_LARGE_PIXELS = 30_000_000
"""Pixels above which workers take turns: a picture of 30 megapixels fills 90 MB."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a source.

    Attributes:
        error: Why there is no photo of it; "" if there is, and then the rest is known.
        sha256: Of the source's bytes, in hexadecimal.
        path: Where the photo is stored, below the data set, with forward slashes.
        mask: Where its mask is stored; "" without one.
        mask_error: Why its mask could not be stored.
        roi: Where the mask of its region is stored; "" without one.
        roi_error: Why that could not be stored.
        width: Pixels of the stored photo.
        height: The same.
        source_width: Pixels of the source, upright.
        source_height: The same.
        metadata: When and by which camera it was taken.
        quality: What was measured on the stored photo.
        hashes: Bytes of its four perceptual hashes, uint64, little-endian.
        thumbnail: Bytes of its thumbnail, 64 x 64, uint8.
        number: The only number of at most three digits that is written in it, if that was asked; else "".
    """

    error: str = ""
    sha256: str = ""
    path: str = ""
    mask: str = ""
    mask_error: str = ""
    roi: str = ""
    roi_error: str = ""
    width: int = 0
    height: int = 0
    source_width: int = 0
    source_height: int = 0
    metadata: Metadata = field(default_factory=lambda: Metadata("", ""))
    quality: Quality = field(default_factory=lambda: Quality(0, 0, 0, 0, 0))
    hashes: bytes = b""
    thumbnail: bytes = b""
    number: str = ""


@dataclass(frozen=True, slots=True)
class Preparer:
    """Stores photos; what a worker process is given.

    Attributes:
        directory: The data set.
        scratch: A folder on the same disk for files that are not whole yet.
        longest_side: Pixels that a photo has at most on its longer side.
        keep_gps: Whether it keeps saying where it was taken.
        reads_numbers: Whether it is looked for a number in it.
    """

    directory: Path
    scratch: Path
    longest_side: int
    keep_gps: bool
    reads_numbers: bool = False

    def __call__(self, source: Source) -> Prepared:
        """Stores a source's photo and masks, and measures it.

        Raises:
            InlierError: They cannot be written, as on a full disk.
        """
        try:
            with open_source(source) as file:
                sha256 = _digest(file)
                return self._store(source, file, sha256)
        except ImageReadError as error:
            return Prepared(error=str(error))
        except OSError as error:  # a network drive that went away
            return Prepared(error=f"the file cannot be read: {error.strerror}")

    def _store(self, source: Source, stream: BinaryIO, sha256: str) -> Prepared:
        with open_image(stream) as file:
            size = file.size
            with alone(self.scratch) if size[0] * size[1] > _LARGE_PIXELS else nullcontext():
                photo = decode(file, longest_side=self.longest_side)
            if min(photo.size) < MIN_SIDE:
                raise ImageReadError(
                    f"is {size[0]} x {size[1]} px, of which {photo.width} x {photo.height} are left; "
                    f"at least {MIN_SIDE} px a side are needed"
                )
            metadata, exif = _read_exif(file, keep_gps=self.keep_gps)
        pixels = np.asarray(photo)
        small = thumbnail(pixels)
        path = f"{PHOTOS}/{sha256[:2]}/{sha256[:32]}.jpg"
        encoded = io.BytesIO()
        photo.save(encoded, "JPEG", quality=_JPEG_QUALITY, subsampling=0, exif=exif)
        self._write(path, encoded.getvalue())
        stored_size = photo.height, photo.width
        mask, mask_error = self._store_mask(MASKS, open_mask if source.mask else None, source, sha256, stored_size)
        roi, roi_error = self._store_mask(ROIS, open_roi if source.roi else None, source, sha256, stored_size)
        is_turned = (photo.width - photo.height) * (size[0] - size[1]) < 0
        return Prepared(
            sha256=sha256,
            path=path,
            mask=mask,
            mask_error=mask_error,
            roi=roi,
            roi_error=roi_error,
            width=photo.width,
            height=photo.height,
            source_width=size[is_turned],
            source_height=size[not is_turned],
            metadata=metadata,
            quality=measure_quality(pixels),
            hashes=perceptual_hashes(small).astype("<u8").tobytes(),
            thumbnail=small.tobytes(),
            number=_number_in(pixels) if self.reads_numbers else "",
        )

    def _store_mask(
        self, folder: str, opened: _Opened | None, source: Source, sha256: str, size: tuple[int, int]
    ) -> tuple[str, str]:
        """Where a mask is stored, or why it is not; its name tells photo and mask, for both may come twice.

        Args:
            folder: Of masks of that kind.
            opened: What opens it; None if the source has none.
            source: Whose it is.
            sha256: Of the source.
            size: Height and width of the photo as stored.
        """
        if opened is None:
            return "", ""
        try:
            with opened(source) as file:
                mask_sha256 = _digest(file)
                mask = read_mask(file, size=size)
        except ImageReadError as error:
            return "", str(error)
        except OSError as error:
            return "", f"the file cannot be read: {error.strerror}"
        path = f"{folder}/{sha256[:2]}/{sha256[:16]}{mask_sha256[:16]}.png"
        encoded = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(encoded, "PNG")
        self._write(path, encoded.getvalue())
        return path, ""

    def _write(self, name: str, content: bytes) -> None:
        """Writes a file that is whole or absent; another process may be writing the same."""
        path = self.directory / name
        unfinished = self.scratch / f"{socket.gethostname()}-{os.getpid()}.part"
        try:
            unfinished.write_bytes(content)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(unfinished, path)
        except OSError as error:
            raise InlierError(
                f"{path} cannot be written: {error.strerror}. What was done is kept: given again, ingest goes on."
            ) from error


def _number_in(pixels: NDArray[np.uint8]) -> str:
    """The number written in a photo; "" if there is none, or several of which any may be the part's."""
    numbers = [number for number in numbers_in(read_text(pixels)) if len(number) <= MAX_DIGITS]
    return numbers[0] if len(numbers) == 1 else ""


def _digest(file: BinaryIO) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; it is then at its beginning again."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    file.seek(0)
    return digest.hexdigest()


def _read_exif(file: ImageFile, *, keep_gps: bool) -> tuple[Metadata, bytes]:
    """What the block says, and what of it is kept; a broken one must not cost the photo."""
    try:
        exif = file.getexif()
    except UNDECODABLE:
        exif = Image.Exif()
    return read_metadata(exif), kept_exif(exif, keep_gps=keep_gps)
