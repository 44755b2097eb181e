from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import numpy as np
import pytest
import torch
from torch import Tensor

from inlier.detectors.crossfit import cross_scores, score_photos
from inlier.features.cache import FeatureSet
from inlier.records import Prediction

MakeFeatures = Callable[..., FeatureSet]


class Memory:
    """A detector that keeps the photos' values: 0 for one that it has learned, the value itself for others."""

    layers = (1,)

    def __init__(self, *, has_maps: bool = True) -> None:
        self.has_maps = has_maps
        self.fits: list[list[float]] = []

    def fit(self, features: FeatureSet) -> Self:
        self.fits.append([value for maps in features.batches() for value in maps[1][:, 0, 0, 0].tolist()])
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        values = maps[1][:, 0, 0, 0]
        score = torch.where(torch.isin(values, torch.tensor(self.fits[-1])), 0.0, values)
        return Prediction(score, 10 * maps[1][:, 0] if self.has_maps else None)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        return self


def _numbered(num_photos: int) -> dict[int, Tensor]:
    """Photos 1, 2, 3 ..., each with its number in the first cell of its map and half of it in the others."""
    numbers = torch.arange(1.0, num_photos + 1)
    maps = numbers[:, None, None, None].repeat(1, 1, 2, 2) / 2
    maps[:, :, 0, 0] = numbers[:, None]
    return {1: maps}


def test_scores_of_all_batches_by_hand(make_features: MakeFeatures) -> None:
    features = make_features(_numbered(70))
    detector = Memory().fit(features.select([1, 4]))
    scores = score_photos(detector, features)
    expected = np.arange(1.0, 71.0)
    expected[[1, 4]] = 0
    assert scores.values.dtype == scores.map_maxima.dtype == np.float32
    assert scores.values.tolist() == expected.tolist()
    assert scores.map_maxima.tolist() == (10 * np.arange(1.0, 71.0)).tolist()


def test_no_photos_have_no_scores(make_features: MakeFeatures) -> None:
    features = make_features(_numbered(3))
    scores = score_photos(Memory().fit(features), features.select([]))
    assert scores.values.shape == scores.map_maxima.shape == (0,)


@pytest.mark.parametrize("num_folds", [2, 3, 6])
def test_each_photo_is_scored_by_a_detector_that_has_not_seen_its_group(
    num_folds: int, make_features: MakeFeatures
) -> None:
    groups = list("aabbccddeeff")
    detector, steps = Memory(), list[int]()
    scores = cross_scores(
        detector, make_features(_numbered(12), groups), num_folds=num_folds, seed=3, advance=steps.append
    )
    assert scores.values.tolist() == list(range(1, 13))  # 0 where the photo was learned
    assert scores.map_maxima.tolist() == list(range(10, 130, 10))
    assert steps == [1] * num_folds
    held_out = [set(range(1, 13)) - set(map(int, fold)) for fold in detector.fits]
    assert sorted(place for fold in held_out for place in fold) == list(range(1, 13))
    for fold in held_out:
        letters = {groups[place - 1] for place in fold}
        assert fold == {place for place in range(1, 13) if groups[place - 1] in letters}


def test_a_selection_is_scored_in_its_own_order(make_features: MakeFeatures) -> None:
    some = make_features(_numbered(8)).select([6, 1, 3])
    assert cross_scores(Memory(), some, num_folds=3, seed=0).values.tolist() == [7, 2, 4]


def test_without_maps_there_are_no_maxima(make_features: MakeFeatures) -> None:
    features = make_features(_numbered(6))
    assert cross_scores(Memory(has_maps=False), features, num_folds=2, seed=0).map_maxima.size == 0
    assert score_photos(Memory(has_maps=False).fit(features), features).map_maxima.size == 0


def test_more_folds_than_groups_are_refused(make_features: MakeFeatures) -> None:
    features = make_features(_numbered(4), groups=list("aabb"))
    with pytest.raises(ValueError, match=r"^num_folds of group_folds must be in \[2, 2\], .*, got 3\.$"):
        cross_scores(Memory(), features, num_folds=3, seed=0)
