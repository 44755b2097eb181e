from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from torch import Tensor

from inlier.detectors import photo_neighbors as module
from inlier.detectors.coreset import greedy_coreset
from inlier.detectors.photo_neighbors import PhotoNeighbors
from inlier.features.cache import FeatureSet
from inlier.features.pooling import embed_photos
from inlier.records import Evidence

MakeFeatures = Callable[..., FeatureSet]
WHOLE = (0.0, 0.0, 1.0, 1.0)


def _maps(num_photos: int, *, seed: int) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        3: torch.rand(num_photos, 5, 4, 4, generator=generator),
        4: torch.rand(num_photos, 7, 2, 2, generator=generator),
    }


def _embed(maps: dict[int, Tensor]) -> np.ndarray:
    return embed_photos([maps[3], maps[4]], power=3.0).double().numpy()


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 3)


@pytest.mark.parametrize("num_photos", [5, 12, 300])
def test_squared_distance_to_the_mean_is_the_mahalanobis_distance(num_photos: int, make_features: MakeFeatures) -> None:
    train, test = _maps(num_photos, seed=1), _maps(6, seed=2)
    detector = PhotoNeighbors().fit(make_features(train))
    whitened = (torch.from_numpy(_embed(test)).float() - detector.mean_) @ detector.whitening_
    expected = LedoitWolf().fit(_embed(train)).mahalanobis(_embed(test))
    assert whitened.square().sum(dim=1).numpy() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("num_neighbors", [1, 3, 50])
def test_the_score_is_the_mean_mahalanobis_distance_to_the_nearest_photos(
    num_neighbors: int, make_features: MakeFeatures
) -> None:
    train, test = _maps(40, seed=1), _maps(6, seed=2)
    prediction = PhotoNeighbors(num_neighbors=num_neighbors).fit(make_features(train)).predict(test)
    precision = LedoitWolf().fit(_embed(train)).precision_
    distances = cdist(_embed(test), _embed(train), "mahalanobis", VI=precision)
    expected = np.sort(distances, axis=1)[:, :num_neighbors].mean(axis=1)  # of all 40 where 50 are asked for
    assert prediction.score.numpy() == pytest.approx(expected, rel=1e-3)
    assert prediction.anomaly_map is None
    assert prediction.evidence is not None
    for reasons, row in zip(prediction.evidence, distances, strict=True):
        nearest = int(row.argmin())
        assert reasons == (Evidence(WHOLE, nearest, WHOLE, pytest.approx(row[nearest], rel=1e-3)),)


def test_with_classes_the_unit_is_how_photos_of_one_class_differ(make_features: MakeFeatures) -> None:
    train, test = _maps(30, seed=1), _maps(6, seed=2)
    train[4][::2] += 5  # two kinds of photos
    labels = ["far", "near"] * 15
    detector = PhotoNeighbors(num_neighbors=2).fit(make_features(train, labels=labels))
    rows = _embed(train)
    residuals = np.concatenate([rows[place::2] - rows[place::2].mean(axis=0) for place in (0, 1)])
    precision = LedoitWolf(assume_centered=True).fit(residuals).precision_
    expected = np.sort(cdist(_embed(test), rows, "mahalanobis", VI=precision), axis=1)[:, :2].mean(axis=1)
    assert detector.predict(test).score.numpy() == pytest.approx(expected, rel=1e-3)
    without = PhotoNeighbors(num_neighbors=2).fit(make_features(train)).predict(test)
    assert without.score.numpy() != pytest.approx(expected, rel=1e-2)


