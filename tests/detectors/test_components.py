from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from inlier.detectors import components as module
from inlier.detectors.components import Components, component_names
from inlier.errors import ModelError, NotFittedError
from inlier.features.cache import FeatureCache, FeatureSet
from inlier.features.pooling import embed_photos

MakeFeatures = Callable[..., FeatureSet]
CLASSES = ("camshaft", "piston", "valve")


def _maps(members: list[int], *, seed: int, spread: float = 0.6) -> dict[int, Tensor]:
    """Maps (B, 6, 2, 2) of photos of these classes, which overlap."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1 + torch.eye(6)[: len(CLASSES)]
    noise = spread * torch.randn(len(members), 6, 1, 1, generator=generator)
    return {4: (centres[members][:, :, None, None] + noise).expand(-1, -1, 2, 2).clamp_min(0).contiguous()}


def _fitted(make_features: MakeFeatures, num_photos: int = 90, **options: Any) -> Components:
    members = [number % 3 for number in range(num_photos)]
    features = make_features(_maps(members, seed=1), labels=[CLASSES[member] for member in members])
    return Components(layers=(4,), power=1, **options).fit(features)


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module) == (0, 3)


def test_the_class_is_that_of_linear_discriminant_analysis(make_features: MakeFeatures) -> None:
    """scikit-learn's, given the same shrunk covariance; the probability is that of the docstring's formula."""
    members = [number % 3 for number in range(90)]
    train, test = _maps(members, seed=1), _maps([0, 1, 2] * 10, seed=2)
    components = _fitted(make_features)
    rows = embed_photos([train[4]], power=1).double().numpy()
    residuals = np.concatenate([rows[k::3] - rows[k::3].mean(axis=0) for k in range(3)])
    shrunk = LedoitWolf(assume_centered=True).fit(residuals)
    reference = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=_Given(shrunk.covariance_), priors=[1 / 3] * 3
    )
    reference.fit(rows, members)
    queries = embed_photos([test[4]], power=1).double().numpy()
    inverse = np.linalg.inv(shrunk.covariance_)
    squared = np.stack(
        [[(q - rows[k::3].mean(0)) @ inverse @ (q - rows[k::3].mean(0)) for k in range(3)] for q in queries]
    )
    spread, temperature = float(components.spread_), float(components.temperature_)
    student = (1 + squared / spread) ** (-spread / 2 / temperature)  # a multivariate t, to the power 1 / temperature
    expected = student / student.sum(axis=1, keepdims=True)
    classes = reference.predict(queries)
    for (name, probability), row, member in zip(components.suggest(test), expected, classes, strict=True):
        assert name == CLASSES[int(member)] == CLASSES[int(row.argmax())]
        assert probability == pytest.approx(row.max(), rel=1e-2)


def test_far_from_every_class_it_is_less_sure(make_features: MakeFeatures) -> None:
    """A Gaussian would be surer the farther away; here a photo of nothing known is hardly told apart."""
    components = _fitted(make_features)
    near = {4: 1 + torch.eye(6)[:1, :, None, None].expand(1, 6, 2, 2)}
    far = {4: torch.tensor([0.6, 0.5, 0.5, 9.0, 9.0, 9.0])[None, :, None, None].expand(1, 6, 2, 2)}
    (_, of_near), (_, of_far) = components.suggest(near)[0], components.suggest(far)[0]
    assert of_far < of_near


class _Given:
    """A covariance that scikit-learn's estimator takes as it is."""

    def __init__(self, covariance: np.ndarray) -> None:
        self.covariance_ = covariance

    def get_params(self, deep: bool = True) -> dict[str, np.ndarray]:
        return {"covariance": self.covariance_}

    def fit(self, rows: np.ndarray) -> _Given:
        return self


def test_probabilities_are_as_sure_as_they_are_right(make_features: MakeFeatures) -> None:
    components = _fitted(make_features, 300)
    members = [0, 1, 2] * 700
    found = components.suggest(_maps(members, seed=5))
    is_right = np.array([name == CLASSES[member] for (name, _), member in zip(found, members, strict=True)])
    probability = np.array([p for _, p in found])
    assert 0.6 < is_right.mean() < 0.99  # the classes do overlap
    assert probability.mean() == pytest.approx(is_right.mean(), abs=0.04)
    unsure, sure = probability < np.median(probability), probability >= np.median(probability)
    for part in (unsure, sure):
        assert probability[part].mean() == pytest.approx(is_right[part].mean(), abs=0.06)


