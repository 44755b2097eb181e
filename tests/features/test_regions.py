from __future__ import annotations

import pytest
import torch

from inlier.features.pooling import embed_photos
from inlier.features.regions import REGION, cell_weights, cells_inside


def test_cells_count_by_halves_or_by_the_most() -> None:
    region = torch.zeros(2, 1, 4, 4)
    region[0, 0, :, :2] = 1
    region[0, 0, 0, 2] = 1  # a quarter of the upper right cell
    region[1, 0, 3, 3] = 1
    inside = cells_inside({REGION: region}, 2, 2)
    assert inside is not None
    assert inside.tolist() == [[[True, False], [True, False]], [[False, False], [False, True]]]
    assert cells_inside({REGION: region[:, :, :0, :0].new_zeros(1, 1, 4, 4)}, 2, 2).any() == False  # noqa: E712
    assert cells_inside({2: region}, 2, 2) is None


def test_weights_are_shares_of_cells_and_an_empty_region_is_the_whole_photo() -> None:
    region = torch.zeros(2, 1, 4, 4)
    region[0, 0, :3, :2] = 1
    assert cell_weights(region, 2, 2)[:, 0].tolist() == [[[1, 0], [0.5, 0]], [[1, 1], [1, 1]]]


@pytest.mark.parametrize("power", [1.0, 3.0, 20.0])
def test_pooling_is_that_of_the_cells_alone(power: float) -> None:
    maps = torch.rand(3, 5, 4, 6) + 0.1
    region = torch.zeros(3, 1, 4, 6)
    region[:, :, 1:3, 2:6] = 1
    wild = maps + 1000 * (1 - region)
    wanted = embed_photos([maps[:, :, 1:3, 2:6]], power=power)
    assert torch.allclose(embed_photos([wild], power=power, region=region), wanted, atol=1e-5)
