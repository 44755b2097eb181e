"""Reads photos into a feature cache: what every fit begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.data.loader import Batch, map_batches
from inlier.data.manifest import NORMAL_LABELS, Manifest, Photo, digest_file
from inlier.data.transforms import Transform, to_photo
from inlier.data.views import View
from inlier.decision.heatmap import encode
from inlier.detectors.components import component_names
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.records import Records
from inlier.features.store import FeatureStore, features_key
from inlier.model import References
from inlier.outputs import as_text

MAX_THUMBNAILS = 5000
"""Normal photos whose thumbnails a model carries; 192 px and some 5 kB each."""

_THUMBNAIL_PX = 192


@dataclass(frozen=True)
class Link:
    """An entry of a store, and what is known of its records: enough for another process to link it.

    Attributes:
        key: Of the entry.
        about: Keywords of ``FeatureCache.link``.
    """

    key: str
    about: dict[str, Any]


Put = Callable[[dict[int, Tensor], list[Photo]], None]
"""Given maps, for each layer shape (B, C, h, w), and of each of the B records the photo that it shows."""


class _Seen(NamedTuple):
    """What became of a batch: its records' thumbnails and maps, {} if no photo could be read."""

    photos: tuple[Photo, ...]
    pixels: tuple[NDArray[np.uint8], ...]
    unreadable: tuple[tuple[Photo, str], ...]
    thumbnails: list[bytes]
    maps: dict[int, Tensor]


