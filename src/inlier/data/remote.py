"""Photos that lie in object storage: URLs of s3:// and gs:// through fsspec, beside paths of this machine.

A remote photo is a ``RemotePath``: its URL, and the size and version that a listing told. It has the few names of
``pathlib.Path`` that photos are asked for, and no ``__fspath__``: what would open it as a local file is refused by the
type checker, and by Python. A subclass of ``Path`` would pass both and then look for a folder named ``s3:``; that of
universal_pathlib is none any more either, and would be one dependency more for five short methods.

``Path("s3://bucket/a")`` has lost a slash and is taken for what was meant, so that whatever takes a folder takes a URL:
commands and functions keep their type. Only a key with two slashes in a row cannot be given so; listings find it.
"""

from __future__ import annotations

import os
import posixpath
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from inlier.errors import ManifestError, MissingExtraError

DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "memory": "fsspec"}
"""Scheme of a URL -> the package that reads it. A short list: a manifest may come from a stranger."""

INSTALL = {"s3fs": "'inlier[remote]'", "fsspec": "'inlier[remote]'", "gcsfs": "'inlier[remote]' gcsfs"}

REQUESTS_AT_ONCE = 16
"""Requests for the size and version of photos that no listing told."""

_RETRIES = {"mode": "standard", "total_max_attempts": 4}
"""Of botocore: waits of up to 1, 2 and 4 s; after some hundred failures in all no more, so that a server that is gone
does not cost as much again for each photo."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)  # one letter would be a drive of Windows
_COLLAPSED_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(.*)", re.DOTALL)
_CONTENT_TAGS = ("md5Hash", "ETag", "etag")
_TIMES = ("LastModified", "updated", "mtime", "created")

_CONNECTING = threading.Lock()


@dataclass(frozen=True, slots=True)
class RemotePath:
    """One object, or a folder of them; two are equal if their URLs are.

    Example:
        >>> photo = RemotePath("s3://ships/port/7.jpg")
        >>> photo.name, str(photo.parent), str(photo.parent.join("8.jpg"))
        ('7.jpg', 's3://ships/port', 's3://ships/port/8.jpg')

    Attributes:
        url: With its scheme, without a slash at the end.
        size: In bytes; None if nobody asked yet, or there is no such object.
        version: What changes with its content: the ETag, or the time of change; "" if that is unknown.
    """

    url: str
    size: int | None = field(default=None, compare=False)
    version: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.url

    @property
    def scheme(self) -> str:
        """s3, gs or memory."""
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        """What stands behind the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot, or ""."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder that it lies in."""
        return RemotePath(self.url.rpartition("/")[0])

    def below(self, folder: RemotePath) -> str:
        """The rest of its URL below a folder that it lies in."""
        return self.url.removeprefix(f"{folder.url}/")

    def join(self, text: str) -> RemotePath:
        """What a path in a remote manifest means: another URL, or one relative to this folder; ``..`` goes up.

        Raises:
            ManifestError: The path is one of this machine, or a URL that cannot be used.
        """
        named = parse_url(text) if is_url(text) else None
        if isinstance(named, RemotePath):
            return named
        if named is not None or text.startswith("/"):
            raise ManifestError(f"Paths of a manifest in {self} must be relative to it or remote URLs, got {text}.")
        scheme, _, place = self.url.partition("://")
        return RemotePath(f"{scheme}://{posixpath.normpath(f'{place}/{text}')}")

    def read_bytes(self, *, max_bytes: int) -> bytes:
        """The whole object, in one request if its size is known.

        Args:
            max_bytes: Size above which it is not fetched.

        Raises:
            OSError: It cannot be fetched; the message is the bare reason.
        """
        size = look_up(self).size if self.size is None else self.size
        if size is not None and size > max_bytes:
            raise OSError(f"has {size} bytes; at most {max_bytes} are fetched")
        with _failures_as_os_errors(self.scheme):
            content: bytes = _filesystem(self.scheme).cat_file(self.url)
        return content


Location = Path | RemotePath
"""Where a photo, a mask or a manifest lies."""


def locate(path: Path) -> Location:
    """What a path given by a user means: itself, or the URL that it was before it became a path.

    Raises:
        ManifestError: It is a URL that cannot be used.
        MissingExtraError: The package that reads it is not installed.
    """
    match = _COLLAPSED_URL.fullmatch(path.as_posix())
    if match is None or (match[1].lower() not in (*DRIVERS, "file") and os.path.lexists(path)):
        return path
    return parse_url(f"{match[1]}://{'/' * (match[1].lower() == 'file')}{match[2]}")


def is_url(text: str) -> bool:
    """Whether a cell of a manifest is a URL, and no path."""
    return _URL.fullmatch(text) is not None


