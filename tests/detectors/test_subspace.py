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
from sklearn.decomposition import PCA
from torch import Tensor

from inlier.detectors import subspace as module
from inlier.detectors.moments import Moments
from inlier.detectors.subspace import PatchSubspace, PhotoSubspace, Subspace
from inlier.errors import NotFittedError
from inlier.features.cache import FeatureSet
from inlier.features.patches import embed_patches
from inlier.features.pooling import embed_photos

MakeFeatures = Callable[..., FeatureSet]
Either = type[PatchSubspace] | type[PhotoSubspace]


def _maps(num_photos: int, *, seed: int) -> dict[int, Tensor]:
    """Photos that differ more in some channels than in others, and are not centred at 0."""
    generator = torch.Generator().manual_seed(seed)
    scales = {layer: torch.linspace(0.1, 1.0, depth)[:, None, None] for layer, depth in ((2, 6), (3, 9))}
    return {
        2: 1 + scales[2] * torch.randn(num_photos, 6, 6, 6, generator=generator),
        3: 1 + scales[3] * torch.randn(num_photos, 9, 3, 3, generator=generator),
    }


def _residuals(train: np.ndarray, test: np.ndarray, explained_variance: float) -> np.ndarray:
    pca = PCA(explained_variance, svd_solver="full").fit(train)
    reconstructed: np.ndarray = pca.inverse_transform(pca.transform(test))
    return np.linalg.norm(test - reconstructed, axis=-1)


def _scores(detector: PatchSubspace | PhotoSubspace, maps: dict[int, Tensor]) -> np.ndarray:
    return detector.predict(maps).score.numpy()


def test_the_examples_of_the_docstrings_run() -> None:
    assert doctest.testmod(module) == (0, 6)


def test_distance_from_a_line_by_hand() -> None:
    rows = torch.tensor([[0.0, 1.0, 0.0], [2.0, 3.0, 0.0], [4.0, 5.0, 0.0]])  # y = x + 1, z = 0
    subspace = Subspace.of(Moments.of(rows), explained_variance=0.9)
    assert subspace.directions.shape == (3, 1)
    new = torch.tensor([[7.0, 8.0, 0.0], [2.0, 3.0, 5.0], [3.0, 2.0, 0.0], [-1.0, 0.0, -2.0]])
    assert subspace.residuals(new).tolist() == pytest.approx([0.0, 5.0, math.sqrt(2), 2.0], abs=1e-5)


@pytest.mark.parametrize("explained_variance", [0.3, 0.8, 0.95, 0.97])
@pytest.mark.parametrize(("distance", "patch_size"), [("cosine", 3), ("euclidean", 1)])
def test_patch_residuals_agree_with_scikit_learn(
    explained_variance: float, distance: Any, patch_size: int, make_features: MakeFeatures
) -> None:
    train, test = _maps(40, seed=1), _maps(5, seed=2)  # 40 are two batches

    def embed(maps: dict[int, Tensor]) -> np.ndarray:
        patches = embed_patches([maps[2], maps[3]], patch_size=patch_size, is_cosine=distance == "cosine")
        return patches.flatten(0, 2).double().numpy()

    options: dict[str, Any] = {"layers": (2, 3), "distance": distance, "patch_size": patch_size, "map_size": 6}
    detector = PatchSubspace(explained_variance=explained_variance, sigma=0, **options).fit(make_features(train))
    prediction = detector.predict(test)
    expected = _residuals(embed(train), embed(test), explained_variance).reshape(5, 36)
    assert prediction.anomaly_map is not None
    assert prediction.anomaly_map.flatten(1).numpy() == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert prediction.score.numpy() == pytest.approx(expected.mean(axis=1), rel=1e-3)


@pytest.mark.parametrize("explained_variance", [0.3, 0.8, 0.999])
@pytest.mark.parametrize("num_photos", [3, 60])
def test_photo_residuals_agree_with_scikit_learn(
    explained_variance: float, num_photos: int, make_features: MakeFeatures
) -> None:
    train, test = _maps(num_photos, seed=1), _maps(5, seed=2)
    detector = PhotoSubspace(layers=(2, 3), power=2.0, explained_variance=explained_variance).fit(make_features(train))
    first, second = (embed_photos([maps[2], maps[3]], power=2.0).double().numpy() for maps in (train, test))
    assert _scores(detector, test) == pytest.approx(_residuals(first, second, explained_variance), rel=1e-3)


