from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from inlier.build import DETECTORS
from inlier.detectors.baselines import METHODS
from inlier.detectors.combined import Combined
from inlier.detectors.components import Components
from inlier.detectors.protocol import Detector
from inlier.errors import ConfigError
from inlier.exporting.forwards import FORWARDS, ComponentForward, forward_of
from inlier.features.cache import FeatureCache, FeatureSet

SHAPES = {2: (6, 8, 8), 3: (10, 4, 4)}
NUM_LEARNED, NUM_JUDGED = 24, 6
TRAINED = {"num_samples": 16, "batch_size": 4, "width": 16, "map_size": 16}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "patchcore": ("patchcore", {}),
    "patchcore as in the paper": (
        "patchcore",
        {"distance": "euclidean", "pooling": "max", "is_reweighted": True, "num_neighbors": 4},
    ),
    "patchcore with few cells": ("patchcore", {"max_cells": 20, "embedding_width": 7, "coreset_ratio": 0.3}),
    "patchcore of single cells": ("patchcore", {"patch_size": 1, "pooling": "mean", "sigma": 0.0}),
    "patchcore with a bank of one row": (
        "patchcore",
        {"max_bank_rows": 1, "pooling": "max", "is_reweighted": True},
    ),
    "subspace": ("subspace", {"explained_variance": 0.6}),
    "subspace of vectors": ("subspace", {"distance": "euclidean", "pooling": "top", "explained_variance": 0.5}),
    "photo-subspace": ("photo-subspace", {}),
    "photo-neighbors": ("photo-neighbors", {}),
    "photo-neighbors as they are": ("photo-neighbors", {"is_whitened": False, "power": 1.0, "num_neighbors": 1}),
    "reverse-distillation": ("reverse-distillation", TRAINED),
    "reverse-distillation as a product": (
        "reverse-distillation",
        {**TRAINED, "combination": "product", "pooling": "max", "sigma": 0.0},
    ),
    **{f"baseline {method}": ("baseline", {"method": method}) for method in METHODS if method != "isolation-forest"},
}


def photos(number: int, *, seed: int) -> dict[int, Tensor]:
    """Maps as a network with ReLU gives them: what all photos share, and what each has of its own."""
    shared, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    return {
        layer: (
            2 * torch.rand(1, *shape, generator=shared) + 0.3 * torch.randn(number, *shape, generator=own)
        ).clamp_min(0)
        for layer, shape in SHAPES.items()
    }


@pytest.fixture(scope="module")
def features() -> Iterator[FeatureSet]:
    labels = ["valve", "piston"] * (NUM_LEARNED // 2)
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(photos(NUM_LEARNED, seed=1), groups=[str(n) for n in range(NUM_LEARNED)], labels=labels)
        yield cache.features()


def assert_same(detector: Detector) -> None:
    """On photos that were learned, at a distance of next to nothing, and on others."""
    forward = forward_of(detector, SHAPES)
    for maps in (photos(NUM_JUDGED, seed=2), photos(2, seed=1)):
        wanted = detector.predict(maps)
        spread = float(detector.predict(photos(NUM_LEARNED, seed=3)).score.std())
        for place in range(len(wanted.score)):
            score, anomaly_map = forward({layer: of[place : place + 1] for layer, of in maps.items()})
            torch.testing.assert_close(score[0], wanted.score[place], rtol=0, atol=1e-3 * spread)
            assert (anomaly_map is None) == (wanted.anomaly_map is None)
            if anomaly_map is not None and wanted.anomaly_map is not None:
                atol = 1e-3 * float(wanted.anomaly_map.std()) + 1e-6
                torch.testing.assert_close(anomaly_map[0], wanted.anomaly_map[place], rtol=0, atol=atol)


@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)
def test_a_forward_scores_as_its_detector_does(features: FeatureSet, name: str, options: dict[str, Any]) -> None:
    assert_same(DETECTORS[name](layers=tuple(SHAPES), **options).fit(features))


def test_several_detectors_are_one(features: FeatureSet) -> None:
    members = [DETECTORS[name](layers=tuple(SHAPES)) for name in ("photo-neighbors", "patchcore", "photo-subspace")]
    assert_same(Combined(members).fit(features))


def test_photos_all_alike_leave_no_subspace_and_no_covariance() -> None:
    alike = {layer: of.repeat(5, 1, 1, 1) for layer, of in photos(1, seed=4).items()}
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append(alike, groups=list("abcde"))
        for name in ("photo-subspace", "baseline", "photo-neighbors"):
            assert_same(DETECTORS[name](layers=tuple(SHAPES)).fit(cache.features()))


def test_every_detector_has_a_forward() -> None:
    assert set(FORWARDS) == set(DETECTORS.values())


def test_components_are_named_as_before(features: FeatureSet) -> None:
    components = Components(layers=tuple(SHAPES)).fit(features)
    forward = ComponentForward(components)
    maps = photos(NUM_JUDGED, seed=2)
    for place, (name, probability) in enumerate(components.suggest(maps)):
        number, found = forward({layer: of[place : place + 1] for layer, of in maps.items()})
        assert components.names[int(number)] == name
        assert float(found) == pytest.approx(probability, abs=1e-4)


def test_trees_are_no_tensors(features: FeatureSet) -> None:
    forest = DETECTORS["baseline"](layers=(3,), method="isolation-forest").fit(features)
    with pytest.raises(ConfigError, match=r"^baseline with method isolation-forest cannot be exported: its trees are"):
        forward_of(forest, SHAPES)


def test_a_foreign_detector_is_refused(features: FeatureSet) -> None:
    class Novel:
        pass

    with pytest.raises(ConfigError, match=r"^Novel cannot be exported; fit another detector\.$"):
        forward_of(Novel(), SHAPES)  # type: ignore[arg-type]
