"""Measures a model on labelled photos: metrics with intervals, figures, a table of scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from inlier.data.images import read_mask
from inlier.data.manifest import Manifest, Photo, Split
from inlier.data.statistics import photo_statistics
from inlier.data.tables import first_five
from inlier.decision.figures import write_evaluation
from inlier.decision.intervals import bootstrap, pixel_intervals
from inlier.decision.metrics import flagged_share, image_ap, image_auroc, tpr_at_fpr, trivial_auroc
from inlier.decision.pixel_metrics import PixelScores, collect_pixels
from inlier.errors import ImageReadError, InlierError, ManifestError
from inlier.model import Model, package_versions
from inlier.outputs import as_text, check_folder
from inlier.records import Verdict
from inlier.workflow import Progress, inspect_photos, no_progress

IMAGE_METRICS: dict[str, Callable[[NDArray[np.floating[Any]], NDArray[np.bool_]], float]] = {
    "image_auroc": image_auroc,
    "image_ap": image_ap,
    "tpr_at_fpr_05": partial(tpr_at_fpr, fpr=0.05),
}

_RECORD = "metrics.json"
_STATISTICS = ("brightness", "contrast", "saturation", "border", "edges", "aspect")

_Inspected = tuple[Photo, Verdict, dict[str, float]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of labelled photos, and what was measured on them.

    Attributes:
        photos: Those that could be read.
        scores: Shape (N,), of each of them.
        metrics: What ``metrics.json`` holds.
        unreadable: The other photos, each with the reason.
        table: One row for each readable photo: path, label, group, score, p_value, verdict, statistics.
    """

    photos: tuple[Photo, ...]
    scores: NDArray[np.float64]
    metrics: dict[str, Any]
    unreadable: tuple[tuple[Photo, str], ...]
    table: pa.Table


def evaluate(
    model: Model,
    data: Manifest,
    *,
    split: Split = "test",
    seed: int = 0,
    workers: int = 2,
    command: str = "",
    progress: Progress = no_progress,
) -> Evaluation:
    """Scores the labelled photos of a split and measures how well the scores tell them apart.

    Metrics are computed on raw scores; nothing is tuned here. Photos whose label is unknown are left out.

    Args:
        model: Fitted.
        data: Photos with labels, with masks where there are any.
        split: Which of them.
        seed: Of the resampling behind the intervals.
        workers: Threads that decode.
        command: What the user asked, to be kept beside the numbers.
        progress: Told how far it is.

    Raises:
        ManifestError: The split has no labelled photos, or a mask cannot be read.
        InlierError: None of the photos could be read.
    """
    labelled = [photo for photo in data.select(split).photos if photo.is_anomalous is not None]
    if not labelled:
        raise ManifestError(f"The split {split} has no labelled photos to evaluate on; --split names another.")
    _check_masks(labelled)
    inspected, pixels, unreadable = _inspect(model, labelled, workers, progress("Evaluating", len(labelled)))
    if not inspected:
        raise InlierError(f"None of the {len(labelled)} labelled photos of the split {split} could be read.")
    table = _table(inspected)
    scored = _Scored(table, pixels)
    metrics = {
        "split": split,
        "command": as_text(command),
        "model": model.identity,
        "data_fingerprint": data.fingerprint(),
        "fitted_on": model.facts.get("data_fingerprint"),
        "seed": seed,
        "versions": package_versions(),
        "num_unreadable": len(unreadable),
        **model.config["decide"],
        "num_normal": int((~scored.is_anomalous).sum()),
        "num_anomalous": int(scored.is_anomalous.sum()),
        **scored.measure(np.ones(len(table), dtype=np.bool_), seed=seed),
        "trivial": scored.trivial(),
        "classes": scored.classes(seed=seed),
    }
    return Evaluation(tuple(photo for photo, _, _ in inspected), scored.scores, metrics, tuple(unreadable), table)


