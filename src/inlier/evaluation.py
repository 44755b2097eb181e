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
from inlier.data.remote import exists
from inlier.data.statistics import photo_statistics
from inlier.data.tables import first_five
from inlier.decision.figures import ScoreAxis, write_evaluation
from inlier.decision.intervals import bootstrap, mean_interval, pixel_intervals
from inlier.decision.metrics import (
    NUM_THRESHOLDS,
    Flags,
    Folds,
    Scores,
    flagged_share,
    image_ap,
    image_auroc,
    shortcut_note,
    tpr_at_fpr,
    trivial_auroc,
)
from inlier.decision.pixel_metrics import PixelScores, collect_pixels
from inlier.errors import ImageReadError, InlierError, ManifestError
from inlier.model import Model, package_versions
from inlier.outputs import as_text, check_folder
from inlier.records import Verdict
from inlier.workflow import Progress, inspect_photos, no_progress

IMAGE_METRICS: dict[str, Callable[[Scores, Flags], float]] = {
    "image_auroc": image_auroc,
    "image_ap": image_ap,
    "tpr_at_fpr_05": partial(tpr_at_fpr, fpr=0.05),
}

_RECORD = "metrics.json"
_STATISTICS = ("brightness", "contrast", "saturation", "border", "edges", "aspect")

Inspected = tuple[Photo, Verdict, dict[str, float]]
"""A photo, its outcome, and its trivial statistics."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of labelled photos, and what was measured on them.

    Attributes:
        photos: Those that could be read.
        scores: Shape (N,), of each of them.
        metrics: What ``metrics.json`` holds.
        unreadable: The other photos, each with the reason.
        table: One row for each readable photo: path, label, group, score, p_value, verdict, component, statistics;
            and the fold, where these are of cross-validation.
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
    check_masks(labelled)
    inspected, pixels, unreadable = _inspect(model, labelled, workers, progress("Evaluating", len(labelled)))
    if not inspected:
        raise InlierError(f"None of the {len(labelled)} labelled photos of the split {split} could be read.")
    scored = ScoredPhotos(to_table(inspected), pixels)
    metrics = {
        "split": split,
        **sources(model, data, command=command, seed=seed, num_unreadable=len(unreadable)),
        **scored.measure_all(seed=seed, notes=model.notes),
        "component_accuracy": scored.component_accuracy(model.components.names if model.components else ()),
    }
    return Evaluation(
        tuple(photo for photo, _, _ in inspected), scored.scores, metrics, tuple(unreadable), scored.table
    )


def _inspect(
    model: Model, photos: Sequence[Photo], workers: int, advance: Callable[[int], None]
) -> tuple[list[Inspected], dict[int, PixelScores], list[tuple[Photo, str]]]:
    """Scores photos: those that could be read, pixels of those with a map and a known truth, and the unreadable."""
    inspected: list[Inspected] = []
    rows_of_pixels: list[int] = []
    unreadable: list[tuple[Photo, str]] = []

    def maps_and_masks() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Goes through the photos once, keeps of each what is small, and hands on what is large."""
        for photo, inspection in zip(photos, inspect_photos(model, photos, workers=workers), strict=True):
            advance(1)
            if inspection.pixels is None:
                unreadable.append((photo, inspection.verdict.error or ""))
                continue
            if inspection.anomaly_map is not None and has_true_pixels(photo):
                rows_of_pixels.append(len(inspected))
                yield inspection.anomaly_map, true_pixels(photo, inspection.anomaly_map.shape)
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
    table, decide = evaluation.table, model.config["decide"]
    has_folds = "fold" in table.column_names
    uncertain, reject = decide["uncertain_rate"], decide["false_alarm_rate"]
    if has_folds:  # scores of different folds have no common axis, and ranks do
        name = "Share of the normal photos of other folds that are less anomalous"
        axis = ScoreAxis(1 - table["p_value"].to_numpy(), (1 - uncertain, 1 - reject), name)
    else:
        thresholds = model.calibration.threshold(uncertain), model.calibration.threshold(reject)
        axis = ScoreAxis(evaluation.scores, thresholds)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(evaluation.metrics, indent=2, ensure_ascii=False, allow_nan=False)
        (directory / _RECORD).write_text(text + "\n", encoding="utf-8")
        pq.write_table(table, directory / "scores.parquet")
        write_evaluation(
            directory / "evaluation.html",
            title="Evaluation",
            metrics=evaluation.metrics,
            scores=evaluation.scores,
            is_anomalous=table["is_anomalous"].to_numpy(),
            labels=table["label"].to_pylist(),
            verdicts=table["verdict"].to_pylist(),
            axis=axis,
            folds=table["fold"].to_numpy() if has_folds else None,
        )
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(directory)}: {error.strerror or error}.") from error


