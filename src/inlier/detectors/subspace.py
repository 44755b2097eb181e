"""Distance from the subspace in which normal features vary: what a PCA of them cannot reconstruct."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Self

import torch
from torch import Tensor

from inlier.detectors.anomaly_map import POOLINGS, Pooling, pool_map, smooth_map
from inlier.detectors.moments import Moments
from inlier.detectors.patchcore import DISTANCES, Distance
from inlier.detectors.protocol import Detector, check_features, check_is_fitted, take
from inlier.features.backbone import check_layers
from inlier.features.cache import FeatureSet
from inlier.features.patches import embed_patches
from inlier.features.pooling import embed_photos
from inlier.features.regions import REGION, cells_inside
from inlier.records import Prediction

_NOTHING = 1e-12
"""Share of the mean square of rows below which a direction's variance is the rounding of their float32."""


@dataclass(frozen=True, eq=False)
class Subspace:
    """The mean of rows, and the directions in which most of their variance lies.

    The length of what is left of a new row is the root of Q, or SPE, of statistical process control (Jackson &
    Mudholkar, Technometrics 1979).

    Attributes:
        moments: Of the rows, N >= 1 of width D.
        directions: Orthonormal columns, shape (D, k) with k < D; none where nothing varies.
    """

    moments: Moments
    directions: Tensor

    @classmethod
    def of(cls, moments: Moments, *, explained_variance: float) -> Self:
        """As few leading principal components as explain this share of the variance, in (0, 1)."""
        variances, directions = torch.linalg.eigh(moments.scatter)
        variances, directions = variances.flip(0).clamp_min(0), directions.flip(1)  # largest first
        mean_square = moments.scatter.trace() + moments.count * moments.mean.square().sum()
        num_varying = int((variances > _NOTHING * mean_square).sum())
        shares = variances.cumsum(0) / variances.sum()
        num_needed = int((shares < explained_variance).sum()) + 1
        num_kept = min(num_needed, num_varying, len(variances) - 1)  # of all D, no row would leave a residual
        return cls(moments, directions[:, :num_kept].float().contiguous())

    def residuals(self, rows: Tensor) -> Tensor:
        """Distance of each row from the subspace: shape (..., D) -> (...), >= 0."""
        centred = rows - self.moments.mean.float()
        lengths: Tensor = torch.linalg.vector_norm(centred - centred @ self.directions @ self.directions.T, dim=-1)
        return lengths


