"""What a detector of any configuration makes of photos whose features are read once."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.build import build_detector
from inlier.config import Config
from inlier.copies import STRIDE, Copies, alter_all, draw_photos, name_of
from inlier.data.manifest import Manifest, digest_file
from inlier.data.transforms import Transform
from inlier.decision.metrics import image_auroc
from inlier.detectors.crossfit import score_photos
from inlier.detectors.protocol import Detector
from inlier.downstream import has_both, labelled_dev
from inlier.errors import ManifestError
from inlier.experiments.memory import current_bytes, peak_bytes, reset_peak, within_budget
from inlier.experiments.outcome import Metric, Outcome, Watch
from inlier.features.backbone import Backbone
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.records import Records
from inlier.features.store import FeatureStore, features_key
from inlier.fitting import places_to_learn_from
from inlier.model import transform_of
from inlier.reading import Link, Reader, normal_groups
from inlier.workflow import Progress, backbone_to_share, normal_photos, views_of

ROUNDED_BYTES = 64 * 2**20
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


@dataclass(frozen=True)
class Reading:
    """Photos whose features a store has, told so that any process can judge by them without the backbone.

    Attributes:
        links: Entries of the store, in the order of their records.
        learned: Records of normal photos to learn from; with ``is_anomalous`` None, of photos before their copies.
        judged: Records of labelled photos of dev.
        calibrating: Records of photos of dev that are not known to be anomalous.
        is_anomalous: Of the judged; None: altered copies are judged.
        seed: Of the folds of copies.
        num_unreadable: Photos that could not be read.
    """

    links: tuple[Link, ...]
    learned: tuple[int, ...]
    judged: tuple[int, ...] = ()
    calibrating: tuple[int, ...] = ()
    is_anomalous: tuple[bool, ...] | None = None
    seed: int = 0
    num_unreadable: int = 0


def read_photos(
    config: Config,
    data: Manifest,
    *,
    metric: Metric,
    layers: Sequence[int],
    store: FeatureStore,
    device: str = "cpu",
    workers: int = 2,
    progress: Progress,
) -> Reading:
    """Puts the features of the photos that trials share into the store, if they are not there.

    Args:
        config: Resolved; its backbone and size are those of every trial.
        data: Photos; those of ``test`` are not looked at.
        metric: What is to be measured.
        layers: Those that any trial may look at.
        store: Where features are kept.
        device: Where the backbone runs.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        ManifestError: There are no normal photos to learn from, or dev lacks normal or anomalous ones.
    """
    normal = normal_photos(data)
    backbone = backbone_to_share(config, layers).to(device)
    transform = transform_of(config, backbone)
    if metric == "synthetic":
        return _read_copies(config, normal, backbone, transform, store, workers, progress)
    labelled = labelled_dev(data)
    if not has_both(labelled):
        raise ManifestError(
            "The split dev has no labelled normal and anomalous photos to tell settings apart by; "
            "--metric synthetic tells them apart by altered copies of normal photos."
        )
    train, of_dev = normal.select("train"), Manifest(tuple(dict.fromkeys((*normal.select("dev").photos, *labelled))))
    groups = normal_groups(Manifest((*train.photos, *of_dev.photos)))
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        reader = Reader(backbone, transform, cache, groups, workers, store)
        advance = progress("Reading photos", len(train) + len(of_dev))
        learned, _ = reader.read(train, advance, views=views_of(copy.deepcopy(config), len(train)))
        dev, _ = reader.read(of_dev, advance)
    photos = {index: reader.photos[index] for index in dev.indices}
    judged = tuple(index for index, photo in photos.items() if photo.is_anomalous is not None)
    is_anomalous = tuple(bool(photos[index].is_anomalous) for index in judged)
    if not learned or len(set(is_anomalous)) < 2:
        raise ManifestError("Of the normal photos of train, or of those labelled in dev, none could be read.")
    calibrating = tuple(index for index, photo in photos.items() if photo.is_anomalous is not True)
    links, num_unreadable = tuple(reader.links), len(reader.unreadable)
    return Reading(links, learned.indices, judged, calibrating, is_anomalous, num_unreadable=num_unreadable)


def _read_copies(
    config: Config,
    normal: Manifest,
    backbone: Backbone,
    transform: Transform,
    store: FeatureStore,
    workers: int,
    progress: Progress,
) -> Reading:
    seed, groups = config["fit"]["seed"], normal_groups(normal)
    drawn = draw_photos(normal, MAX_COPIED, seed=seed)
    advance = progress("Altering photos", len(drawn))

    def fill(records: Records) -> tuple[Any, Sequence[bytes]]:
        options: dict[str, Any] = {"seed": seed, "workers": workers, "advance": advance}
        read = alter_all(backbone, transform, drawn, groups, lambda maps, _: records.append(maps), **options)
        return [drawn.index(photo) for photo in read], []

    names = [f"copies {seed}", *(name_of(photo, groups) for photo in drawn)]
    digests = [digest_file(photo.path) for photo in drawn]
    key = features_key(backbone, size=transform.size, digests=digests, views=names)
    stored = store.open(key, fill, dtype=getattr(torch, backbone.precision))
    owners = [groups[drawn[number]] for number in stored.notes for _ in range(STRIDE)]
    stored.close()
    links = (Link(key, {"groups": owners}),)
    return Reading(links, tuple(range(len(owners))), seed=seed, num_unreadable=len(drawn) - len(owners) // STRIDE)


@contextmanager
def open_judge(reading: Reading, store: FeatureStore, *, budget_bytes: int) -> Iterator[Judge]:
    """A judge of what was read, in this process or another one.

    Args:
        reading: What ``read_photos`` gave.
        store: Where the features are.
        budget_bytes: What the process may have while it fits.

    Raises:
        InlierError: The store no longer has them.
        ManifestError: Photos to be copied are of fewer than two groups.
    """
    with FeatureCache(dtype=torch.float32) as cache:
        for link in reading.links:
            cache.link(store.find(link.key), **link.about)
        learned = FeatureSet(cache, reading.learned)
        base, unreadable = _base_bytes(), reading.num_unreadable
        if reading.is_anomalous is None:
            yield Judge(learned, budget_bytes, base, unreadable, copies=Copies.of(learned, seed=reading.seed))
            return
        flags = np.array(reading.is_anomalous, dtype=np.bool_)
        labelled = Labelled(FeatureSet(cache, reading.judged), flags, FeatureSet(cache, reading.calibrating))
        yield Judge(learned, budget_bytes, base, unreadable, labelled=labelled)


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
