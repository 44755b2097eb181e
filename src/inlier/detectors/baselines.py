"""The methods that anything better has to beat, from scikit-learn, over one embedding for each photo."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.detectors.protocol import check_features, check_is_fitted, take
from inlier.features.backbone import check_layers
from inlier.features.cache import FeatureSet
from inlier.features.pooling import embed_photos
from inlier.records import Prediction

Method = Literal["one-class-svm", "mahalanobis", "nearest-neighbor", "isolation-forest"]
METHODS: tuple[Method, ...] = get_args(Method)

_Rows = NDArray[np.float64]
_Scorer = Callable[[_Rows], NDArray[Any]]


class Baseline:
    """One of four textbook methods over pooled photo embeddings, with scikit-learn's own settings.

    ``one-class-svm`` (Schoelkopf et al., 2001) is what was used before deep features were compared directly;
    ``mahalanobis`` the distance to the mean under the covariance, shrunk by the rule of Ledoit & Wolf (2004);
    ``nearest-neighbor`` the Euclidean distance to the nearest normal photo; ``isolation-forest`` (Liu et al., 2008)
    how few random cuts set a photo apart.

    Where all photos are the same there is no kernel width, no covariance and nothing to cut; each method is then the
    distance to that photo.

    Learns ``photos_`` (N, D), the embeddings. A loaded detector fits its estimator again on these, with the same
    result: photos are put in one order first, and randomness comes from ``seed``. So no estimator is ever pickled.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({4: torch.rand(5, 8, 3, 3)}, groups=list("abcde"))
        ...     detector = Baseline(method="nearest-neighbor", layers=(4,)).fit(cache.features())
        >>> detector.predict({4: torch.rand(2, 8, 3, 3)}).score.shape
        torch.Size([2])
    """

    is_trained = False

    def __init__(
        self,
        *,
        method: Method = "mahalanobis",
        layers: Sequence[int] = (3, 4),
        power: float = 1.0,
        max_photos: int = 5_000,
        seed: int = 0,
    ) -> None:
        """Checks the parameters; nothing is learned yet.

        Args:
            method: ``one-class-svm``, ``mahalanobis``, ``nearest-neighbor`` or ``isolation-forest``.
            layers: Which of the backbone's layers are pooled.
            power: Of the generalised mean over cells, >= 1; 1 averages.
            max_photos: Photos kept at most, evenly spaced in their order by value; time of a support vector machine
                grows with their square.
            seed: Of the isolation forest.

        Raises:
            ValueError: A parameter is outside its range.
        """
        if method not in METHODS:
            raise ValueError(f"method of Baseline must be one of {', '.join(METHODS)}, got {method!r}.")
        for name, value in (("power", power), ("max_photos", max_photos)):
            if not 1 <= value < math.inf:
                raise ValueError(f"{name} of Baseline must be at least 1, got {value}.")
        if seed < 0:
            raise ValueError(f"seed of Baseline must be at least 0, got {seed}.")
        self.method = method
        self.layers = check_layers("Baseline", layers)
        self.power = power
        self.max_photos = max_photos
        self.seed = seed

    def fit(self, features: FeatureSet) -> Self:
        """Keeps the photos' embeddings, and fits the estimator on them."""
        check_features(self, features)
        photos = torch.cat([self._embed(maps) for maps in features.batches()])  # (N, D)
        photos = photos[np.lexsort(photos.T.numpy()[::-1])]  # some methods ask in which order rows come
        if len(photos) > self.max_photos:
            photos = photos[torch.linspace(0, len(photos) - 1, self.max_photos, dtype=torch.float64).long()]
        return self._learn(photos)

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores photos; there is neither map nor evidence."""
        check_is_fitted(self, "photos_")
        scores = self._score(self._embed(maps).double().numpy())
        return Prediction(torch.from_numpy(scores).float(), None, None)

    def state_dict(self) -> dict[str, Tensor]:
        """``photos_``."""
        check_is_fitted(self, "photos_")
        return {"photos_": self.photos_}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's photos, and fits the estimator again."""
        return self._learn(take(self, state, "photos_"))

    def _learn(self, photos: Tensor) -> Self:
        self.photos_ = photos
        rows = photos.double().numpy()
        is_varied = bool(np.ptp(rows, axis=0).max() > 1e-6)  # more than what float32 rounds off unit vectors
        self._score = _scorer(self.method if is_varied else "nearest-neighbor", rows, self.seed)
        return self

    def _embed(self, maps: Mapping[int, Tensor]) -> Tensor:
        return embed_photos([maps[layer] for layer in self.layers], power=self.power)


def _scorer(method: Method, photos: _Rows, seed: int) -> _Scorer:
    """Fits a method on photos, shape (N, D); what comes back gives (B, D) its scores (B,), higher more anomalous.

    scikit-learn is imported here, since its parts take seconds to load and no other detector needs these.
    """
    if method == "one-class-svm":
        from sklearn.svm import OneClassSVM

        machine = OneClassSVM().fit(photos)
        return lambda rows: -machine.score_samples(rows)
    if method == "isolation-forest":
        from sklearn.ensemble import IsolationForest

        forest = IsolationForest(random_state=seed).fit(photos)
        return lambda rows: -forest.score_samples(rows)
    if method == "mahalanobis":
        from sklearn.covariance import LedoitWolf

        gaussian = LedoitWolf().fit(photos)
        return lambda rows: np.sqrt(np.maximum(gaussian.mahalanobis(rows), 0))
    from sklearn.neighbors import NearestNeighbors

    neighbors = NearestNeighbors(n_neighbors=1).fit(photos)
    return lambda rows: neighbors.kneighbors(rows)[0][:, 0]
