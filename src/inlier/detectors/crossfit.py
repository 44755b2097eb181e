"""Scores of normal photos by detectors that have not seen their group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.data.splits import group_folds
from inlier.detectors.protocol import Detector
from inlier.features.cache import FeatureSet


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of photos, in their order.

    Attributes:
        values: Shape (N,), higher is more anomalous.
        map_maxima: The largest value of each photo's anomaly map, shape (N,); empty without maps.
        lacks_region: Of which photos a region was looked for in vain, shape (N,).
    """

    values: NDArray[np.float32]
    map_maxima: NDArray[np.float32]
    lacks_region: NDArray[np.bool_]


def score_photos(detector: Detector, features: FeatureSet) -> Scores:
    """Scores by a fitted detector."""
    values, maxima, lacking = [], [], []
    for maps in features.batches():
        prediction = detector.predict(maps)
        values.append(prediction.score)
        lacking.append(prediction.lacks_region)
        if prediction.anomaly_map is not None:
            maxima.append(prediction.anomaly_map.flatten(1).amax(dim=1))
    return Scores(_joined(values), _joined(maxima), _joined(lacking) > 0)


def cross_scores(
    detector: Detector,
    features: FeatureSet,
    *,
    num_folds: int,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> Scores:
    """Scores of each photo by a detector fitted on the folds that do not hold its group (Vovk, 2015).

    Altered copies of photos are learned from, and have no score.

    Args:
        detector: Refitted for each fold, and fitted on the last of these when this returns.
        features: Normal photos, of at least ``num_folds`` groups.
        num_folds: K >= 2.
        seed: Decides which groups go together.
        advance: Told of each fold done.

    Returns:
        Scores of ``features.originals()``, in that order.
    """
    originals = features.originals()
    folds = dict(zip(originals.groups, group_folds(originals.groups, num_folds=num_folds, seed=seed), strict=True))
    fold_of_original, fold_of_photo = (np.array([folds[group] for group in of.groups]) for of in (originals, features))
    values = np.zeros(len(originals), dtype=np.float32)
    maxima: NDArray[np.float32] = np.zeros(0, dtype=np.float32)
    lacks_region = np.zeros(len(originals), dtype=np.bool_)
    for fold in range(num_folds):
        held_out = np.flatnonzero(fold_of_original == fold)
        detector.fit(features.select(np.flatnonzero(fold_of_photo != fold).tolist()))
        scores = score_photos(detector, originals.select(held_out.tolist()))
        values[held_out], lacks_region[held_out] = scores.values, scores.lacks_region
        if scores.map_maxima.size:
            maxima = np.zeros(len(originals), dtype=np.float32) if not maxima.size else maxima
            maxima[held_out] = scores.map_maxima
        advance(1)
    return Scores(values, maxima, lacks_region)


def _joined(parts: list[torch.Tensor]) -> NDArray[np.float32]:
    return torch.cat(parts).numpy() if parts else np.zeros(0, dtype=np.float32)
