"""Components: which of the labelled kinds of normal photo a photo is most like, with a probability."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.data.splits import group_folds
from inlier.detectors.protocol import check_is_fitted, take
from inlier.detectors.whitening import shrunk_whitening, within_classes
from inlier.features.backbone import check_layers
from inlier.features.cache import FeatureSet
from inlier.features.pooling import embed_photos

_NUM_FOLDS = 5
_LEARNED = ("means_", "whitening_", "spread_", "temperature_", "names_")


class Components:
    """Names the most similar class of normal photos: linear discriminant analysis of pooled features.

    A photo's distance to the mean of each class is measured in units of how photos of one class differ (the
    covariance within classes, shrunk by the rule of Ledoit & Wolf, 2004), and the nearest mean names it (Fisher, 1936;
    Hastie, Tibshirani & Friedman, *Elements of Statistical Learning*, section 4.3; equal priors). Gaussians would be
    too sure in hundreds of dimensions, and most of all of a photo far from every class. So the likelihood is that of a
    Student distribution, v / 2 * log(1 + d^2 / v) with v the squared distance that photos of held-out groups have from
    their own class on average, which far away compares ratios of distances and not differences; and its logarithms are
    divided by a temperature that makes those photos most likely (Platt, 1999; Guo et al., ICML 2017, section 4).

    A probability answers "which of these, if it is one of these": whether a photo belongs at all is the detector's
    question, not this one's.

    Learns ``means_`` (C, D), ``whitening_`` (D, D), ``spread_`` (1,), which is v, ``temperature_`` (1,) and ``names_``,
    the classes in their order as the bytes of a JSON list, so that they are saved like all else.

    Example:
        >>> from inlier.features.cache import FeatureCache
        >>> with FeatureCache(dtype=torch.float32) as cache:
        ...     maps = {4: torch.eye(2).repeat(6, 1)[:, :, None, None]}
        ...     cache.append(maps, groups=list("abcdefghijkl"), labels=["valve", "piston"] * 6)
        ...     components = Components(layers=(4,)).fit(cache.features())
        >>> components.suggest({4: torch.tensor([0.9, 0.1])[None, :, None, None]})[0][0]
        'valve'
    """

    def __init__(self, *, layers: Sequence[int] = (3, 4), power: float = 3.0) -> None:
        """Checks the parameters; nothing is learned yet.

        Args:
            layers: Which of the backbone's layers are pooled.
            power: Of the generalised mean over cells, >= 1; 1 averages.

        Raises:
            ValueError: A parameter is outside its range.
        """
        if not 1 <= power < math.inf:
            raise ValueError(f"power of Components must be at least 1, got {power}.")
        self.layers = check_layers("Components", layers)
        self.power = power

    def fit(self, features: FeatureSet, *, seed: int = 0) -> Self:
        """Learns the classes of ``component_names``; photos of other labels are not looked at.

        Args:
            features: Normal photos with labels.
            seed: Decides which groups are held out together when the temperature is chosen.

        Raises:
            ValueError: There is no class.
        """
        names = component_names(features.labels)
        if not names:
            raise ValueError("Components needs at least two photos with one label, got none.")
        labels = np.array(features.labels)
        chosen = np.flatnonzero(np.isin(labels, names))
        labelled = features.select(chosen.tolist())
        embeddings = torch.cat([self._embed(maps) for maps in labelled.batches()])  # (N, D)
        members = np.searchsorted(names, labels[chosen])  # (N,)
        self.names_ = torch.tensor(list(json.dumps(names).encode()), dtype=torch.uint8)
        self.means_, self.whitening_ = _classes(embeddings, members, len(names))
        is_judged = ~np.array(labelled.is_view)
        squared, truth = _held_out(embeddings, members, labelled.groups, is_judged, len(names), seed)
        self.spread_ = _spread(squared, truth)
        self.temperature_ = _temperature(_log_likelihoods(squared, self.spread_), truth)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The classes, in alphabetical order.

        Raises:
            NotFittedError: It was not fitted.
        """
        check_is_fitted(self, "names_")
        return tuple(json.loads(bytes(self.names_.tolist())))

    def suggest(self, maps: Mapping[int, Tensor]) -> list[tuple[str, float]]:
        """For each of B photos the most similar class and its probability, in (0, 1].

        Raises:
            NotFittedError: It was not fitted.
        """
        check_is_fitted(self, "means_")
        squared = _squared_distances(self._embed(maps), self.means_, self.whitening_)
        likelihood = _log_likelihoods(squared, self.spread_)
        probability, best = (likelihood / self.temperature_).softmax(dim=1).max(dim=1)
        names = self.names
        return [(names[name], float(p)) for name, p in zip(best.tolist(), probability, strict=True)]

    def state_dict(self) -> dict[str, Tensor]:
        """``means_``, ``whitening_``, ``spread_``, ``temperature_`` and ``names_``."""
        check_is_fitted(self, "means_")
        return {name: getattr(self, name) for name in _LEARNED}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        """Takes what another one learned.

        Raises:
            ModelError: Something is missing.
        """
        for name in _LEARNED:
            setattr(self, name, take(self, state, name))
        return self

    def _embed(self, maps: Mapping[int, Tensor]) -> Tensor:
        return embed_photos([maps[layer] for layer in self.layers], power=self.power)


