from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch

from inlier.data.manifest import Manifest, Photo, digest_file
from inlier.databases import as_url
from inlier.errors import ConfigError
from inlier.features.cache import FeatureCache
from inlier.features.store import FeatureStore
from inlier.model import Model
from inlier.reviewing.decisions import Review
from inlier.reviewing.ordering import Query
from inlier.reviewing.preparing import NO_DOUBT, prepare
from inlier.reviewing.unseen import look, score_unseen
from inlier.workflow import Progress, inspect_photos, no_progress


def test_every_photo_stands_in_the_review_with_what_the_model_says(
    review: Review, polluted_data: Manifest, polluted_model: Model, polluted: Path
) -> None:
    photos = review.photos()
    assert [photo.path for photo in photos] == [os.path.abspath(photo.path) for photo in polluted_data.photos]
    facts = review.facts
    assert (facts.identity, facts.data) == (polluted_model.identity, str(polluted))
    assert facts.fingerprint == polluted_data.fingerprint()
    assert facts.model == os.path.abspath("pumps")
    assert facts.labels[:2] == ("bolted-flange", "piston-crown") and "crack" in facts.labels
    unreadable = photos[-1]
    assert (unreadable.verdict, unreadable.score, unreadable.doubt) == ("unreadable", None, NO_DOUBT)
    assert review.page(Query(), reviewer="ada", size=100)[-1] == unreadable
    # photos that the model has learned nothing about are judged by itself
    dev = [photo for photo in polluted_data.photos if photo.split == "dev"]
    verdicts = {found.verdict.path: found.verdict for found in inspect_photos(polluted_model, dev)}
    for photo in photos:
        if photo.split == "dev":
            own = verdicts[photo.path]
            assert photo.score == pytest.approx(own.score, rel=1e-4)
            assert photo.component == own.component
            assert photo.p_value is not None
            assert photo.doubt == pytest.approx(min(abs(log(photo.p_value / rate)) for rate in (0.05, 0.2)))
            assert photo.digest == digest_file(Path(photo.path))


def test_photos_of_the_bank_are_judged_by_others(review: Review, polluted_model: Model) -> None:
    train = [photo for photo in review.photos() if photo.split == "train" and photo.score is not None]
    scores = [photo.score for photo in train]
    itself = [
        found.verdict.score
        for found in inspect_photos(polluted_model, [Photo(Path(photo.path), "train") for photo in train])
    ]
    assert min(np.array(scores) - np.array(itself)) > 0  # who has learned a photo finds it too normal


def test_wrong_labels_come_first_with_a_reason(review: Review) -> None:
    queue = review.page(Query("labels", split="train"), reviewer="ada", size=3)
    by_name = {Path(photo.path).name: photo for photo in queue}
    for name in ("cat.png", "landscape.png"):
        assert by_name[name].suspicion > 0.8
        assert "It counts as normal, and looks odder than " in by_name[name].suspicion_reason
    assert all(0 <= photo.suspicion <= 1 for photo in review.photos())


def test_a_review_goes_on_and_another_one_is_not_written_over(
    review: Review, prepared: Path, polluted_data: Manifest, polluted_model: Model, data: Manifest, store: FeatureStore
) -> None:
    url = as_url(str(prepared))
    again = prepare(polluted_model, polluted_data, url, store=store)
    assert again.photos() == review.photos()
    again.close()
    with pytest.raises(
        ConfigError, match="holds a review of other data, or of these before they changed; name another"
    ):
        prepare(polluted_model, data, url)


def test_an_interrupted_preparation_leaves_no_review(
    polluted_data: Manifest, polluted_model: Model, store: FeatureStore, url: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(polluted_model, polluted_data, url, store=store, progress=_stopping_at("Judging photos by others"))
    with pytest.raises(ConfigError, match="There is no review in"):
        Review.open(url)


def test_a_model_is_judged_by_itself_where_no_others_can_be_fitted(
    polluted_data: Manifest, polluted_model: Model
) -> None:
    few = Manifest(tuple(photo for photo in polluted_data.photos if photo.split == "train")[:6])
    with FeatureCache(dtype=torch.float32) as cache:
        looked = look(polluted_model, few, cache, store=None, workers=0, progress=no_progress)
        unseen = score_unseen(polluted_model, looked, progress=no_progress)
    assert unseen.notes[0].startswith("The data hold 5 of the 19 photos that the model learned from, too few")
    own = [found.verdict.score for found in inspect_photos(polluted_model, looked.photos)]
    assert unseen.scores == pytest.approx(own, rel=1e-4)


def test_a_model_with_a_background_is_refused(polluted_data: Manifest, polluted_model: Model, url: str) -> None:
    facts = polluted_model.facts | {"num_background": 9}
    with pytest.raises(ConfigError, match="The model was fitted with a background of 9 photos"):
        prepare(replace(polluted_model, facts=facts), polluted_data, url)


def _stopping_at(step: str) -> Progress:
    def progress(task: str, total: int) -> Callable[[int], None]:
        if task == step:
            raise KeyboardInterrupt
        return lambda steps: None

    return progress