@pytest.mark.parametrize(("pooling", "top_ratio"), [("max", 0.5), ("mean", 0.5), ("top", 0.25)])
def test_the_score_is_pooled_from_the_patches(pooling: Any, top_ratio: float, make_features: MakeFeatures) -> None:
    options: dict[str, Any] = {"layers": (2,), "map_size": 6, "sigma": 0}
    detector = PatchSubspace(pooling=pooling, top_ratio=top_ratio, **options).fit(make_features(_maps(9, seed=1)))
    prediction = detector.predict(_maps(4, seed=2))
    assert prediction.anomaly_map is not None
    residuals = np.sort(prediction.anomaly_map.flatten(1).numpy(), axis=1)[:, ::-1]
    num_cells = {"max": 1, "mean": 36, "top": 9}[pooling]
    assert prediction.score.numpy() == pytest.approx(residuals[:, :num_cells].mean(axis=1), rel=1e-5)


def test_a_planted_defect_is_found_where_it_is(make_features: MakeFeatures) -> None:
    test = _maps(1, seed=2)
    test[2][0, :, 4, 1] = test[2][0, :, 4, 1].flip(0) + torch.tensor([3.0, -3.0] * 3)
    detector = PatchSubspace(layers=(2,), patch_size=1, pooling="max", map_size=6, sigma=0)
    anomaly_map = detector.fit(make_features(_maps(20, seed=1))).predict(test).anomaly_map
    assert anomaly_map is not None and divmod(int(anomaly_map.argmax()), 6) == (4, 1)


@pytest.mark.parametrize("of", [PatchSubspace, PhotoSubspace])
def test_what_was_added_or_merged_counts_and_what_was_removed_never_was(
    of: Either, make_features: MakeFeatures
) -> None:
    everything, test = make_features(_maps(50, seed=1)), _maps(6, seed=2)
    first, second = everything.select(range(45)), everything.select(range(45, 50))
    of_first, of_all = (_scores(of(layers=(2, 3)).fit(features), test) for features in (first, everything))
    assert not np.allclose(of_first, of_all, rtol=1e-3)
    detector = of(layers=(2, 3)).fit(first)
    assert detector.merge(of(layers=(2, 3)).fit_part(second), num_photos=45) is detector
    assert _scores(detector, test) == pytest.approx(of_all, rel=1e-5)
    assert detector.remove(range(45, 50), second) is detector
    assert _scores(detector, test) == pytest.approx(of_first, rel=1e-5)
    other = of(layers=(2, 3)).fit(second)
    before = _scores(other, test)
    assert detector.merge(other, num_photos=45) is detector
    assert _scores(detector, test) == pytest.approx(of_all, rel=1e-5)
    assert _scores(other, test).tolist() == before.tolist()


@pytest.mark.parametrize("of", [PatchSubspace, PhotoSubspace])
def test_what_cannot_be_learned_or_forgotten_is_refused(of: Either, make_features: MakeFeatures) -> None:
    features = make_features(_maps(4, seed=1))
    fitted = of(layers=(2, 3)).fit(features)
    with pytest.raises(NotFittedError, match=rf"^{of.__name__} is not fitted; call fit or load_state_dict first\.$"):
        of(layers=(2, 3)).remove([0], features)
    for first, second in ((of(), fitted), (fitted, of())):
        with pytest.raises(NotFittedError, match=rf"^{of.__name__} is not fitted"):
            first.merge(second, num_photos=4)
    for change in (fitted.fit_part, lambda none: fitted.remove([], none)):
        with pytest.raises(
            ValueError, match=rf"^{of.__name__} needs at least one normal photo to learn from, got none"
        ):
            change(features.select([]))
    with pytest.raises(
        ValueError, match=rf"^{of.__name__} forgets photos only when it is given their features again\.$"
    ):
        fitted.remove([0])
    with pytest.raises(
        ValueError, match=rf"^{of.__name__} must keep at least one photo, and was asked to forget all\.$"
    ):
        fitted.remove(range(4), features)
    with pytest.raises(ValueError, match=r"^Moments of \d+ rows cannot give away \d+\.$"):
        fitted.remove(range(5), make_features(_maps(5, seed=3)))


