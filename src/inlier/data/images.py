"""Path or URL -> uint8 RGB, shape (H, W, 3): the only place that decodes files.

Whatever a file holds, the outcome is a picture or an ``ImageReadError`` whose message is the bare reason
("the file is empty"), to be shown beside the path. The first bytes choose Pillow's reader: ``Image.open``
would try forty formats, some of which start other programs, and warn of large pictures, which can be silenced
only for all threads at once.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.ImageFile import ImageFile

from inlier.data.modes import is_deep, to_rgb
from inlier.data.remote import Location, RemotePath
from inlier.errors import ImageReadError

MIN_SIDE = 16
"""Pixels that a photo needs on either side; smaller ones are icons and tracking pixels."""

MAX_PIXELS = 178_956_970
"""Pixels above which a photo is refused as a decompression bomb: Pillow's own limit."""

LARGE_PIXELS = MAX_PIXELS // 2
"""Pixels above which photos are decoded one at a time, whatever the number of threads."""

MAX_FETCHED_BYTES = 256 << 20
"""Size above which a remote photo is refused before it is fetched: it is held in memory."""

UNDECODABLE = (
    OSError,  # cut short, or a codec gave up; includes UnidentifiedImageError
    EOFError,  # no first frame
    SyntaxError,  # Pillow's word for a broken header
    ValueError,  # values that contradict each other; includes UnicodeDecodeError
    TypeError,  # a metadata field of another type than promised
    LookupError,  # an unknown mode, a tag or a table entry that is not there
    AttributeError,  # a block on which another relies is missing
    ArithmeticError,  # a zero denominator, a size beyond the machine's integers
    AssertionError,  # a state that Pillow held to be impossible
    RuntimeError,  # libheif
    MemoryError,  # sizes that only a header claims
    struct.error,
    zlib.error,
    Image.DecompressionBombError,  # a frame inside that is larger than the header said
    Warning,  # Pillow's remarks on odd metadata, where the caller's filters make them errors
)
"""Everything that Pillow and its codecs were seen or documented to raise on hostile bytes."""

