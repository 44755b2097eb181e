"""The methods that anything better has to beat, from scikit-learn, over one embedding for each photo."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.detectors.protocol import check_features, check_is_fitted, take
from inlier.features.backbone import check_layers
from inlier.features.cache import FeatureSet
from inlier.features.pooling import embed_photos
from inlier.features.regions import REGION
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

    Learns ``photos_`` (N, D), the embeddings, and ``seen_`` (1,), of how many photos they are. A loaded detector fits
    its estimator again on these, with the same result: photos are put in one order first, and randomness comes from
    ``seed``. So no estimator is ever pickled.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({4: torch.rand(5, 8, 3, 3)}, groups=list("abcde"))
        ...     detector = Baseline(method="nearest-neighbor", layers=(4,)).fit(cache.features())
        >>> detector.predict({4: torch.rand(2, 8, 3, 3)}).score.shape
        torch.Size([2])
    """

    is_trained = False
    forgets_numbers = False

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
        return self._learn(_spread(photos, self.max_photos), len(photos))

    def fit_part(self, features: FeatureSet) -> Self:
        """The same as ``fit``, which keeps the photos."""
        return self.fit(features)

    def merge(self, other: Self, *, num_photos: int) -> Self:
        """Fits the estimator on the photos of both; photos have no numbers here. See ``Mergeable``.

        Of more than ``max_photos`` each part has its share, by how many photos it has seen. No sums stand in for the
        photos, not even for the Mahalanobis distance: how far to shrink its covariance is told by single photos.
        """
        check_is_fitted(self, "photos_")
        check_is_fitted(other, "photos_")
        seen = int(self.seen_), int(other.seen_)
        rooms = [max(1, round(self.max_photos * of / sum(seen))) for of in seen]
        if sum(seen) <= self.max_photos:
            rooms = list(seen)
        parts = [_spread(of.photos_, room) for of, room in zip((self, other), rooms, strict=True)]
        return self._learn(_spread(torch.cat(parts), self.max_photos), sum(seen))

    def finish(self) -> Self:
        """Itself; nothing was kept for merges only."""
        check_is_fitted(self, "photos_")
        return self

    def remove(self, photos: Collection[int], features: FeatureSet | None = None) -> Self:
        """Forgets photos whose features come again, as long as all photos were kept; see ``Mergeable``."""
        check_is_fitted(self, "photos_")
        if features is None:
            raise ValueError("Baseline forgets photos only when it is given their features again.")
        check_features(self, features)
        if len(self.photos_) < int(self.seen_):
            raise ValueError(f"Baseline has kept {len(self.photos_)} of {int(self.seen_)} photos, and can forget none.")
        is_kept = torch.ones(len(self.photos_), dtype=torch.bool)
        for photo in torch.cat([self._embed(maps) for maps in features.batches()]):
            differences = (self.photos_ - photo).abs().amax(dim=1).masked_fill(~is_kept, math.inf)
            nearest = int(differences.argmin())
            if not differences[nearest] <= 1e-3:  # what half precision rounds off in batches of another size
                raise ValueError("Baseline can forget only photos that it has learned, and one of these it has not.")
            is_kept[nearest] = False
        if not is_kept.any():
            raise ValueError("Baseline must keep at least one photo, and was asked to forget all.")
        return self._learn(self.photos_[is_kept], int(is_kept.sum()))

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores photos; there is neither map nor evidence."""
        check_is_fitted(self, "photos_")
        scores = self._score(self._embed(maps).double().numpy())
        return Prediction(torch.from_numpy(scores).float(), None, None)

    def state_dict(self) -> dict[str, Tensor]:
        """``photos_`` and ``seen_``."""
        check_is_fitted(self, "photos_")
        return {"photos_": self.photos_, "seen_": self.seen_}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's photos, and fits the estimator again."""
        photos = take(self, state, "photos_")
        return self._learn(photos, int(state.get("seen_", torch.tensor([len(photos)]))))

    def _learn(self, photos: Tensor, seen: int) -> Self:
        self.photos_, self.seen_ = photos, torch.tensor([seen])
        rows = photos.double().numpy()
        is_varied = bool(np.ptp(rows, axis=0).max() > 1e-6)  # more than what float32 rounds off unit vectors
        self._score = _scorer(self.method if is_varied else "nearest-neighbor", rows, self.seed)
        return self

    def _embed(self, maps: Mapping[int, Tensor]) -> Tensor:
        chosen = [maps[layer] for layer in self.layers]
        return embed_photos(chosen, power=self.power, region=maps.get(REGION))


def _spread(photos: Tensor, max_photos: int) -> Tensor:
    """At most so many photos, evenly spaced in their order by value, in which some methods want rows to come."""
    photos = photos[np.lexsort(photos.T.numpy()[::-1])]
    if len(photos) <= max_photos:
        return photos
    return photos[torch.linspace(0, len(photos) - 1, max_photos, dtype=torch.float64).long()]


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
