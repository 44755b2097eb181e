from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from inlier.data.drawing.light import Light, shade
from inlier.data.drawing.surface import Surface, disc, smooth


@pytest.fixture
def surface() -> Surface:
    return Surface.blank(1.0, 1.0, 0.02)


@pytest.fixture
def light() -> Light:
    drawn = Light.draw(np.random.default_rng(0), colour=(1.0, 1.0, 1.0))
    return replace(drawn, torch=(-0.8, 0.0, 2.0), beam=5.0, power=1.0, ambient=0.1)


def test_matt_grey_straight_below_the_torch_returns_its_share_of_the_light(surface: Surface, light: Light) -> None:
    lit = shade(surface, replace(light, torch=(1e-3, 0.0, 2.0), ambient=0.0))
    assert lit[:, 50, 50] == pytest.approx([0.3] * 3, rel=0.02)


def test_light_falls_off_by_the_cosine(surface: Surface, light: Light) -> None:
    lit = shade(surface, replace(light, torch=(1e-3, 0.0, 1.0), beam=1e3, ambient=0.0))[0]
    assert lit[50, 99] / lit[50, 50] == pytest.approx(1 / np.sqrt(1 + 0.99**2), rel=0.02)


def test_slopes_towards_the_torch_are_brighter(surface: Surface, light: Light) -> None:
    surface.height += 0.3 * smooth(1 - disc(surface, (0, 0), 0) / 0.5)
    lit = shade(surface, light)[0]
    assert lit[50, 35] > 1.1 * lit[50, 65]


def test_a_wall_casts_a_shadow_away_from_the_torch(surface: Surface, light: Light) -> None:
    flat = shade(surface, light)[0]
    surface.height += 0.4 * (np.abs(surface.u) < 0.05)
    walled = shade(surface, light)[0]
    assert walled[50, 56] < 0.6 * flat[50, 56]
    assert walled[50, 40] > 0.8 * flat[50, 40]


def test_metal_mirrors_and_soot_does_not(surface: Surface, light: Light) -> None:
    matt = shade(surface, light)
    surface.gloss += 0.9
    glossy = shade(surface, light)
    assert glossy.std() > 2 * matt.std()
    assert glossy.max() > 2 * matt.max()


def test_light_tints_and_scales(surface: Surface, light: Light) -> None:
    lit, brighter = shade(surface, light), shade(surface, replace(light, power=2.0, ambient=0.2))
    assert np.allclose(brighter, 2 * lit, rtol=1e-4)
    warm = shade(surface, replace(light, colour=(1.2, 1.0, 0.8)))
    assert np.allclose(warm, lit * np.array([1.2, 1.0, 0.8])[:, None, None], rtol=1e-4)
    assert lit.dtype == np.float32