_LARGE_PHOTO = threading.Lock()

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what puts the picture upright (CIPA DC-008, tag 274)."""


def read_image(path: Location, *, min_side: int | None = None) -> NDArray[np.uint8]:
    """The photo at a path, upright, in RGB.

    Of animations and multi-page files the first picture counts. ``modes.to_rgb`` says how others than RGB are
    shown.

    Args:
        path: A regular file, or a link to one, or a remote photo.
        min_side: If given, the photo is reduced by the largest power of two that leaves this many pixels on
            both sides, a JPEG up to 8 times by its decoder: 12 megapixels take a fifth of the time, and
            resized to 224 px differ by 0.3 of 255 on average. Never enlarged.

    Returns:
        Shape (H, W, 3), uint8.

    Raises:
        ImageReadError: There is no such file, or it is no picture, damaged, too small or too large.
        ValueError: ``min_side`` is not positive.
    """
    if min_side is not None and min_side < 1:
        raise ValueError(f"min_side of read_image must be at least 1, got {min_side}.")
    with open_image(path) as file:
        return np.array(decode(file, min_side=min_side))


def decode(file: ImageFile, *, min_side: int | None = None, longest_side: int | None = None) -> Image.Image:
    """The picture in an open photo, upright, in RGB; a JPEG is reduced by its decoder as far as the size allows.

    Args:
        file: From ``open_image``, inside its block.
        min_side: As for ``read_image``.
        longest_side: If given, larger photos are resized to it, in pixels, with an antialiasing filter.

    Raises:
        ImageReadError: A value in it is no finite number; what else goes wrong becomes one in ``open_image``.
    """
    size = file.size
    if file.format == "JPEG" and (min_side or longest_side):
        file.draft(None, (min_side, min_side) if min_side else _fitted(size, longest_side or 1))
    file.load()
    image = to_rgb(file)
    if file.format != "JPEG":
        size = image.size  # a TIFF may have turned itself
    if min_side is not None and (factor := _power_of_two(min(image.size) // min_side)) > 1:
        image = image.reduce(factor)
    if longest_side is not None and max(image.size) > longest_side:
        image = image.resize(_fitted(size, longest_side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return _turn_upright(image, orientation(file))


def read_mask(source: Location | BinaryIO, *, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The defect mask in a file: True where any colour is > 0 and not transparent.

    Where the file is larger than asked, a pixel is a defect if any pixel that falls into it is, so that none
    is lost; where it is smaller, pixels are repeated.

    Args:
        source: Its path, or its bytes as a file that can seek.
        size: Wanted height and width.

    Returns:
        Shape (height, width).

    Raises:
        ImageReadError: As for ``read_image``.
    """
    with open_image(source) as file:
        file.load()
        image: Image.Image = file
        if file.has_transparency_data:
            image = file.convert("RGBA")
        elif file.mode not in ("1", "L", "RGB") and not is_deep(file):
            image = file.convert("RGB")
        values = np.asarray(_turn_upright(image, orientation(file)))
    is_defect: NDArray[np.bool_] = np.asarray(values > 0)
    if is_defect.ndim == 3:
        is_defect = np.logical_and(is_defect[..., :3].any(axis=2), is_defect[..., 3:].all(axis=2))
    for axis, (wanted, given) in enumerate(zip(size, is_defect.shape, strict=True)):
        # reduceat joins everything from one start to the next, and takes one row where two starts agree.
        is_defect = np.logical_or.reduceat(is_defect, np.arange(wanted) * given // wanted, axis=axis)
    return is_defect


@contextmanager
def open_image(source: Location | BinaryIO) -> Iterator[ImageFile]:
    """A photo with its header read and its size checked; what fails inside the block is an ImageReadError too.

    Args:
        source: Its path, or its bytes as a file that can seek, which stays open.

    Raises:
        ImageReadError: As for ``read_image``.
    """
    try:
        with (
            open_file(source) if isinstance(source, Path | RemotePath) else nullcontext(source) as stream,
            _read_header(stream) as file,
        ):
            width, height = file.size
            if min(width, height) < MIN_SIDE:
                raise ImageReadError(f"is {width} x {height} px; at least {MIN_SIDE} px a side are needed")
            if width * height > MAX_PIXELS:
                raise ImageReadError(f"is {width} x {height} px; at most {MAX_PIXELS} px in all are read")
            if width * height <= LARGE_PIXELS:
                yield file
            else:
                with (
                    _LARGE_PHOTO,
                    warnings.catch_warnings(),
                ):  # swaps the filters of all threads: hence, too, the lock
                    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                    yield file
    except UNDECODABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        is_truncated = "truncated" in reason.lower()
        reason = "truncated: the file ends before the picture does" if is_truncated else f"damaged: {reason}"
        raise ImageReadError(reason) from error


def open_file(path: Location) -> BinaryIO:
    """The bytes of a photo or mask, to be closed; those of a remote one lie in memory, fetched by one request.

    Raises:
        ImageReadError: There is no such file, it is no regular file, too large to fetch, or cannot be read.
    """
    try:
        if isinstance(path, RemotePath):
            content = path.read_bytes(max_bytes=MAX_FETCHED_BYTES)
            if not content:
                raise ImageReadError("the file is empty")
            return io.BytesIO(content)
        check_file(path)
        return path.open("rb")
    except PermissionError as error:
        is_local = isinstance(path, Path)
        raise ImageReadError("no permission to read the file" if is_local else str(error)) from error
    except OSError as error:
        raise ImageReadError(
            f"the file cannot be opened: {error.strerror}" if error.strerror else str(error)
        ) from error


def check_file(path: Path) -> None:
    """Refuse what is no regular file before it is opened: opening a pipe would wait for a writer.

    Raises:
        ImageReadError: With the reason.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        missing = "a link to a file that does not exist" if path.is_symlink() else "the file does not exist"
        raise ImageReadError(missing) from error
    except OSError as error:
        raise ImageReadError(f"the file cannot be opened: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise ImageReadError(f"the file cannot be opened: {error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageReadError("a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise ImageReadError("not a regular file (a pipe, a socket or a device)")
    if status.st_size == 0:
        raise ImageReadError("the file is empty")


def _read_header(stream: BinaryIO) -> ImageFile:
    start = stream.read(64)
    stream.seek(0)
    for signature, reader in _READERS:
        if signature.match(start):
            return reader(stream)
    raise ImageReadError("not a picture in a known format (JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC or AVIF)")


def _read_heif(stream: BinaryIO) -> ImageFile:
    from pillow_heif import HeifImageFile

    file: ImageFile = HeifImageFile(stream)  # type: ignore[no-untyped-call]
    return file


def _read_avif(stream: BinaryIO) -> ImageFile:
    from PIL.AvifImagePlugin import AvifImageFile

    return AvifImageFile(stream)


_READERS: tuple[tuple[re.Pattern[bytes], Callable[[BinaryIO], ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),  # of an MPO pair the first picture
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"BM"), BmpImagePlugin.BmpImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImagePlugin.TiffImageFile),
    (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    (
        re.compile(rb"....ftyp.{0,48}avi[fs]", re.DOTALL),
        _read_avif,
    ),  # the brand may stand among the compatible ones
    (re.compile(rb"....ftyp(he|mif1|msf1)", re.DOTALL), _read_heif),
)
"""First bytes of each format, and Pillow's reader for it."""


def _fitted(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """A width and height of the same shape whose longer one is as given."""
    scale = longest_side / max(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def _power_of_two(ratio: int) -> int:
    """The largest power of two up to a ratio, at least 1."""
    return 1 << (max(ratio, 1).bit_length() - 1)


def orientation(file: ImageFile) -> int:
    """The EXIF orientation, 1 to 8; 1 where the block is missing or broken, for it must not cost the photo.

    To be asked for after decoding: TIFF and HEIF files turn themselves, and then report 1.
    """
    try:
        orientation = file.getexif().get(ExifTags.Base.Orientation)
    except UNDECODABLE:
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])
