"""Features kept on disk by content, for every command and process that asks for the same."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from inlier.errors import InlierError
from inlier.features.backbone import Backbone
from inlier.features.records import Records
from inlier.outputs import as_text

if sys.platform != "win32":
    import fcntl

DEFAULT_BUDGET = 20 * 2**30
"""Bytes that a store holds, unless told otherwise."""

_NOTES, _EXTRAS = "notes.json", "extras.bin"

Fill = Callable[[Records], tuple[Any, Sequence[bytes]]]
"""Appends the features; returns what else to keep: notes that JSON can hold, and pieces of bytes."""


class FeatureStore:
    """A folder of features, each entry under a key that says all that they depend on.

    An entry is written once, by whoever asks first, while others that ask for it wait; then all read it. One that
    is being read is never removed, and of the others those that were used longest ago go first when the store
    outgrows its budget. An entry that is interrupted half-way leaves nothing that anybody would take for one.

    Attributes:
        directory: The folder.
        budget_bytes: What it may hold, but for what is being read.
        num_filled: Entries that had to be computed by this object.
        num_found: Entries that were there.
    """

    def __init__(self, directory: Path, *, budget_bytes: int = DEFAULT_BUDGET) -> None:
        """Opens a store; the folder is made when it is first needed."""
        self.directory = directory
        self.budget_bytes = budget_bytes
        self.num_filled = 0
        self.num_found = 0

    def open(self, key: str, fill: Fill, *, dtype: torch.dtype) -> Stored:
        """The features under this key, computed if they are not there; they stay until the result is closed.

        Args:
            key: Letters and digits that tell them from all others (``features_key``).
            fill: Computes them.
            dtype: Type of numbers that are kept.

        Raises:
            InlierError: Nothing can be written there.
        """
        entry = self.directory / key
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            lock = _lock(self.directory / f"{key}.lock", is_shared=True)
            try:
                stored = _open(entry, lock)
                self.num_found += stored is not None
                if stored is None:  # others that ask for it now wait here, and one of them computes it
                    _relock(lock, is_shared=False)
                    stored = _open(entry, lock)
                    self.num_found += stored is not None
                if stored is None:
                    shutil.rmtree(entry, ignore_errors=True)
                    _write(entry, fill, dtype)
                    self.num_filled += 1
                    stored = Stored(entry, lock)
                os.utime(entry)
                _relock(lock, is_shared=True)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            reason = error.strerror or error
            raise InlierError(f"Features cannot be kept in {as_text(self.directory)}: {reason}.") from error
        self.make_room()
        return stored

    def find(self, key: str) -> Stored:
        """The features under a key that was filled before.

        Raises:
            InlierError: They are no longer there: the store is too small for what is read at once.
        """
        lock = _lock(self.directory / f"{key}.lock", is_shared=True)
        if (stored := _open(self.directory / key, lock)) is None:
            os.close(lock)
            raise InlierError(
                f"Features that are still needed were removed from {as_text(self.directory)}, which may hold "
                f"{self.budget_bytes // 2**20}MiB; raise --cache-budget."
            )
        return stored

    def make_room(self) -> None:
        """Removes what was used longest ago and nobody is reading, until the store is within its budget."""
        entries = sorted(self._entries(), key=lambda of: of[0])
        excess = sum(size for _, size, _ in entries) - self.budget_bytes
        for _, size, entry in entries:
            if excess <= 0:
                return
            lock = _lock(entry.with_name(f"{entry.name}.lock"), is_shared=False, waits=False)
            if lock is None:
                continue
            try:
                shutil.rmtree(entry, ignore_errors=True)
                excess -= size
            finally:
                os.close(lock)

    def _entries(self) -> list[tuple[float, int, Path]]:
        """When each was last used, its bytes, and where it is; leftovers of interrupted ones too."""
        found = []
        for entry in self.directory.iterdir():
            try:
                if entry.is_dir():
                    size = sum(file.stat().st_size for file in entry.iterdir())
                    found.append((entry.stat().st_mtime, size, entry))
            except FileNotFoundError:  # another process made room
                continue
        return found


class Stored(Records):
    """An entry of a store while it is read.

    Attributes:
        notes: What was noted beside the features.
    """

    def __init__(self, entry: Path, lock: int) -> None:
        """Opens the entry.

        Raises:
            OSError: It is not there.
            ValueError: It is damaged.
        """
        self._lock = lock
        self._entry = entry
        self.notes: Any = json.loads((entry / _NOTES).read_text(encoding="utf-8"))
        super().__init__(entry, dtype=torch.float32)
        self._load()

    def extras(self) -> list[bytes]:
        """The pieces of bytes that were kept beside the features."""
        data, pieces, at = (self._entry / _EXTRAS).read_bytes(), [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 8], "little")
            pieces.append(data[at + 8 : at + 8 + size])
            at += 8 + size
        return pieces

    def close(self) -> None:
        """Lets the entry go."""
        super().close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def features_key(backbone: Backbone, *, size: int, digests: Sequence[str], views: Sequence[str] = ()) -> str:
    """What tells features from all others: 32 hexadecimal digits.

    Args:
        backbone: With the weights and layers that give them, on its device.
        size: Height and width of a photo as the backbone sees it.
        digests: Of the photos' files, in order.
        views: Names of the altered copies behind each photo.
    """
    device = next(backbone.parameters()).device.type
    about = [identify_backbone(backbone), device, torch.__version__, size, list(views), list(digests)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def identify_backbone(backbone: Backbone) -> str:
    """SHA-256 of a backbone's weights and how it is run, in hexadecimal: equal ones give equal features."""
    about: list[Any] = [
        backbone.name,
        list(backbone.layers),
        backbone.precision,
        backbone.runtime,
        list(backbone.mean),
        list(backbone.std),
    ]
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in sorted(backbone.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _open(entry: Path, lock: int) -> Stored | None:
    """An entry that is there and whole."""
    try:
        return Stored(entry, lock)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(entry: Path, fill: Fill, dtype: torch.dtype) -> None:
    """Computes an entry beside its name, and renames it when it is whole."""
    partial = entry.with_name(f"{entry.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # nobody else is at it: the caller holds the lock
    partial.mkdir()
    try:
        records = Records(partial, dtype=dtype)
        try:
            notes, extras = fill(records)
            records.finish()
        finally:
            records.close()
        with (partial / _EXTRAS).open("wb") as file:
            for piece in extras:
                file.write(len(piece).to_bytes(8, "little") + piece)
        (partial / _NOTES).write_text(json.dumps(notes), encoding="utf-8")
        os.rename(partial, entry)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _lock(path: Path, *, is_shared: bool, waits: bool = True) -> Any:
    """A file that is locked as long as it is open; None if it does not wait, and another process holds it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _relock(file, is_shared=is_shared, waits=waits)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _relock(file: int, *, is_shared: bool, waits: bool = True) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return  # a network drive without locks
