"""Reads photos into a feature cache: what every fit begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.data.views import View
from inlier.decision.heatmap import encode
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
        groups: Of each photo what must not be torn apart.
        workers: Threads that decode.
        unreadable: The photos that could not be read so far, each with the reason.
    """

    backbone: Backbone
    transform: Transform
    cache: FeatureCache
    groups: Mapping[Photo, str]
    workers: int = 2
    unreadable: list[tuple[Photo, str]] = field(default_factory=list)

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
                    groups=[self.groups[photo] for photo in owners],
                    labels=[photo.label for photo in owners],
                    is_view=[place % (1 + len(views)) > 0 for place in range(len(owners))],
                )
            self.unreadable.extend(batch.unreadable)
            advance(len(batch.photos) + len(batch.unreadable))
        features = FeatureSet(self.cache, tuple(range(start, len(self.cache.groups))))
        return features, References(tuple(names), tuple(thumbnails))
