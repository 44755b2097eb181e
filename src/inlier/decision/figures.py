"""The evaluation page: metrics with intervals, the ROC curve, the scores and each class, in one HTML file.

The figures are SVG written by the template, some 30 kB in all: they follow the reader's colours and window,
print well, and need no script. (Plotly's script alone is 4.8 MB, and it styles itself inline, which the
page's content security policy forbids; nothing here asks to be zoomed or turned.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from inlier.decision.metrics import Flags, Folds, Scores, mean_roc_curve
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
_VERDICTS = ("reject", "uncertain", "accept")
_NUM_BINS = 48
_MOST_CURVES = 12


@dataclass(frozen=True, eq=False)
class ScoreAxis:
    """Where photos stand in the histograms.

    Attributes:
        values: Shape (N,), finite: raw scores, or ranks where scores do not compare.
        thresholds: The values above which a photo is uncertain, and above which it is rejected; infinite where the
            calibration set is too small for the rate asked.
        name: What the values are, as the axis says.
    """

    values: Scores
    thresholds: tuple[float, float]
    name: str = "Score"


def write_evaluation(
    path: Path,
    *,
    title: str,
    metrics: Mapping[str, Any],
    scores: Scores,
    is_anomalous: Flags,
    labels: Sequence[str],
    verdicts: Sequence[str],
    axis: ScoreAxis,
    folds: Folds | None = None,
) -> None:
    """Write the evaluation page.

    Args:
        path: The HTML file.
        title: Heading of the page.
        metrics: What ``metrics.json`` holds.
        scores: Raw score of each photo, shape (N,), higher is more anomalous, finite.
        is_anomalous: Shape (N,), bool.
        labels: Class of each photo, N of them.
        verdicts: What was decided of each photo, N of them.
        axis: Where photos stand in the histograms.
        folds: Shape (N,), where only photos of one fold compare; None: all do.

    Raises:
        ValueError: If scores, is_anomalous, labels, verdicts, axis and folds differ in length or are empty, the
            labels are not the classes of the metrics, or the thresholds fall.
    """
    folds = np.zeros(len(scores), dtype=np.int64) if folds is None else folds
    lengths = [len(of) for of in (scores, is_anomalous, labels, verdicts, axis.values, folds)]
    if not min(lengths) == max(lengths) > 0:
        raise ValueError(
            "scores, is_anomalous, labels, verdicts, axis and folds of write_evaluation must describe the same "
            f"photos, at least one, got {', '.join(map(str, lengths))}."
        )
    if not axis.thresholds[0] <= axis.thresholds[1]:
        raise ValueError(f"thresholds of write_evaluation must not fall, got {axis.thresholds}.")
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
            "roc": _roc(scores, is_anomalous, verdicts, folds),
            "histogram": _histogram(axis, is_anomalous, labels, classes),
            "classes": classes,
            "curves": _class_curves(scores, is_anomalous, labels, folds, classes),
            "confusion": _confusion(metrics, classes),
        },
    )


def _headline(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The metrics that there are, with their values of each fold and over folds, where there are folds."""
    folds = metrics.get("folds", [])
    return [
        {
            "key": key,
            "name": name,
            "meaning": meaning,
            **metrics[key],
            "dots": [of[key] for of in folds if of[key] is not None],
            "over_folds": metrics.get("over_folds", {}).get(key),
        }
        for key, (name, meaning) in _HEADLINE.items()
        if metrics.get(key)
    ]


