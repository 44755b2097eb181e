"""Features of a frozen backbone, kept on disk so that fitting and calibrating can read them again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

BATCH_SIZE = 32
"""Photos whose features are read together."""


class FeatureCache:
    """Features of photos in a temporary folder, one file a layer, one record a photo.

    They are read with plain reads and leave the process's memory at once, whatever their number; the operating
    system keeps them at hand as long as it has room. Numbers are kept as the backbone computed them, so nothing
    is lost and bfloat16 takes half the space. The folder goes when the context is left.

    Example:
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({3: torch.ones(2, 8, 4, 4)}, groups=["left", "right"])
        ...     [tuple(maps[3].shape) for maps in cache.features().batches()]
        [(2, 8, 4, 4)]
    """

    def __init__(self, *, dtype: torch.dtype, directory: Path | None = None) -> None:
        """An empty cache.

        Args:
            dtype: Type of numbers that are kept.
            directory: Where its folder is made; None: where the system keeps temporary files (``TMPDIR``).
        """
        self.dtype = dtype
        self.groups: list[str] = []
        self.labels: list[str] = []
        self.is_view: list[bool] = []
        self._directory = directory
        self._shapes: dict[int, torch.Size] = {}
        self._files: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="inlier-features-", dir=self._directory)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        self._folder.cleanup()

    def append(
        self,
        maps: Mapping[int, Tensor],
        *,
        groups: Sequence[str],
        labels: Sequence[str] | None = None,
        is_view: Sequence[bool] | None = None,
    ) -> None:
        """Adds B photos.

        Args:
            maps: For each layer shape (B, C_l, h_l, w_l).
            groups: Of each photo what must not be torn apart.
            labels: Of each photo the class that it was sorted into; None: unknown, which is "".
            is_view: Of each photo whether it is an altered copy of another one; None: none is.
        """
        for layer, features in maps.items():
            if layer not in self._files:
                path = Path(self._folder.name) / f"layer-{layer}"
                self._files[layer] = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
                self._shapes[layer] = features.shape[1:]
            data = features.to("cpu", self.dtype).contiguous().view(torch.uint8).numpy().tobytes()
            written = 0
            while written < len(data):  # a write may stop half-way, at 2 GiB for one
                written += os.write(self._files[layer], data[written:])
        self.groups.extend(groups)
        self.labels.extend([""] * len(groups) if labels is None else labels)
        self.is_view.extend([False] * len(groups) if is_view is None else is_view)

    def features(self) -> FeatureSet:
        """All photos appended so far, in that order."""
        return FeatureSet(self, tuple(range(len(self.groups))))

    def read(self, indices: Sequence[int]) -> dict[int, Tensor]:
        """Features of the photos with these numbers: for each layer shape (B, C_l, h_l, w_l), float32."""
        return {layer: self._read_layer(layer, indices) for layer in self._files}

    def _read_layer(self, layer: int, indices: Sequence[int]) -> Tensor:
        shape = self._shapes[layer]
        num_bytes = shape.numel() * self.dtype.itemsize
        records = bytearray(num_bytes * len(indices))
        view = memoryview(records)
        for place, index in enumerate(indices):
            part = view[place * num_bytes : (place + 1) * num_bytes]
            if os.preadv(self._files[layer], [part], index * num_bytes) != num_bytes:
                raise OSError(f"The feature cache lost photo {index} of layer {layer}.")
        return torch.frombuffer(records, dtype=self.dtype).view(len(indices), *shape).float()


@dataclass(frozen=True)
class FeatureSet:
    """Some photos of a cache, to be gone through as often as a detector likes.

    Attributes:
        cache: Where their features are.
        indices: Which photos, by their numbers in the cache.
        background: Numbers of photos that nobody sorted, for detectors that want to know what else there is.
    """

    cache: FeatureCache
    indices: tuple[int, ...]
    background: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def groups(self) -> list[str]:
        """Of each photo the group that must not be torn apart."""
        return [self.cache.groups[index] for index in self.indices]

    @property
    def labels(self) -> list[str]:
        """Of each photo the class that it was sorted into, "" where that is unknown."""
        return [self.cache.labels[index] for index in self.indices]

    @property
    def is_view(self) -> list[bool]:
        """Of each photo whether it is an altered copy of another one, to be learned from and never judged by."""
        return [self.cache.is_view[index] for index in self.indices]

    def batches(self) -> Iterator[dict[int, Tensor]]:
        """Features in the order of the photos: layer -> shape (B, C_l, h_l, w_l)."""
        for start in range(0, len(self.indices), BATCH_SIZE):
            yield self.cache.read(self.indices[start : start + BATCH_SIZE])

    def select(self, places: Sequence[int]) -> FeatureSet:
        """The photos at these places among those here, in this order; before the same background."""
        return FeatureSet(self.cache, tuple(self.indices[place] for place in places), self.background)

    def originals(self) -> FeatureSet:
        """The photos that are no altered copies."""
        return self.select([place for place, is_view in enumerate(self.is_view) if not is_view])

    def before(self, background: FeatureSet) -> FeatureSet:
        """The same photos of the same cache, with others as their background."""
        return FeatureSet(self.cache, self.indices, background.indices)

    def of_background(self) -> FeatureSet:
        """The photos of the background; there may be none."""
        return FeatureSet(self.cache, self.background)