@dataclass(frozen=True, eq=False)
class Reader:
    """Photos -> features in a cache; keeps the list of those that could not be read.

    Attributes:
        backbone: Gives the features.
        transform: What it wants photos to be.
        cache: Where the features go.
        groups: Of each photo what must not be torn apart; of a background nobody asks.
        workers: Threads that decode.
        store: Where features may be already, and are kept for others; None: nowhere.
        photos: Of each record of the cache the photo that it shows.
        unreadable: The photos that could not be read so far, each with the reason.
        links: What was taken from the store, in the order of the records.
        notice: Given each photo that could be read, with its pixels, in the order of their features; without a store.
    """

    backbone: Backbone
    transform: Transform
    cache: FeatureCache
    groups: Mapping[Photo, str]
    workers: int = 2
    store: FeatureStore | None = None
    photos: list[Photo] = field(default_factory=list)
    unreadable: list[tuple[Photo, str]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    notice: Callable[[Photo, NDArray[np.uint8]], None] = lambda photo, pixels: None

    def read(
        self, data: Manifest, advance: Callable[[int], None], *, views: Sequence[View] = ()
    ) -> tuple[FeatureSet, References]:
        """Appends all readable photos, by name, so that no result depends on their order.

        Args:
            data: Which photos.
            advance: Told of photos done, readable or not.
            views: Altered copies that are made of each photo, and stand behind it.

        Returns:
            The photos and their views, and how a report shows each of them.
        """
        start = len(self.cache.groups)
        photos = sorted(data.photos, key=lambda photo: str(photo.path))
        digests: dict[Photo, str] = {}
        if self.store is None or not photos:
            thumbnails = self._compute(photos, views, self._append, advance)
        else:
            digests = {photo: digest_file(photo.path) for photo in photos}
            thumbnails = self._find(self.store, digests, views, advance)
        features = FeatureSet(self.cache, tuple(range(start, len(self.cache.groups))))
        owners = self.photos[start :: 1 + len(views)]
        names = [name for photo in owners for name in _names(photo, views)]
        of_owners = [digests.get(photo) or digest_file(photo.path) for photo in owners]
        repeated = tuple(digest for digest in of_owners for _ in range(1 + len(views)))
        return features, References(tuple(names), tuple(thumbnails), tuple(features.groups), repeated)

    def _compute(
        self, photos: Sequence[Photo], views: Sequence[View], put: Put, advance: Callable[[int], None]
    ) -> list[bytes]:
        """Runs the backbone, and returns a thumbnail of each record, empty where there are too many."""
        thumbnails: list[bytes] = []
        is_parallel = self.workers > 0 and len(photos) > 1 and self.backbone.is_on_cpu
        if is_parallel:
            self.backbone.prepare(self.transform.size)

        def look(batch: Batch) -> _Seen:
            return self._look_at(batch, views, has_thumbnails=len(thumbnails) < MAX_THUMBNAILS)

        batches = map_batches(look, photos, self.transform, workers=self.workers, is_parallel=is_parallel)
        with closing(batches):
            for seen in batches:
                for photo, pixels in zip(seen.photos, seen.pixels, strict=True):
                    self.notice(photo, pixels)
                for thumbnail in seen.thumbnails:
                    thumbnails.append(thumbnail if len(thumbnails) < MAX_THUMBNAILS else b"")
                if seen.photos:
                    put(seen.maps, [photo for photo in seen.photos for _ in range(1 + len(views))])
                self.unreadable.extend(seen.unreadable)
                advance(len(seen.photos) + len(seen.unreadable))
        return thumbnails

    def _look_at(self, batch: Batch, views: Sequence[View], *, has_thumbnails: bool) -> _Seen:
        """Decoded photos as records, in whatever thread."""
        thumbnails: list[bytes] = []
        images: list[Tensor] = []

        def keep(pixels: NDArray[np.uint8]) -> None:
            thumbnails.append(encode(pixels, longest_side=_THUMBNAIL_PX, quality=70) if has_thumbnails else b"")

        for pixels, image in zip(batch.pixels, batch.images, strict=True):
            keep(pixels)
            images.append(image)
            region = _region_of(image, pixels)
            for view in views:
                altered = view.apply(pixels)
                keep(altered)
                of_view = None if region is None else view.apply(region)[..., 0] > 127
                images.append(self.transform.to_tensor(altered, of_view))
        maps = self.backbone.extract(torch.stack(images)) if images else {}
        return _Seen(batch.photos, batch.pixels, batch.unreadable, thumbnails, maps)

    def _append(self, maps: dict[int, Tensor], owners: list[Photo]) -> None:
        self.cache.append(maps, **self._about(owners))
        self.photos.extend(owners)

    def _find(
        self, store: FeatureStore, digests: Mapping[Photo, str], views: Sequence[View], advance: Callable[[int], None]
    ) -> list[bytes]:
        """Links what the store has of these photos, known by their digests, after computing it if need be."""
        photos = [*digests]
        number_of = {photo: number for number, photo in enumerate(photos)}
        already = len(self.unreadable)

        def fill(records: Records) -> tuple[Any, Sequence[bytes]]:
            thumbnails = self._compute(photos, views, lambda maps, owners: records.append(maps), advance)
            unreadable = [(number_of[photo], reason) for photo, reason in self.unreadable[already:]]
            del self.unreadable[already:]
            return {"unreadable": unreadable}, thumbnails

        names = [view.name for view in views]
        files = [*digests.values()]
        if self.transform.has_region:
            files += [digest_file(photo.roi) if photo.roi else "" for photo in digests]
        if self.transform.has_picture:
            files.append("picture")
        key = features_key(self.backbone, size=self.transform.size, digests=files, views=names)
        num_filled = store.num_filled
        stored = store.open(key, fill, dtype=getattr(torch, self.backbone.precision))
        reasons = dict(stored.notes["unreadable"])
        self.unreadable.extend((photos[number], reason) for number, reason in reasons.items())
        readable = [photo for number, photo in enumerate(photos) if number not in reasons]
        owners = [photo for photo in readable for _ in range(1 + len(views))]
        thumbnails = stored.extras()
        about = self._about(owners)
        self.cache.link(stored, **about)
        self.links.append(Link(key, about))
        self.photos.extend(owners)
        if store.num_filled == num_filled:
            advance(len(photos))
        return thumbnails

    def _about(self, owners: Sequence[Photo]) -> dict[str, Any]:
        """What a cache knows of records; of each photo the first shows it as it is, the others altered."""
        return {
            "groups": [self.groups.get(photo, "") for photo in owners],
            "labels": [component_label(photo) for photo in owners],
            "is_view": [place > 0 and owners[place - 1] is photo for place, photo in enumerate(owners)],
        }


def _region_of(image: Tensor, pixels: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """The region of a photo as a white shape on black, of its size; None where its tensor has none."""
    if len(image) != 4:
        return None
    height, width = pixels.shape[:2]
    is_inside = to_photo(image[3].numpy(), height=height, width=width) >= 0.5
    return np.repeat(np.where(is_inside, np.uint8(255), np.uint8(0))[..., None], 3, axis=2)


def _names(photo: Photo, views: Sequence[View]) -> list[str]:
    """What a report calls a photo and its altered copies."""
    name = as_text(photo.path)
    return [name, *(f"{name} ({view.name})" for view in views)]


def normal_groups(data: Manifest) -> dict[Photo, str]:
    """Of each photo what must not be torn apart, as text."""
    return dict(zip(data.photos, map(as_text, data.groups), strict=True))


def component_label(photo: Photo) -> str:
    """What a normal photo's label says it shows; "" for labels such as ``good``, which say only that it is normal."""
    return "" if photo.label.casefold() in NORMAL_LABELS else as_text(photo.label)


def has_components(train: Manifest) -> bool:
    """Whether the photos are sorted into several classes of what they show."""
    return len(component_names([component_label(photo) for photo in train.photos])) > 1
