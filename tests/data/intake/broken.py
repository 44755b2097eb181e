"""Bytes of small photos and archives, valid and broken."""

from __future__ import annotations

import functools
import io
import struct
import zipfile
import zlib
from collections.abc import Iterable

import numpy as np
import pillow_heif
from PIL import Image

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


@functools.cache
def encoded(kind: str, **options: object) -> bytes:
    """A small valid photo in a format."""
    image, buffer = Image.fromarray(PIXELS), io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes, *, crc: int | None = None) -> bytes:
    """A chunk of a PNG file."""
    check = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, *chunks: bytes, depth: int = 8) -> bytes:
    """A PNG file of RGB with these chunks after its header."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def rows(width: int, height: int) -> bytes:
    """The pixels of a black PNG file."""
    return chunk(b"IDAT", zlib.compress(bytes((width * 3 + 1) * height)))


def bomb(num_bytes: int) -> bytes:
    return zlib.compress(bytes(num_bytes), 9)


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG file whose header claims a size."""
    content = bytearray(encoded("JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def jpeg_without(marker: bytes) -> bytes:
    """A JPEG file that lacks a segment."""
    content = encoded("JPEG")
    at = content.index(marker)
    return content[:at] + content[at + 2 + struct.unpack(">H", content[at + 2 : at + 4])[0] :]


def tiff(entries: Iterable[tuple[int, int, int, int]], *, next_ifd: int = 0) -> bytes:
    """A TIFF file of one directory: tag, type, count and value of each entry."""
    entries = list(entries)
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + packed + struct.pack("<I", next_ifd)


def grey_tiff(width: int, height: int, *, strip: int, num_bytes: int) -> bytes:
    sizes = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    return tiff([*sizes, (273, 4, 1, strip), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, num_bytes)])


def bmp_of_size(width: int, height: int) -> bytes:
    """A BMP file whose header claims a size."""
    content = bytearray(encoded("BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def gif_of_size(width: int, height: int) -> bytes:
    content = bytearray(encoded("GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def garbled(content: bytes, start: int) -> bytes:
    """Bytes with noise from a position on."""
    noise = np.random.default_rng(1).integers(0, 256, len(content) - start, dtype=np.uint8)
    return content[:start] + noise.tobytes()


def half(kind: str) -> bytes:
    return encoded(kind)[: len(encoded(kind)) // 2]


def member(name: str, **fields: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """An archive of these members after a good photo."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for info, content in (("good.jpg", encoded("JPEG")), *members):
            archive.writestr(info, content)
    return buffer.getvalue()


def patched(content: bytes, *changes: tuple[int, str, int], name: bytes = b"x.jpg") -> bytes:
    """An archive in whose list of members fields of one are overwritten: offset, format of ``struct``, value."""
    altered = bytearray(content)
    at = altered.rindex(name) - 46
    assert altered[at : at + 4] == b"PK\x01\x02"
    for offset, form, value in changes:
        struct.pack_into(form, altered, at + offset, value)
    return bytes(altered)