def component_names(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes that can be told apart: every label of at least two photos, in alphabetical order."""
    return tuple(sorted(label for label, count in Counter(labels).items() if label and count > 1))


def _classes(embeddings: Tensor, members: NDArray[np.int64], num_classes: int) -> tuple[Tensor, Tensor]:
    """The whitened mean of each class, (C, D), and the whitening within classes, (D, D)."""
    whitening = shrunk_whitening(within_classes(embeddings, [str(member) for member in members]))
    means = torch.stack([embeddings[torch.from_numpy(members == k)].mean(dim=0) for k in range(num_classes)])
    return means @ whitening, whitening


def _squared_distances(embeddings: Tensor, means: Tensor, whitening: Tensor) -> Tensor:
    """Of each photo to each class's mean, whitened: shape (N, C)."""
    return torch.cdist(embeddings @ whitening, means).square()


def _log_likelihoods(squared: Tensor, spread: Tensor) -> Tensor:
    """Student's, but for a constant: shape (N, C), of squared distances of that shape."""
    return -spread / 2 * torch.log1p(squared / spread)


def _held_out(
    embeddings: Tensor,
    members: NDArray[np.int64],
    groups: Sequence[str],
    is_judged: NDArray[np.bool_],
    num_classes: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Squared distances of photos to classes learned without their groups, and the class that each belongs to.

    Args:
        embeddings: Shape (N, D).
        members: The class of each photo, shape (N,).
        groups: The group of each photo.
        is_judged: Which photos count, shape (N,); altered copies do not.
        num_classes: C.
        seed: Decides which groups are held out together.

    Returns:
        Shapes (H, C) and (H,); H is 0 where no group can be spared.
    """
    num_folds = min(_NUM_FOLDS, len(set(groups)))
    folds = group_folds(groups, num_folds=num_folds, seed=seed) if num_folds > 1 else np.zeros(len(groups), np.int64)
    found, truth = [torch.empty(0, num_classes)], [torch.empty(0, dtype=torch.int64)]
    for fold in range(num_folds):
        learned = folds != fold
        held_out = ~learned & is_judged
        if len(np.unique(members[learned])) == num_classes and held_out.any():
            means, whitening = _classes(embeddings[torch.from_numpy(learned)], members[learned], num_classes)
            found.append(_squared_distances(embeddings[torch.from_numpy(held_out)], means, whitening))
            truth.append(torch.from_numpy(members[held_out]))
    return torch.cat(found), torch.cat(truth)


def _spread(squared: Tensor, truth: Tensor) -> Tensor:
    """The mean squared distance of photos from their own class, shape (1,); 1 of no photos, or of photos all alike."""
    own = squared.gather(1, truth[:, None])
    return own.mean().reshape(1) if len(own) and float(own.mean()) > 0 else torch.ones(1)


def _temperature(likelihood: Tensor, truth: Tensor) -> Tensor:
    """What makes the classes of photos most likely, shape (1,); 1 of no photos."""
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]  # only who fits waits for it

    if not len(truth):
        return torch.ones(1)
    likelihood = likelihood.double()

    def surprise(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(likelihood / math.exp(log_temperature), truth))

    best = minimize_scalar(surprise, bounds=(math.log(0.1), math.log(1e4)), method="bounded").x
    return torch.tensor([math.exp(best)])
