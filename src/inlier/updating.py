"""update(): a model learns further photos without the old ones, and forgets groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.build import build_detector
from inlier.data.manifest import Manifest, Photo, digest_file
from inlier.data.splits import group_folds
from inlier.data.tables import first_five
from inlier.data.views import hand_held_views
from inlier.decision.calibration import Calibration
from inlier.detectors.crossfit import Scores, score_photos
from inlier.detectors.protocol import Mergeable, mergeable
from inlier.errors import ConfigError, ManifestError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.model import Model, References, package_versions
from inlier.outputs import as_text
from inlier.reading import MAX_THUMBNAILS, Reader
from inlier.workflow import Progress, no_progress

NUM_FOLDS = 3
"""Parts of the new photos; each is scored by a detector that knows the old photos and the other parts."""

_JOINED = "; further photos scored by the model before the update, joined with the other folds of the new photos"


@dataclass(frozen=True, eq=False)
class _Plan:
    """What an update is to do.

    Attributes:
        added: New normal photos to learn from.
        dev: New normal photos to calibrate on.
        again: The photos to be forgotten, as far as ``data`` holds them.
        forgotten: Numbers of the references to be forgotten.
        names: The groups that go.
        num_known: Photos that the model has learned already.
        groups: Of each normal photo of ``data`` what must not be torn apart.
    """

    added: Manifest
    dev: Manifest
    again: Manifest
    forgotten: tuple[int, ...]
    names: tuple[str, ...]
    num_known: int
    groups: dict[Photo, str]


def update(
    model: Model,
    data: Manifest,
    *,
    remove: Sequence[str] = (),
    workers: int = 2,
    progress: Progress = no_progress,
) -> tuple[Model, list[tuple[Photo, str]]]:
    """Learns the new normal photos of ``train``, and forgets groups, without the photos learned before.

    Backbone and configuration stay those of the model, and so do the names of components. A photo is known by its
    bytes, and not learned twice. The calibration keeps its scores but for those of the groups that go. New photos join
    it if neither their group nor the photo has been seen: those of ``train`` scored in a few folds by the old detector
    that has learned the other folds too, those of ``dev`` by the new one.

    Args:
        model: Where its backbone shall run. It stays as it is.
        data: Photos; anomalous ones and those of ``test`` are not looked at. Detectors that forget photos only when
            they see them again find here those that are to go too.
        remove: Names of groups to forget. A photo without a group is one of its own: ``photo`` and its path.
        workers: Threads that decode.
        progress: Told how far it is.

    Returns:
        The new model, and the photos that could not be read, each with the reason.

    Raises:
        ConfigError: The detector can neither add nor remove photos, or a group is not known.
        ManifestError: There is nothing to do, or what there is cannot be read.
        ModelError: The model is of an earlier version, which does not say what is asked for.
    """
    known = mergeable(model.detector, name=model.config["fit"]["detector"])
    plan = _plan(model, data, tuple(dict.fromkeys(remove)))
    views = hand_held_views(_num_views(model))
    numbers = sorted({*range(len(model.references))} - {*plan.forgotten})
    with FeatureCache(dtype=getattr(torch, model.backbone.precision)) as cache:
        reader = Reader(model.backbone, model.transform, cache, plan.groups, workers)
        again = Manifest(()) if known.forgets_numbers else plan.again
        advance = progress("Reading photos", len(again) + len(plan.added) + len(plan.dev))
        of_again, _ = reader.read(again, advance, views=views)
        base = _without(model, plan, of_again)
        of_new, references = reader.read(plan.added, advance, views=views)
        of_dev, _ = reader.read(plan.dev, advance)
        if not (of_new or of_dev or remove):
            raise ManifestError(f"None of the new photos could be read, the first because: {reader.unreadable[0][1]}.")
        learning = _Learning(model, base, len(numbers), of_new)
        is_new = _is_new(model, plan, of_new, reader)
        scores, groups = learning.cross_scores(is_new, progress=progress)
        detector = learning.learn(of_new)
        of_dev_scores = score_photos(detector, of_dev)
    calibration = _joined(model.calibration, plan.names, [(scores, groups), (of_dev_scores, of_dev.groups)])
    references = (model.references.select(numbers) + references).shortened(MAX_THUMBNAILS)
    facts = _facts(model, plan, references, calibration) | {
        "data_fingerprint": Manifest(tuple(plan.groups)).fingerprint(),
        "num_unreadable": len(reader.unreadable),
    }
    updated = replace(model, detector=detector, calibration=calibration, references=references, facts=facts)
    return updated, reader.unreadable


@dataclass(frozen=True, eq=False)
class _Learning:
    """What is known before the new photos, and how it learns them.

    Attributes:
        model: The model to be updated.
        base: State of its detector, without what was forgotten.
        num_photos: How many photos that one has learned.
        new: The new photos and their altered copies.
    """

    model: Model
    base: Mergeable
    num_photos: int
    new: FeatureSet

    def learn(self, photos: FeatureSet) -> Mergeable:
        """A detector that has learned these too."""
        detector = _copy(self.model, self.base)
        if photos:
            part = _unfitted(self.model).fit_part(photos)
            detector.merge(part, num_photos=self.num_photos).finish()
        return detector

    def cross_scores(self, is_new: NDArray[np.bool_], *, progress: Progress) -> tuple[Scores, list[str]]:
        """Scores of the photos that calibrate, by detectors that have not seen their groups; and these groups."""
        asked = self.new.select(np.flatnonzero(is_new).tolist())
        num_folds = min(NUM_FOLDS, len(set(asked.groups)))
        folds = group_folds(asked.groups, num_folds=num_folds, seed=0) if num_folds > 1 else np.zeros(len(asked), int)
        advance = progress("Learning", num_folds)
        parts: list[Scores] = []
        groups: list[str] = []
        for fold in range(num_folds):
            held_out = asked.select(np.flatnonzero(folds == fold).tolist())
            rest = [place for place, group in enumerate(self.new.groups) if group not in set(held_out.groups)]
            parts.append(score_photos(self.learn(self.new.select(rest)), held_out))
            groups += held_out.groups
            advance(1)
        values = [part.values for part in parts]
        maxima = [part.map_maxima for part in parts]
        empty = np.zeros(0, np.float32)
        lacking = np.concatenate([np.zeros(0, np.bool_), *(part.lacks_region for part in parts)])
        return Scores(np.concatenate([empty, *values]), np.concatenate([empty, *maxima]), lacking), groups


def _plan(model: Model, data: Manifest, remove: tuple[str, ...]) -> _Plan:
    normal = Manifest(tuple(photo for photo in data.normal().photos if photo.split != "test"))
    references = model.references
    known, names = {*references.digests}, {*references.names}
    seen = {*references.groups, *model.calibration.groups.tolist()}
    forgotten = _numbers_of(model, remove)
    groups = {photo: as_text(photo.group or f"photo {photo.path}") for photo in normal.photos}
    added, dev, again, num_known = [], [], [], 0
    going = Counter(references.digests[number] for number in forgotten[:: 1 + _num_views(model)])  # a photo, its views
    for photo, group in zip(normal.photos, normal.groups, strict=True):
        digest = digest_file(photo.path)
        if digest in going:
            again += [photo] * (going[digest] > 0)
            going[digest] -= 1
        elif digest in known or (not known and as_text(str(photo.path)) in names):
            num_known += 1
        elif as_text(photo.group) in remove:
            continue
        elif photo.split == "train":
            added.append(photo)
        elif not seen & {as_text(group), groups[photo]}:
            dev.append(photo)
    if not (added or dev or remove):
        raise ManifestError(f"There is nothing to add: the model knows all {num_known} normal photos of train already.")
    added_, dev_, again_ = (Manifest(tuple(photos)) for photos in (added, dev, again))
    return _Plan(added_, dev_, again_, tuple(forgotten), remove, num_known, groups)


def _numbers_of(model: Model, remove: Sequence[str]) -> list[int]:
    """Numbers of the references of these groups."""
    references = model.references
    if remove and not references.has_groups:
        raise ConfigError(
            "The model was fitted by an earlier version of inlier and does not say which group its photos are of; fit "
            "it anew to remove groups."
        )
    groups = {*references.groups, *model.calibration.groups.tolist()}
    if unknown := [name for name in remove if name not in groups]:
        raise ConfigError(f"The model knows no group {first_five(unknown)}; it has {first_five(sorted(groups))}.")
    return [number for number, group in enumerate(references.groups) if group in remove]


def _without(model: Model, plan: _Plan, of_again: FeatureSet) -> Mergeable:
    """The model's detector without the photos to be forgotten."""
    detector = _copy(model, model.detector)
    if not plan.forgotten:
        return detector
    if not detector.forgets_numbers and len(of_again) < len(plan.forgotten):
        raise ConfigError(
            f"{model.config['fit']['detector']} forgets photos only when it sees them again: DATA must hold all photos "
            f"of the groups to be removed as they were learned, and it has {len(of_again)} of {len(plan.forgotten)}."
        )
    try:
        return detector.remove(plan.forgotten, of_again or None)
    except ValueError as error:
        raise ConfigError(f"These photos cannot be removed: {error}") from error


