"""Normal photos beside altered copies of them (CutPaste), where no photo of damage exists to judge a detector by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.data.cutpaste import ALTERATIONS
from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest, Photo
from inlier.data.splits import group_folds
from inlier.data.transforms import Transform
from inlier.decision.metrics import image_auroc, within_folds
from inlier.detectors.crossfit import score_photos
from inlier.detectors.protocol import Detector
from inlier.errors import ManifestError
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.outputs import as_text

NUM_FOLDS = 3
"""Parts that the photos are dealt to; each is scored by what was learned from the others."""

STRIDE = 1 + len(ALTERATIONS)
"""Records that a photo has in a cache: itself and its copies."""


@dataclass(frozen=True, eq=False)
class Copies:
    """Features of photos, each before its copies, and the folds by which they are judged.

    Attributes:
        features: N photos, as N * ``STRIDE`` records.
        groups: Of each photo what must not be torn apart.
        folds: Shape (N,); a photo and its copies are scored by what was learned from other folds.
    """

    features: FeatureSet
    groups: list[str]
    folds: NDArray[np.int64]

    @classmethod
    def read(
        cls,
        cache: FeatureCache,
        backbone: Backbone,
        transform: Transform,
        photos: Sequence[Photo],
        groups: Mapping[Photo, str],
        *,
        seed: int,
        workers: int,
        advance: Callable[[int], None],
    ) -> Self:
        """Appends photos and their copies to an empty cache.

        Args:
            cache: Where the features go.
            backbone: Gives them.
            transform: What it wants photos to be.
            photos: Normal ones.
            groups: Of each photo what must not be torn apart.
            seed: Of the copies and the folds.
            workers: Threads that decode.
            advance: Told of photos done, readable or not.

        Raises:
            ManifestError: Those that could be read are of fewer than two groups.
        """

        def put(maps: dict[int, Tensor], shown: Sequence[Photo]) -> None:
            cache.append(maps, groups=[groups[photo] for photo in shown for _ in range(STRIDE)])

        alter_all(backbone, transform, photos, groups, put, seed=seed, workers=workers, advance=advance)
        return cls.of(cache.features(), seed=seed)

    @classmethod
    def of(cls, features: FeatureSet, *, seed: int) -> Self:
        """Of features that are there, each photo before its copies.

        Raises:
            ManifestError: They are of fewer than two groups.
        """
        groups = features.groups[::STRIDE]
        return cls(features, groups, _folds(groups, seed))

    @property
    def num_folds(self) -> int:
        """How often a detector is fitted to score all of them."""
        return len(np.unique(self.folds))

    def scores(self, detector: Detector) -> NDArray[np.float32]:
        """Of each photo and its copies, by a detector fitted on the other folds' photos: (N, 1 + copies)."""
        features = self.features.with_layers(detector.layers)
        scores = np.empty((len(self.folds), STRIDE), dtype=np.float32)
        for fold in np.unique(self.folds):
            is_held_out = self.folds == fold
            detector.fit(features.select((STRIDE * np.flatnonzero(~is_held_out)).tolist()))
            held_out = features.select(np.flatnonzero(np.repeat(is_held_out, STRIDE)).tolist())
            scores[is_held_out] = score_photos(detector, held_out).values.reshape(-1, STRIDE)
        return scores

    def auroc(self, detector: Detector) -> float:
        """How often a copy scores above a photo, within folds: scores of different detectors do not compare."""
        is_copy = np.tile(np.arange(STRIDE) > 0, len(self.folds))
        scores = self.scores(detector).ravel().astype(np.float64)
        return within_folds(image_auroc, scores, is_copy, np.repeat(self.folds, STRIDE))


def draw_photos(data: Manifest, max_photos: int, *, seed: int) -> list[Photo]:
    """At most so many photos, by name, drawn by seed; their order in the manifest changes nothing."""
    photos = sorted(data.photos, key=lambda photo: str(photo.path))
    drawn = np.random.default_rng(seed).permutation(len(photos))[:max_photos]
    return [photos[place] for place in sorted(drawn)]


def altered_copies(pixels: NDArray[np.uint8], name: str, *, seed: int) -> list[NDArray[np.uint8]]:
    """The photo altered in each way of ``ALTERATIONS``; where and how, its name and the seed decide.

    Args:
        pixels: Shape (H, W, 3), uint8 RGB.
        name: The same wherever the photo lies.
        seed: Of the chances.
    """
    digest = hashlib.sha256(as_text(name).encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest, "big")])
    return [alter(pixels, rng).pixels for alter in ALTERATIONS.values()]


def alter_all(
    backbone: Backbone,
    transform: Transform,
    photos: Sequence[Photo],
    groups: Mapping[Photo, str],
    put: Callable[[dict[int, Tensor], Sequence[Photo]], None],
    *,
    seed: int,
    workers: int,
    advance: Callable[[int], None],
) -> list[Photo]:
    """Runs the backbone over photos, each before its copies, which the photo's name and the seed decide.

    Args:
        backbone: Gives the maps.
        transform: What it wants photos to be.
        photos: Which photos.
        groups: Of each what must not be torn apart.
        put: Given maps of B * ``STRIDE`` records, and the B photos.
        seed: Of the copies.
        workers: Threads that decode.
        advance: Told of photos done, readable or not.

    Returns:
        The photos that could be read.
    """
    readable: list[Photo] = []
    for batch in load_batches(photos, transform, workers=workers):
        images: list[Tensor] = []
        for photo, pixels, image in zip(batch.photos, batch.pixels, batch.images, strict=True):
            copies = altered_copies(pixels, name_of(photo, groups), seed=seed)
            # a copy is altered where it is, so its region, if there is one, is the photo's
            images += [image, *(torch.cat([transform.to_tensor(copy)[:3], image[3:]]) for copy in copies)]
        if images:
            put(backbone.extract(torch.stack(images)), batch.photos)
        readable += batch.photos
        advance(len(batch.photos) + len(batch.unreadable))
    return readable


def name_of(photo: Photo, groups: Mapping[Photo, str]) -> str:
    """What decides how a photo is altered: the same wherever it lies."""
    return f"{groups[photo]}/{photo.path.name}"


def _folds(groups: Sequence[str], seed: int) -> NDArray[np.int64]:
    num_groups = len(set(groups))
    if num_groups < 2:
        raise ManifestError(
            "To choose by altered copies, readable normal photos of at least two groups are needed, "
            f"got {len(groups)} of {num_groups}."
        )
    return group_folds(groups, num_folds=min(NUM_FOLDS, num_groups), seed=seed)
