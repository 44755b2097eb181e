"""How well scores tell anomalous photos from normal ones.

Each metric is exact and takes raw scores, higher is more anomalous; a photo is flagged at a threshold that
its score reaches. Photos with equal scores are flagged together, so their order never matters. A metric of
one class alone does not exist and raises; it is for the caller to write that down as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]


def image_auroc(scores: Scores, is_anomalous: Flags) -> float:
    """Area under the ROC curve: how often an anomalous photo scores above a normal one, ties counting half.

    The Mann-Whitney statistic over all pairs (Hanley and McNeil, Radiology 1982).

    Args:
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.

    Returns:
        In [0, 1]; 0.5 is chance.

    Raises:
        ValueError: If the arrays do not fit, a score is not finite, or one class is missing.
    """
    _check("image_auroc", scores, is_anomalous)
    normal, anomalous = np.sort(scores[~is_anomalous]), scores[is_anomalous]
    num_below = np.searchsorted(normal, anomalous, side="left").sum()
    num_not_above = np.searchsorted(normal, anomalous, side="right").sum()
    return float((num_below + num_not_above) / (2 * len(normal) * len(anomalous)))


def image_ap(scores: Scores, is_anomalous: Flags) -> float:
    """Average precision: the precision at each threshold, weighted by the recall gained there.

    The step sum of scikit-learn, without interpolation, which would be too kind (Davis and Goadrich, ICML
    2006). Chance is the share of anomalous photos, so values of different data sets do not compare.

    Args:
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.

    Returns:
        In (0, 1].

    Raises:
        ValueError: If the arrays do not fit, a score is not finite, or one class is missing.
    """
    _check("image_ap", scores, is_anomalous)
    num_normal, num_anomalous, _ = _flagged_counts(scores, is_anomalous)
    num_gained = np.diff(num_anomalous)
    precision = num_anomalous[1:] / (num_anomalous + num_normal)[1:]
    return float((num_gained * precision).sum() / num_anomalous[-1])


def tpr_at_fpr(scores: Scores, is_anomalous: Flags, *, fpr: float = 0.05) -> float:
    """The largest share of anomalous photos flagged at any threshold that flags at most `fpr` of the normal.

    No interpolation between thresholds: with fewer than 1 / `fpr` normal photos none of them may be flagged.
    The threshold is found on the photos that it is judged on, so with few normal ones (below about 2 / `fpr`)
    the value is too kind, and an interval around it too.

    Args:
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.
        fpr: Largest share of normal photos flagged, in [0, 1].

    Returns:
        In [0, 1]; chance is about `fpr`.

    Raises:
        ValueError: If the arrays do not fit, a score is not finite, one class is missing, or `fpr` is out
            of range.
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr of tpr_at_fpr must be in [0, 1], got {fpr:g}.")
    _check("tpr_at_fpr", scores, is_anomalous)
    num_normal, num_anomalous, _ = _flagged_counts(scores, is_anomalous)
    allowed = num_normal / num_normal[-1] <= fpr
    return float(num_anomalous[allowed][-1] / num_anomalous[-1])


def roc_curve(scores: Scores, is_anomalous: Flags) -> tuple[NDArray[np.float64], NDArray[np.float64], Scores]:
    """The shares of normal and of anomalous photos flagged at every threshold that matters.

    Args:
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.

    Returns:
        False-positive rate, true-positive rate and threshold, each of shape (T + 1,) for T distinct scores:
        first infinity, which flags nothing, then the scores, descending.

    Raises:
        ValueError: If the arrays do not fit, a score is not finite, or one class is missing.
    """
    _check("roc_curve", scores, is_anomalous)
    num_normal, num_anomalous, thresholds = _flagged_counts(scores, is_anomalous)
    return num_normal / num_normal[-1], num_anomalous / num_anomalous[-1], thresholds