def check_target(directory: Path) -> None:
    """Raises InlierError if an evaluation cannot be written to this folder."""
    check_folder(directory, marker=_RECORD, content="an evaluation")


def sources(model: Model, data: Manifest, *, command: str, seed: int, num_unreadable: int) -> dict[str, Any]:
    """Where the numbers of an evaluation come from, as ``metrics.json`` says."""
    return {
        "command": as_text(command),
        "model": model.identity,
        "data_fingerprint": data.fingerprint(),
        "fitted_on": model.facts.get("data_fingerprint"),
        "seed": seed,
        "versions": package_versions(),
        "num_unreadable": num_unreadable,
        **model.config["decide"],
    }


class ScoredPhotos:
    """Scored photos, one a row of the table, with the pixels of those that have a map and a known truth.

    Where the table has a column ``fold``, only photos of one fold compare.
    """

    def __init__(self, table: pa.Table, pixels: Mapping[int, PixelScores]) -> None:
        self.table = table
        self.pixels = pixels
        self.scores: NDArray[np.float64] = table["score"].to_numpy()
        self.is_anomalous: NDArray[np.bool_] = table["is_anomalous"].to_numpy()
        self.labels: list[str] = table["label"].to_pylist()
        self.groups: list[str] = table["group"].to_pylist()
        has_folds = "fold" in table.column_names
        self.folds: Folds = table["fold"].to_numpy() if has_folds else np.zeros(len(table), dtype=np.int64)

    def measure_all(self, *, seed: int, notes: Sequence[str]) -> dict[str, Any]:
        """All that is measured, as ``metrics.json`` holds it.

        Args:
            seed: Of the resampling.
            notes: What a reader must not miss about the verdicts.
        """
        everything = np.ones(len(self.table), dtype=np.bool_)
        measured, trivial = self.measure(everything, seed=seed), self._trivial()
        shortcut = shortcut_note(measured["image_auroc"], trivial)
        kinds = ["anomalous" if flag else "normal" for flag in self.is_anomalous]
        shares = self._flagged_shares(kinds)
        return {
            "num_normal": int((~self.is_anomalous).sum()),
            "num_anomalous": int(self.is_anomalous.sum()),
            **measured,
            "trivial": trivial,
            "confusion": {kind: _confusion(kinds.count(kind), shares.get(kind)) for kind in ("normal", "anomalous")},
            "num_thresholds": NUM_THRESHOLDS,
            "classes": self._classes(seed=seed),
            "notes": [*([shortcut] if shortcut else []), *notes],
        }

    def measure(self, chosen: Flags, *, seed: int) -> dict[str, Any]:
        """Each metric with its interval over the chosen photos; None where one of two sides is missing.

        Args:
            chosen: Shape (N,), which photos.
            seed: Of the resampling.
        """
        rows = np.flatnonzero(chosen)
        scores, flags, folds = self.scores[rows], self.is_anomalous[rows], self.folds[rows]
        groups = [self.groups[row] for row in rows]
        has_both = _has_both(flags, ~flags, folds)
        found: dict[str, Any] = {
            name: bootstrap(metric, scores, flags, groups, folds=folds, seed=seed).to_json() if has_both else None
            for name, metric in IMAGE_METRICS.items()
        }
        marked = [int(row) for row in rows if int(row) in self.pixels]
        pixels = [self.pixels[row] for row in marked]
        has_defect, has_normal = (
            np.array([len(side) > 0 for side in sides], dtype=np.bool_)
            for sides in ([of.defect for of in pixels], [of.normal for of in pixels])
        )
        if not _has_both(has_defect, has_normal, self.folds[marked]):
            return found | {"pixel_auroc": None, "aupro_03": None}
        of_marked = [self.groups[row] for row in marked]
        auroc, aupro = pixel_intervals(pixels, of_marked, folds=self.folds[marked], seed=seed)
        return found | {"pixel_auroc": auroc.to_json(), "aupro_03": aupro.to_json()}

    def component_accuracy(self, names: Sequence[str]) -> dict[str, float] | None:
        """How often a normal photo of one of these classes is named rightly; None if there is no such photo."""
        chosen = [row for row in np.flatnonzero(~self.is_anomalous).tolist() if self.labels[row] in names]
        if not chosen:
            return None
        suggested = self.table["component"].to_pylist()
        is_right = np.array([suggested[row] == self.labels[row] for row in chosen], dtype=np.float64)
        return mean_interval(is_right, [self.groups[row] for row in chosen]).to_json()

    def _classes(self, *, seed: int) -> dict[str, Any]:
        """What became of each class; an anomalous one is measured against all normal photos."""
        shares = self._flagged_shares(self.labels)
        labels, verdicts = np.array(self.labels), np.array(self.table["verdict"].to_pylist())
        found = {}
        for label in sorted(set(self.labels)):
            of_label = labels == label
            is_anomalous = bool(self.is_anomalous[of_label].all())
            num_photos = int(of_label.sum())
            found[label] = {
                "num_photos": num_photos,
                "is_anomalous": is_anomalous,
                "flagged_share": shares.get(label),
                "confusion": _confusion(num_photos, shares.get(label)),
                "verdicts": dict(Counter(verdicts[of_label].tolist())),
                **(self.measure(of_label | ~self.is_anomalous, seed=seed) if is_anomalous else {}),
            }
        return found

    def _flagged_shares(self, labels: Sequence[str]) -> dict[str, float]:
        if not _has_both(self.is_anomalous, ~self.is_anomalous, self.folds):
            return {}
        return flagged_share(self.scores, self.is_anomalous, labels, folds=self.folds)

    def _trivial(self) -> dict[str, Any] | None:
        """The AUROC of the best of the photos' statistics, which no model is needed for."""
        if not self.is_anomalous.any() or self.is_anomalous.all():
            return None
        columns = {name: self.table[name].to_numpy() for name in _STATISTICS}
        statistic, auroc = trivial_auroc(columns, self.is_anomalous)
        return {"statistic": statistic, "auroc": auroc}


