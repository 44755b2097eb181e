"""Fits a detector and calibrates it on normal photos that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inlier.data.splits import hold_out
from inlier.decision.calibration import Calibration
from inlier.detectors.crossfit import Scores, cross_scores, score_photos
from inlier.detectors.protocol import Detector
from inlier.features.cache import FeatureSet

ENOUGH_DEV = 99
"""Normal dev photos that calibrate alone, since p-values are then as fine as 0.01."""

ENOUGH_TRAIN = 1000
"""Training photos from which on a part is held out to calibrate; fewer are worth the folds."""

FEW = 19
"""Calibration photos that suffice for a detector which trains for minutes: one photo in 20 can then be rejected."""

_Way = Literal["dev", "held out", "folds", "none"]
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
    that have seen fewer photos find new ones a little odder, so such p-values err towards accepting. A detector that
    trains for minutes is fitted once wherever that leaves 19 photos to calibrate on.

    Where all photos are of one group, there is nothing to calibrate on, and every p-value is 1.

    Args:
        detector: Fitted when this returns.
        train: Normal photos to learn from; altered copies among them calibrate nothing.
        dev: Normal photos of other groups; may have none.
        seed: Decides which groups go together.
        advance: Told of each step done, of ``num_steps``.
    """
    places = places_to_learn_from(detector, train, dev, seed=seed)
    way = _way(detector, train, dev)
    if way == "folds":
        num_folds = _num_folds(detector, train)
        of_train = cross_scores(detector, train, num_folds=num_folds, seed=seed, advance=advance)
        detector.fit(train)
        scores = _joined(of_train, score_photos(detector, dev))
        advance(1)
        method = f"cross-conformal scores, {num_folds} folds by group"
        groups = train.originals().groups + dev.groups
        return Fitted(places, _calibration(scores, groups), method + _with_dev(dev))
    if way == "held out":
        held_out = train.select(sorted({*range(len(train))} - {*places})).originals()
        detector.fit(train.select(places))
        scores = _joined(score_photos(detector, held_out), score_photos(detector, dev))
        advance(1)
        method = "scores of held-out photos"
        return Fitted(places, _calibration(scores, held_out.groups + dev.groups), method + _with_dev(dev))
    heat = _heat_of_views(detector, train) if way == "none" else None
    detector.fit(train)
    advance(1)
    if heat is not None:
        return Fitted(places, Calibration(np.empty(0), map_maxima=heat), "no photos to calibrate on")
    return Fitted(places, _calibration(score_photos(detector, dev), dev.groups), "scores of the dev photos")


def places_to_learn_from(detector: Detector, train: FeatureSet, dev: FeatureSet, *, seed: int) -> tuple[int, ...]:
    """Which of the training photos ``fit_and_calibrate`` learns from, ascending."""
    if _way(detector, train, dev) != "held out":
        return tuple(range(len(train)))
    is_held_out = hold_out(train.groups, ratio=_HELD_OUT_RATIO, seed=seed)
    return tuple(np.flatnonzero(~is_held_out).tolist())


def num_steps(detector: Detector, train: FeatureSet, dev: FeatureSet) -> int:
    """How often ``fit_and_calibrate`` will fit, for a progress bar."""
    return _num_folds(detector, train) + 1 if _way(detector, train, dev) == "folds" else 1


def _way(detector: Detector, train: FeatureSet, dev: FeatureSet) -> _Way:
    """Where the calibration photos come from."""
    num_train = len(train.originals())
    has_one_group = len(set(train.groups)) < 2
    if len(dev) >= (FEW if detector.is_trained else ENOUGH_DEV) or (dev and has_one_group):
        return "dev"
    if has_one_group:
        return "none"
    is_worth_it = detector.is_trained and int(_HELD_OUT_RATIO * num_train) + len(dev) >= FEW
    return "held out" if num_train >= ENOUGH_TRAIN or is_worth_it else "folds"


def _num_folds(detector: Detector, train: FeatureSet) -> int:
    """Ten folds for a few photos, whose detectors need every one; five for more, three where each costs minutes."""
    wanted = 3 if detector.is_trained else 10 if len(train.originals()) <= 50 else 5
    return min(wanted, len(set(train.groups)))


def _heat_of_views(detector: Detector, train: FeatureSet) -> NDArray[np.float64]:
    """What the maps of altered copies reach for a detector that has seen the photos alone: a scale for heat.

    It is no calibration, for copies are not new photos; it only keeps a heatmap from glowing all over.
    """
    is_view = np.array(train.is_view)
    if not is_view.any():
        return np.empty(0)
    detector.fit(train.originals())
    maxima = score_photos(detector, train.select(np.flatnonzero(is_view).tolist())).map_maxima
    return maxima.astype(np.float64)


def _joined(first: Scores, second: Scores) -> Scores:
    return Scores(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.map_maxima, second.map_maxima]),
        np.concatenate([first.lacks_region, second.lacks_region]),
    )


def _calibration(scores: Scores, groups: list[str]) -> Calibration:
    return Calibration(
        scores.values.astype(np.float64),
        np.array(groups, dtype=np.str_),
        scores.map_maxima.astype(np.float64),
    )


def _with_dev(dev: FeatureSet) -> str:
    return " and scores of the dev photos" if len(dev) else ""
