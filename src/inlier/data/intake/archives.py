"""Zip archives, read member by member into memory, and never extracted: whatever they hold, nothing is written.

Every member is judged by the archive's list of members before a byte of it is unpacked. What is refused keeps
its place in the list, with the reason, and the others are read all the same.
"""

from __future__ import annotations

import io
import lzma
import os
import posixpath
import re
import stat
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from inlier.errors import ImageReadError

MAX_MEMBERS = 1_000_000
"""Members above which an archive is refused as a whole."""

MAX_DIRECTORY_BYTES = 512 << 20
"""Size of an archive's list of members above which it is refused as a whole."""

MAX_MEMBER_BYTES = 256 << 20
"""Unpacked size above which a member is refused: it is held in memory."""

MAX_RATIO = 200
"""How many times its packed size a member of more than 1 MiB may have. Photos hardly shrink at all."""

MAX_NAME_BYTES = 4096
"""Length of a name above which a member is refused: the longest path of Linux. Its parts may have 255 each."""

DAMAGED = (
    OSError,
    EOFError,  # the file ends within a member
    zipfile.BadZipFile,
    NotImplementedError,  # a version or a method that zipfile does not know
    RuntimeError,  # encrypted, though its list of members says otherwise
    ValueError,  # a name that is not in the encoding it claims, a position before the start
    ArithmeticError,
    LookupError,
    MemoryError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
"""Everything that ``zipfile`` was seen or documented to raise on hostile bytes."""

_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflate", 9: "deflate64", 12: "bzip2", 14: "LZMA"}
_ENCRYPTED = 0x1 | 0x40  # the traditional way, and "strong encryption"
_ENTRY = b"PK\x01\x02"
_LOCAL_HEADER_BYTES = 30  # and the name after it
_SMALL = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive.

    Attributes:
        name: Its path inside the archive with forward slashes, as text that no other member has.
        info: What the archive's list says about it.
        error: Why it is not read; "" if it is.
        is_misnamed: Whether that is for its name, which would lead elsewhere.
    """

    name: str
    info: zipfile.ZipInfo
    error: str
    is_misnamed: bool


class Archive:
    """A zip archive, open for reading, with its members judged; directory entries are left out.

    Attributes:
        path: The archive.
        modified: Its time of modification in nanoseconds.
        members: In the archive's order.

    Raises:
        ImageReadError: It is no zip archive, damaged as a whole, or its list of members is too long.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.modified = os.stat(path).st_mtime_ns
        stream = _Stream(io.FileIO(path))
        weakref.finalize(self, stream.close)
        try:
            if not zipfile.is_zipfile(stream):
                stream.seek(0)
                is_cut = stream.read(2) == b"PK"
                raise ImageReadError("damaged archive: it is cut short" if is_cut else "not a zip archive")
            self._zip = zipfile.ZipFile(stream)
        except DAMAGED as error:
            raise ImageReadError(f"damaged archive: {_reason(error)}") from error
        stream.is_list = False
        self.members = tuple(_judge(self._zip.infolist(), end=self._zip.start_dir))
        self._by_name = {member.name: member for member in self.members}

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Member:
        return self._by_name[name]

    def read(self, name: str, *, max_bytes: int = MAX_MEMBER_BYTES) -> bytes:
        """A member's bytes.

        Args:
            name: ``Member.name``.
            max_bytes: Size above which it is refused. No more than the list of members says is ever unpacked.

        Raises:
            ImageReadError: There is no such member, or it is refused, too large or damaged.
        """
        member = self._by_name.get(name)
        if member is None:
            raise ImageReadError("the file does not exist")
        size = member.info.file_size
        if reason := member.error or _too_large(size, max_bytes):
            raise ImageReadError(reason)
        try:
            with self._zip.open(member.info) as file:
                content = file.read(size + 1)  # zipfile stops at the size in its list, and then checks the CRC
        except DAMAGED as error:
            raise ImageReadError(f"damaged: {_reason(error)}") from error
        if len(content) != size:
            raise ImageReadError(f"damaged: it holds {len(content)} bytes instead of {size}")
        return content


def open_archive(path: Path) -> Archive:
    """The archive at a path, a regular file; the latest of each process stays open, so that it is listed once.

    Raises:
        ImageReadError: It cannot be opened, or as for ``Archive``.
    """
    try:
        status = path.stat()
        # A forked process shares the position in an open file with its parent: each opens its own.
        return _open(path, status.st_size, status.st_mtime_ns, os.getpid())
    except PermissionError as error:
        raise ImageReadError("no permission to read the file") from error
    except (OSError, ValueError) as error:
        raise ImageReadError(f"the file cannot be opened: {_reason(error)}") from error


@lru_cache(maxsize=1)
def _open(path: Path, size: int, modified: int, process: int) -> Archive:
    return Archive(path)


class _Stream(io.BufferedReader):
    """An archive's bytes; while ``zipfile`` reads the list of members, what would fill the memory is refused.

    Neither the number of members nor the size that an archive claims for the list binds ``zipfile``, so the
    entries are counted before it makes an object of each.
    """

    is_list = True

    def read(self, size: int | None = -1) -> bytes:
        if self.is_list and size is not None and size > MAX_DIRECTORY_BYTES:
            raise ImageReadError(f"its list of members has {size} bytes; at most {MAX_DIRECTORY_BYTES} are read")
        content = super().read(size)
        if self.is_list and (number := content.count(_ENTRY)) > MAX_MEMBERS:
            raise ImageReadError(f"an archive of {number} members; at most {MAX_MEMBERS} are read")
        return content


def _judge(infos: Sequence[zipfile.ZipInfo], *, end: int) -> Iterator[Member]:
    """The members but for directory entries; ``end`` is where the last of them must end."""
    overlapping = _find_overlaps(infos, end)
    names: set[str] = set()
    for number, info in enumerate(infos, 1):
        misnamed = _name_error(info.orig_filename)
        if not misnamed and info.is_dir():
            continue
        name = _shown(info.orig_filename)
        error = misnamed or _error(info) or ("overlaps another member" if info in overlapping else "")
        if name in names:
            error = misnamed or "an archive member of this name came before"
            stem, suffix = posixpath.splitext(name)
            name = f"{stem} (entry {number}){suffix}"
        names.add(name)
        yield Member(name, info, error, bool(misnamed))


def _shown(name: str) -> str:
    """A member's name without empty parts; one that is refused by its name comes out legible."""
    if len(name) > MAX_NAME_BYTES:
        name = f"{name[:100]}…{name[-100:]}"
    parts = [part for part in name.replace("\0", "\\0").split("/") if part not in ("", ".")]
    return "/".join(["(root)"] * name.startswith("/") + parts) or "(no name)"


def _name_error(name: str) -> str:
    """Why a name must not be trusted, if so: it would lead elsewhere than below the archive."""
    parts = name.split("/")
    length = len(name.encode("utf-8", errors="replace"))
    if "\0" in name:
        return "its name in the archive holds a NUL"
    if "\\" in name:
        return "its name in the archive holds a backslash"
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        return "its name in the archive is absolute"
    if ".." in parts:
        return "its name in the archive leads out of it"
    if not any(part not in ("", ".") for part in parts):
        return "it has no name in the archive"
    if length > MAX_NAME_BYTES or max(len(part.encode("utf-8", errors="replace")) for part in parts) > 255:
        return f"its name in the archive is too long: {length} bytes"
    return ""


def _error(info: zipfile.ZipInfo) -> str:
    """Why a member is not to be unpacked, as far as its own entry tells; "" if it is."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a link inside an archive"
    if kind not in (0, stat.S_IFREG):
        return "not a regular file (a pipe, a socket or a device)"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # zipfile bounds what the others unpack per step only after the fact.
        method = _METHODS.get(info.compress_type, f"number {info.compress_type}")
        return f"packed by a method that is not read: {method}; stored and deflate are"
    if info.file_size == 0:
        return "the file is empty"
    if reason := _too_large(info.file_size, MAX_MEMBER_BYTES):
        return reason
    if info.file_size > _SMALL and info.file_size > MAX_RATIO * info.compress_size:
        return f"unpacks to more than {MAX_RATIO} times its size, which no photo does"
    return ""


def _too_large(size: int, max_bytes: int) -> str:
    return f"has {size} bytes; at most {max_bytes} are read" if size > max_bytes else ""


def _find_overlaps(infos: Sequence[zipfile.ZipInfo], end: int) -> set[zipfile.ZipInfo]:
    """The members whose bytes lie in another's too, or in the list of members.

    That is how a small archive unpacks to terabytes though no member's ratio is unusual (Fifield, "A better
    zip bomb", WOOT 2019). A member takes at least its header, name and packed bytes.
    """
    overlapping: set[zipfile.ZipInfo] = set()
    last: zipfile.ZipInfo | None = None  # of those before, the one that ends last
    reached = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        stop = info.header_offset + _LOCAL_HEADER_BYTES + len(info.orig_filename) + info.compress_size
        if info.header_offset < reached and last is not None:
            overlapping |= {last, info}
        if info.header_offset < 0 or stop > end:
            overlapping.add(info)
        if stop > reached:
            last, reached = info, stop
    return overlapping


def _reason(error: BaseException) -> str:
    """An error's first line, or its kind where it says nothing."""
    text = getattr(error, "strerror", None) or str(error)
    return text.partition("\n")[0] or type(error).__name__
