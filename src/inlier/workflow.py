"""The verbs that everything above calls: fit a model, inspect photos with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from inlier.build import backbone_facts, build_backbone, build_components, build_detector, resolve
from inlier.config import Config
from inlier.data.loader import Batch, map_batches
from inlier.data.manifest import Manifest, Photo
from inlier.data.remote import real_path
from inlier.data.views import View, hand_held_views
from inlier.detectors.components import component_names
from inlier.errors import ConfigError, ManifestError
from inlier.features.backbone import MAX_STAGES, Backbone, all_layers
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.store import FeatureStore
from inlier.fitting import fit_and_calibrate, num_steps
from inlier.model import Model, package_versions, transform_of
from inlier.outputs import as_text
from inlier.reading import Reader, has_components, normal_groups
from inlier.records import Inspection, Verdict

Result = TypeVar("Result")

Progress = Callable[[str, int], Callable[[int], None]]
"""Given a task and its number of steps, returns what is to be told of steps done."""


FEW_PHOTOS = 20
"""Normal photos up to which each is learned from in altered copies too, unless the user says otherwise."""

VIEWS_OF_FEW = 7
"""Such copies of each photo: turned, darker, brighter, nearer, and two of these at once."""

NO_REGION = "Its region was not found; the whole photo was scored, which is no reason to accept it."
"""Why a photo is uncertain at best, where the model looks at regions."""

MAX_BACKGROUND = 2000
"""Photos of a background that are looked at: plenty for a mean and a covariance."""


def no_progress(task: str, total: int) -> Callable[[int], None]:
    """Tells nobody."""
    return lambda steps: None


def fit(
    config: Mapping[str, Mapping[str, Any]],
    data: Manifest,
    *,
    background: Manifest | None = None,
    layers: Sequence[int] | None = None,
    device: str = "cpu",
    workers: int = 2,
    checkpoints: Path | None = None,
    store: FeatureStore | None = None,
    progress: Progress = no_progress,
) -> tuple[Model, list[tuple[Photo, str]]]:
    """Learns from the normal photos of ``train``, and calibrates on normal photos it did not learn from.

    Args:
        config: Sections of keywords; what is left out takes its default.
        data: Photos; anomalous ones and those of ``test`` are not looked at.
        background: Photos that nobody sorted, from where the normal ones come or from anywhere, which tell how photos
            differ; those of ``test``, and those that ``data`` holds too, are not looked at.
        layers: Stages of the backbone for every detector involved; None: those of the configuration.
        device: Where the backbone runs.
        workers: Threads that decode.
        checkpoints: Folder where a detector that trains for minutes leaves how far it is, and goes on from when given
            the same again; the caller removes it. None: nothing is left.
        store: Where features of these photos may be already, and are kept for others; the model is the same without.
        progress: Told how far it is.

    Returns:
        The model, and the photos that could not be read, each with the reason.

    Raises:
        ManifestError: There are no normal photos to learn from, or none of the background.
        ConfigError: The configuration cannot be used, or takes no notice of a background.
        ModelError: The backbone is named by a folder that holds none, or a damaged one.
        WeightsError: The backbone's weights cannot be found.
    """
    resolved = resolve(config, device=device, layers=layers)
    detector = build_detector(resolved, checkpoints=checkpoints)
    normal = normal_photos(data)
    archive = _background_photos(background, data, resolved)
    if not has_components(normal.select("train")):
        del resolved["components"]
    components = build_components(resolved)
    backbone, of_backbone = build_backbone(resolved, detector.layers).to(device), backbone_facts(resolved)
    reads = backbone if store is None else backbone_to_share(resolved, detector.layers).to(device)
    transform = transform_of(resolved, backbone)
    seed = resolved["fit"]["seed"]
    views = views_of(resolved, len(normal.select("train")))
    with FeatureCache(dtype=getattr(torch, backbone.precision)) as cache:
        reader = Reader(reads, transform, cache, normal_groups(normal), workers, store)
        advance = progress("Reading photos", len(normal) + len(archive))
        of_train, references = reader.read(normal.select("train"), advance, views=views)
        of_dev, _ = reader.read(normal.select("dev"), advance)
        _check_read(of_train, reader.unreadable)
        of_archive, _ = reader.read(archive, advance)
        if reads.runs_in is not None:  # so that photos are judged by features of the kind that was learned from
            resolved["backbone"]["runtime"] = backbone.runtime = reads.runs_in
        of_train = of_train.before(of_archive)
        if components is not None:
            _check_components(of_train)
            components.fit(of_train, seed=seed)
        advance = progress("Learning", num_steps(detector, of_train, of_dev))
        fitted = fit_and_calibrate(detector, of_train, of_dev, seed=seed, advance=advance)
        is_view = of_train.select(fitted.places).is_view
    facts = {
        "data_fingerprint": normal.fingerprint(),
        "num_fitted": is_view.count(False),
        "num_views": is_view.count(True),
        "background_fingerprint": archive.fingerprint() if archive else None,
        "num_background": len(of_archive),
        "components": list(components.names) if components else [],
        "num_calibration": len(fitted.calibration.normal_scores),
        "calibration": fitted.method,
        "num_unreadable": len(reader.unreadable),
        "backbone": of_backbone,
        "versions": package_versions(),
    }
    references = references.select(fitted.places)
    model = Model(resolved, backbone, detector, fitted.calibration, references, facts, components)
    return model, reader.unreadable


def inspect_photos(
    model: Model, photos: Sequence[Photo], *, batch_size: int = 8, workers: int = 2
) -> Iterator[Inspection]:
    """One inspection for every photo, in the order given: the walk of a photo through the package.

    Args:
        model: Fitted.
        photos: Which photos; nothing but their paths is looked at.
        batch_size: Photos that are scored together; it changes no score.
        workers: Threads that decode, on a CPU where those that compute do not; 0: none besides the one that asks.
    """
    return map_inspections(lambda inspection: inspection, model, photos, batch_size=batch_size, workers=workers)


def map_inspections(
    function: Callable[[Inspection], Result],
    model: Model,
    photos: Sequence[Photo],
    *,
    batch_size: int = 8,
    workers: int = 2,
) -> Iterator[Result]:
    """What a function makes of the inspection of each photo, in the order given, in the thread that inspected it.

    Args:
        function: Called in any thread, and of several photos at a time.
        model: As for ``inspect_photos``.
        photos: Likewise.
        batch_size: Likewise.
        workers: Likewise.
    """

    def walk(batch: Batch) -> dict[Photo, Result]:
        return {photo: function(inspection) for photo, inspection in inspect_batch(model, batch).items()}

    is_parallel = workers > 0 and len(photos) > batch_size and model.backbone.is_on_cpu
    if is_parallel:
        model.backbone.prepare(model.transform.size)
    ahead = workers if len(photos) > 1 else 0  # one photo alone is decoded sooner than a thread begins
    batches = map_batches(walk, photos, model.transform, batch_size=batch_size, workers=ahead, is_parallel=is_parallel)
    with closing(batches):
        for number, outcomes in enumerate(batches):
            for photo in photos[number * batch_size : (number + 1) * batch_size]:
                yield outcomes[photo]


def inspect_batch(model: Model, batch: Batch, *, is_doubtful: Sequence[bool] | None = None) -> dict[Photo, Inspection]:
    """The inspection of each photo of a batch, those that could not be read included.

    Args:
        model: Fitted.
        batch: Of ``load_batches``, or made of photos in memory, with ``model.transform``; no two photos are equal.
        is_doubtful: Of which of its ``photos`` too little is seen to accept them; so it is of those whose region is not
            found. None: of none.
    """
    outcomes = {
        photo: Inspection(Verdict(as_text(photo.path), None, None, "unreadable", error=as_text(reason)))
        for photo, reason in batch.unreadable
    }
    if not batch.photos:
        return outcomes
    maps = model.backbone.extract(batch.images)
    prediction = model.detector.predict(maps)
    suggestions = model.components.suggest(maps) if model.components else [(None, None)] * len(batch.photos)
    scores = prediction.score.numpy()
    p_values = model.calibration.p_values(scores)
    lacks_region = prediction.lacks_region.numpy()
    doubts = lacks_region | np.array([False] * len(scores) if is_doubtful is None else is_doubtful)
    decisions = model.calibration.decide(scores, **model.config["decide"], is_doubtful=doubts)
    for place, photo in enumerate(batch.photos):
        score, p_value, (component, probability) = float(scores[place]), float(p_values[place]), suggestions[place]
        error = NO_REGION if lacks_region[place] else None
        outcomes[photo] = Inspection(
            Verdict(as_text(photo.path), score, p_value, decisions[place], component, probability, error),
            batch.pixels[place],
            None if prediction.anomaly_map is None else prediction.anomaly_map[place].numpy(),
            () if prediction.evidence is None else prediction.evidence[place],
            None if prediction.region is None else prediction.region[place].numpy(),
        )
    return outcomes


def normal_photos(data: Manifest) -> Manifest:
    """The photos to learn from and to calibrate on: the normal ones of ``train`` and ``dev``."""
    normal = Manifest(tuple(photo for photo in data.normal().photos if photo.split != "test"))
    if not normal.select("train"):
        raise ManifestError(
            "The split train has no normal photos to learn from; "
            "name their labels with --normal, or mark them with 0 in the manifest's column anomalous."
        )
    return normal


def backbone_to_share(config: Config, layers: Sequence[int]) -> Backbone:
    """The backbone whose features a store keeps: with all its layers, so that every detector finds its own there.

    Networks of many layers, such as a vision transformer with its blocks, give those asked for only.

    Args:
        config: Resolved.
        layers: Those that are looked at.
    """
    every = all_layers(config["backbone"]["name"])
    return build_backbone(config, every if len(every) <= MAX_STAGES else layers)


def _background_photos(background: Manifest | None, data: Manifest, config: Config) -> Manifest:
    """At most ``MAX_BACKGROUND`` photos of the background, by seed, that are neither for testing nor known anyway."""
    if background is None:
        return Manifest(())
    detector = config["fit"]["detector"]
    if not any("background_photos" in section for section in config.values()):
        raise ConfigError(f"{detector} takes no notice of a background; combined and photo-neighbors do.")
    known = {real_path(photo.path) for photo in data.photos}
    photos = [p for p in background.photos if p.split != "test" and real_path(p.path) not in known]
    if not photos:
        raise ManifestError("The background has no photos outside the split test that the data do not hold too.")
    photos.sort(key=lambda photo: str(photo.path))
    order = np.random.default_rng(config["fit"]["seed"]).permutation(len(photos))[:MAX_BACKGROUND]
    return Manifest(tuple(photos[place] for place in sorted(order)))


def views_of(config: Config, num_photos: int) -> tuple[View, ...]:
    """The altered copies asked for, or those that few photos need; the number is kept with the model."""
    if config["fit"]["augment"] is None:
        config["fit"]["augment"] = 0 if num_photos > FEW_PHOTOS else VIEWS_OF_FEW
    return hand_held_views(config["fit"]["augment"])


def _check_read(train: FeatureSet, unreadable: Sequence[tuple[Photo, str]]) -> None:
    """Raises ManifestError if no photo could be read to learn from."""
    if not train:
        raise ManifestError(
            f"None of the normal photos of the split train could be read; {len(unreadable)} could not be read, the "
            f"first because: {unreadable[0][1]}."
        )


def _check_components(train: FeatureSet) -> None:
    """Raises ManifestError if of the photos that could be read no two are of one class."""
    if not component_names(train.labels):
        raise ManifestError("Of the labelled normal photos of the split train no two of one class could be read.")
