"""Broken and hostile input, one kind a builder: each fills the folder that it is given, and touches nothing else.

``HOSTILE`` maps a kind to its builder and ``REASONS`` to the regular expression that the reason of everything
rejected in that folder matches; there is one such thing but where ``NUM_REJECTED`` says otherwise. ``TOLERATED`` are
odd but honest: every photo in their folder is read.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import ExifTags, Image

from .broken import (
    bmp_of_size,
    bomb,
    chunk,
    encoded,
    garbled,
    gif_of_size,
    grey_tiff,
    half,
    jpeg_of_size,
    jpeg_without,
    member,
    patched,
    png,
    rows,
    tiff,
    zipped,
)

Builder = Callable[[Path], None]

HOSTILE: dict[str, Builder] = {}
REASONS: dict[str, str] = {}
NUM_REJECTED = {"zip overlap": 2}
TOLERATED: dict[str, Builder] = {}

TRUNCATED = "^truncated: the file ends before the picture does$"
DAMAGED = "^damaged: "
UNKNOWN = "^not a picture in a known format"
TOO_MANY_PIXELS = r"^is \d+ x \d+ px; at most 178956970 px in all are read$"
OUTSIDE = "^its manifest names a file outside the folder$"


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def a_file(kind: str, reason: str, name: str, content: Callable[[], bytes]) -> None:
    HOSTILE[kind] = lambda folder: write(folder / name, content())
    REASONS[kind] = reason


def hostile(kind: str, reason: str) -> Callable[[Builder], Builder]:

    def register(build: Builder) -> Builder:
        HOSTILE[kind], REASONS[kind] = build, reason
        return build

    return register


def tolerated(kind: str) -> Callable[[Builder], Builder]:

    def register(build: Builder) -> Builder:
        TOLERATED[kind] = build
        return build

    return register


a_file("jpeg truncated", TRUNCATED, "x.jpg", lambda: half("JPEG"))
a_file("jpeg of two bytes", UNKNOWN, "x.jpg", lambda: b"\xff\xd8")
a_file("jpeg of a start alone", DAMAGED, "x.jpg", lambda: b"\xff\xd8\xff\xe0" + bytes(100))
a_file("jpeg of no height", DAMAGED, "x.jpg", lambda: jpeg_of_size(48, 0))
a_file("jpeg of 65500 px a side", TOO_MANY_PIXELS, "x.jpg", lambda: jpeg_of_size(65500, 65500))
a_file("jpeg without a frame", DAMAGED, "x.jpg", lambda: jpeg_without(b"\xff\xc0"))
a_file("jpeg without tables", DAMAGED, "x.jpg", lambda: jpeg_without(b"\xff\xdb"))
a_file("png truncated", TRUNCATED, "x.png", lambda: half("PNG"))
a_file("png of 50000 px a side", TOO_MANY_PIXELS, "x.png", lambda: png(50000, 50000, rows(1, 1)))
a_file("png of no width", DAMAGED, "x.png", lambda: png(0, 40, rows(1, 1)))
a_file("png of a wrong crc", DAMAGED, "x.png", lambda: png(40, 40, chunk(b"PLTE", b"abc", crc=1), rows(40, 40)))
a_file("png of no pixels", DAMAGED, "x.png", lambda: png(40, 40))
a_file("png of noise", DAMAGED, "x.png", lambda: png(40, 40, chunk(b"IDAT", garbled(bytes(500), 0))))
a_file("png of 7 bits", DAMAGED, "x.png", lambda: png(40, 40, rows(40, 40), depth=7))
a_file(
    "png with a bomb of text",
    DAMAGED,
    "x.png",
    lambda: png(40, 40, chunk(b"iTXt", b"k\0\1\0\0\0" + bomb(80 << 20)), rows(40, 40)),
)
a_file(
    "png with a bomb for a colour profile",
    DAMAGED,
    "x.png",
    lambda: png(40, 40, chunk(b"iCCP", b"p\0\0" + bomb(80 << 20)), rows(40, 40)),
)
a_file("gif truncated", TRUNCATED, "x.gif", lambda: encoded("GIF")[:900])
a_file("gif of 65535 px a side", TOO_MANY_PIXELS, "x.gif", lambda: gif_of_size(65535, 65535))
a_file("gif of no frame", DAMAGED, "x.gif", lambda: b"GIF89a" + struct.pack("<HHBBB", 40, 40, 0, 0, 0) + b";")
a_file("tiff truncated", TRUNCATED, "x.tif", lambda: half("TIFF"))
a_file("tiff of a circle", DAMAGED, "x.tif", lambda: tiff([], next_ifd=8))
a_file("tiff of 100000 px a side", TOO_MANY_PIXELS, "x.tif", lambda: grey_tiff(10**5, 10**5, strip=8, num_bytes=9))
a_file("tiff of strips elsewhere", TRUNCATED, "x.tif", lambda: grey_tiff(40, 40, strip=10**9, num_bytes=1600))
a_file("tiff of no strips", DAMAGED, "x.tif", lambda: tiff([(256, 4, 1, 40), (257, 4, 1, 40), (258, 3, 1, 8)]))
a_file("webp truncated", DAMAGED, "x.webp", lambda: half("WEBP"))
a_file("webp garbled", DAMAGED, "x.webp", lambda: garbled(encoded("WEBP"), 16))
a_file("bmp truncated", TRUNCATED, "x.bmp", lambda: half("BMP"))
a_file("bmp of negative width", TOO_MANY_PIXELS, "x.bmp", lambda: bmp_of_size(-48, 40))
a_file("bmp of 2 billion px a side", TOO_MANY_PIXELS, "x.bmp", lambda: bmp_of_size(2**31 - 1, 2**31 - 1))
a_file("heic truncated", DAMAGED, "x.heic", lambda: half("HEIF"))
a_file("heic of a brand alone", DAMAGED, "x.heic", lambda: b"\0\0\0\x18ftypheic" + bytes(100))
a_file("avif truncated", DAMAGED, "x.avif", lambda: half("AVIF"))
a_file("avif garbled", DAMAGED, "x.avif", lambda: garbled(encoded("AVIF"), 40))

a_file("text as a photo", UNKNOWN, "x.jpg", lambda: b"Dear all, the photos are in the other folder.")
a_file("page as a photo", UNKNOWN, "x.jpg", lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
a_file("postscript as a photo", UNKNOWN, "x.jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n")
a_file("zeros as a photo", UNKNOWN, "x.jpg", lambda: bytes(5000))
a_file("text", r"^not a photo: its name ends in \.txt$", "x.txt", lambda: b"notes")
a_file("no suffix", "^not a photo: its name has no suffix$", "README", lambda: b"notes")
a_file("one pixel", "^is 1 x 1 px; at least 16 px", "x.png", lambda: png(1, 1, rows(1, 1)))
a_file("a strip", "^is 15 x 400 px; at least 16 px", "x.png", lambda: png(15, 400, rows(15, 400)))


# Files


@hostile("empty", "^the file is empty$")
def _(folder: Path) -> None:
    (folder / "x.jpg").touch()


@hostile("endless", "^has 1099511627776 bytes; at most 2147483648 are read$")
def _(folder: Path) -> None:
    with (folder / "x.jpg").open("wb") as file:
        file.truncate(1 << 40)  # of which the disk holds nothing


@hostile("pipe", r"^not a regular file \(a pipe, a socket or a device\)$")
def _(folder: Path) -> None:
    os.mkfifo(folder / "x.jpg")


@hostile("socket", r"^not a regular file \(a pipe, a socket or a device\)$")
def _(folder: Path) -> None:
    here = os.open(folder, os.O_RDONLY)  # by way of which its path is short enough for a socket
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/x.jpg")
    os.close(here)


@hostile("link to a device", r"^not a regular file \(a pipe, a socket or a device\)$")
def _(folder: Path) -> None:
    (folder / "x.jpg").symlink_to("/dev/zero")


@hostile("dangling link", "^a link to a file that does not exist$")
def _(folder: Path) -> None:
    (folder / "x.jpg").symlink_to("gone.jpg")


@hostile("link to itself", "^the file cannot be opened: Too many levels of symbolic links$")
def _(folder: Path) -> None:
    (folder / "x.jpg").symlink_to("x.jpg")


@hostile("no permission", "^no permission to read the file$")
def _(folder: Path) -> None:
    (folder / "x.jpg").write_bytes(encoded("JPEG"))
    (folder / "x.jpg").chmod(0)


@hostile("no permission to list", "^the folder cannot be listed: Permission denied$")
def _(folder: Path) -> None:
    (folder / "sub").mkdir(mode=0)


@hostile("deeper than paths may be", "^the folder cannot be listed: File name too long$")
def _(folder: Path) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


# Archives


def zip_file(kind: str, reason: str, content: Callable[[], bytes]) -> None:
    a_file(kind, reason, "roll.zip", content)


def of_photo(name: str | zipfile.ZipInfo) -> Callable[[], bytes]:
    return lambda: zipped((name, encoded("PNG")))


def with_name(name: bytes) -> Callable[[], bytes]:
    """An archive with a name that ``zipfile`` would not write."""
    return lambda: zipped(("?" * len(name), encoded("PNG"))).replace(b"?" * len(name), name)


NAMED = "^its name in the archive "
LINK = (stat.S_IFLNK | 0o777) << 16

zip_file("zip of a path upwards", NAMED + "leads out of it$", of_photo("../../x.jpg"))
zip_file("zip of a path down and upwards", NAMED + "leads out of it$", of_photo("a/../../x.jpg"))
zip_file("zip of an absolute path", NAMED + "is absolute$", of_photo("/etc/x.jpg"))
zip_file("zip of a drive", NAMED + "is absolute$", of_photo("C:/x.jpg"))
zip_file("zip of a backslash", NAMED + "holds a backslash$", with_name(b"..\\x.jpg"))
zip_file("zip of a NUL", NAMED + "holds a NUL$", with_name(b"x.jpg\0.exe"))
zip_file("zip of an endless name", NAMED + "is too long: 50004 bytes$", of_photo("x" * 50_000 + ".jpg"))
zip_file("zip of a deep path", NAMED + "is too long: 6005 bytes$", of_photo("d/" * 3000 + "x.jpg"))
zip_file("zip of a link", "^a link inside an archive$", of_photo(member("x.jpg", external_attr=LINK)))
zip_file(
    "zip of a device", "^not a regular file", of_photo(member("x.jpg", external_attr=(stat.S_IFCHR | 0o666) << 16))
)
zip_file("zip encrypted", "^encrypted$", lambda: patched(of_photo("x.jpg")(), (8, "<H", 1)))
zip_file(
    "zip of bzip2",
    "^packed by a method that is not read: bzip2",
    of_photo(member("x.jpg", compress_type=zipfile.ZIP_BZIP2)),
)
zip_file(
    "zip of an unknown method",
    "^packed by a method that is not read: number 99",
    lambda: patched(of_photo("x.jpg")(), (10, "<H", 99)),
)
zip_file(
    "zip bomb",
    "^unpacks to more than 200 times its size",
    lambda: zipped((member("x.jpg", compress_type=zipfile.ZIP_DEFLATED), bytes(20 << 20))),
)
zip_file(
    "zip bomb that hides its size",
    "^damaged: ",
    lambda: patched(
        zipped((member("x.jpg", compress_type=zipfile.ZIP_DEFLATED), bytes(20 << 20))), (24, "<I", 1 << 20)
    ),
)
zip_file(
    "zip of a huge claim",
    "^has 4000000000 bytes; at most 268435456 are read$",
    lambda: patched(of_photo("x.jpg")(), (24, "<I", 4_000_000_000)),
)
zip_file(
    "zip of too few bytes",
    r"^damaged: it holds \d+ bytes instead of 10000$",
    lambda: patched(of_photo("x.jpg")(), (24, "<I", 10_000)),
)
zip_file("zip beyond its end", "^overlaps another member$", lambda: patched(of_photo("x.jpg")(), (20, "<I", 10**8)))
zip_file(
    "zip overlap",
    "^overlaps another member$",
    lambda: patched(
        zipped(("a.jpg", encoded("PNG")), ("x.jpg", encoded("PNG"))), (42, "<I", len(encoded("JPEG")) + 38)
    ),
)
zip_file(
    "zip of two of a name",
    "^an archive member of this name came before$",
    lambda: zipped(("twin.jpg", encoded("PNG"))).replace(b"twin.jpg", b"good.jpg"),
)
zip_file("zip in a zip", "^an archive inside an archive$", lambda: zipped(("inner.zip", zipped())))
zip_file("zip of an empty member", "^the file is empty$", lambda: zipped(("x.jpg", b"")))
zip_file("zip of text as a photo", UNKNOWN, lambda: zipped(("x.jpg", b"hello")))
zip_file("zip of a wrong crc", "^damaged: Bad CRC-32", lambda: patched(of_photo("x.jpg")(), (16, "<I", 1)))
zip_file(
    "zip of two names", "^damaged: File name in directory", lambda: of_photo("y.jpg")().replace(b"y.jpg", b"x.jpg", 1)
)
zip_file("zip cut short", "^damaged archive: it is cut short$", lambda: of_photo("x.jpg")()[:-50])
zip_file(
    "zip of a broken list", "^damaged archive: ", lambda: of_photo("x.jpg")().replace(b"PK\x01\x02", b"PK\x01\x03")
)
zip_file("zip of noise", "^not a zip archive$", lambda: garbled(bytes(3000), 0))
zip_file("zip of nothing", "^an archive without files$", lambda: b"PK\x05\x06" + bytes(18))
zip_file("zip of no bytes", "^the file is empty$", lambda: b"")


# Manifests


def a_manifest(kind: str, reason: str, *lines: str, encoding: str = "utf-8") -> None:
    """A kind that is a good photo, and a manifest of it and of these lines."""

    def build(folder: Path) -> None:
        (folder / "good.jpg").write_bytes(encoded("JPEG"))
        text = "\n".join(["path,label,mask", "good.jpg,good,", *lines, ""])
        (folder / "manifest.csv").write_text(text, encoding=encoding)

    HOSTILE[kind], REASONS[kind] = build, reason


a_manifest("manifest of an absolute path", OUTSIDE, "/etc/passwd,good,")
a_manifest("manifest of a path upwards", OUTSIDE, "../secret.jpg,good,")
a_manifest("manifest of a mask elsewhere", OUTSIDE, "x.jpg,good,/etc/passwd")
a_manifest("manifest of a missing photo", "^the file does not exist$", "x.jpg,good,")
a_manifest("manifest of a NUL", "^the file cannot be opened: embedded null", "x\0.jpg,good,")
a_manifest("manifest not in UTF-8", "cannot be read as a CSV table in UTF-8: ", "x.jpg,sch\xf6n,", encoding="latin-1")
a_manifest("manifest of an endless cell", "field larger than field limit", f"x.jpg,{'x' * 1_000_000},")
a_manifest("manifest of an endless path", "^the file cannot be opened: File name too long$", f"{'x' * 100_000},,")
a_manifest("manifest of too many cells", "has rows with more cells than its header", "x.jpg,good,,,,5")


@hostile("manifest that is a pipe", r"manifest\.csv cannot be read: not a regular file")
def _(folder: Path) -> None:
    (folder / "good.jpg").write_bytes(encoded("JPEG"))
    os.mkfifo(folder / "manifest.csv")


@hostile("photo that a manifest does not list", "^not listed in the manifest$")
def _(folder: Path) -> None:
    HOSTILE["manifest of a missing photo"](folder)
    (folder / "manifest.csv").write_text("path\ngood.jpg\n")
    (folder / "x.jpg").write_bytes(encoded("JPEG"))


# What must be read


def a_name(kind: str, name: str | bytes) -> None:
    TOLERATED[kind] = lambda folder: (
        Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name)))).write_bytes(encoded("JPEG")) and None
    )  # type: ignore[func-returns-value]


a_name("wrong suffix", "jpeg.png")
a_name("newline", "two\nlines.jpg")
a_name("255 bytes", "x" * 251 + ".jpg")
a_name("not UTF-8", b"sch\xf6n.jpg")
a_name("turned letters", "\u202egnp.jpg")
a_name("leading dash", "-rf.jpg")
a_name("formula", "=cmd('calc').jpg")
a_name("escape sequence", "\x1b[31mred.jpg")


@tolerated("garbage in EXIF")
def _(folder: Path) -> None:
    for number, block in enumerate(
        (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    ):
        for kind in ("JPEG", "PNG", "WEBP"):
            (folder / f"{number}.{kind.lower()}").write_bytes(encoded(kind, exif=block))


@tolerated("orientation of no meaning")
def _(folder: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 99
    (folder / "x.jpg").write_bytes(encoded("JPEG", exif=exif.tobytes()))


@tolerated("bytes after the end")
def _(folder: Path) -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        (folder / f"x.{kind.lower()}").write_bytes(encoded(kind) + b"#!/bin/sh\n" * 100)


@tolerated("folder called like a photo")
def _(folder: Path) -> None:
    (folder / "x.jpg").mkdir()
    (folder / "x.jpg" / "y.jpg").write_bytes(encoded("JPEG"))


@tolerated("links in a circle")
def _(folder: Path) -> None:
    (folder / "x.jpg").write_bytes(encoded("JPEG"))
    (folder / "up").symlink_to(folder, target_is_directory=True)


@tolerated("deep folders")
def _(folder: Path) -> None:
    deep = os.path.join(folder, *["d"] * 400)
    os.makedirs(deep)
    Path(deep, "x.jpg").write_bytes(encoded("JPEG"))


@tolerated("zip with hidden members")
def _(folder: Path) -> None:
    (folder / "roll.zip").write_bytes(zipped(("__MACOSX/._x.jpg", b"x"), (".DS_Store", b"x"), ("sub/", b"")))


@tolerated("zip after something else")
def _(folder: Path) -> None:
    write(folder / "roll.zip", b"#!/bin/sh\n" + zipped())
