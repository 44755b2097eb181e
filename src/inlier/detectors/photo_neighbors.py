"""PhotoNeighbors: distance of a whole photo to the nearest normal photos, in whitened features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

from inlier.detectors.coreset import greedy_coreset
from inlier.detectors.neighbors import nearest_rows
from inlier.detectors.protocol import check_features, check_is_fitted, take
from inlier.detectors.whitening import shrunk_whitening, within_classes
from inlier.features.backbone import check_layers
from inlier.features.cache import FeatureSet
from inlier.features.pooling import embed_photos
from inlier.records import Box, Evidence, Prediction

WHOLE_PHOTO: Box = (0.0, 0.0, 1.0, 1.0)

_LEARNED = ("photos_", "mean_", "whitening_", "numbers_", "towards_")


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
    in the order of ``fit``, and ``towards_`` (D,), the weighted direction of the background; zero without one.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({4: torch.rand(5, 8, 3, 3)}, groups=list("abcde"))
        ...     detector = PhotoNeighbors(layers=(4,)).fit(cache.features())
        >>> detector.predict({4: torch.rand(2, 8, 3, 3)}).score.shape
        torch.Size([2])
    """

    is_trained = False

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
        share = self.background_photos / (len(embeddings) + self.background_photos) if len(background) else 0.0
        self.mean_ = embeddings.mean(dim=0)
        self.whitening_ = torch.eye(embeddings.shape[1])
        if self.is_whitened:
            self.whitening_ = shrunk_whitening(within_classes(embeddings, features.labels), background, share=share)
        photos = (embeddings - self.mean_) @ self.whitening_
        self.towards_ = torch.zeros(embeddings.shape[1])
        if share:
            self.towards_ = share * F.normalize((background.mean(dim=0) - self.mean_) @ self.whitening_, dim=0)
        numbers = torch.arange(len(photos))
        if len(photos) > self.max_photos:
            numbers = greedy_coreset(photos, self.max_photos).indices
        self.photos_, self.numbers_ = photos[numbers], numbers
        return self

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
        """``photos_``, ``mean_``, ``whitening_``, ``numbers_`` and ``towards_``."""
        check_is_fitted(self, "photos_")
        return {name: getattr(self, name) for name in _LEARNED}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's photos."""
        for name in _LEARNED:
            setattr(self, name, take(self, state, name))
        return self

    def _embed(self, maps: Mapping[int, Tensor]) -> Tensor:
        return embed_photos([maps[layer] for layer in self.layers], power=self.power)

    def _embed_all(self, features: FeatureSet) -> Tensor:
        """Shape (N, D); (0, 0) of no photos."""
        return torch.cat([self._embed(maps) for maps in features.batches()]) if features else torch.empty(0, 0)
