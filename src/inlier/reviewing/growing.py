"""What reviewers decided, learned by a model whose old photos are not at hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from inlier.data.manifest import Manifest, digest_file
from inlier.detectors.protocol import can_merge
from inlier.errors import ConfigError
from inlier.model import Model
from inlier.outputs import as_text, number_of
from inlier.reviewing.effective import Changes
from inlier.updating import update
from inlier.workflow import Progress

_LEAVING = "photos that leave by a review"


def learned_photos_gone(model: Model, data: Manifest) -> int:
    """How many photos that the model learned from are not in the data, by their bytes; by name in older models."""
    references = model.references
    each = 1 + int(model.config["fit"]["augment"] or 0)  # a photo stands before its altered copies
    if references.has_groups:
        there = Counter(digest_file(photo.path) for photo in data.photos)
        return sum((Counter(references.digests[::each]) - there).values())
    names = {as_text(photo.path) for photo in data.photos}
    return sum(name not in names for name in references.names[::each])


def update_without(
    model: Model, *, data: Manifest, now: Manifest, changes: Changes, workers: int, progress: Progress
) -> Model:
    """The model after it learned the photos that joined and forgot those that left, one by one and not by group.

    Scores of a group of which a photo leaves go from the calibration, as nobody knows which of them was that photo's.

    Args:
        model: It stays as it is.
        data: The photos that are at hand, as they were labelled.
        now: The same, as corrected.
        changes: What the reviewers changed.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        ConfigError: The detector learns from all photos at once, or cannot forget.
    """
    name = model.config["fit"]["detector"]
    if not can_merge(model.detector):
        raise ConfigError(
            f"{number_of(learned_photos_gone(model, data), 'photo')} that the model learned from are not in the data, "
            f"and {name} learns from all photos at once: give all of them with --data, or fit anew with inlier fit."
        )
    marked, has_leaving = _mark(model, data, changes)
    if not has_leaving:
        return update(marked, now, workers=workers, progress=progress)[0]
    # Those that leave stand among the normal ones, so that a detector that must see them again does.
    known, of_left = {*marked.references.digests}, {photo.path for photo in changes.left}
    again = {photo.path for photo in changes.left if digest_file(photo.path) in known}
    shown = [replace(photo, is_anomalous=False) if photo.path in again else photo for photo in now.photos]
    shown = [photo for photo in shown if photo.path in again or photo.path not in of_left]
    return update(marked, Manifest(tuple(shown)), remove=[_LEAVING], workers=workers, progress=progress)[0]


def _mark(model: Model, data: Manifest, changes: Changes) -> tuple[Model, bool]:
    """The model with photos that leave in a group of their own; and whether it knows any of them."""
    references, calibration = model.references, model.calibration
    if not references.has_groups:
        raise ConfigError(
            "The model was fitted by an earlier version of inlier and does not say which photos it learned from; fit "
            "it anew."
        )
    leaving = {photo.path for photo in (*changes.left, *changes.dev_left)}
    digests = {digest_file(path) for path in leaving}
    is_leaving = [digest in digests for digest in references.digests]
    torn = {group for group, leaves in zip(references.groups, is_leaving, strict=True) if leaves}
    named = zip(data.photos, data.groups, strict=True)
    torn |= {as_text(group) for photo, group in named if photo.path in leaving and photo.split == "dev"}
    groups = tuple(_LEAVING if leaves else group for group, leaves in zip(references.groups, is_leaving, strict=True))
    of_calibration = [_LEAVING if group in torn else group for group in calibration.groups.tolist()]
    marked = replace(
        model,
        references=replace(references, groups=groups),
        calibration=replace(calibration, groups=np.array(of_calibration, dtype=np.str_)),
    )
    return marked, _LEAVING in {*groups, *of_calibration}