class PatchSubspace:
    """Distance of each patch from the subspace of normal patches; the photo's score is the mean of these.

    One pass and D x D numbers, whatever the number of photos, and a few hundred patches are enough to know the main
    directions: one photo has as many. What has been learned can be added to, merged, and taken back, with the result
    of a fit on the photos that are left.

    PCA residuals of patch features, with 0.99 of the variance explained, are SubspaceAD's (Lendering et al., CVPR
    2026, arXiv:2602.23013). Departures: features are those of PatchCore, several stages of any backbone side by side
    and compared by direction, where the paper has one vision transformer's; fewer directions are kept and all patches
    averaged, which was better on hand-held photos.

    Learns ``subspace_``; its state is the moments, from which the subspace follows.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({3: torch.rand(4, 8, 6, 6)}, groups=list("abcd"))
        ...     detector = PatchSubspace(layers=(3,)).fit(cache.features())
        >>> detector.predict({3: torch.rand(2, 8, 6, 6)}).score.shape
        torch.Size([2])
    """

    is_trained = False
    forgets_numbers = False

    def __init__(
        self,
        *,
        layers: Sequence[int] = (2, 3, 4),
        patch_size: int = 3,
        distance: Distance = "cosine",
        explained_variance: float = 0.95,
        pooling: Pooling = "mean",
        top_ratio: float = 0.05,
        map_size: int = 224,
        sigma: float = 4.0,
    ) -> None:
        """Checks the parameters; nothing is learned yet.

        Args:
            layers: Which of the backbone's layers make up a patch's embedding; the finest one has its cells.
            patch_size: Side of the neighbourhood that a patch is averaged over, in cells, odd.
            distance: ``cosine`` or ``euclidean``.
            explained_variance: Share of the variance that lies in the subspace, in (0, 1).
            pooling: ``max``, ``mean`` or ``top``.
            top_ratio: Share of the patches that ``top`` averages, in (0, 1].
            map_size: Height and width of the anomaly map, in pixels.
            sigma: Of the Gaussian over the anomaly map, in its pixels; 0 for none.

        Raises:
            ValueError: A parameter is outside its range.
        """
        if patch_size < 1 or patch_size % 2 == 0:
            raise ValueError(f"patch_size of PatchSubspace must be an odd number from 1 on, got {patch_size}.")
        if distance not in DISTANCES:
            raise ValueError(f"distance of PatchSubspace must be one of {', '.join(DISTANCES)}, got {distance!r}.")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling of PatchSubspace must be one of {', '.join(POOLINGS)}, got {pooling!r}.")
        _check_explained_variance("PatchSubspace", explained_variance)
        if not 0 < top_ratio <= 1:
            raise ValueError(f"top_ratio of PatchSubspace must be in (0, 1], got {top_ratio}.")
        if map_size < 1:
            raise ValueError(f"map_size of PatchSubspace must be at least 1, got {map_size}.")
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma of PatchSubspace must be at least 0, got {sigma}.")
        self.layers = check_layers("PatchSubspace", layers)
        self.patch_size = patch_size
        self.distance = distance
        self.explained_variance = explained_variance
        self.pooling = pooling
        self.top_ratio = top_ratio
        self.map_size = map_size
        self.sigma = sigma

    def fit(self, features: FeatureSet) -> Self:
        """Learns how the patches of normal photos vary."""
        check_features(self, features)
        return self._learn(self._moments(features))

    def remove(self, photos: Collection[int], features: FeatureSet | None = None) -> Self:
        """Forgets photos, by their features alone, as if they had never been there; see ``Mergeable``."""
        check_is_fitted(self, "subspace_")
        return self._learn(_left(self, features, self._moments))

    def fit_part(self, features: FeatureSet) -> Self:
        """The same as ``fit``: moments lose nothing."""
        return self.fit(features)

    def merge(self, other: Self, *, num_photos: int) -> Self:
        """Adds the other's moments, exactly; photos have no numbers here. See ``Mergeable``."""
        check_is_fitted(self, "subspace_")
        check_is_fitted(other, "subspace_")
        return self._learn(self.subspace_.moments + other.subspace_.moments)

    def finish(self) -> Self:
        """Itself; nothing was kept for merges only."""
        check_is_fitted(self, "subspace_")
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores photos, with a map in ``map_size`` pixels; no single normal photo is evidence."""
        check_is_fitted(self, "subspace_")
        patch_scores = self.subspace_.residuals(self._embed(maps))  # (B, h, w)
        is_inside = cells_inside(maps, *patch_scores.shape[1:])
        if is_inside is not None:
            patch_scores = patch_scores * is_inside
        score = pool_map(patch_scores, pooling=self.pooling, top_ratio=self.top_ratio, is_inside=is_inside)
        anomaly_map = smooth_map(patch_scores, size=self.map_size, sigma=self.sigma, is_inside=is_inside)
        return Prediction(score, anomaly_map, None)

    def state_dict(self) -> dict[str, Tensor]:
        """``count_``, ``mean_`` and ``scatter_`` of the patches."""
        check_is_fitted(self, "subspace_")
        return _to_state(self.subspace_.moments)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's moments, and derives the subspace from them."""
        return self._learn(_from_state(self, state))

    def _learn(self, moments: Moments) -> Self:
        self.subspace_ = Subspace.of(moments, explained_variance=self.explained_variance)
        return self

    def _moments(self, features: FeatureSet) -> Moments:
        return _sum(Moments.of(self._inside(maps)) for maps in features.batches())

    def _inside(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Embeddings of the patches that count, shape (N, D)."""
        patches = self._embed(maps)
        is_inside = cells_inside(maps, *patches.shape[1:3])
        return patches.flatten(0, 2) if is_inside is None else patches[is_inside]

    def _embed(self, maps: Mapping[int, Tensor]) -> Tensor:
        chosen = [maps[layer] for layer in self.layers]
        return embed_patches(chosen, patch_size=self.patch_size, is_cosine=self.distance == "cosine")  # (B, h, w, D)


class PhotoSubspace:
    """Distance of a whole photo's pooled features from the subspace in which those of normal photos vary.

    The sibling of PatchSubspace for photos each of which has its own viewpoint, and of the Mahalanobis distance: both
    forgive differences that normal photos show among themselves, one up to a number of directions and entirely, the
    other in all directions and by their variance. With N photos at most N - 1 directions are known.

    Learns ``subspace_``; its state is the moments, from which the subspace follows.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     cache.append({4: torch.rand(5, 8, 3, 3)}, groups=list("abcde"))
        ...     detector = PhotoSubspace(layers=(4,)).fit(cache.features())
        >>> detector.predict({4: torch.rand(2, 8, 3, 3)}).score.shape
        torch.Size([2])
    """

    is_trained = False
    forgets_numbers = False

    def __init__(self, *, layers: Sequence[int] = (3, 4), power: float = 1.0, explained_variance: float = 0.9) -> None:
        """Checks the parameters; nothing is learned yet.

        Args:
            layers: Which of the backbone's layers are pooled.
            power: Of the generalised mean over cells, >= 1; 1 averages.
            explained_variance: Share of the variance that lies in the subspace, in (0, 1).

        Raises:
            ValueError: A parameter is outside its range.
        """
        if not 1 <= power < math.inf:
            raise ValueError(f"power of PhotoSubspace must be at least 1, got {power}.")
        _check_explained_variance("PhotoSubspace", explained_variance)
        self.layers = check_layers("PhotoSubspace", layers)
        self.power = power
        self.explained_variance = explained_variance

    def fit(self, features: FeatureSet) -> Self:
        """Learns how normal photos vary."""
        check_features(self, features)
        return self._learn(self._moments(features))

    def remove(self, photos: Collection[int], features: FeatureSet | None = None) -> Self:
        """Forgets photos, by their features alone, as if they had never been there; see ``Mergeable``."""
        check_is_fitted(self, "subspace_")
        return self._learn(_left(self, features, self._moments))

    def fit_part(self, features: FeatureSet) -> Self:
        """The same as ``fit``: moments lose nothing."""
        return self.fit(features)

    def merge(self, other: Self, *, num_photos: int) -> Self:
        """Adds the other's moments, exactly; photos have no numbers here. See ``Mergeable``."""
        check_is_fitted(self, "subspace_")
        check_is_fitted(other, "subspace_")
        return self._learn(self.subspace_.moments + other.subspace_.moments)

    def finish(self) -> Self:
        """Itself; nothing was kept for merges only."""
        check_is_fitted(self, "subspace_")
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        """Scores photos; there is neither map nor evidence."""
        check_is_fitted(self, "subspace_")
        return Prediction(self.subspace_.residuals(self._embed(maps)), None, None)

    def state_dict(self) -> dict[str, Tensor]:
        """``count_``, ``mean_`` and ``scatter_`` of the photos."""
        check_is_fitted(self, "subspace_")
        return _to_state(self.subspace_.moments)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes another one's moments, and derives the subspace from them."""
        return self._learn(_from_state(self, state))

    def _learn(self, moments: Moments) -> Self:
        self.subspace_ = Subspace.of(moments, explained_variance=self.explained_variance)
        return self

    def _moments(self, features: FeatureSet) -> Moments:
        return _sum(Moments.of(self._embed(maps)) for maps in features.batches())

    def _embed(self, maps: Mapping[int, Tensor]) -> Tensor:
        chosen = [maps[layer] for layer in self.layers]
        return embed_photos(chosen, power=self.power, region=maps.get(REGION))  # (B, D)


def _check_explained_variance(owner: str, explained_variance: float) -> None:
    if not 0 < explained_variance < 1:
        raise ValueError(f"explained_variance of {owner} must be in (0, 1), got {explained_variance}.")


def _sum(parts: Iterable[Moments]) -> Moments:
    return reduce(add, parts)


def _left(
    detector: PatchSubspace | PhotoSubspace, features: FeatureSet | None, moments: Callable[[FeatureSet], Moments]
) -> Moments:
    """What a detector knows without these photos."""
    if features is None:
        raise ValueError(f"{type(detector).__name__} forgets photos only when it is given their features again.")
    check_features(detector, features)
    left = detector.subspace_.moments - moments(features)
    if not left.count:
        raise ValueError(f"{type(detector).__name__} must keep at least one photo, and was asked to forget all.")
    return left


def _to_state(moments: Moments) -> dict[str, Tensor]:
    return {"count_": torch.tensor(moments.count), "mean_": moments.mean, "scatter_": moments.scatter}


def _from_state(detector: Detector, state: Mapping[str, Tensor]) -> Moments:
    count, mean, scatter = (take(detector, state, name) for name in ("count_", "mean_", "scatter_"))
    return Moments(int(count), mean, scatter)
