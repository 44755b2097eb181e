"""The evaluation page: metrics with intervals, the ROC curve, the scores and each class, in one HTML file.

The figures are SVG written by the template, some 30 kB in all: they follow the reader's colours and window,
print well, and need no script. (Plotly's script alone is 4.8 MB, and it styles itself inline, which the
page's content security policy forbids; nothing here asks to be zoomed or turned.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from inlier.decision.metrics import Flags, Scores, roc_curve
from inlier.decision.pages import write_page

_HEADLINE = {
    "image_auroc": ("Image AUROC", "how often an anomalous photo scores above a normal one"),
    "image_ap": (
        "Image average precision",
        "share of real anomalies among those flagged, over all thresholds",
    ),
    "tpr_at_fpr_05": ("Found at 5 % false alarms", "share of anomalous photos above 95 % of the normal ones"),
    "pixel_auroc": ("Pixel AUROC", "how often a defect pixel scores above a normal one"),
    "aupro_03": ("AUPRO up to 0.3", "overlap with each defect, at up to 30 % false-alarm pixels"),
}
_NUM_BINS = 48
_SMALL_GAP = 0.05


def write_evaluation(
    path: Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    scores: Scores,
    is_anomalous: Flags,
    labels: Sequence[str],
    thresholds: tuple[float, float],
) -> None:
    """Write the evaluation page.

    Args:
        path: The HTML file.
        title: Heading of the page.
        metrics: What ``metrics.json`` holds.
        scores: Raw score of each photo, shape (N,), higher is more anomalous, finite.
        is_anomalous: Shape (N,), bool.
        labels: Class of each photo, N of them.
        thresholds: The scores above which a photo is uncertain, and above which it is rejected; infinite
            where the calibration set is too small for the rate asked.

    Raises:
        ValueError: If scores, is_anomalous and labels differ in length or are empty, the labels are not the
            classes of the metrics, or the thresholds fall.
    """
    if not len(scores) == len(is_anomalous) == len(labels) > 0:
        raise ValueError(
            "scores, is_anomalous and labels of write_evaluation must describe the same photos, "
            f"at least one, got {len(scores)}, {len(is_anomalous)} and {len(labels)}."
        )
    if not thresholds[0] <= thresholds[1]:
        raise ValueError(f"thresholds of write_evaluation must not fall, got {thresholds}.")
    scores = scores.astype(np.float32).astype(np.float64)  # verdicts are decided in float32
    classes = _classes(metrics)
    if classes.keys() != set(labels):
        raise ValueError(
            f"labels of write_evaluation must be the classes of its metrics, {', '.join(classes)}, "
            f"got {', '.join(sorted(set(labels)))}."
        )
    write_page(
        path,
        "evaluation.html",
        styles=("page.css", "evaluation.css"),
        script=None,
        values={
            "title": title,
            "metrics": metrics,
            "headline": _headline(metrics),
            "warning": _warning(metrics),
            "roc": _roc(scores, is_anomalous, thresholds),
            "histogram": _histogram(scores, is_anomalous, labels, thresholds, classes),
            "classes": classes,
        },
    )


def _headline(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "meaning": meaning, **metrics[key]}
        for key, (name, meaning) in _HEADLINE.items()
        if metrics.get(key)
    ]


def _classes(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The classes by name: the normal ones first, then the anomalous ones, hardest first."""

    def hardness(item: tuple[str, Any]) -> tuple[bool, float, str]:
        auroc = item[1].get("image_auroc")
        return auroc is not None, 0.0 if auroc is None else auroc["value"], item[0]

    return dict(sorted(metrics["classes"].items(), key=hardness))


def _warning(metrics: Mapping[str, Any]) -> str | None:
    """What a reader must not miss: a trivial statistic that does nearly as well."""
    auroc, trivial = metrics.get("image_auroc"), metrics.get("trivial")
    if not auroc or not trivial:
        return None
    if trivial["auroc"] < min(auroc["low"], auroc["value"] - _SMALL_GAP):
        return None
    return (
        f"A trivial statistic of the photos ({trivial['statistic']}) alone reaches an AUROC of "
        f"{trivial['auroc']:.3f}, against {auroc['value']:.3f} here: the result may come from how the photos "
        "were taken, not from what they show."
    )


def _roc(scores: Scores, is_anomalous: Flags, thresholds: tuple[float, float]) -> dict[str, Any] | None:
    """The corners of the ROC curve, and its points where a verdict changes; None for want of a class."""
    if is_anomalous.all() or not is_anomalous.any():
        return None
    false_alarms, found, _ = roc_curve(scores, is_anomalous)
    points = list(zip(false_alarms.tolist(), found.tolist(), strict=True))
    uncertain, reject = (
        (float(np.mean(scores[~is_anomalous] > threshold)), float(np.mean(scores[is_anomalous] > threshold)))
        for threshold in thresholds
    )
    return {"points": _corners(points), "uncertain": uncertain, "reject": reject}


def _corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points without those on a straight line between their neighbours: a long step is one line."""
    kept = [points[0]]
    for (x1, y1), (x2, y2) in pairwise(points[1:]):
        x0, y0 = kept[-1]
        if not math.isclose((x1 - x0) * (y2 - y0), (x2 - x0) * (y1 - y0), abs_tol=1e-12):
            kept.append((x1, y1))
    return [*kept, points[-1]]


def _histogram(
    scores: Scores,
    is_anomalous: Flags,
    labels: Sequence[str],
    thresholds: tuple[float, float],
    classes: Iterable[str],
) -> dict[str, Any]:
    """A histogram of each class on a common axis, in percent of its width and of the class's fullest bin."""
    low, high = _axis(scores, is_anomalous, thresholds)
    names = np.array(labels)
    rows = []
    for label in classes:
        members = names == label
        counts, _ = np.histogram(np.clip(scores[members], low, high), _NUM_BINS, (low, high))
        fullest = counts.max()
        rows.append(
            {
                "label": label,
                "num_photos": np.count_nonzero(members),
                "is_anomalous": bool(is_anomalous[members].any()),
                "bars": [(100 * i / _NUM_BINS, 100 * n / fullest, n) for i, n in enumerate(counts) if n],
            }
        )

    def place(score: float) -> float:
        return 100 * (min(max(score, low), high) - low) / (high - low)

    cuts = (0.0, *(place(threshold) for threshold in thresholds), 100.0)
    bands = zip(("accept", "uncertain", "reject"), pairwise(cuts), strict=True)
    return {
        "rows": rows,
        "bands": [(name, start, stop - start) for name, (start, stop) in bands if stop > start],
        "bin_width": 100 / _NUM_BINS,
        "ticks": [(place(tick), f"{tick:g}") for tick in _ticks(low, high)],
        "is_cut": bool(scores.max() > high),
    }


def _axis(scores: Scores, is_anomalous: Flags, thresholds: tuple[float, float]) -> tuple[float, float]:
    """Where the score axis begins and ends.

    It goes five times as far above the median of the normal photos as the highest of them or of the
    thresholds, so that a few far outliers do not press all others into one bin.
    """
    low, high = float(scores.min()), float(scores.max())
    normal = scores[~is_anomalous]
    if len(normal):
        middle = float(np.median(normal))
        reach = max([float(normal.max()), *filter(math.isfinite, thresholds)])
        if reach > middle:
            high = min(high, middle + 5 * (reach - middle))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Four to ten round numbers from low to high."""
    unit = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(unit * factor for factor in (5, 2, 1) if (high - low) / (unit * factor) >= 4)
    return [round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
