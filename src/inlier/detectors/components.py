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
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from torch import Tensor

from inlier.data.splits import group_folds
from inlier.detectors.protocol import check_is_fitted, take
from inlier.detectors.whitening import shrunk_whitening, within_classes
from inlier.features.backbone import check_layers
from inlier.features.cache import FeatureSet
from inlier.features.pooling import embed_photos

_NUM_FOLDS = 5
_LEARNED = ("means_", "whitening_", "temperature_", "names_")


class Components:
    """Names the most similar class of normal photos: linear discriminant analysis of pooled features.

    A photo's distance to the mean of each class is measured in units of how photos of one class differ (the
    covariance within classes, shrunk by the rule of Ledoit & Wolf, 2004); with equal priors, half its negative square
    is the logarithm of the class's likelihood, but for a constant (Fisher, 1936; Hastie, Tibshirani & Friedman,
    *Elements of Statistical Learning*, section 4.3). Such Gaussians in hundreds of dimensions are far too sure of
    themselves, so the logarithms are divided by a temperature, which is chosen to make photos of held-out groups most
    likely (Platt, 1999; Guo et al., ICML 2017, section 4).

    A probability answers "which of these, if it is one of these": whether a photo belongs at all is the detector's
    question, not this one's.

    Learns ``means_`` (C, D), ``whitening_`` (D, D), ``temperature_`` (1,) and ``names_``, the classes in their order as
    the bytes of a JSON list, so that they are saved like all else.

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
        temperature = _temperature(embeddings, members, labelled.groups, is_judged, len(names), seed)
        self.temperature_ = torch.tensor([temperature])
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
        likelihood = _log_likelihoods(self._embed(maps), self.means_, self.whitening_)
        probability, best = (likelihood / self.temperature_).softmax(dim=1).max(dim=1)
        names = self.names
        return [(names[name], float(p)) for name, p in zip(best.tolist(), probability, strict=True)]

    def state_dict(self) -> dict[str, Tensor]:
        """``means_``, ``whitening_``, ``temperature_`` and ``names_``."""
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


def _log_likelihoods(embeddings: Tensor, means: Tensor, whitening: Tensor) -> Tensor:
    """Logarithm of each class's likelihood, but for a constant of the photo: shape (N, C)."""
    return -0.5 * torch.cdist(embeddings @ whitening, means).square()


def _temperature(
    embeddings: Tensor,
    members: NDArray[np.int64],
    groups: Sequence[str],
    is_judged: NDArray[np.bool_],
    num_classes: int,
    seed: int,
) -> float:
    """The temperature that makes the classes of held-out photos most likely; 1 where nothing can be held out.

    Args:
        embeddings: Shape (N, D).
        members: The class of each photo, shape (N,).
        groups: The group of each photo.
        is_judged: Which photos count, shape (N,); altered copies do not.
        num_classes: C.
        seed: Decides which groups are held out together.
    """
    num_folds = min(_NUM_FOLDS, len(set(groups)))
    folds = group_folds(groups, num_folds=num_folds, seed=seed) if num_folds > 1 else np.zeros(len(groups), np.int64)
    found, truth = [], []
    for fold in range(num_folds):
        learned = folds != fold
        held_out = ~learned & is_judged
        if len(np.unique(members[learned])) == num_classes and held_out.any():
            means, whitening = _classes(embeddings[torch.from_numpy(learned)], members[learned], num_classes)
            found.append(_log_likelihoods(embeddings[torch.from_numpy(held_out)], means, whitening).double())
            truth.append(torch.from_numpy(members[held_out]))
    if not found:
        return 1.0
    likelihood, members_of = torch.cat(found), torch.cat(truth)

    def surprise(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(likelihood / math.exp(log_temperature), members_of))

    return math.exp(minimize_scalar(surprise, bounds=(math.log(0.1), math.log(1e4)), method="bounded").x)