@pytest.mark.parametrize("of", [PatchSubspace, PhotoSubspace])
def test_a_saved_one_goes_on_learning(of: Either, make_features: MakeFeatures, tmp_path: Path) -> None:
    first, second, test = make_features(_maps(8, seed=1)), make_features(_maps(7, seed=2)), _maps(3, seed=3)
    detector = of(layers=(2, 3)).fit(first)
    save_file(detector.state_dict(), tmp_path / "state.safetensors")
    loaded = of(layers=(2, 3)).load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert _scores(loaded, test).tolist() == _scores(detector, test).tolist()
    of_second = of(layers=(2, 3)).fit(second)
    scores = _scores(detector.merge(of_second, num_photos=8), test)
    assert _scores(loaded.merge(of_second, num_photos=8), test).tolist() == scores.tolist()


def test_of_one_photo_the_distance_to_it_is_left(make_features: MakeFeatures) -> None:
    train, test = _maps(1, seed=1), _maps(3, seed=2)
    copies = {layer: features.expand(30, -1, -1, -1) for layer, features in train.items()}
    known, new = (embed_photos([maps[2], maps[3]], power=1.0) for maps in (train, test))
    for maps in (train, copies):
        detector = PhotoSubspace(layers=(2, 3)).fit(make_features(maps))
        assert detector.subspace_.directions.shape == (15, 0)
        assert _scores(detector, test) == pytest.approx((new - known).norm(dim=1).numpy(), rel=1e-5)


def test_some_direction_is_always_left_and_rounding_is_none(make_features: MakeFeatures) -> None:
    generator = torch.Generator().manual_seed(0)
    even = torch.randn(500, 4, generator=generator)  # varies as much in every direction
    assert Subspace.of(Moments.of(even), explained_variance=0.999).directions.shape == (4, 3)
    flat = torch.cat([even, even], dim=1) + 100
    flat += 1e-5 * torch.randn(500, 8, generator=generator)  # what float32 rounds off at 100
    assert Subspace.of(Moments.of(flat), explained_variance=1 - 1e-15).directions.shape == (8, 4)
    one = Subspace.of(Moments.of(torch.tensor([[2.0], [4.0]])), explained_variance=0.5)
    assert one.residuals(torch.tensor([[7.0]])).tolist() == [4.0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": ()}, r"^layers of PatchSubspace must be different whole numbers from 1 on, got \[\]\.$"),
        ({"patch_size": 4}, r"^patch_size of PatchSubspace must be an odd number from 1 on, got 4\.$"),
        ({"patch_size": -1}, r"^patch_size of PatchSubspace must be an odd number from 1 on, got -1\.$"),
        ({"distance": "l1"}, r"^distance of PatchSubspace must be one of cosine, euclidean, got 'l1'\.$"),
        ({"pooling": "sum"}, r"^pooling of PatchSubspace must be one of max, mean, top, got 'sum'\.$"),
        ({"explained_variance": 1.0}, r"^explained_variance of PatchSubspace must be in \(0, 1\), got 1\.0\.$"),
        ({"explained_variance": 0.0}, r"^explained_variance of PatchSubspace must be in \(0, 1\), got 0\.0\.$"),
        ({"top_ratio": 0.0}, r"^top_ratio of PatchSubspace must be in \(0, 1\], got 0\.0\.$"),
        ({"top_ratio": 1.5}, r"^top_ratio of PatchSubspace must be in \(0, 1\], got 1\.5\.$"),
        ({"map_size": 0}, r"^map_size of PatchSubspace must be at least 1, got 0\.$"),
        ({"sigma": -1.0}, r"^sigma of PatchSubspace must be at least 0, got -1\.0\.$"),
        ({"sigma": math.inf}, r"^sigma of PatchSubspace must be at least 0, got inf\.$"),
    ],
)
def test_patch_parameters_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PatchSubspace(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"layers": (0,)}, r"^layers of PhotoSubspace must be different whole numbers from 1 on, got \[0\]\.$"),
        ({"power": 0.5}, r"^power of PhotoSubspace must be at least 1, got 0\.5\.$"),
        ({"power": math.inf}, r"^power of PhotoSubspace must be at least 1, got inf\.$"),
        ({"explained_variance": math.nan}, r"^explained_variance of PhotoSubspace must be in \(0, 1\), got nan\.$"),
    ],
)
def test_photo_parameters_out_of_range_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PhotoSubspace(**options)