def test_labels_of_one_photo_or_none_are_no_classes(make_features: MakeFeatures) -> None:
    assert component_names(["b", "", "a", "b", "a", "single", ""]) == ("a", "b")
    maps = _maps([0, 0, 1, 1, 2, 2], seed=1)
    components = Components(layers=(4,)).fit(make_features(maps, labels=["b", "b", "a", "a", "single", ""]))
    assert components.names == ("a", "b")
    assert {name for name, _ in components.suggest(maps)} <= {"a", "b"}
    one = Components(layers=(4,)).fit(make_features(maps, labels=["", "", "a", "a", "", ""]))
    assert one.suggest(_maps([0], seed=3)) == [("a", 1.0)]
    with pytest.raises(ValueError, match=r"^Components needs at least two photos with one label, got none\.$"):
        Components(layers=(4,)).fit(make_features(maps, labels=list("abcdef")))


def test_two_photos_of_each_class_are_enough(make_features: MakeFeatures) -> None:
    components = _fitted(make_features, 6)
    assert math.isfinite(float(components.temperature_)) and float(components.temperature_) > 0
    assert components.suggest(_maps([1], seed=9, spread=0.01))[0][0] == "piston"


def test_altered_copies_do_not_decide_how_sure_it_is(make_features: MakeFeatures) -> None:
    """Copies that are easy to name would make it too sure of itself."""
    members = [0, 1, 2] * 30
    hard, easy = _maps(members, seed=1), _maps(members, seed=2, spread=0.01)
    maps = {4: torch.cat([hard[4], easy[4]])}
    groups = [f"{number:03d}" for number in range(90)] * 2
    labels = [CLASSES[member] for member in members] * 2
    temperatures = []
    for is_view in ([False] * 90 + [True] * 90, [False] * 180):
        with FeatureCache(dtype=torch.float32) as cache:
            cache.append(maps, groups=groups, labels=labels, is_view=is_view)
            temperatures.append(float(Components(layers=(4,), power=1).fit(cache.features()).temperature_))
    assert temperatures[0] > 1.2 * temperatures[1]


def test_state_round_trips_and_lacks_nothing(make_features: MakeFeatures) -> None:
    components = _fitted(make_features)
    state = {name: tensor.clone() for name, tensor in components.state_dict().items()}
    other = Components(layers=(4,), power=1).load_state_dict(state)
    maps = _maps([0, 1, 2], seed=4)
    assert other.suggest(maps) == components.suggest(maps) and other.names == CLASSES
    for missing in state:
        rest = {name: tensor for name, tensor in state.items() if name != missing}
        with pytest.raises(ModelError, match=rf"^The saved Components lacks {missing}; "):
            Components(layers=(4,)).load_state_dict(rest)


def test_names_of_any_script_survive(make_features: MakeFeatures) -> None:
    maps = _maps([0, 0, 1, 1], seed=1)
    names = (
        "Kolbenkrone \N{LATIN SMALL LETTER SHARP S}",
        "\N{CJK UNIFIED IDEOGRAPH-6D3B}\N{CJK UNIFIED IDEOGRAPH-585E}",
    )
    components = Components(layers=(4,)).fit(make_features(maps, labels=[names[0]] * 2 + [names[1]] * 2))
    assert Components(layers=(4,)).load_state_dict(components.state_dict()).names == names


def test_unfitted_use_and_bad_parameters_are_refused() -> None:
    for use in (lambda c: c.suggest(_maps([0], seed=0)), lambda c: c.state_dict(), lambda c: c.names):
        with pytest.raises(NotFittedError, match=r"^Components is not fitted; call fit or load_state_dict first\.$"):
            use(Components(layers=(4,)))
    with pytest.raises(ValueError, match=r"^power of Components must be at least 1, got 0\.5\.$"):
        Components(power=0.5)
    with pytest.raises(
        ValueError, match=r"^layers of Components must be different whole numbers from 1 on, got \[\]\.$"
    ):
        Components(layers=())
