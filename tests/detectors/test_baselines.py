from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM
from torch import Tensor

from inlier.detectors import baselines as module
from inlier.detectors.baselines import METHODS, Baseline, Method
from inlier.features.cache import FeatureSet
from inlier.features.pooling import embed_photos

MakeFeatures = Callable[..., FeatureSet]


def _maps(num_photos: int, *, seed: int) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        3: torch.rand(num_photos, 5, 4, 4, generator=generator),
        4: torch.rand(num_photos, 7, 2, 2, generator=generator),
    }


def _embed(maps: dict[int, Tensor]) -> np.ndarray:
    return embed_photos([maps[3], maps[4]], power=1.0).double().numpy()


def _sorted(rows: np.ndarray) -> np.ndarray:
    return np.array(sorted(map(tuple, rows)))


def _scores(detector: Baseline, maps: dict[int, Tensor]) -> np.ndarray:
    return detector.predict(maps).score.numpy()


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    return request.param  # type: ignore[no-any-return]


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 3)


@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_scikit_learn(method: Method, seed: int, make_features: MakeFeatures) -> None:
    train, test = _maps(45, seed=1), _maps(9, seed=2)
    photos, new = _sorted(_embed(train)), _embed(test)
    expected = {
        "one-class-svm": lambda: -OneClassSVM().fit(photos).score_samples(new),
        "mahalanobis": lambda: np.sqrt(LedoitWolf().fit(photos).mahalanobis(new)),
        "nearest-neighbor": lambda: NearestNeighbors().fit(photos).kneighbors(new)[0].min(axis=1),
        "isolation-forest": lambda: -IsolationForest(random_state=seed).fit(photos).score_samples(new),
    }[method]()
    detector = Baseline(method=method, seed=seed).fit(make_features(train))
    assert _scores(detector, test) == pytest.approx(expected, rel=1e-5)


def test_distance_to_the_nearest_photo_by_hand(make_features: MakeFeatures) -> None:
    train = {3: torch.tensor([[3.0, 4.0], [0.0, 2.0], [-6.0, 8.0]])[..., None, None]}  # directions of length 1
    detector = Baseline(method="nearest-neighbor", layers=(3,)).fit(make_features(train))
    test = {3: torch.tensor([[0.4, 0.3], [-3.0, 0.0], [0.0, 9.0]])[..., None, None]}  # (0.8, 0.6), (-1, 0), (0, 1)
    expected = [math.hypot(0.2, 0.2), math.hypot(0.4, 0.8), 0.0]
    assert _scores(detector, test).tolist() == pytest.approx(expected, abs=1e-6)


def test_an_odd_photo_stands_out_and_order_and_batches_change_nothing(
    method: Method, make_features: MakeFeatures
) -> None:
    features, test = make_features(_maps(60, seed=1)), _maps(6, seed=2)
    test[3][4] = test[3][4] * torch.tensor([3.0, 0.1, 1.0, 0.0, 2.0])[:, None, None]
    detector = Baseline(method=method).fit(features)
    scores = _scores(detector, test)
    assert scores.dtype == np.float32 and int(scores.argmax()) == 4
    for place in range(6):
        alone = {layer: maps[[place]] for layer, maps in test.items()}
        assert _scores(detector, alone) == pytest.approx(scores[[place]], rel=1e-5)
    order = np.random.default_rng(0).permutation(60).tolist()
    assert _scores(Baseline(method=method).fit(features.select(order)), test).tolist() == scores.tolist()


def test_a_saved_one_is_fitted_again_to_the_same(method: Method, make_features: MakeFeatures, tmp_path: Path) -> None:
    test = _maps(6, seed=2)
    detector = Baseline(method=method).fit(make_features(_maps(40, seed=1)))
    save_file(detector.state_dict(), tmp_path / "state.safetensors")
    loaded = Baseline(method=method).load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert _scores(loaded, test).tolist() == _scores(detector, test).tolist()


@pytest.mark.parametrize("num_copies", [1, 2, 30])
def test_of_one_photo_the_distance_to_it_is_left(method: Method, num_copies: int, make_features: MakeFeatures) -> None:
    one, test = _maps(1, seed=1), _maps(4, seed=2)
    train = {layer: maps.expand(num_copies, -1, -1, -1) for layer, maps in one.items()}
    detector = Baseline(method=method).fit(make_features(train))
    assert _scores(detector, test) == pytest.approx(np.linalg.norm(_embed(test) - _embed(one), axis=1), rel=1e-5)


@pytest.mark.parametrize("num_photos", [2, 3, 5])
def test_a_few_photos_are_enough(method: Method, num_photos: int, make_features: MakeFeatures) -> None:
    scores = _scores(Baseline(method=method).fit(make_features(_maps(num_photos, seed=1))), _maps(6, seed=2))
    assert np.isfinite(scores).all()
    assert np.unique(scores).size > 1 or (method, num_photos) == ("isolation-forest", 2)  # each cut leaves one alone


def test_no_more_photos_are_kept_than_allowed(make_features: MakeFeatures) -> None:
    train = _maps(41, seed=1)
    detector = Baseline(max_photos=5).fit(make_features(train))
    assert detector.photos_.numpy() == pytest.approx(_sorted(_embed(train))[[0, 10, 20, 30, 40]])
    assert Baseline(max_photos=41).fit(make_features(train)).photos_.shape == (41, 12)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"method": "pca"},
            r"^method of Baseline must be one of one-class-svm, mahalanobis, nearest-neighbor, isolation-forest, "
            r"got 'pca'\.$",
        ),
        ({"layers": (3, 3)}, r"^layers of Baseline must be different whole numbers from 1 on, got \[3, 3\]\.$"),
        ({"power": 0.5}, r"^power of Baseline must be at least 1, got 0\.5\.$"),
        ({"power": math.inf}, r"^power of Baseline must be at least 1, got inf\.$"),
        ({"max_photos": 0}, r"^max_photos of Baseline must be at least 1, got 0\.$"),
        ({"seed": -1}, r"^seed of Baseline must be at least 0, got -1\.$"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Baseline(**options)
