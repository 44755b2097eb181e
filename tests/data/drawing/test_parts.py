from __future__ import annotations

import math

import numpy as np
import pytest

from inlier.data.drawing.parts import bolt, ring_positions
from inlier.data.drawing.surface import Surface


@pytest.fixture
def surface() -> Surface:
    return Surface.blank(1.7, 1.3, 0.02)


def test_ring_positions_are_evenly_spread() -> None:
    positions = ring_positions(4, 0.5, turn=math.pi / 2)
    assert np.allclose(positions, [(0, 0.5), (-0.5, 0), (0, -0.5), (0.5, 0)], atol=1e-12)


def test_a_bolt_stands_out_and_a_missing_one_leaves_a_dark_hole(surface: Surface) -> None:
    bolt(surface, (-0.5, 0), 0.2, turn=0.0, is_missing=False)
    bolt(surface, (0.5, 0), 0.2, turn=0.0, is_missing=True)
    head, hole = surface.window((-0.5, 0), 0.05), surface.window((0.5, 0), 0.05)
    assert head.height.min() > 0.1
    assert hole.height.max() < -0.1
    assert hole.albedo.max() < 0.1 < head.albedo.min()
    assert not surface.working.any()
