"""What a detector of any configuration makes of photos whose features are read once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.build import build_detector
from inlier.config import Config
from inlier.copies import Copies, draw_photos
from inlier.data.manifest import Manifest
from inlier.data.transforms import Transform
from inlier.decision.metrics import image_auroc
from inlier.detectors.crossfit import score_photos
from inlier.detectors.protocol import Detector
from inlier.downstream import has_both, labelled_dev
from inlier.errors import ManifestError
from inlier.experiments.memory import current_bytes, peak_bytes, reset_peak, within_budget
from inlier.experiments.outcome import Metric, Outcome, Watch
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.store import FeatureStore
from inlier.fitting import places_to_learn_from
from inlier.reading import Reader, normal_groups
from inlier.workflow import Progress, backbone_to_share, normal_photos, views_of

ROUNDED_BYTES = 128 * 2**20
"""What the process has before it fits is rounded up to these, so that the same trial is reduced alike in each run."""

MAX_COPIED = 400
"""Normal photos at most that altered copies are made of."""

NUM_TIMED = 5
"""Photos that are judged one by one to tell how long one takes."""

_LOOKS = (0.3, 0.6)
"""Shares of a training at which the detector is judged on its way."""

_RUNGS = (16, 4)
"""Where a detector does not train: one in so many photos is learned from first, before all of them are."""

_ENOUGH = 160
"""Photos from which on that is worth it."""

_JUDGED_AT_LOOK, _ENOUGH_AT_LOOK = 4, 40
"""Of the photos to be told apart, normal and anomalous, one in so many is judged then, if that leaves forty."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Photos of dev.

    Attributes:
        photos: Those of which it is known whether they are anomalous.
        is_anomalous: Shape (N,), which of them are.
        calibrating: The normal ones, and those nobody labelled, by which ``fit`` decides what it learns from.
    """

    photos: FeatureSet
    is_anomalous: NDArray[np.bool_]
    calibrating: FeatureSet

    def some(self) -> Labelled:
        """One in a few of the normal and of the anomalous ones; all of those of which there are few anyway."""
        places: list[int] = []
        for flag in (False, True):
            of_kind = np.flatnonzero(self.is_anomalous == flag)
            places += of_kind[:: max(1, min(_JUDGED_AT_LOOK, len(of_kind) // _ENOUGH_AT_LOOK))].tolist()
        places.sort()
        return Labelled(self.photos.select(places), self.is_anomalous[places], self.calibrating)


@dataclass(frozen=True, eq=False)
class Judge:
    """Photos to learn from and photos to be told apart, as features of one backbone on disk.

    Attributes:
        learned: Normal photos that are learned from; where copies are judged, these with their copies.
        budget_bytes: What the process may have.
        base_bytes: What it has before it fits.
        num_unreadable: Photos that could not be read.
        labelled: Photos of dev to be told apart; None: altered copies are.
        copies: Normal photos and altered copies, which detectors that have not seen them are to tell apart.
    """

    learned: FeatureSet
    budget_bytes: int
    base_bytes: int
    num_unreadable: int
    labelled: Labelled | None = None
    copies: Copies | None = None

    def __call__(self, config: Config, watch: Watch | None = None) -> Outcome:
        """Fits a detector of this configuration and judges it, just as ``fit`` and ``evaluate`` would.

        Args:
            config: Resolved, with the backbone and size of the features.
            watch: Told how a training goes, or what a detector that does not train makes of few photos; what it
                raises ends it.

        Raises:
            ConfigError: A value is outside its range, or the configuration does not fit in the memory budget.
        """
        layers = build_detector(config).layers
        judged = self.learned if self.labelled is None else self.labelled.photos
        shapes = {layer: (of[0], of[1], of[2]) for layer, of in judged.cache.shapes.items() if layer in layers}
        config, predicted, reduced = within_budget(
            config,
            self.budget_bytes,
            shapes=shapes,
            num_photos=len(self.learned),
            num_judged=len(judged),
            base_bytes=self.base_bytes,
        )
        reset_peak()
        self._try_on_few(config, watch)
        detector = build_detector(config, watch=self._looking(watch))
        began = time.perf_counter()
        if self.copies is not None:
            value = self.copies.auroc(detector)
            fit_seconds = (time.perf_counter() - began) / self.copies.num_folds
        else:
            assert self.labelled is not None  # else copies are judged
            detector.fit(self._to_learn(detector, self.labelled, config["fit"]["seed"]).with_layers(layers))
            fit_seconds = time.perf_counter() - began
            value = _auroc(detector, self.labelled)
        latency = _latency_ms(detector, judged.with_layers(layers))
        return Outcome(value, fit_seconds, latency, predicted, peak_bytes(), tuple(reduced))

    def _to_learn(self, detector: Detector, labelled: Labelled, seed: int) -> FeatureSet:
        places = places_to_learn_from(detector, self.learned, labelled.calibrating, seed=seed)
        return self.learned.select(places)

    def _looking(self, watch: Watch | None) -> Callable[[Detector, float], None] | None:
        """What a detector calls now and then while it trains; not every time, for judging costs time too."""
        if watch is None or self.labelled is None:
            return None
        labelled, left = self.labelled.some(), list(_LOOKS)

        def look(detector: Detector, share: float) -> None:
            if left and share >= left[0]:
                left.pop(0)
                watch(_auroc(detector, labelled), len(_LOOKS) - len(left))

        return look

    def _try_on_few(self, config: Config, watch: Watch | None) -> None:
        """Lets a detector that does not train learn from few photos first, and from more, so that a bad one ends."""
        if watch is None or self.labelled is None or len(self.learned) < _ENOUGH:
            return
        labelled = self.labelled.some()
        for step, stride in enumerate(_RUNGS, 1):
            smaller: Config = {
                section: keywords
                | (
                    {"max_bank_rows": max(1, keywords["max_bank_rows"] // stride)}
                    if "max_bank_rows" in keywords
                    else {}
                )
                for section, keywords in config.items()
            }
            detector = build_detector(smaller)
            if detector.is_trained:
                return
            detector.fit(self.learned.select(range(0, len(self.learned), stride)).with_layers(detector.layers))
            watch(_auroc(detector, labelled), step)


@contextmanager
def open_judge(
    config: Config,
    data: Manifest,
    *,
    metric: Metric,
    layers: Sequence[int],
    store: FeatureStore,
    budget_bytes: int,
    device: str = "cpu",
    workers: int = 2,
    progress: Progress,
) -> Iterator[Judge]:
    """Reads the photos of train and dev, or finds their features in the store.

    Args:
        config: Resolved; its backbone and size are those of every trial.
        data: Photos; those of ``test`` are not looked at.
        metric: What is to be measured.
        layers: Those that any trial may look at.
        store: Where features are kept.
        budget_bytes: What the process may have while it fits.
        device: Where the backbone runs.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        ManifestError: There are no normal photos to learn from, or dev lacks normal or anomalous ones.
    """
    normal = normal_photos(data)
    backbone = backbone_to_share(config, layers).to(device)
    transform = Transform(config["input"]["size"], backbone.mean, backbone.std)
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        if metric == "synthetic":
            seed = config["fit"]["seed"]
            drawn = draw_photos(normal, MAX_COPIED, seed=seed)
            advance = progress("Altering photos", len(drawn))
            copies = Copies.read(
                cache, backbone, transform, drawn, normal_groups(normal), seed=seed, workers=workers, advance=advance
            )
            del backbone
            yield Judge(copies.features, budget_bytes, _base_bytes(), len(drawn) - len(copies.folds), copies=copies)
            return
        labelled = labelled_dev(data)
        if not has_both(labelled):
            raise ManifestError(
                "The split dev has no labelled normal and anomalous photos to tell settings apart by; "
                "--metric synthetic tells them apart by altered copies of normal photos."
            )
        of_dev = Manifest(tuple({photo: None for photo in (*normal.select("dev").photos, *labelled)}))
        groups = normal_groups(Manifest((*normal.select("train").photos, *of_dev.photos)))
        reader = Reader(backbone, transform, cache, groups, workers, store)
        advance = progress("Reading photos", len(normal.select("train")) + len(of_dev))
        learned, _ = reader.read(normal.select("train"), advance, views=views_of(config, len(normal.select("train"))))
        dev, _ = reader.read(of_dev, advance)
        photos = [reader.photos[index] for index in dev.indices]
        chosen = [place for place, photo in enumerate(photos) if photo.is_anomalous is not None]
        calm = [place for place, photo in enumerate(photos) if photo.is_anomalous is not True]
        is_anomalous = np.array([bool(photos[place].is_anomalous) for place in chosen], dtype=np.bool_)
        if not learned or not 0 < is_anomalous.sum() < len(is_anomalous):
            raise ManifestError("Of the normal photos of train, or of those labelled in dev, none could be read.")
        of = Labelled(dev.select(chosen), is_anomalous, dev.select(calm))
        num_unreadable = len(reader.unreadable)
        del backbone, reader  # neither is needed any more, and room is
        yield Judge(learned, budget_bytes, _base_bytes(), num_unreadable, labelled=of)


def _base_bytes() -> int:
    return math.ceil(current_bytes() / ROUNDED_BYTES) * ROUNDED_BYTES


def _auroc(detector: Detector, labelled: Labelled) -> float:
    scores = score_photos(detector, labelled.photos.with_layers(detector.layers)).values
    return image_auroc(scores.astype(np.float64), labelled.is_anomalous)


def _latency_ms(detector: Detector, photos: FeatureSet) -> float:
    seconds = []
    for place in range(min(NUM_TIMED, len(photos))):
        maps = photos.select([place]).read()
        began = time.perf_counter()
        detector.predict(maps)
        seconds.append(time.perf_counter() - began)
    return 1000 * float(np.median(seconds))
