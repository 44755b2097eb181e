"""fit_in_shards(): one model from photos that are read and learned part by part, here or on other machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.build import backbone_facts, build_backbone, build_detector, resolve
from inlier.config import Config
from inlier.data.manifest import Manifest, Photo
from inlier.data.splits import group_folds, hold_out
from inlier.data.transforms import Transform
from inlier.data.views import View, hand_held_views
from inlier.decision.calibration import Calibration
from inlier.detectors.crossfit import Scores, score_photos
from inlier.detectors.protocol import Mergeable, mergeable
from inlier.errors import ConfigError, ManifestError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.runtime import Runtime
from inlier.fitting import ENOUGH_DEV
from inlier.model import Model, References, package_versions
from inlier.reading import MAX_THUMBNAILS, Reader, normal_groups
from inlier.workflow import Progress, no_progress, normal_photos, views_of

HELD_OUT_RATIO = 0.2
"""Share of the training photos that calibrate and are not learned from, where photos of dev do not suffice."""

Unreadable = tuple[tuple[Photo, str], ...]


@dataclass(frozen=True)
class Shard:
    """Some normal photos, and all that another process must know to learn them or to score them.

    Attributes:
        config: Resolved.
        photos: Which photos.
        groups: Of each what must not be torn apart.
        device: Where the backbone runs.
        workers: Threads that decode.
        state: What a detector has learned that is to score these photos; None: one is to learn them.
    """

    config: Config
    photos: tuple[Photo, ...]
    groups: tuple[str, ...]
    device: str
    workers: int
    state: dict[str, NDArray[np.generic]] | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """What came of a shard.

    Attributes:
        state: What a detector has learned from it; None if no photo could be read, or if it was scored.
        references: The photos that it learned.
        scores: Of the photos, if these were to be scored.
        groups: Of each score.
        unreadable: Photos that could not be read, each with the reason.
        runs_in: What computed the features; None if there are none.
    """

    state: dict[str, NDArray[np.generic]] | None
    references: References
    scores: Scores | None
    groups: tuple[str, ...]
    unreadable: Unreadable
    runs_in: Runtime | None


MapShards = Callable[[Callable[[Shard], Part], Iterable[Shard]], Iterable[Part]]
"""Applies a function to each shard, and gives what comes of them in the order of the shards."""


def fit_in_shards(
    config: Mapping[str, Mapping[str, object]],
    data: Manifest,
    *,
    num_shards: int,
    map_shards: MapShards = map,
    layers: Sequence[int] | None = None,
    device: str = "cpu",
    workers: int = 2,
    progress: Progress = no_progress,
) -> tuple[Model, list[tuple[Photo, str]]]:
    """Fits one detector for each shard of the normal photos of ``train``, and merges them in a tree.

    Whole groups go to a shard. Each keeps to the memory budget, and so does the merging. A fifth of the groups is held
    out and calibrates, beside the normal photos of ``dev``; if these are very many, they calibrate alone. The model
    depends on the number of shards and not on where they run. It names no components.

    Args:
        config: Sections of keywords; what is left out takes its default.
        data: Photos; anomalous ones and those of ``test`` are not looked at.
        num_shards: Parts that the photos to learn from are split into; the photos that calibrate are scored in as many.
        map_shards: Like ``map``, of picklable functions and arguments, in processes or on machines of its own.
        layers: Stages of the backbone for every detector involved; None: those of the configuration.
        device: Where the backbone runs.
        workers: Threads that decode, for each shard.
        progress: Told how far it is.

    Returns:
        The model, and the photos that could not be read, each with the reason.

    Raises:
        ConfigError: The configuration cannot be used, its detector learns from all photos at once only, or there are
            fewer groups than shards.
        ManifestError: There are no normal photos to learn from.
    """
    resolved = resolve(config, device=device, layers=layers)
    name = resolved["fit"]["detector"]
    detector = mergeable(build_detector(resolved), name=name)
    normal = normal_photos(data)
    del resolved["components"]
    views = views_of(resolved, len(normal.select("train")))
    learned, calibrates = _apart(normal, num_shards, seed=resolved["fit"]["seed"])
    empty = Shard(resolved, (), (), device, workers)
    shards = [*_split(empty, normal, learned, num_shards, seed=resolved["fit"]["seed"])]
    advance = progress("Learning", len(learned))
    runtimes: set[Runtime] = set()
    parts = _told(map_shards(run_shard, shards), shards, advance, runtimes)
    unreadable: list[tuple[Photo, str]] = []
    references = _merge_all(detector, parts, resolved, unreadable)
    if not len(references):
        raise ManifestError(f"None of the photos to learn from could be read, the first because: {unreadable[0][1]}.")
    if "torch" in runtimes:  # somewhere OpenVINO could not compute what was learned from
        resolved["backbone"]["runtime"] = "torch"
    scoring = replace(empty, config=resolved, state=_to_arrays(detector))
    shards = [*_split(scoring, normal, calibrates, num_shards, seed=resolved["fit"]["seed"])]
    advance = progress("Calibrating", len(calibrates))
    calibration = _calibrate(_told(map_shards(run_shard, shards), shards, advance, runtimes), unreadable)
    facts = _facts(normal, len(references), 1 + len(views)) | {
        "num_calibration": len(calibration.normal_scores),
        "calibration": _method(normal, calibrates),
        "num_shards": num_shards,
        "num_unreadable": len(unreadable),
        "backbone": backbone_facts(resolved),
    }
    backbone = build_backbone(resolved, detector.layers).to(device)
    return Model(resolved, backbone, detector, calibration, references, facts), unreadable


def run_shard(shard: Shard) -> Part:
    """Learns the shard's photos, or scores them; in any process that has ``inlier`` and reaches the photos."""
    detector = mergeable(build_detector(shard.config), name=shard.config["fit"]["detector"])
    backbone = build_backbone(shard.config, detector.layers).to(shard.device)
    transform = Transform(shard.config["input"]["size"], backbone.mean, backbone.std)
    views: tuple[View, ...] = hand_held_views(shard.config["fit"]["augment"]) if shard.state is None else ()
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        groups = dict(zip(shard.photos, shard.groups, strict=True))
        reader = Reader(backbone, transform, cache, groups, shard.workers)
        features, references = reader.read(Manifest(shard.photos), lambda steps: None, views=views)
        if shard.state is not None:
            scores = score_photos(_with(detector, shard.state), features)
            groups_of = tuple(features.groups)
            return Part(None, References((), ()), scores, groups_of, tuple(reader.unreadable), backbone.runs_in)
        learned = _learned(detector, features)
        return Part(learned, references, None, (), tuple(reader.unreadable), backbone.runs_in)


