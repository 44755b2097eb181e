from __future__ import annotations

import pytest
import torch

from inlier.features.pooling import embed_photos


def test_generalised_mean_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]]])
    pooled = torch.tensor([(100 / 4) ** (1 / 3), (8 / 4) ** (1 / 3)])  # means of the cubes: 1 + 8 + 27 + 64, 8
    assert torch.allclose(embed_photos([features], power=3.0)[0], pooled / pooled.norm())


@pytest.mark.parametrize("power", [1.5, 2.0, 7.0])
def test_pooling_agrees_with_a_slow_transcription(power: float) -> None:
    maps = [torch.rand(3, 4, 5, 6) * 6, torch.rand(3, 2, 2, 3) * 6]
    pooled = embed_photos(maps, power=power)
    assert (pooled.shape, pooled.dtype) == ((3, 6), torch.float32)
    for photo in range(3):
        start = 0
        for features in maps:
            means = [
                (sum(x**power for x in channel.flatten().tolist()) / channel.numel()) ** (1 / power)
                for channel in features[photo]
            ]
            expected = torch.tensor(means) / sum(mean**2 for mean in means) ** 0.5
            assert torch.allclose(pooled[photo, start : start + len(means)], expected, atol=1e-5)
            start += len(means)


def test_power_one_averages_and_keeps_what_is_below_zero() -> None:
    features = torch.tensor([[[[-3.0, -5.0]], [[1.0, 5.0]]]])
    assert embed_photos([features], power=1.0)[0].tolist() == pytest.approx([-0.8, 0.6])


def test_a_large_power_is_the_maximum_and_does_not_overflow() -> None:
    features = torch.rand(2, 4, 3, 3) * 300
    largest = features.amax(dim=(2, 3))
    pooled = embed_photos([features], power=500.0)
    assert torch.allclose(pooled, torch.nn.functional.normalize(largest, dim=1), atol=1e-2)


def test_every_layer_counts_alike() -> None:
    maps = [torch.rand(2, 4, 3, 3), 1000 * torch.rand(2, 6, 2, 2)]
    pooled = embed_photos(maps, power=3.0)
    assert torch.allclose(pooled[:, :4].norm(dim=1), torch.ones(2))
    assert torch.allclose(pooled[:, 4:].norm(dim=1), torch.ones(2))


def test_where_things_are_does_not_matter() -> None:
    features = torch.rand(2, 4, 3, 3)
    assert torch.allclose(embed_photos([features], power=3.0), embed_photos([features.flip(2, 3)], power=3.0))


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_a_photo_without_any_activation_has_finite_features(power: float) -> None:
    assert embed_photos([torch.zeros(1, 4, 2, 2)], power=power).isfinite().all()
