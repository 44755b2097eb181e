"""prepare(): what a model says of every photo of a data set, put into a database for reviewers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inlier.data.manifest import NORMAL_LABELS, Manifest, Photo, digest_file
from inlier.data.remote import RemotePath, locate
from inlier.databases import shown
from inlier.errors import ConfigError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.pooling import embed_photos
from inlier.features.store import FeatureStore
from inlier.model import Model
from inlier.outputs import as_text
from inlier.reviewing.database import holds_review
from inlier.reviewing.decisions import Review, ReviewPhoto
from inlier.reviewing.regions import location_key
from inlier.reviewing.suspicion import Suspicion, suspect
from inlier.reviewing.unseen import Looked, look, score_unseen
from inlier.workflow import Progress, no_progress

NO_DOUBT = 99.0
"""Doubt of photos that could not be read, which nobody can decide: they come last."""

_POWER = 3.0


def prepare(
    model: Model,
    data: Manifest,
    url: str,
    *,
    model_folder: Path | None = None,
    data_folder: Path | None = None,
    normal: Sequence[str] = NORMAL_LABELS,
    store: FeatureStore | None = None,
    workers: int = 2,
    progress: Progress = no_progress,
) -> Review:
    """Makes a review of all photos; one of the same model and data that is there already goes on.

    So does one of the model's parent: the decisions stay, and what the new model says of each photo is written over
    what the old one said.

    Every photo is judged by a detector that has not seen its group (``score_unseen``), so that a wrong photo in the
    bank does not speak for itself. The review is written in one transaction at the end: an interrupted preparation
    leaves none.

    Args:
        model: Fitted.
        data: The photos to be reviewed, labelled or not.
        url: Of the database.
        model_folder: Where the model was saved, if it was.
        data_folder: What the data were read from.
        normal: Labels that meant a normal photo when they were.
        store: Where features of the photos may be already, and are kept for a refit; None: nowhere.
        workers: Threads that decode.
        progress: Told how far it is.

    Raises:
        ConfigError: The database cannot be used or holds another review, or the model was fitted with a background.
        MissingExtraError: The database's driver is not installed.
    """
    fingerprint = data.fingerprint()
    review = _find(url, model, fingerprint)
    if review is not None and review.facts.identity == model.identity:
        return review
    try:
        photos, notes = _photos(model, data, store, workers, progress)
        decide = model.config["decide"]
        rates, labels = (decide["false_alarm_rate"], decide["uncertain_rate"]), _labels(model, data)
        if review is not None:
            now = replace(review.facts, identity=model.identity, labels=tuple(labels), rates=rates, notes=notes)
            review.judge_again(photos, now)
            return review
    except BaseException:
        if review is not None:
            review.close()
        raise
    return Review.create(
        url,
        model=Path(os.path.abspath(model_folder)) if model_folder else None,
        identity=model.identity,
        data=_absolute(data_folder),
        fingerprint=fingerprint,
        labels=labels,
        rates=rates,
        normal=normal,
        notes=notes,
        photos=photos,
    )


def _find(url: str, model: Model, fingerprint: str) -> Review | None:
    """The review that goes on: of these data, and of this model or one that it comes from by a refit."""
    if not holds_review(url):
        return None
    review = Review.open(url)
    facts = review.facts
    known = {facts.identity, *(of.identity for of in review.refits())}
    if facts.fingerprint == fingerprint and known & {model.identity, model.facts.get("parent")}:
        return review
    review.close()
    what = "another model" if facts.fingerprint == fingerprint else "other data, or of these before they changed"
    raise ConfigError(f"The database {shown(url)} holds a review of {what}; name another one, or remove it.")


def _photos(
    model: Model, data: Manifest, store: FeatureStore | None, workers: int, progress: Progress
) -> tuple[list[ReviewPhoto], tuple[str, ...]]:
    """A row for each photo, and sentences on what these are worth."""
    with FeatureCache(dtype=getattr(torch, model.backbone.precision)) as cache:
        looked = look(model, data, cache, store=store, workers=workers, progress=progress)
        judged, notes = _judge(model, looked, progress) if looked.photos else ({}, ())
    rates = model.config["decide"]
    return [_row(number, photo, judged.get(photo), rates) for number, photo in enumerate(data.photos, 1)], notes


def _judge(model: Model, looked: Looked, progress: Progress) -> tuple[dict[Photo, dict[str, Any]], tuple[str, ...]]:
    """What there is to say of each photo that could be read, by name of the column."""
    unseen = score_unseen(model, looked, progress=progress)
    p_values = model.calibration.p_values(unseen.scores)
    decide = model.config["decide"]
    verdicts = model.calibration.decide(unseen.scores, **decide, is_doubtful=unseen.lacks_region)
    embeddings, suggestions = _see(model, looked.originals)
    suspicions = suspect(
        looked.photos,
        scores=unseen.scores,
        p_values=p_values,
        embeddings=embeddings,
        kin=[_codes([photo.group or f"\0{i}" for i, photo in enumerate(looked.photos)]), _codes(_digests(looked))],
        rate=decide["uncertain_rate"],
    )
    rows = {
        photo: {
            "digest": looked.digests[photo],
            "score": float(unseen.scores[place]),
            "p_value": float(p_values[place]),
            "verdict": verdicts[place],
            "component": suggestions[place][0],
            "component_probability": suggestions[place][1],
            "suspicion": suspicions[place],
        }
        for place, photo in enumerate(looked.photos)
    }
    return rows, unseen.notes


def _see(model: Model, features: FeatureSet) -> tuple[NDArray[np.float32], list[tuple[str | None, float | None]]]:
    """Embeddings of shape (N, D), and for each photo the most similar class with its probability."""
    embeddings: list[NDArray[np.float32]] = []
    suggestions: list[tuple[str | None, float | None]] = []
    for maps in features.batches():
        deepest = sorted(layer for layer in maps if layer > 0)[-2:]
        embeddings.append(embed_photos([maps[layer] for layer in deepest], power=_POWER).numpy())
        some = model.components.suggest(maps) if model.components else [(None, None)] * len(embeddings[-1])
        suggestions += some
    return np.concatenate(embeddings), suggestions


def _row(number: int, photo: Photo, judged: dict[str, Any] | None, decide: dict[str, float]) -> ReviewPhoto:
    if judged is None:
        nothing = ("score", "p_value", "component", "component_probability")
        judged = dict.fromkeys(nothing) | {"digest": digest_file(photo.path), "verdict": "unreadable"}
    values = dict(judged)
    suspicion = values.pop("suspicion", Suspicion())
    return ReviewPhoto(
        number=number,
        path=location_key(photo.path),
        split=photo.split,
        group=as_text(photo.group),
        given_label=as_text(photo.label),
        given_anomalous=photo.is_anomalous,
        suspicion=suspicion.value,
        suspicion_reason=suspicion.reason,
        doubt=_doubt(values["p_value"], values["verdict"], decide),
        **values,
    )


def _doubt(p_value: float | None, verdict: str, decide: dict[str, float]) -> float:
    """How far a p-value is from the nearest threshold, as a logarithm; 0 where it alone does not decide."""
    if p_value is None:
        return NO_DOUBT
    if verdict == "uncertain" and p_value > decide["uncertain_rate"]:  # its region was not found
        return 0.0
    return min(abs(log(p_value) - log(rate)) for rate in decide.values())


def _labels(model: Model, data: Manifest) -> list[str]:
    """The classes that the model knows, then other labels of the data, the most frequent first."""
    known = list(model.components.names) if model.components else []
    counts = Counter(as_text(photo.label) for photo in data.photos if photo.label)
    others = [label for label, _ in sorted(counts.items(), key=lambda of: (-of[1], of[0]))]
    return [*known, *(label for label in others if label not in known and label.casefold() not in NORMAL_LABELS)]


def _digests(looked: Looked) -> list[str]:
    return [looked.digests[photo] for photo in looked.photos]


def _codes(names: Sequence[str]) -> NDArray[np.int64]:
    """A number for each name, the same for equal ones."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def _absolute(folder: Path | None) -> Path | None:
    is_remote = folder is not None and isinstance(locate(folder), RemotePath)
    return folder if folder is None or is_remote else Path(os.path.abspath(folder))
