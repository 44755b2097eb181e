"""refit(): a model learns what reviewers decided, and what that changes is told before anybody says yes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from inlier.build import build_components, build_detector, resolve
from inlier.config import Config
from inlier.data.images import read_image
from inlier.data.manifest import Manifest, Photo
from inlier.data.remote import locate
from inlier.decision.heatmap import encode
from inlier.decision.refit_page import write_refit_page
from inlier.detectors.components import Components, component_names
from inlier.errors import ImageReadError, InlierError, ManifestError, ReviewError
from inlier.features.cache import FeatureCache
from inlier.features.store import FeatureStore
from inlier.fitting import fit_and_calibrate, num_steps
from inlier.model import Model, package_versions
from inlier.outputs import as_text, number_of
from inlier.reviewing.decisions import Review
from inlier.reviewing.effective import Changes, corrected
from inlier.reviewing.effects import compare_on_dev, flips, on_photos
from inlier.reviewing.growing import learned_photos_gone, update_without
from inlier.reviewing.regions import location_key
from inlier.reviewing.unseen import Looked, look
from inlier.workflow import Progress, no_progress

MAX_PICTURES = 200
"""Thumbnails on the page of a refit."""

_PICTURE_PX, _PICTURE_QUALITY = 160, 60


@dataclass(frozen=True, eq=False)
class Refit:
    """A model that learned what reviewers decided; nothing was written yet.

    Attributes:
        model: The new model.
        report: What changed, as plain values: ``refit.json``.
        unreadable: Photos that could not be read, each with the reason.
    """

    model: Model
    report: dict[str, Any]
    unreadable: tuple[tuple[Photo, str], ...]


def refit(
    model: Model,
    data: Manifest,
    review: Review,
    *,
    store: FeatureStore | None = None,
    workers: int = 2,
    progress: Progress = no_progress,
) -> Refit:
    """Fits the model's configuration anew on the data as reviewers corrected them, calibrates it, and compares.

    The backbone stays the model's own. Where photos that the model learned from are not at hand, it is updated
    without them instead (``updating.update``), if its detector can be. Photos of test are not looked at: what they
    measure must not decide whether a model is taken.

    Args:
        model: What is in use. It stays as it is.
        data: The photos, labelled as the review found them.
        review: What was decided.
        store: Where features of the photos may be already, as after ``prepare``.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        ReviewError: Nothing was decided, or nothing that a model notices.
        ManifestError: No normal photo of train is left, or none of them can be read.
        ConfigError: Photos that the model learned from are gone and its detector cannot do without them, or the model
            was fitted with a background.
    """
    now, changes = corrected(data, review)
    if changes.is_empty:
        raise ReviewError(_nothing(changes))
    before = Manifest(tuple(photo for photo in data.photos if photo.split != "test"))
    after = Manifest(tuple(photo for photo in now.photos if photo.split != "test"))
    if not after.normal().select("train"):
        raise ManifestError("After the decisions no normal photo of train is left to learn from.")
    gone = learned_photos_gone(model, before)
    with FeatureCache(dtype=getattr(torch, model.backbone.precision)) as cache:
        looked = look(model, after, cache, store=store, workers=workers, progress=progress)
        if gone:
            fitted = update_without(model, data=before, now=after, changes=changes, workers=workers, progress=progress)
        else:
            fitted = _fit(model, looked, progress)
        facts = fitted.facts | {
            "data_fingerprint": after.normal().fingerprint(),
            "num_unreadable": len(looked.reader.unreadable),
            "parent": model.identity,
            "parent_fingerprint": model.facts.get("data_fingerprint"),
            "decisions": _decisions(review, changes),
        }
        fitted = replace(fitted, facts=facts)
        outcomes = on_photos(model, fitted, looked, review, progress=progress)
    report = {
        "parent": model.identity,
        "identity": fitted.identity,
        "detector": fitted.config["fit"]["detector"],
        "method": "updated" if gone else "fitted anew",
        "decisions": facts["decisions"],
        "counts": changes.counts(),
        **{name: _rows(getattr(changes, name)) for name in ("joined", "left", "dev_joined", "dev_left", "relabelled")},
        "learned": {"before": model.facts.get("num_fitted"), "after": facts["num_fitted"]},
        "calibration": {
            "before": len(model.calibration.normal_scores),
            "after": len(fitted.calibration.normal_scores),
            "method": facts["calibration"],
        },
        "flips": flips(outcomes),
        "num_compared": len(outcomes),
        "dev": compare_on_dev(outcomes),
        "notes": [*changes.notes(), *_gone_note(gone), *fitted.notes],
        "data_fingerprint": now.fingerprint(),
        "versions": package_versions(),
    }
    return Refit(fitted, report, tuple(looked.reader.unreadable))


def write_refit_report(refit: Refit, path: Path) -> None:
    """Writes what a refit changed as one HTML file, with thumbnails of at most 200 photos, which are read again.

    Raises:
        InlierError: The page cannot be written.
    """
    report = refit.report
    shown = [row["path"] for name in ("joined", "left", "dev_joined", "dev_left", "flips") for row in report[name]]
    pictures: dict[str, bytes] = {}
    for name in list(dict.fromkeys(shown))[:MAX_PICTURES]:
        try:
            pixels = read_image(locate(Path(name)), min_side=_PICTURE_PX)
        except ImageReadError:
            continue
        pictures[name] = encode(pixels, longest_side=_PICTURE_PX, quality=_PICTURE_QUALITY)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_refit_page(path, report=report, pictures=pictures)
    except OSError as error:
        raise InlierError(f"Nothing can be written to {as_text(path)}: {error.strerror or error}.") from error


def _fit(model: Model, looked: Looked, progress: Progress) -> Model:
    """What ``workflow.fit`` does once photos are read."""
    config: Config = {name: dict(section) for name, section in model.config.items()}
    of_train = looked.train.select(looked.normal(looked.train))
    references = looked.references.select(looked.normal(looked.train))
    of_dev = looked.dev.select(looked.normal(looked.dev))
    if not of_train:
        raise ManifestError(
            f"None of the normal photos of train could be read, the first because: {looked.reader.unreadable[0][1]}."
        )
    seed = config["fit"]["seed"]
    components = _components(model, of_train.labels, config)
    if components is not None:
        components.fit(of_train, seed=seed)
    if model.backbone.runs_in is not None:  # photos are judged by features of the kind that was learned from
        config["backbone"]["runtime"] = model.backbone.runs_in
    detector = build_detector(config)
    advance = progress("Learning", num_steps(detector, of_train, of_dev))
    fitted = fit_and_calibrate(detector, of_train, of_dev, seed=seed, advance=advance)
    is_view = of_train.select(fitted.places).is_view
    facts = {name: of for name, of in model.facts.items() if name not in ("num_added", "num_removed", "num_known")} | {
        "num_fitted": is_view.count(False),
        "num_views": is_view.count(True),
        "components": list(components.names) if components else [],
        "num_calibration": len(fitted.calibration.normal_scores),
        "calibration": fitted.method,
        "versions": package_versions(),
    }
    learned = references.select(fitted.places)
    return replace(
        model,
        config=config,
        detector=detector,
        calibration=fitted.calibration,
        references=learned,
        facts=facts,
        components=components,
    )


def _components(model: Model, labels: Sequence[str], config: Config) -> Components | None:
    """What names the component, unfitted, if there are classes now and the backbone shows its layers."""
    section = config.pop("components", None) or resolve({}, device="cpu")["components"]
    if len(component_names(labels)) < 2 or not {*section["layers"]} <= {*model.backbone.layers}:
        return None
    config["components"] = section
    return build_components(config)


def _decisions(review: Review, changes: Changes) -> dict[str, Any]:
    words = review.words()
    return {
        "digest": changes.digest,
        "num_photos": len(words),
        "reviewers": review.reviewers(),
        **changes.counts(),
    }


def _rows(photos: Sequence[Photo]) -> list[dict[str, Any]]:
    return [{"path": location_key(photo.path), "split": photo.split, "label": as_text(photo.label)} for photo in photos]


def _nothing(changes: Changes) -> str:
    if changes.num_confirmed:
        sentence = f"The reviewers say of {number_of(changes.num_confirmed, 'photo')} what the data say too"
        sentence += ", so that a refit would change nothing."
    else:
        sentence = "Nothing was decided that a refit could learn from."
    return " ".join([sentence, *changes.notes()])


def _gone_note(gone: int) -> list[str]:
    if not gone:
        return []
    return [
        f"{number_of(gone, 'photo')} that the model learned from {'is' if gone == 1 else 'are'} not in the data: the "
        "model was updated, not fitted anew, and keeps what it knows of them."
    ]
