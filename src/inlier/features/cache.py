"""Features of a frozen backbone, kept on disk so that fitting and calibrating can read them again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from inlier.features.records import Records
from inlier.features.regions import REGION, RegionFinder

BATCH_SIZE = 32
"""Photos whose features are read together."""


class FeatureCache:
    """Features of photos, beside what is known of each photo: some in a temporary folder, some perhaps in a store.

    They leave the process's memory at once, whatever their number; the operating system keeps them at hand as long
    as it has room. The temporary folder goes, and the store is let go, when the context is left.

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
        self._parts: list[Records] = []
        self._places: list[tuple[int, int]] = []  # of each photo the part, and its number there

    def __enter__(self) -> Self:
        self._open = ExitStack()
        folder = self._open.enter_context(tempfile.TemporaryDirectory(prefix="inlier-features-", dir=self._directory))
        self._own = Records(Path(folder), dtype=self.dtype)
        self._open.callback(self._own.close)
        self._parts = [self._own]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def shapes(self) -> dict[int, torch.Size]:
        """Layer -> shape (C, h, w) of a photo's map; empty as long as there is no photo."""
        return next((part.shapes for part in self._parts if len(part)), {})

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
        first = len(self._own)
        self._own.append(maps)
        self._know(0, range(first, len(self._own)), groups, labels, is_view)

    def link(
        self,
        stored: Records,
        *,
        groups: Sequence[str],
        labels: Sequence[str] | None = None,
        is_view: Sequence[bool] | None = None,
    ) -> None:
        """Adds all photos of records that lie elsewhere, which are closed with the cache; see ``append``."""
        self._open.callback(stored.close)
        self._parts.append(stored)
        self._know(len(self._parts) - 1, range(len(stored)), groups, labels, is_view)

    def features(self) -> FeatureSet:
        """All photos so far, in the order in which they came."""
        return FeatureSet(self, tuple(range(len(self.groups))))

    def read(self, indices: Sequence[int], *, layers: Sequence[int] | None = None) -> dict[int, Tensor]:
        """Features of photos: for each layer shape (B, C_l, h_l, w_l), float32.

        Args:
            indices: The photos' numbers.
            layers: Which layers; None: all.
        """
        return {layer: self._read_layer(layer, indices) for layer in (self.shapes if layers is None else layers)}

    def _know(
        self,
        part: int,
        numbers: Sequence[int],
        groups: Sequence[str],
        labels: Sequence[str] | None,
        is_view: Sequence[bool] | None,
    ) -> None:
        self._places.extend((part, number) for number in numbers)
        self.groups.extend(groups)
        self.labels.extend([""] * len(groups) if labels is None else labels)
        self.is_view.extend([False] * len(groups) if is_view is None else is_view)

    def _read_layer(self, layer: int, indices: Sequence[int]) -> Tensor:
        places = [self._places[index] for index in indices]
        parts = {part for part, _ in places}
        if len(parts) == 1:
            return self._parts[parts.pop()].read(layer, [number for _, number in places]).float()
        return torch.cat([self._parts[part].read(layer, [number]) for part, number in places]).float()


@dataclass(frozen=True)
class FeatureSet:
    """Some photos of a cache, to be gone through as often as a detector likes.

    Attributes:
        cache: Where their features are.
        indices: Which photos, by their numbers in the cache.
        background: Numbers of photos that nobody sorted, for detectors that want to know what else there is.
        layers: Which of the cache's layers are read; None: all.
        region: Finds the cells that count, which then come beside the layers; None: all count.
    """

    cache: FeatureCache
    indices: tuple[int, ...]
    background: tuple[int, ...] = ()
    layers: tuple[int, ...] | None = None
    region: RegionFinder | None = None

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

    def read(self) -> dict[int, Tensor]:
        """Features of all photos at once: layer -> shape (B, C_l, h_l, w_l)."""
        return self._read(self.indices)

    def batches(self, size: int = BATCH_SIZE) -> Iterator[dict[int, Tensor]]:
        """Features in the order of the photos, so many at a time: layer -> shape (B, C_l, h_l, w_l)."""
        for start in range(0, len(self.indices), size):
            yield self._read(self.indices[start : start + size])

    def select(self, places: Sequence[int]) -> FeatureSet:
        """The photos at these places among those here, in this order; before the same background."""
        return replace(self, indices=tuple(self.indices[place] for place in places))

    def originals(self) -> FeatureSet:
        """The photos that are no altered copies."""
        return self.select([place for place, is_view in enumerate(self.is_view) if not is_view])

    def before(self, background: FeatureSet) -> FeatureSet:
        """The same photos of the same cache, with others as their background."""
        return replace(self, background=background.indices)

    def of_background(self) -> FeatureSet:
        """The photos of the background; there may be none."""
        return replace(self, indices=self.background, background=())

    def _read(self, indices: Sequence[int]) -> dict[int, Tensor]:
        if self.region is None:
            return self.cache.read(indices, layers=self.layers)
        layers = None if self.layers is None else sorted({*self.layers, *self.region.layers})
        maps = self.cache.read(indices, layers=layers)
        return maps | {REGION: self.region(maps)}

    def with_layers(self, layers: Sequence[int]) -> FeatureSet:
        """The same photos, of which only these layers are read."""
        return replace(self, layers=tuple(layers))