def _classes(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The classes by name: the normal ones first, then the anomalous ones, hardest first."""

    def hardness(item: tuple[str, Any]) -> tuple[bool, float, str]:
        auroc = item[1].get("image_auroc")
        return auroc is not None, 0.0 if auroc is None else auroc["value"], item[0]

    return dict(sorted(metrics["classes"].items(), key=hardness))


def _roc(scores: Scores, is_anomalous: Flags, verdicts: Sequence[str], folds: Folds) -> dict[str, Any] | None:
    """The corners of the ROC curve and of those of several folds, and its points where a verdict changes.

    None for want of a class.
    """
    if not _has_pairs(is_anomalous, folds):
        return None
    of_folds = [folds == fold for fold in np.unique(folds)]
    decided = np.array(verdicts)
    uncertain, reject = (
        (float(np.mean(flagged[~is_anomalous])), float(np.mean(flagged[is_anomalous])))
        for flagged in (np.isin(decided, ("uncertain", "reject")), decided == "reject")
    )
    return {
        "points": _curve(scores, is_anomalous, folds),
        "folds": [
            _curve(scores[of], is_anomalous[of], folds[of])
            for of in of_folds
            if len(of_folds) > 1 and _has_pairs(is_anomalous[of], folds[of])
        ],
        "uncertain": uncertain,
        "reject": reject,
    }


def _class_curves(
    scores: Scores, is_anomalous: Flags, labels: Sequence[str], folds: Folds, classes: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The ROC curve of each anomalous class against all normal photos, of the hardest if they are many.

    None where there is but one class, whose curve is that of all photos.
    """
    names = np.array(labels)
    found = []
    for label in (name for name, entry in classes.items() if entry.get("image_auroc")):
        chosen = (names == label) | ~is_anomalous
        points = _curve(scores[chosen], is_anomalous[chosen], folds[chosen])
        found.append({"label": label, "points": points, "auroc": classes[label]["image_auroc"]["value"]})
    return found[:_MOST_CURVES] if len(found) > 1 else []


def _curve(scores: Scores, is_anomalous: Flags, folds: Folds) -> list[tuple[float, float]]:
    false_alarms, found = mean_roc_curve(scores, is_anomalous, folds)
    return _corners(list(zip(false_alarms.tolist(), found.tolist(), strict=True)))


def _has_pairs(is_anomalous: Flags, folds: Folds) -> bool:
    return bool(np.intersect1d(folds[is_anomalous], folds[~is_anomalous]).size)


def _confusion(metrics: Mapping[str, Any], classes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of both confusion matrices: each class, and all photos of a kind that has several classes."""
    rows = []
    for kind, is_kind in (("normal", False), ("anomalous", True)):
        of_kind = {name: entry for name, entry in classes.items() if entry["is_anomalous"] == is_kind}
        for name, entry in of_kind.items():
            rows.append(_confusion_row(name, entry["confusion"], entry["verdicts"]))
        if len(of_kind) > 1:
            verdicts = {v: sum(entry["verdicts"].get(v, 0) for entry in of_kind.values()) for v in _VERDICTS}
            rows.append({**_confusion_row(f"all {kind}", metrics["confusion"][kind], verdicts), "is_sum": True})
    return rows


def _confusion_row(name: str, averaged: Mapping[str, float] | None, verdicts: Mapping[str, int]) -> dict[str, Any]:
    """A row's cells as kind, number of photos and share of the row; no averaged ones where nothing was averaged."""
    decided = {verdict: float(verdicts.get(verdict, 0)) for verdict in _VERDICTS}
    return {
        "name": name,
        "is_sum": False,
        "averaged": _cells(averaged) if averaged else [],
        "decided": _cells(decided),
    }


def _cells(counts: Mapping[str, float]) -> list[tuple[str, float, float]]:
    total = sum(counts.values())
    return [(kind.replace("_", " "), number, number / total) for kind, number in counts.items()]


def _corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points without those on a straight line between their neighbours: a long step is one line."""
    kept = [points[0]]
    for (x1, y1), (x2, y2) in pairwise(points[1:]):
        x0, y0 = kept[-1]
        if not math.isclose((x1 - x0) * (y2 - y0), (x2 - x0) * (y1 - y0), abs_tol=1e-12):
            kept.append((x1, y1))
    return [*kept, points[-1]]


def _histogram(axis: ScoreAxis, is_anomalous: Flags, labels: Sequence[str], classes: Iterable[str]) -> dict[str, Any]:
    """A histogram of each class on a common axis, in percent of its width and of the class's fullest bin."""
    scores = axis.values.astype(np.float32).astype(np.float64)  # verdicts are decided in float32
    thresholds = axis.thresholds
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
        "name": axis.name,
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
