"""Measures a model on labelled photos: metrics with intervals, figures, a table of scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from inlier.decision.figures import write_evaluation
from inlier.decision.intervals import bootstrap, pixel_intervals
from inlier.decision.metrics import flagged_share, image_ap, image_auroc, tpr_at_fpr, trivial_auroc
from inlier.decision.pixel_metrics import PixelScores, collect_pixels
from inlier.errors import ImageReadError, InlierError, ManifestError
from inlier.model import Model, package_versions
from inlier.records import Verdict
from inlier.workflow import Progress, inspect_photos, no_progress

IMAGE_METRICS: dict[str, Callable[[NDArray[np.floating[Any]], NDArray[np.bool_]], float]] = {
    "image_auroc": image_auroc,
    "image_ap": image_ap,
    "tpr_at_fpr_05": partial(tpr_at_fpr, fpr=0.05),
}


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
        ManifestError: The split has no labelled photos.
        InlierError: None of them could be read.
    """
    labelled = [photo for photo in data.select(split).photos if photo.is_anomalous is not None]
    if not labelled:
        raise ManifestError(f"The split {split} has no labelled photos to evaluate on; --split names another.")
    advance = progress("Evaluating", len(labelled))
    inspected: list[_Inspected] = []
    unreadable: list[tuple[Photo, str]] = []
    of_pixels: list[Photo] = []

    def maps_and_masks() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Goes through the photos once, keeps of each what is small, and hands on what is large."""
        for photo, inspection in zip(labelled, inspect_photos(model, labelled, workers=workers), strict=True):
            advance(1)
            if inspection.pixels is None:
                unreadable.append((photo, inspection.verdict.error or ""))
                continue
            height, width = inspection.pixels.shape[:2]
            statistics = photo_statistics(model.transform.to_square(inspection.pixels), aspect=width / height)
            inspected.append((photo, inspection.verdict, statistics))
            if inspection.anomaly_map is not None and (photo.mask is not None or not photo.is_anomalous):
                of_pixels.append(photo)
                yield inspection.anomaly_map, _mask(photo, inspection.anomaly_map.shape)

    pixels = collect_pixels(maps_and_masks())
    if not inspected:
        raise InlierError(f"None of the {len(labelled)} labelled photos of the split {split} could be read.")
    photos = tuple(photo for photo, _, _ in inspected)
    table = _table(inspected)
    scores = table["score"].to_numpy().astype(np.float64)
    metrics = {
        "split": split,
        "command": command,
        "model": model.identity,
        "data_fingerprint": data.fingerprint(),
        "fitted_on": model.facts.get("data_fingerprint"),
        "seed": seed,
        "versions": package_versions(),
        "num_unreadable": len(unreadable),
        **model.config["decide"],
        **_image_metrics(photos, scores, table, seed),
        **_pixel_metrics(of_pixels, pixels, seed),
    }
    return Evaluation(photos, scores, metrics, tuple(unreadable), table)


def write_to_folder(evaluation: Evaluation, model: Model, directory: Path) -> None:
    """Writes ``metrics.json``, ``scores.parquet`` and ``evaluation.html``.

    Raises:
        InlierError: The folder cannot be written.
    """
    decide = model.config["decide"]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(evaluation.metrics, indent=2, ensure_ascii=False, allow_nan=False)
        (directory / "metrics.json").write_text(text + "\n", encoding="utf-8")
        pq.write_table(evaluation.table, directory / "scores.parquet")
        write_evaluation(
            directory / "evaluation.html",
            title="Evaluation",
            metrics=evaluation.metrics,
            scores=evaluation.scores,
            is_anomalous=_flags(evaluation.photos),
            labels=evaluation.table["label"].to_pylist(),
            thresholds=(
                model.calibration.threshold(decide["uncertain_rate"]),
                model.calibration.threshold(decide["false_alarm_rate"]),
            ),
        )
    except OSError as error:
        raise InlierError(f"Nothing can be written to {directory}: {error.strerror}.") from error


def _table(inspected: Sequence[_Inspected]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "path": verdict.path,
                "label": _label(photo),
                "is_anomalous": photo.is_anomalous,
                "group": photo.group,
                "score": verdict.score,
                "p_value": verdict.p_value,
                "verdict": verdict.verdict,
                **statistics,
            }
            for photo, verdict, statistics in inspected
        ]
    )


def _image_metrics(photos: Sequence[Photo], scores: NDArray[np.float64], table: pa.Table, seed: int) -> dict[str, Any]:
    flags = _flags(photos)
    labels = np.array([_label(photo) for photo in photos], dtype=np.str_)
    groups = np.array([photo.group for photo in photos], dtype=np.str_)
    has_both = bool(flags.any() and not flags.all())
    shares = flagged_share(scores, flags, labels.tolist()) if has_both else {}
    verdicts = np.array(table["verdict"].to_pylist(), dtype=np.str_)

    def measured(chosen: NDArray[np.bool_], names: Sequence[str]) -> dict[str, Any]:
        of = scores[chosen], flags[chosen], groups[chosen].tolist()
        found = {name: bootstrap(IMAGE_METRICS[name], *of, seed=seed).to_json() if has_both else None for name in names}
        return dict(found)

    classes: dict[str, Any] = {}
    for label in sorted(set(labels.tolist())):
        of_label = labels == label
        is_anomalous = bool(flags[of_label].all())
        classes[label] = {
            "num_photos": int(of_label.sum()),
            "is_anomalous": is_anomalous,
            "flagged_share": shares.get(label),
            "verdicts": dict(Counter(verdicts[of_label].tolist())),
            **(measured(of_label | ~flags, ["image_auroc"]) if is_anomalous else {}),
        }
    trivial = None
    if has_both:
        names = [name for name in table.column_names if name in _STATISTICS]
        statistic, auroc = trivial_auroc({name: table[name].to_numpy() for name in names}, flags)
        trivial = {"statistic": statistic, "auroc": auroc}
    return {
        "num_normal": int((~flags).sum()),
        "num_anomalous": int(flags.sum()),
        **measured(np.ones(len(photos), dtype=np.bool_), list(IMAGE_METRICS)),
        "trivial": trivial,
        "classes": classes,
    }


_STATISTICS = ("brightness", "contrast", "saturation", "border", "edges", "aspect")


def _mask(photo: Photo, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The defect pixels of a photo at its map's size; none for a photo without a mask."""
    height, width = size
    if photo.mask is None:
        return np.zeros((height, width), dtype=np.bool_)
    try:
        return read_mask(photo.mask, size=(height, width))
    except ImageReadError as error:
        raise ManifestError(f"The mask {photo.mask} cannot be read: {error}.") from error


def _pixel_metrics(photos: Sequence[Photo], pixels: Sequence[PixelScores], seed: int) -> dict[str, Any]:
    """Pixel AUROC and AUPRO, or null where nothing is marked."""
    if not any(len(of.defect) for of in pixels):
        return {"pixel_auroc": None, "aupro_03": None}
    auroc, aupro = pixel_intervals(pixels, [photo.group for photo in photos], seed=seed)
    return {"pixel_auroc": auroc.to_json(), "aupro_03": aupro.to_json()}


def _flags(photos: Sequence[Photo]) -> NDArray[np.bool_]:
    return np.array([photo.is_anomalous is True for photo in photos], dtype=np.bool_)


def _label(photo: Photo) -> str:
    return photo.label or ("anomalous" if photo.is_anomalous else "normal")