def _has_both(ones: Flags, others: Flags, folds: Folds) -> bool:
    """Whether a fold has one of each."""
    return bool(np.intersect1d(folds[ones], folds[others]).size)


def _confusion(num_photos: int, share: float | None) -> dict[str, float] | None:
    """How many photos were flagged and how many not, on average over the thresholds."""
    return None if share is None else {"flagged": num_photos * share, "not_flagged": num_photos * (1 - share)}


def to_table(inspected: Sequence[Inspected]) -> pa.Table:
    """One row a photo, with all that was found out about it."""
    return pa.Table.from_pylist(
        [
            {
                "path": verdict.path,
                "label": label_of(photo),
                "is_anomalous": photo.is_anomalous,
                "group": as_text(photo.group),
                "score": verdict.score,
                "p_value": verdict.p_value,
                "verdict": verdict.verdict,
                **_suggestion(verdict),
                **statistics,
            }
            for photo, verdict, statistics in inspected
        ]
    )


def _suggestion(verdict: Verdict) -> dict[str, Any]:
    """The component that the photo was taken for; nothing where the model names none."""
    if verdict.component is None:
        return {}
    return {"component": verdict.component, "component_probability": verdict.component_probability}


def label_of(photo: Photo) -> str:
    """The class of a labelled photo, as results name it."""
    return as_text(photo.label or ("anomalous" if photo.is_anomalous else "normal"))


def check_masks(photos: Sequence[Photo]) -> None:
    """Raises ManifestError if masks are missing, before the photos are scored."""
    missing = [as_text(photo.mask) for photo in photos if photo.mask is not None and not exists(photo.mask)]
    if missing:
        raise ManifestError(f"These masks are missing: {first_five(missing)}.")


def has_true_pixels(photo: Photo) -> bool:
    """Whether it is known which pixels show a defect."""
    return photo.mask is not None or not photo.is_anomalous


def true_pixels(photo: Photo, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The defect pixels of a photo at its map's size; none for a photo without a mask.

    Raises:
        ManifestError: The mask cannot be read.
    """
    height, width = size
    if photo.mask is None:
        return np.zeros((height, width), dtype=np.bool_)
    try:
        return read_mask(photo.mask, size=(height, width))
    except ImageReadError as error:
        raise ManifestError(f"The mask {as_text(photo.mask)} cannot be read: {error}.") from error
