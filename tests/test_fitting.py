from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
import pytest
import torch
from torch import Tensor

from inlier.decision.calibration import Calibration
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.fitting import ENOUGH_DEV, ENOUGH_TRAIN, FEW, fit_and_calibrate, num_steps
from inlier.records import Prediction


@contextmanager
def fake_features(
    groups: Sequence[str], *, seed: int = 0, is_view: Sequence[bool] | None = None
) -> Iterator[FeatureSet]:
    """Random maps, layer 3: shape (N, 4, 2, 2); the first value of each is the rank of its group's name."""
    ranks = {name: rank for rank, name in enumerate(sorted(set(groups)))}
    maps = torch.randn(len(groups), 4, 2, 2, generator=torch.Generator().manual_seed(seed))
    maps[:, 0, 0, 0] = torch.tensor([float(ranks[name]) for name in groups])
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append({3: maps}, groups=groups, is_view=is_view)
        yield cache.features()


class Spy:
    """A detector that refuses to score a photo whose group it was fitted on, and notes what it was asked."""

    layers = (3,)

    def __init__(self, *, is_trained: bool = False) -> None:
        self.is_trained = is_trained
        self.fitted: list[list[float]] = []
        self.scored: list[float] = []

    def fit(self, features: FeatureSet) -> Self:
        self.fitted.append([value for maps in features.batches() for value in _groups(maps)])
        return self

    def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
        groups = _groups(maps)
        assert not set(groups) & set(self.fitted[-1])
        self.scored += groups
        return Prediction(torch.tensor(groups), torch.tensor(groups)[:, None, None] * 10)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> Self:
        return self


def _groups(maps: Mapping[int, Tensor]) -> list[float]:
    return [float(value) for value in maps[3][:, 0, 0, 0]]


def names(kind: str, num_photos: int, *, per_group: int) -> list[str]:
    return [f"{kind}-{number // per_group:04d}" for number in range(num_photos)]


def check_groups(calibration: Calibration, groups: Sequence[str]) -> None:
    """A spy's score is the rank of the photo's group, so that each score tells the group it must stand beside."""
    ranked = sorted(set(groups))
    assert [ranked[int(score)] for score in calibration.normal_scores] == calibration.groups.tolist()


def split(features: FeatureSet, num_train: int) -> tuple[FeatureSet, FeatureSet]:
    return features.select(range(num_train)), features.select(range(num_train, len(features)))


def test_enough_dev_photos_calibrate_alone() -> None:
    spy = Spy()
    with fake_features(names("a", 12, per_group=3) + names("dev", ENOUGH_DEV, per_group=2)) as features:
        train, dev = split(features, 12)
        fitted = fit_and_calibrate(spy, train, dev, seed=0)
        assert num_steps(Spy(), train, dev) == 1
    assert fitted.places == tuple(range(12))
    assert fitted.method == "scores of the dev photos"
    assert [len(photos) for photos in spy.fitted] == [12]
    assert fitted.calibration.normal_scores.tolist() == sorted(spy.scored)
    assert set(fitted.calibration.groups) == {f"dev-{number:04d}" for number in range(50)}
    assert fitted.calibration.map_maxima.tolist() == [10 * score for score in sorted(spy.scored)]


def test_one_group_to_learn_from_leaves_only_dev() -> None:
    with fake_features(["a"] * 5 + ["dev"] * 3) as features:
        fitted = fit_and_calibrate(Spy(), *split(features, 5), seed=0)
    assert (fitted.method, fitted.places) == ("scores of the dev photos", (0, 1, 2, 3, 4))
    assert fitted.calibration.groups.tolist() == ["dev"] * 3


