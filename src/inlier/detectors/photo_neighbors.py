"""PhotoNeighbors: distance of a whole photo to the nearest normal photos, in whitened features."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from inlier.detectors.coreset import greedy_coreset
from inlier.detectors.neighbors import nearest_rows
from inlier.detectors.protocol import check_features, check_is_fitted, kept_numbers, take
from inlier.detectors.whitening import shrunk_covariance, variances, whitening, within_classes
from inlier.features.backbone import check_layers
from inlier.features.cache import FeatureSet
from inlier.features.pooling import embed_photos
from inlier.features.regions import REGION
from inlier.records import Box, Evidence, Prediction

WHOLE_PHOTO: Box = (0.0, 0.0, 1.0, 1.0)

_LEARNED = ("photos_", "mean_", "whitening_", "numbers_", "towards_")
_TO_MERGE = ("classes_", "background_", "seen_")
"""What models of earlier versions lack: they score as ever, and neither merge nor forget."""


class PhotoNeighbors:
    """Mean distance of a photo's pooled deep features to those of the nearest normal photos.

    Where every photo has its own viewpoint and background, no patch is at home in a bank of patches, but what the
    photo shows as a whole still is. Distances are measured in the directions and units of how normal photos differ
    among themselves: features are whitened with the covariance of the normal photos, shrunk by the rule of Ledoit
    & Wolf (2004), which is a scaled identity for a handful of photos and nearly the covariance itself for thousands.
    Distance to the mean in such features is the Mahalanobis score of Rippel et al. (ICPR 2020, arXiv:2005.14140);
    distance to the nearest photos instead keeps apart kinds of photos that have nothing in common, and names them.

    **Classes.** Where the normal photos are labelled with what they show, the covariance is that within the classes
    (Fisher, 1936): how one piston differs from the next says how far a photo may be from the nearest piston; how
    pistons differ from valves does not.

    **Background.** Photos that nobody sorted say, before many normal ones have come, how photos from there differ, and
    where the others lie. They count as ``background_photos`` normal ones: with N of these, their covariance (scaled to
    the same trace) has the share r = background_photos / (N + background_photos), and r times the distance towards
    their mean is added to the score. So they matter for a handful of normal photos, and no longer for hundreds. That
    is the log-ratio of two Gaussians with one covariance, as far as it is linear; distances to single photos of the
    background are not used, since one that shows the very same thing would then excuse any anomaly.

    Learns ``photos_`` (N, D), whitened, ``mean_`` (D,), ``whitening_`` (D, D), ``numbers_`` (N,), the photos' numbers
    in the order of ``fit``, and ``towards_`` (D,), the weighted direction of the background; zero without one. To merge
    and to forget, it keeps ``classes_`` (N,), a digest of each photo's label, ``background_`` (1 + D, D), its mean and
    covariance, or (0, D), and ``seen_`` (1,), the number of photos. What was learned in parts is then learned anew from
    the photos, which their whitening gives back; only beyond ``max_photos`` are covariances averaged.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({4: torch.rand(5, 8, 3, 3)}, groups=list("abcde"))
        ...     detector = PhotoNeighbors(layers=(4,)).fit(cache.features())
        >>> detector.predict({4: torch.rand(2, 8, 3, 3)}).score.shape
        torch.Size([2])
    """

    is_trained = False
    forgets_numbers = True

    def __init__(
        self,
        *,
        layers: Sequence[int] = (3, 4),
        power: float = 3.0,
        num_neighbors: int = 5,
        is_whitened: bool = True,
        max_photos: int = 20_000,
        background_photos: int = 5,
    ) -> None:
        """Checks the parameters; nothing is learned yet.

        Args:
            layers: Which of the backbone's layers are pooled.
            power: Of the generalised mean over cells, >= 1; 1 averages.
            num_neighbors: K, nearest normal photos whose distances are averaged, >= 1; fewer if there are fewer.
            is_whitened: False leaves the features as they are: Euclidean distances of unit vectors.
            max_photos: Photos kept at most; more are reduced to a coreset.
            background_photos: Normal photos that a background is worth, >= 0; 0 takes no notice of it.

        Raises:
            ValueError: A parameter is outside its range.
        """
        for name, value in (("power", power), ("num_neighbors", num_neighbors), ("max_photos", max_photos)):
            if not 1 <= value < math.inf:
                raise ValueError(f"{name} of PhotoNeighbors must be at least 1, got {value}.")
        if background_photos < 0:
            raise ValueError(f"background_photos of PhotoNeighbors must be at least 0, got {background_photos}.")
        self.layers = check_layers("PhotoNeighbors", layers)
        self.power = power
        self.num_neighbors = num_neighbors
        self.is_whitened = is_whitened
        self.max_photos = max_photos
        self.background_photos = background_photos

    def fit(self, features: FeatureSet) -> Self:
        """Learns how normal photos differ, and keeps them."""
        check_features(self, features)
        embeddings = self._embed_all(features)  # (N, D)
        background = self._embed_all(features.of_background())
        self.background_ = torch.empty(0, embeddings.shape[1], dtype=torch.float64)
        if len(background):
            mean = background.mean(dim=0)
            covariance = torch.from_numpy(shrunk_covariance(background - mean))
            self.background_ = torch.cat([mean.double()[None], covariance])
        return self._learn(embeddings, _digests(features.labels), torch.arange(len(embeddings)), len(embeddings))

    def fit_part(self, features: FeatureSet) -> Self:
        """The same as ``fit``, which keeps the photos."""
        return self.fit(features)

    def merge(self, other: Self, *, num_photos: int) -> Self:
        """Learns all photos anew from what both have kept of them; see ``Mergeable``."""
        (seen, classes, background), (num_others, of_others, other_background) = self._to_merge(), other._to_merge()
        if seen != num_photos or len(self.mean_) != len(other.mean_):
            raise ValueError(
                f"PhotoNeighbors can merge photos of the same width only, and this one has learned {seen}; got "
                f"{num_photos} of width {len(self.mean_)}, and width {len(other.mean_)}."
            )
        is_whole = seen == len(self.photos_) and num_others == len(other.photos_)
        pooled = None if is_whole else _pooled((self, other), (seen, num_others), torch.cat([classes, of_others]))
        self.background_ = background if len(background) else other_background
        return self._learn(
            torch.cat([self._embeddings(), other._embeddings()]),
            torch.cat([classes, of_others]),
            torch.cat([self.numbers_, other.numbers_ + num_photos]),
            seen + num_others,
            pooled,
        )

    def finish(self) -> Self:
        """Itself; nothing was kept for merges only."""
        check_is_fitted(self, "photos_")
        return self

    def remove(self, photos: Collection[int], features: FeatureSet | None = None) -> Self:
        """Learns the other photos anew; beyond ``max_photos`` their mean and covariance stay. See ``Mergeable``."""
        seen, classes, _ = self._to_merge()
        numbers = kept_numbers(photos, seen, owner="PhotoNeighbors")[self.numbers_]
        is_kept = numbers >= 0
        if not is_kept.any():
            raise ValueError("PhotoNeighbors has kept none of the photos that are left; fit it on them anew.")
        pooled = None if seen == len(self.photos_) else (self.mean_, self._covariance())
        left = seen - len(set(photos))
        return self._learn(self._embeddings()[is_kept], classes[is_kept], numbers[is_kept], left, pooled)

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores photos; there is no map, and the evidence is the nearest normal photo as a whole."""
        check_is_fitted(self, "photos_")
        whitened = (self._embed(maps) - self.mean_) @ self.whitening_
        distances, rows = nearest_rows(whitened, self.photos_, num_neighbors=self.num_neighbors)
        evidence = tuple(
            (Evidence(WHOLE_PHOTO, int(self.numbers_[row]), WHOLE_PHOTO, float(distance)),)
            for row, distance in zip(rows[:, 0], distances[:, 0], strict=True)
        )
        return Prediction(distances.mean(dim=1) + (whitened @ self.towards_).clamp_min(0), None, evidence)

    def state_dict(self) -> dict[str, Tensor]:
        """All that ends in ``_``, as the class says."""
        check_is_fitted(self, "photos_")
        return {name: getattr(self, name) for name in (*_LEARNED, *_TO_MERGE) if hasattr(self, name)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's photos."""
        for name in _LEARNED:
            setattr(self, name, take(self, state, name))
        for name in _TO_MERGE:
            if name in state:
                setattr(self, name, state[name])
            elif hasattr(self, name):
                delattr(self, name)
        return self

    def _to_merge(self) -> tuple[int, Tensor, Tensor]:
        """How many photos it has learned, their classes, and the background."""
        check_is_fitted(self, "photos_")
        classes, background, seen = (take(self, self.state_dict(), name) for name in _TO_MERGE)
        return int(seen), classes, background

    def _learn(
        self,
        embeddings: Tensor,
        classes: Tensor,
        numbers: Tensor,
        seen: int,
        pooled: tuple[Tensor, NDArray[np.float64]] | None = None,
    ) -> Self:
        """Learns from photos and the background at hand.

        Args:
            embeddings: Of those kept, shape (N, D).
            classes: Of each, shape (N,).
            numbers: Of each, shape (N,).
            seen: How many photos there were.
            pooled: Mean and covariance of all of these; None: they are those kept.
        """
        share = self.background_photos / (seen + self.background_photos) if len(self.background_) else 0.0
        self.mean_ = embeddings.mean(dim=0) if pooled is None else pooled[0]
        self.whitening_ = torch.eye(embeddings.shape[1])
        if self.is_whitened:
            if pooled is None:
                covariance = shrunk_covariance(within_classes(embeddings, [str(of) for of in classes.tolist()]))
            else:
                covariance = pooled[1]
            self.whitening_ = whitening(covariance, self.background_[1:].numpy(), share=share)
        photos = (embeddings - self.mean_) @ self.whitening_
        self.towards_ = torch.zeros(embeddings.shape[1])
        if share:
            towards = (self.background_[0].float() - self.mean_) @ self.whitening_
            self.towards_ = share * F.normalize(towards, dim=0)
        kept = torch.arange(len(photos))
        if len(photos) > self.max_photos:
            kept = greedy_coreset(photos, self.max_photos).indices
        self.photos_, self.numbers_, self.classes_ = photos[kept], numbers[kept], classes[kept]
        self.seen_ = torch.tensor([seen])
        return self

    def _embeddings(self) -> Tensor:
        """The photos as they were before they were whitened, shape (N, D)."""
        back = self.photos_.double() * variances(self.whitening_) @ self.whitening_.double().T
        return (back + self.mean_).float()

    def _covariance(self) -> NDArray[np.float64]:
        """What the photos were whitened with, shape (D, D)."""
        half = self.whitening_.double() * variances(self.whitening_)
        covariance: NDArray[np.float64] = (half @ half.T).numpy()
        return covariance

    def _embed(self, maps: Mapping[int, Tensor]) -> Tensor:
        chosen = [maps[layer] for layer in self.layers]
        return embed_photos(chosen, power=self.power, region=maps.get(REGION))

    def _embed_all(self, features: FeatureSet) -> Tensor:
        """Shape (N, D); (0, 0) of no photos."""
        return torch.cat([self._embed(maps) for maps in features.batches()]) if features else torch.empty(0, 0)


def _digests(labels: Sequence[str]) -> Tensor:
    """A number for each label, the same wherever it is computed: shape (N,), int64."""
    number_of = {label: hashlib.sha256(label.encode()).digest()[:8] for label in set(labels)}
    return torch.tensor([int.from_bytes(number_of[label], "big", signed=True) for label in labels], dtype=torch.int64)


def _pooled(
    parts: tuple[PhotoNeighbors, PhotoNeighbors], counts: tuple[int, int], classes: Tensor
) -> tuple[Tensor, NDArray[np.float64]]:
    """Mean and covariance of photos of which not all are kept, from those of both parts; within classes, if several."""
    shares = [count / sum(counts) for count in counts]
    mean = shares[0] * parts[0].mean_ + shares[1] * parts[1].mean_
    covariance = shares[0] * parts[0]._covariance() + shares[1] * parts[1]._covariance()
    if len(set(classes.tolist())) == 1:
        apart = (parts[0].mean_ - parts[1].mean_).double().numpy()
        covariance += shares[0] * shares[1] * np.outer(apart, apart)
    return mean, covariance
