"""What must hold of every detector, whatever its method."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from inlier.build import DETECTORS
from inlier.detectors.protocol import Detector
from inlier.errors import ModelError, NotFittedError
from inlier.features.cache import FeatureSet
from inlier.records import Prediction

MakeFeatures = Callable[..., FeatureSet]
Maps = dict[int, Tensor]

SHAPES = {2: (6, 8, 8), 3: (10, 4, 4)}
NUM_PHOTOS = 40
ODD = 3

OPTIONS: dict[str, dict[str, Any]] = {
    # A mean over all patches sees no odd corner, and of these few channels 0.95 of the variance leaves too little.
    "subspace": {"pooling": "top", "explained_variance": 0.8},
    "reverse-distillation": {
        "num_samples": 320,
        "batch_size": 4,
        "bottleneck_rate": 4e-3,
        "student_rate": 4e-3,
        "width": 16,
        "map_size": 16,
        "sigma": 1.0,
    },
}
"""What a detector is built with where its defaults ask for real photos."""

OPTIONAL = ("seen_", "classes_", "background_", "weight_")
"""What only merging and forgetting ask for, and models of earlier versions lack: see test_merging."""

MEMBER_OPTIONS: dict[str, dict[str, Any]] = {"reverse-distillation": {"num_samples": 40}}
"""Likewise as a member of another, which fits it three times as often and has other members to find what is odd."""


def _photos(num_photos: int, *, seed: int) -> Maps:
    """Maps as a network with ReLU gives them: what all photos share, and what each has of its own."""
    shared, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    return {
        layer: (
            2 * torch.rand(1, *shape, generator=shared) + 0.3 * torch.randn(num_photos, *shape, generator=own)
        ).clamp_min(0)
        for layer, shape in SHAPES.items()
    }


def _pick(maps: Maps, places: list[int]) -> Maps:
    return {layer: features[places] for layer, features in maps.items()}


@pytest.fixture(params=sorted(DETECTORS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def build(name: str) -> Callable[[], Detector]:
    """Constructs the detector, unfitted, on the layers of the synthetic photos."""

    def construct(name: str, **others: Any) -> Detector:
        if name == "combined":
            members = (other for other in sorted(DETECTORS) if other != name)
            return DETECTORS[name](members=[construct(other, **MEMBER_OPTIONS.get(other, {})) for other in members])
        return DETECTORS[name](layers=tuple(SHAPES), **{**OPTIONS.get(name, {}), **others})

    return lambda: construct(name)


@pytest.fixture
def normal(make_features: MakeFeatures) -> FeatureSet:
    return make_features(_photos(NUM_PHOTOS, seed=1))


@pytest.fixture
def fitted(build: Callable[[], Detector], normal: FeatureSet) -> Detector:
    return build().fit(normal)


@pytest.fixture(scope="module")
def maps() -> Maps:
    """New photos, one of them with something odd in one corner."""
    maps = _photos(7, seed=2)
    for layer, (_, height, width) in SHAPES.items():
        corner = maps[layer][ODD, :, : height // 4, : width // 4]
        corner.copy_(corner.roll(1, dims=0) + 2 * (torch.arange(len(corner)) % 3 == 0)[:, None, None])
    return maps


def _assert_same(prediction: Prediction, expected: Prediction, *, rtol: float = 0.0) -> None:
    assert torch.allclose(prediction.score, expected.score, rtol=rtol, atol=0.0)
    assert (prediction.anomaly_map is None) == (expected.anomaly_map is None)
    if prediction.anomaly_map is not None and expected.anomaly_map is not None:
        assert torch.allclose(prediction.anomaly_map, expected.anomaly_map, rtol=rtol, atol=0.0)
    assert _references(prediction) == _references(expected)


def _references(prediction: Prediction) -> list[list[int]]:
    return [[reason.reference for reason in reasons] for reasons in prediction.evidence or ()]


def test_unfitted_use_is_refused(name: str, build: Callable[[], Detector], maps: Maps) -> None:
    detector = build()
    sentence = rf"^{type(detector).__name__} is not fitted; call fit or load_state_dict first\.$"
    with pytest.raises(NotFittedError, match=sentence):
        detector.predict(maps)
    with pytest.raises(NotFittedError, match=sentence):
        detector.state_dict()


def test_it_names_its_layers(build: Callable[[], Detector]) -> None:
    assert build().layers == tuple(SHAPES)


def test_fit_returns_self(build: Callable[[], Detector], normal: FeatureSet) -> None:
    detector = build()
    assert detector.fit(normal) is detector


def test_no_photos_are_refused(build: Callable[[], Detector], normal: FeatureSet) -> None:
    detector = build()
    sentence = rf"^{type(detector).__name__} needs at least one normal photo to learn from, got none\.$"
    with pytest.raises(ValueError, match=sentence):
        detector.fit(normal.select([]))


def test_shapes_types_and_finiteness_hold(fitted: Detector, maps: Maps) -> None:
    prediction = fitted.predict(maps)
    assert (prediction.score.shape, prediction.score.dtype) == ((7,), torch.float32)
    assert prediction.score.isfinite().all()
    if prediction.anomaly_map is not None:
        assert (prediction.anomaly_map.ndim, len(prediction.anomaly_map)) == (3, 7)
        assert prediction.anomaly_map.dtype == torch.float32
        assert prediction.anomaly_map.isfinite().all()


def test_evidence_points_into_photos(fitted: Detector, maps: Maps) -> None:
    evidence = fitted.predict(maps).evidence
    assert evidence is None or len(evidence) == 7
    for reason in (reason for reasons in evidence or () for reason in reasons):
        assert 0 <= reason.reference < NUM_PHOTOS
        assert reason.distance >= 0
        for left, top, right, bottom in (reason.box, reason.reference_box):
            assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def test_an_odd_photo_stands_out(fitted: Detector, maps: Maps) -> None:
    assert int(fitted.predict(maps).score.argmax()) == ODD


def test_a_photo_that_was_learned_is_less_odd_than_a_new_one(name: str, fitted: Detector) -> None:
    if name == "subspace":
        pytest.skip("a few directions of thousands of patches remember no single photo")
    known = fitted.predict(_photos(NUM_PHOTOS, seed=1)).score
    new = fitted.predict(_photos(NUM_PHOTOS, seed=2)).score
    assert known.mean() < new.mean()


def test_batch_size_changes_nothing(fitted: Detector, maps: Maps) -> None:
    together = fitted.predict(maps)
    for place in range(7):
        alone = fitted.predict(_pick(maps, [place]))
        anomaly_map, evidence = together.anomaly_map, together.evidence
        expected = Prediction(
            together.score[[place]],
            None if anomaly_map is None else anomaly_map[[place]],
            None if evidence is None else (evidence[place],),
        )
        _assert_same(alone, expected, rtol=1e-4)


def test_photos_are_left_as_they_were_and_other_layers_ignored(fitted: Detector, maps: Maps) -> None:
    copies = {layer: features.clone() for layer, features in maps.items()}
    prediction = fitted.predict({1: torch.rand(7, 2, 16, 16), **maps, 9: torch.rand(7, 2, 1, 1)})
    assert all(torch.equal(maps[layer], copies[layer]) for layer in maps)
    _assert_same(prediction, fitted.predict(maps))


def test_the_same_data_give_the_same_result(
    fitted: Detector, build: Callable[[], Detector], normal: FeatureSet, maps: Maps
) -> None:
    _assert_same(build().fit(normal).predict(maps), fitted.predict(maps))


def test_fitting_again_forgets(
    fitted: Detector, build: Callable[[], Detector], make_features: MakeFeatures, maps: Maps
) -> None:
    others = make_features(_photos(NUM_PHOTOS // 2, seed=3))
    before = fitted.predict(maps)
    fitted.fit(others)
    assert not torch.equal(fitted.predict(maps).score, before.score)
    _assert_same(fitted.predict(maps), build().fit(others).predict(maps))


def test_the_order_of_photos_does_not_matter(
    fitted: Detector, build: Callable[[], Detector], normal: FeatureSet, maps: Maps
) -> None:
    order = torch.randperm(NUM_PHOTOS, generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = build().fit(normal.select(order)).predict(maps)
    prediction = fitted.predict(maps)
    assert torch.allclose(shuffled.score, prediction.score, rtol=1e-3)
    assert [[order[place] for place in places] for places in _references(shuffled)] == _references(prediction)


def test_state_round_trips(fitted: Detector, build: Callable[[], Detector], maps: Maps) -> None:
    state = fitted.state_dict()
    other = build()
    assert other.load_state_dict({name: tensor.clone() for name, tensor in state.items()}) is other
    _assert_same(other.predict(maps), fitted.predict(maps))
    again = other.state_dict()
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_an_incomplete_state_is_refused(fitted: Detector, build: Callable[[], Detector]) -> None:
    state = fitted.state_dict()
    for missing in state:
        if missing.rpartition(".")[2] in OPTIONAL:
            continue
        name = re.escape(re.sub(r"^(\d+\.)+", "", missing))  # without the member's number
        sentence = rf"^The saved \w+ lacks {name}; the model is damaged or of another version\.$"
        with pytest.raises(ModelError, match=sentence):
            build().load_state_dict({name: tensor for name, tensor in state.items() if name != missing})


def test_one_photo_is_enough(build: Callable[[], Detector], make_features: MakeFeatures, maps: Maps) -> None:
    prediction = build().fit(make_features(_photos(1, seed=1))).predict(maps)
    assert prediction.score.isfinite().all()
    assert int(prediction.score.argmax()) == ODD


def test_copies_of_one_photo_are_no_obstacle(
    build: Callable[[], Detector], make_features: MakeFeatures, maps: Maps
) -> None:
    copies = make_features(_pick(_photos(1, seed=1), [0] * 12))
    prediction = build().fit(copies).predict(maps)
    assert prediction.score.isfinite().all()
    assert int(prediction.score.argmax()) == ODD


def test_photos_without_any_activation_are_no_obstacle(
    build: Callable[[], Detector], make_features: MakeFeatures
) -> None:
    blank = {layer: torch.zeros(5, *shape) for layer, shape in SHAPES.items()}
    assert build().fit(make_features(blank)).predict(blank).score.isfinite().all()
