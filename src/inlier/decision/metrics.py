"""How well scores tell anomalous photos from normal ones.

Each metric is exact and takes raw scores, higher is more anomalous; a photo is flagged at a threshold that
its score reaches. Photos with equal scores are flagged together, so their order never matters. A metric of
one class alone does not exist and raises; it is for the caller to write that down as missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
Folds = NDArray[np.integer[Any]]

NUM_THRESHOLDS = 100
"""Thresholds along the ROC curve over which shares of flagged photos are averaged, as in Sommerlund's appendix E."""

_SMALL_GAP = 0.05


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


def mean_roc_curve(
    scores: Scores, is_anomalous: Flags, folds: Folds
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ROC curves of the folds averaged at each false-positive rate, weighted by pairs as in `within_folds`.

    Vertical averaging (Fawcett, Pattern Recognition Letters 2006, section 8.1), so that the area under the mean
    curve is the mean area. It stands on every rate where a curve has a corner, once as its steps are reached and
    once as they are left. Of one fold it is the fold's own curve.

    Args:
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.
        folds: Shape (N,), the fold of each photo; at least one has normal and anomalous ones.

    Returns:
        False-positive and true-positive rate, each of shape (P,), neither ever falling.
    """
    curves, weights = [], []
    for of_fold in (folds == fold for fold in np.unique(folds)):
        num_anomalous = np.count_nonzero(is_anomalous[of_fold])
        if weight := num_anomalous * (np.count_nonzero(of_fold) - num_anomalous):
            curves.append(roc_curve(scores[of_fold], is_anomalous[of_fold])[:2])
            weights.append(weight)
    rates = np.unique(np.concatenate([fpr for fpr, _ in curves]))
    mean = np.average([_heights(*curve, rates) for curve in curves], axis=0, weights=weights)  # (2, R)
    return np.repeat(rates, 2), mean.T.ravel()


def _heights(fpr: NDArray[np.float64], tpr: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """The height of a curve as it comes to each of R rates and as it leaves it, shape (2, R): they differ at steps."""
    is_step = np.diff(fpr) > 0
    is_foot, is_head = np.append(True, is_step), np.append(is_step, True)
    knots, foot, head = fpr[is_foot], tpr[is_foot], tpr[is_head]
    before = np.minimum(np.searchsorted(knots, rates, side="right") - 1, len(knots) - 2)
    way = (rates - knots[before]) / (knots[before + 1] - knots[before])
    line = head[before] + way * (foot[before + 1] - head[before])
    is_knot = np.isin(rates, knots)
    heights = np.stack([line, line])
    heights[:, is_knot] = foot, head
    return heights


def flagged_share(
    scores: Scores,
    is_anomalous: Flags,
    labels: Sequence[str],
    *,
    num_thresholds: int = NUM_THRESHOLDS,
    folds: Folds | None = None,
) -> dict[str, float]:
    """The share of each class's photos flagged, averaged over thresholds evenly spaced along the ROC curve.

    The confusion matrix of Sommerlund's appendix E (the rest of a class is not flagged): vertical lines cut the
    false-positive axis evenly, and each takes the threshold at the left end of the piece of the ROC curve that it
    crosses. The lines stand in the middle of equal parts of the axis, (k + 1/2) / `num_thresholds`, so that neither
    "flag nothing" nor "flag all" weighs more than its part. Normal photos come out at about one half by
    construction, a little under it when few.

    Args:
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.
        labels: The class of each photo, N of them.
        num_thresholds: How many lines.
        folds: Shape (N,), where each fold has a ROC curve of its own; None: all photos share one.

    Returns:
        For each label, in alphabetical order, a share in [0, 1]; of the photos in folds with normal and anomalous
        ones.

    Raises:
        ValueError: If the arrays do not fit, a score is not finite, one class is missing, or
            `num_thresholds` is not positive.
    """
    if num_thresholds < 1:
        raise ValueError(f"num_thresholds of flagged_share must be at least 1, got {num_thresholds}.")
    _check("flagged_share", scores, is_anomalous)
    if len(labels) != len(scores):
        raise ValueError(f"labels of flagged_share must be one for each of {len(scores)} scores, got {len(labels)}.")
    folds = np.zeros(len(scores), dtype=np.int64) if folds is None else folds
    share = np.full(len(scores), np.nan)
    for fold in np.unique(folds):
        of_fold = folds == fold
        if 0 < np.count_nonzero(is_anomalous[of_fold]) < np.count_nonzero(of_fold):
            share[of_fold] = _share_of_thresholds(scores[of_fold], is_anomalous[of_fold], num_thresholds)
    is_known = np.isfinite(share)
    names = np.asarray(labels, dtype=np.str_)
    return {str(name): float(share[is_known & (names == name)].mean()) for name in np.unique(names[is_known])}


def _share_of_thresholds(scores: Scores, is_anomalous: Flags, num_thresholds: int) -> NDArray[np.float64]:
    """Of the thresholds along the ROC curve the share that flags each photo, shape (N,)."""
    fpr, _, thresholds = roc_curve(scores, is_anomalous)
    lines = np.arange(1, 2 * num_thresholds, 2) / (2 * num_thresholds)
    crossed = thresholds[np.searchsorted(fpr, lines, side="right") - 1]
    num_flagging = np.searchsorted(np.sort(crossed), scores, side="right")  # thresholds <= score
    share: NDArray[np.float64] = num_flagging / num_thresholds
    return share


def within_folds(metric: Callable[[Scores, Flags], float], scores: Scores, is_anomalous: Flags, folds: Folds) -> float:
    """A metric of photos that compare only within their fold: its mean over folds, weighted by their pairs.

    Each fold's photos were scored by a detector of its own, and detectors need not agree on a scale. To throw their
    scores together mixes such differences into the metric, mostly to its harm (Forman and Scholz, SIGKDD
    Explorations 2010; Airola et al., Computational Statistics and Data Analysis 2011). Of the AUROC this mean is the
    share of all pairs, of a normal and an anomalous photo of one fold, that are in the right order.

    Args:
        metric: From scores and flags to a number.
        scores: Shape (N,), finite.
        is_anomalous: Shape (N,), bool.
        folds: Shape (N,), the fold of each photo.

    Returns:
        Of the folds with normal and anomalous photos; NaN where there is none.
    """
    total, num_pairs = 0.0, 0
    for fold in np.unique(folds):
        of_fold = folds == fold
        flags = is_anomalous[of_fold]
        num_anomalous = int(np.count_nonzero(flags))
        if weight := num_anomalous * (len(flags) - num_anomalous):
            total += weight * metric(scores[of_fold], flags)
            num_pairs += weight
    return total / num_pairs if num_pairs else float("nan")


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


def shortcut_note(auroc: Mapping[str, float] | None, trivial: Mapping[str, Any] | None) -> str | None:
    """The sentence for a trivial statistic that does nearly as well as the scores; None where none does.

    Nearly: it lies within the interval of the scores' AUROC, or at most 0.05 below its value.

    Args:
        auroc: Value, low and high of the scores' AUROC, as ``metrics.json`` holds them; None where unknown.
        trivial: ``statistic`` and ``auroc`` of the best statistic, likewise.
    """
    if not auroc or not trivial or trivial["auroc"] < min(auroc["low"], auroc["value"] - _SMALL_GAP):
        return None
    return (
        f"A trivial statistic of the photos ({trivial['statistic']}) alone reaches an AUROC of "
        f"{trivial['auroc']:.3f}, against {auroc['value']:.3f} here: the result may come from how the photos "
        "were taken, not from what they show."
    )


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
