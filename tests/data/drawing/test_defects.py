from __future__ import annotations

import math

import numpy as np
import pytest

from inlier.data.drawing.defects import SURFACE_DEFECTS, changed, damage
from inlier.data.drawing.surface import Surface


@pytest.fixture
def surface() -> Surface:
    return Surface.blank(1.7, 1.3, 0.02)


@pytest.mark.parametrize("defect", SURFACE_DEFECTS)
def test_damage_stays_on_the_working_surface_and_reports_all_that_changed(surface: Surface, defect: str) -> None:
    surface.working += surface.u < 0.05
    before = surface.copy()
    reported = damage(surface, defect, (0, 0), math.pi / 2, np.random.default_rng(0))
    assert reported.any()
    assert not reported[surface.u > 0.05].any()
    assert np.array_equal(reported, changed(before, surface))
    assert np.array_equal(before.albedo[:, reported == 0].round(1), surface.albedo[:, reported == 0].round(1))


def test_scuffs_run_along_the_way_of_sliding(surface: Surface) -> None:
    surface.working += 1
    reported = damage(surface, "scuffing", (0, 0), 0.0, np.random.default_rng(0)) > 0
    assert np.ptp(surface.u[reported]) > 1.3 * np.ptp(surface.v[reported])
