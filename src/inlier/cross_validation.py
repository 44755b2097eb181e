"""Measures a configuration on few photos: each is judged by a detector that has not seen its group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.build import build_detector
from inlier.data.manifest import Manifest, Photo
from inlier.data.splits import stratified_folds
from inlier.data.statistics import photo_statistics
from inlier.data.views import hand_held_views
from inlier.decision.calibration import Calibration
from inlier.decision.metrics import Folds
from inlier.decision.pixel_metrics import PixelScores, aupro, collect_pixels, pixel_auroc
from inlier.detectors.protocol import Detector
from inlier.errors import ManifestError
from inlier.evaluation import (
    IMAGE_METRICS,
    Evaluation,
    ScoredPhotos,
    check_masks,
    has_true_pixels,
    label_of,
    sources,
    to_table,
    true_pixels,
)
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.model import Model
from inlier.outputs import as_text
from inlier.reading import Reader
from inlier.records import Verdict
from inlier.workflow import NO_REGION, Progress, no_progress

MEASURED = (*IMAGE_METRICS, "pixel_auroc", "aupro_03")

_MapAndTruth = tuple[NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class _Read:
    """Photos that could be read, normal ones first, with their features and trivial statistics.

    Attributes:
        photos: N of them.
        features: Of the same photos, in this order.
        with_views: Of the normal ones, each followed by its altered copies.
        groups: Of each photo what must not be torn apart.
        statistics: Of each photo.
    """

    photos: tuple[Photo, ...]
    features: FeatureSet
    with_views: FeatureSet
    groups: list[str]
    statistics: list[dict[str, float]]


def cross_validate(
    model: Model,
    data: Manifest,
    *,
    num_folds: int,
    seed: int = 0,
    workers: int = 2,
    command: str = "",
    progress: Progress = no_progress,
) -> Evaluation:
    """Fits the model's configuration on each K - 1 of K folds, and measures on the fold left out.

    All labelled photos take part, whatever their split: where there are few, none can be spared. Groups stay whole,
    and each fold has its share of every label. Detectors learn from the normal photos of their folds; every photo is
    judged once. The model gives its configuration and its backbone, nothing that it learned.

    Metrics compare photos within a fold only, and their intervals tell what other photos would do to these K
    detectors (see `intervals.bootstrap`). The spread over folds shows how much the choice of photos matters; as the
    folds share most of what they learn from, it is no standard error. Verdicts need scores to rank among: those of
    the normal photos of the other folds, each by its own fold's detector, as in the cross-conformal calibration of
    ``fit`` (Vovk, Annals of Mathematics and Artificial Intelligence 2015).

    Args:
        model: Its configuration is fitted again.
        data: Photos with labels, with masks where there are any.
        num_folds: K, in [2, number of groups with normal photos].
        seed: Of the folds, and of the resampling behind the intervals.
        workers: Threads that decode.
        command: What the user asked, to be kept beside the numbers.
        progress: Told how far it is.

    Returns:
        As of ``evaluate``, with ``folds`` and ``over_folds`` among the metrics.

    Raises:
        ManifestError: No photo is labelled, there are too few groups of normal photos, or a mask cannot be read.
    """
    labelled = Manifest(tuple(photo for photo in data.photos if photo.is_anomalous is not None))
    if not labelled:
        raise ManifestError("There are no labelled photos to cross-validate on.")
    check_masks(labelled.photos)
    _check_groups(labelled.photos, labelled.groups, num_folds, [])
    with FeatureCache(dtype=getattr(torch, model.backbone.precision)) as cache:
        read, unreadable = _read(model, labelled, cache, workers, progress("Reading photos", len(labelled)))
        _check_groups(read.photos, read.groups, num_folds, unreadable)
        folds = _folds(read, num_folds, seed)
        scores, lacks_region, pixels = _judge(model, read, folds, progress("Folds", num_folds))
    calibrations = _calibrations(read, scores, folds)
    verdicts = _verdicts(model, read, scores, lacks_region, folds, calibrations)
    table = to_table(list(zip(read.photos, verdicts, read.statistics, strict=True)))
    scored = ScoredPhotos(table.append_column("fold", [folds + 1]), pixels)
    of_folds = _measure_folds(scored, num_folds)
    metrics = {
        "split": "all",
        **sources(model, data, command=command, seed=seed, num_unreadable=len(unreadable)),
        **scored.measure_all(seed=seed, notes=_notes(model, calibrations)),
        "folds": of_folds,
        "over_folds": {name: _over_folds([of[name] for of in of_folds]) for name in MEASURED},
    }
    return Evaluation(read.photos, scored.scores, metrics, tuple(unreadable), scored.table)


def _check_groups(
    photos: Sequence[Photo], groups: Sequence[str], num_folds: int, unreadable: Sequence[tuple[Photo, str]]
) -> None:
    """Raises ManifestError unless each fold can have a group of normal photos."""
    most = len({group for photo, group in zip(photos, groups, strict=True) if not photo.is_anomalous})
    if 2 <= num_folds <= most:
        return
    why = f"; {len(unreadable)} could not be read, the first because: {unreadable[0][1]}" if unreadable else ""
    if most < 2:
        raise ManifestError(
            "Cross-validation needs normal photos of at least two groups, to learn from one and judge the other, "
            f"got {most}{why}."
        )
    raise ManifestError(
        f"--folds must be in 2 to {most}, for every fold needs a group of normal photos and there are {most}, "
        f"got {num_folds}{why}."
    )


def _read(
    model: Model, labelled: Manifest, cache: FeatureCache, workers: int, advance: Callable[[int], None]
) -> tuple[_Read, list[tuple[Photo, str]]]:
    """Extracts the features of all photos once, and of altered copies of the normal ones if the model was fitted so."""
    photos: list[Photo] = []
    statistics: list[dict[str, float]] = []

    def notice(photo: Photo, pixels: NDArray[np.uint8]) -> None:
        height, width = pixels.shape[:2]
        photos.append(photo)
        statistics.append(photo_statistics(model.transform.to_square(pixels), aspect=width / height))

    groups = dict(zip(labelled.photos, map(as_text, labelled.groups), strict=True))
    reader = Reader(model.backbone, model.transform, cache, groups, workers, notice=notice)
    views = hand_held_views(model.config["fit"].get("augment") or 0)
    with_views, _ = reader.read(labelled.normal(), advance, views=views)
    anomalous, _ = reader.read(Manifest(tuple(p for p in labelled.photos if p.is_anomalous)), advance)
    features = FeatureSet(cache, with_views.originals().indices + anomalous.indices)
    return _Read(
        tuple(photos), features, with_views, [groups[photo] for photo in photos], statistics
    ), reader.unreadable


def _folds(read: _Read, num_folds: int, seed: int) -> Folds:
    """The fold of each photo, from 0."""
    is_normal = np.array([not photo.is_anomalous for photo in read.photos])
    labels = [label_of(photo) for photo in read.photos]
    return stratified_folds(read.groups, labels, is_normal, num_folds=num_folds, seed=seed)


def _judge(
    model: Model, read: _Read, folds: Folds, advance: Callable[[int], None]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], dict[int, PixelScores]]:
    """Scores each photo by the detector of its fold.

    Returns:
        The scores; which photos lack a region that was looked for; pixels of those with a map and a known truth.
    """
    scores = np.zeros(len(read.photos), dtype=np.float32)
    lacks_region = np.zeros(len(read.photos), dtype=np.bool_)
    rows_of_pixels: list[int] = []
    fold_of_group = dict(zip(read.groups, folds.tolist(), strict=True))

    def maps_and_masks() -> Iterator[_MapAndTruth]:
        """Goes through the photos once, fold by fold, keeps the scores, and hands on what is large."""
        for fold in np.unique(folds).tolist():
            known = [place for place, group in enumerate(read.with_views.groups) if fold_of_group[group] != fold]
            detector = build_detector(model.config).fit(read.with_views.select(known))
            rows = np.flatnonzero(folds == fold).tolist()
            for row, score, is_lacking, anomaly_map in _predictions(detector, read.features.select(rows), rows):
                scores[row], lacks_region[row] = score, is_lacking
                if anomaly_map is not None and has_true_pixels(read.photos[row]):
                    rows_of_pixels.append(row)
                    yield anomaly_map, true_pixels(read.photos[row], anomaly_map.shape)
            advance(1)

    pixels = collect_pixels(maps_and_masks())
    return scores, lacks_region, dict(zip(rows_of_pixels, pixels, strict=True))


def _predictions(
    detector: Detector, features: FeatureSet, rows: Sequence[int]
) -> Iterator[tuple[int, float, bool, NDArray[np.float32] | None]]:
    """Row and score of each photo, whether it lacks a region, and its anomaly map."""
    remaining = iter(rows)
    for maps in features.batches():
        prediction = detector.predict(maps)
        judged = zip(prediction.score.tolist(), prediction.lacks_region.tolist(), strict=True)
        for place, (score, is_lacking) in enumerate(judged):
            anomaly_map = None if prediction.anomaly_map is None else prediction.anomaly_map[place].numpy()
            yield next(remaining), score, is_lacking, anomaly_map


def _calibrations(read: _Read, scores: NDArray[np.float32], folds: Folds) -> list[Calibration]:
    """For each fold the scores of the normal photos of the other folds, each by the detector of its own."""
    is_normal = np.array([not photo.is_anomalous for photo in read.photos])
    return [Calibration(scores[is_normal & (folds != fold)].astype(np.float64)) for fold in range(folds.max() + 1)]


def _verdicts(
    model: Model,
    read: _Read,
    scores: NDArray[np.float32],
    lacks_region: NDArray[np.bool_],
    folds: Folds,
    calibrations: Sequence[Calibration],
) -> list[Verdict]:
    """The outcome of each photo, in their order."""
    verdicts = []
    for row, (photo, fold) in enumerate(zip(read.photos, folds.tolist(), strict=True)):
        score, is_lacking = scores[row : row + 1], lacks_region[row : row + 1]
        (p_value,) = calibrations[fold].p_values(score).tolist()
        (decision,) = calibrations[fold].decide(score, **model.config["decide"], is_doubtful=is_lacking)
        error = NO_REGION if is_lacking else None
        verdicts.append(Verdict(as_text(photo.path), float(score[0]), p_value, decision, error=error))
    return verdicts


def _measure_folds(scored: ScoredPhotos, num_folds: int) -> list[dict[str, Any]]:
    """What each fold has, and each metric of it alone; None where a fold lacks one of two sides."""
    found = []
    for fold in range(1, num_folds + 1):
        rows = np.flatnonzero(scored.folds == fold)
        flags = scored.is_anomalous[rows]
        has_both = bool(flags.any() and not flags.all())
        pixels = [scored.pixels[row] for row in rows.tolist() if row in scored.pixels]
        has_pixels = any(len(of.defect) for of in pixels) and any(len(of.normal) for of in pixels)
        found.append(
            {
                "fold": fold,
                "num_learned": int(np.count_nonzero(~scored.is_anomalous & (scored.folds != fold))),
                "num_normal": int(np.count_nonzero(~flags)),
                "num_anomalous": int(np.count_nonzero(flags)),
                **{
                    name: metric(scored.scores[rows], flags) if has_both else None
                    for name, metric in IMAGE_METRICS.items()
                },
                "pixel_auroc": pixel_auroc(pixels) if has_pixels else None,
                "aupro_03": aupro(pixels) if has_pixels else None,
            }
        )
    return found


def _over_folds(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and standard deviation over the folds that have a value; None without any."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"mean": fmean(known), "spread": stdev(known) if len(known) > 1 else None}


def _notes(model: Model, calibrations: Sequence[Calibration]) -> list[str]:
    """What a reader must not miss about the folds."""
    smallest = min(calibrations, key=lambda of: len(of.normal_scores))
    shortage = smallest.shortage(model.config["decide"]["false_alarm_rate"])
    notes = [note for note in (shortage, model.backbone_note) if note]
    if model.facts.get("background_fingerprint"):
        notes.append("The model was fitted before a background, and the detectors of the folds were not.")
    return notes
