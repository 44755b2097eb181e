"""Whitening: pooled features in units of how normal photos differ.

Of hundreds of dimensions a covariance cannot be estimated from fifty photos, so it is shrunk by the rule of Ledoit &
Wolf (Journal of Multivariate Analysis, 2004), which has no knob: a scaled identity for a handful of photos, nearly the
covariance itself for thousands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NOTHING = 1e-12
"""Variance of unit vectors below which nothing varies."""


def within_classes(embeddings: Tensor, labels: Sequence[str]) -> Tensor:
    """Each photo's embedding less the mean of its class, shape (N, D).

    Of a class with one photo nothing would be left, so such photos are taken as one class together.

    Args:
        embeddings: Shape (N, D).
        labels: The class of each; all equal where there are none.
    """
    counts = Counter(labels)
    classes = [label if counts[label] > 1 else None for label in labels]
    centred = torch.empty_like(embeddings)
    for label in set(classes):
        members = torch.tensor([of == label for of in classes])
        centred[members] = embeddings[members] - embeddings[members].mean(dim=0)
    return centred


def shrunk_whitening(centred: Tensor, background: Tensor | None = None, *, share: float = 0.0) -> Tensor:
    """``whitening`` by the shrunk covariance of rows with mean 0, shape (N, D), and of a background's, shape (B, D)."""
    of_background = None if background is None else shrunk_covariance(background - background.mean(dim=0))
    return whitening(shrunk_covariance(centred), of_background, share=share)


def whitening(
    covariance: NDArray[np.float64], background: NDArray[np.float64] | None = None, *, share: float = 0.0
) -> Tensor:
    """W with W W' the inverse of a covariance, shape (D, D); the identity where nothing varies.

    Args:
        covariance: Shape (D, D).
        background: Another one, which is scaled to the same trace and mixed in.
        share: Of the background, in [0, 1).
    """
    if background is not None and share:
        traces = np.trace(covariance), np.trace(background)
        if traces[0] <= _NOTHING:  # one photo: all there is to go by is the background
            covariance = background
        elif traces[1] > _NOTHING:
            covariance = (1 - share) * covariance + share * traces[0] / traces[1] * background
    variances, directions = np.linalg.eigh(covariance)
    if variances[-1] <= _NOTHING:  # one photo, or copies of one
        return torch.eye(len(covariance))
    floor = 1e-6 * variances[-1]  # what rounding leaves of a direction that does not vary
    return torch.from_numpy(directions / np.sqrt(np.maximum(variances, floor))).float()


def variances(whitening: Tensor) -> Tensor:
    """The variance along each column of a whitening, shape (D,), float64: its columns are orthogonal, 1 / sd long.

    So W diag(variances) is the inverse of W', and W diag(variances ** 2) W' the covariance.
    """
    return 1 / whitening.double().square().sum(dim=0)


def shrunk_covariance(centred: Tensor) -> NDArray[np.float64]:
    """Covariance of rows with mean 0, shrunk by the rule of Ledoit & Wolf, shape (D, D); 0 of a single row.

    As scikit-learn's ``ledoit_wolf``, whose import every command would wait for, and keep in memory.
    """
    rows = centred.double().numpy()
    count, depth = rows.shape
    if count < 2:
        return np.zeros((depth, depth))
    covariance: NDArray[np.float64] = rows.T @ rows / count
    mean_variance = np.trace(covariance) / depth  # of the sphere that it is drawn towards
    total = np.square(covariance).sum()
    apart = total - depth * mean_variance**2  # squared distance to the sphere
    noise = (np.square(np.square(rows).sum(axis=1)).sum() / count - total) / count  # of the covariance itself, likewise
    share = min(noise, apart) / apart if apart > 0 else 0.0
    covariance *= 1 - share
    covariance.flat[:: depth + 1] += share * mean_variance
    return covariance