def _copy(model: Model, detector: Any) -> Mergeable:
    """Another detector that knows the same; what it learns does not change the first one."""
    return _unfitted(model).load_state_dict(detector.state_dict())


def _unfitted(model: Model) -> Mergeable:
    return mergeable(build_detector(model.config), name=model.config["fit"]["detector"])


def _is_new(model: Model, plan: _Plan, photos: FeatureSet, reader: Reader) -> NDArray[np.bool_]:
    """Which of the new photos calibrate: those that are no altered copies, and whose group was never seen."""
    seen = {*model.references.groups, *model.calibration.groups.tolist()}
    told = model.references.has_groups
    return np.array(
        [
            not is_view and group not in seen and (told or not reader.photos[index].group)
            for index, group, is_view in zip(photos.indices, photos.groups, photos.is_view, strict=True)
        ],
        dtype=np.bool_,
    )


def _joined(old: Calibration, gone: Sequence[str], new: Sequence[tuple[Scores, list[str]]]) -> Calibration:
    """The old scores but for those of groups that go, and the new ones; maxima of maps name no group, and stay."""
    is_kept = ~np.isin(old.groups, list(gone))
    return Calibration(
        np.concatenate([old.normal_scores[is_kept], *(scores.values for scores, _ in new)]),
        np.array([*old.groups[is_kept].tolist(), *(group for _, groups in new for group in groups)], dtype=np.str_),
        np.concatenate([old.map_maxima, *(scores.map_maxima for scores, _ in new)]),
    )


def _num_views(model: Model) -> int:
    """Altered copies that it learns of each photo."""
    return int(model.config["fit"]["augment"] or 0)


def _facts(model: Model, plan: _Plan, references: References, calibration: Calibration) -> dict[str, Any]:
    each = 1 + _num_views(model)
    num_fitted, num_removed = len(references) // each, len(plan.forgotten) // each
    method = str(model.facts["calibration"]).removesuffix(_JOINED)
    grew = len(calibration.normal_scores) > int((~np.isin(model.calibration.groups, plan.names)).sum())
    return model.facts | {
        "parent": model.identity,
        "parent_fingerprint": model.facts.get("data_fingerprint"),
        "num_fitted": num_fitted,
        "num_views": len(references) - num_fitted,
        "num_added": num_fitted + num_removed - len(model.references) // each,
        "num_removed": num_removed,
        "num_known": plan.num_known,
        "num_calibration": len(calibration.normal_scores),
        "calibration": method + _JOINED * (grew or method != model.facts["calibration"]),
        "versions": package_versions(),
    }