@pytest.mark.parametrize("num_dev", [0, ENOUGH_DEV - 1])
def test_of_few_photos_each_is_scored_without_its_group(num_dev: int) -> None:
    spy = Spy()
    told: list[int] = []
    with fake_features(names("a", 30, per_group=2) + names("dev", num_dev, per_group=7)) as features:
        train, dev = split(features, 30)
        fitted = fit_and_calibrate(spy, train, dev, seed=0, advance=told.append)
        assert told == [1] * num_steps(Spy(), train, dev)
    assert fitted.places == tuple(range(30))
    also = " and scores of the dev photos" if num_dev else ""
    assert fitted.method == "cross-conformal scores, 10 folds by group" + also
    assert len(fitted.calibration.normal_scores) == 30 + num_dev
    assert len(spy.fitted) == 11 and len(spy.fitted[-1]) == 30
    assert sorted(spy.scored[:30]) == [float(number // 2) for number in range(30)]
    check_groups(fitted.calibration, features.groups)


def test_there_are_no_more_folds_than_groups() -> None:
    with fake_features(names("a", 30, per_group=10)) as features:
        train, dev = split(features, 30)
        assert fit_and_calibrate(Spy(), train, dev, seed=0).method == "cross-conformal scores, 3 folds by group"
        assert num_steps(Spy(), train, dev) == 4


@pytest.mark.parametrize("num_dev", [0, 20])
def test_of_many_photos_a_fifth_is_held_out_by_group(num_dev: int) -> None:
    spy = Spy()
    groups = names("a", ENOUGH_TRAIN, per_group=4) + names("dev", num_dev, per_group=2)
    with fake_features(groups) as features:
        train, dev = split(features, ENOUGH_TRAIN)
        fitted = fit_and_calibrate(spy, train, dev, seed=0)
        assert num_steps(Spy(), train, dev) == 1
    also = " and scores of the dev photos" if num_dev else ""
    assert fitted.method == "scores of held-out photos" + also
    assert len(fitted.places) == 800 and len(fitted.calibration.normal_scores) == 200 + num_dev
    assert [len(photos) for photos in spy.fitted] == [800]
    assert not {groups[place] for place in fitted.places} & set(fitted.calibration.groups)
    check_groups(fitted.calibration, groups)


def test_the_seed_decides_who_is_held_out() -> None:
    with fake_features(names("a", ENOUGH_TRAIN, per_group=1)) as features:
        train, dev = split(features, ENOUGH_TRAIN)
        first, again, other = (fit_and_calibrate(Spy(), train, dev, seed=seed).places for seed in (1, 1, 2))
    assert first == again != other


def test_altered_copies_are_learned_from_and_calibrate_nothing() -> None:
    spy = Spy()
    groups = [f"a-{number // 3:04d}" for number in range(36)]  # each photo, and two copies of it
    with fake_features(groups, is_view=[number % 3 > 0 for number in range(36)]) as features:
        train, dev = split(features, 36)
        fitted = fit_and_calibrate(spy, train, dev, seed=0)
    assert fitted.places == tuple(range(36)) and len(spy.fitted[-1]) == 36
    assert fitted.calibration.groups.tolist() == [f"a-{number:04d}" for number in range(12)]
    check_groups(fitted.calibration, groups)


def test_of_one_photo_nothing_is_left_to_calibrate_on() -> None:
    """Its copies, scored by a detector that has not seen them, tell only how far heat reaches."""

    class Counting(Spy):
        def predict(self, maps: Mapping[int, Tensor]) -> Prediction:
            return Prediction(torch.zeros(len(maps[3])), maps[3][:, 0] + len(self.fitted[-1]))

    with fake_features(["a"] * 4, is_view=[False, True, True, True]) as features:
        fitted = fit_and_calibrate(Counting(), *split(features, 4), seed=0)
        (maps,) = features.batches()
    assert fitted.method == "no photos to calibrate on"
    assert len(fitted.calibration.normal_scores) == 0
    expected = (maps[3][1:, 0] + 1).flatten(1).amax(dim=1)  # of a detector that has learned one photo
    assert fitted.calibration.map_maxima.tolist() == sorted(expected.double().tolist())
    with fake_features(["a"] * 4) as features:
        fitted = fit_and_calibrate(Spy(), *split(features, 4), seed=0)
    assert len(fitted.calibration.normal_scores) == len(fitted.calibration.map_maxima) == 0


@pytest.mark.parametrize(
    ("num_train", "num_dev", "method", "num_fits"),
    [
        (40, FEW, "scores of the dev photos", 1),
        (5 * FEW, 0, "scores of held-out photos", 1),
        (40, FEW - 8, "scores of held-out photos and scores of the dev photos", 1),
        (40, 0, "cross-conformal scores, 3 folds by group", 4),
    ],
)
def test_what_trains_for_minutes_is_fitted_once_where_that_suffices(
    num_train: int, num_dev: int, method: str, num_fits: int
) -> None:
    spy = Spy(is_trained=True)
    with fake_features(names("a", num_train, per_group=1) + names("dev", num_dev, per_group=1)) as features:
        train, dev = split(features, num_train)
        assert num_steps(spy, train, dev) == num_fits
        assert fit_and_calibrate(spy, train, dev, seed=0).method == method
    assert len(spy.fitted) == num_fits


@pytest.mark.parametrize(("num_train", "num_dev"), [(40, 0), (24, ENOUGH_DEV)], ids=["cross-conformal", "dev"])
def test_exchangeable_photos_are_rejected_no_more_often_than_asked(num_train: int, num_dev: int) -> None:
    rate, num_new, num_splits = 0.05, 32, 60
    total = num_train + num_dev + num_new
    shares = []
    for seed in range(num_splits):
        with fake_features([str(number) for number in range(total)], seed=seed) as features:
            drawn = features.select(np.random.default_rng(seed).permutation(total).tolist())
            train, rest = split(drawn, num_train)
            dev, new = split(rest, num_dev)
            detector = PhotoNeighbors(layers=(3,), power=1)
            calibration = fit_and_calibrate(detector, train, dev, seed=seed).calibration
            (maps,) = new.batches()
            decisions = calibration.decide(
                detector.predict(maps).score.numpy(), false_alarm_rate=rate, uncertain_rate=rate
            )
        shares.append(decisions.count("reject") / len(decisions))
    error = np.std(shares, ddof=1) / np.sqrt(num_splits)
    bound = rate + 1 / (len(calibration.normal_scores) + 1)
    assert np.mean(shares) <= bound + 2 * error
    assert np.mean(shares) >= 0.01  # it does reject