def parse_url(text: str) -> Location:
    """The place that a URL names; that of file:// is one of this machine.

    Raises:
        ManifestError: The scheme is unknown, no bucket is named, or the URL holds credentials, which would end up in
            results.
        MissingExtraError: The package that reads it is not installed.
    """
    scheme, place = re.split("://", text, maxsplit=1)
    scheme = scheme.lower()
    if scheme == "file":
        from urllib.parse import unquote

        return Path(unquote(place.removeprefix("localhost")))
    host = re.split("[/?#]", place, maxsplit=1)[0]
    shown = f"{scheme}://{host.rpartition('@')[2]}"  # a query may hold a signature
    if scheme not in DRIVERS:
        raise ManifestError(f"{shown} cannot be read; photos are read from s3://, gs://, file:// and plain paths.")
    if "@" in host:
        raise ManifestError(f"The URL of {shown} holds credentials; set them in the environment instead.")
    if not place.strip("/"):
        raise ManifestError(f"{shown} names no bucket; a URL is such as {scheme}://bucket/folder.")
    _check_driver(scheme)
    return RemotePath(f"{scheme}://{place.strip('/') if scheme == 'memory' else place.rstrip('/')}")


def find_objects(folder: RemotePath) -> list[RemotePath]:
    """All objects below a folder, to any depth, by URL; the object itself if the URL names one.

    One request for every 1,000 objects on S3; sizes and versions come with it.

    Raises:
        ManifestError: It cannot be listed.
    """
    try:
        with _failures_as_os_errors(folder.scheme):
            listing: Mapping[str, Mapping[str, Any]] = _filesystem(folder.scheme).find(folder.url, detail=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ManifestError(f"{folder} cannot be listed: {error}.") from error
    return [_of(f"{folder.scheme}://{name.lstrip('/')}", listing[name]) for name in sorted(listing)]


def look_up(path: RemotePath) -> RemotePath:
    """The same with size and version; unchanged where they cannot be had, for reading it will say why."""
    try:
        with _failures_as_os_errors(path.scheme):
            return _of(path.url, _filesystem(path.scheme).info(path.url))
    except OSError:
        return path


def look_up_all(paths: Sequence[RemotePath]) -> list[RemotePath]:
    """``look_up`` of each whose size is unknown, several at once."""
    if all(path.size is not None for path in paths):
        return list(paths)
    with ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="look-up") as pool:
        return list(pool.map(lambda path: look_up(path) if path.size is None else path, paths))


def exists(path: Location) -> bool:
    """Whether there is a file, or an object."""
    return look_up(path).size is not None if isinstance(path, RemotePath) else path.is_file()


def state_of(path: Location) -> str:
    """What tells that a file changed: size, and time of change or ETag; "missing" if there is no such file."""
    if isinstance(path, RemotePath):
        known = look_up(path) if path.size is None else path
        return "missing" if known.size is None else f"{known.size} {known.version}"
    try:
        status = os.stat(path)
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def real_path(path: Location) -> str:
    """What is the same for all names of one file: its path without links, or its URL."""
    return path.url if isinstance(path, RemotePath) else os.path.realpath(path)


def disconnect() -> None:
    """Closes the connections of this process; the next request opens them anew, with the environment of then."""
    _connect.cache_clear()


def _of(url: str, info: Mapping[str, Any]) -> RemotePath:
    """A path with what a driver tells of it; a folder has no size."""
    if info.get("type") == "directory":
        return RemotePath(url)
    tag = next((f"etag {str(info[name]).strip(chr(34))}" for name in _CONTENT_TAGS if info.get(name)), "")
    time = next((f"time {info[name]}" for name in _TIMES if info.get(name)), "")
    return RemotePath(url, size=int(info["size"]), version=tag or time)


def _check_driver(scheme: str) -> None:
    from importlib.util import find_spec

    package = DRIVERS[scheme]
    if find_spec("fsspec") is None or find_spec(package) is None:
        raise MissingExtraError(
            f"{scheme}:// is read by {package}, which is not installed; install it with: pip install {INSTALL[package]}"
        )


def _filesystem(scheme: str) -> Any:
    with _CONNECTING:  # or threads that begin at once would open connections each
        return _connect(scheme, os.getpid())


@cache
def _connect(scheme: str, process: int) -> Any:
    """A driver with its connections, one for all threads; a forked process (by its number) needs its own.

    Nothing is kept of listings: a folder may have grown since.
    """
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        options["config_kwargs"] = {"retries": _RETRIES, "connect_timeout": 5, "read_timeout": 30}
    filesystem = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        filesystem.retries = 2  # of s3fs, around those of botocore: for an answer that breaks off in the middle
    return filesystem


@contextmanager
def _failures_as_os_errors(scheme: str) -> Iterator[None]:
    """What a driver raises for the world's faults as an OSError whose message is the bare reason."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError("the file does not exist") from error
    except PermissionError as error:
        raise PermissionError(f"no permission to read it ({_reason(error)})") from error
    except _failures(scheme) as error:
        raise OSError(f"cannot be fetched: {_reason(error)}") from error


def _failures(scheme: str) -> tuple[type[Exception], ...]:
    """Base classes of what a driver raises where a server, a network or the credentials are at fault."""
    if scheme == "s3":
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError
        from botocore.exceptions import ClientError as Refusal

        return OSError, ValueError, ClientError, BotoCoreError, Refusal  # ValueError: a bucket's name
    if scheme == "gs":
        from aiohttp import ClientError
        from gcsfs.retry import HttpError
        from google.auth.exceptions import GoogleAuthError

        return OSError, ValueError, ClientError, HttpError, GoogleAuthError
    return OSError, ValueError


def _reason(error: Exception) -> str:
    """The first line of an error, without the password that the URL of an endpoint may hold."""
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return re.sub(r"//[^/@\s]*@", "//", text)[:300].rstrip(".")