def test_a_background_is_worth_as_many_photos_as_it_is_told(make_features: MakeFeatures) -> None:
    """The formula of the docstring, in scikit-learn's and NumPy's words."""
    train, others, test = _maps(15, seed=1), _maps(25, seed=3), _maps(6, seed=2)
    others[3] += 1
    both = {layer: torch.cat([train[layer], others[layer]]) for layer in train}
    features = make_features(both)
    own = features.select(range(15)).before(features.select(range(15, 40)))
    score = PhotoNeighbors(num_neighbors=1, background_photos=5).fit(own).predict(test).score.numpy()
    rows, archive = _embed(train), _embed(others)
    share = 5 / (15 + 5)
    of_rows, of_archive = LedoitWolf().fit(rows).covariance_, LedoitWolf().fit(archive).covariance_
    covariance = (1 - share) * of_rows + share * of_archive * np.trace(of_rows) / np.trace(of_archive)
    precision = np.linalg.inv(covariance)
    nearest = cdist(_embed(test), rows, "mahalanobis", VI=precision).min(axis=1)
    way = archive.mean(axis=0) - rows.mean(axis=0)
    towards = (_embed(test) - rows.mean(axis=0)) @ precision @ way / math.sqrt(way @ precision @ way)
    assert score == pytest.approx(nearest + share * np.maximum(towards, 0), rel=1e-3)
    alone = PhotoNeighbors(num_neighbors=1).fit(features.select(range(15))).predict(test).score
    deaf = PhotoNeighbors(num_neighbors=1, background_photos=0).fit(own).predict(test).score
    assert torch.equal(deaf, alone)


def test_one_photo_before_a_background_is_measured_in_its_units(make_features: MakeFeatures) -> None:
    features = make_features(_maps(26, seed=3))
    detector = PhotoNeighbors().fit(features.select([0]).before(features.select(range(1, 26))))
    assert not torch.equal(detector.whitening_, torch.eye(12))
    assert detector.predict(_maps(3, seed=2)).score.isfinite().all()


def test_without_whitening_distances_are_those_of_the_embeddings(make_features: MakeFeatures) -> None:
    train, test = _maps(20, seed=1), _maps(4, seed=2)
    detector = PhotoNeighbors(is_whitened=False, num_neighbors=2).fit(make_features(train))
    expected = np.sort(cdist(_embed(test), _embed(train)), axis=1)[:, :2].mean(axis=1)
    assert detector.predict(test).score.numpy() == pytest.approx(expected, rel=1e-4)


def test_no_more_photos_are_kept_than_asked_for_and_their_numbers_stay(make_features: MakeFeatures) -> None:
    train = _maps(50, seed=1)
    detector = PhotoNeighbors(max_photos=8).fit(make_features(train))
    assert detector.photos_.shape == (8, 12)
    whitened = PhotoNeighbors().fit(make_features(train)).photos_
    assert torch.equal(detector.numbers_, greedy_coreset(whitened, 8).indices)
    some = {layer: features[detector.numbers_] for layer, features in train.items()}
    prediction = detector.predict(some)
    assert prediction.evidence is not None
    assert [reasons[0].reference for reasons in prediction.evidence] == detector.numbers_.tolist()
    assert [reasons[0].distance for reasons in prediction.evidence] == pytest.approx([0] * 8, abs=1e-3)


def test_where_things_are_does_not_matter(make_features: MakeFeatures) -> None:
    test = _maps(3, seed=2)
    mirrored = {layer: features.flip(3) for layer, features in test.items()}
    detector = PhotoNeighbors().fit(make_features(_maps(20, seed=1)))
    assert torch.allclose(detector.predict(test).score, detector.predict(mirrored).score, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": (3, 3)}, r"^layers of PhotoNeighbors must be different whole numbers from 1 on, got \[3, 3\]\.$"),
        ({"power": 0.5}, r"^power of PhotoNeighbors must be at least 1, got 0\.5\.$"),
        ({"power": math.nan}, r"^power of PhotoNeighbors must be at least 1, got nan\.$"),
        ({"power": math.inf}, r"^power of PhotoNeighbors must be at least 1, got inf\.$"),
        ({"num_neighbors": 0}, r"^num_neighbors of PhotoNeighbors must be at least 1, got 0\.$"),
        ({"background_photos": -1}, r"^background_photos of PhotoNeighbors must be at least 0, got -1\.$"),
        ({"max_photos": 0}, r"^max_photos of PhotoNeighbors must be at least 1, got 0\.$"),
    ],
)
def test_parameters_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PhotoNeighbors(**options)
