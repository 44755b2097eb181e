from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self

import numpy as np
import pytest
import torch
from torch import Tensor

from inlier.detectors.combined import Combined
from inlier.detectors.patchcore import PatchCore
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.errors import ModelError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.records import Evidence, Prediction

MakeFeatures = Callable[..., FeatureSet]
WHOLE = (0.0, 0.0, 1.0, 1.0)


class Level:
    """A detector whose score is the mean of a layer, above that of the photos it has learned."""

    is_trained = False

    def __init__(self, layer: int, *, has_map: bool = False, has_evidence: bool = True) -> None:
        self.layers = (layer,)
        self.has_map, self.has_evidence = has_map, has_evidence
        self.num_learned: list[int] = []

    def fit(self, features: FeatureSet) -> Self:
        levels = torch.cat([maps[self.layers[0]] for maps in features.batches()])
        self.num_learned.append(len(levels))
        self.mean_ = levels.mean()
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        levels = maps[self.layers[0]]
        score = levels.mean(dim=(1, 2, 3)) - self.mean_
        reasons = tuple((Evidence(WHOLE, self.layers[0], WHOLE, 0.0),) for _ in levels)
        return Prediction(score, levels[:, 0] if self.has_map else None, reasons if self.has_evidence else None)

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean_": self.mean_}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        self.mean_ = state["mean_"]
        return self


def _maps(first: list[float], second: list[float]) -> dict[int, Tensor]:
    """Photos whose maps of layers 1 and 2 are flat at these levels."""
    return {
        layer: torch.tensor(levels)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
        for layer, levels in ((1, first), (2, second))
    }


def test_the_score_is_the_sum_in_units_of_spread_by_hand(make_features: MakeFeatures) -> None:
    train = _maps([0.0, 10.0], [5.0, 5.0])  # folds of one photo each
    combined = Combined([Level(1), Level(2)]).fit(make_features(train))
    # Of the first member, a photo lies 10 below the other or above it: median 0, median absolute deviation 10.
    # Of the second, no photo differs, so that its scores stay in their own unit.
    assert combined.centers_.tolist() == [0.0, 0.0]
    assert combined.scales_.tolist() == pytest.approx([14.826, 1.0])
    score = combined.predict(_maps([5.0, 5.0 + 14.826, 5.0], [5.0, 5.0, 7.0])).score
    assert score.tolist() == pytest.approx([0.0, 1.0, 2.0], abs=1e-5)


def test_spread_is_robust_and_where_that_is_zero_the_standard_deviation(make_features: MakeFeatures) -> None:
    levels = [0.0] * 19 + [10.0]
    combined = Combined([Level(1)]).fit(make_features(_maps(levels, levels)))
    held_out = _held_out_scores(np.array(levels), combined.seed)
    assert np.median(np.abs(held_out - np.median(held_out))) > 0  # the fold without it lies lower as a whole
    assert combined.scales_[0] == pytest.approx(1.4826 * np.median(np.abs(held_out - np.median(held_out))))
    together = Combined([Level(1)]).fit(make_features(_maps([0.0, 0.0, 9.0, 9.0, 9.0], [0.0] * 5), list("aabbb")))
    assert together.scales_[0] == pytest.approx(np.std([-9.0, -9.0, 9.0, 9.0, 9.0]))


def _held_out_scores(levels: np.ndarray, seed: int) -> np.ndarray:
    from inlier.data.splits import group_folds

    folds = group_folds([f"{place:03d}" for place in range(len(levels))], num_folds=2, seed=seed)
    return np.array([level - levels[folds != fold].mean() for level, fold in zip(levels, folds, strict=True)])


def test_members_measure_their_spread_on_photos_they_have_not_seen_and_learn_from_all(
    make_features: MakeFeatures,
) -> None:
    members = Level(1), Level(2)
    Combined(members).fit(make_features(_maps([1.0, 2.0, 3.0, 4.0], [0.0] * 4), groups=list("abbb")))
    for member in members:
        assert sorted(member.num_learned[:2]) == [1, 3]
        assert member.num_learned[2:] == [4]


