"""What one fixed detector finds over each of several backbones, on the same photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from inlier.build import DETECTORS, SECTIONS, build_detector, resolve, resolve_keywords
from inlier.config import Config, check_names, merge
from inlier.copies import NUM_FOLDS, STRIDE, altered_copies, draw_photos, name_of
from inlier.data.loader import load_batches
from inlier.data.manifest import Manifest, Photo
from inlier.data.splits import group_folds
from inlier.data.transforms import Transform
from inlier.decision.intervals import MIN_GROUPS
from inlier.detectors.components import component_names
from inlier.detectors.crossfit import score_photos
from inlier.errors import ConfigError, ManifestError
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.pooling import embed_photos
from inlier.features.separation import separate
from inlier.reading import component_label, normal_groups
from inlier.workflow import Progress

_SCHEMA = {"detector": (str, "combined"), "max_photos": (Annotated[int, Field(ge=2)], 400)}
"""Keyword of the section ``gate`` -> type and default: which detector, and how many normal photos at most it learns
from, and as many at most that copies are made of."""


def resolve_gate(config: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The section ``gate`` with its defaults filled in.

    Raises:
        ConfigError: A keyword or the detector is unknown, or a value is of another type or out of range.
    """
    section = resolve_keywords("gate", config.get("gate", {}), _SCHEMA)
    check_names([section["detector"]], DETECTORS, kind="detector", owner="inlier")
    return section


class DevScores(NamedTuple):
    """Scores of labelled photos.

    Attributes:
        scores: Over each backbone, shape (K, N), higher is more anomalous.
        photos: The N photos, all of them labelled.
    """

    scores: NDArray[np.float32]
    photos: list[Photo]

    @property
    def is_anomalous(self) -> NDArray[np.bool_]:
        """Shape (N,)."""
        return np.array([bool(photo.is_anomalous) for photo in self.photos], dtype=np.bool_)


