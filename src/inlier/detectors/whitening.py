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
from sklearn.covariance import ledoit_wolf
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
    """W with W W' the inverse of the shrunk covariance, shape (D, D); the identity where nothing varies.

    Args:
        centred: Rows with mean 0, shape (N, D).
        background: Rows of any mean, shape (B, D), whose covariance, scaled to the same trace, is mixed in.
        share: Of the background, in [0, 1).
    """
    covariance = _shrunk_covariance(centred)
    if background is not None and share:
        of_background = _shrunk_covariance(background - background.mean(dim=0))
        traces = np.trace(covariance), np.trace(of_background)
        if traces[0] <= _NOTHING:  # one photo: all there is to go by is the background
            covariance = of_background
        elif traces[1] > _NOTHING:
            covariance = (1 - share) * covariance + share * traces[0] / traces[1] * of_background
    variances, directions = np.linalg.eigh(covariance)
    if variances[-1] <= _NOTHING:  # one photo, or copies of one
        return torch.eye(centred.shape[1])
    floor = 1e-6 * variances[-1]  # what rounding leaves of a direction that does not vary
    return torch.from_numpy(directions / np.sqrt(np.maximum(variances, floor))).float()


def _shrunk_covariance(centred: Tensor) -> NDArray[np.float64]:
    """Covariance of rows with mean 0, shrunk by the rule of Ledoit & Wolf, shape (D, D); 0 of a single row."""
    if len(centred) < 2:
        return np.zeros((centred.shape[1], centred.shape[1]))
    covariance: NDArray[np.float64] = ledoit_wolf(centred.double().numpy(), assume_centered=True)[0]
    return covariance
