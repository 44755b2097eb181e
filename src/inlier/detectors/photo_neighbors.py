"""PhotoNeighbors: distance of a whole photo to the nearest normal photos, in whitened features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from inlier.detectors.coreset import greedy_coreset
from inlier.detectors.neighbors import nearest_rows
from inlier.detectors.protocol import check_features, check_is_fitted, take
from inlier.features.backbone import check_layers
from inlier.features.cache import FeatureSet
from inlier.features.pooling import embed_photos
from inlier.records import Box, Evidence, Prediction

WHOLE_PHOTO: Box = (0.0, 0.0, 1.0, 1.0)


class PhotoNeighbors:
    """Mean distance of a photo's pooled deep features to those of the nearest normal photos.

    Where every photo has its own viewpoint and background, no patch is at home in a bank of patches, but what the
    photo shows as a whole still is. Distances are measured in the directions and units of how normal photos differ
    among themselves: features are whitened with the covariance of the normal photos, shrunk by the rule of Ledoit
    & Wolf (2004), which is a scaled identity for a handful of photos and nearly the covariance itself for thousands.
    Distance to the mean in such features is the Mahalanobis score of Rippel et al. (ICPR 2020, arXiv:2005.14140);
    distance to the nearest photos instead keeps apart kinds of photos that have nothing in common, and names them.

    Learns ``photos_`` (N, D), whitened, ``mean_`` (D,), ``whitening_`` (D, D) and ``numbers_`` (N,), the photos'
    numbers in the order of ``fit``.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({4: torch.rand(5, 8, 3, 3)}, groups=list("abcde"))
        ...     detector = PhotoNeighbors(layers=(4,)).fit(cache.features())
        >>> detector.predict({4: torch.rand(2, 8, 3, 3)}).score.shape
        torch.Size([2])
    """

    def __init__(
        self,
        *,
        layers: Sequence[int] = (3, 4),
        power: float = 3.0,
        num_neighbors: int = 5,
        is_whitened: bool = True,
        max_photos: int = 20_000,
    ) -> None:
        """Checks the parameters; nothing is learned yet.

        Args:
            layers: Which of the backbone's layers are pooled.
            power: Of the generalised mean over cells, >= 1; 1 averages.
            num_neighbors: K, nearest normal photos whose distances are averaged, >= 1; fewer if there are fewer.
            is_whitened: False leaves the features as they are: Euclidean distances of unit vectors.
            max_photos: Photos kept at most; more are reduced to a coreset.

        Raises:
            ValueError: A parameter is outside its range.
        """
        for name, value in (("power", power), ("num_neighbors", num_neighbors), ("max_photos", max_photos)):
            if not 1 <= value < math.inf:
                raise ValueError(f"{name} of PhotoNeighbors must be at least 1, got {value}.")
        self.layers = check_layers("PhotoNeighbors", layers)
        self.power = power
        self.num_neighbors = num_neighbors
        self.is_whitened = is_whitened
        self.max_photos = max_photos

    def fit(self, features: FeatureSet) -> Self:
        """Learns how normal photos differ, and keeps them."""
        check_features(self, features)
        embeddings = torch.cat([self._embed(maps) for maps in features.batches()])  # (N, D)
        self.mean_ = embeddings.mean(dim=0)
        self.whitening_ = _whitening(embeddings) if self.is_whitened else torch.eye(embeddings.shape[1])
        photos = (embeddings - self.mean_) @ self.whitening_
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
        return Prediction(distances.mean(dim=1), None, evidence)

    def state_dict(self) -> dict[str, Tensor]:
        """``photos_``, ``mean_``, ``whitening_`` and ``numbers_``."""
        check_is_fitted(self, "photos_")
        return {name: getattr(self, name) for name in ("photos_", "mean_", "whitening_", "numbers_")}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's photos."""
        for name in ("photos_", "mean_", "whitening_", "numbers_"):
            setattr(self, name, take(self, state, name))
        return self

    def _embed(self, maps: Mapping[int, Tensor]) -> Tensor:
        return embed_photos([maps[layer] for layer in self.layers], power=self.power)


def _whitening(embeddings: Tensor) -> Tensor:
    """W with W W' the inverse of the shrunk covariance, shape (D, D); the identity where nothing varies."""
    identity = torch.eye(embeddings.shape[1])
    if len(embeddings) == 1:
        return identity
    covariance, _ = ledoit_wolf(embeddings.double().numpy())
    variances, directions = np.linalg.eigh(covariance)
    if variances[-1] <= 1e-12:  # copies of one photo
        return identity
    floor = 1e-6 * variances[-1]  # what rounding leaves of a direction that does not vary
    return torch.from_numpy(directions / np.sqrt(np.maximum(variances, floor))).float()