class CopyScores(NamedTuple):
    """Scores of normal photos and their altered copies, and what their neighbours say of them.

    Attributes:
        scores: Over each backbone, shape (K, N, 1 + copies).
        photos: The N photos.
        groups: Of each what must not be torn apart.
        folds: Shape (N,); only photos of one fold compare.
        named: Which of the photos can be named by their neighbours, shape (J,); none without several components.
        is_named_rightly: Over each backbone, shape (K, J).
    """

    scores: NDArray[np.float32]
    photos: list[Photo]
    groups: list[str]
    folds: NDArray[np.int64]
    named: NDArray[np.int64]
    is_named_rightly: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Bench:
    """What every comparison shares: the backbones to compare, and the detector that they serve.

    Attributes:
        name: The detector's.
        max_photos: Normal photos at most that it learns from, and as many at most that copies are made of.
        config: Resolved; sections of the detector, and of ``photo-neighbors`` for its pooling.
        backbones: At least one, where they shall run.
        layers: Those of their layers that are needed.
        workers: Threads that decode.
        progress: Told how far it is.
    """

    name: str
    max_photos: int
    config: Config
    backbones: tuple[Backbone, ...]
    layers: tuple[int, ...]
    workers: int
    progress: Progress

    @classmethod
    def of(
        cls, config: Mapping[str, Mapping[str, Any]], backbones: Sequence[Backbone], workers: int, progress: Progress
    ) -> Self:
        """From sections of keywords.

        Raises:
            ConfigError: The configuration cannot be used, or the backbones lack a layer that it asks for.
        """
        section = resolve_gate(config)
        sections: Config = {name: dict(of) for name, of in config.items() if name in SECTIONS}
        device = next(backbones[0].parameters()).device.type
        pooling, own = (
            resolve(merge(sections, "fit", detector=name), device=device)
            for name in ("photo-neighbors", section["detector"])
        )
        resolved = pooling | own
        needed = {*build_detector(resolved).layers, *resolved["photo-neighbors"]["layers"]}
        for backbone in backbones:
            if missing := sorted(needed - {*backbone.layers}):
                raise ConfigError(f"The gate looks at layers {sorted(needed)}, and {backbone.name} has no {missing}.")
            backbone.eval()  # and forgets what it computed with other weights
        layers = tuple(sorted(needed))
        return cls(section["detector"], section["max_photos"], resolved, tuple(backbones), layers, workers, progress)

    @property
    def seed(self) -> int:
        """Of everything random."""
        seed: int = self.config["fit"]["seed"]
        return seed

    def score_dev(self, data: Manifest) -> DevScores:
        """Fits the detector on normal photos of train, over each backbone, and scores the labelled ones of dev.

        Raises:
            ManifestError: Of one of these kinds there are none, or none could be read.
        """
        learned, judged = self._draw(_normal_train(data)), labelled_dev(data)
        groups = normal_groups(Manifest((*learned, *judged)))
        with self._caches() as caches:
            num_learned = len(self._read(caches, learned, groups, has_copies=False))
            photos = self._read(caches, judged, groups, has_copies=False)
            if not num_learned or not has_both(photos):
                raise ManifestError("Of the normal photos of train, or of those labelled in dev, none could be read.")
            scores = []
            for cache in caches:
                features = cache.features()
                detector = build_detector(self.config).fit(features.select(range(num_learned)))
                scores.append(score_photos(detector, features.select(range(num_learned, len(features)))).values)
        return DevScores(np.stack(scores), photos)

    def score_copies(self, data: Manifest) -> CopyScores:
        """Scores normal photos and their altered copies by detectors that have not seen their groups.

        Those of dev if they are of enough groups, by a detector fitted on train; else all, by cross-fitting.

        Raises:
            ManifestError: There are no normal photos in train, or they are of too few groups.
        """
        train, dev = _normal_train(data), data.normal().select("dev")
        has_own = len(set(dev.groups)) >= MIN_GROUPS
        learned = self._draw(train) if has_own else []
        judged = self._draw(dev if has_own else Manifest((*train.photos, *dev.photos)))
        groups = normal_groups(Manifest((*learned, *judged)))
        with self._caches() as caches:
            num_learned = len(self._read(caches, learned, groups, has_copies=False))
            photos = self._read(caches, judged, groups, has_copies=True)
            kin = [groups[photo] for photo in photos]
            if len(set(kin)) < MIN_GROUPS or (has_own and not num_learned):
                raise ManifestError(
                    "There is nothing to judge it by: dev has no labelled normal and anomalous photos, and the normal "
                    f"ones that could be read are of fewer than {MIN_GROUPS} groups, {len(set(kin))}."
                )
            folds = np.zeros(len(photos), dtype=np.int64)
            if not has_own:
                folds = group_folds(kin, num_folds=NUM_FOLDS, seed=self.seed)
            fold_of = np.append(np.full(num_learned, -1), folds)
            scores = [self._cross_scores(cache.features(), fold_of) for cache in caches]
            named = [self._neighbors_agree(cache.features().originals(), num_learned) for cache in caches]
        return CopyScores(np.stack(scores), photos, kin, folds, named[0][0], np.stack([of for _, of in named]))

    def _draw(self, data: Manifest) -> list[Photo]:
        return draw_photos(data, self.max_photos, seed=self.seed)

    @contextmanager
    def _caches(self) -> Iterator[list[FeatureCache]]:
        """One for each backbone."""
        with ExitStack() as stack:
            yield [stack.enter_context(FeatureCache(dtype=getattr(torch, of.precision))) for of in self.backbones]

    def _read(
        self, caches: Sequence[FeatureCache], photos: Sequence[Photo], groups: Mapping[Photo, str], *, has_copies: bool
    ) -> list[Photo]:
        """Shows each photo to every backbone, and behind it its altered copies if asked; those that could be read."""
        transform = Transform(self.config["input"]["size"], self.backbones[0].mean, self.backbones[0].std)
        advance = self.progress("Judging", len(photos))
        stride = STRIDE if has_copies else 1
        readable: list[Photo] = []
        for batch in load_batches(photos, transform, workers=self.workers):
            images: list[Tensor] = []
            for photo, pixels, image in zip(batch.photos, batch.pixels, batch.images, strict=True):
                copies = altered_copies(pixels, name_of(photo, groups), seed=self.seed) if has_copies else []
                images += [image, *map(transform.to_tensor, copies)]
            owners = [photo for photo in batch.photos for _ in range(stride)]
            for backbone, cache in zip(self.backbones, caches, strict=True) if owners else ():
                maps = backbone.extract(torch.stack(images))
                cache.append(
                    {layer: maps[layer] for layer in self.layers},
                    groups=[groups[photo] for photo in owners],
                    labels=[component_label(photo) for photo in owners],
                    is_view=[place % stride > 0 for place in range(len(owners))],
                )
            readable += batch.photos
            advance(len(batch.photos) + len(batch.unreadable))
        return readable

    def _cross_scores(self, features: FeatureSet, folds: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores of each photo of folds from 0 on and of its copies, by detectors fitted on all others, (N, STRIDE).

        Args:
            features: Photos, with copies behind those that have some.
            folds: Of each photo; -1: it is learned from, and has no copies.
        """
        is_view = np.array(features.is_view)
        fold_of = folds[np.cumsum(~is_view) - 1]
        scores = np.zeros((len(folds), STRIDE), dtype=np.float32)
        for fold in range(int(folds.max()) + 1):
            detector = build_detector(self.config)
            detector.fit(features.select(np.flatnonzero(~is_view & (fold_of != fold)).tolist()))
            held_out = features.select(np.flatnonzero(fold_of == fold).tolist())
            scores[folds == fold] = score_photos(detector, held_out).values.reshape(-1, STRIDE)
        return scores[folds >= 0]

    def _neighbors_agree(self, features: FeatureSet, num_learned: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Which photos behind those learned from can be named by their nearest, and whether these name them rightly.

        Features are pooled as ``PhotoNeighbors`` has them before it whitens.
        """
        section = self.config["photo-neighbors"]
        pooled = [
            embed_photos([maps[layer] for layer in section["layers"]], power=section["power"])
            for maps in features.batches()
        ]
        labels = features.labels if len(component_names(features.labels)) > 1 else [""] * len(features)
        found = separate(torch.cat(pooled).numpy(), labels, features.groups)
        is_judged = found.photos >= num_learned
        return found.photos[is_judged] - num_learned, found.is_found[is_judged]


def labelled_dev(data: Manifest) -> list[Photo]:
    """The photos of dev of which it is known whether they are anomalous, by name."""
    photos = [photo for photo in data.select("dev").photos if photo.is_anomalous is not None]
    return sorted(photos, key=lambda photo: str(photo.path))


def has_both(photos: Sequence[Photo]) -> bool:
    """Whether there are normal and anomalous ones among labelled photos."""
    return len({photo.is_anomalous for photo in photos}) == 2


def _normal_train(data: Manifest) -> Manifest:
    """The photos that the detector learns from."""
    normal = data.normal().select("train")
    if not normal:
        raise ManifestError("There is nothing to judge it by: the split train has no normal photos.")
    return normal