def _learned(detector: Mergeable, features: FeatureSet) -> dict[str, NDArray[np.generic]] | None:
    return _to_arrays(detector.fit_part(features)) if features else None


def _apart(normal: Manifest, num_shards: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Places of the photos to learn from, and of those that calibrate: whole groups of train, and dev."""
    train = [place for place, photo in enumerate(normal.photos) if photo.split == "train"]
    dev = [place for place, photo in enumerate(normal.photos) if photo.split == "dev"]
    groups = [normal.groups[place] for place in train]
    if num_shards < 1:
        raise ConfigError(f"The number of shards must be at least 1, got {num_shards}.")
    is_held_out = np.zeros(len(train), dtype=np.bool_)
    if len(dev) < ENOUGH_DEV and len(set(groups)) > 1:
        is_held_out = hold_out(groups, ratio=HELD_OUT_RATIO, seed=seed)
    num_groups = len({group for group, is_out in zip(groups, is_held_out, strict=True) if not is_out})
    if num_shards > num_groups:
        raise ConfigError(f"There can be no more shards than groups to learn from, {num_groups}, got {num_shards}.")
    learned = [place for place, is_out in zip(train, is_held_out, strict=True) if not is_out]
    return learned, [place for place, is_out in zip(train, is_held_out, strict=True) if is_out] + dev


def _split(template: Shard, normal: Manifest, places: Sequence[int], num_shards: int, *, seed: int) -> Iterator[Shard]:
    """The photos at these places in shards of about equal size, whole groups each; no more shards than groups."""
    group_of = normal_groups(normal)
    photos = sorted((normal.photos[place] for place in places), key=lambda photo: str(photo.path))
    groups = [group_of[photo] for photo in photos]
    num_shards = min(num_shards, len(set(groups)))
    folds = group_folds(groups, num_folds=num_shards, seed=seed) if num_shards > 1 else np.zeros(len(groups), int)
    for shard in range(num_shards):
        members = np.flatnonzero(folds == shard)
        yield replace(template, photos=tuple(photos[k] for k in members), groups=tuple(groups[k] for k in members))


def _told(
    parts: Iterable[Part], shards: Sequence[Shard], advance: Callable[[int], None], runtimes: set[Runtime]
) -> Iterator[Part]:
    """The parts as they come; adds what computed their features to ``runtimes``."""
    for part, shard in zip(parts, shards, strict=True):
        advance(len(shard.photos))
        if part.runs_in is not None:
            runtimes.add(part.runs_in)
        yield part


def _merge_all(
    detector: Mergeable, parts: Iterable[Part], config: Config, unreadable: list[tuple[Photo, str]]
) -> References:
    """Merges neighbours of the same height, as they come, into the detector; what waits grows with the logarithm."""
    waiting: list[tuple[int, Mergeable, References]] = []

    def merge_last() -> None:
        (height, one, known), (_, other, further) = waiting[-2:]
        waiting[-2:] = [(height + 1, one.merge(other, num_photos=len(known)), known + further)]

    for part in parts:
        unreadable.extend(part.unreadable)
        if part.state is None:
            continue
        waiting.append((0, _with(mergeable(build_detector(config), name="a shard"), part.state), part.references))
        while len(waiting) > 1 and waiting[-1][0] == waiting[-2][0]:
            merge_last()
    while len(waiting) > 1:
        merge_last()
    if not waiting:
        return References((), ())
    _, merged, references = waiting[0]
    detector.load_state_dict(merged.finish().state_dict())
    return references.shortened(MAX_THUMBNAILS)


def _calibrate(parts: Iterable[Part], unreadable: list[tuple[Photo, str]]) -> Calibration:
    values, maxima, groups = [np.zeros(0)], [np.zeros(0)], list[str]()
    for part in parts:
        unreadable.extend(part.unreadable)
        if part.scores is not None:
            values.append(part.scores.values.astype(np.float64))
            maxima.append(part.scores.map_maxima.astype(np.float64))
            groups.extend(part.groups)
    return Calibration(np.concatenate(values), np.array(groups, dtype=np.str_), np.concatenate(maxima))


def _facts(normal: Manifest, num_references: int, each: int) -> dict[str, Any]:
    """What every model says of the photos that it has learned, each in so many copies."""
    return {
        "data_fingerprint": normal.fingerprint(),
        "num_fitted": num_references // each,
        "num_views": num_references - num_references // each,
        "background_fingerprint": None,
        "num_background": 0,
        "components": [],
        "versions": package_versions(),
    }


def _method(normal: Manifest, calibrates: Sequence[int]) -> str:
    """How the calibration was got, as one phrase."""
    splits = {normal.photos[place].split for place in calibrates}
    if not splits:
        return "no photos to calibrate on"
    if splits == {"dev"}:
        return "scores of the dev photos"
    return "scores of held-out photos" + " and scores of the dev photos" * ("dev" in splits)


def _to_arrays(detector: Mergeable) -> dict[str, NDArray[np.generic]]:
    """Its state in what every process can be sent."""
    return {name: tensor.numpy() for name, tensor in detector.state_dict().items()}


def _with(detector: Mergeable, state: Mapping[str, NDArray[np.generic]]) -> Mergeable:
    return detector.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