def test_of_one_photo_its_altered_copies_tell_the_spread(make_features: MakeFeatures) -> None:
    member = Level(1)
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(_maps([1.0, 2.0, 4.0, 9.0], [0.0] * 4), groups=["a"] * 4, is_view=[False, True, True, True])
        combined = Combined([member]).fit(cache.features())
    # The photo alone is learned first; its copies lie 1, 3 and 8 above it: median 3, median absolute deviation 2.
    assert member.num_learned == [1, 4]
    assert combined.centers_.tolist() == [3.0] and combined.scales_.tolist() == pytest.approx([2 * 1.4826])


def test_one_group_leaves_scores_as_they_are(make_features: MakeFeatures) -> None:
    member = Level(1)
    combined = Combined([member]).fit(make_features(_maps([1.0, 3.0], [0.0, 0.0]), groups=["a", "a"]))
    assert member.num_learned == [2]
    assert (combined.centers_.tolist(), combined.scales_.tolist()) == ([0.0], [1.0])
    assert combined.predict(_maps([5.0], [0.0])).score.tolist() == [3.0]


def test_the_map_is_that_of_the_first_member_that_has_one(make_features: MakeFeatures) -> None:
    train, test = make_features(_maps([0.0, 1.0], [0.0, 1.0])), _maps([7.0], [8.0])
    anomaly_map = Combined([Level(1), Level(2, has_map=True)]).fit(train).predict(test).anomaly_map
    assert anomaly_map is not None
    assert anomaly_map.tolist() == [[[8.0, 8.0], [8.0, 8.0]]]
    assert Combined([Level(1), Level(2)]).fit(train).predict(test).anomaly_map is None


def test_evidence_begins_with_the_member_that_raises_the_score_most(make_features: MakeFeatures) -> None:
    train = make_features(_maps([0.0, 1.0], [0.0, 1.0]))
    test = _maps([9.0, 0.0], [3.0, 3.0])
    evidence = Combined([Level(1), Level(2)]).fit(train).predict(test).evidence
    assert evidence is not None
    assert [[reason.reference for reason in reasons] for reasons in evidence] == [[1, 2], [2, 1]]
    evidence = Combined([Level(1, has_evidence=False), Level(2)]).fit(train).predict(test).evidence
    assert evidence is not None
    assert [[reason.reference for reason in reasons] for reasons in evidence] == [[2], [2]]


def test_it_looks_at_the_layers_of_all_members() -> None:
    assert Combined([Level(3), Level(1), Level(3)]).layers == (1, 3)


def test_the_state_holds_the_members(make_features: MakeFeatures) -> None:
    maps = {2: torch.rand(6, 4, 4, 4), 3: torch.rand(6, 5, 2, 2)}
    combined = Combined([PatchCore(layers=(2,)), PhotoNeighbors(layers=(3,))]).fit(make_features(maps))
    assert set(combined.state_dict()) == {
        "centers_", "scales_", "weight_", "0.memory_bank_", "0.bank_places_", "0.seen_",
        "1.photos_", "1.mean_", "1.whitening_", "1.numbers_", "1.towards_", "1.classes_", "1.background_", "1.seen_",
    }  # fmt: skip


def test_the_state_of_other_members_is_refused(make_features: MakeFeatures) -> None:
    maps = {2: torch.rand(6, 4, 4, 4), 3: torch.rand(6, 5, 2, 2)}
    state = Combined([PatchCore(layers=(2,))]).fit(make_features(maps)).state_dict()
    with pytest.raises(ModelError, match=r"^The saved PhotoNeighbors lacks photos_; the model is damaged or"):
        Combined([PhotoNeighbors(layers=(3,))]).load_state_dict(state)


def test_no_members_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^members of Combined must hold at least one detector, got none\.$"):
        Combined([])
