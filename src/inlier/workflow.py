"""The verbs that everything above calls: fit a model, inspect photos with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.build import build_backbone, build_detector, resolve
from inlier.data.loader import Batch, load_batches
from inlier.data.manifest import Manifest, Photo
from inlier.data.transforms import Transform
from inlier.errors import ManifestError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.fitting import Fitted, fit_and_calibrate, num_steps
from inlier.model import Model, package_versions
from inlier.outputs import as_text
from inlier.reading import Reader
from inlier.records import Evidence, Verdict

Progress = Callable[[str, int], Callable[[int], None]]
"""Given a task and its number of steps, returns what is to be told of steps done."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """A photo's verdict with what explains it; there is nothing to explain if it is unreadable.

    Attributes:
        verdict: Its outcome.
        pixels: The photo, shape (H, W, 3), uint8.
        anomaly_map: Shape (h, w); None where the detector has no place.
        evidence: The reasons, strongest first.
    """

    verdict: Verdict
    pixels: NDArray[np.uint8] | None = None
    anomaly_map: NDArray[np.float32] | None = None
    evidence: tuple[Evidence, ...] = ()


def no_progress(task: str, total: int) -> Callable[[int], None]:
    """Tells nobody."""
    return lambda steps: None


def fit(
    config: Mapping[str, Mapping[str, Any]],
    data: Manifest,
    *,
    layers: Sequence[int] | None = None,
    device: str = "cpu",
    workers: int = 2,
    progress: Progress = no_progress,
) -> tuple[Model, list[tuple[Photo, str]]]:
    """Learns from the normal photos of ``train``, and calibrates on normal photos it did not learn from.

    Args:
        config: Sections of keywords; what is left out takes its default.
        data: Photos; anomalous ones and those of ``test`` are not looked at.
        layers: Stages of the backbone for every detector involved; None: those of the configuration.
        device: Where the backbone runs.
        workers: Threads that decode.
        progress: Told how far it is.

    Returns:
        The model, and the photos that could not be read, each with the reason.

    Raises:
        ManifestError: There are no normal photos to learn from, or too few to calibrate.
        ConfigError: The configuration cannot be used.
        WeightsError: The backbone's weights cannot be found.
    """
    resolved = resolve(config, device=device, layers=layers)
    detector = build_detector(resolved)
    normal = _normal_photos(data)
    backbone = build_backbone(resolved, detector).to(device)
    transform = Transform(resolved["input"]["size"], backbone.mean, backbone.std)
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        groups = dict(zip(normal.photos, map(as_text, normal.groups), strict=True))
        reader = Reader(backbone, transform, cache, groups, workers)
        advance = progress("Reading photos", len(normal))
        of_train, references = reader.read(normal.select("train"), advance)
        of_dev, _ = reader.read(normal.select("dev"), advance)
        _check_read(of_train, of_dev, reader.unreadable)
        advance = progress("Learning", num_steps(of_train, of_dev))
        fitted = fit_and_calibrate(detector, of_train, of_dev, seed=resolved["fit"]["seed"], advance=advance)
    facts = _facts(normal, fitted, len(reader.unreadable))
    model = Model(resolved, backbone, detector, fitted.calibration, references.select(fitted.places), facts)
    return model, reader.unreadable


def _facts(normal: Manifest, fitted: Fitted, num_unreadable: int) -> dict[str, Any]:
    """Where a model comes from, as its header says."""
    return {
        "data_fingerprint": normal.fingerprint(),
        "num_fitted": len(fitted.places),
        "num_calibration": len(fitted.calibration.normal_scores),
        "calibration": fitted.method,
        "num_unreadable": num_unreadable,
        "versions": package_versions(),
    }


def inspect_photos(
    model: Model, photos: Sequence[Photo], *, batch_size: int = 8, workers: int = 2
) -> Iterator[Inspection]:
    """One inspection for every photo, in the order given: the walk of a photo through the package.

    Args:
        model: Fitted.
        photos: Which photos; nothing but their paths is looked at.
        batch_size: Photos that are scored together; it changes no score.
        workers: Threads that decode.
    """
    batches = load_batches(photos, model.transform, batch_size=batch_size, workers=workers)
    for number, batch in enumerate(batches):
        outcomes = _inspect_batch(model, batch)
        for photo in photos[number * batch_size : (number + 1) * batch_size]:
            yield outcomes[photo]


def _inspect_batch(model: Model, batch: Batch) -> dict[Photo, Inspection]:
    outcomes = {
        photo: Inspection(Verdict(as_text(photo.path), None, None, "unreadable", error=as_text(reason)))
        for photo, reason in batch.unreadable
    }
    if not batch.photos:
        return outcomes
    prediction = model.detector.predict(model.backbone.extract(batch.images))
    scores = prediction.score.numpy()
    p_values = model.calibration.p_values(scores)
    decisions = model.calibration.decide(scores, **model.config["decide"])
    for place, photo in enumerate(batch.photos):
        outcomes[photo] = Inspection(
            Verdict(as_text(photo.path), float(scores[place]), float(p_values[place]), decisions[place]),
            batch.pixels[place],
            None if prediction.anomaly_map is None else prediction.anomaly_map[place].numpy(),
            () if prediction.evidence is None else prediction.evidence[place],
        )
    return outcomes


def _normal_photos(data: Manifest) -> Manifest:
    """The photos to learn from and to calibrate on: the normal ones of ``train`` and ``dev``."""
    normal = Manifest(tuple(photo for photo in data.normal().photos if photo.split != "test"))
    if not normal.select("train"):
        raise ManifestError(
            "The split train has no normal photos to learn from; "
            "name their labels with --normal, or mark them with 0 in the manifest's column anomalous."
        )
    _check_groups(normal.groups, "")
    return normal


def _check_read(train: FeatureSet, dev: FeatureSet, unreadable: Sequence[tuple[Photo, str]]) -> None:
    """Raises ManifestError if too few photos could be read."""
    why = f"; {len(unreadable)} could not be read, the first because: {unreadable[0][1]}" if unreadable else ""
    if not train:
        raise ManifestError(f"None of the normal photos of the split train could be read{why}.")
    _check_groups(train.groups + dev.groups, why)


def _check_groups(groups: Sequence[str], why: str) -> None:
    if len(set(groups)) < 2:
        raise ManifestError(
            "At least two normal photos, of different groups, are needed to learn from one and calibrate on "
            f"another, got {len(groups)} of one group{why}."
        )