def flagged_share(
    scores: Scores, is_anomalous: Flags, labels: Sequence[str], *, num_thresholds: int = 100
) -> dict[str, float]:
    """The share of each class's photos flagged, averaged over thresholds evenly spaced along the ROC curve.

    Sommerlund's appendix E: vertical lines cut the false-positive axis evenly, and each takes the threshold
    at the left end of the piece of the ROC curve that it crosses. The lines stand in the middle of equal
    parts of the axis, (k + 1/2) / `num_thresholds`, so that neither "flag nothing" nor "flag all" weighs more
    than its part. Normal photos come out at about one half by construction, a little under it when few.

    Args:
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.
        labels: The class of each photo, N of them.
        num_thresholds: How many lines.

    Returns:
        For each label, in alphabetical order, a share in [0, 1].

    Raises:
        ValueError: If the arrays do not fit, a score is not finite, one class is missing, or
            `num_thresholds` is not positive.
    """
    if num_thresholds < 1:
        raise ValueError(f"num_thresholds of flagged_share must be at least 1, got {num_thresholds}.")
    _check("flagged_share", scores, is_anomalous)
    if len(labels) != len(scores):
        raise ValueError(f"labels of flagged_share must be one for each of {len(scores)} scores, got {len(labels)}.")
    fpr, _, thresholds = roc_curve(scores, is_anomalous)
    lines = np.arange(1, 2 * num_thresholds, 2) / (2 * num_thresholds)
    crossed = thresholds[np.searchsorted(fpr, lines, side="right") - 1]
    share = np.searchsorted(np.sort(crossed), scores, side="right") / num_thresholds  # thresholds <= score
    names = np.asarray(labels, dtype=np.str_)
    return {str(name): float(share[names == name].mean()) for name in np.unique(names)}


def trivial_auroc(statistics: Mapping[str, Scores], is_anomalous: Flags) -> tuple[str, float]:
    """The one statistic that separates the classes best, in either direction, and its AUROC.

    What a detector must beat before its score means anything: a set whose anomalous photos are merely darker
    needs no model. The best is picked on the photos it is measured on, so with few photos it lies above one
    half by luck alone.

    Args:
        statistics: Values of shape (N,), finite, by name.
        is_anomalous: Shape (N,), bool.

    Returns:
        Name and max(AUROC, 1 - AUROC), in [0.5, 1]; the first of equals.

    Raises:
        ValueError: If there is no statistic, the arrays do not fit, a value is not finite, or one class is
            missing.
    """
    if not statistics:
        raise ValueError("statistics of trivial_auroc must hold at least one statistic, got none.")
    areas = {name: image_auroc(values, is_anomalous) for name, values in statistics.items()}
    best = max(areas, key=lambda name: abs(areas[name] - 0.5))
    return best, max(areas[best], 1 - areas[best])


def _check(owner: str, scores: Scores, is_anomalous: Flags) -> None:
    if scores.ndim != 1 or scores.shape != is_anomalous.shape:
        raise ValueError(
            f"scores and is_anomalous of {owner} must both have shape (N,), "
            f"got {scores.shape} and {is_anomalous.shape}."
        )
    if is_anomalous.dtype != np.bool_:
        raise ValueError(f"is_anomalous of {owner} must be bool, got {is_anomalous.dtype}.")
    if not np.isfinite(scores).all():
        num_bad = np.count_nonzero(~np.isfinite(scores))
        raise ValueError(f"scores of {owner} must be finite, got {num_bad} of {len(scores)} that are not.")
    num_anomalous = np.count_nonzero(is_anomalous)
    if not 0 < num_anomalous < len(scores):
        raise ValueError(
            f"{owner} needs at least one normal and one anomalous photo, "
            f"got {len(scores) - num_anomalous} and {num_anomalous}."
        )


def _flagged_counts(scores: Scores, is_anomalous: Flags) -> tuple[NDArray[np.int64], NDArray[np.int64], Scores]:
    """How many normal and anomalous photos each threshold flags, and the thresholds, as in `roc_curve`."""
    order = np.argsort(-scores)
    descending = scores[order]
    last = np.append(np.flatnonzero(np.diff(descending)), len(scores) - 1)  # of each run of equal scores
    num_anomalous = np.append(0, np.cumsum(is_anomalous[order])[last])
    num_flagged = np.append(0, last + 1)
    return num_flagged - num_anomalous, num_anomalous, np.append(np.inf, descending[last])
