"""Fits a detector and calibrates it on normal photos that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from inlier.data.splits import hold_out
from inlier.decision.calibration import Calibration
from inlier.detectors.crossfit import Scores, cross_scores, score_photos
from inlier.detectors.protocol import Detector
from inlier.features.cache import FeatureSet

ENOUGH_DEV = 99
"""Normal dev photos that calibrate alone, since p-values are then as fine as 0.01."""

ENOUGH_TRAIN = 1000
"""Training photos from which on a part is held out to calibrate; fewer are worth the folds."""

_HELD_OUT_RATIO = 0.2


@dataclass(frozen=True, eq=False)
class Fitted:
    """How a detector was fitted and calibrated.

    Attributes:
        places: Which of the training photos it learned from, ascending.
        calibration: Scores of normal photos by detectors that have not seen their groups.
        method: How these were got, as one phrase.
    """

    places: tuple[int, ...]
    calibration: Calibration
    method: str


def fit_and_calibrate(
    detector: Detector,
    train: FeatureSet,
    dev: FeatureSet,
    *,
    seed: int,
    advance: Callable[[int], None] = lambda steps: None,
) -> Fitted:
    """Fits the detector in place, and scores normal photos that it did not learn from.

    Many photos of ``dev`` calibrate alone (split conformal). Else those of ``train`` take part. If these are very
    many, a fifth of them, whole groups, is held out and not learned from. If they are few, each is scored by a
    detector fitted on folds without its group, and all are learned from (cross-conformal; Vovk, 2015): detectors
    that have seen fewer photos find new ones a little odder, so such p-values err towards accepting.

    Args:
        detector: Fitted when this returns.
        train: Normal photos to learn from.
        dev: Normal photos of other groups; may have none. Together there are at least two groups.
        seed: Decides which groups go together.
        advance: Told of each step done, of ``num_steps``.
    """
    everything = tuple(range(len(train)))
    if len(dev) >= ENOUGH_DEV or len(set(train.groups)) < 2:
        detector.fit(train)
        scores = score_photos(detector, dev)
        advance(1)
        return Fitted(everything, _calibration(scores, dev.groups), "scores of the dev photos")
    if len(train) >= ENOUGH_TRAIN:
        is_held_out = hold_out(train.groups, ratio=_HELD_OUT_RATIO, seed=seed)
        places = tuple(np.flatnonzero(~is_held_out).tolist())
        held_out = train.select(np.flatnonzero(is_held_out).tolist())
        detector.fit(train.select(places))
        scores = _joined(score_photos(detector, held_out), score_photos(detector, dev))
        advance(1)
        method = "scores of held-out photos"
        return Fitted(places, _calibration(scores, held_out.groups + dev.groups), method + _with_dev(dev))
    num_folds = _num_folds(train)
    of_train = cross_scores(detector, train, num_folds=num_folds, seed=seed, advance=advance)
    detector.fit(train)
    scores = _joined(of_train, score_photos(detector, dev))
    advance(1)
    method = f"cross-conformal scores, {num_folds} folds by group"
    return Fitted(everything, _calibration(scores, train.groups + dev.groups), method + _with_dev(dev))


def num_steps(train: FeatureSet, dev: FeatureSet) -> int:
    """How often ``fit_and_calibrate`` will fit, for a progress bar."""
    is_one_fit = len(dev) >= ENOUGH_DEV or len(set(train.groups)) < 2 or len(train) >= ENOUGH_TRAIN
    return 1 if is_one_fit else _num_folds(train) + 1


def _num_folds(train: FeatureSet) -> int:
    """Ten folds for a few photos, whose detectors need every one; five for more."""
    return min(10 if len(train) <= 50 else 5, len(set(train.groups)))


def _joined(first: Scores, second: Scores) -> Scores:
    return Scores(np.concatenate([first.values, second.values]), np.concatenate([first.map_maxima, second.map_maxima]))


def _calibration(scores: Scores, groups: list[str]) -> Calibration:
    return Calibration(
        scores.values.astype(np.float64),
        np.array(groups, dtype=np.str_),
        scores.map_maxima.astype(np.float64),
    )


def _with_dev(dev: FeatureSet) -> str:
    return " and scores of the dev photos" if len(dev) else ""
