from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from inlier.detectors import foreground as module
from inlier.detectors.foreground import Foreground
from inlier.features.cache import FeatureCache, FeatureSet

PART, GROUND = torch.eye(8)[0], torch.eye(8)[1]


def photo(rows: slice, columns: slice, *, seed: int, side: int = 14) -> Tensor:
    """Features of a part before a background, both a little uneven: shape (8, side, side)."""
    features = GROUND[:, None, None].repeat(1, side, side)
    features[:, rows, columns] = PART[:, None, None]
    return 5 * features + 0.3 * torch.randn(features.shape, generator=torch.Generator().manual_seed(seed))


def inside(rows: slice, columns: slice, side: int = 14) -> Tensor:
    cells = torch.zeros(side, side, dtype=torch.bool)
    cells[rows, columns] = True
    return cells


@pytest.fixture(scope="module")
def features() -> Iterator[FeatureSet]:
    """Parts that stand a little elsewhere in each photo."""
    maps = torch.stack([photo(slice(3 + n % 2, 10 + n % 3), slice(4, 11), seed=n) for n in range(8)])
    with FeatureCache(dtype=torch.float32) as cache:
        cache.append({2: maps, 3: maps[:, :, ::2, ::2]}, groups=list("abcdefgh"))
        yield cache.features()


def test_the_part_is_found_with_one_cell_around_it(features: FeatureSet) -> None:
    foreground = Foreground.learn(features, layers=(2, 3))
    assert foreground.layer == 2  # of 14 cells a side; 7 are too few
    rows, columns = slice(5, 9), slice(2, 8)
    region = foreground({2: photo(rows, columns, seed=50)[None]})
    assert region.shape == (1, 1, 14, 14) and region.dtype == torch.float32
    found = region[0, 0] > 0
    assert found[inside(rows, columns)].all()
    assert not found[~inside(slice(3, 11), slice(0, 10))].any()


@pytest.mark.parametrize("is_swapped", [False, True])
def test_the_part_is_what_fills_the_middle_whichever_way_the_component_points(
    is_swapped: bool, monkeypatch: pytest.MonkeyPatch, features: FeatureSet
) -> None:
    eigh = torch.linalg.eigh

    def turned(matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigh(matrix)
        return values, -vectors if is_swapped else vectors

    monkeypatch.setattr(torch.linalg, "eigh", turned)
    foreground = Foreground.learn(features, layers=(2,))
    assert foreground.direction @ (PART - GROUND) > 0.5


def test_holes_are_filled_and_specks_left_out(features: FeatureSet) -> None:
    foreground = Foreground.learn(features, layers=(2,))
    odd = photo(slice(3, 11), slice(3, 11), seed=51)
    odd[:, 6:8, 6:8] = 5 * GROUND[:, None, None]  # the size of what a defect may look like
    odd[:, 0, 0] = 5 * PART
    found = foreground({2: odd[None]})[0, 0] > 0
    assert found[inside(slice(3, 11), slice(3, 11))].all() and not found[0, 0]


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 14)])
def test_nothing_is_found_where_nothing_stands_out(rows: slice, features: FeatureSet) -> None:
    foreground = Foreground.learn(features, layers=(2,))
    both = torch.stack([photo(rows, slice(0, 14), seed=52), photo(slice(4, 10), slice(4, 10), seed=53)])
    assert foreground({2: both}).flatten(1).any(dim=1).tolist() == [False, True]


def test_the_finest_map_is_looked_at_where_all_are_coarse(features: FeatureSet) -> None:
    assert Foreground.learn(features, layers=(3,)).layer == 3


def test_learning_reads_a_bounded_number_of_photos(features: FeatureSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LEARNED", 3)
    few, same = Foreground.learn(features, layers=(2,)), Foreground.learn(features.select([0, 4, 7]), layers=(2,))
    assert torch.equal(few.direction, same.direction) and few.threshold == same.threshold


def test_the_threshold_is_otsus() -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(-2, 0.7, 3000), generator.normal(3, 1, 1000)])
    width = np.ptp(values) / 256
    assert abs(module._otsu(torch.from_numpy(values)) - threshold_otsu(values, nbins=256)) <= width
    assert module._otsu(torch.ones(5)) == 1


def test_what_was_learned_comes_back(features: FeatureSet) -> None:
    foreground = Foreground.learn(features, layers=(2,))
    again = Foreground.from_state(foreground.state_dict())
    maps = features.read()
    assert torch.equal(again(maps), foreground(maps))
