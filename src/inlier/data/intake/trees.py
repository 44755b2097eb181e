"""Trees of files, on disk or in an archive: their folders in order, and what can be told without opening a file."""

from __future__ import annotations

import os
import posixpath
import stat
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from inlier.data.images import check_file
from inlier.data.intake.archives import Archive
from inlier.data.layouts import is_visible, natural
from inlier.errors import ImageReadError
from inlier.outputs import as_text

MAX_FILE_BYTES = 2 << 30
"""Size above which a file is not read: no photo within the limit of pixels has as much."""


class Folder(NamedTuple):
    """The visible names in a folder, in natural order.

    Attributes:
        below: Its path below the root of the tree, with forward slashes; "" for the root itself.
        subfolders: Names of folders in it; of an archive only those at its root and one below.
        files: Names of all other things in it.
        error: Why it cannot be listed; "" if it can.
    """

    below: str
    subfolders: list[str]
    files: list[str]
    error: str = ""


class Place(NamedTuple):
    """Where a file is, and whether it can be tried: see ``sources.Source``."""

    path: Path
    member: str = ""
    size: int = 0
    modified: int = 0
    error: str = ""


@dataclass
class Seen:
    """What was read before, or must not be: folders by device and inode, files by their folder's and the name.

    Attributes:
        skip: Real path of a folder below which nothing is read; "" for none.
        folders: Folders that were listed.
        files: Files that the user named.
    """

    skip: str = ""
    folders: set[tuple[int, int]] = field(default_factory=set)
    files: set[tuple[int, int, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.skip and os.path.isdir(self.skip):
            self.folders.add(_key(os.stat(self.skip)))

    def is_skipped(self, path: str) -> bool:
        """Whether a path leads to the folder to be skipped, or below it."""
        if not self.skip or "\0" in path:  # no file has that in its name, but a manifest may
            return False
        return is_below(os.path.realpath(path), self.skip, os.sep)

    def is_read(self, path: str, *, in_folder: bool) -> bool:
        """Whether a file was named before or, if ``in_folder``, lies in a folder that was listed."""
        key = _file_key(path)
        return key in self.files or (in_folder and is_visible(key[2]) and key[:2] in self.folders)

    def add_file(self, path: str) -> None:
        """Remembers a file that the user named."""
        self.files.add(_file_key(path))


class DiskTree:
    """The files below a folder on disk.

    Attributes:
        root: The folder.
        prefix: What comes before a path below it where files are named to the user.
    """

    def __init__(self, root: Path, seen: Seen) -> None:
        self.prefix = "" if root == Path() else f"{root.as_posix().rstrip('/')}/"
        self.root = str(root)
        self.seen = seen

    def folders(self) -> Iterator[Folder]:
        """Every folder that was not listed before: its own line before those of its subfolders."""
        pending = [""]
        while pending:
            below = pending.pop()
            try:
                key = _key(os.stat(self.at(below)))
                if key in self.seen.folders:  # reached before, by a link perhaps to its own parent
                    continue
                self.seen.folders.add(key)
                subfolders, files = self._list(self.at(below), key)
            except OSError as error:
                yield Folder(below, [], [], f"the folder cannot be listed: {error.strerror}")
                continue
            yield Folder(below, subfolders, files)
            pending.extend(posixpath.join(below, name) for name in reversed(subfolders))

    def _list(self, path: str, key: tuple[int, int]) -> tuple[list[str], list[str]]:
        subfolders: list[str] = []
        files: list[str] = []
        with os.scandir(path) as entries:
            for entry in entries:
                is_read = (*key, entry.name) in self.seen.files
                is_skipped = entry.is_symlink() and self.seen.is_skipped(entry.path)
                if is_visible(entry.name) and not is_read and not is_skipped:
                    (subfolders if _is_folder(entry) else files).append(entry.name)
        subfolders.sort(key=natural)
        files.sort(key=natural)
        return subfolders, files

    def name(self, below: str) -> str:
        """What a file or folder is called before the user."""
        return _name(self.prefix, below)

    def at(self, below: str) -> str:
        """How ``Source.mask`` says where a file is: by its path on disk."""
        return os.path.join(self.root, below) if below else self.root

    def locate(self, below: str) -> Place:
        """A file's place, from one look at it; it is not opened."""
        path = Path(self.at(below))
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return Place(path, error=_refusal(path))
        error = _too_large(status.st_size) if stat.S_ISREG(status.st_mode) and status.st_size else _refusal(path)
        return Place(path, "", status.st_size, status.st_mtime_ns, error)

    def is_misnamed(self, below: str) -> bool:
        """False: what is listed in a folder lies in it."""
        return False

    def has(self, below: str) -> bool:
        """Whether there is such a file."""
        return os.path.isfile(self.at(below))

    def names(self, below: str) -> list[str]:
        """Names in a folder; none where there is no such folder."""
        try:
            return os.listdir(self.at(below))
        except OSError:
            return []

    def is_read(self, below: str, *, in_folder: bool) -> bool:
        """As ``Seen.is_read``; also True for what is to be skipped."""
        return self.seen.is_read(self.at(below), in_folder=in_folder) or self.seen.is_skipped(self.at(below))


class MemberTree:
    """The members of an archive; as for ``DiskTree``."""

    def __init__(self, archive: Archive, prefix: str) -> None:
        self.root = str(archive.path)
        self.archive = archive
        self.prefix = f"{prefix}/"
        self._files: defaultdict[str, list[str]] = defaultdict(list)
        for member in archive.members:
            folder, _, name = member.name.rpartition("/")
            if member.is_misnamed or all(map(is_visible, member.name.split("/"))):
                self._files[folder].append(name)

    def folders(self) -> Iterator[Folder]:
        """The folders of members, and the two uppermost levels of folders without any of their own."""
        subfolders: dict[str, set[str]] = {"": set()}
        for folder in self._files:
            first, _, rest = folder.partition("/")
            if first:
                subfolders[""].add(first)
                subfolders.setdefault(first, set()).update(rest.split("/")[:1] if rest else ())
        for below in sorted({*subfolders, *self._files}, key=_natural_path):
            files = sorted(self._files.get(below, ()), key=natural)
            yield Folder(below, sorted(subfolders.get(below, ()), key=natural), files)

    def name(self, below: str) -> str:
        """What a file or folder is called before the user."""
        return _name(self.prefix, below)

    def at(self, below: str) -> str:
        """How ``Source.mask`` says where a member is: by its name."""
        return below

    def locate(self, below: str) -> Place:
        """A member's place, as the archive's list tells it."""
        path, modified = self.archive.path, self.archive.modified
        if below not in self.archive:
            return Place(path, below, modified=modified, error="the file does not exist")
        member = self.archive[below]
        return Place(path, below, member.info.file_size, modified, member.error)

    def is_misnamed(self, below: str) -> bool:
        """Whether a member must not be trusted for its name."""
        return self.archive[below].is_misnamed

    def has(self, below: str) -> bool:
        """Whether there is such a member."""
        return below in self.archive

    def names(self, below: str) -> list[str]:
        """Names in a folder."""
        return self._files.get(below, [])

    def is_read(self, below: str, *, in_folder: bool) -> bool:
        """False: an archive has nothing that could have been read by another way."""
        return False


def is_below(path: str, folder: str, separator: str = "/") -> bool:
    """Whether a path is a folder's own or lies in it, by their names; "" is the root of all."""
    return not folder or path == folder or path.startswith(folder.rstrip(separator) + separator)


def _name(prefix: str, below: str) -> str:
    name = as_text(prefix + below).replace("\0", "\\0")
    return name if below else name.rstrip("/") or "."


def _natural_path(below: str) -> list[str]:
    return [natural(part) for part in below.split("/")] if below else []


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _file_key(path: str) -> tuple[int, int, str]:
    """Tells a file from all others, whichever way its folder was reached; 0, 0 if there is no such folder."""
    folder, name = os.path.split(path)
    try:
        return (*_key(os.stat(folder or os.curdir)), name)
    except (OSError, ValueError):
        return 0, 0, name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links, or a path longer than the system takes
        return False


def _refusal(path: Path) -> str:
    try:
        check_file(path)
    except ImageReadError as error:
        return str(error)
    return ""


def _too_large(size: int) -> str:
    return f"has {size} bytes; at most {MAX_FILE_BYTES} are read" if size > MAX_FILE_BYTES else ""
