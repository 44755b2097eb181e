"""Squares: decoded photos, kept on disk so that every step of a training can read some of them again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.data.loader import load_batches
from inlier.data.manifest import Photo
from inlier.data.transforms import Transform


class Squares:
    """Photos as uint8 squares in one temporary file, one record a photo.

    A training shows each photo many times, and decoding takes longer than all that is done to it afterwards. They are
    read with plain reads and leave the process's memory at once, whatever their number (a mapped file's pages would
    count as the process's own); the operating system keeps them at hand as long as it has room. The file has no name
    where the system allows that, so that it goes even if the process is killed. Threads may read at the same time.

    Attributes:
        side: Height and width of each square, in pixels.
        photos: Those that could be read, in the order given; the square at a place is that of the photo there.
        unreadable: The others, in the order given, each with the reason.

    Example:
        >>> with Squares.read([Photo(Path("missing.jpg"), "train")], side=64, workers=0) as squares:
        ...     (len(squares), [reason for _, reason in squares.unreadable])
        (0, ['the file does not exist'])
    """

    def __init__(
        self, file: IO[bytes], side: int, photos: Sequence[Photo], unreadable: Sequence[tuple[Photo, str]]
    ) -> None:
        """Use ``read``; this takes a file of records as it is."""
        self.side = side
        self.photos = tuple(photos)
        self.unreadable = list(unreadable)
        self._file = file

    @classmethod
    def read(
        cls,
        photos: Sequence[Photo],
        *,
        side: int,
        workers: int = 2,
        advance: Callable[[int], None] = lambda photos: None,
        directory: Path | None = None,
    ) -> Self:
        """Decodes photos, some at a time, whole and squeezed to squares as a detector sees them.

        Args:
            photos: Which photos.
            side: Height and width of a square, in pixels, >= 1.
            workers: Threads that decode, >= 0.
            advance: Told of photos done, readable or not.
            directory: Where the file is made; None: where the system keeps temporary files (``TMPDIR``).

        Raises:
            ValueError: ``side`` or ``workers`` is too small.
        """
        if side < 1:
            raise ValueError(f"side of Squares must be at least 1, got {side}.")
        plain = Transform(size=side, mean=(0, 0, 0), std=(1, 1, 1))
        batches = load_batches(photos, plain, workers=workers)
        file = tempfile.TemporaryFile(prefix="inlier-squares-", dir=directory)
        readable: list[Photo] = []
        unreadable: list[tuple[Photo, str]] = []
        try:
            with closing(batches):
                for batch in batches:
                    colours = (batch.images * 255).round().to(torch.uint8)  # what it was before normalising, exactly
                    file.write(colours.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
                    readable.extend(batch.photos)
                    unreadable.extend(batch.unreadable)
                    advance(len(batch.photos) + len(batch.unreadable))
            file.flush()
        except BaseException:
            file.close()
            raise
        return cls(file, side, readable, unreadable)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, place: int) -> NDArray[np.uint8]:
        """The square at a place, counted from 0: shape (side, side, 3), RGB, the caller's own.

        Raises:
            IndexError: There is none.
        """
        if not 0 <= place < len(self.photos):
            raise IndexError(f"place of a square must be in [0, {len(self.photos)}), got {place}.")
        square = np.empty((self.side, self.side, 3), dtype=np.uint8)
        if os.preadv(self._file.fileno(), [square.data], place * square.nbytes) != square.nbytes:
            raise OSError(f"The file of squares lost photo {place}.")
        return square
