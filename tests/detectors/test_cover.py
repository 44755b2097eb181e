from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor

from inlier.detectors import cover as module
from inlier.detectors.cover import Cover


def crowds(num_rows: int, seed: int) -> Tensor:
    """Crowds in 12 dimensions, far from the origin."""
    means = 20 + 3 * torch.randn(9, 12, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    return means[torch.randint(9, (num_rows,), generator=generator)] + torch.randn(num_rows, 12, generator=generator)


def test_the_example_of_the_docstring_runs() -> None:
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("radius", [1.5, 2.0, 2.5, 3.5])
def test_what_is_covered_is_within_the_radius_and_little_is_overlooked(radius: float) -> None:
    centres, rows = crowds(900, seed=1), crowds(3000, seed=2)
    within = torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1) <= radius
    found = Cover(centres, radius=radius).covers(rows)
    assert not (found & ~within).any()
    assert found.sum() >= 0.9 * within.sum() > 0


def test_nothing_is_overlooked_where_all_cells_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_PROBES", 1000)
    monkeypatch.setattr(module, "_ROWS", 70)
    centres, rows = crowds(300, seed=1), crowds(500, seed=2)
    within = torch.cdist(rows, centres, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1) <= 2.5
    assert torch.equal(Cover(centres, radius=2.5).covers(rows), within)
    assert 0.1 < within.float().mean() < 0.9


def test_few_and_equal_centres_cover_too() -> None:
    one = Cover(torch.tensor([[1.0, 2.0]]), radius=0.5)
    assert one.covers(torch.tensor([[1.0, 2.4], [1.0, 2.6]])).tolist() == [True, False]
    equal = Cover(torch.ones(50, 3), radius=0.0)
    assert equal.covers(torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0]])).tolist() == [True, False]
    assert equal.covers(torch.empty(0, 3)).tolist() == []
