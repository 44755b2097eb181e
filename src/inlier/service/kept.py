"""What is kept of photos: of the latest ones, for a while, what their heatmaps need; and whole ones where asked."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.decision.heatmap import heat_overlay
from inlier.errors import ConfigError
from inlier.outputs import as_text
from inlier.service.settings import MIB

_SUFFIXES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II", ".tif"),
    (b"MM", ".tif"),
)


@dataclass(frozen=True, eq=False, slots=True)
class Heat:
    """What a heatmap is drawn from.

    Attributes:
        pixels: The photo, shape (H, W, 3), uint8.
        anomaly_map: Shape (h, w).
        scale: Scores at which heat begins and at which it is full.
        caller: Who sent the photo; others do not see it.
    """

    pixels: NDArray[np.uint8]
    anomaly_map: NDArray[np.float32]
    scale: tuple[float, float]
    caller: str

    def png(self) -> bytes:
        """The photo under its map."""
        buffer = io.BytesIO()
        Image.fromarray(heat_overlay(self.pixels, self.anomaly_map, scale=self.scale)).save(
            buffer, "PNG", compress_level=1
        )
        return buffer.getvalue()


class HeatCache:
    """The latest photos' heat, up to so many bytes; what is oldest goes first."""

    def __init__(self, max_bytes: int = 64 * MIB) -> None:
        """It is empty.

        Args:
            max_bytes: Of pixels and maps.
        """
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._kept: OrderedDict[str, Heat] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, inspection: str, heat: Heat) -> None:
        """Keeps it for a while."""
        with self._lock:
            self._kept[inspection] = heat
            self._num_bytes += _size(heat)
            while self._num_bytes > self._max_bytes and self._kept:
                _, oldest = self._kept.popitem(last=False)
                self._num_bytes -= _size(oldest)

    def get(self, inspection: str) -> Heat | None:
        """That of an inspection, if it is still there."""
        return self._kept.get(inspection)

    def __len__(self) -> int:
        return len(self._kept)


class PhotoFolder:
    """Photos by their digest: one that comes again is there already, and no name of a client becomes a path."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder.

        Raises:
            ConfigError: It cannot be made, or written to.
        """
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigError(f"No photos can be kept in {as_text(folder)}: {error.strerror}.") from error

    def keep(self, digest: str, content: bytes) -> str:
        """Writes a photo, whole or not at all; returns its name in the folder.

        Args:
            digest: SHA-256 of the content, hexadecimal.
            content: The photo.

        Raises:
            OSError: It cannot be written.
        """
        name = f"{digest[:2]}/{digest}{suffix_of(content)}"
        path = self._folder / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True, mode=0o700)
            number, beside = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(content)
                os.replace(beside, path)
            except BaseException:
                os.unlink(beside)
                raise
        return name


def suffix_of(content: bytes) -> str:
    """The end of the name of a file with this content."""
    if content[8:12] == b"WEBP":
        return ".webp"
    if content[4:8] == b"ftyp":
        return ".heic"
    return next((suffix for start, suffix in _SUFFIXES if content.startswith(start)), ".bin")


def _size(heat: Heat) -> int:
    return heat.pixels.nbytes + heat.anomaly_map.nbytes
