from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from inlier.detectors.anomaly_map import pool_map, smooth_map


def test_enlargement_by_hand() -> None:
    maps = smooth_map(torch.tensor([[[0.0, 4.0], [0.0, 4.0]]]), size=4, sigma=0.0)
    assert maps.tolist() == [[[0.0, 1.0, 3.0, 4.0]] * 4]


@pytest.mark.parametrize(("size", "sigma"), [(24, 1.5), (24, 4.0), (9, 4.0), (24, 0.2)])
def test_smoothing_agrees_with_scipy(size: int, sigma: float) -> None:
    patch_scores = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    enlarged = smooth_map(patch_scores, size=size, sigma=0.0)
    maps = smooth_map(patch_scores, size=size, sigma=sigma)
    assert maps.shape == (3, size, size)
    radius = min(-int(-4 * sigma // 1), size - 1)
    for one, reference in zip(maps, enlarged, strict=True):
        expected = gaussian_filter(reference.double().numpy(), sigma, mode="mirror", radius=radius)
        assert torch.allclose(one.double(), torch.from_numpy(expected), atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 32])
def test_a_uniform_map_stays_as_it_is(size: int) -> None:
    assert torch.allclose(
        smooth_map(torch.full((2, 4, 4), 0.7), size=size, sigma=4.0), torch.full((2, size, size), 0.7)
    )


def test_a_peak_stays_where_it_is() -> None:
    patch_scores = torch.zeros(1, 8, 8)
    patch_scores[0, 2, 5] = 1.0
    peak = int(smooth_map(patch_scores, size=64, sigma=4.0).argmax())
    assert (peak // 64 // 8, peak % 64 // 8) == (2, 5)


def test_pooling_by_hand() -> None:
    patch_scores = torch.tensor([[[1.0, 5.0], [2.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])
    assert pool_map(patch_scores, pooling="max", top_ratio=0.5).tolist() == [5.0, 2.0]
    assert pool_map(patch_scores, pooling="mean", top_ratio=0.5).tolist() == [3.0, 0.5]
    assert pool_map(patch_scores, pooling="top", top_ratio=0.5).tolist() == [4.5, 1.0]
    assert pool_map(patch_scores, pooling="top", top_ratio=0.01).tolist() == [5.0, 2.0]  # at least one patch
    assert pool_map(patch_scores, pooling="top", top_ratio=1.0).tolist() == [3.0, 0.5]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 12)])
def test_enlargement_is_that_of_pytorch(shape: tuple[int, int]) -> None:
    patch_scores = torch.rand(7, *shape, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(patch_scores[:, None], size=(50, 50), mode="bilinear", align_corners=False)[:, 0]
    assert torch.allclose(smooth_map(patch_scores, size=50, sigma=0.0), expected, atol=1e-6)


def test_maps_smoothed_together_are_those_smoothed_one_by_one() -> None:
    patch_scores = torch.rand(7, 8, 8, generator=torch.Generator().manual_seed(0))
    together = smooth_map(patch_scores, size=256, sigma=8.0)
    assert torch.allclose(together, torch.cat([smooth_map(one[None], size=256, sigma=8.0) for one in patch_scores]))
