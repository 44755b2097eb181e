"""Reads photos into a feature cache: what every fit begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.data.loader import load_batches
from inlier.data.manifest import NORMAL_LABELS, Manifest, Photo
from inlier.data.transforms import Transform
from inlier.data.views import View
from inlier.decision.heatmap import encode
from inlier.detectors.components import component_names
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.model import References
from inlier.outputs import as_text

MAX_THUMBNAILS = 5000
"""Normal photos whose thumbnails a model carries; 192 px and some 5 kB each."""

_THUMBNAIL_PX = 192


@dataclass(frozen=True, eq=False)
class Reader:
    """Photos -> features in a cache; keeps the list of those that could not be read.

    Attributes:
        backbone: Gives the features.
        transform: What it wants photos to be.
        cache: Where the features go.
        groups: Of each photo what must not be torn apart; of a background nobody asks.
        workers: Threads that decode.
        unreadable: The photos that could not be read so far, each with the reason.
        notice: Given each photo that could be read, with its pixels, in the order of their features.
    """

    backbone: Backbone
    transform: Transform
    cache: FeatureCache
    groups: Mapping[Photo, str]
    workers: int = 2
    unreadable: list[tuple[Photo, str]] = field(default_factory=list)
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
        names: list[str] = []
        thumbnails: list[bytes] = []

        def keep(pixels: NDArray[np.uint8], name: str) -> None:
            is_kept = len(names) < MAX_THUMBNAILS
            thumbnails.append(encode(pixels, longest_side=_THUMBNAIL_PX, quality=70) if is_kept else b"")
            names.append(name)

        photos = sorted(data.photos, key=lambda photo: str(photo.path))
        for batch in load_batches(photos, self.transform, workers=self.workers):
            images = []
            owners: list[Photo] = []
            for photo, pixels, image in zip(batch.photos, batch.pixels, batch.images, strict=True):
                self.notice(photo, pixels)
                keep(pixels, as_text(photo.path))
                images.append(image)
                for view in views:
                    altered = view.apply(pixels)
                    keep(altered, f"{as_text(photo.path)} ({view.name})")
                    images.append(self.transform.to_tensor(altered))
                owners += [photo] * (1 + len(views))
            if owners:
                self.cache.append(
                    self.backbone.extract(torch.stack(images)),
                    groups=[self.groups.get(photo, "") for photo in owners],
                    labels=[component_label(photo) for photo in owners],
                    is_view=[place % (1 + len(views)) > 0 for place in range(len(owners))],
                )
            self.unreadable.extend(batch.unreadable)
            advance(len(batch.photos) + len(batch.unreadable))
        features = FeatureSet(self.cache, tuple(range(start, len(self.cache.groups))))
        return features, References(tuple(names), tuple(thumbnails))


def normal_groups(data: Manifest) -> dict[Photo, str]:
    """Of each photo what must not be torn apart, as text."""
    return dict(zip(data.photos, map(as_text, data.groups), strict=True))


def component_label(photo: Photo) -> str:
    """What a normal photo's label says it shows; "" for labels such as ``good``, which say only that it is normal."""
    return "" if photo.label.casefold() in NORMAL_LABELS else as_text(photo.label)


def has_components(train: Manifest) -> bool:
    """Whether the photos are sorted into several classes of what they show."""
    return len(component_names([component_label(photo) for photo in train.photos])) > 1