def _inspect(
    model: Model, photos: Sequence[Photo], workers: int, advance: Callable[[int], None]
) -> tuple[list[_Inspected], dict[int, PixelScores], list[tuple[Photo, str]]]:
    """Scores photos: those that could be read, pixels of those with a map and a known truth, and the unreadable."""
    inspected: list[_Inspected] = []
    rows_of_pixels: list[int] = []
    unreadable: list[tuple[Photo, str]] = []

    def maps_and_masks() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Goes through the photos once, keeps of each what is small, and hands on what is large."""
        for photo, inspection in zip(photos, inspect_photos(model, photos, workers=workers), strict=True):
            advance(1)
            if inspection.pixels is None:
                unreadable.append((photo, inspection.verdict.error or ""))
                continue
            if inspection.anomaly_map is not None and (photo.mask is not None or not photo.is_anomalous):
                rows_of_pixels.append(len(inspected))
                yield inspection.anomaly_map, _mask(photo, inspection.anomaly_map.shape)
            height, width = inspection.pixels.shape[:2]
            statistics = photo_statistics(model.transform.to_square(inspection.pixels), aspect=width / height)
            inspected.append((photo, inspection.verdict, statistics))

    pixels = collect_pixels(maps_and_masks())
    return inspected, dict(zip(rows_of_pixels, pixels, strict=True)), unreadable


def write_to_folder(evaluation: Evaluation, model: Model, directory: Path) -> None:
    """Writes ``metrics.json``, ``scores.parquet`` and ``evaluation.html``.

    Raises:
        InlierError: The folder cannot be written.
    """
    check_target(directory)
    decide = model.config["decide"]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(evaluation.metrics, indent=2, ensure_ascii=False, allow_nan=False)
        (directory / _RECORD).write_text(text + "\n", encoding="utf-8")
        pq.write_table(evaluation.table, directory / "scores.parquet")
        write_evaluation(
            directory / "evaluation.html",
            title="Evaluation",
            metrics=evaluation.metrics,
            scores=evaluation.scores,
            is_anomalous=evaluation.table["is_anomalous"].to_numpy(),
            labels=evaluation.table["label"].to_pylist(),
            thresholds=(
                model.calibration.threshold(decide["uncertain_rate"]),
                model.calibration.threshold(decide["false_alarm_rate"]),
            ),
        )
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(directory)}: {error.strerror or error}.") from error


def check_target(directory: Path) -> None:
    """Raises InlierError if an evaluation cannot be written to this folder."""
    check_folder(directory, marker=_RECORD, content="an evaluation")


class _Scored:
    """Scored photos, one a row of the table, with the pixels of those that have a map and a known truth."""

    def __init__(self, table: pa.Table, pixels: Mapping[int, PixelScores]) -> None:
        self.table = table
        self.pixels = pixels
        self.scores: NDArray[np.float64] = table["score"].to_numpy()
        self.is_anomalous: NDArray[np.bool_] = table["is_anomalous"].to_numpy()
        self.labels: list[str] = table["label"].to_pylist()
        self.groups: list[str] = table["group"].to_pylist()

    def measure(self, chosen: NDArray[np.bool_], *, seed: int) -> dict[str, Any]:
        """Each metric with its interval over the chosen photos; None where one of two sides is missing.

        Args:
            chosen: Shape (N,), which photos.
            seed: Of the resampling.
        """
        rows = np.flatnonzero(chosen).tolist()
        scores, flags, groups = self.scores[rows], self.is_anomalous[rows], [self.groups[row] for row in rows]
        has_both = bool(flags.any() and not flags.all())
        found: dict[str, Any] = {
            name: bootstrap(metric, scores, flags, groups, seed=seed).to_json() if has_both else None
            for name, metric in IMAGE_METRICS.items()
        }
        marked = [row for row in rows if row in self.pixels]
        pixels = [self.pixels[row] for row in marked]
        if not any(len(of.defect) for of in pixels) or not any(len(of.normal) for of in pixels):
            return found | {"pixel_auroc": None, "aupro_03": None}
        auroc, aupro = pixel_intervals(pixels, [self.groups[row] for row in marked], seed=seed)
        return found | {"pixel_auroc": auroc.to_json(), "aupro_03": aupro.to_json()}

    def classes(self, *, seed: int) -> dict[str, Any]:
        """What became of each class; an anomalous one is measured against all normal photos."""
        has_both = bool(self.is_anomalous.any() and not self.is_anomalous.all())
        shares = flagged_share(self.scores, self.is_anomalous, self.labels) if has_both else {}
        labels, verdicts = np.array(self.labels), np.array(self.table["verdict"].to_pylist())
        found = {}
        for label in sorted(set(self.labels)):
            of_label = labels == label
            is_anomalous = bool(self.is_anomalous[of_label].all())
            found[label] = {
                "num_photos": int(of_label.sum()),
                "is_anomalous": is_anomalous,
                "flagged_share": shares.get(label),
                "verdicts": dict(Counter(verdicts[of_label].tolist())),
                **(self.measure(of_label | ~self.is_anomalous, seed=seed) if is_anomalous else {}),
            }
        return found

    def trivial(self) -> dict[str, Any] | None:
        """The AUROC of the best of the photos' statistics, which no model is needed for."""
        if not self.is_anomalous.any() or self.is_anomalous.all():
            return None
        columns = {name: self.table[name].to_numpy() for name in _STATISTICS}
        statistic, auroc = trivial_auroc(columns, self.is_anomalous)
        return {"statistic": statistic, "auroc": auroc}


def _table(inspected: Sequence[_Inspected]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "path": verdict.path,
                "label": as_text(photo.label or ("anomalous" if photo.is_anomalous else "normal")),
                "is_anomalous": photo.is_anomalous,
                "group": as_text(photo.group),
                "score": verdict.score,
                "p_value": verdict.p_value,
                "verdict": verdict.verdict,
                **statistics,
            }
            for photo, verdict, statistics in inspected
        ]
    )


def _check_masks(photos: Sequence[Photo]) -> None:
    """Raises ManifestError if masks are missing, before the photos are scored."""
    missing = [as_text(photo.mask) for photo in photos if photo.mask is not None and not photo.mask.is_file()]
    if missing:
        raise ManifestError(f"These masks are missing: {first_five(missing)}.")


def _mask(photo: Photo, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The defect pixels of a photo at its map's size; none for a photo without a mask."""
    height, width = size
    if photo.mask is None:
        return np.zeros((height, width), dtype=np.bool_)
    try:
        return read_mask(photo.mask, size=(height, width))
    except ImageReadError as error:
        raise ManifestError(f"The mask {as_text(photo.mask)} cannot be read: {error}.") from error
