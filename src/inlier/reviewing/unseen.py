"""Scores of photos by detectors that have not seen their groups, of those that a model learned from too."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inlier.build import build_detector
from inlier.data.manifest import Manifest, Photo, digest_file
from inlier.data.splits import group_folds
from inlier.data.views import hand_held_views
from inlier.detectors.crossfit import score_photos
from inlier.detectors.protocol import Detector
from inlier.errors import ConfigError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.store import FeatureStore
from inlier.model import Model, References
from inlier.outputs import as_text, number_of
from inlier.reading import Reader, normal_groups
from inlier.workflow import Progress

NUM_FOLDS, NUM_FOLDS_OF_TRAINED = 5, 3
"""Folds by group of the photos that a model learned from; fewer where each costs minutes."""

KNOWN_ENOUGH = 0.8
"""Share of the photos that a model learned from which must be at hand, before others stand in for it on folds."""


@dataclass(frozen=True, eq=False)
class Looked:
    """The photos of a data set that could be read, with the features that a model sees.

    Attributes:
        reader: Knows of each record of its cache the photo.
        train: Those of train, normal or not, each followed by the altered copies that the model would learn.
        references: How a report shows these.
        dev: Those of dev.
        test: Those of test.
    """

    reader: Reader
    train: FeatureSet
    references: References
    dev: FeatureSet
    test: FeatureSet

    @property
    def originals(self) -> FeatureSet:
        """All photos, without altered copies: those of train, of dev and of test."""
        train = self.train.originals()
        return FeatureSet(train.cache, train.indices + self.dev.indices + self.test.indices)

    @cached_property
    def photos(self) -> tuple[Photo, ...]:
        """The photo of each of the originals."""
        return tuple(self.photo(index) for index in self.originals.indices)

    @cached_property
    def digests(self) -> dict[Photo, str]:
        """SHA-256 of the bytes of each photo."""
        return {photo: digest_file(photo.path) for photo in self.photos}

    def photo(self, index: int) -> Photo:
        """The photo that a record of the cache shows."""
        return self.reader.photos[index]

    def normal(self, features: FeatureSet) -> list[int]:
        """The places among these of photos that are not known to be anomalous."""
        return [place for place, index in enumerate(features.indices) if self.photo(index).is_anomalous is not True]


def look(
    model: Model,
    data: Manifest,
    cache: FeatureCache,
    *,
    store: FeatureStore | None,
    workers: int,
    progress: Progress,
) -> Looked:
    """Reads all photos, whatever their labels: so that a store that has them serves after any change of labels.

    Args:
        model: Whose backbone looks.
        data: Which photos.
        cache: Where features go, if no store has them.
        store: Where they may be already, and are kept; None: nowhere.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        ConfigError: The model was fitted with a background, which is not known here.
    """
    if num := model.facts.get("num_background"):
        raise ConfigError(
            f"The model was fitted with a background of {number_of(num, 'photo')}, without which it cannot be fitted "
            "again here; fit one without --background, or correct DATA and use inlier fit."
        )
    groups = normal_groups(data)
    reader = Reader(model.backbone, model.transform, cache, groups, workers, store)
    views = hand_held_views(int(model.config["fit"]["augment"] or 0))
    advance = progress("Reading photos", len(data))
    train, references = reader.read(data.select("train"), advance, views=views)
    dev, _ = reader.read(data.select("dev"), advance)
    test, _ = reader.read(data.select("test"), advance)
    return Looked(reader, train, references, dev, test)


@dataclass(frozen=True, eq=False)
class Unseen:
    """Scores of photos by detectors that have not seen them.

    Attributes:
        scores: Shape (N,), of ``Looked.originals``, higher is more anomalous.
        is_seen: Shape (N,): whether the model has learned from the photo's group.
        lacks_region: Shape (N,): whether a region was looked for in vain.
        notes: Sentences on photos whose score is that of a detector which has seen them after all.
    """

    scores: NDArray[np.float64]
    is_seen: NDArray[np.bool_]
    lacks_region: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


def score_unseen(model: Model, looked: Looked, *, progress: Progress) -> Unseen:
    """Scores every photo by a detector that has not learned from its group.

    That is the model's own, where it has not. Else the photos that the model learned from are cut into folds by group,
    and a detector of its configuration learns from the other folds (Vovk, 2015), with all photos of these groups left
    out that are to be judged by it, anomalous ones too. The model's calibration was mostly made the same way.

    Args:
        model: Fitted.
        looked: Photos, read with its backbone.
        progress: Told how far it is.
    """
    originals = looked.originals
    keys = _keys(looked)  # (N,), what must not be torn apart
    is_learned = _is_learned(model, looked)
    is_seen = np.isin(keys, np.unique(keys[is_learned]))
    scores, lacks_region = np.zeros(len(originals)), np.zeros(len(originals), dtype=np.bool_)

    def judge(detector: Detector, places: NDArray[np.int64]) -> None:
        found = score_photos(detector, originals.select(places.tolist()))
        scores[places], lacks_region[places] = found.values, found.lacks_region

    judge(model.detector, np.flatnonzero(~is_seen))
    if not is_seen.any():
        return Unseen(scores, is_seen, lacks_region)
    seen = np.flatnonzero(is_seen)
    if note := _why_not(model, looked, keys[is_learned], is_learned):
        judge(model.detector, seen)
        return Unseen(scores, is_seen, lacks_region, (note,))
    num_folds = min(NUM_FOLDS_OF_TRAINED if model.detector.is_trained else NUM_FOLDS, len(set(keys[seen].tolist())))
    folds = group_folds(keys[seen].tolist(), num_folds=num_folds, seed=model.config["fit"]["seed"])
    fold_of_key = dict(zip(keys[seen].tolist(), folds.tolist(), strict=True))
    learned = {originals.indices[place] for place in np.flatnonzero(is_learned).tolist()}
    fold_of_index = {originals.indices[place]: fold_of_key[keys[place]] for place in seen.tolist()}
    views = _with_views(looked.train, learned)  # (place in train, index of the photo)
    advance = progress("Judging photos by others", num_folds)
    for fold in range(num_folds):
        detector = build_detector(model.config)
        detector.fit(looked.train.select([place for place, index in views if fold_of_index[index] != fold]))
        judge(detector, seen[folds == fold])
        advance(1)
    return Unseen(scores, is_seen, lacks_region)


def _keys(looked: Looked) -> NDArray[np.str_]:
    """Of each original its group; files of the same bytes have one and the same."""
    first: dict[str, str] = {}
    keys = []
    for photo, group in zip(looked.photos, looked.originals.groups, strict=True):
        keys.append(first.setdefault(looked.digests[photo], group))
    return np.array(keys, dtype=np.str_)


def _is_learned(model: Model, looked: Looked) -> NDArray[np.bool_]:
    """Which of the originals are photos of train that the model learned from: by their bytes, or else their names."""
    digests, names = {*model.references.digests}, {*model.references.names}
    return np.array(
        [
            photo.split == "train" and (looked.digests[photo] in digests if digests else as_text(photo.path) in names)
            for photo in looked.photos
        ],
        dtype=np.bool_,
    )


def _why_not(model: Model, looked: Looked, keys: NDArray[np.str_], is_learned: NDArray[np.bool_]) -> str:
    """Why no others can stand in for the model; "" if they can."""
    num_learned = int(model.facts.get("num_fitted", len(model.references)))
    num_found = int(is_learned.sum())
    judged = "they are judged by the model itself, to which they look more normal than new photos would."
    if num_found < KNOWN_ENOUGH * num_learned:
        return (
            f"The data hold {num_found} of the {num_learned} photos that the model learned from, too few to fit others "
            f"in its place; {judged}"
        )
    if len(set(keys.tolist())) < 2:
        return f"All photos that the model learned from are of one group, so that no other can judge them; {judged}"
    return ""


def _with_views(train: FeatureSet, learned: set[int]) -> list[tuple[int, int]]:
    """Places in train of these photos and their altered copies, each with the index of its photo."""
    found, owner = [], -1
    for place, (index, is_view) in enumerate(zip(train.indices, train.is_view, strict=True)):
        owner = owner if is_view else index
        if owner in learned:
            found.append((place, owner))
    return found
